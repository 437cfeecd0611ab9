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

from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from panoptic_ros.panoptic import Panoptic, Segments

MAX_ID = 65535
"""Track ids are 1 to this, what an instance map can hold; then the free ones come again."""

_GRID_CELLS = 240  # masks are compared on a grid of about so many cells along the shorter side
_LIKELY_OVERLAP = 0.3  # IoU that a box counts for which is just where it is expected
_FORGETTING_S = 1.0  # out of sight for so long, a track counts a third of one in sight
_UNKNOWN = 1e9  # variance of what was not measured yet
_ACCELERATION_M_S2 = 3.0
_START_VELOCITY_M_S = 10.0


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
    """

    track_id: np.ndarray
    age_s: np.ndarray
    velocity_px_s: np.ndarray
    velocity_m_s: np.ndarray


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
        self._table = _Table.begin(np.zeros(0, np.uint8), np.zeros((0, 4)), 0, self.settings)
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
        things = panoptic.segments.things
        masks = Masks.of(panoptic.instance, things.id, max(1, round(min(size_wh) / _GRID_CELLS)))
        # From here on in reading order, so that the ids of the frame decide nothing.
        order = np.lexsort((*things.box_xyxy.T, masks.first_cell(len(things))))
        things, masks = things.where(order), masks.where(order, len(things))
        pairs = _match(self._table, self._masks, things, masks, stamp_ns, self.settings)
        self._continue(things, masks, *pairs)
        return self._renumber(panoptic, things.id)

    def locate(self, position_m: np.ndarray, noise_m: float | np.ndarray = 0.1) -> None:
        """Say where the things of the last frame are in space, for :attr:`Tracks.velocity_m_s`.

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
        known = np.isfinite(position_m).all(axis=1)
        rows = rows[known]
        noise_m = np.broadcast_to(noise_m, known.shape)[known, None]
        place, located = self._table.place, self._table.located
        place[rows] = _correct(place[rows], np.asarray(position_m)[known], noise_m)
        located[rows] += 1

    @property
    def tracks(self) -> Tracks:
        """What is known about the things of the last frame."""
        table = self._table.where(self._row_of_thing)
        velocity_m_s = np.where(table.located[:, None] > 1, table.place[:, 1], np.nan)
        left_top, right_bottom = table.edges[:, 1, :2], table.edges[:, 1, 2:]
        return Tracks(
            track_id=table.id.astype(np.int32),
            age_s=((table.seen_ns - table.first_ns) / 1e9).astype(np.float32),
            velocity_px_s=((left_top + right_bottom) / 2).astype(np.float32),
            velocity_m_s=velocity_m_s.astype(np.float32),
        )

    def _advance(self, stamp_ns: int) -> None:
        """Move the tracks to the present, and forget those that have ended."""
        table, elapsed_s = self._table, (stamp_ns - self._stamp_ns) / 1e9
        acceleration = self.settings.acceleration * table.size_px
        table = replace(
            table,
            edges=_predict(table.edges, elapsed_s, acceleration[:, None]),
            place=_predict(table.place, elapsed_s, _ACCELERATION_M_S2),
        )
        box = table.edges[:, 0]
        is_inside = (box[:, 2:] > 0).all(axis=1) & (box[:, :2] < self._size_wh).all(axis=1)
        is_recent = stamp_ns - table.seen_ns <= self.settings.max_gap_s * 1e9
        self._keep(table, np.flatnonzero(is_inside & is_recent))

    def _keep(self, table: '_Table', rows: np.ndarray) -> None:
        self._masks = self._masks.where(rows, len(table.id))
        self._table = table.where(rows)

    def _continue(
        self, things: Segments, masks: 'Masks', track_row: np.ndarray, thing_row: np.ndarray
    ) -> None:
        """Set the table to the things of this frame, then the tracks that are out of sight."""
        before = self._table
        now = _Table.begin(things.class_id, things.box_xyxy, self._stamp_ns, self.settings)
        for name in ('id', 'first_ns', 'located', 'edges', 'place'):
            getattr(now, name)[thing_row] = getattr(before, name)[track_row]
        noise_px = _noise_px(now, self.settings)
        now = replace(now, edges=_correct(now.edges, now.box_xyxy, noise_px[:, None]))

        is_lost = np.ones(len(before.id), bool)
        is_lost[track_row] = False
        room = min(self.settings.max_lost, MAX_ID - len(things))
        self._keep(before, np.flatnonzero(is_lost)[:room])
        is_new = now.id == 0
        now.id[is_new] = self._new_ids(
            np.count_nonzero(is_new), np.concatenate((now.id[~is_new], self._table.id))
        )
        self._table = now.joined(self._table)
        self._masks = masks.joined(self._masks, len(things))

    def _new_ids(self, count: int, taken: np.ndarray) -> np.ndarray:
        next_ids = (self._last_id + np.arange(count + len(taken))) % MAX_ID + 1
        ids = next_ids[~np.isin(next_ids, taken)][:count]
        self._last_id = int(ids[-1]) if count else self._last_id
        return ids

    def _renumber(self, panoptic: Panoptic, ids: np.ndarray) -> Panoptic:
        track_id = self._table.id[: len(ids)].astype(np.uint16)
        self._row_of_thing = np.argsort(track_id)
        new_id = np.zeros(max(256, int(ids.max(initial=0)) + 1), np.uint16)
        new_id[ids] = track_id
        segments = panoptic.segments
        of_segment = new_id[segments.id]
        segments = replace(segments, id=of_segment, track_id=of_segment.astype(np.int32))
        return Panoptic(
            panoptic.semantic,
            _look_up(new_id, panoptic.instance),
            # Stuff, whose id is 0, stays in front and in its order.
            segments.where(np.argsort(of_segment, kind='stable')),
        )


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
        grid = np.ascontiguousarray(instance[step // 2 :: step, step // 2 :: step])
        height, width = grid.shape
        begins = np.ones(grid.shape, bool)
        np.not_equal(grid[:, 1:], grid[:, :-1], out=begins[:, 1:])
        start = np.flatnonzero(begins)
        stop = np.append(start[1:], grid.size)
        found = grid.ravel()[start]
        owner_of_id = np.full(int(max(ids.max(initial=0), found.max(initial=0))) + 1, -1)
        owner_of_id[ids] = np.arange(len(ids))
        owner = owner_of_id[found]
        is_mask = owner >= 0
        start, stop = start[is_mask], stop[is_mask]
        row = start // width
        start, stop = start - row * width, stop - row * width
        return cls(owner[is_mask], row, start, stop, (width, height), step)

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
        shift = np.rint(shift_xy / self.step).astype(np.intp)[self.owner]
        width, height = self.size_wh
        row = self.row + shift[:, 1]
        start = np.maximum(self.start + shift[:, 0], 0)
        stop = np.minimum(self.stop + shift[:, 0], width)
        inside = np.flatnonzero((start < stop) & (row >= 0) & (row < height))
        return replace(
            self, owner=self.owner[inside], row=row[inside], start=start[inside], stop=stop[inside]
        )

    def where(self, owners: np.ndarray, count: int) -> 'Masks':
        """Return some of ``count`` masks: mask k of the result is mask ``owners[k]`` of these."""
        new_owner = np.full(count, -1)
        new_owner[owners] = np.arange(len(owners))
        owner = new_owner[self.owner]
        kept = np.flatnonzero(owner >= 0)
        return replace(
            self,
            owner=owner[kept],
            row=self.row[kept],
            start=self.start[kept],
            stop=self.stop[kept],
        )

    def joined(self, others: 'Masks', count: int) -> 'Masks':
        """Return these ``count`` masks, followed by others on a grid of this size."""
        return replace(
            self,
            owner=np.concatenate((self.owner, others.owner + count)),
            row=np.concatenate((self.row, others.row)),
            start=np.concatenate((self.start, others.start)),
            stop=np.concatenate((self.stop, others.stop)),
        )


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
    met = np.arange(len(run)) + np.repeat(first - (np.cumsum(meetings) - meetings), meetings)
    cells = np.minimum(stop[run], seen_stop[met]) - np.maximum(start[run], seen_start[met])
    pair = tracked.owner[run] * things + seen.owner[met]
    return np.bincount(pair, cells, minlength=tracks * things).reshape(tracks, things)


def _match(
    table: '_Table',
    masks: Masks,
    things: Segments,
    seen: Masks,
    stamp_ns: int,
    settings: TrackerSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of tracks and those of the things that continue them, pair by pair.

    ``table`` is that of the present, ``masks`` and ``table.box_xyxy`` are where they were seen.
    """
    if not len(table.id) or not len(things):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    moved_px = (table.edges[:, 0] - table.box_xyxy).reshape(-1, 2, 2).mean(axis=1)
    moved = masks.moved(moved_px)
    shared = shared_cells(moved, len(table.id), seen, len(things))
    union = moved.area(len(table.id))[:, None] + seen.area(len(things)) - shared
    overlap = shared / np.maximum(union, 1)
    same_class = table.class_id[:, None] == things.class_id
    enough = np.where(same_class, settings.min_overlap, settings.min_overlap_of_classes)

    variance = table.edges[:, 2] + _noise_px(table, settings)[:, None] ** 2
    # The four edges come first: a sum over the last axis takes several times as long.
    off_px = table.edges[:, 0].T[:, :, None] - things.box_xyxy.T[:, None]
    deviation2 = (off_px**2 / variance.T[:, :, None]).sum(axis=0) / 4
    is_likely = same_class & (deviation2 < settings.max_deviation**2)
    likelihood = is_likely * np.exp(-deviation2 / 2)
    affinity = np.where(overlap > enough, overlap, _LIKELY_OVERLAP * likelihood)
    # Without this, what was hidden takes the place of what is there when a mask falls apart.
    affinity *= np.exp((table.seen_ns - stamp_ns) / (_FORGETTING_S * 1e9))[:, None]
    track_row, thing_row = linear_sum_assignment(affinity, maximize=True)
    is_match = affinity[track_row, thing_row] > 0
    return track_row[is_match], thing_row[is_match]


def _noise_px(table: '_Table', settings: TrackerSettings) -> np.ndarray:
    # The pixel is for masks that come from a coarser grid.
    return settings.box_noise * table.size_px + 1


@dataclass(frozen=True, eq=False)
class _Table:
    """One row a track: first those that the last frame shows, then the others, latest first.

    Parameters
    ----------
    id, first_ns, seen_ns, located
        int64 [n], id, when the track was first and last seen, how often it was located.
    class_id
        uint8 [n].
    box_xyxy
        float64 [n, 4], where it was last seen.
    edges
        float64 [n, 5, 4], motion of the edges of its box, pixels and seconds.
    place
        float64 [n, 5, 3], motion in space, metres and seconds.

    Motion is, for each coordinate by itself: value, velocity, variance of the value, covariance
    of value and velocity, variance of the velocity.
    """

    id: np.ndarray
    first_ns: np.ndarray
    seen_ns: np.ndarray
    located: np.ndarray
    class_id: np.ndarray
    box_xyxy: np.ndarray
    edges: np.ndarray
    place: np.ndarray

    @classmethod
    def begin(
        cls, class_id: np.ndarray, box_xyxy: np.ndarray, stamp_ns: int, settings: TrackerSettings
    ) -> '_Table':
        """Begin a track for each thing, with id 0 and before the first measurement."""
        count = len(class_id)
        table = cls(
            id=np.zeros(count, np.int64),
            first_ns=np.full(count, stamp_ns),
            seen_ns=np.full(count, stamp_ns),
            located=np.zeros(count, np.int64),
            class_id=class_id,
            box_xyxy=box_xyxy.astype(np.float64),
            edges=np.zeros((count, 5, 4)),
            place=np.zeros((count, 5, 3)),
        )
        table.edges[:, 0] = box_xyxy
        table.edges[:, 2] = table.place[:, 2] = _UNKNOWN
        table.edges[:, 4] = (settings.start_velocity * table.size_px[:, None]) ** 2
        table.place[:, 4] = _START_VELOCITY_M_S**2
        return table

    @property
    def size_px(self) -> np.ndarray:
        """Root of the area of each box, float64 [n], at least 4: motion is in such sizes."""
        width, height = (self.box_xyxy[:, 2:] - self.box_xyxy[:, :2]).T
        return np.maximum(np.sqrt(width * height), 4)

    def where(self, rows: np.ndarray) -> '_Table':
        return _Table(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def joined(self, other: '_Table') -> '_Table':
        return _Table(
            **{
                f.name: np.concatenate((getattr(self, f.name), getattr(other, f.name)))
                for f in fields(self)
            }
        )


def _predict(motion: np.ndarray, elapsed_s: float, acceleration: float | np.ndarray) -> np.ndarray:
    value, velocity, variance, covariance, velocity_variance = motion.swapaxes(0, 1)
    t, noise = elapsed_s, np.square(acceleration)
    return np.stack(
        (
            value + t * velocity,
            velocity,
            variance + 2 * t * covariance + t**2 * velocity_variance + t**4 / 4 * noise,
            covariance + t * velocity_variance + t**3 / 2 * noise,
            velocity_variance + t**2 * noise,
        ),
        axis=1,
    )


def _correct(motion: np.ndarray, measured: np.ndarray, noise: np.ndarray) -> np.ndarray:
    value, velocity, variance, covariance, velocity_variance = motion.swapaxes(0, 1)
    total = variance + noise**2
    off = measured - value
    return np.stack(
        (
            value + variance / total * off,
            velocity + covariance / total * off,
            variance * noise**2 / total,
            covariance * noise**2 / total,
            velocity_variance - covariance**2 / total,
        ),
        axis=1,
    )


def _look_up(table: np.ndarray, instance: np.ndarray) -> np.ndarray:
    """Return ``table[instance]`` for uint16 tables of at least 256 rows; OpenCV is faster."""
    if len(table) == 256:
        return cv2.LUT(instance.astype(np.uint8), table)
    return table[instance]
