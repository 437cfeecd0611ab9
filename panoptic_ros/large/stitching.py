"""Stitch the panoptic maps of overlapping windows into one map.

Each pixel takes its class from the window that has it farthest from its border. That rule also
cuts every window's instances to pieces that do not overlap. Two pieces are one object if, in the
strip both windows saw, they share at least ``min_overlap`` of the smaller of the two (of their
union if their classes differ), or if they have the same class and agree exactly on one connected
part of the strip. Pieces are joined by connected components, so neither the order of the windows
nor that of their ids changes the result.

If every window has the true map, the result is the true map of the whole picture. Each connected
part of an object in a strip belongs to one piece in either window, so the two pieces agree on it
exactly; pieces of different objects share no pixel. The two pieces need not share most of their
pixels: an object that branches is cut into other pieces by each window. Windows that are
neighbours in a row or a column are enough, because the windows that see one pixel form a
rectangle of the grid.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from panoptic_ros.labels import VOID
from panoptic_ros.large.windows import Grid, Window
from panoptic_ros.runs import Runs

NODATA = 256
"""Class id of pixels that the source has no data for. (VOID is: data, but no class.)"""

CLASSES = NODATA + 1
"""Number of values that a class map of this package may have."""


@dataclass(frozen=True, eq=False)
class WindowMap:
    """The panoptic map of the kept part of one window.

    Parameters
    ----------
    semantic
        uint16 [H, W], class ids, VOID or NODATA.
    instance
        uint16 or uint32 [H, W], ids that hold in this window only, 0 for none; an id belongs to
        one class.
    score
        float32 [largest id + 1], 0..1, by id.
    """

    semantic: np.ndarray
    instance: np.ndarray
    score: np.ndarray

    @cached_property
    def runs(self) -> tuple[Runs, np.ndarray, np.ndarray]:
        """The runs of both maps, with the class and the id of each run."""
        runs = Runs.of(self.semantic, self.instance)
        return runs, runs.sample(self.semantic), runs.sample(self.instance)

    def cropped_runs(self, place: tuple[slice, slice]) -> tuple[Runs, np.ndarray, np.ndarray]:
        """Return the runs of a part of both maps, with the class and the id of each run."""
        runs, class_id, ids = self.runs
        (y0, y1), (x0, x1) = ((part.start, part.stop) for part in place)
        start, stop = np.maximum(runs.start, x0), np.minimum(runs.stop, x1)
        inside = np.flatnonzero((start < stop) & (runs.row >= y0) & (runs.row < y1))
        cropped = Runs(
            row=runs.row[inside] - y0,
            start=start[inside] - x0,
            stop=stop[inside] - x0,
            width=x1 - x0,
            copies=np.ones(y1 - y0, np.intp),
        )
        return cropped, class_id[inside], ids[inside]


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of a whole picture, one row each; row k has the id k + 1.

    Parameters
    ----------
    class_id
        uint8 [n].
    score
        float32 [n], mean of the pieces' scores, weighted by their areas.
    area_px
        int64 [n].
    box_xyxy
        int32 [n, 4], pixels, x0 y0 inclusive, x1 y1 exclusive.
    centroid_xy
        float64 [n, 2], pixels; the middle of the first pixel is at (0.5, 0.5).
    """

    class_id: np.ndarray
    score: np.ndarray
    area_px: np.ndarray
    box_xyxy: np.ndarray
    centroid_xy: np.ndarray

    def __len__(self) -> int:
        return len(self.class_id)


