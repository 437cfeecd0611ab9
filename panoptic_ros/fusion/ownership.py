"""Assign each pixel of the output to the soft mask with the largest value there.

The masks are not enlarged as a whole. The output pixels between the same four cells of the
network's grid form a *block*. An interpolated value lies within the range of the cells around it,
so the bounds of each mask decide most blocks. In the remaining *open* blocks, only the masks that
may win are interpolated. These candidates of a block are numbered by *rank*; all blocks that have
a candidate of one rank are computed at once.
"""

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

import numpy as np

_BLOCKS_AT_ONCE = 2048  # The arrays of one turn fit a level 2 cache.


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """Return the logistic function of a float32 array, float32."""
    value = np.negative(logit)
    with np.errstate(over='ignore'):  # The reciprocal of inf is 0, which is correct.
        np.exp(value, out=value)
    value += 1
    return np.reciprocal(value, out=value)


class Assignment(Enum):
    """The values that are compared at each pixel of the output."""

    PROBABILITY = 'probability'
    """Weighted probabilities, computed at the cells or on the intermediate grid, then enlarged."""
    LOGIT = 'logit'
    """Weighted probabilities, computed from enlarged logits."""
    FIRST = 'first'
    """The weights of the masks whose enlarged logit is above 0."""
    RAW = 'raw'
    """The enlarged values themselves."""


class Owned(NamedTuple):
    """The owners of the output pixels.

    Parameters
    ----------
    owner
        uint16 [H, W], the mask with the largest value, the first of equal ones.
    area
        int64 [K], pixels where the mask is above the threshold.
    coarse_largest
        float32 [h, w], the largest weighted probability in each cell of the grid.
    is_above
        bool [H, W], where the owner is above the threshold; None for ``PROBABILITY`` and ``RAW``.
    """

    owner: np.ndarray
    area: np.ndarray
    coarse_largest: np.ndarray
    is_above: np.ndarray | None


def own_pixels(
    logit: np.ndarray,
    weight: np.ndarray,
    size_wh: tuple[int, int],
    threshold: float,
    logit_grid: int = 0,
    assignment: Assignment = Assignment.PROBABILITY,
    extent_wh: tuple[float, float] = (1.0, 1.0),
) -> Owned:
    """Enlarge K masks bilinearly, weight them, and find the largest at each pixel.

    Parameters
    ----------
    logit
        float32 [K, h, w], 1 to 65535 masks before the sigmoid.
    weight
        float32 [K], above 0 up to 1.
    size_wh
        Width and height of the output, pixels. Cells and pixels are areas: the corners of the
        two grids coincide (``align_corners=False``).
    threshold
        Above 0. Compared with weighted probabilities (``PROBABILITY``) or with probabilities
        (``LOGIT``); ignored by ``FIRST`` and ``RAW``.
    logit_grid
        If above 0, logits are first enlarged to an intermediate square grid of this side, cells.
        If 0, masks are enlarged to the output in one step.
    assignment
        The values that are compared.
    extent_wh
        Above 0 up to 1: the part of the masks that the output shows, from the upper left corner.
    """
    masks, height, width = logit.shape
    likely = sigmoid(logit)
    probability = likely * weight[:, None, None]
    rows = _axis(height, size_wh[1], logit_grid, extent_wh[1])
    columns = _axis(width, size_wh[0], logit_grid, extent_wh[0])
    windows = len(rows.cell), len(columns.cell)
    rows_of, columns_of = np.diff(rows.start), np.diff(columns.start)
    if assignment is Assignment.FIRST:
        cell_value = (logit > 0) * weight[:, None, None]
    elif assignment is Assignment.RAW:
        cell_value = logit - logit.min()  # _rough needs values of at least 0
    else:
        cell_value = probability
    low, high = _bounds(cell_value, *windows)
    high += 1  # more than the rounding errors of the interpolation
    may_win = high >= low.max(axis=0)
    if assignment is Assignment.LOGIT:
        low, high = _bounds(likely, *windows)
        high += 1
    # FIRST: any weight is above this threshold.
    rough_threshold = _rough(np.float32(threshold if assignment not in _FREE else 1e-30))
    is_above = low > rough_threshold
    may_cross = (high >= rough_threshold) > is_above
    if assignment is Assignment.RAW:
        may_cross[:] = False
    is_open = (np.add.reduce(may_win, axis=0, dtype=np.uint16) > 1) | may_cross.any(axis=0)
    opened = np.flatnonzero(is_open & (rows_of > 0)[:, None] & (columns_of > 0))

    def paint_blocks(of_block: np.ndarray) -> np.ndarray:
        return np.repeat(np.repeat(of_block, columns_of, axis=1), rows_of, axis=0)

    owner_of_block = may_win.argmax(axis=0).astype(np.uint16)
    owner = paint_blocks(owner_of_block)
    owner_is_above = None
    if assignment in (Assignment.LOGIT, Assignment.FIRST):
        owner_is_above = paint_blocks(
            np.take_along_axis(is_above, owner_of_block[None], axis=0)[0]
        )
    # Areas of the masks in blocks where they are not interpolated.
    may_win |= may_cross
    is_above &= ~(may_win & is_open)
    in_row = np.add.reduce(is_above * columns_of.astype(np.uint16), axis=2, dtype=np.uint16)
    area = (in_row * rows_of).sum(axis=1)

    candidate = may_win.reshape(masks, -1).take(opened, axis=1)
    source = logit if logit_grid or assignment is not Assignment.PROBABILITY else probability
    open_blocks = _OpenBlocks(
        source, weight, np.float32(threshold), assignment, rows, columns, owner, owner_is_above
    )
    area += open_blocks.resolve(candidate, opened)
    return Owned(owner, area, probability.max(axis=0), owner_is_above)


