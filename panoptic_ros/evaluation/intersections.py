"""Intersection areas of true and predicted segments: the input of every metric of this package."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from panoptic_ros.errors import DatasetError
from panoptic_ros.packing import COCO_VOID, rows_of
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.runs import Runs

NO_CLASS = -1
"""Class id of void in :class:`Intersections`, which may have more than 255 classes."""

_ID_MASK = 0xFFFFFF


@dataclass(frozen=True, eq=False)
class SegmentTable:
    """The segments of one side of a comparison, where the pixels are a map of segment ids.

    Parameters
    ----------
    id
        int64 [n], the values in the map, 0..2**24 - 1, each once. 0 is void unless it is listed.
    class_id
        Integer [n].
    is_crowd
        bool [n], groups of objects.
    stated_area
        int64 [n], the areas stated in the file; -1 where none is stated.
    """

    id: np.ndarray
    class_id: np.ndarray
    is_crowd: np.ndarray
    stated_area: np.ndarray


@dataclass(frozen=True, eq=False)
class Intersections:
    """The number of pixels each true segment shares with each predicted one, in one image.

    Parameters
    ----------
    area
        int64 [T + 1, P + 1], pixels; row 0 and column 0 are void.
    truth_class, prediction_class
        int32 [T + 1] and [P + 1], class ids, :data:`NO_CLASS` at 0.
    truth_is_crowd
        bool [T + 1].
    truth_area
        int64 [T + 1], pixels of each true segment: its row's sum, or the area its file states.
    """

    area: np.ndarray
    truth_class: np.ndarray
    prediction_class: np.ndarray
    truth_is_crowd: np.ndarray
    truth_area: np.ndarray

    @classmethod
    def of(
        cls,
        prediction: Panoptic,
        truth: Panoptic,
        crowd_ids: np.ndarray | Sequence[int] = (),
    ) -> 'Intersections':
        """Compare two panoptic maps of one size.

        Parameters
        ----------
        crowd_ids
            Instance ids in ``truth`` that are groups.

        Raises DatasetError if the sizes differ.
        """
        _check_sizes(prediction.size_wh, truth.size_wh)
        (truth_first, truth_run), (prediction_first, prediction_run) = (
            side.runs.unrolled() for side in (truth, prediction)
        )
        first = np.union1d(truth_first, prediction_first)

        def row_at(side: Panoptic, side_first: np.ndarray, run: np.ndarray) -> np.ndarray:
            return side.segment[run[np.searchsorted(side_first, first, side='right') - 1]] + 1

        is_crowd = np.zeros(len(truth.segments), bool)
        if len(crowd_ids):
            is_crowd = np.isin(truth.segments.id, np.asarray(crowd_ids, np.int64))
        width, height = truth.size_wh
        return cls._count(
            row_at(truth, truth_first, truth_run),
            row_at(prediction, prediction_first, prediction_run),
            np.diff(first, append=width * height),
            truth.segments.class_id,
            prediction.segments.class_id,
            is_crowd & truth.segments.is_thing,
        )

    @classmethod
    def of_ids(
        cls,
        prediction_ids: np.ndarray,
        prediction: SegmentTable,
        truth_ids: np.ndarray,
        truth: SegmentTable,
    ) -> 'Intersections':
        """Compare two maps of segment ids, integers [H, W], as panoptic files hold them.

        The low 24 bits are the id. The fourth byte of a pixel must be the same everywhere.

        As in the COCO panoptic tools, every listed segment counts by itself (also several of
        one stuff class), a true segment has the area its file states, and a listed true segment
        may have no pixels, but a listed predicted segment may not.

        Raises DatasetError if the sizes differ, a map has an id that its table lacks, or a
        predicted segment has no pixel.
        """
        _check_sizes(prediction_ids.shape[::-1], truth_ids.shape[::-1])
        runs = Runs.of(prediction_ids, truth_ids)
        joint = cls._count(
            _listed_rows(runs.sample(truth_ids), truth, 'truth'),
            _listed_rows(runs.sample(prediction_ids), prediction, 'prediction'),
            runs.length,
            truth.class_id,
            prediction.class_id,
            truth.is_crowd,
            truth.stated_area,
        )
        absent = prediction.id[joint.prediction_area[1:] == 0]
        if len(absent):
            raise DatasetError(
                f'the prediction lists segment ids {absent[:5].tolist()} that its PNG lacks'
            )
        return joint

    @property
    def prediction_area(self) -> np.ndarray:
        """Pixels of each predicted segment, int64 [P + 1]."""
        return self.area.sum(axis=0)

    @classmethod
    def _count(
        cls,
        truth_row: np.ndarray,
        prediction_row: np.ndarray,
        length: np.ndarray,
        truth_class: np.ndarray,
        prediction_class: np.ndarray,
        is_crowd: np.ndarray,
        stated_area: np.ndarray | None = None,
    ) -> 'Intersections':
        """Sum the run lengths by pair of segments; rows are 1 + those of the tables, 0 is void."""
        shape = (len(truth_class) + 1, len(prediction_class) + 1)
        truth_row *= shape[1]
        truth_row += prediction_row
        area = np.zeros(shape, np.int64)
        np.add.at(area.reshape(-1), truth_row, length)
        truth_area = area.sum(axis=1)
        if stated_area is not None:
            truth_area[1:] = np.where(stated_area < 0, truth_area[1:], stated_area)
        void = np.array([NO_CLASS], np.int32)
        return cls(
            area,
            np.concatenate((void, truth_class), dtype=np.int32),
            np.concatenate((void, prediction_class), dtype=np.int32),
            np.concatenate(([False], is_crowd)),
            truth_area,
        )


def _check_sizes(prediction_wh: tuple[int, int], truth_wh: tuple[int, int]) -> None:
    if prediction_wh != truth_wh:
        raise DatasetError(
            f'the prediction is {prediction_wh[0]}x{prediction_wh[1]}, the truth is '
            f'{truth_wh[0]}x{truth_wh[1]}; expected one size'
        )


def _listed_rows(ids: np.ndarray, table: SegmentTable, side: str) -> np.ndarray:
    """Return 1 + the row in the table of each run's id, 0 for void."""
    run_ids = (ids & _ID_MASK).astype(np.int32)
    rows = rows_of(run_ids, table.id.astype(np.int32))
    rows += 1
    lost = (rows == 0) & (run_ids != COCO_VOID)
    if lost.any():
        raise DatasetError(
            f'the PNG of the {side} has segment ids {np.unique(run_ids[lost])[:5].tolist()} '
            'that its JSON lacks'
        )
    return rows
