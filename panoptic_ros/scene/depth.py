"""Objects in space from a panoptic map and an aligned depth image.

A mask contains pixels of other surfaces: its border bleeds into the background, depth cameras
average over edges ("flying pixels"), and a fence may stand in front. Therefore pixels near the
border of a mask are excluded, depth is smoothed by a small median within the mask, the depth of an
object is the median of its pixels, and the object ends, towards the camera and away from it, where
its pixels become sparse on the scale of its width and of the median absolute deviation. These
estimates tolerate up to half of the pixels being wrong (Hampel, 1974, The influence curve and its
role in robust estimation).

All objects are measured at once, on a sample of their pixels. Positions are in the optical frame
(REP 103), metres.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from panoptic_ros.panoptic import Panoptic, Segments
from panoptic_ros.scene.geometry import CameraModel, GroundPlane, PlacedBy, Placement, upright_xyzw

BORDER_PX = 2
"""Width of the border of a mask that is excluded, if enough pixels remain."""

MIN_PIXELS = 12
"""Smallest number of pixels with depth for a measurement."""

MAX_SAMPLES = 400
"""Approximate number of pixels that are sampled of a large object, evenly distributed."""

SPARSE = 0.03
"""An object ends where a window of depth holds less than this fraction of its pixels."""

WINDOW_DEVIATIONS, WINDOW_BREADTHS, WINDOW_DEPTHS = 3.0, 0.5, 0.01
"""Size of the window in standard deviations, with a minimum in widths (the side of a square of the
object's visible area) and in depths."""

TAIL = 0.01
"""Fraction of the points excluded at each end of an extent, which is then scaled up."""

_ANGLES_RAD = np.radians(np.arange(0, 90, 5))
_MAX_TURN_SAMPLES = 100
_EDGE_M = 0.05  # points closer than this to a side of a box count as on it
_SIGMA_OF_MAD = 1.4826  # standard deviation of a normal distribution over its MAD


@dataclass(frozen=True, eq=False)
class ObjectDepths:
    """Measurements of objects, one per row; NaN where there are too few pixels.

    Parameters
    ----------
    depth_m
        float64 [n], median along the optical axis.
    deviation_m
        float64 [n], robust standard deviation of the depth over the object, after smoothing.
    nearest_m
        float64 [n], depth of the nearest part, without the nearest :data:`TAIL`.
    boxes
        Boxes around the visible parts of the objects; ``method`` is DEPTH or NOTHING.
    """

    depth_m: np.ndarray
    deviation_m: np.ndarray
    nearest_m: np.ndarray
    boxes: Placement


def measure_objects(
    panoptic: Panoptic, depth_m: np.ndarray, camera: CameraModel, ground: GroundPlane | None = None
) -> ObjectDepths:
    """Measure every object of a panoptic map; rows as in ``segments.things``.

    Parameters
    ----------
    panoptic
        The map.
    depth_m
        float32 [H, W], depth of the map's pixels, metres, NaN where unknown.
    camera
        The camera of the map's pixels.
    ground
        With it, the boxes are upright and turned about the vertical to fit closely; without it,
        they are aligned with the optical frame.

    Raises ValueError if depth and map differ in shape or depth is not float32.
    """
    if depth_m.dtype != np.float32 or depth_m.shape != panoptic.instance.shape:
        raise ValueError(
            f'depth_m is {depth_m.dtype} {depth_m.shape}; expected float32 '
            f'{panoptic.instance.shape}'
        )
    things = panoptic.segments.things
    count = len(things)
    pixel, row, margin_px = _sample(panoptic.instance, things, depth_m)
    depth = _smooth(depth_m, pixel, margin_px[row] > BORDER_PX)

    groups = _Groups.of(row, count)
    ordered = groups.sort(depth)
    median = groups.quantiles(ordered, 0.5)[0]
    off_m = groups.sort(abs(depth - median[row]))
    deviation = _SIGMA_OF_MAD * groups.quantiles(off_m, 0.5)[0]
    breadth = np.sqrt(things.area / (camera.fx * camera.fy)) * median
    window = np.maximum(
        WINDOW_DEVIATIONS * deviation, WINDOW_BREADTHS * breadth + WINDOW_DEPTHS * median
    )
    near, far = _reach(groups, ordered, median, window)
    inlier = (depth >= near[row]) & (depth <= far[row])
    pixel, row, depth = pixel[inlier], row[inlier], depth[inlier]
    groups = _Groups.of(row, count)

    y, x = np.divmod(pixel, depth_m.shape[1])
    points = np.empty((3, len(pixel)), np.float32)
    np.multiply((x - camera.cx) / camera.fx, depth, out=points[0], casting='same_kind')
    np.multiply((y - camera.cy) / camera.fy, depth, out=points[1], casting='same_kind')
    points[2] = depth
    margin_m = margin_px / np.array([[camera.fx], [camera.fy]]) * median
    boxes, nearest = _boxes(points, row, groups, margin_m, ground)
    return ObjectDepths(
        depth_m=median,
        deviation_m=deviation,
        nearest_m=nearest,
        boxes=boxes,
    )


@lru_cache(maxsize=4)
def _dither(width: int, height: int) -> np.ndarray:
    """uint16 [H, W], from 1: the pixels up to any value are evenly distributed over the image.

    The R2 sequence of M. Roberts (2018, The unreasonable effectiveness of quasirandom sequences).
    """
    column, line = np.arange(width), np.arange(height)[:, None]
    value = (column * 0.7548776662466927 + line * 0.5698402909980532) % 1 * 65536
    return np.maximum(value, 1).astype(np.uint16)


def _sample(
    instance: np.ndarray, things: Segments, depth_m: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sample pixels of objects: their indices, the rows of their objects, each object's margin.

    Pixels are sorted by row. The margin, float64 [n], is the extent of an object in pixels beyond
    the centres of its outermost sampled pixels.
    """
    count, (height, width) = len(things), instance.shape
    # Only the image rows between the highest and the lowest object are processed.
    top, bottom = things.box_xyxy[:, 1].min(initial=height), things.box_xyxy[:, 3].max(initial=0)
    if top >= bottom:
        return np.zeros(0, np.intp), np.zeros(0, np.intp), np.full(count, 0.5)
    numbers = np.zeros(1 << 16, np.uint8 if count < 1 << 8 else np.uint16)
    numbers[things.id] = np.arange(1, count + 1)
    number = numbers.take(instance[top:bottom])  # of the object, from 1

    kernel = np.ones((2 * BORDER_PX + 1, 2 * BORDER_PX + 1), np.uint8)
    # Pixels beyond the image count as no object, so inner pixels have neighbours on all sides.
    least = cv2.erode(number, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    is_inner = cv2.compare(least, cv2.dilate(number, kernel), cv2.CMP_EQ)

    depth_m = depth_m[top:bottom]
    has_depth = cv2.compare(depth_m, depth_m, cv2.CMP_EQ)  # NaN does not equal itself
    present = cv2.calcHist([number], [0], has_depth, [count + 1], [0, count + 1]).ravel()
    share = np.ceil(65535 * np.minimum(MAX_SAMPLES / np.maximum(present, 1), 1)).astype(np.uint16)
    share[0] = 0  # pixels of no object
    chosen = cv2.compare(_dither(width, height)[top:bottom], _look_up(share, number), cv2.CMP_LE)
    pixel = np.flatnonzero(cv2.bitwise_and(chosen, has_depth).view(bool))

    owner = number.ravel()[pixel].astype(np.uint16)
    order = np.argsort(owner, kind='stable')  # radix sort for 16 bits
    pixel, row = pixel[order], owner[order].astype(np.intp) - 1
    inner = is_inner.ravel()[pixel] > 0
    has_inner = np.bincount(row[inner], minlength=count) >= MIN_PIXELS
    is_measured = np.bincount(row, minlength=count) >= MIN_PIXELS
    used = np.where(has_inner[row], inner, is_measured[row])
    margin_px = np.where(has_inner, BORDER_PX + 0.5, 0.5)
    return pixel[used] + top * width, row[used], margin_px


def _look_up(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return ``table[index]``, with OpenCV for 8 bits, where it is faster."""
    if index.dtype != np.uint8:
        return table.take(index)
    whole = np.zeros(256, table.dtype)
    whole[: len(table)] = table
    return cv2.LUT(index, whole)


def _smooth(depth_m: np.ndarray, pixel: np.ndarray, is_inner: np.ndarray) -> np.ndarray:
    """Return the median of the depth of inner pixels and their four neighbours, float32 [pixels].

    All five belong to one object, because the neighbours are within the excluded border.
    """
    flat, width = depth_m.ravel(), depth_m.shape[1]
    depth = flat[pixel]
    inner = pixel[is_inner]
    centre = depth[is_inner]
    a, b, c, d = (
        flat[inner + step]
        for step in (-BORDER_PX, BORDER_PX, -BORDER_PX * width, BORDER_PX * width)
    )
    # The median of five: the middle one of the fifth value and the two middle ones of the other
    # four. fmin and fmax ignore NaN.
    low = np.fmax(np.fmin(a, b), np.fmin(c, d))
    high = np.fmin(np.fmax(a, b), np.fmax(c, d))
    low, high = np.fmin(low, high), np.fmax(low, high)
    depth[is_inner] = np.fmax(np.fmin(centre, high), low)
    return depth


@dataclass(frozen=True, eq=False)
class _Groups:
    """Values sorted by object; ``row`` is the object of each value."""

    row: np.ndarray
    size: np.ndarray
    start: np.ndarray

    @classmethod
    def of(cls, row: np.ndarray, count: int) -> '_Groups':
        size = np.bincount(row, minlength=count)
        return cls(row, size, np.cumsum(size) - size)

    def sort(self, values: np.ndarray) -> np.ndarray:
        """Sort float32 [..., values] within each object."""
        # One sort for all objects. The upper half of the key is the object, the lower half the bit
        # pattern of the value, which sorts like the float once negative ones are inverted.
        bits = np.ascontiguousarray(values, np.float32).view(np.int32)
        key = (self.row << 32) + (bits ^ ((bits >> 31) & 0x7FFFFFFF))
        key.sort(axis=-1)
        bits = key.astype(np.int32)  # the lower half
        return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(np.float32)

    def quantiles(self, ordered: np.ndarray, *shares: float) -> np.ndarray:
        """Return quantiles of sorted values, float64 [..., shares, n]; NaN if empty."""
        if not ordered.shape[-1]:
            return np.full((*ordered.shape[:-1], len(shares), len(self.size)), np.nan)
        place = np.array(shares)[:, None] * (self.size - 1)
        low = np.floor(place)
        index = self.start + low.astype(np.intp)
        # For an empty object any value serves, because it becomes NaN.
        below = ordered.take(index, -1, mode='clip').astype(np.float64)
        above = ordered.take(index + (place > low), -1, mode='clip')
        return below + (above - below) * np.where(self.size > 0, place - low, np.nan)


def _reach(
    groups: _Groups, ordered: np.ndarray, median: np.ndarray, window: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest and farthest depth of each object, float64 [n], from its sorted depths.

    Going away from the median, an object ends where its pixels become sparse.
    """
    near, far = median.copy(), median.copy()
    some = groups.size > 0
    if not some.any():
        return near, far
    start, end = groups.start[some], (groups.start + groups.size)[some] - 1
    dense = (np.cumsum(some) - 1)[groups.row]
    window = window[groups.row]
    place = np.arange(len(ordered))
    step = np.ceil(SPARSE * groups.size[some]).astype(np.intp)[dense]
    middle = ((start + end) // 2)[dense]

    ahead = ordered[np.minimum(place + step, end[dense])] - ordered
    ends = (ahead > window) & (place >= middle)
    far[some] = ordered[np.minimum.reduceat(np.where(ends, place, end[dense]), start)]
    behind = ordered - ordered[np.maximum(place - step, start[dense])]
    ends = (behind > window) & (place <= middle)
    near[some] = ordered[np.maximum.reduceat(np.where(ends, place, start[dense]), start)]
    return near, far


def _boxes(
    points: np.ndarray,
    row: np.ndarray,
    groups: _Groups,
    margin_m: np.ndarray,
    ground: GroundPlane | None,
) -> tuple[Placement, np.ndarray]:
    """Return boxes around the points float32 [3, k] of each row, and the depths of their fronts.

    ``margin_m`` is float64 [2, n].
    """
    count = len(groups.size)
    yaw = np.zeros(count)
    pitch = 0.0
    if ground is not None:
        pitch = ground.pitch_rad
        cos, sin = np.float32(np.cos(pitch)), np.float32(np.sin(pitch))
        level = np.stack(
            [points[0], points[1] * cos + points[2] * sin, points[2] * cos - points[1] * sin]
        )
        yaw = _turns(level[0], level[2], groups)
        cos, sin = np.cos(yaw).astype(np.float32)[row], np.sin(yaw).astype(np.float32)[row]
        points = np.stack(
            [
                level[0] * cos - level[2] * sin,
                level[1],
                level[0] * sin + level[2] * cos,
                points[2],
            ]
        )
    ordered = groups.sort(points)
    low, high = groups.quantiles(ordered, TAIL, 1 - TAIL).swapaxes(0, 1)
    nearest, low, high = low[-1], low[:3], high[:3]
    middle = (low + high) / 2
    size = (high - low) / (1 - 2 * TAIL)
    # The excluded border of a mask extends across the viewing direction, not along it.
    size[0] += 2 * margin_m[0] * abs(np.cos(yaw))
    size[1] += 2 * margin_m[1]
    size[2] += 2 * margin_m[0] * abs(np.sin(yaw))

    position = middle.T if ground is None else _turn_back(middle, yaw, pitch).T
    down = np.array([0.0, np.cos(pitch), np.sin(pitch)])
    placement = Placement(
        position_m=position,
        base_m=position + size[1][:, None] / 2 * down,
        size_m=np.ascontiguousarray(size.T),
        orientation_xyzw=upright_xyzw(pitch, yaw),
        method=np.where(groups.size > 0, PlacedBy.DEPTH, PlacedBy.NOTHING).astype(np.uint8),
    )
    return placement, nearest


def _turn_back(middle: np.ndarray, yaw: np.ndarray, pitch: float) -> np.ndarray:
    """Transform points [3, n] from the axes of their boxes to the optical frame."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    x, down, z = middle[0] * cos + middle[2] * sin, middle[1], middle[2] * cos - middle[0] * sin
    cos, sin = np.cos(pitch), np.sin(pitch)
    return np.stack([x, down * cos - z * sin, down * sin + z * cos])


def _turns(x: np.ndarray, z: np.ndarray, groups: _Groups) -> np.ndarray:
    """Return the yaw of the box of each object about the vertical, radians [n], -pi/4..pi/4.

    It is the angle, out of a fixed set, at which most points are close to a side of the box
    (Zhang, Xu, Dong and Dolan, 2017, Efficient L-shape fitting for vehicle detection using laser
    scanners).
    """
    every = -(-groups.size // _MAX_TURN_SAMPLES)[groups.row] if len(x) else groups.row
    place = np.arange(len(x)) - groups.start[groups.row]
    kept = place % np.maximum(every, 1) == 0
    x, z, row = x[kept], z[kept], groups.row[kept]
    size = np.bincount(row, minlength=len(groups.size))
    has_points = size > 0
    if not has_points.any():
        return np.zeros(len(size))
    start = (np.cumsum(size) - size)[has_points]
    dense = (np.cumsum(has_points) - 1)[row]
    cos = np.cos(_ANGLES_RAD).astype(np.float32)[:, None]
    sin = np.sin(_ANGLES_RAD).astype(np.float32)[:, None]
    nearest = np.float32(np.inf)
    for along in (x * cos - z * sin, x * sin + z * cos):
        low = np.minimum.reduceat(along, start, axis=1)[:, dense]
        high = np.maximum.reduceat(along, start, axis=1)[:, dense]
        to_side = np.minimum(along - low, high - along)
        nearest = np.minimum(nearest, to_side)
    score = np.add.reduceat(1 / np.maximum(nearest, np.float32(_EDGE_M)), start, axis=1)
    yaw = np.zeros(len(size))
    best = _ANGLES_RAD[score.argmax(axis=0)]
    yaw[has_points] = np.where(best > np.pi / 4, best - np.pi / 2, best)
    return yaw
