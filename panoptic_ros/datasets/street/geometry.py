"""The camera, the road and the ground of the synthetic street.

Frames: the optical frame of REP 103 (x right, y down, z forward), and the foot frame, level, with
its origin on the ground below the camera: x right, up, ahead. Metres throughout.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from panoptic_ros.datasets.street import textures
from panoptic_ros.datasets.street.blocks import CROSSING_M
from panoptic_ros.datasets.street.style import generator, street_labels
from panoptic_ros.datasets.street.world import World

NEAR_M = 0.6  # polygons are cut this far before the lens


@dataclass(frozen=True)
class Camera:
    """The pinhole camera above the ground."""

    size_wh: tuple[int, int]
    horizontal_fov_deg: float
    height_m: float
    pitch_rad: float

    @cached_property
    def matrix(self) -> np.ndarray:
        """float64 [3, 3], the pinhole matrix K."""
        width, height = self.size_wh
        focal = width / 2 / np.tan(np.radians(self.horizontal_fov_deg) / 2)
        return np.array(
            [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], np.float64
        )

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return float(self.matrix[0, 0])

    @cached_property
    def down(self) -> np.ndarray:
        """The downward direction in the optical frame, float64 [3]."""
        return np.array([0.0, np.cos(self.pitch_rad), np.sin(self.pitch_rad)])

    @cached_property
    def ray_x(self) -> np.ndarray:
        """float32 [W], x of the viewing rays at depth 1."""
        return ((np.arange(self.size_wh[0]) - self.matrix[0, 2]) / self.focal).astype(np.float32)

    @cached_property
    def ray_y(self) -> np.ndarray:
        """float32 [H, 1], y of the viewing rays at depth 1."""
        rows = (np.arange(self.size_wh[1]) - self.matrix[1, 2]) / self.focal
        return rows.astype(np.float32)[:, None]

    def optical(self, x: np.ndarray, up: np.ndarray, ahead: np.ndarray) -> np.ndarray:
        """Transform points from the foot frame to the optical frame, float64 [n, 3]."""
        return self.optical_direction(x, up - self.height_m, ahead)

    def optical_direction(self, x: np.ndarray, up: np.ndarray, ahead: np.ndarray) -> np.ndarray:
        """Transform directions from the foot frame to the optical frame, float64 [n, 3]."""
        _, cos, sin = self.down
        return np.stack([x, -up * cos - ahead * sin, ahead * cos - up * sin], 1)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Project points in front of the camera to pixels, float64 [n, 2]."""
        k = self.matrix
        return points[:, :2] / points[:, 2:] * self.focal + (k[0, 2], k[1, 2])

    def fixed_point(self, uv: np.ndarray) -> np.ndarray:
        """Convert pixels to fixed point with four fractional bits for OpenCV, int32 [n, 2]."""
        return np.rint(np.clip(uv, -20000, 20000) * 16).astype(np.int32)


