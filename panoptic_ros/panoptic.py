"""The data type that all parts exchange: a panoptic map and the table of its segments."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.runs import Runs

NO_INSTANCE = 0
"""Instance id of stuff and void pixels."""


@dataclass(frozen=True, eq=False)
class Segments:
    """A table with one row per segment: stuff by class id, then things by instance id.

    Parameters
    ----------
    id
        uint16 [n], the value in the instance map; 0 for stuff.
    class_id
        uint8 [n].
    is_thing
        bool [n].
    score
        float32 [n], confidence 0..1; 1 where it is unknown.
    area
        int32 [n], pixels.
    box_xyxy
        int32 [n, 4], pixels, x0 y0 inclusive, x1 y1 exclusive.
    track_id
        int32 [n], the id of the object over all frames; equals ``id`` without a tracker, 0 for
        stuff.
    """

    id: np.ndarray
    class_id: np.ndarray
    is_thing: np.ndarray
    score: np.ndarray
    area: np.ndarray
    box_xyxy: np.ndarray
    track_id: np.ndarray

    _DTYPES: ClassVar[dict[str, np.dtype]] = {
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
        """Return the rows selected by a mask or an index array."""
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
    """A panoptic map: each pixel belongs to one segment or is void.

    Parameters
    ----------
    runs
        The runs of the map.
    segment
        intp [runs], the row of ``segments`` that each run belongs to, -1 where void.
    segments
        The table of the segments.

    Raises ValueError if the columns do not fit together, or two rows of the table are the same
    segment.
    """

    runs: Runs
    segment: np.ndarray
    segments: Segments

    def __post_init__(self) -> None:
        rows = len(self.segments)
        if self.segment.shape != (len(self.runs),) or self.segment.dtype != np.intp:
            raise ValueError(
                f'segment is {self.segment.dtype} {self.segment.shape}; expected intp '
                f'({len(self.runs)},), one a run'
            )
        if not -1 <= self.segment.min(initial=-1) <= self.segment.max(initial=-1) < rows:
            raise ValueError(
                f'segment runs from {self.segment.min()} to {self.segment.max()}; expected -1 '
                f'(void) to {rows - 1}, the rows of the table'
            )
        segments = self.segments
        if (segments.is_thing != (segments.id > 0)).any():
            raise ValueError('expected ids above 0 for things and 0 for stuff')
        key = np.where(segments.is_thing, segments.id.astype(np.intp) + 256, segments.class_id)
        if len(np.unique(key)) != rows:
            raise ValueError('expected one row for each instance id and each stuff class')

    @classmethod
    def from_maps(
        cls,
        semantic: np.ndarray,
        instance: np.ndarray,
        label_set: LabelSet,
        score_by_id: np.ndarray | None = None,
    ) -> 'Panoptic':
        """Build a panoptic map from a class and an instance for each pixel.

        Parameters
        ----------
        semantic
            uint8 [H, W], class ids, VOID (255) where there is none.
        instance
            uint16 [H, W], 0 for stuff and void.
        label_set
            Tells which classes are things.
        score_by_id
            float [largest instance id + 1], the score of each instance id; 1 if None.

        Raises ValueError if a shape or dtype differs, a class id is not in the label set, a thing
        pixel has no instance id, a stuff or void pixel has one, or an instance has two classes.
        """
        if semantic.dtype != np.uint8 or semantic.ndim != 2:
            raise ValueError(
                f'semantic is {semantic.dtype} {semantic.shape}; expected uint8 [H, W]'
            )
        if instance.dtype != np.uint16 or instance.shape != semantic.shape:
            raise ValueError(
                f'instance is {instance.dtype} {instance.shape}; expected uint16 {semantic.shape}'
            )
        runs = Runs.of(semantic, instance)
        class_id, instance_id = runs.sample(semantic), runs.sample(instance)
        _check_runs(runs, class_id, instance_id, label_set)
        return cls.from_runs(runs, class_id, instance_id, score_by_id)

    @classmethod
    def from_runs(
        cls,
        runs: Runs,
        class_id: np.ndarray,
        instance_id: np.ndarray,
        score_by_id: np.ndarray | None = None,
    ) -> 'Panoptic':
        """Build a panoptic map from the class and the instance of each run.

        Parameters
        ----------
        runs
            The runs of the map.
        class_id
            uint8 [runs], VOID where there is none.
        instance_id
            uint16 [runs], 0 for stuff and void; an id has one class.
        score_by_id
            As in :meth:`from_maps`.
        """
        # A key is a stuff class, VOID, or 256 + the instance id.
        key = np.where(instance_id > 0, instance_id.astype(np.intp) + 256, class_id)
        count = int(key.max(initial=VOID)) + 1
        area, box_xyxy = runs.measure(key, count)
        class_of_key = np.zeros(count, np.uint8)
        class_of_key[key] = class_id
        area[VOID] = 0
        keys = np.flatnonzero(area)
        is_thing = keys > 256
        ids = np.where(is_thing, keys - 256, NO_INSTANCE).astype(np.uint16)
        score = np.ones(len(keys), np.float32)
        if score_by_id is not None:
            score[is_thing] = score_by_id[ids[is_thing]]
        row_of_key = np.full(count, -1, np.intp)
        row_of_key[keys] = np.arange(len(keys))
        segments = Segments(
            id=ids,
            class_id=class_of_key[keys],
            is_thing=is_thing,
            score=score,
            area=area[keys],
            box_xyxy=box_xyxy[keys],
            track_id=ids.astype(np.int32),
        )
        return cls(runs, row_of_key[key], segments)

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.runs.size_wh

    @cached_property
    def semantic(self) -> np.ndarray:
        """Class id of each pixel, uint8 [H, W], VOID (255) where there is none."""
        return self.paint(self.segments.class_id, VOID)

    @cached_property
    def instance(self) -> np.ndarray:
        """Instance id of each pixel, uint16 [H, W], 0 for stuff and void."""
        return self.paint(self.segments.id, NO_INSTANCE)

    def of_run(self, column: np.ndarray, void: int) -> np.ndarray:
        """Return the value of each run's segment, [runs], from a column of the table, [n].

        ``void`` is the value of void runs.
        """
        return np.append(column, column.dtype.type(void))[self.segment]

    def paint(self, column: np.ndarray, void: int) -> np.ndarray:
        """Return the value of each pixel's segment, [H, W], as :meth:`of_run` does for runs."""
        return self.runs.expand(self.of_run(column, void))

    def rows_at(self, pixel: np.ndarray) -> np.ndarray:
        """Return the row of the segment at each flat index of a pixel, intp; -1 where void."""
        ids = self.instance.ravel()[pixel]
        of_class = self.segments.row_of_class[self.semantic.ravel()[pixel]]
        return np.where(ids == NO_INSTANCE, of_class, self.segments.row_of_id[ids])

    def with_segments(self, segments: Segments, order: np.ndarray) -> 'Panoptic':
        """Return the same map with another table.

        ``order`` is intp [n]: row k of ``segments`` describes what was row ``order[k]``.
        """
        row_of_row = np.full(len(self.segments) + 1, -1, np.intp)
        row_of_row[order] = np.arange(len(order))
        return Panoptic(self.runs, row_of_row[self.segment], segments)

    def with_track_ids(self, track_id: np.ndarray) -> 'Panoptic':
        """Return the same map with the ``track_id`` column of the table replaced."""
        return replace(self, segments=replace(self.segments, track_id=track_id))


