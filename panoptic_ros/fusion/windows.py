"""Heads of a picture that is larger than the network's input, from overlapping windows.

Each cell of the picture takes its values from the window in which it lies farthest from the
border. Offsets point to centres in cells of the picture, so an object that spans several windows
needs no stitching: its cells find the centre that another window reports.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

from panoptic_ros.fusion import CentreFusion, CentreHeads

CELL = 4
"""Network pixels per cell of the coarser grid of :class:`CentreHeads`."""

_DUPLICATE_CELLS = 2
"""Two windows may place one centre this many cells apart."""


@dataclass(frozen=True)
class Span:
    """One window along one axis, in pixels or cells, each ``start`` to before ``stop``.

    Parameters
    ----------
    start, stop
        What the network sees; ``stop`` may lie beyond the picture.
    kept_start, kept_stop
        What of its map is used: without the trim on the sides where the picture goes on.
    core_start, core_stop
        What this window decides about: no other window has it farther from its
        border. The cores of an axis cover it without overlap.
    """

    start: int
    stop: int
    kept_start: int
    kept_stop: int
    core_start: int
    core_stop: int

    @property
    def core(self) -> slice:
        """The core, as an index of the picture."""
        return slice(self.core_start, self.core_stop)

    @property
    def core_in_window(self) -> slice:
        """The core, as an index of the window."""
        return slice(self.core_start - self.start, self.core_stop - self.start)


@dataclass(frozen=True)
class Windows:
    """Windows of one size that cover a picture, evenly spaced, row by row.

    Parameters
    ----------
    cells_wh
        Width and height of the picture in cells.
    window_cells_wh
        Width and height of a window in cells. It may exceed the picture.
    overlap
        Cells that neighbours share at least; less than a window.

    Raises ValueError if a value is out of range.
    """

    cells_wh: tuple[int, int]
    window_cells_wh: tuple[int, int]
    overlap: int

    def __post_init__(self) -> None:
        if min(self.cells_wh) < 1 or not 0 <= self.overlap < min(self.window_cells_wh):
            raise ValueError(
                f'{self.cells_wh} cells, windows of {self.window_cells_wh} that overlap by '
                f'{self.overlap}; expected a picture, and an overlap smaller than a window'
            )

    @cached_property
    def spans(self) -> tuple[tuple[Span, Span], ...]:
        """The windows in reading order, each as its spans along x and y."""
        columns, rows = (
            split_axis(length, window, self.overlap)
            for length, window in zip(self.cells_wh, self.window_cells_wh, strict=True)
        )
        return tuple((x, y) for y in rows for x in columns)

    def merge(self, heads: Sequence[CentreHeads]) -> CentreHeads:
        """Return the heads of the picture, given those of each window.

        Raises ValueError if a class map does not divide the cells evenly.
        """
        width, height = self.cells_wh
        rows, columns = heads[0].confidence.shape
        fine, rest = divmod(heads[0].semantic.shape[0], rows)
        if rest or heads[0].semantic.shape != (rows * fine, columns * fine):
            raise ValueError(
                f'a class map of {heads[0].semantic.shape} for {rows}x{columns} cells; windows '
                'need a semantic stride of 1, 2 or 4 pixels'
            )
        semantic = np.empty((height * fine, width * fine), np.uint8)
        confidence = np.empty((height, width), np.uint8)
        offset_xy = np.empty((2, height, width), heads[0].offset_xy.dtype)
        found = []
        for number, ((x, y), window) in enumerate(zip(self.spans, heads, strict=True)):
            source = y.core_in_window, x.core_in_window
            target = y.core, x.core
            confidence[target] = window.confidence[source]
            offset_xy[:, target[0], target[1]] = window.offset_xy[:, source[0], source[1]]
            semantic[tuple(_scaled(s, fine) for s in target)] = window.semantic[
                tuple(_scaled(s, fine) for s in source)
            ]
            row, column = np.divmod(window.centre_index.astype(np.intp), columns)
            row, column = row + y.start, column + x.start
            near = _near(row, y.core, height) & _near(column, x.core, width)
            near &= window.centre_score > 0
            found.append(
                np.column_stack([window.centre_score, row, column, np.full(len(row), number)])[
                    near
                ]
            )
        centres = _without_duplicates(np.concatenate(found))
        return CentreHeads(
            semantic=semantic,
            confidence=confidence,
            centre_score=centres[:, 0].astype(np.float32),
            centre_index=(centres[:, 1] * width + centres[:, 2]).astype(np.int32),
            offset_xy=offset_xy,
        )

    def rescale(self, fusion: CentreFusion) -> CentreFusion:
        """Return a fusion whose fractions of a window are fractions of the picture."""
        area = np.prod(self.window_cells_wh) / np.prod(self.cells_wh)
        reach = np.hypot(*self.window_cells_wh) / np.hypot(*self.cells_wh)

        def scaled(fraction: float, factor: float) -> float:
            return min(1.0, float(fraction * factor))

        return replace(
            fusion,
            min_thing_area_fraction=scaled(fusion.min_thing_area_fraction, area),
            min_orphan_area_fraction=scaled(fusion.min_orphan_area_fraction, area),
            min_stuff_area_fraction=scaled(fusion.min_stuff_area_fraction, area),
            max_centre_distance_fraction=scaled(fusion.max_centre_distance_fraction, reach),
        )


def split_axis(length: int, window: int, overlap: int, trim: int = 0) -> tuple[Span, ...]:
    """Spread windows evenly along an axis; neighbours share ``overlap`` or a little more."""
    count = 1 + max(0, -(-(length - window) // (window - overlap)))
    starts = [max(0, length - window) * n // max(1, count - 1) for n in range(count)]
    stops = [start + window for start in starts]
    # Halfway through what two neighbours share, both have the pixel equally far from a border.
    seams = [0, *((starts[n + 1] + stops[n]) // 2 for n in range(count - 1)), length]
    return tuple(
        Span(
            start=starts[n],
            stop=stops[n],
            kept_start=starts[n] + trim if n else 0,
            kept_stop=stops[n] - trim if n < count - 1 else length,
            core_start=seams[n],
            core_stop=seams[n + 1],
        )
        for n in range(count)
    )


def _scaled(span: slice, by: int) -> slice:
    return slice(span.start * by, span.stop * by)


def _near(cell: np.ndarray, core: slice, length: int) -> np.ndarray:
    """Return where a centre is inside the picture and at most a duplicate's distance away."""
    inside = (cell >= core.start - _DUPLICATE_CELLS) & (cell < core.stop + _DUPLICATE_CELLS)
    return inside & (cell < length)


def _without_duplicates(centres: np.ndarray) -> np.ndarray:
    """Drop each centre close to a better one of another window.

    ``centres`` is float64 [n, 4]: score, row, column, number of the window.
    """
    centres = centres[np.argsort(-centres[:, 0], kind='stable')]
    kept = np.ones(len(centres), bool)
    if len(centres):
        pairs = cKDTree(centres[:, 1:3]).query_pairs(
            _DUPLICATE_CELLS, p=np.inf, output_type='ndarray'
        )
        pairs = np.sort(pairs, axis=1)
        pairs = pairs[centres[pairs[:, 0], 3] != centres[pairs[:, 1], 3]]
        for better, worse in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].tolist():
            if kept[better]:
                kept[worse] = False
    return centres[kept]