def road_to_foot(
    s: np.ndarray, across: np.ndarray, world: World
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Transform road coordinates, with s relative to the camera, to x, ahead and yaw."""
    bend = world.style.curvature
    if bend == 0.0:
        return across - world.ego_across, s, np.zeros_like(s)
    angle = bend * s
    cos, sin = np.cos(angle), np.sin(angle)
    return (1 - cos) / bend + across * cos - world.ego_across, sin / bend - across * sin, angle


def foot_to_road(x: np.ndarray, ahead: np.ndarray, world: World) -> tuple[np.ndarray, np.ndarray]:
    """Return s relative to the camera, and across: the inverse of :func:`road_to_foot`."""
    bend = world.style.curvature
    x = x + world.ego_across
    if bend == 0.0:
        return ahead, x
    sign = np.sign(bend)
    to_centre = 1 / bend - x
    s = np.arctan2(ahead * sign, to_centre * sign) / bend
    return s, 1 / bend - sign * np.hypot(to_centre, ahead)


# Face numbers. 0 is the sky; painted polygons come after the ground.
_ROAD, _GUTTER, _KERB, _WALK, _VERGE, _YARD = range(1, 7)

FIRST_FACE = 7


class Ground:
    """The empty road: the ground face of every pixel below the horizon, and the position on it."""

    def __init__(self, camera: Camera, world: World) -> None:
        self._world = world
        style = world.style
        width, height = camera.size_wh
        _, cos, sin = camera.down
        ray_y = camera.ray_y.astype(np.float64)
        fall = ray_y * cos + sin
        below = fall[:, 0] > 1e-4
        # Rays fall more and more down the image.
        self.top = int(np.argmax(below)) if below.any() else height
        self._size = (height, width)
        depth = camera.height_m / fall[self.top :]
        ahead = depth * (cos - ray_y[self.top :] * sin)
        x = depth * camera.ray_x
        s, across = foot_to_road(x, np.broadcast_to(ahead, x.shape), world)
        self.s = s.astype(np.float32)
        self.across = across.astype(np.float32)
        self._profile = self._faces_across(across)
        rng = generator(world.seed, 4)
        yard_is_grass = style.park > 0.25
        names = (
            'road',
            'road',
            'sidewalk',
            'sidewalk',
            'terrain',
            'terrain' if yard_is_grass else 'sidewalk',
        )
        self.semantic = np.array([street_labels().class_id(n) for n in names])
        self.tile = np.array(
            [
                textures.COBBLES if style.cobbled else textures.ASPHALT,
                textures.COBBLES,
                textures.PLAIN,
                textures.PAVING if rng.random() < 0.75 else textures.ASPHALT,
                textures.GRASS,
                textures.GRASS if yard_is_grass else textures.PAVING,
            ]
        )
        asphalt = np.full(3, rng.uniform(88, 132))
        paving = rng.uniform(95, 145) + np.array([4, 1, -3]) * rng.uniform(-1, 2)
        grass = np.array([76, 92, 50]) * rng.uniform(0.75, 1.25) + rng.uniform(-8, 8, 3)
        rows = (
            asphalt,
            asphalt * 0.9,
            paving * 1.18,
            paving,
            grass,
            grass if yard_is_grass else paving * 0.95,
        )
        self.rgb = np.stack(rows).astype(np.float32)

    def _faces_across(self, across: np.ndarray) -> np.ndarray:
        """Return the ground face at each position across the road without side streets, int32."""
        style = self._world.style
        edges: list[float] = []
        zones: list[int] = []
        for side in (0, 1):
            kerb = style.kerb(side)
            line, zone = [kerb - 0.3, kerb], [_GUTTER, _KERB]
            if style.verge_m[side] > 0:
                line, zone = [*line, kerb + 0.15, style.walk(side)], [*zone, _VERGE, _WALK]
            else:
                line, zone = [*line, kerb + 0.15], [*zone, _WALK]
            line, zone = [*line, style.front(side) + 0.2], [*zone, _YARD]
            if side == 0:
                edges, zones = [-e for e in line[::-1]], [*zone[::-1], _ROAD]
            else:
                edges, zones = [*edges, *line], [*zones, *zone]
        return np.array(zones, np.int32)[np.digitize(across, edges)]

    def faces(self, ego_s: float) -> np.ndarray:
        """Return the face numbers of the empty scene, int32 [H, W]."""
        style = self._world.style
        face = np.zeros(self._size, np.int32)
        ground = face[self.top :]
        ground[:] = self._profile
        for begin, block in self._world.blocks(ego_s):
            for side, crossed in enumerate(block.side_street):
                if not crossed or begin + 12 < 1:
                    continue
                outside = (
                    self.across > style.kerb(1) - 0.3
                    if side
                    else self.across < 0.3 - style.kerb(0)
                )
                beyond = self.across > style.front(1) if side else self.across < -style.front(0)
                ground[beyond & (self.s >= begin) & (self.s < begin + 12)] = _WALK
                low, high = (begin + edge for edge in CROSSING_M)
                ground[outside & (self.s >= low) & (self.s < high)] = _ROAD
        return face


def sun_bearing(world: World, ego_s: float) -> float:
    """Return the direction of the sun, radians to the right of straight ahead."""
    return world.style.sun_azimuth - world.style.curvature * ego_s