@dataclass(frozen=True, eq=False)
class Stitching:
    """What turns the maps of the windows into the map of the picture.

    Parameters
    ----------
    id_of_piece
        uint32 [pieces + 1], the final id of each piece, in reading order of the objects' first
        pixels; 0 for piece 0, which stands for none.
    first_piece
        int64 [windows], by row and column: window w's local id k is piece ``first_piece[w] + k``.
    objects
        The table of the final ids.
    stuff_area_px
        int64 [CLASSES], pixels without an instance by class id, VOID and NODATA included.
    """

    id_of_piece: np.ndarray
    first_piece: np.ndarray
    objects: Objects
    stuff_area_px: np.ndarray

    def final(
        self, window_map: WindowMap, index: int, place: tuple[slice, slice]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return class map uint16 and instance map uint32 of a window, with final ids.

        ``index`` is the window's place in reading order, ``place`` the part of it to return.
        """
        first = self.first_piece[index]
        final_of_local = self.id_of_piece[first : first + len(window_map.score)].copy()
        final_of_local[0] = 0
        class_of_local = self._class_of_id[final_of_local]
        runs, class_id, local = window_map.runs
        instance = runs.expand(final_of_local[local])[place]
        # The pieces of one object may have had several classes.
        is_changed = (final_of_local > 0) & (class_of_local != class_of_ids(window_map))
        if not is_changed.any():
            return window_map.semantic[place], instance
        classes = np.where(is_changed[local], class_of_local[local], class_id)
        return runs.expand(classes.astype(np.uint16))[place], instance

    @cached_property
    def _class_of_id(self) -> np.ndarray:
        return np.concatenate((np.zeros(1, np.uint16), self.objects.class_id))


@dataclass(eq=False)
class Stitcher:
    """Collects the maps of a picture's windows, row by row; keeps only the last row's borders.

    Parameters
    ----------
    grid
        Where the windows lie.
    min_overlap
        0..1, share of the smaller piece that two pieces must have in common to be one object.
    """

    grid: Grid
    min_overlap: float = 0.5
    _rows: int = 0
    _pieces: int = 0
    _first_piece: list[int] = field(default_factory=list)
    _tables: list['_Pieces'] = field(default_factory=list)
    _pairs: list[np.ndarray] = field(default_factory=list)
    _stuff_area_px: np.ndarray = field(default_factory=lambda: np.zeros(CLASSES, np.int64))
    _above: Sequence['_Strip'] = ()

    def add_row(self, maps: Iterable[WindowMap]) -> None:
        """Add the next row of windows, top to bottom, its maps from left to right.

        Raises ValueError if a map does not have the size of its window's kept part.
        """
        row = self._rows
        left: _Strip | None = None
        below = []
        for column, (window, window_map) in enumerate(zip(self.grid.band(row), maps, strict=True)):
            if not window_map.semantic.shape == window_map.instance.shape == window.kept_shape:
                raise ValueError(
                    f'window {column} of row {row} has maps of '
                    f'{window_map.semantic.shape} and {window_map.instance.shape} pixels; '
                    f'expected {window.kept_shape}'
                )
            seen = _Strip(window_map.instance, self._pieces, class_of_ids(window_map))
            self._first_piece.append(self._pieces)
            self._pieces += len(window_map.score)
            table, stuff_area_px = _measure(window_map, seen.class_of_id, window, self.grid)
            self._tables.append(table)
            self._stuff_area_px += stuff_area_px
            if left is not None:
                shared = self.grid.columns[column - 1].kept_stop - window.x.kept_start
                self._join(left[:, -shared:], seen[:, :shared])
            if row:
                above = self._above[column]
                self._join(above, seen[: len(above.instance)])
            if row + 1 < len(self.grid.rows):
                shared = window.y.kept_stop - self.grid.rows[row + 1].kept_start
                below.append(seen[-shared:].copied())
            left = seen
        self._above = below
        self._rows += 1

    def finish(self) -> Stitching:
        """Join the pieces; raises ValueError if rows are missing."""
        if self._rows != len(self.grid.rows):
            raise ValueError(f'{self._rows} of {len(self.grid.rows)} rows of windows were added')
        pieces = _Pieces.concatenated(self._tables)
        pairs = np.concatenate([np.zeros((0, 2), np.int64), *self._pairs])
        graph = coo_array(
            (np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), (len(pieces), len(pieces))
        )
        count, component = connected_components(graph, directed=False)
        id_of_piece, objects = _merge(pieces, component, count)
        return Stitching(
            id_of_piece, np.array(self._first_piece, np.int64), objects, self._stuff_area_px
        )

    def _join(self, a: '_Strip', b: '_Strip') -> None:
        ids_a, ids_b, shared_px, smaller_px, union_px = shared_pieces(a.instance, b.instance)
        same_class = a.class_of_id[ids_a] == b.class_of_id[ids_b]
        is_one = shared_px >= self.min_overlap * np.where(same_class, smaller_px, union_px)
        for pair in np.flatnonzero(same_class & ~is_one):
            is_one[pair] = agree_on_a_part(a.instance == ids_a[pair], b.instance == ids_b[pair])
        pairs = np.stack((a.first + ids_a[is_one], b.first + ids_b[is_one]), axis=1)
        self._pairs.append(pairs.astype(np.int64))


def stitch(grid: Grid, maps: Iterable[WindowMap]) -> tuple[np.ndarray, np.ndarray, Objects]:
    """Stitch the maps of all windows, in reading order, into one map in memory.

    Returns class map uint16 [H, W], instance map uint32 [H, W], and the table of the objects.
    """
    maps = list(maps)
    stitcher, across = Stitcher(grid), len(grid.columns)
    for row in range(len(grid.rows)):
        stitcher.add_row(maps[row * across : (row + 1) * across])
    stitching = stitcher.finish()
    width, height = grid.size_wh
    semantic, instance = np.empty((height, width), np.uint16), np.empty((height, width), np.uint32)
    for row in range(len(grid.rows)):
        for column, window in enumerate(grid.band(row)):
            index = row * across + column
            place = window.y.core, window.x.core
            final = stitching.final(maps[index], index, window.core_slices)
            semantic[place], instance[place] = final
    return semantic, instance, stitching.objects


def class_of_ids(window_map: WindowMap) -> np.ndarray:
    """Return the class of each local id of a window, uint8 [largest id + 1]; VOID if unused."""
    classes = np.full(len(window_map.score), VOID, np.uint8)
    _, class_id, ids = window_map.runs
    classes[ids] = class_id
    return classes


@dataclass(frozen=True, eq=False)
class _Strip:
    """A part of a window's instance map, the piece of id 0, and the class of each id."""

    instance: np.ndarray
    first: int
    class_of_id: np.ndarray

    def __getitem__(self, place: slice | tuple[slice, ...]) -> '_Strip':
        return _Strip(self.instance[place], self.first, self.class_of_id)

    def copied(self) -> '_Strip':
        """Return the same without a reference to the rest of the window."""
        return _Strip(self.instance.copy(), self.first, self.class_of_id)


@dataclass(frozen=True, eq=False)
class _Pieces:
    """One row for each local id of each window, measured in the window's core.

    ``first_pixel`` is the flat index in the picture, the largest int64 for a piece without
    pixels; ``sum_xy`` is the sum of the pixels' middles.
    """

    class_id: np.ndarray
    score: np.ndarray
    area_px: np.ndarray
    box_xyxy: np.ndarray
    sum_xy: np.ndarray
    first_pixel: np.ndarray

    def __len__(self) -> int:
        return len(self.class_id)

    @classmethod
    def concatenated(cls, tables: Sequence['_Pieces']) -> '_Pieces':
        names = cls.__dataclass_fields__
        return cls(*(np.concatenate([getattr(table, name) for table in tables]) for name in names))


_NO_PIXEL = np.iinfo(np.int64).max


def _measure(
    window_map: WindowMap, class_of_id: np.ndarray, window: Window, grid: Grid
) -> tuple[_Pieces, np.ndarray]:
    """Measure the pieces in the core of a window, and count its other pixels by class."""
    runs, class_id, ids = window_map.cropped_runs(window.core_slices)
    key = ids.astype(np.intp)
    length = runs.length
    stuff_area_px = np.bincount(class_id, np.where(key, 0, length), CLASSES)
    count = len(window_map.score)
    area_px, box_xyxy = (column[:count] for column in runs.measure(key, max(count, 1)))
    area_px[:1] = 0  # Id 0 is stuff.
    corner_xy = np.array([window.x.core_start, window.y.core_start], np.int32)
    box_xyxy += np.tile(corner_xy, 2)
    thing = np.flatnonzero(key)
    key, length = key[thing], length[thing]
    start, stop = (x[thing] + corner_xy[0] for x in (runs.start, runs.stop))
    row = runs.row[thing] + corner_xy[1]
    sums = [np.bincount(key, length * middle, count) for middle in ((start + stop) / 2, row + 0.5)]
    first_pixel = np.full(count, _NO_PIXEL)
    # Runs come in reading order, and of several values for one index numpy keeps the last.
    first_pixel[key[::-1]] = (row * grid.size_wh[0] + start)[::-1]
    pieces = _Pieces(
        class_id=class_of_id,
        score=window_map.score.astype(np.float32),
        area_px=area_px.astype(np.int64),
        box_xyxy=box_xyxy,
        sum_xy=np.stack(sums, axis=1),
        first_pixel=first_pixel,
    )
    return pieces, stuff_area_px.astype(np.int64)


def shared_pieces(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return what the instances of two maps of the same pixels share.

    Returns the ids of each pair in ``a`` and in ``b``, the pixels of both, those of the smaller
    one in this strip, and those of either; int64 [pairs] each.
    """
    a, b = a.ravel(), b.ravel()
    begins = np.flatnonzero(np.concatenate(([True], (a[1:] != a[:-1]) | (b[1:] != b[:-1]))))
    length = np.diff(begins, append=len(a))
    ids_a, ids_b = a[begins].astype(np.int64), b[begins].astype(np.int64)
    area_a, area_b = (np.bincount(ids, length).astype(np.int64) for ids in (ids_a, ids_b))
    both = (ids_a > 0) & (ids_b > 0)
    base = len(area_b)
    key, inverse = np.unique(ids_a[both] * base + ids_b[both], return_inverse=True)
    shared_px = np.bincount(inverse, length[both], len(key)).astype(np.int64)
    ids_a, ids_b = np.divmod(key, base)
    area_a, area_b = area_a[ids_a], area_b[ids_b]
    return ids_a, ids_b, shared_px, np.minimum(area_a, area_b), area_a + area_b - shared_px


def agree_on_a_part(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether two masks, bool [H, W], agree on a connected part: one is in both, whole."""
    count, part = cv2.connectedComponents((a | b).view(np.uint8), connectivity=8)
    differs = np.bincount(part[a ^ b], minlength=count)
    return bool((differs[1:] == 0).any())


def _merge(pieces: _Pieces, component: np.ndarray, count: int) -> tuple[np.ndarray, Objects]:
    """Merge the pieces of each component, int [pieces] of 0..count - 1, into one object."""
    first_pixel = np.full(count, _NO_PIXEL)
    np.minimum.at(first_pixel, component, pieces.first_pixel)
    order = np.argsort(first_pixel, kind='stable')
    order = order[: np.count_nonzero(first_pixel != _NO_PIXEL)]
    id_of_component = np.zeros(count, np.uint32)
    id_of_component[order] = np.arange(1, len(order) + 1)
    id_of_piece = id_of_component[component]

    rows = np.flatnonzero((id_of_piece > 0) & (pieces.area_px > 0))
    row_of = id_of_piece[rows].astype(np.int64) - 1
    total, area_px = len(order), pieces.area_px[rows]
    area = np.bincount(row_of, area_px, total)
    box = np.empty((total, 4), np.int32)
    box[:, :2], box[:, 2:] = np.iinfo(np.int32).max, 0
    np.minimum.at(box[:, :2], row_of, pieces.box_xyxy[rows, :2])
    np.maximum.at(box[:, 2:], row_of, pieces.box_xyxy[rows, 2:])
    sums = [np.bincount(row_of, pieces.sum_xy[rows, axis], total) for axis in range(2)]
    return id_of_piece, Objects(
        class_id=_majority_class(row_of, pieces.class_id[rows], area_px, total),
        score=(np.bincount(row_of, pieces.score[rows] * area_px, total) / area).astype(np.float32),
        area_px=area.astype(np.int64),
        box_xyxy=box,
        centroid_xy=np.stack(sums, axis=1) / area[:, None],
    )


def _majority_class(
    row_of: np.ndarray, class_id: np.ndarray, area_px: np.ndarray, total: int
) -> np.ndarray:
    """Return the class with most pixels of each row, uint8 [total]; of equals the lowest."""
    key, inverse = np.unique(row_of * CLASSES + class_id, return_inverse=True)
    area = np.bincount(inverse, area_px, len(key))
    row, classes = np.divmod(key, CLASSES)
    best = np.zeros(total, np.uint8)
    # The last one stays: within a row, the largest area, of equals the lowest class.
    order = np.lexsort((-classes, area, row))
    best[row[order]] = classes[order]
    return best
