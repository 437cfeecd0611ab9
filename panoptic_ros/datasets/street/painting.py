"""Paint polygons into a map of face numbers, and compute the shadows on the ground."""

from dataclasses import dataclass

import cv2
import numpy as np

from panoptic_ros.datasets.street import textures
from panoptic_ros.datasets.street.geometry import (
    FIRST_FACE,
    NEAR_M,
    Camera,
    Ground,
    road_to_foot,
    sun_bearing,
)
from panoptic_ros.datasets.street.polygons import Polygons
from panoptic_ros.datasets.street.style import street_labels
from panoptic_ros.datasets.street.things import Seen
from panoptic_ros.datasets.street.world import World

_HAZE_RGB = 200.0


@dataclass(frozen=True, eq=False)
class Faces:
    """The properties of all faces; the index is the face number.

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

    def depth(self, face: np.ndarray, camera: Camera) -> np.ndarray:
        """Return the depth of every pixel, float32 [H, W], 1 in the sky."""
        inverse = self.plane[0].take(face)
        inverse *= camera.ray_x
        inverse += self.plane[1].take(face) * camera.ray_y
        inverse += self.plane[2].take(face)
        # Pixels on the edge of a polygon may lie slightly outside.
        np.minimum(inverse, self.near_inverse.take(face), out=inverse)
        np.maximum(inverse, self.far_inverse.take(face), out=inverse)
        return np.reciprocal(inverse, out=inverse)


def paint_faces(face: np.ndarray, polygons: Polygons, camera: Camera, ground: Ground) -> Faces:
    """Paint the visible polygons into the map of face numbers; return their properties."""
    p = polygons
    first, last = p.first, np.append(p.first[1:], len(p.points))
    z = p.points[:, 2]
    near, far = np.minimum.reduceat(z, first), np.maximum.reduceat(z, first)
    ahead = p.points.copy()
    ahead[:, 2] = np.maximum(z, 1e-3)
    uv = camera.pixels(ahead)
    low, high = np.minimum.reduceat(uv, first), np.maximum.reduceat(uv, first)
    cut = near < NEAR_M
    seen = (high > -1).all(1) & (low < camera.size_wh).all(1)
    chosen = np.flatnonzero(seen | (cut & (far > NEAR_M)))

    fixed = camera.fixed_point(uv)
    for number, i in enumerate(chosen.tolist(), FIRST_FACE):
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
    ground_plane = np.repeat(camera.down[:, None] / camera.height_m, FIRST_FACE, 1)
    ground_plane[:, 0] = (0, 0, 1)  # the depth of the sky is arbitrary
    tile = np.concatenate([[textures.PLAIN], ground.tile, p.tile[chosen]])
    density = np.concatenate([np.full(FIRST_FACE, 100.0), texels.max(1)])
    semantic = np.concatenate(
        [[street_labels().class_id('sky')], ground.semantic, p.semantic[chosen]]
    )
    is_mark = p.on_ground[chosen]
    nearest = np.where(is_mark, np.inf, 1 / np.maximum(near[chosen], NEAR_M))
    farthest = np.where(is_mark, 1e-5, 1 / far[chosen])
    return Faces(
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
        is_ground=np.concatenate([[False], np.ones(FIRST_FACE - 1, bool), is_mark]),
    )


def _with_ground(column: np.ndarray, value: float) -> np.ndarray:
    """Prepend a value for sky and ground to a column of the painted faces, float32."""
    before = np.full((*column.shape[:-1], FIRST_FACE), value)
    return np.concatenate([before, column], -1).astype(np.float32)


def _colors(ground: np.ndarray, rgb: np.ndarray, haze: np.ndarray) -> np.ndarray:
    """Return the colours of all faces with haze, float32 [3, faces]."""
    rgb = rgb * (1 - haze) + _HAZE_RGB * haze
    return np.concatenate([np.zeros((1, 3)), ground, rgb]).T.astype(np.float32).copy()


def _cut(points: np.ndarray) -> np.ndarray:
    """Return the part of a polygon beyond the near plane."""
    out = []
    for a, b in zip(points, np.roll(points, -1, 0), strict=True):
        if a[2] >= NEAR_M:
            out.append(a)
        if (a[2] >= NEAR_M) != (b[2] >= NEAR_M):
            out.append(a + (b - a) * ((NEAR_M - a[2]) / (b[2] - a[2])))
    return np.array(out)


def shadows(seen: list[Seen], world: World, camera: Camera, ego_s: float) -> np.ndarray:
    """Return the fraction of light that reaches the ground, float32 [H, W]."""
    style = world.style
    light = np.full(camera.size_wh[::-1], 255, np.uint8)
    thing = street_labels().is_thing
    casts = style.sun > 0.15
    seen = [o for o in seen if o.s < 75 and (casts or thing[o.thing.classes[0]])]
    if not seen:
        return np.ones(camera.size_wh[::-1], np.float32)
    x, ahead, bend = road_to_foot(
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
    bearing = sun_bearing(world, ego_s)
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
