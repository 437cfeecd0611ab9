"""The one data type everything exchanges: a panoptic map and the table of its segments."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from panoptic_ros.labels import VOID, LabelSet

NO_INSTANCE = 0
"""Instance id of pixels that belong to stuff or to nothing."""


@dataclass(frozen=True, eq=False)
class Segments:
    """One row a segment: first the stuff by class id, then the things by instance id.

    Parameters
    ----------
    id
        uint16 [n], the value in the instance map; 0 for stuff.
    class_id
        uint8 [n].
    is_thing
        bool [n].
    score
        float32 [n], confidence 0..1; 1 where nothing is known.
    area
        int32 [n], pixels.
    box_xyxy
        int32 [n, 4], pixels, x0 y0 inclusive, x1 y1 exclusive.
    track_id
        int32 [n], the id that stays with an object from frame to frame; equals ``id`` where
        nothing tracks, 0 for stuff.
    """

    id: np.ndarray
    class_id: np.ndarray
    is_thing: np.ndarray
    score: np.ndarray
    area: np.ndarray
    box_xyxy: np.ndarray
    track_id: np.ndarray

    _DTYPES: ClassVar = {
        'id': np.dtype(np.uint16),
        'class_id': np.dtype(np.uint8),
        'is_thing': np.dtype(np.bool_),
        'score': np.dtype(np.float32),
        'area': np.dtype(np.int32),
        'box_xyxy': np.dtype(np.int32),
        'track_id': np.dtype(np.int32),
    }

    def __post_init__(self) -> None:
        count = len(self.id)
        for name, dtype in self._DTYPES.items():
            column = getattr(self, name)
            shape = (count, 4) if name == 'box_xyxy' else (count,)
            if column.dtype != dtype or column.shape != shape:
                raise ValueError(
                    f'Segments.{name} is {column.dtype} {column.shape}; expected '
                    f'{dtype.name} {shape}'
                )

    def __len__(self) -> int:
        return len(self.id)

    def where(self, rows: np.ndarray) -> 'Segments':
        """Return the rows chosen by a mask or an index array."""
        return Segments(*[getattr(self, name)[rows] for name in self._DTYPES])

    @cached_property
    def row_of_id(self) -> np.ndarray:
        """Look-up table, intp [largest id + 1]: the row of the thing with that id, -1 if none."""
        rows = np.full(int(self.id.max(initial=0)) + 1, -1)
        rows[self.id[self.is_thing]] = np.flatnonzero(self.is_thing)
        return rows

    @cached_property
    def row_of_class(self) -> np.ndarray:
        """Look-up table, intp [256]: the row of the stuff of that class, -1 if none."""
        rows = np.full(256, -1)
        rows[self.class_id[~self.is_thing]] = np.flatnonzero(~self.is_thing)
        return rows

    @cached_property
    def things(self) -> 'Segments':
        """The rows that are things."""
        return self.where(np.flatnonzero(self.is_thing))


@dataclass(frozen=True, eq=False)
class Panoptic:
    """One class for every pixel, and one instance id for every pixel of a thing.

    Parameters
    ----------
    semantic
        uint8 [H, W], class id, 255 (VOID) where there is none.
    instance
        uint16 [H, W], 0 for stuff and void; an id belongs to one object of one class.
    segments
        The table of what is in the two maps.

    Construction checks shapes and dtypes. :meth:`from_maps` also checks every pixel; use it for
    maps that come from outside. :meth:`from_runs` makes the maps when they are first looked at.
    """

    semantic: np.ndarray
    instance: np.ndarray
    segments: Segments

    def __post_init__(self) -> None:
        if self.semantic.dtype != np.uint8 or self.semantic.ndim != 2:
            raise ValueError(
                f'semantic is {self.semantic.dtype} {self.semantic.shape}; expected uint8 [H, W]'
            )
        if self.instance.dtype != np.uint16 or self.instance.shape != self.semantic.shape:
            raise ValueError(
                f'instance is {self.instance.dtype} {self.instance.shape}; expected uint16 '
                f'{self.semantic.shape}'
            )

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = self.semantic.shape
        return width, height

    @cached_property
    def runs(self) -> 'Runs':
        """The two maps as runs."""
        return Runs.of(self.semantic, self.instance)

    def rows_at(self, pixel: np.ndarray) -> np.ndarray:
        """Return the row of the segment at each flat index of a pixel, intp; -1 where void."""
        ids = self.instance.ravel()[pixel]
        of_class = self.segments.row_of_class[self.semantic.ravel()[pixel]]
        return np.where(ids == NO_INSTANCE, of_class, self.segments.row_of_id[ids])

    @classmethod
    def from_maps(
        cls,
        semantic: np.ndarray,
        instance: np.ndarray,
        label_set: LabelSet,
        score_by_id: np.ndarray | None = None,
    ) -> 'Panoptic':
        """Check two maps pixel by pixel and build the segment table.

        ``score_by_id`` is float [largest instance id + 1], the score of each instance id.

        Raises ValueError if a class id is not in the label set, a thing pixel has no instance
        id, a stuff or void pixel has one, or one instance id covers two classes.
        """
        runs = _runs_of_maps(semantic, instance)
        _check_runs(runs, label_set)
        panoptic = cls(semantic, instance, _measure_runs(runs, score_by_id))
        panoptic.__dict__['runs'] = runs
        return panoptic

    @staticmethod
    def from_runs(runs: 'Runs', segments: Segments) -> 'Panoptic':
        """Return the maps that consist of some runs, with the table of what is in them."""
        return _PanopticOfRuns(runs, segments)

    def with_segments(self, segments: Segments) -> 'Panoptic':
        """Return the same maps with another table."""
        return replace(self, segments=segments)

    def with_ids(self, id_of_id: np.ndarray, segments: Segments) -> 'Panoptic':
        """Return the same maps with other instance ids, and the table of what is in them.

        ``id_of_id`` is uint16 [largest instance id + 1], the new id of each.
        """
        runs = self.runs.with_instance(id_of_id[self.runs.instance])
        changed = Panoptic.from_runs(runs, segments)
        if 'semantic' in self.__dict__:
            changed.__dict__['semantic'] = self.semantic
        return changed

    def with_track_ids(self, track_id: np.ndarray) -> 'Panoptic':
        """Return the same maps with the segments' ``track_id`` column replaced."""
        return self.with_segments(replace(self.segments, track_id=track_id))


