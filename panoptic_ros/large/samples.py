"""Synthetic slides, aerial pictures and volumes with their true panoptic maps.

Every pixel is a function of its coordinates and a seed: any window of a picture of any size can be
made by itself, and two windows agree where they overlap. Objects lie on a grid of cells, one in a
cell at most; they may touch each other but do not overlap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from panoptic_ros.labels import LabelClass, LabelSet

NUCLEI = LabelSet(
    'nuclei',
    (
        LabelClass('background', False, (20, 20, 20), 0),
        LabelClass('nucleus', True, (60, 160, 255), 1),
    ),
)
"""Classes of the slide and the volume."""

AERIAL = LabelSet(
    'aerial',
    (
        LabelClass('grass', False, (120, 170, 80), 0),
        LabelClass('water', False, (60, 110, 190), 1),
        LabelClass('road', False, (128, 128, 128), 2),
        LabelClass('building', True, (200, 60, 60), 3),
        LabelClass('tree', True, (20, 110, 40), 4),
    ),
)
"""Classes of the aerial picture."""

_GRASS, _WATER, _ROAD, _BUILDING, _TREE = range(5)


@dataclass(frozen=True, eq=False)
class Cells:
    """The objects of some cells: columns of one length, pixels and radians.

    ``is_box`` chooses a rectangle, otherwise an ellipse; ``radius_xy`` are half the side lengths
    or the half axes, before the turn by ``angle``; ``class_id`` is -1 where the cell is empty.
    """

    class_id: np.ndarray
    centre_xy: np.ndarray
    radius_xy: np.ndarray
    angle: np.ndarray
    is_box: np.ndarray
    color_rgb: np.ndarray


@dataclass(frozen=True, eq=False)
class Patch:
    """A window of a sample: picture uint8 [H, W, 3], class map uint16, instance map uint32."""

    image_rgb: np.ndarray
    semantic: np.ndarray
    instance: np.ndarray


@dataclass(frozen=True)
class Sample:
    """A synthetic picture of any size.

    Parameters
    ----------
    name
        What it shows.
    size_wh
        Width and height, pixels.
    label_set
        Its classes.
    pitch
        Side of a cell, pixels.
    pixel_size
        Side of a pixel in ``unit``.
    unit
        ``um`` or ``m``.
    ground
        Function of pixel columns [W] and rows [H] that returns the class map of the ground,
        uint16 [H, W].
    paint
        Function of these and the class map that returns its colours, float32 [H, W, 3].
    cells
        Function of cell columns and rows, int64 [n] each, that returns the objects in them.
    """

    name: str
    size_wh: tuple[int, int]
    label_set: LabelSet
    pitch: int
    pixel_size: float
    unit: str
    ground: Callable[[np.ndarray, np.ndarray], np.ndarray]
    paint: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
    cells: Callable[[np.ndarray, np.ndarray], Cells]

    @cached_property
    def cells_across(self) -> int:
        """Cells in a row."""
        return -(-self.size_wh[0] // self.pitch)

    def read(self, x0: int, y0: int, x1: int, y1: int) -> Patch:
        """Make the window of columns ``x0`` to before ``x1`` and rows ``y0`` to before ``y1``."""
        x, y = np.arange(x0, x1), np.arange(y0, y1)
        semantic = self.ground(x, y)
        color = self.paint(x, y, semantic)
        instance = np.zeros(semantic.shape, np.uint32)
        cells, ids, (index, py, px) = self._objects((x0, y0, x1, y1))
        semantic[py, px], instance[py, px] = cells.class_id[index], ids[index]
        color[py, px] = cells.color_rgb[index]
        grain = hashed(0, x[None, :], y[:, None])[..., None] * 12 - 6
        return Patch(np.clip(color + grain, 0, 255).astype(np.uint8), semantic, instance)

    def labels(self, x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, np.ndarray]:
        """Return class map uint16 and instance map uint32 of a window, without its picture."""
        semantic = self.ground(np.arange(x0, x1), np.arange(y0, y1))
        instance = np.zeros(semantic.shape, np.uint32)
        cells, ids, (index, py, px) = self._objects((x0, y0, x1, y1))
        semantic[py, px], instance[py, px] = cells.class_id[index], ids[index]
        return semantic, instance

    def _objects(self, window: tuple[int, int, int, int]) -> tuple[Cells, np.ndarray, tuple]:
        """Return the cells around a window, the id of each, and the objects' pixels in it."""
        # Objects stay within their cell and a quarter of a cell around it.
        reach = self.pitch // 4 + 1
        columns, rows = (
            np.arange(
                max(0, low - reach) // self.pitch,
                min(high - 1 + reach, length - 1) // self.pitch + 1,
            )
            for low, high, length in zip(window[:2], window[2:], self.size_wh, strict=True)
        )
        column, row = (a.ravel() for a in np.meshgrid(columns, rows))
        cells = self.cells(column, row)
        ids = row * self.cells_across + column + 1
        return cells, ids, _pixels(cells, np.flatnonzero(cells.class_id >= 0), window)


