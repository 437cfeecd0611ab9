"""Street scenes rendered by the program itself: image, depth and exact panoptic truth.

Rendering is deferred: convex polygons are painted far to near into one map of face numbers, and
class, instance, depth, texture and colour of every pixel are read from tables through that map.
So truth, depth and picture cannot disagree. The world (:mod:`.street_world`) is a closed-form
function of seed and time, so any frame can be rendered without the ones before it.

Frames: the optical frame of REP 103 (x right, y down, z ahead of the lens), and the *foot* frame,
level, with its origin on the ground below the camera: x right, up, ahead. Metres throughout.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np

from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.street import textures as textures
from panoptic_ros.datasets.street.world import (
    CROSSING_M,
    Seen,
    Style,
    World,
    generator,
    street_labels,
)
from panoptic_ros.errors import DatasetError
from panoptic_ros.panoptic import Panoptic

_NEAR_M = 0.6  # polygons are cut this far before the lens
_BACKDROP_M = 230.0
_HAZE_RGB = 200.0


@dataclass(frozen=True, eq=False)
class StreetFrame:
    """One rendered camera frame and everything that is known about it.

    Parameters
    ----------
    image_rgb
        uint8 [H, W, 3].
    depth_m
        float32 [H, W], metres along the optical axis, NaN in the sky (REP 118).
    truth
        Class, instance and segments. An object keeps its instance id, which is also its
        ``segments.track_id``, for as long as it is in the scene; ids come again only after
        kilometres.
    stamp_ns
        Time since frame 0, nanoseconds.
    camera_matrix
        float64 [3, 3], pinhole K without distortion; pixel centres lie at whole numbers.
    camera_height_m
        Height of the camera above the ground, which is a plane.
    camera_pitch_rad
        Angle of the optical axis below the horizon.
    """

    image_rgb: np.ndarray
    depth_m: np.ndarray
    truth: Panoptic
    stamp_ns: int
    camera_matrix: np.ndarray
    camera_height_m: float
    camera_pitch_rad: float

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.truth.size_wh


class SyntheticStreet:
    """An endless drive through one synthetic street, random access by frame number.

    Iterating yields frame 0, 1, 2, ... without end.

    Parameters
    ----------
    seed
        0 or more; the same seed gives the same bytes.
    size_wh
        Width and height of the image in pixels, each at least 32.
    frame_rate_hz
        Frames a second of scene time, 0.1 to 1000.
    horizontal_fov_deg
        Horizontal field of view, 10 to 150; the default is that of the Cityscapes camera.
    camera_height_m
        Height above the ground, 0.3 to 5.
    camera_pitch_rad
        How far the camera looks below the horizon, -0.5 to 0.5.

    Raises
    ------
    DatasetError
        If a parameter is out of its range.
    """

    def __init__(
        self,
        seed: int,
        size_wh: tuple[int, int] = (640, 320),
        frame_rate_hz: float = 10.0,
        *,
        horizontal_fov_deg: float = 48.7,
        camera_height_m: float = 1.3,
        camera_pitch_rad: float = 0.035,
    ) -> None:
        _check_whole('seed', seed)
        _check_size(size_wh)
        _check_range('frame_rate_hz', frame_rate_hz, 0.1, 1000.0)
        _check_range('horizontal_fov_deg', horizontal_fov_deg, 10.0, 150.0)
        _check_range('camera_height_m', camera_height_m, 0.3, 5.0)
        _check_range('camera_pitch_rad', camera_pitch_rad, -0.5, 0.5)
        self.frame_rate_hz = float(frame_rate_hz)
        self._camera = _Camera(
            (int(size_wh[0]), int(size_wh[1])),
            float(horizontal_fov_deg),
            float(camera_height_m),
            float(camera_pitch_rad),
        )
        self._world = World(int(seed))
        self._ground = _Ground(self._camera, self._world)
        self._look = _Look(self._camera, self._world)

    def __iter__(self) -> Iterator[StreetFrame]:
        index = 0
        while True:
            yield self.frame(index)
            index += 1

    @property
    def camera_matrix(self) -> np.ndarray:
        """float64 [3, 3], the pinhole K of every frame."""
        return self._camera.matrix.copy()

    def frame(self, index: int) -> StreetFrame:
        """Render frame ``index``; raises DatasetError unless it is a whole number, 0 or more."""
        _check_whole('frame index', index)
        time_s = index / self.frame_rate_hz
        ego_s = self._world.ego_s(time_s)
        seen = self._world.seen(time_s)
        polygons = _polygons(self._world, self._camera, self._ground, seen, ego_s)
        face = self._ground.faces(ego_s)
        faces = _paint(face, polygons, self._camera, self._ground)
        index_map = face.astype(np.intp)
        depth_m = faces.depth(index_map, self._camera)
        shadow = _shadows(seen, self._world, self._camera, ego_s)
        image = self._look.image(index_map, faces, depth_m, shadow, self._ground, ego_s, index)
        truth = Panoptic.from_maps(
            faces.semantic.take(index_map), faces.instance.take(index_map), street_labels()
        )
        depth_m[face == 0] = np.nan
        return StreetFrame(
            image,
            depth_m,
            truth,
            round(time_s * 1e9),
            self._camera.matrix.copy(),
            self._camera.height_m,
            self._camera.pitch_rad,
        )

    def boxes(self, index: int) -> 'StreetBoxes':
        """Return what frame ``index`` shows of each object, as boxes in space."""
        _check_whole('frame index', index)
        time_s = index / self.frame_rate_hz
        seen, ego_s = self._world.seen(time_s), self._world.ego_s(time_s)
        polygons = _thing_polygons(self._world, self._camera, seen, ego_s)
        count = np.diff(polygons.first, append=len(polygons.points))
        instance = np.repeat(polygons.instance, count)
        ids, row = np.unique(instance, return_inverse=True)
        low, high = np.full((len(ids), 3), np.inf), np.full((len(ids), 3), -np.inf)
        np.minimum.at(low, row, polygons.points)
        np.maximum.at(high, row, polygons.points)
        is_thing = ids > 0
        return StreetBoxes(ids[is_thing].astype(np.uint16), low[is_thing], high[is_thing])


@dataclass(frozen=True, eq=False)
class StreetBoxes:
    """Boxes around the sides of objects that face the camera, also where something hides them.

    Parameters
    ----------
    id
        uint16 [n], instance ids, ascending; also of objects outside the picture.
    low_m, high_m
        float64 [n, 3], least and largest x, y and z in the optical frame.
    """

    id: np.ndarray
    low_m: np.ndarray
    high_m: np.ndarray


@dataclass(frozen=True)
class SyntheticSamples(Sequence[Sample]):
    """Independent labelled images, each from a street and a camera of its own.

    Each is rendered when it is asked for, the same bytes each time. Raises DatasetError for bad
    parameters, IndexError beyond the end.
    """

    seed: int
    count: int
    size_wh: tuple[int, int] = (640, 320)

    def __post_init__(self) -> None:
        _check_whole('seed', self.seed)
        _check_whole('count', self.count)
        _check_size(self.size_wh)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """Render one sample."""
        if not -self.count <= index < self.count:
            raise IndexError(f'sample {index} was asked for; there are {self.count}')
        index %= self.count
        rng = generator(self.seed, 5, index)
        street = SyntheticStreet(
            int(rng.integers(2**31)),
            self.size_wh,
            horizontal_fov_deg=float(rng.uniform(44, 58)),
            camera_height_m=float(rng.uniform(1.15, 1.5)),
            camera_pitch_rad=float(rng.uniform(0.0, 0.06)),
        )
        frame = street.frame(int(rng.integers(10000)))
        return Sample(
            f'synthetic_{self.seed}_{index}', frame.image_rgb, frame.truth, np.zeros(0, np.uint16)
        )


def synthetic_samples(
    seed: int, count: int, size_wh: tuple[int, int] = (640, 320)
) -> SyntheticSamples:
    """Make a sequence of ``count`` independent labelled images for training and evaluation."""
    return SyntheticSamples(seed, count, size_wh)


def _check_whole(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise DatasetError(f'{name} is {value!r}; expected a whole number, 0 or more')


def _check_size(size_wh: tuple[int, int]) -> None:
    if (
        len(size_wh) != 2
        or not all(isinstance(v, int | np.integer) for v in size_wh)
        or not all(32 <= v <= 8192 for v in size_wh)
    ):
        raise DatasetError(
            f'size_wh is {size_wh!r}; expected whole numbers (width, height), each 32..8192'
        )


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise DatasetError(f'{name} is {value!r}; expected {low:g}..{high:g}')


# --- camera and road geometry --------------------------------------------------------------------


@dataclass(frozen=True)
class _Camera:
    size_wh: tuple[int, int]
    horizontal_fov_deg: float
    height_m: float
    pitch_rad: float

    @cached_property
    def matrix(self) -> np.ndarray:
        width, height = self.size_wh
        focal = width / 2 / np.tan(np.radians(self.horizontal_fov_deg) / 2)
        return np.array(
            [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], np.float64
        )

    @property
    def focal(self) -> float:
        return float(self.matrix[0, 0])

    @cached_property
    def down(self) -> np.ndarray:
        """The direction straight down, in the optical frame."""
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
        """Foot frame to optical frame, float64 [n, 3]."""
        return self.optical_direction(x, up - self.height_m, ahead)

    def optical_direction(self, x: np.ndarray, up: np.ndarray, ahead: np.ndarray) -> np.ndarray:
        """Level directions in the optical frame, float64 [n, 3]."""
        _, cos, sin = self.down
        return np.stack([x, -up * cos - ahead * sin, ahead * cos - up * sin], 1)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Project optical points ahead of the lens, float64 [n, 2]."""
        k = self.matrix
        return points[:, :2] / points[:, 2:] * self.focal + (k[0, 2], k[1, 2])

    def fixed_point(self, uv: np.ndarray) -> np.ndarray:
        """Pixels as OpenCV wants them with four fractional bits, int32 [n, 2]."""
        return np.rint(np.clip(uv, -20000, 20000) * 16).astype(np.int32)