class _PanopticOfRuns(Panoptic):
    """Maps that are made when they are first looked at: many are renumbered or not wanted."""

    def __init__(self, runs: 'Runs', segments: Segments) -> None:
        self.__dict__.update(runs=runs, segments=segments)

    @cached_property
    def semantic(self) -> np.ndarray:
        return self.runs.enlarge(self.runs.spread(self.runs.semantic))

    @cached_property
    def instance(self) -> np.ndarray:
        runs = self.runs
        instance = np.zeros((len(runs.copies), runs.width), runs.instance.dtype)
        things = np.flatnonzero(runs.instance)
        if len(things):
            # In reading order, before the first one and behind the last no pixel has an id.
            first, last = things[0], things[-1] + 1
            begin = runs.row[first] * runs.width + runs.start[first]
            ids = np.repeat(runs.instance[first:last], (runs.stop - runs.start)[first:last])
            instance.ravel()[begin : begin + len(ids)] = ids
        return runs.enlarge(instance)

    @property
    def size_wh(self) -> tuple[int, int]:
        return self.runs.width, int(self.runs.copies.sum())

    def with_segments(self, segments: Segments) -> Panoptic:
        return _PanopticOfRuns(self.runs, segments)


@dataclass(frozen=True, eq=False)
class Runs:
    """Two maps as horizontal stretches of pixels in which neither map changes.

    Maps of real scenes have some fifty times fewer runs than pixels, so what has to be counted,
    bounded or voted on is done on runs.

    Parameters
    ----------
    row, start, stop
        intp [n], a run covers the columns ``start`` to before ``stop`` of its row. Runs lie in
        reading order, without gaps.
    semantic
        uint8 [n], the class id of the run.
    instance
        unsigned or signed integer [n], the instance id of the run.
    width
        Columns of the maps.
    copies
        intp [rows], 0 or more, so many times each row stands in the maps: several times in maps
        that were enlarged from a network's grid.
    """

    row: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    semantic: np.ndarray
    instance: np.ndarray
    width: int
    copies: np.ndarray

    @classmethod
    def of(cls, semantic: np.ndarray, instance: np.ndarray) -> 'Runs':
        """Split two maps [H, W] of one shape into runs."""
        height, width = semantic.shape
        # One long row is compared faster than many short ones.
        semantic, instance = semantic.ravel(), instance.ravel()
        begins = np.empty(height * width, bool)
        np.not_equal(semantic[1:], semantic[:-1], out=begins[1:])
        begins[1:] |= instance[1:] != instance[:-1]
        begins.reshape(height, width)[:, :1] = True
        flat = np.flatnonzero(begins)
        row = flat // width
        before = row * width
        return cls(
            row=row,
            start=flat - before,
            stop=np.append(flat, semantic.size)[1:] - before,
            semantic=semantic[flat],
            instance=instance[flat],
            width=width,
            copies=np.ones(height, np.intp),
        )

    def with_instance(self, instance: np.ndarray) -> 'Runs':
        """Return the same runs with other instance ids, [n]."""
        return Runs(
            self.row, self.start, self.stop, self.semantic, instance, self.width, self.copies
        )

    def spread(self, value: np.ndarray) -> np.ndarray:
        """Return the value of each pixel's run, [rows, width], from those of the runs, [n]."""
        return np.repeat(value, self.stop - self.start).reshape(len(self.copies), self.width)

    def enlarge(self, rows: np.ndarray) -> np.ndarray:
        """Return rows [rows, ...] as often as they stand in the maps, [H, ...]."""
        return rows if (self.copies == 1).all() else rows.repeat(self.copies, axis=0)


