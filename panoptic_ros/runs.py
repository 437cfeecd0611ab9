"""Run-length encoding of label maps.

Maps of real scenes have some fifty times fewer runs than pixels, so areas, boxes and votes are
computed on runs.
"""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np


@dataclass(frozen=True, eq=False)
class Runs:
    """Horizontal runs of pixels with one label, in reading order and without gaps.

    The labels themselves are arrays with one entry for each run, see :meth:`sample` and
    :meth:`expand`.

    Parameters
    ----------
    row, start, stop
        intp [n], a run covers the columns ``start`` (inclusive) to ``stop`` (exclusive) of its
        row. It may be empty.
    width
        Columns of the map.
    copies
        intp [rows], 0 or more, how often each row is repeated in the map: maps that were enlarged
        from the grid of a network repeat rows.

    Raises ValueError if the runs do not cover the rows.
    """

    row: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    width: int
    copies: np.ndarray

    def __post_init__(self) -> None:
        covered = int(self.length.sum())
        if covered != len(self.copies) * self.width:
            raise ValueError(
                f'the runs cover {covered} pixels; expected {len(self.copies)} rows of '
                f'{self.width}'
            )

    @classmethod
    def of(cls, *maps: np.ndarray) -> 'Runs':
        """Split maps [H, W] of one shape into runs on which none of them changes."""
        height, width = maps[0].shape
        begins = np.empty(height * width, bool)
        for index, labels in enumerate(maps):
            if labels.shape != (height, width):
                raise ValueError(
                    f'the maps are {maps[0].shape} and {labels.shape}; expected one shape'
                )
            # One long row is compared faster than many short ones.
            flat = labels.reshape(-1)
            if index:
                begins[1:] |= flat[1:] != flat[:-1]
            else:
                np.not_equal(flat[1:], flat[:-1], out=begins[1:])
        begins.reshape(height, width)[:, :1] = True
        first = np.flatnonzero(begins)
        row = first // width if width else first
        row_first = row * width
        return cls(
            row=row,
            start=first - row_first,
            stop=np.append(first, begins.size)[1:] - row_first,
            width=width,
            copies=np.ones(height, np.intp),
        )

    def __len__(self) -> int:
        return len(self.row)

    @property
    def length(self) -> np.ndarray:
        """Pixels of each run in one copy of its row, intp [n]."""
        return self.stop - self.start

    @property
    def first(self) -> np.ndarray:
        """Flat index of the first pixel of each run where no row is repeated, intp [n]."""
        return self.row * self.width + self.start

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height of the map in pixels."""
        return self.width, int(self.copies.sum())

    def sample(self, labels: np.ndarray) -> np.ndarray:
        """Return the label of each run, [n], from a map [H, W] that these runs split."""
        return labels.reshape(-1)[self.first]

    def expand(self, values: np.ndarray) -> np.ndarray:
        """Return the map [H, W] in which the pixels of each run have its value, from [n]."""
        rows = np.repeat(values, self.length).reshape(len(self.copies), self.width)
        return rows if (self.copies == 1).all() else rows.repeat(self.copies, axis=0)

    def resized(self, size_wh: tuple[int, int]) -> 'Runs':
        """Return the runs of the map resized by nearest neighbour, in the same order."""
        width, height = size_wh
        column = first_pixel(self.width, width)
        row = first_pixel(len(self.copies), height)
        return Runs(self.row, column[self.start], column[self.stop], width, np.diff(row))

    def measure(self, key: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Sum the areas and unite the bounding boxes of the runs that share a key.

        Parameters
        ----------
        key
            integer [n], 0..count - 1.
        count
            Number of keys.

        Returns
        -------
        area
            int32 [count], pixels; 0 for a key without pixels.
        box_xyxy
            int32 [count, 4], x0 y0 inclusive, x1 y1 exclusive; meaningless where the area is 0.
        """
        row_first = np.concatenate(([0], np.cumsum(self.copies)))
        x0, y0, x1, y1 = self.start, row_first[self.row], self.stop, row_first[self.row + 1]
        area_of_run = (x1 - x0) * (y1 - y0)
        area = np.bincount(key, weights=area_of_run, minlength=count).astype(np.int32)
        if not area_of_run.all():
            shown = np.flatnonzero(area_of_run)
            key, x0, y0, x1, y1 = (values[shown] for values in (key, x0, y0, x1, y1))
        box = np.zeros((4, count), np.intp)
        box[0], box[1] = self.width, row_first[-1]
        for reduce, of_key, of_run in zip(
            (np.minimum, np.minimum, np.maximum, np.maximum), box, (x0, y0, x1, y1), strict=True
        ):
            reduce.at(of_key, key, of_run)
        return area, np.ascontiguousarray(box.T, np.int32)

    def unrolled(self) -> tuple[np.ndarray, np.ndarray]:
        """List the runs of every row of the map, with each repeated row as often as it appears.

        Returns
        -------
        first
            intp [m], flat index of the first pixel of each run, rising.
        run
            intp [m], the run it is a copy of. Empty runs are left out.
        """
        in_row = np.bincount(self.row, minlength=len(self.copies))
        row_of_line = np.repeat(np.arange(len(self.copies)), self.copies)
        run = ranges((np.cumsum(in_row) - in_row)[row_of_line], in_row[row_of_line])
        line = np.repeat(np.arange(len(row_of_line)), in_row[row_of_line])
        first = line * self.width + self.start[run]
        seen = np.flatnonzero(self.length[run])
        return first[seen], run[seen]


def ranges(begin: int | np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return ``begin, begin + 1, ...`` with ``count`` values, concatenated for all entries."""
    end = np.cumsum(count)
    return np.arange(end[-1] if len(end) else 0) + np.repeat(begin - (end - count), count)


# The grid of a network and the size of a camera rarely change.
@lru_cache(maxsize=8)
def first_pixel(cells: int, pixels: int) -> np.ndarray:
    """Return the first pixel that shows each cell or a later one, along one axis.

    intp [cells + 1], read-only. Cells are resized to pixels by nearest neighbour.
    """
    grid = np.arange(cells, dtype=np.float32)[None]
    shown = cv2.resize(grid, (pixels, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0]
    first = np.searchsorted(shown, np.arange(cells + 1))
    first.setflags(write=False)
    return first
