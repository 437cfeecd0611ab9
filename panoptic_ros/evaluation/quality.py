"""Panoptic Quality, as the COCO panoptic tools define it.

Kirillov et al., Panoptic Segmentation, CVPR 2019. A true and a predicted segment of one class
match if their IoU is above one half, so that each has at most one match. For each class, ``SQ``
is the mean IoU of the matched pairs, ``RQ = TP / (TP + FP / 2 + FN / 2)`` and ``PQ = SQ * RQ``. A
summary value is the mean over the classes that occur. Void pixels of the truth are excluded from
the union. Groups (``iscrowd``) are neither matched nor missed. A predicted segment of which more
than half lies on void or on a group of its class is not a false positive. Where an image has
several groups of a class, the last one counts, as in the COCO panoptic tools.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from panoptic_ros.evaluation.classes import Classes
from panoptic_ros.evaluation.intersections import Intersections
from panoptic_ros.panoptic import Panoptic

_BATCH = 32
"""Images counted in one pass, because the overhead of numpy calls exceeds the work per image."""


@dataclass(frozen=True)
class ClassQuality:
    """PQ, SQ and RQ of one class in percent, and the counts behind them."""

    name: str
    is_thing: bool
    PQ: float
    SQ: float
    RQ: float
    tp: int
    fp: int
    fn: int

    @property
    def occurs(self) -> bool:
        """Whether any image has a true or a predicted segment of the class."""
        return self.tp + self.fp + self.fn > 0


@dataclass(frozen=True)
class QualityResult:
    """The official summary in percent; NaN where no class of the group occurs.

    ``per_class`` has every class in order, including those that do not occur.
    """

    PQ: float
    SQ: float
    RQ: float
    PQ_things: float
    SQ_things: float
    RQ_things: float
    PQ_stuff: float
    SQ_stuff: float
    RQ_stuff: float
    per_class: tuple[ClassQuality, ...]
    images: int


class PanopticQuality:
    """Panoptic Quality of a stream of images.

    Instances can be pickled and merged, so processes can share the work.

    Parameters
    ----------
    classes
        The classes of predictions and truth: a label set, or a list of any length.
    """

    def __init__(self, classes: Classes) -> None:
        self.classes = classes
        self.images = 0
        self._waiting: list[Intersections] = []
        self._iou_sum = np.zeros(len(classes))
        self._tp = np.zeros(len(classes), np.int64)
        self._fp = np.zeros(len(classes), np.int64)
        self._fn = np.zeros(len(classes), np.int64)

    def update(
        self,
        prediction: Panoptic,
        truth: Panoptic,
        crowd_ids: np.ndarray | Sequence[int] = (),
    ) -> None:
        """Count one image.

        Parameters
        ----------
        prediction, truth
            Maps of one size.
        crowd_ids
            Instance ids in ``truth`` that are groups.

        Raises DatasetError if the sizes differ.
        """
        self.add(Intersections.of(prediction, truth, crowd_ids))

    def add(self, image: Intersections) -> None:
        """Count one image by its intersections."""
        self._waiting.append(image)
        self.images += 1
        if len(self._waiting) == _BATCH:
            self._count()

    def _count(self) -> None:
        """Count the waiting images in one pass over their concatenated tables."""
        images, self._waiting = self._waiting, []
        if not images:
            return
        rows = np.array([len(image.truth_class) for image in images])
        columns = np.array([len(image.prediction_class) for image in images])
        truth_class = np.concatenate([image.truth_class for image in images])
        prediction_class = np.concatenate([image.prediction_class for image in images])
        is_crowd = np.concatenate([image.truth_is_crowd for image in images])
        truth_area = np.concatenate([image.truth_area for image in images])
        areas = np.concatenate([image.area.reshape(-1) for image in images])

        # The pairs of segments that share pixels, about a hundred in an image, and their rows and
        # columns in the concatenated tables.
        width = np.repeat(columns, rows)
        start = np.cumsum(width) - width
        first_column = np.cumsum(columns) - columns
        cell = np.flatnonzero(areas != 0)
        shared = areas[cell]
        row = np.searchsorted(start, cell, 'right') - 1
        column = cell + (np.repeat(first_column, rows) - start)[row]
        void_row = np.zeros(len(truth_class), bool)
        void_row[np.cumsum(rows) - rows] = True
        on_void = void_row[row]
        prediction_area = np.zeros(len(prediction_class), np.int64)
        np.add.at(prediction_area, column, shared)
        excused = np.zeros_like(prediction_area)
        excused[column[on_void]] = shared[on_void]

        same_class = (truth_class[row] == prediction_class[column]) & ~on_void
        may_match = np.flatnonzero(same_class & ~is_crowd[row])
        row_of, column_of, both = row[may_match], column[may_match], shared[may_match]
        iou = both / (truth_area[row_of] + prediction_area[column_of] - both - excused[column_of])
        matched = iou > 0.5
        row_of, column_of, iou = row_of[matched], column_of[matched], iou[matched]

        missed = ~(is_crowd | void_row)
        missed[row_of] = False

        crowds = np.flatnonzero(is_crowd)
        if len(crowds):
            # numpy keeps the last value of a repeated index: the last group of a class.
            number = np.repeat(np.arange(len(images)), rows)[crowds]
            last = np.zeros((len(images), len(self.classes)), np.intp)
            last[number, truth_class[crowds]] = crowds
            is_last = np.zeros(len(truth_class), bool)
            is_last[last[last > 0]] = True
            on_crowd = same_class & is_last[row]
            excused[column[on_crowd]] += shared[on_crowd]
        wrong = 2 * excused <= prediction_area
        wrong[first_column] = False
        wrong[column_of] = False

        count = len(self.classes)
        self._iou_sum += np.bincount(truth_class[row_of], weights=iou, minlength=count)
        self._tp += np.bincount(truth_class[row_of], minlength=count)
        self._fn += np.bincount(truth_class[missed], minlength=count)
        self._fp += np.bincount(prediction_class[wrong], minlength=count)

    def merge(self, other: 'PanopticQuality') -> None:
        """Add the counts of another instance; raises ValueError if its classes differ."""
        if self.classes != other.classes:
            raise ValueError(
                f'cannot merge results of classes {other.classes.name!r} into those of '
                f'{self.classes.name!r}; both must have the same classes'
            )
        self._count()
        other._count()
        self.images += other.images
        self._iou_sum += other._iou_sum
        self._tp += other._tp
        self._fp += other._fp
        self._fn += other._fn

    def result(self) -> QualityResult:
        """Return the result over all images so far."""
        self._count()
        weight = self._tp + 0.5 * self._fp + 0.5 * self._fn
        occurs = weight > 0
        weight = np.where(occurs, weight, 1)
        pq = 100 * self._iou_sum / weight
        sq = 100 * self._iou_sum / np.where(self._tp > 0, self._tp, 1)
        rq = 100 * self._tp / weight
        is_thing = np.array([c.is_thing for c in self.classes.classes], bool)

        def mean(values: np.ndarray, group: np.ndarray) -> float:
            chosen = values[occurs & group]
            return float(chosen.mean()) if len(chosen) else float('nan')

        summary = {
            name + suffix: mean(values, group)
            for suffix, group in (
                ('', np.ones_like(is_thing)),
                ('_things', is_thing),
                ('_stuff', ~is_thing),
            )
            for name, values in (('PQ', pq), ('SQ', sq), ('RQ', rq))
        }
        per_class = tuple(
            ClassQuality(c.name, c.is_thing, *row)
            for c, *row in zip(
                self.classes.classes,
                pq.tolist(),
                sq.tolist(),
                rq.tolist(),
                self._tp.tolist(),
                self._fp.tolist(),
                self._fn.tolist(),
                strict=True,
            )
        )
        return QualityResult(**summary, per_class=per_class, images=self.images)