def ranges(begin: int | np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return ``count`` whole numbers from ``begin`` on, for each of them, one after the other."""
    end = np.cumsum(count)
    return np.arange(end[-1] if len(end) else 0) + np.repeat(begin - (end - count), count)


def bound_runs(
    key: np.ndarray, count: int, box_xyxy: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Sum the areas and join the boxes of the runs that have one key.

    Parameters
    ----------
    key
        integer [n], 0..count - 1, what each run belongs to.
    count
        Number of keys.
    box_xyxy
        Four integer [n], the rectangle each run covers: x0 y0 inclusive, x1 y1 exclusive.

    Returns
    -------
    area
        int32 [count], 0 for a key that no run has.
    box_xyxy
        int32 [count, 4], meaningless where the area is 0.
    """
    x0, y0, x1, y1 = box_xyxy
    area = np.bincount(key, weights=(x1 - x0) * (y1 - y0), minlength=count).astype(np.int32)
    box = np.empty((4, count), np.int32)
    box[:2] = np.iinfo(np.int32).max
    box[2:] = 0
    np.minimum.at(box[0], key, x0.astype(np.int32))
    np.minimum.at(box[1], key, y0.astype(np.int32))
    np.maximum.at(box[2], key, x1.astype(np.int32))
    np.maximum.at(box[3], key, y1.astype(np.int32))
    return area, np.ascontiguousarray(box.T)


def check_maps(semantic: np.ndarray, instance: np.ndarray, label_set: LabelSet) -> None:
    """Raise ValueError unless the two maps keep the promises of :class:`Panoptic`."""
    _check_runs(_runs_of_maps(semantic, instance), label_set)


def measure_segments(
    semantic: np.ndarray, instance: np.ndarray, score_by_id: np.ndarray | None = None
) -> Segments:
    """Build the segment table of two maps that already agree.

    ``score_by_id`` is float [largest instance id + 1], the score of each instance id.
    """
    return _measure_runs(_runs_of_maps(semantic, instance), score_by_id)


def _runs_of_maps(semantic: np.ndarray, instance: np.ndarray) -> Runs:
    if semantic.shape != instance.shape:
        raise ValueError(
            f'semantic is {semantic.shape}, instance is {instance.shape}; expected one shape'
        )
    return Runs.of(semantic, instance)


def _check_runs(runs: Runs, label_set: LabelSet) -> None:
    present = np.unique(runs.semantic)
    unknown = present[(present >= len(label_set)) & (present != VOID)]
    if len(unknown):
        raise ValueError(
            f'semantic has class ids {unknown.tolist()}; label set {label_set.name!r} has '
            f'0..{len(label_set) - 1} and void is {VOID}'
        )
    wrong = np.flatnonzero(label_set.is_thing[runs.semantic] != (runs.instance > 0))
    if len(wrong):
        first = wrong[0]
        pixels = int((runs.stop - runs.start)[wrong].sum())
        raise ValueError(
            f'pixel x={runs.start[first]} y={runs.row[first]} has class {runs.semantic[first]} '
            f'and instance {runs.instance[first]}; things need an instance above 0, stuff and '
            f'void need 0 ({pixels} pixels break this)'
        )
    class_of_id = np.zeros(int(runs.instance.max(initial=0)) + 1, np.uint8)
    class_of_id[runs.instance] = runs.semantic
    split = (class_of_id[runs.instance] != runs.semantic) & (runs.instance > 0)
    if split.any():
        raise ValueError(
            f'instance id {runs.instance[split][0]} covers more than one class; an id belongs '
            'to one object of one class'
        )


def _measure_runs(runs: Runs, score_by_id: np.ndarray | None) -> Segments:
    # One key a run: the class id, or 256 + the instance id; a key's class stands at its last run.
    key = np.where(runs.instance > 0, runs.instance.astype(np.intp) + 256, runs.semantic)
    count = int(key.max(initial=0)) + 1
    area, box_xyxy = bound_runs(key, count, (runs.start, runs.row, runs.stop, runs.row + 1))
    class_of_key = np.zeros(count, np.uint8)
    class_of_key[key] = runs.semantic
    keys = np.flatnonzero(area)
    keys = keys[keys != VOID]
    is_thing = keys > 256
    ids = np.where(is_thing, keys - 256, NO_INSTANCE).astype(np.uint16)
    score = np.ones(len(keys), np.float32)
    if score_by_id is not None:
        score[is_thing] = score_by_id[ids[is_thing]]
    return Segments(
        id=ids,
        class_id=class_of_key[keys],
        is_thing=is_thing,
        score=score,
        area=area[keys],
        box_xyxy=box_xyxy[keys],
        track_id=ids.astype(np.int32),
    )