def hashed(salt: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return a fixed pseudo-random number 0..1 for each pair of whole numbers, float32."""
    with np.errstate(over='ignore'):
        h = x.astype(np.uint32) * np.uint32(0x9E3779B1) ^ y.astype(np.uint32) * np.uint32(
            0x85EBCA77
        )
        h = h + np.uint32((salt * 0xC2B2AE3D + 0x27D4EB2F) & 0xFFFFFFFF)
        for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39)):
            h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
        h ^= h >> np.uint32(15)
    return (h >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24)


def slide(size_wh: tuple[int, int], seed: int = 0) -> Sample:
    """Return a stained tissue slide: purple nuclei on pink tissue, 0.5 micrometres a pixel."""
    pitch = 48

    def is_tissue(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.sin(x / 1900) + np.sin(y / 1300) + np.sin((x + y) / 700) > -1.2

    def ground(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.zeros((len(y), len(x)), np.uint16)

    def paint(x: np.ndarray, y: np.ndarray, semantic: np.ndarray) -> np.ndarray:
        inside = is_tissue(x[None, :], y[:, None])[..., None]
        return np.where(inside, (226, 170, 200), (240, 238, 240)).astype(np.float32)

    def cells(column: np.ndarray, row: np.ndarray) -> Cells:
        u = [hashed(seed * 97 + salt, column, row) for salt in range(1, 8)]
        # Whole centres and radii up to 16 in a pitch of 48 with 8 of jitter: they touch at most.
        centre = np.stack(
            [
                column * pitch + 16 + (u[0] * 16).astype(int),
                row * pitch + 16 + (u[1] * 16).astype(int),
            ],
            axis=1,
        )
        there = (u[2] < 0.8) & is_tissue(centre[:, 0], centre[:, 1])
        dark = 70 + 50 * u[6][:, None]
        return Cells(
            class_id=np.where(there, 1, -1),
            centre_xy=centre + 0.5,
            radius_xy=np.stack((7 + 9 * u[3], 7 + 6 * u[4]), axis=1),
            angle=u[5] * np.pi,
            is_box=np.zeros(len(row), bool),
            color_rgb=dark * (1.0, 0.7, 1.5),
        )

    return Sample('slide', size_wh, NUCLEI, pitch, 0.5, 'um', ground, paint, cells)


def aerial(size_wh: tuple[int, int], seed: int = 0, after: bool = False) -> Sample:
    """Return fields, roads, buildings and trees from above, 0.3 metres a pixel.

    With ``after`` it is the same place at a later date: some buildings are gone, some are new,
    some trees are felled, and the lake has risen.
    """
    pitch = 64
    road_every, road_half = 8, 10  # cells, pixels

    def is_water(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        level = 1.35 if after else 1.5
        return np.sin(x / 300 + 1) + np.cos(y / 370) > level

    def ground(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        span = pitch * road_every
        on_road = (np.abs(x % span - pitch // 2) < road_half)[None, :] | (
            np.abs(y % span - pitch // 2) < road_half
        )[:, None]
        semantic = np.where(is_water(x[None, :], y[:, None]), _WATER, _GRASS)
        return np.where(on_road, _ROAD, semantic).astype(np.uint16)

    def paint(x: np.ndarray, y: np.ndarray, semantic: np.ndarray) -> np.ndarray:
        return AERIAL.colors_rgb[semantic].astype(np.float32)

    def cells(column: np.ndarray, row: np.ndarray) -> Cells:
        u = [hashed(seed * 89 + salt, column, row) for salt in range(1, 9)]
        centre = np.stack((column * pitch + pitch // 2, row * pitch + pitch // 2), axis=1)
        later = u[7]
        is_building = (u[0] < 0.35) & ~((later < 0.06) & after)
        is_building |= (u[0] > 0.93) & (later < 0.5) & after
        is_tree = (u[0] >= 0.35) & (u[0] < 0.8) & ~((later < 0.1) & after)
        free = (column % road_every > 0) & (row % road_every > 0)
        free &= ~is_water(*centre.T)
        class_id = np.where(is_building, _BUILDING, np.where(is_tree, _TREE, -1))
        # A building's corners stay within half a cell, whatever its angle.
        radius = np.where(
            is_building[:, None],
            np.stack((12 + 10 * u[1], 10 + 10 * u[2]), axis=1),
            (6 + 12 * u[1])[:, None],
        )
        shade = (0.8 + 0.4 * u[4])[:, None]
        return Cells(
            class_id=np.where(free, class_id, -1),
            centre_xy=centre + 0.5,
            radius_xy=radius,
            angle=u[3] * np.pi / 2,
            is_box=is_building,
            color_rgb=AERIAL.colors_rgb[class_id] * shade,
        )

    return Sample('aerial', size_wh, AERIAL, pitch, 0.3, 'm', ground, paint, cells)


@dataclass(frozen=True, eq=False)
class Volume:
    """A synthetic stack of slices: picture uint8 [Z, H, W], class map uint8, instances uint32."""

    image: np.ndarray
    semantic: np.ndarray
    instance: np.ndarray
    voxel_size_xyz_mm: tuple[float, float, float]


def volume(size_xyz: tuple[int, int, int], seed: int = 0) -> Volume:
    """Return bright ellipsoids in a dark volume, voxels of 0.5 x 0.5 x 1 mm."""
    width, height, depth = size_xyz
    pitch_xy, pitch_z = 32, 16
    z, y, x = (np.arange(n) for n in (depth, height, width))
    image = 20 + 10 * hashed(seed, x[None, None, :] + 1000 * z[:, None, None], y[None, :, None])
    instance = np.zeros((depth, height, width), np.uint32)
    counts = (width // pitch_xy, height // pitch_xy, depth // pitch_z)
    number = 0
    for index in np.ndindex(*counts[::-1]):
        key = np.array([index[0] * 4096 + index[1]]), np.array([index[2]])
        u = [float(hashed(seed * 83 + salt, *key)[0]) for salt in range(1, 9)]
        if u[0] > 0.8:
            continue
        number += 1
        centre = [
            index[0] * pitch_z + 6 + int(4 * u[1]),
            index[1] * pitch_xy + 12 + int(8 * u[2]),
            index[2] * pitch_xy + 12 + int(8 * u[3]),
        ]
        radius = 3 + 3 * u[4], 6 + 6 * u[5], 6 + 6 * u[6]
        place = tuple(
            slice(max(0, int(c - r)), int(c + r) + 2) for c, r in zip(centre, radius, strict=True)
        )
        distance2 = sum(
            (np.square((axis[s] - c) / r)).reshape([-1 if n == k else 1 for n in range(3)])
            for k, (axis, s, c, r) in enumerate(zip((z, y, x), place, centre, radius, strict=True))
        )
        inside = distance2 <= 1
        instance[place][inside] = number
        image[place][inside] = 140 + 80 * u[7]
    image = np.clip(image, 0, 255).astype(np.uint8)
    return Volume(image, (instance > 0).astype(np.uint8), instance, (0.5, 0.5, 1.0))


def _pixels(
    cells: Cells, there: np.ndarray, window: tuple[int, int, int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pixels of the objects in a window: cell, row and column in the window."""
    x0, y0, x1, y1 = window
    reach = int(np.ceil(np.hypot(*cells.radius_xy[there].T).max(initial=0))) + 1
    steps = np.arange(-reach, reach + 1)
    corner = np.floor(cells.centre_xy[there]).astype(np.int64)
    px = corner[:, 0, None] + steps
    py = corner[:, 1, None] + steps
    dx = (px + 0.5 - cells.centre_xy[there, 0, None])[:, None, :].astype(np.float32)
    dy = (py + 0.5 - cells.centre_xy[there, 1, None])[:, :, None].astype(np.float32)
    turn = cells.angle[there].astype(np.float32)[:, None, None]
    radius = cells.radius_xy[there].astype(np.float32)
    u = np.abs(dx * np.cos(turn) + dy * np.sin(turn)) / radius[:, 0, None, None]
    v = np.abs(dy * np.cos(turn) - dx * np.sin(turn)) / radius[:, 1, None, None]
    is_box = cells.is_box[there][:, None, None]
    inside = np.where(is_box, np.maximum(u, v), u * u + v * v) <= 1
    inside &= ((px >= x0) & (px < x1))[:, None, :] & ((py >= y0) & (py < y1))[:, :, None]
    which, step_y, step_x = np.nonzero(inside)
    return there[which], py[which, step_y] - y0, px[which, step_x] - x0