def check_maps(semantic: np.ndarray, instance: np.ndarray, label_set: LabelSet) -> None:
    """Raise ValueError unless two maps are valid, see :meth:`Panoptic.from_maps`."""
    Panoptic.from_maps(semantic, instance, label_set)


def measure_segments(
    semantic: np.ndarray, instance: np.ndarray, score_by_id: np.ndarray | None = None
) -> Segments:
    """Build the segment table of two maps that are valid.

    The parameters are those of :meth:`Panoptic.from_maps`.
    """
    runs = Runs.of(semantic, instance)
    values = runs.sample(semantic), runs.sample(instance)
    return Panoptic.from_runs(runs, *values, score_by_id).segments


def _check_runs(
    runs: Runs, class_id: np.ndarray, instance_id: np.ndarray, label_set: LabelSet
) -> None:
    present = np.unique(class_id)
    unknown = present[(present >= len(label_set)) & (present != VOID)]
    if len(unknown):
        raise ValueError(
            f'semantic has class ids {unknown.tolist()}; label set {label_set.name!r} has '
            f'0..{len(label_set) - 1} and void is {VOID}'
        )
    wrong = np.flatnonzero(label_set.is_thing[class_id] != (instance_id > 0))
    if len(wrong):
        first = wrong[0]
        pixels = int(runs.length[wrong].sum())
        raise ValueError(
            f'pixel x={runs.start[first]} y={runs.row[first]} has class {class_id[first]} '
            f'and instance {instance_id[first]}; things need an instance above 0, stuff and '
            f'void need 0 ({pixels} pixels break this)'
        )
    class_of_id = np.zeros(int(instance_id.max(initial=0)) + 1, np.uint8)
    class_of_id[instance_id] = class_id
    split = (class_of_id[instance_id] != class_id) & (instance_id > 0)
    if split.any():
        raise ValueError(
            f'instance id {instance_id[split][0]} covers more than one class; an id belongs '
            'to one object of one class'
        )