_FREE = (Assignment.FIRST, Assignment.RAW)


@dataclass(frozen=True, eq=False)
class _OpenBlocks:
    """The blocks that several masks may win, with the inputs of :func:`own_pixels`.

    :meth:`resolve` writes to ``owner`` and ``owner_is_above``.
    """

    source: np.ndarray
    weight: np.ndarray
    threshold: np.float32
    assignment: Assignment
    rows: '_Axis'
    columns: '_Axis'
    owner: np.ndarray
    owner_is_above: np.ndarray | None

    def resolve(self, candidate: np.ndarray, opened: np.ndarray) -> np.ndarray:
        """Interpolate the candidates of the open blocks and write the owners of their pixels.

        Parameters
        ----------
        candidate
            bool [K, blocks], the masks that may win each open block.
        opened
            intp [blocks], flat index of each open block.

        Returns
        -------
        int64 [K], interpolated pixels where the mask is above the threshold.
        """
        rows, columns = self.rows, self.columns
        masks = len(candidate)
        # Blocks with the most candidates first, so the blocks with a given rank are a prefix.
        count = np.add.reduce(candidate, axis=0, dtype=np.uint16)
        order = np.argsort(count, kind='stable')[::-1]
        count = count[order].astype(np.intp)
        first = np.cumsum(count) - count
        mask = np.flatnonzero(candidate.T[order]) % masks
        block_y, block_x = np.divmod(opened[order], len(columns.start) - 1)
        area = np.zeros(masks, np.int64)
        for begin in range(0, len(order), _BLOCKS_AT_ONCE):
            part = slice(begin, begin + _BLOCKS_AT_ONCE)
            y, x, first_here = block_y[part], block_x[part], first[part]
            row_begin = rows.cell.take(y, axis=1) * self.source.shape[2]
            cell = row_begin[:, None] + columns.cell.take(x, axis=1)
            # take and not indexing, which would return the blocks as the slowest axis.
            along_y = [w.take(y, axis=2) for w in rows.weights]
            along_x = [w.take(x, axis=2) for w in columns.weights]
            shape = (len(along_y[-1]), len(along_x[-1]), len(y))
            slot_y, slot_x = np.arange(shape[0])[:, None], np.arange(shape[1])[:, None]
            pixel_y, pixel_x = rows.start[y] + slot_y, columns.start[x] + slot_x
            exists = (pixel_y < rows.start[y + 1])[:, None] & (pixel_x < columns.start[x + 1])
            largest = np.full(
                shape, -np.inf if self.assignment is Assignment.RAW else 0, np.float32
            )
            is_above = np.zeros(shape, bool)
            ranks = int(count[begin])
            winner = np.zeros(shape, np.min_scalar_type(ranks))  # 1 + rank, 0 for none
            having = np.searchsorted(-count[part], -np.arange(ranks))  # blocks with each rank
            for rank, blocks in enumerate(having.tolist()):
                candidates = mask[first_here[:blocks] + rank]
                value = self.source.take(cell[:, :, :blocks] + candidates * self.source[0].size)
                value, above = self._values(value, candidates, along_y, along_x)
                if self.assignment is Assignment.LOGIT:
                    # Slots without a pixel have weights 0, hence logit 0 and probability 0.5.
                    above &= exists[..., :blocks]
                hits = np.add.reduce(above, axis=(0, 1), dtype=np.uint16)
                area += np.bincount(candidates, weights=hits, minlength=masks).astype(np.int64)
                here = np.s_[..., :blocks]
                better = value > largest[here]  # of equal values the first rank wins
                largest[here] = np.maximum(largest[here], value)
                winner[here] = np.where(better, rank + 1, winner[here])
                if self.owner_is_above is not None:
                    is_above[here] = np.where(better, above, is_above[here])
            won_by = mask[first_here + np.maximum(winner, 1) - 1]
            pixel = ((pixel_y * self.owner.shape[1])[:, None] + pixel_x)[exists]
            self.owner.ravel()[pixel] = won_by[exists]
            if self.owner_is_above is not None:
                self.owner_is_above.ravel()[pixel] = is_above[exists]
        return area

    def _values(
        self,
        value: np.ndarray,
        candidates: np.ndarray,
        along_y: list[np.ndarray],
        along_x: list[np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the values of the candidates and whether they are above the threshold."""
        value = _resample(value, along_y[0], along_x[0])
        if self.assignment is Assignment.PROBABILITY:
            if len(along_y) > 1:
                value = sigmoid(value)
                value *= self.weight[candidates]
                value = _resample(value, along_y[1], along_x[1])
            return value, value >= self.threshold
        if len(along_y) > 1:
            value = _resample(value, along_y[1], along_x[1])
        if self.assignment is Assignment.RAW:
            return value, np.zeros(value.shape, bool)
        if self.assignment is Assignment.FIRST:
            above = value > 0
            return above * self.weight[candidates], above
        value = sigmoid(value)
        above = value >= self.threshold
        value *= self.weight[candidates]
        return value, above


def _resample(value: np.ndarray, along_y: np.ndarray, along_x: np.ndarray) -> np.ndarray:
    """Interpolate [cells y, cells x, n] to [pixels y, pixels x, n].

    ``along_y`` and ``along_x`` are weights [pixels, cells, blocks] with at least n blocks.
    """
    blocks = value.shape[2]
    across = along_x[:, 0, :blocks] * value[:, 0, None]
    for cell in range(1, value.shape[1]):
        across += along_x[:, cell, :blocks] * value[:, cell, None]
    result = along_y[:, 0, None, :blocks] * across[0]
    for cell in range(1, len(across)):
        result += along_y[:, cell, None, :blocks] * across[cell]
    return result


@dataclass(frozen=True, eq=False)
class _Axis:
    """Interpolation along one axis; block b lies between the cells b - 1 and b.

    Parameters
    ----------
    start
        intp [blocks + 1], the first pixel of each block; the last entry is the number of pixels.
    cell
        intp [cells, blocks], the cells from which the pixels of a block are interpolated.
    weights
        One or two float32 [outputs, inputs, blocks]: from cells to pixels, or from cells to the
        intermediate grid and from there to pixels. 0 for slots that a block does not use.
    """

    start: np.ndarray
    cell: np.ndarray
    weights: tuple[np.ndarray, ...]


@lru_cache(maxsize=16)
def _axis(cells: int, pixels: int, between: int, extent: float = 1.0) -> _Axis:
    blocks = cells + 1
    seen = round(between * extent) if between else cells * extent
    pair, weight = _interpolate(seen, pixels)
    if not between:
        block = pair[0] + 1
        at = pair - pair[0]
        steps: tuple[np.ndarray, ...] = ()
        window = 2
    else:
        pair = pair.clip(0, seen - 1)
        coarse_pair, coarse_weight = _interpolate(cells, between)
        block = coarse_pair[0, pair[0]] + 1
        # The cells of the intermediate grid that a block needs, counted from its first.
        first = np.full(blocks, between)
        np.minimum.at(first, block, pair[0])
        at = pair - first[block]
        coarse_at = coarse_pair[:, pair] - (block - 1)
        window = int(coarse_at.max()) + 1
        step = np.zeros((int(at.max()) + 1, window, blocks), np.float32)
        step[at, coarse_at, block] = coarse_weight[:, pair]
        steps = (step,)
    start = np.searchsorted(block, np.arange(blocks + 1))
    slot = np.arange(pixels) - start[block]
    last = np.zeros((int(slot.max()) + 1, int(at.max()) + 1, blocks), np.float32)
    np.add.at(last, (slot, at, block), weight)  # At the border both cells may be the same.
    cell = (np.arange(blocks) - 1 + np.arange(window)[:, None]).clip(0, cells - 1)
    return _Axis(start, cell, (*steps, last))


def _interpolate(cells: float, pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the two cells around the centre of each pixel, -1..cells, and their weights.

    Both are [2, pixels], intp and float32; the arithmetic is that of PyTorch.
    """
    scale = np.float32(cells) / np.float32(pixels)
    place = (np.arange(pixels, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    first = np.floor(place)
    second_weight = np.where(first < 0, np.float32(0), place - first)
    cell = first.astype(np.intp)
    return np.stack([cell, cell + 1]), np.stack([1 - second_weight, second_weight])


def _rough(value: np.ndarray | np.float32) -> np.ndarray:
    """Return the upper 16 bits of float32 values of at least 0, which keep their order."""
    return (np.asarray(value).view(np.uint32) >> 16).astype(np.uint16)


def _bounds(
    probability: np.ndarray, window_y: int, window_x: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the minimum and maximum of each block by :func:`_rough`, uint16 [K, h + 1, w + 1]."""
    rough = _rough(probability)
    low = high = np.pad(rough, ((0, 0), (1, window_y - 1), (1, window_x - 1)), mode='edge')
    for axis, window in ((1, window_y), (2, window_x)):
        low = _slide(np.minimum, low, axis, window)
        high = _slide(np.maximum, high, axis, window)
    return low, high


def _slide(reduce: np.ufunc, value: np.ndarray, axis: int, window: int) -> np.ndarray:
    value = np.moveaxis(value, axis, 0)
    length = len(value) - window + 1
    result = reduce(value[:length], value[1 : length + 1])
    for step in range(2, window):
        reduce(result, value[step : length + step], out=result)
    return np.moveaxis(result, 0, axis)
