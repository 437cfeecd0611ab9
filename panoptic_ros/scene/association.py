"""Assignment of the things of a frame to tracks.

Masks are compared on the runs of a grid of about 240 rows, for all tracks at once, so that the
cost hardly depends on the size of the maps.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from panoptic_ros.runs import Runs, ranges
from panoptic_ros.scene.motion import EDGES, Things, TrackerSettings, box_noise_px

_LIKELY_OVERLAP = 0.3  # IoU equivalent of a box exactly at its prediction

_FORGETTING_S = 1.0  # time constant by which unseen tracks lose weight


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks on a grid as runs of cells.

    Parameters
    ----------
    owner, row, start, stop
        intp [r], a run belongs to mask number ``owner`` and covers the columns from ``start`` to
        before ``stop`` of its row.
    size_wh
        Columns and rows of the grid.
    step
        Spacing of columns and rows in pixels.
    """

    owner: np.ndarray
    row: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    size_wh: tuple[int, int]
    step: int

    @classmethod
    def of(cls, instance: np.ndarray, ids: np.ndarray, step: int = 1) -> 'Masks':
        """Return the masks with the given ids, from every ``step``-th row and column of a map.

        Parameters
        ----------
        instance
            uint16 [H, W].
        ids
            uint16 [n], the id of each mask, above 0. Runs are in reading order.
        """
        runs = Runs.of(instance)
        owner_of_id = np.full(int(max(ids.max(initial=0), instance.max(initial=0))) + 1, -1)
        owner_of_id[ids] = np.arange(len(ids))
        return cls.of_runs(runs, owner_of_id[runs.sample(instance)], step)

    @classmethod
    def of_runs(cls, runs: Runs, owner: np.ndarray, step: int = 1) -> 'Masks':
        """Return the masks as :meth:`of` does, from the runs of a map and the mask of each run.

        ``owner`` is intp [runs], -1 for none.
        """
        found = np.flatnonzero(owner >= 0)
        owner, row = owner[found], runs.row[found]
        # One of ``step`` pixels is sampled along rows and columns.
        skipped = step - 1 - step // 2
        start, stop = (runs.start[found] + skipped) // step, (runs.stop[found] + skipped) // step
        sampled = np.arange(step // 2, runs.copies.sum(), step)
        row_of_copy = np.searchsorted(np.cumsum(runs.copies), sampled, side='right')
        in_row = np.bincount(row, minlength=len(runs.copies))
        # The runs of each row, as often as the row is sampled.
        in_copy = in_row[row_of_copy]
        copy = np.repeat(np.arange(len(row_of_copy)), in_copy)
        run = ranges((np.cumsum(in_row) - in_row)[row_of_copy], in_copy)
        start, stop = start[run], stop[run]
        size_wh = (runs.width + skipped) // step, len(row_of_copy)
        seen = np.flatnonzero(start < stop)
        return cls(owner[run][seen], copy[seen], start[seen], stop[seen], size_wh, step)

    def area(self, count: int) -> np.ndarray:
        """Return the number of cells of each of ``count`` masks, float64 [count]."""
        return np.bincount(self.owner, self.stop - self.start, minlength=count)

    def first_cell(self, count: int) -> np.ndarray:
        """Return the flat index of the first cell of each of ``count`` masks, intp [count].

        The size of the grid for masks without cells. Runs must be in reading order.
        """
        width, height = self.size_wh
        first = np.full(count, width * height)
        # numpy keeps the last of several values for one index.
        first[self.owner[::-1]] = (self.row * width + self.start)[::-1]
        return first

    def moved(self, shift_xy: np.ndarray) -> 'Masks':
        """Move each mask by pixels, float [n, 2], to the nearest cells; clip at the border."""
        width, height = self.size_wh
        # Coordinate by coordinate: gathering rows of two is slower.
        across, down = (shift[self.owner] for shift in np.rint(shift_xy.T / self.step).astype(int))
        row = self.row + down
        start = np.maximum(self.start + across, 0)
        stop = np.minimum(self.stop + across, width)
        inside = np.flatnonzero((start < stop) & (row >= 0) & (row < height))
        return self._with(self.owner[inside], row[inside], start[inside], stop[inside])

    def where(self, owners: np.ndarray, count: int) -> 'Masks':
        """Return some of ``count`` masks: mask k of the result is mask ``owners[k]`` of these."""
        new_owner = np.full(count, -1)
        new_owner[owners] = np.arange(len(owners))
        owner = new_owner[self.owner]
        # A mere permutation drops no run.
        kept = np.flatnonzero(owner >= 0) if len(owners) < count else slice(None)
        return self._with(owner[kept], self.row[kept], self.start[kept], self.stop[kept])

    def joined(self, others: 'Masks', count: int) -> 'Masks':
        """Return these ``count`` masks, followed by others on a grid of this size."""
        return self._with(
            np.concatenate((self.owner, others.owner + count)),
            np.concatenate((self.row, others.row)),
            np.concatenate((self.start, others.start)),
            np.concatenate((self.stop, others.stop)),
        )

    def _with(
        self, owner: np.ndarray, row: np.ndarray, start: np.ndarray, stop: np.ndarray
    ) -> 'Masks':
        return Masks(owner, row, start, stop, self.size_wh, self.step)


def shared_cells(tracked: Masks, tracks: int, seen: Masks, things: int) -> np.ndarray:
    """Count the cells that each tracked mask shares with each seen mask.

    Parameters
    ----------
    tracked
        ``tracks`` masks, which may overlap each other.
    seen
        ``things`` masks on a grid of the same size that do not overlap, in reading order, as from
        :meth:`Masks.of`.

    Returns
    -------
    float64 [tracks, things], whole numbers.
    """
    width = tracked.size_wh[0]
    start, stop = tracked.row * width + tracked.start, tracked.row * width + tracked.stop
    seen_start, seen_stop = seen.row * width + seen.start, seen.row * width + seen.stop
    # A tracked run overlaps the seen runs from ``first`` to before ``last``.
    first = np.searchsorted(seen_stop, start, side='right')
    last = np.searchsorted(seen_start, stop, side='left')
    meetings = np.maximum(last - first, 0)
    run = np.repeat(np.arange(len(start)), meetings)
    met = ranges(first, meetings)
    cells = np.minimum(stop[run], seen_stop[met]) - np.maximum(start[run], seen_start[met])
    pair = tracked.owner[run] * things + seen.owner[met]
    return np.bincount(pair, cells, minlength=tracks * things).reshape(tracks, things)


def match_things(
    table: np.ndarray,
    masks: Masks,
    things: Things,
    seen: Masks,
    stamp_ns: int,
    settings: TrackerSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of matched tracks and of the things that continue them.

    The motion in ``table`` is predicted to the present; ``masks`` and the boxes in it are those of
    the last sighting.
    """
    if not len(table) or not len(things.class_id):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    expected = table['motion'][:, 0, :EDGES]
    moved_px = expected - table['box_xyxy']
    moved = masks.moved((moved_px[:, :2] + moved_px[:, 2:]) / 2)
    tracks, count = len(table), len(things.class_id)
    shared = shared_cells(moved, tracks, seen, count).ravel()
    pair = np.flatnonzero(shared)  # few pairs of masks overlap
    track, thing = np.divmod(pair, count)
    shared = shared[pair]
    overlap = shared / (moved.area(tracks)[track] + seen.area(count)[thing] - shared)
    enough = np.where(
        table['class_id'][track] == things.class_id[thing],
        settings.min_overlap,
        settings.min_overlap_of_classes,
    )
    overlaps = overlap > enough

    same_class = table['class_id'][:, None] == things.class_id
    deviation2 = _deviation2(table, things.box_xyxy, settings)
    likely = np.flatnonzero(same_class & (deviation2 < settings.max_deviation**2))
    flat = np.zeros(tracks * count)
    flat[likely] = _LIKELY_OVERLAP * np.exp(-deviation2.ravel()[likely] / 2)
    flat[pair[overlaps]] = overlap[overlaps]
    affinity = flat.reshape(tracks, count)
    # Otherwise hidden tracks take the parts of a mask that is split in this frame.
    affinity *= np.exp((table['seen_ns'] - stamp_ns) / (_FORGETTING_S * 1e9))[:, None]
    track_row, thing_row = linear_sum_assignment(affinity, maximize=True)
    is_match = affinity[track_row, thing_row] > 0
    return track_row[is_match], thing_row[is_match]


def _deviation2(table: np.ndarray, box_xyxy: np.ndarray, settings: TrackerSettings) -> np.ndarray:
    """Return the squared deviation of each box from each prediction, float64 [tracks, things].

    In variances, averaged over the four edges.
    """
    expected = table['motion'][:, 0, :EDGES]
    variance = table['motion'][:, 2, :EDGES] + box_noise_px(table, settings)[:, None] ** 2
    total = np.zeros((len(table), len(box_xyxy)))
    one = np.empty_like(total)
    # Edge by edge in two arrays, which stay in the cache for many tracks.
    for edge in range(EDGES):
        np.subtract(expected[:, edge, None], box_xyxy[:, edge], out=one)
        np.square(one, out=one)
        one /= variance[:, edge, None]
        total += one
    total /= EDGES
    return total
