"""Ids that objects keep from frame to frame, from the masks alone.

The things of a frame are assigned to the tracks of earlier frames (optimal assignment):

* where the last mask of a track, moved to its predicted position, overlaps the mask of a thing;
* otherwise where the box of a thing is likely under the motion of the track: small or fast things
  whose masks do not overlap, and things that were hidden for a while.

Assigning detections to boxes predicted by Kalman filters follows SORT (Bewley et al., arXiv
1602.00763). The filter is in :mod:`.motion`, the assignment in :mod:`.association`.
"""

from dataclasses import dataclass, replace

import numpy as np

from panoptic_ros.panoptic import Panoptic
from panoptic_ros.scene.association import Masks, match_things
from panoptic_ros.scene.motion import (
    ACCELERATION_M_S2,
    EDGES,
    MAX_JUMP2,
    PLACE,
    START_PLACE,
    TRACK,
    Things,
    TrackerSettings,
    begin_tracks,
    box_noise_px,
    correct,
    predict,
)

MAX_ID = 65535
"""Largest track id, the limit of an instance map; after it, free ids are reused."""

CLOCK_JUMP_NS = 1_000_000_000
"""Stamps that go back by more mean that time started over, as when a recording is repeated; less
is a frame out of order."""

MAX_PERIOD_S = 60.0
"""Tracks do not continue over a longer pause between two frames."""

_GRID_CELLS = 240  # cells of the grid for masks along the shorter side of the image


@dataclass(frozen=True, eq=False)
class Tracks:
    """The motion of the things of a frame; rows as in ``panoptic.segments.things``.

    Parameters
    ----------
    track_id
        int32 [n].
    age_s
        float32 [n], seconds since the track was first seen.
    velocity_px_s
        float32 [n, 2], velocity of the centre of the box, pixels per second to the right and
        down; 0 for a thing that was seen once.
    velocity_m_s
        float32 [n, 3], metres per second in the frame of the positions given to
        :meth:`Tracker.locate`; NaN for a thing with fewer than two positions.
    velocity_deviation_m_s
        float32 [n, 3], standard deviations of ``velocity_m_s``.
    located
        int32 [n], number of positions behind the velocity.
    """

    track_id: np.ndarray
    age_s: np.ndarray
    velocity_px_s: np.ndarray
    velocity_m_s: np.ndarray
    velocity_deviation_m_s: np.ndarray
    located: np.ndarray

    @property
    def supported_velocity_m_s(self) -> np.ndarray:
        """``velocity_m_s`` where it is significant, else NaN, float32 [n, 3].

        It is significant with three or more positions and a speed above twice the standard
        deviation of the velocity along its own direction.
        """
        square = np.square(self.velocity_m_s)
        speed2 = square.sum(1)
        # speed > 2 deviations, both sides multiplied by the speed and squared; False for NaN.
        variance = (square * np.square(self.velocity_deviation_m_s)).sum(1)
        is_supported = (self.located > 2) & (speed2 * speed2 > 4 * variance)
        return np.where(is_supported[:, None], self.velocity_m_s, np.float32(np.nan))