def _foot(
    s: np.ndarray, across: np.ndarray, world: World
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Road places, relative to the camera along s: x and ahead in the foot frame, and yaw."""
    bend = world.style.curvature
    if bend == 0.0:
        return across - world.ego_across, s, np.zeros_like(s)
    angle = bend * s
    cos, sin = np.cos(angle), np.sin(angle)
    return (1 - cos) / bend + across * cos - world.ego_across, sin / bend - across * sin, angle


def _road(x: np.ndarray, ahead: np.ndarray, world: World) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of :func:`_foot`: s relative to the camera, and across."""
    bend = world.style.curvature
    x = x + world.ego_across
    if bend == 0.0:
        return ahead, x
    sign = np.sign(bend)
    to_centre = 1 / bend - x
    s = np.arctan2(ahead * sign, to_centre * sign) / bend
    return s, 1 / bend - sign * np.hypot(to_centre, ahead)


# --- the ground ----------------------------------------------------------------------------------

# Face numbers. 0 is the sky; painted polygons come after the ground.
_ROAD, _GUTTER, _KERB, _WALK, _VERGE, _YARD = range(1, 7)
_FIRST_FACE = 7


class _Ground:
    """The empty road: which face every pixel below the horizon sees, and where on it."""

    def __init__(self, camera: _Camera, world: World) -> None:
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
        s, across = _road(x, np.broadcast_to(ahead, x.shape), world)
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
        """Ground faces by place across the road, where no street crosses; int32."""
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
        """Face numbers of the empty scene, int32 [H, W]."""
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


# --- polygons ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Polygons:
    """Convex polygons in the optical frame, in painting order.

    ``points`` float64 [n, 3]; ``first`` int64 [p]; per polygon: ``normal`` float64 [p, 3] towards
    the camera, ``offset`` float64 of its plane (normal times point), ``semantic``, ``instance``,
    ``tile``, ``rgb``, ``rgb2`` (lit by the sun, without haze), ``texels_ab`` float64 [p, 2] texels
    per metre along its first edge and across it, ``shift`` of the texture in texels,
    ``on_ground`` bool.
    """

    points: np.ndarray
    first: np.ndarray
    normal: np.ndarray
    offset: np.ndarray
    semantic: np.ndarray
    instance: np.ndarray
    tile: np.ndarray
    rgb: np.ndarray
    rgb2: np.ndarray
    texels_ab: np.ndarray
    shift: np.ndarray
    on_ground: np.ndarray


def _polygons(
    world: World, camera: _Camera, ground: _Ground, seen: list[Seen], ego_s: float
) -> _Polygons:
    marks = _mark_polygons(world, camera, ground, ego_s)
    things = _thing_polygons(world, camera, seen, ego_s)
    columns = {
        name: np.concatenate([getattr(marks, name), getattr(things, name)])
        for name in _Polygons.__dataclass_fields__
    }
    columns['first'] = np.concatenate([marks.first, things.first + len(marks.points)])
    return _Polygons(**columns)


def _mark_polygons(world: World, camera: _Camera, ground: _Ground, ego_s: float) -> _Polygons:
    """Paint and patches on the road."""
    rows = []
    for begin, block in world.blocks(ego_s):
        if len(block.marks):
            rows.append(block.marks + np.float32([begin, begin, 0, 0, 0]))
    marks = np.concatenate(rows) if rows else np.zeros((0, 5), np.float32)
    marks = marks[(marks[:, 1] > 1.0) & (marks[:, 0] < 90.0)]
    s = np.maximum(marks[:, [0, 0, 1, 1]], 0.8).ravel()
    x, ahead, _ = _foot(s, marks[:, [2, 3, 3, 2]].ravel(), world)
    points = camera.optical(x, np.zeros_like(x), ahead)
    count = len(marks)
    # Paint narrower than a pixel is as pale as its share of the pixel.
    distance = np.maximum(marks[:, :2].mean(1), 2.0)
    share = np.clip((marks[:, 3] - marks[:, 2]) * camera.focal / distance / 1.6, 0.15, 1)[:, None]
    road = ground.rgb[_ROAD - 1]
    white = np.float32([176, 178, 174])
    gain = marks[:, 4:]
    rgb = np.where(gain >= 1, road + (white - road) * share, road * (1 + gain * share))
    return _Polygons(
        points=points,
        first=np.arange(count) * 4,
        normal=np.repeat(-camera.down[None], count, 0),
        offset=np.full(count, -camera.height_m),
        semantic=np.full(count, ground.semantic[_ROAD - 1]),
        instance=np.zeros(count, np.int64),
        tile=np.full(count, ground.tile[_ROAD - 1]),
        rgb=rgb,
        rgb2=rgb,
        texels_ab=np.full((count, 2), 64.0),
        shift=np.zeros(count),
        on_ground=np.ones(count, bool),
    )


def _thing_polygons(world: World, camera: _Camera, seen: list[Seen], ego_s: float) -> _Polygons:
    """The backdrop, then everything else far to near: the polygons that face us, if not tiny."""
    style = world.style
    seen, x, ahead, yaw = _in_view(world, camera, seen, ego_s)
    things, shapes = [o.thing for o in seen], [o.shape for o in seen]
    scale = np.array([t.scale for t in things])
    billboard = np.array([s.billboard for s in shapes])
    turn = np.where(billboard, np.arctan2(x, ahead), yaw)
    cos, sin = np.cos(turn), np.sin(turn)

    def turned(local: np.ndarray, who: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Object frame to a frame level with the foot frame: right, up, ahead."""
        c, s = cos[who], sin[who]
        return local[:, 0] * c + local[:, 2] * s, local[:, 1], local[:, 2] * c - local[:, 0] * s

    per_shape = [len(s.first) for s in shapes]
    owner = np.repeat(np.arange(len(things)), per_shape)
    right, up, forward = turned(np.concatenate([s.centre for s in shapes]), owner)
    size = scale[owner]
    centre = camera.optical(right * size + x[owner], up * size, forward * size + ahead[owner])
    right, up, forward = turned(np.concatenate([s.normal for s in shapes]), owner)
    normal = camera.optical_direction(right, up, forward)
    offset = np.einsum('ij,ij->i', normal, centre)
    flip = billboard[owner] & (offset > 0)
    normal[flip] *= -1
    offset[flip] *= -1
    tile = np.concatenate([s.tile for s in shapes])
    radius = np.concatenate([s.radius for s in shapes]) * size
    pixels = radius * camera.focal / np.maximum(centre[:, 2] - radius, _NEAR_M)
    # Leaves are many, and stand before other leaves.
    kept = (offset < -1e-3) & (pixels > np.where(tile == textures.LEAVES, 2.0, 0.7))
    kept &= centre[:, 2] + radius > _NEAR_M
    owner, normal, offset, tile = owner[kept], normal[kept], offset[kept], tile[kept]

    count = np.concatenate([s.count for s in shapes])[kept]
    begin = np.cumsum([0] + [len(s.points) for s in shapes[:-1]])
    source = np.concatenate([s.first for s in shapes])[kept] + begin[owner]
    first = np.cumsum(count) - count
    local = np.concatenate([s.points for s in shapes])[
        np.arange(count.sum()) + np.repeat(source - first, count)
    ]
    who = np.repeat(owner, count)
    right, up, forward = turned(local * scale[who, None], who)
    part = np.concatenate([s.part for s in shapes])[kept]
    palettes = np.concatenate([t.palette for t in things])
    slots = np.cumsum([0] + [len(t.palette) for t in things[:-1]])[owner]
    shade = _shade(normal, camera, style, _sun_bearing(world, ego_s))
    shade[billboard[owner]] = 0.92 + 0.12 * style.sun
    texels = np.repeat(textures.TEXELS_PER_M[tile][:, None], 2, 1).astype(np.float64)
    house = tile >= textures.HOUSE
    texels[house, 0] = (128 / np.array([s.bay_m for s in shapes]))[owner][house]
    texels[house, 1] = 128 / 3.05
    return _Polygons(
        points=camera.optical(right + x[who], up, forward + ahead[who]),
        first=first,
        normal=normal,
        offset=offset,
        semantic=_table([t.classes for t in things])[owner, part],
        instance=_table([t.ids for t in things])[owner, part],
        tile=tile,
        rgb=palettes[slots + np.concatenate([s.paint for s in shapes])[kept]] * shade[:, None],
        rgb2=palettes[slots + np.concatenate([s.paint2 for s in shapes])[kept]] * shade[:, None],
        texels_ab=texels,
        # Polygons of one shape show different parts of their texture, houses all the same one.
        shift=np.where(house, 0, np.concatenate([s.first for s in shapes])[kept] * 37 % 509),
        on_ground=np.zeros(len(first), bool),
    )


def _in_view(
    world: World, camera: _Camera, seen: list[Seen], ego_s: float
) -> tuple[list[Seen], np.ndarray, np.ndarray, np.ndarray]:
    """The backdrop and what is in view, in painting order, with x, ahead and yaw of each."""
    slope = float(camera.ray_x[-1]) * 1.02
    if seen:
        s, across = np.array([(o.s, o.across) for o in seen]).T
        x, ahead, bend = _foot(s, across, world)
        size = [np.hypot(o.shape.half_width, o.shape.half_length) + o.shape.overhang for o in seen]
        reach = np.array([o.thing.scale for o in seen]) * np.array(size) + 0.5
        within = (ahead + reach > _NEAR_M) & (np.abs(x) - reach < slope * (ahead + reach))
        kept = np.flatnonzero(within)
        order = kept[_painting_order([seen[i] for i in kept.tolist()], world)]
        seen = [seen[i] for i in order.tolist()]
        x, ahead, yaw = x[order], ahead[order], bend[order] + np.array([o.yaw for o in seen])
    else:
        x = ahead = yaw = np.zeros(0)
    backdrop = world.backdrop(world.style.curvature * ego_s, float(np.arctan(slope)))
    bearing = np.array([b for _, b in backdrop])
    return (
        [o for o, _ in backdrop] + seen,
        np.concatenate([_BACKDROP_M * np.sin(bearing), x]),
        np.concatenate([_BACKDROP_M * np.cos(bearing), ahead]),
        np.concatenate([bearing - np.pi / 2, yaw]),
    )


def _table(rows: list[tuple[int, ...]]) -> np.ndarray:
    """Short tuples as rows of one array, int64 [n, 3]."""
    return np.array([(*row, 0, 0)[:3] for row in rows], np.int64)


def _sun_bearing(world: World, ego_s: float) -> float:
    return world.style.sun_azimuth - world.style.curvature * ego_s


def _shade(normal: np.ndarray, camera: _Camera, style: Style, sun_bearing: float) -> np.ndarray:
    """How bright faces are by where they face, float64 [n]."""
    _, cos, sin = camera.down
    up = -(normal @ camera.down)
    ahead = normal[:, 2] * cos - normal[:, 1] * sin
    low = np.cos(style.sun_elevation)
    sun = up * np.sin(style.sun_elevation) + low * (
        normal[:, 0] * np.sin(sun_bearing) + ahead * np.cos(sun_bearing)
    )
    return 0.8 + 0.2 * up + style.sun * (0.5 * np.maximum(sun, 0) - 0.12)


def _view_shift(s: np.ndarray, world: World) -> np.ndarray:
    """Where, across from the camera's lane, the view at s runs along the road.

    To the right of it the view passes over to the right, to the left of it to the left. On a
    straight road that is the camera's own lane; on a curve it moves inwards.
    """
    bend = world.style.curvature
    if bend == 0.0:
        return np.zeros_like(s)
    return (1 / bend - world.ego_across) * (1 - np.cos(bend * s))


def _painting_order(seen: list[Seen], world: World) -> list[int]:
    """Order of the things, hidden ones first.

    Footprints are taken as rectangles of the road frame. Disjoint convex footprints always have
    such an order within half a turn of view; where two overlap, the farther middle goes first.
    """
    if not seen:
        return []
    rows = [
        (o.s, o.across, o.yaw, o.thing.scale, o.shape.half_length, o.shape.half_width,
         o.shape.overhang) for o in seen
    ]  # fmt: skip
    s, across, yaw, scale, half_length, half_width, overhang = np.array(rows).T
    cos, sin = np.abs(np.cos(yaw)) * scale, np.abs(np.sin(yaw)) * scale
    reach_s = half_length * cos + half_width * sin
    reach = half_width * cos + half_length * sin
    near, far = s - reach_s, s + reach_s
    left, right = across - reach, across + reach
    # What they cover of the view: the bearings of four corners, of a billboard's whole width.
    wide = reach + overhang * scale
    corner_s = np.maximum(np.stack([near, near, far, far]), _NEAR_M)
    x, ahead, _ = _foot(corner_s, across + np.stack([-wide, wide, -wide, wide]), world)
    bearing = np.arctan2(x, ahead)
    begin, end = bearing.min(0), bearing.max(0)
    # Pairs that cover the same part of the view.
    i, j = np.nonzero(np.triu((begin[:, None] < end) & (begin < end[:, None]), 1))
    apart_s = (near[i] >= far[j]) | (near[j] >= far[i])
    apart = (left[i] >= right[j]) | (left[j] >= right[i])
    # Side by side, the one is behind that lies on the side to which the view passes between them.
    between_s = (np.maximum(near[i], near[j]) + np.minimum(far[i], far[j])) / 2
    between = (np.maximum(left[i], left[j]) + np.minimum(right[i], right[j])) / 2
    passes_right = between - world.ego_across > _view_shift(between_s, world)
    i_first = np.where(~apart_s & apart, (left[i] >= right[j]) == passes_right, s[i] > s[j])
    first, second = np.where(i_first, i, j), np.where(i_first, j, i)
    # Kahn's algorithm; among the free ones the farthest goes first.
    waiting = np.bincount(second, minlength=len(seen)).tolist()
    hides: list[list[int]] = [[] for _ in seen]
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        hides[a].append(b)
    free = [(-s[k], k) for k in range(len(seen)) if waiting[k] == 0]
    heapq.heapify(free)
    todo = set(range(len(seen)))
    order: list[int] = []
    while todo:
        # Overlapping footprints may go round in a circle: then the farthest is as good as any.
        chosen = heapq.heappop(free)[1] if free else max(todo, key=s.__getitem__)
        todo.remove(chosen)
        order.append(chosen)
        for k in hides[chosen]:
            waiting[k] -= 1
            if waiting[k] == 0 and k in todo:
                heapq.heappush(free, (-s[k], k))
    return order


# --- painting ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Faces:
    """What is known of each face number; all arrays have one entry a face.

    ``plane`` float32 [3, n]: inverse depth is its product with the ray (x, y, 1), kept between
    ``far_inverse`` and ``near_inverse``. ``along``, ``across`` float32 [4, n]: the texture's
    coordinates are their products with (x, y, depth, 1). ``pixels_per_texel`` is for depth 1.
    """

    semantic: np.ndarray
    instance: np.ndarray
    plane: np.ndarray
    near_inverse: np.ndarray
    far_inverse: np.ndarray
    rgb: np.ndarray
    rgb2: np.ndarray
    tile: np.ndarray
    along: np.ndarray
    across: np.ndarray
    pixels_per_texel: np.ndarray
    is_ground: np.ndarray

    def depth(self, face: np.ndarray, camera: _Camera) -> np.ndarray:
        """Depth of each pixel's face there, float32 [H, W], 1 in the sky."""
        inverse = self.plane[0].take(face)
        inverse *= camera.ray_x
        inverse += self.plane[1].take(face) * camera.ray_y
        inverse += self.plane[2].take(face)
        # Pixels on a polygon's edge may lie a little outside it.
        np.minimum(inverse, self.near_inverse.take(face), out=inverse)
        np.maximum(inverse, self.far_inverse.take(face), out=inverse)
        return np.reciprocal(inverse, out=inverse)


def _paint(face: np.ndarray, polygons: _Polygons, camera: _Camera, ground: _Ground) -> _Faces:
    """Paint the polygons that are seen into the map of faces, and describe the faces."""
    p = polygons
    first, last = p.first, np.append(p.first[1:], len(p.points))
    z = p.points[:, 2]
    near, far = np.minimum.reduceat(z, first), np.maximum.reduceat(z, first)
    ahead = p.points.copy()
    ahead[:, 2] = np.maximum(z, 1e-3)
    uv = camera.pixels(ahead)
    low, high = np.minimum.reduceat(uv, first), np.maximum.reduceat(uv, first)
    cut = near < _NEAR_M
    seen = (high > -1).all(1) & (low < camera.size_wh).all(1)
    chosen = np.flatnonzero(seen | (cut & (far > _NEAR_M)))

    fixed = camera.fixed_point(uv)
    for number, i in enumerate(chosen.tolist(), _FIRST_FACE):
        corners = fixed[first[i] : last[i]]
        if cut[i]:
            corners = camera.fixed_point(camera.pixels(_cut(p.points[first[i] : last[i]])))
        cv2.fillConvexPoly(face, corners, number, cv2.LINE_8, 4)

    normal, offset, corner = p.normal[chosen], p.offset[chosen], p.points[first[chosen]]
    along = p.points[first[chosen] + 1] - corner
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    texels = p.texels_ab[chosen]
    axes = []
    for axis, k in ((along, texels[:, 0]), (np.cross(normal, along), texels[:, 1])):
        axis = axis * k[:, None]
        begin = p.shift[chosen] - np.einsum('ij,ij->i', axis, corner)
        axes.append(_with_ground(np.concatenate([axis.T, begin[None]]), 0.0))
    haze = (1 - np.exp(-np.maximum(near[chosen], 0) / 900))[:, None]
    ground_plane = np.repeat(camera.down[:, None] / camera.height_m, _FIRST_FACE, 1)
    ground_plane[:, 0] = (0, 0, 1)  # any depth does for the sky
    tile = np.concatenate([[textures.PLAIN], ground.tile, p.tile[chosen]])
    density = np.concatenate([np.full(_FIRST_FACE, 100.0), texels.max(1)])
    semantic = np.concatenate(
        [[street_labels().class_id('sky')], ground.semantic, p.semantic[chosen]]
    )
    is_mark = p.on_ground[chosen]
    nearest = np.where(is_mark, np.inf, 1 / np.maximum(near[chosen], _NEAR_M))
    farthest = np.where(is_mark, 1e-5, 1 / far[chosen])
    return _Faces(
        semantic=semantic.astype(np.uint8),
        instance=_with_ground(p.instance[chosen], 0).astype(np.uint16),
        plane=np.concatenate([ground_plane, (normal / offset[:, None]).T], 1).astype(np.float32),
        near_inverse=_with_ground(nearest, np.inf),
        far_inverse=_with_ground(farthest, 1e-5),
        rgb=_colors(ground.rgb, p.rgb[chosen], haze),
        rgb2=_colors(ground.rgb, p.rgb2[chosen], haze),
        tile=tile,
        along=axes[0],
        across=axes[1],
        pixels_per_texel=(camera.focal / density).astype(np.float32),
        is_ground=np.concatenate([[False], np.ones(_FIRST_FACE - 1, bool), is_mark]),
    )


def _with_ground(column: np.ndarray, value: float) -> np.ndarray:
    """A column of the painted faces with the sky's and the ground's in front, float32."""
    before = np.full((*column.shape[:-1], _FIRST_FACE), value)
    return np.concatenate([before, column], -1).astype(np.float32)


def _colors(ground: np.ndarray, rgb: np.ndarray, haze: np.ndarray) -> np.ndarray:
    """float32 [3, faces]."""
    rgb = rgb * (1 - haze) + _HAZE_RGB * haze
    return np.concatenate([np.zeros((1, 3)), ground, rgb]).T.astype(np.float32).copy()


def _cut(points: np.ndarray) -> np.ndarray:
    """The part of a polygon beyond the near plane."""
    out = []
    for a, b in zip(points, np.roll(points, -1, 0), strict=True):
        if a[2] >= _NEAR_M:
            out.append(a)
        if (a[2] >= _NEAR_M) != (b[2] >= _NEAR_M):
            out.append(a + (b - a) * ((_NEAR_M - a[2]) / (b[2] - a[2])))
    return np.array(out)


def _shadows(seen: list[Seen], world: World, camera: _Camera, ego_s: float) -> np.ndarray:
    """How much light reaches the ground, float32 [H, W], 1 all of it."""
    style = world.style
    light = np.full(camera.size_wh[::-1], 255, np.uint8)
    thing = street_labels().is_thing
    casts = style.sun > 0.15
    seen = [o for o in seen if o.s < 75 and (casts or thing[o.thing.classes[0]])]
    if not seen:
        return np.ones(camera.size_wh[::-1], np.float32)
    x, ahead, bend = _foot(
        np.array([o.s for o in seen]), np.array([o.across for o in seen]), world
    )
    yaw = bend + np.array([o.yaw for o in seen])
    size = np.array(
        [
            (o.shape.half_width + o.shape.overhang, max(o.shape.half_length, 0.1), o.shape.height)
            for o in seen
        ]
    )
    size *= np.array([o.thing.scale for o in seen])[:, None]
    right = np.stack([np.cos(yaw), -np.sin(yaw)], 1) * size[:, :1]
    forward = np.stack([np.sin(yaw), np.cos(yaw)], 1) * size[:, 1:2]
    ring = [-right - forward, right - forward, right + forward, forward - right]
    foot = np.stack([x, ahead], 1)[:, None] + np.stack(ring, 1)  # [n, 4, 2]
    bearing = _sun_bearing(world, ego_s)
    shift = -np.array([np.sin(bearing), np.cos(bearing)])
    cast = foot + (shift / np.tan(style.sun_elevation) * size[:, 2:])[:, None]
    outline = np.concatenate([foot, cast], 1).reshape(-1, 2)
    points = camera.optical(outline[:, 0], np.zeros(len(outline)), outline[:, 1])
    ahead_of_lens = (points[:, 2] > 0.3).reshape(-1, 8)
    points[:, 2] = np.maximum(points[:, 2], 0.3)
    fixed = camera.fixed_point(camera.pixels(points)).reshape(-1, 8, 2)
    sunless, below = round(255 * (1 - 0.5 * style.sun)), 107
    for i, o in enumerate(seen):
        ahead_here = ahead_of_lens[i]
        if casts and ahead_here.sum() > 2:
            hull = cv2.convexHull(fixed[i][ahead_here])
            cv2.fillConvexPoly(light, hull, sunless, cv2.LINE_8, 4)
        if thing[o.thing.classes[0]] and ahead_here[:4].all():
            cv2.fillConvexPoly(light, fixed[i, :4], below, cv2.LINE_8, 4)
    return cv2.blur(light, (5, 3)) * np.float32(1 / 255)


# --- colour --------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _sensor_noise(size_wh: tuple[int, int]) -> np.ndarray:
    """Noise around 128 with standard deviation 16, larger than the image by 64 each way."""
    rng = np.random.default_rng(99)
    width, height = size_wh
    values = rng.standard_normal((height + 64, width + 64, 3), np.float32) * 16 + 128
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


class _Look:
    """Sky, light, film: what turns faces into a picture."""

    def __init__(self, camera: _Camera, world: World) -> None:
        self._camera = camera
        self._world = world
        self._atlas = textures.atlas()
        style = world.style
        self._sky = self._make_sky(generator(world.seed, 6))
        level = np.arange(256) / 255.0
        curve = style.exposure * (style.contrast * (level - 0.3) + 0.3)
        # Highlights reach white whatever the exposure, as they do in the sky of real pictures,
        curve = np.clip(curve + (0.97 - style.exposure) * level**7, 0, 1)
        # and are not tinted.
        tint = 1 + (np.array(style.tint) - 1) * (1 - level[:, None] ** 3)
        tone = np.clip(curve[:, None] * tint, 0, 1)
        self._tone = np.rint(255 * tone).astype(np.uint8)[None]

    def _make_sky(self, rng: np.random.Generator) -> np.ndarray:
        """A panorama, float32 [3, rows down to the horizon, columns]; it repeats sideways."""
        style = self._world.style
        width, height = self._camera.size_wh
        rows = height + 2
        columns = width if style.curvature == 0 else 2 * width
        # Clouds are soft: a quarter of the resolution is enough.
        small = (columns // 4, rows // 4)
        clouds = textures.noise(rng, small, [(small[0] / 9, 2.0), (small[0] / 25, 1.0)])
        clouds = cv2.resize(clouds, (columns, rows), interpolation=cv2.INTER_LINEAR)
        clouds = np.clip(0.5 + 0.5 * clouds, 0, 1) * style.clouds
        height_above = np.linspace(1, 0, rows, dtype=np.float32)[:, None] ** 0.8
        top = np.array(style.sky_rgb, np.float32)[:, None, None]
        low = np.float32([247, 251, 250])[:, None, None]
        sky = low + (top - low) * height_above
        # White clouds in a blue sky, grey ones in a white sky.
        cloud = np.float32([226, 230, 232] if style.sky_rgb[0] > 215 else [252, 252, 252])
        sky = (sky + (cloud[:, None, None] - sky) * clouds * 0.7).astype(np.float32)
        # Its beginning once more at the end: a view never has to wrap around.
        return sky if style.curvature == 0 else np.concatenate([sky, sky[..., :width]], 2)

    def image(
        self,
        face: np.ndarray,
        faces: _Faces,
        depth: np.ndarray,
        light: np.ndarray,
        ground: _Ground,
        ego_s: float,
        index: int,
    ) -> np.ndarray:
        """Colour every pixel, uint8 [H, W, 3]; ``depth`` is 1 in the sky."""
        style = self._world.style
        width, height = self._camera.size_wh
        on_ground = faces.is_ground.take(face)
        texel = self._texels(face, faces, depth, on_ground, ground, ego_s)
        gain = (texel & 255).astype(np.float32)
        gain *= np.float32(0.01)
        np.multiply(gain, light, out=gain, where=on_ground)
        mixed = np.flatnonzero(texel > 255)
        share = (texel.ravel()[mixed] >> 8) * np.float32(1 / 255)
        mixed_face = face.ravel()[mixed]
        sky = self._sky_view(ego_s)
        is_sky = face[: sky.shape[1]] == 0
        planes = []
        for channel in range(3):
            rgb, rgb2 = faces.rgb[channel], faces.rgb2[channel]
            plane = rgb.take(face)
            plane.ravel()[mixed] += (rgb2 - rgb).take(mixed_face) * share
            plane *= gain
            np.copyto(plane[: sky.shape[1]], sky[channel], where=is_sky)
            planes.append(cv2.convertScaleAbs(plane))
        image = cv2.LUT(cv2.merge(planes), self._tone)
        image = cv2.GaussianBlur(image, (3, 3), style.blur)
        dy, dx = generator(self._world.seed, 7, index).integers(0, 64, 2)
        noise = _sensor_noise(self._camera.size_wh)[dy : dy + height, dx : dx + width]
        strength = style.noise / 16
        return cv2.addWeighted(image, 1.0, noise, strength, -128.0 * strength)

    def _sky_view(self, ego_s: float) -> np.ndarray:
        """The part of the panorama in view, float32 [3, rows, W]."""
        width, height = self._camera.size_wh
        heading = self._world.style.curvature * ego_s
        start = int(heading * self._camera.focal) % max(1, self._sky.shape[2] - width)
        horizon = self._camera.matrix[1, 2] - self._camera.focal * np.tan(self._camera.pitch_rad)
        rows = int(np.clip(horizon + 2, 0, min(height, self._sky.shape[1])))
        return self._sky[:, self._sky.shape[1] - rows :, start : start + width]

    def _texels(
        self,
        face: np.ndarray,
        faces: _Faces,
        depth: np.ndarray,
        on_ground: np.ndarray,
        ground: _Ground,
        ego_s: float,
    ) -> np.ndarray:
        """The atlas at every pixel, uint16 [H, W]."""
        atlas = self._atlas
        x, y = depth * self._camera.ray_x, depth * self._camera.ray_y
        coordinates = []
        for axis in (faces.along, faces.across):
            value = axis[0].take(face) * x
            value += axis[1].take(face) * y
            value += axis[2].take(face) * depth
            value += axis[3].take(face)
            coordinates.append(value)
        low = on_ground[ground.top :]
        # Fixed to the road: texels of 1/64 m that repeat after 16 m.
        start = np.float32(ego_s % 16.0)
        np.copyto(coordinates[0][ground.top :], ground.across * np.float32(64), where=low)
        np.copyto(coordinates[1][ground.top :], (ground.s + start) * np.float32(64), where=low)
        column = coordinates[0].astype(np.int32) & (textures.TILE_WH[0] - 1)
        row = coordinates[1].astype(np.int32) & (textures.TILE_WH[1] - 1)
        # The level at which a texel is about a pixel, from the exponent of the float.
        pixels = faces.pixels_per_texel.take(face)
        pixels /= depth
        level = np.int32(127) - (pixels.view(np.int32) >> 23)
        np.clip(level, 0, textures.LEVELS - 1, out=level)
        start_of = (faces.tile * textures.LEVELS).astype(np.int32).take(face)
        start_of += level
        at = atlas.start.ravel().take(start_of)
        row >>= level
        row <<= np.int32(9) - level
        at += row
        column >>= level
        at += column
        return atlas.texels.take(at)
