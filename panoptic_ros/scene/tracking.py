"""Ids that stay with their objects from frame to frame, from the masks alone.

The things of a frame are assigned to the tracks of the frames before (optimal assignment):

* where a track's last mask, moved to where the track should be by now, overlaps a thing's mask;
* else where a thing's box is one that the track's motion makes likely: small or fast things
  whose masks do not overlap, and things that were hidden for a while.

Motion is a Kalman filter of constant velocity for each of the four edges of a box, in pixels per
second: neither the frame rate nor a dropped frame matters. Assigning things to the boxes that
Kalman filters predict is the way of SORT (Bewley et al., arXiv 1602.00763). Here everything is
done for all tracks at once, and on the runs of a grid of some 240 rows, so that the cost hardly
depends on the size of the maps.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from panoptic_ros.panoptic import Panoptic
from panoptic_ros.runs import Runs, ranges

MAX_ID = 65535
"""Track ids are 1 to this, what an instance map can hold; then the free ones come again."""

_GRID_CELLS = 240  # masks are compared on a grid of about so many cells along the shorter side
_LIKELY_OVERLAP = 0.3  # IoU that a box counts for which is just where it is expected
_FORGETTING_S = 1.0  # out of sight for so long, a track counts a third of one in sight
_UNKNOWN = 1e9  # variance of what was not measured yet
_ACCELERATION_M_S2 = 3.0
_START_VELOCITY_M_S = 10.0
_MAX_JUMP2 = 16.3  # squared Mahalanobis distance, three coordinates: exceeded once in a thousand


@dataclass(frozen=True)
class TrackerSettings:
    """When a thing is taken for one that was seen before.

    Parameters
    ----------
    max_gap_s
        0..60 s, a track that was not seen for longer has ended.
    min_overlap
        0..1, IoU above which masks of one class may be one thing.
    min_overlap_of_classes
        0..1, IoU above which masks of two classes may be one thing, because networks take a car
        for a truck now and then; with 1 no id changes its class.
    max_deviation
        0..10 standard deviations (root mean square over the four edges), how far off a box may
        be to be the same thing although the masks do not overlap; 0 for never.
    box_noise
        0..1 box sizes, standard deviation of a box's edges.
    acceleration
        0..1000 box sizes / s^2, standard deviation of the edges' acceleration.
    start_velocity
        0..1000 box sizes / s, standard deviation of the velocity of a new thing's edges.
    max_lost
        0..10000, of the things that are out of sight so many are remembered, the latest.

    The size of a box is the root of its area. Raises ValueError if a value is out of its range.
    """

    max_gap_s: float = 1.0
    min_overlap: float = 0.1
    min_overlap_of_classes: float = 0.4
    max_deviation: float = 5.0
    box_noise: float = 0.05
    acceleration: float = 2.0
    start_velocity: float = 3.0
    max_lost: int = 200

    def __post_init__(self) -> None:
        for name, high in (
            ('max_gap_s', 60),
            ('min_overlap', 1),
            ('min_overlap_of_classes', 1),
            ('max_deviation', 10),
            ('box_noise', 1),
            ('acceleration', 1000),
            ('start_velocity', 1000),
            ('max_lost', 10000),
        ):
            value = getattr(self, name)
            if not 0 <= value <= high:
                raise ValueError(f'{name} is {value}; expected a number from 0 to {high}')


@dataclass(frozen=True, eq=False)
class Tracks:
    """How the things of a frame move, row by row those of ``panoptic.segments.things``.

    Parameters
    ----------
    track_id
        int32 [n].
    age_s
        float32 [n], seconds since the track was first seen.
    velocity_px_s
        float32 [n, 2], of the middle of the box, pixels per second to the right and down; 0 for
        a thing that was seen once.
    velocity_m_s
        float32 [n, 3], metres per second along the axes of the positions that
        :meth:`Tracker.locate` was given; NaN for a thing that was not located twice.
    velocity_deviation_m_s
        float32 [n, 3], standard deviations of ``velocity_m_s``.
    located
        int32 [n], how many positions the velocity comes from.
    """

    track_id: np.ndarray
    age_s: np.ndarray
    velocity_px_s: np.ndarray
    velocity_m_s: np.ndarray
    velocity_deviation_m_s: np.ndarray
    located: np.ndarray

    @property
    def supported_velocity_m_s(self) -> np.ndarray:
        """``velocity_m_s``, NaN where the positions do not support it, float32 [n, 3].

        They do if there are three or more and the speed is above twice its standard deviation,
        which is that of the velocity along its own direction.
        """
        square = np.square(self.velocity_m_s)
        speed2 = square.sum(1)
        # speed > 2 deviations, both sides times the speed and squared; NaN is not above.
        variance = (square * np.square(self.velocity_deviation_m_s)).sum(1)
        is_supported = (self.located > 2) & (speed2 * speed2 > 4 * variance)
        return np.where(is_supported[:, None], self.velocity_m_s, np.float32(np.nan))


class Tracker:
    """Gives the things of each frame the ids of the tracks they belong to.

    A track begins with any thing that continues none, because every pixel of a thing needs an id.
    It ends when it was not seen for ``max_gap_s``, or should be out of the picture by now.

    Parameters
    ----------
    settings
        The attribute of the same name may be replaced at any time; it counts from the next frame
        on.

    One thread at a time may use a tracker.
    """

    def __init__(self, settings: TrackerSettings | None = None) -> None:
        self.settings = settings or TrackerSettings()
        self._last_id = 0
        self.reset()

    def reset(self) -> None:
        """Forget all tracks; numbering goes on, so that no old id is taken for a new one."""
        self._stamp_ns: int | None = None
        self._size_wh = (0, 0)
        self._table = np.zeros(0, _TRACK)
        self._masks = Masks.of(np.zeros((1, 1), np.uint16), np.zeros(0, np.uint16))
        self._row_of_thing = np.zeros(0, np.intp)

    def update(self, panoptic: Panoptic, stamp_ns: int) -> Panoptic:
        """Return the same maps with the ids of tracks in place of those of the frame.

        Maps that are older than those before, or of another size, start afresh.

        Parameters
        ----------
        panoptic
            One frame; the ids of its things mean nothing beyond it.
        stamp_ns
            When it was taken, nanoseconds.
        """
        size_wh = panoptic.size_wh
        if self._stamp_ns is None or stamp_ns < self._stamp_ns or size_wh != self._size_wh:
            self.reset()
        else:
            self._advance(stamp_ns)
        self._stamp_ns, self._size_wh = stamp_ns, size_wh
        segments = panoptic.segments
        rows = np.flatnonzero(segments.is_thing)
        step = max(1, round(min(size_wh) / _GRID_CELLS))
        owner_of_row = np.full(len(segments), -1)
        owner_of_row[rows] = np.arange(len(rows))
        masks = Masks.of_runs(panoptic.runs, panoptic.of_run(owner_of_row, -1), step)
        # From here on in reading order, so that the ids of the frame decide nothing.
        order = np.lexsort((*segments.box_xyxy[rows].T, masks.first_cell(len(rows))))
        masks, rows = masks.where(order, len(rows)), rows[order]
        things = _Things(segments.class_id[rows], segments.box_xyxy[rows])
        pairs = _match(self._table, self._masks, things, masks, stamp_ns, self.settings)
        self._continue(things, masks, *pairs)
        return self._renumber(panoptic, segments.id[rows])

    def locate(self, position_m: np.ndarray, noise_m: float | np.ndarray = 0.1) -> None:
        """Set where the things of the last frame are in space, for :attr:`Tracks.velocity_m_s`.

        A position that the motion so far makes unlikely (a mask that shows another object, a
        change of the way positions are found) starts the track's motion in space anew.

        Parameters
        ----------
        position_m
            float [n, 3], a row for each thing that :meth:`update` returned, in that order; NaN
            where unknown. In any frame of reference, as long as it is always the same.
        noise_m
            Standard deviation of the positions in metres, above 0; one for all, or float [n].

        Raises ValueError if a shape is another.
        """
        rows = self._row_of_thing
        if np.shape(position_m) != (len(rows), 3):
            raise ValueError(
                f'position_m has shape {np.shape(position_m)}; expected {(len(rows), 3)}, a row '
                'for each thing of the last frame'
            )
        known = np.flatnonzero(np.isfinite(position_m).all(axis=1))
        rows = rows[known]
        if np.ndim(noise_m):
            noise_m = np.asarray(noise_m)[known, None]
        position_m = np.asarray(position_m)[known]
        place = self._table['motion'][rows, :, _EDGES:]
        off2 = np.square(position_m - place[:, 0]) / (place[:, 2] + np.square(noise_m))
        jumped = off2.sum(1) > _MAX_JUMP2
        place[jumped] = _START_PLACE[:, None]
        self._table['located'][rows[jumped]] = 0
        _correct(place, position_m, noise_m)
        self._table['motion'][rows, :, _EDGES:] = place
        self._table['located'][rows] += 1

    @property
    def tracks(self) -> Tracks:
        """What is known about the things of the last frame."""
        table = self._table.take(self._row_of_thing)
        velocity = table['motion'][:, 1]
        velocity_m_s = np.where(table['located'][:, None] > 1, velocity[:, _EDGES:], np.nan)
        deviation_m_s = np.sqrt(table['motion'][:, 4, _EDGES:])
        left_top, right_bottom = velocity[:, :2], velocity[:, 2:_EDGES]
        return Tracks(
            track_id=table['id'].astype(np.int32),
            age_s=((table['seen_ns'] - table['first_ns']) / 1e9).astype(np.float32),
            velocity_px_s=((left_top + right_bottom) / 2).astype(np.float32),
            velocity_m_s=velocity_m_s.astype(np.float32),
            velocity_deviation_m_s=deviation_m_s.astype(np.float32),
            located=table['located'].astype(np.int32),
        )

    def _advance(self, stamp_ns: int) -> None:
        """Move the tracks to the present, and forget those that have ended."""
        table, elapsed_s = self._table, (stamp_ns - self._stamp_ns) / 1e9
        acceleration = np.full((len(table), _EDGES + _PLACE), _ACCELERATION_M_S2)
        acceleration[:, :_EDGES] = (self.settings.acceleration * table['size_px'])[:, None]
        _predict(table['motion'], elapsed_s, acceleration)
        left, top, right, bottom = table['motion'][:, 0, :_EDGES].T
        width, height = self._size_wh
        is_inside = (right > 0) & (bottom > 0) & (left < width) & (top < height)
        is_recent = stamp_ns - table['seen_ns'] <= self.settings.max_gap_s * 1e9
        self._keep(np.flatnonzero(is_inside & is_recent))

    def _keep(self, rows: np.ndarray) -> None:
        if len(rows) < len(self._table):
            self._masks = self._masks.where(rows, len(self._table))
            self._table = self._table.take(rows)

    def _continue(
        self, things: '_Things', masks: 'Masks', track_row: np.ndarray, thing_row: np.ndarray
    ) -> None:
        """Set the table to the things of this frame, then the tracks that are out of sight."""
        before = self._table
        now = _begin(things, self._stamp_ns, self.settings)
        continued = before.take(track_row)
        for name in ('id', 'first_ns', 'located', 'motion'):
            now[name][thing_row] = continued[name]
        noise_px = _noise_px(now, self.settings)[:, None]
        _correct(now['motion'][:, :, :_EDGES], now['box_xyxy'], noise_px)

        is_lost = np.ones(len(before), bool)
        is_lost[track_row] = False
        room = min(self.settings.max_lost, MAX_ID - len(now))
        self._keep(np.flatnonzero(is_lost)[:room])
        is_new = np.flatnonzero(now['id'] == 0)
        if len(is_new):
            now['id'][is_new] = self._new_ids(
                len(is_new), np.concatenate((now['id'], self._table['id']))
            )
        # As bytes, which are joined faster than fields.
        rows = [table.view(f'V{_TRACK.itemsize}') for table in (now, self._table)]
        self._table = np.concatenate(rows).view(_TRACK)
        self._masks = masks.joined(self._masks, len(now))

    def _new_ids(self, count: int, taken: np.ndarray) -> np.ndarray:
        next_ids = (self._last_id + np.arange(count + len(taken))) % MAX_ID + 1
        is_free = np.ones(MAX_ID + 1, bool)
        is_free[taken] = False
        ids = next_ids[is_free[next_ids]][:count]
        self._last_id = int(ids[-1])
        return ids

    def _renumber(self, panoptic: Panoptic, ids: np.ndarray) -> Panoptic:
        track_id = self._table['id'][: len(ids)].astype(np.uint16)
        self._row_of_thing = np.argsort(track_id)
        segments = panoptic.segments
        id_of_row = np.zeros(len(segments), np.uint16)
        id_of_row[segments.row_of_id[ids]] = track_id
        # Stuff, whose id is 0, stays in front and in its order.
        order = np.argsort(id_of_row, kind='stable')
        ids = id_of_row[order]
        table = replace(segments.where(order), id=ids, track_id=ids.astype(np.int32))
        return panoptic.with_segments(table, order)


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks on a grid, as horizontal stretches of cells.

    Parameters
    ----------
    owner, row, start, stop
        intp [r], a run belongs to mask number ``owner`` and covers the columns ``start`` to
        before ``stop`` of its row.
    size_wh
        Columns and rows of the grid.
    step
        Pixels from one column or row to the next.
    """

    owner: np.ndarray
    row: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    size_wh: tuple[int, int]
    step: int

    @classmethod
    def of(cls, instance: np.ndarray, ids: np.ndarray, step: int = 1) -> 'Masks':
        """Take the masks with the given ids from every ``step``-th row and column of a map.

        Parameters
        ----------
        instance
            uint16 [H, W].
        ids
            uint16 [n], the id of each mask, none of them 0. Runs come in reading order.
        """
        runs = Runs.of(instance)
        owner_of_id = np.full(int(max(ids.max(initial=0), instance.max(initial=0))) + 1, -1)
        owner_of_id[ids] = np.arange(len(ids))
        return cls.of_runs(runs, owner_of_id[runs.sample(instance)], step)

    @classmethod
    def of_runs(cls, runs: Runs, owner: np.ndarray, step: int = 1) -> 'Masks':
        """Take the masks as :meth:`of` does, from the runs of a map and the mask of each run.

        ``owner`` is intp [runs], -1 for none.
        """
        found = np.flatnonzero(owner >= 0)
        owner, row = owner[found], runs.row[found]
        # Of the pixels, one in ``step`` is looked at, along the rows and from row to row.
        skipped = step - 1 - step // 2
        start, stop = (runs.start[found] + skipped) // step, (runs.stop[found] + skipped) // step
        looked_at = np.arange(step // 2, runs.copies.sum(), step)
        row_of_copy = np.searchsorted(np.cumsum(runs.copies), looked_at, side='right')
        in_row = np.bincount(row, minlength=len(runs.copies))
        # Each row's runs, as often as the row is looked at.
        in_copy = in_row[row_of_copy]
        copy = np.repeat(np.arange(len(row_of_copy)), in_copy)
        run = ranges((np.cumsum(in_row) - in_row)[row_of_copy], in_copy)
        start, stop = start[run], stop[run]
        size_wh = (runs.width + skipped) // step, len(row_of_copy)
        seen = np.flatnonzero(start < stop)
        return cls(owner[run][seen], copy[seen], start[seen], stop[seen], size_wh, step)

    def area(self, count: int) -> np.ndarray:
        """Return the cells of each of ``count`` masks, float64 [count]."""
        return np.bincount(self.owner, self.stop - self.start, minlength=count)

    def first_cell(self, count: int) -> np.ndarray:
        """Return where each of ``count`` masks begins: the flat index of a cell, intp [count].

        The size of the grid for masks without cells. Runs must be in reading order.
        """
        width, height = self.size_wh
        first = np.full(count, width * height)
        # Of several values for one index, numpy keeps the last.
        first[self.owner[::-1]] = (self.row * width + self.start)[::-1]
        return first

    def moved(self, shift_xy: np.ndarray) -> 'Masks':
        """Move each mask by pixels, float [n, 2], to the nearest cells; cut off what leaves."""
        width, height = self.size_wh
        # One by one: two numbers a row are gathered more slowly.
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
        # Where all stay, and only change their places, there is nothing to leave out.
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

    def _with(self, *runs: np.ndarray) -> 'Masks':
        return Masks(*runs, self.size_wh, self.step)


def shared_cells(tracked: Masks, tracks: int, seen: Masks, things: int) -> np.ndarray:
    """Count the cells that each mask of one side shares with each of the other.

    Parameters
    ----------
    tracked
        ``tracks`` masks, which may overlap each other.
    seen
        ``things`` masks on a grid of the same size, as :meth:`Masks.of` gives them: in reading
        order, no cell in two of them.

    Returns
    -------
    float64 [tracks, things], whole numbers.
    """
    width = tracked.size_wh[0]
    start, stop = tracked.row * width + tracked.start, tracked.row * width + tracked.stop
    seen_start, seen_stop = seen.row * width + seen.start, seen.row * width + seen.stop
    # Each tracked run meets the seen runs from its ``first`` to before its ``last``.
    first = np.searchsorted(seen_stop, start, side='right')
    last = np.searchsorted(seen_start, stop, side='left')
    meetings = np.maximum(last - first, 0)
    run = np.repeat(np.arange(len(start)), meetings)
    met = ranges(first, meetings)
    cells = np.minimum(stop[run], seen_stop[met]) - np.maximum(start[run], seen_start[met])
    pair = tracked.owner[run] * things + seen.owner[met]
    return np.bincount(pair, cells, minlength=tracks * things).reshape(tracks, things)


class _Things(NamedTuple):
    """The things of a frame, from which tracks go on: uint8 [n] and int32 [n, 4]."""

    class_id: np.ndarray
    box_xyxy: np.ndarray


def _match(
    table: np.ndarray,
    masks: Masks,
    things: '_Things',
    seen: Masks,
    stamp_ns: int,
    settings: TrackerSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of tracks and those of the things that continue them, pair by pair.

    ``table`` is that of the present, ``masks`` and the boxes in it are where they were seen.
    """
    if not len(table) or not len(things.class_id):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    expected = table['motion'][:, 0, :_EDGES]
    moved_px = expected - table['box_xyxy']
    moved = masks.moved((moved_px[:, :2] + moved_px[:, 2:]) / 2)
    tracks, count = len(table), len(things.class_id)
    shared = shared_cells(moved, tracks, seen, count).ravel()
    pair = np.flatnonzero(shared)  # few of all masks meet
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
    affinity = np.zeros(tracks * count)
    affinity[likely] = _LIKELY_OVERLAP * np.exp(-deviation2.ravel()[likely] / 2)
    affinity[pair[overlaps]] = overlap[overlaps]
    affinity = affinity.reshape(tracks, count)
    # Without this, what was hidden takes the place of what is there when a mask falls apart.
    affinity *= np.exp((table['seen_ns'] - stamp_ns) / (_FORGETTING_S * 1e9))[:, None]
    track_row, thing_row = linear_sum_assignment(affinity, maximize=True)
    is_match = affinity[track_row, thing_row] > 0
    return track_row[is_match], thing_row[is_match]


def _deviation2(table: np.ndarray, box_xyxy: np.ndarray, settings: TrackerSettings) -> np.ndarray:
    """float64 [tracks, things]: how far off each box is for each track, in variances.

    The mean over the four edges.
    """
    expected = table['motion'][:, 0, :_EDGES]
    variance = table['motion'][:, 2, :_EDGES] + _noise_px(table, settings)[:, None] ** 2
    total = np.zeros((len(table), len(box_xyxy)))
    one = np.empty_like(total)
    # Edge by edge in two arrays: for many tracks, more would not stay in the cache.
    for edge in range(_EDGES):
        np.subtract(expected[:, edge, None], box_xyxy[:, edge], out=one)
        np.square(one, out=one)
        one /= variance[:, edge, None]
        total += one
    total /= _EDGES
    return total


_EDGES, _PLACE = 4, 3
_START_PLACE = np.array([0.0, 0.0, _UNKNOWN, 0.0, _START_VELOCITY_M_S**2])

_TRACK = np.dtype(
    [
        ('id', np.int64),
        ('first_ns', np.int64),
        ('seen_ns', np.int64),
        ('located', np.int64),
        ('class_id', np.uint8),
        ('box_xyxy', np.float64, _EDGES),
        ('size_px', np.float64),
        ('motion', np.float64, (5, _EDGES + _PLACE)),
    ],
    align=True,
)
"""A row of the table of tracks: first those that the last frame shows, then the others, latest
first.

``first_ns`` and ``seen_ns`` are when the track was first and last seen, ``located`` how often it
was located, ``box_xyxy`` where it was last seen and ``size_px`` the root of that box's area, at
least 4: motion is in such sizes. ``motion`` is that of the edges of its box
(pixels and seconds), then that in space (metres and seconds), for each coordinate by itself:
value, velocity, variance of the value, covariance of value and velocity, variance of the
velocity.
"""


def _begin(things: '_Things', stamp_ns: int, settings: TrackerSettings) -> np.ndarray:
    """Begin a track for each thing, with id 0 and before the first measurement."""
    table = np.zeros(len(things.class_id), _TRACK)
    table['first_ns'] = table['seen_ns'] = stamp_ns
    table['class_id'] = things.class_id
    table['box_xyxy'] = things.box_xyxy
    width, height = (things.box_xyxy[:, 2:] - things.box_xyxy[:, :2]).T.astype(np.float64)
    table['size_px'] = np.maximum(np.sqrt(width * height), 4)
    motion = table['motion']
    motion[:, 0, :_EDGES] = things.box_xyxy
    motion[:, 2] = _UNKNOWN
    motion[:, 4, :_EDGES] = ((settings.start_velocity * table['size_px']) ** 2)[:, None]
    motion[:, :, _EDGES:] = _START_PLACE[:, None]
    return table


def _noise_px(table: np.ndarray, settings: TrackerSettings) -> np.ndarray:
    # The pixel is for masks that come from a coarser grid.
    return settings.box_noise * table['size_px'] + 1


def _predict(motion: np.ndarray, elapsed_s: float, acceleration: np.ndarray) -> None:
    """Move motion [n, 5, coordinates] on, in place."""
    value, velocity, variance, covariance, velocity_variance = motion.swapaxes(0, 1)
    t, noise = elapsed_s, np.square(acceleration)
    value += t * velocity
    variance += 2 * t * covariance
    variance += t**2 * velocity_variance
    variance += t**4 / 4 * noise
    covariance += t * velocity_variance
    covariance += t**3 / 2 * noise
    velocity_variance += t**2 * noise


def _correct(motion: np.ndarray, measured: np.ndarray, noise: np.ndarray) -> None:
    """Take a measurement of the values [n, coordinates] into motion, in place."""
    value, velocity, variance, covariance, velocity_variance = motion.swapaxes(0, 1)
    noise2 = noise**2
    total = variance + noise2
    off = measured - value
    gain = covariance / total
    value += variance / total * off
    velocity += gain * off
    variance *= noise2
    variance /= total
    velocity_variance -= covariance**2 / total
    covariance *= noise2
    covariance /= total