class Tracker:
    """Assign the ids of tracks to the things of each frame.

    Every thing that continues no track begins one, because every pixel of a thing needs an id. A
    track ends when it was out of sight for longer than ``max_gap_s``, or its predicted box is
    outside the image.

    Parameters
    ----------
    settings
        The attribute of the same name may be replaced at any time, for the next frame.

    Not thread-safe.
    """

    def __init__(self, settings: TrackerSettings | None = None) -> None:
        self.settings = settings or TrackerSettings()
        self._last_id = 0
        self.reset()

    def reset(self) -> None:
        """Forget all tracks. Numbering continues, so that new ids differ from old ones."""
        self._stamp_ns: int | None = None
        self._size_wh = (0, 0)
        self._table = np.zeros(0, TRACK)
        self._masks = Masks.of(np.zeros((1, 1), np.uint16), np.zeros(0, np.uint16))
        self._row_of_thing = np.zeros(0, np.intp)

    def update(self, panoptic: Panoptic, stamp_ns: int) -> Panoptic:
        """Return the map with the ids of tracks in place of the ids of the frame.

        Maps that are older than those before by more than :data:`CLOCK_JUMP_NS`, or of another
        size, start afresh; older ones within it count as taken at the same time.

        Parameters
        ----------
        panoptic
            One frame; the ids of its things are arbitrary.
        stamp_ns
            Stamp of the frame, nanoseconds.
        """
        size_wh = panoptic.size_wh
        last_ns = self._stamp_ns
        if last_ns is None or stamp_ns < last_ns - CLOCK_JUMP_NS or size_wh != self._size_wh:
            self.reset()
        else:
            stamp_ns = max(stamp_ns, last_ns)
            self._advance(last_ns, stamp_ns)
        self._stamp_ns, self._size_wh = stamp_ns, size_wh
        segments = panoptic.segments
        rows = np.flatnonzero(segments.is_thing)
        step = max(1, round(min(size_wh) / _GRID_CELLS))
        owner_of_row = np.full(len(segments), -1)
        owner_of_row[rows] = np.arange(len(rows))
        masks = Masks.of_runs(panoptic.runs, panoptic.of_run(owner_of_row, -1), step)
        # In reading order, so that the result does not depend on the ids of the frame.
        order = np.lexsort((*segments.box_xyxy[rows].T, masks.first_cell(len(rows))))
        masks, rows = masks.where(order, len(rows)), rows[order]
        things = Things(segments.class_id[rows], segments.box_xyxy[rows])
        pairs = match_things(self._table, self._masks, things, masks, stamp_ns, self.settings)
        self._continue(stamp_ns, things, masks, *pairs)
        return self._renumber(panoptic, segments.id[rows])

    def locate(self, position_m: np.ndarray, noise_m: float | np.ndarray = 0.1) -> None:
        """Set the positions of the things of the last frame, for :attr:`Tracks.velocity_m_s`.

        A position that is unlikely under the motion so far (a mask that jumped to another object,
        another source of positions) restarts the motion of the track in space.

        Parameters
        ----------
        position_m
            float [n, 3], rows as in the things that :meth:`update` returned; NaN where unknown.
            The frame of reference is free, but must not change.
        noise_m
            Standard deviation of the positions in metres, above 0; a number or float [n].

        Raises ValueError for another shape.
        """
        rows = self._row_of_thing
        if np.shape(position_m) != (len(rows), 3):
            raise ValueError(
                f'position_m has shape {np.shape(position_m)}; expected {(len(rows), 3)}, a row '
                'for each thing of the last frame'
            )
        known = np.flatnonzero(np.isfinite(position_m).all(axis=1))
        noise = np.broadcast_to(noise_m, len(rows))[known, None]
        rows = rows[known]
        position_m = np.asarray(position_m)[known]
        place = self._table['motion'][rows, :, EDGES:]
        off2 = np.square(position_m - place[:, 0]) / (place[:, 2] + np.square(noise))
        jumped = off2.sum(1) > MAX_JUMP2
        place[jumped] = START_PLACE[:, None]
        self._table['located'][rows[jumped]] = 0
        correct(place, position_m, noise)
        self._table['motion'][rows, :, EDGES:] = place
        self._table['located'][rows] += 1

    @property
    def tracks(self) -> Tracks:
        """The motion of the things of the last frame."""
        table = self._table.take(self._row_of_thing)
        velocity = table['motion'][:, 1]
        velocity_m_s = np.where(table['located'][:, None] > 1, velocity[:, EDGES:], np.nan)
        deviation_m_s = np.sqrt(table['motion'][:, 4, EDGES:])
        left_top, right_bottom = velocity[:, :2], velocity[:, 2:EDGES]
        return Tracks(
            track_id=table['id'].astype(np.int32),
            age_s=((table['seen_ns'] - table['first_ns']) / 1e9).astype(np.float32),
            velocity_px_s=((left_top + right_bottom) / 2).astype(np.float32),
            velocity_m_s=velocity_m_s.astype(np.float32),
            velocity_deviation_m_s=deviation_m_s.astype(np.float32),
            located=table['located'].astype(np.int32),
        )

    def _advance(self, last_ns: int, stamp_ns: int) -> None:
        """Predict the tracks to the present, and drop those that have ended."""
        table, elapsed_s = self._table, (stamp_ns - last_ns) / 1e9
        acceleration = np.full((len(table), EDGES + PLACE), ACCELERATION_M_S2)
        acceleration[:, :EDGES] = (self.settings.acceleration * table['size_px'])[:, None]
        predict(table['motion'], elapsed_s, acceleration)
        left, top, right, bottom = table['motion'][:, 0, :EDGES].T
        width, height = self._size_wh
        is_inside = (right > 0) & (bottom > 0) & (left < width) & (top < height)
        is_recent = stamp_ns - table['seen_ns'] <= self.settings.max_gap_s * 1e9
        if elapsed_s <= MAX_PERIOD_S:
            # Between consecutive frames nothing was out of sight, however slow the camera is.
            is_recent |= table['seen_ns'] == last_ns
        self._keep(np.flatnonzero(is_inside & is_recent))

    def _keep(self, rows: np.ndarray) -> None:
        if len(rows) < len(self._table):
            self._masks = self._masks.where(rows, len(self._table))
            self._table = self._table.take(rows)

    def _continue(
        self,
        stamp_ns: int,
        things: Things,
        masks: Masks,
        track_row: np.ndarray,
        thing_row: np.ndarray,
    ) -> None:
        """Update the table: the things of this frame first, then the tracks that are not seen."""
        before = self._table
        now = begin_tracks(things, stamp_ns, self.settings)
        continued = before.take(track_row)
        for name in ('id', 'first_ns', 'located', 'motion'):
            now[name][thing_row] = continued[name]
        noise_px = box_noise_px(now, self.settings)[:, None]
        correct(now['motion'][:, :, :EDGES], now['box_xyxy'], noise_px)

        is_lost = np.ones(len(before), bool)
        is_lost[track_row] = False
        room = min(self.settings.max_lost, MAX_ID - len(now))
        self._keep(np.flatnonzero(is_lost)[:room])
        is_new = np.flatnonzero(now['id'] == 0)
        if len(is_new):
            now['id'][is_new] = self._new_ids(
                len(is_new), np.concatenate((now['id'], self._table['id']))
            )
        # As bytes, which numpy joins faster than structured arrays.
        rows = [table.view(f'V{TRACK.itemsize}') for table in (now, self._table)]
        self._table = np.concatenate(rows).view(TRACK)
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
        # Stuff, whose id is 0, stays first and in its order.
        order = np.argsort(id_of_row, kind='stable')
        ids = id_of_row[order]
        table = replace(segments.where(order), id=ids, track_id=ids.astype(np.int32))
        return panoptic.with_segments(table, order)
