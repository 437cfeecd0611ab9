"""All polygons of a frame of the synthetic street, in painting order, far to near."""

import heapq
from dataclasses import dataclass

import numpy as np

from panoptic_ros.datasets.street import textures
from panoptic_ros.datasets.street.geometry import (
    _ROAD,
    NEAR_M,
    Camera,
    Ground,
    road_to_foot,
    sun_bearing,
)
from panoptic_ros.datasets.street.style import Style
from panoptic_ros.datasets.street.things import Seen
from panoptic_ros.datasets.street.world import World

_BACKDROP_M = 230.0


@dataclass(frozen=True, eq=False)
class Polygons:
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


def street_polygons(
    world: World, camera: Camera, ground: Ground, seen: list[Seen], ego_s: float
) -> Polygons:
    """Return the polygons of the road markings and of all things in view."""
    marks = _mark_polygons(world, camera, ground, ego_s)
    things = thing_polygons(world, camera, seen, ego_s)
    columns = {
        name: np.concatenate([getattr(marks, name), getattr(things, name)])
        for name in Polygons.__dataclass_fields__
    }
    columns['first'] = np.concatenate([marks.first, things.first + len(marks.points)])
    return Polygons(**columns)


def _mark_polygons(world: World, camera: Camera, ground: Ground, ego_s: float) -> Polygons:
    """Return the polygons of road markings and patches."""
    rows = []
    for begin, block in world.blocks(ego_s):
        if len(block.marks):
            rows.append(block.marks + np.array([begin, begin, 0, 0, 0], np.float32))
    marks = np.concatenate(rows) if rows else np.zeros((0, 5), np.float32)
    marks = marks[(marks[:, 1] > 1.0) & (marks[:, 0] < 90.0)]
    s = np.maximum(marks[:, [0, 0, 1, 1]], 0.8).ravel()
    x, ahead, _ = road_to_foot(s, marks[:, [2, 3, 3, 2]].ravel(), world)
    points = camera.optical(x, np.zeros_like(x), ahead)
    count = len(marks)
    # Paint narrower than a pixel is as pale as its share of the pixel.
    distance = np.maximum(marks[:, :2].mean(1), 2.0)
    share = np.clip((marks[:, 3] - marks[:, 2]) * camera.focal / distance / 1.6, 0.15, 1)[:, None]
    road = ground.rgb[_ROAD - 1]
    white = np.array([176, 178, 174], np.float32)
    gain = marks[:, 4:]
    rgb = np.where(gain >= 1, road + (white - road) * share, road * (1 + gain * share))
    return Polygons(
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


def thing_polygons(world: World, camera: Camera, seen: list[Seen], ego_s: float) -> Polygons:
    """Return the front-facing polygons that are not tiny: the backdrop, then far to near."""
    style = world.style
    seen, x, ahead, yaw = _in_view(world, camera, seen, ego_s)
    things, shapes = [o.thing for o in seen], [o.shape for o in seen]
    scale = np.array([t.scale for t in things])
    billboard = np.array([s.billboard for s in shapes])
    turn = np.where(billboard, np.arctan2(x, ahead), yaw)
    cos, sin = np.cos(turn), np.sin(turn)

    def turned(local: np.ndarray, who: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rotate from object frames to the axes of the foot frame: right, up, ahead."""
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
    pixels = radius * camera.focal / np.maximum(centre[:, 2] - radius, NEAR_M)
    # Leaves are many, and stand before other leaves.
    kept = (offset < -1e-3) & (pixels > np.where(tile == textures.LEAVES, 2.0, 0.7))
    kept &= centre[:, 2] + radius > NEAR_M
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
    shade = _shade(normal, camera, style, sun_bearing(world, ego_s))
    shade[billboard[owner]] = 0.92 + 0.12 * style.sun
    texels = np.repeat(textures.TEXELS_PER_M[tile][:, None], 2, 1).astype(np.float64)
    house = tile >= textures.HOUSE
    texels[house, 0] = (128 / np.array([s.bay_m for s in shapes]))[owner][house]
    texels[house, 1] = 128 / 3.05
    return Polygons(
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
    world: World, camera: Camera, seen: list[Seen], ego_s: float
) -> tuple[list[Seen], np.ndarray, np.ndarray, np.ndarray]:
    """Return the backdrop and the things in view in painting order, with x, ahead and yaw."""
    slope = float(camera.ray_x[-1]) * 1.02
    if seen:
        s, across = np.array([(o.s, o.across) for o in seen]).T
        x, ahead, bend = road_to_foot(s, across, world)
        size = [np.hypot(o.shape.half_width, o.shape.half_length) + o.shape.overhang for o in seen]
        reach = np.array([o.thing.scale for o in seen]) * np.array(size) + 0.5
        within = (ahead + reach > NEAR_M) & (np.abs(x) - reach < slope * (ahead + reach))
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
    """Pad short tuples to rows of one array, int64 [n, 3]."""
    return np.array([(*row, 0, 0)[:3] for row in rows], np.int64)


def _shade(normal: np.ndarray, camera: Camera, style: Style, sun_bearing: float) -> np.ndarray:
    """Return the brightness of faces by their orientation, float64 [n]."""
    _, cos, sin = camera.down
    up = -(normal @ camera.down)
    ahead = normal[:, 2] * cos - normal[:, 1] * sin
    low = np.cos(style.sun_elevation)
    sun = up * np.sin(style.sun_elevation) + low * (
        normal[:, 0] * np.sin(sun_bearing) + ahead * np.cos(sun_bearing)
    )
    return 0.8 + 0.2 * up + style.sun * (0.5 * np.maximum(sun, 0) - 0.12)


def _view_shift(s: np.ndarray, world: World) -> np.ndarray:
    """Return the offset from the camera's lane at which viewing rays at s run along the road.

    Rays to the right of it move to the right, rays to the left of it to the left. It is 0 on a
    straight road and moves inwards on a curve.
    """
    bend = world.style.curvature
    if bend == 0.0:
        return np.zeros_like(s)
    return (1 / bend - world.ego_across) * (1 - np.cos(bend * s))


def _painting_order(seen: list[Seen], world: World) -> list[int]:
    """Return the painting order of the things, occluded ones first.

    Footprints are approximated by rectangles in the road frame. Disjoint convex footprints have a
    painting order within a field of view of 180 degrees; of two that overlap, the one with the
    farther centre comes first.
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
    # The range of bearings that each covers, from its four corners and a billboard's full width.
    wide = reach + overhang * scale
    corner_s = np.maximum(np.stack([near, near, far, far]), NEAR_M)
    x, ahead, _ = road_to_foot(corner_s, across + np.stack([-wide, wide, -wide, wide]), world)
    bearing = np.arctan2(x, ahead)
    begin, end = bearing.min(0), bearing.max(0)
    # Pairs whose ranges of bearings overlap.
    i, j = np.nonzero(np.triu((begin[:, None] < end) & (begin < end[:, None]), 1))
    apart_s = (near[i] >= far[j]) | (near[j] >= far[i])
    apart = (left[i] >= right[j]) | (left[j] >= right[i])
    # Of two side by side, the rays between them pass in front of the one they move towards.
    between_s = (np.maximum(near[i], near[j]) + np.minimum(far[i], far[j])) / 2
    between = (np.maximum(left[i], left[j]) + np.minimum(right[i], right[j])) / 2
    passes_right = between - world.ego_across > _view_shift(between_s, world)
    i_first = np.where(~apart_s & apart, (left[i] >= right[j]) == passes_right, s[i] > s[j])
    first, second = np.where(i_first, i, j), np.where(i_first, j, i)
    # Kahn's algorithm; the farthest candidate comes first.
    waiting = np.bincount(second, minlength=len(seen)).tolist()
    hides: list[list[int]] = [[] for _ in seen]
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        hides[a].append(b)
    free = [(-s[k], k) for k in range(len(seen)) if waiting[k] == 0]
    heapq.heapify(free)
    todo = set(range(len(seen)))
    order: list[int] = []
    while todo:
        # Overlapping footprints may form a cycle, which starts at the farthest.
        chosen = heapq.heappop(free)[1] if free else max(todo, key=s.__getitem__)
        todo.remove(chosen)
        order.append(chosen)
        for k in hides[chosen]:
            waiting[k] -= 1
            if waiting[k] == 0 and k in todo:
                heapq.heappush(free, (-s[k], k))
    return order
