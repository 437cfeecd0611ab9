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

    Parameters
    ----------
    classes
        The classes of predictions and truth: a label set, or a list of any length.
    """

    def __init__(self, classes: Classes) -> None:
        self.classes = classes
        self.images = 0
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
        self.images += 1
        truth_class, prediction_class = image.truth_class, image.prediction_class
        area, prediction_area = image.area, image.prediction_area
        excused = area[0].copy()  # pixels of each predicted segment on void
        same_class = (truth_class[:, None] == prediction_class) & (area > 0)
        same_class[0] = False
        row, column = np.nonzero(same_class & ~image.truth_is_crowd[:, None])
        shared = area[row, column]
        iou = shared / (image.truth_area[row] + prediction_area[column] - shared - excused[column])
        is_match = iou > 0.5
        row, column, iou = row[is_match], column[is_match], iou[is_match]

        missed = ~image.truth_is_crowd
        missed[0] = False
        missed[row] = False
        crowds = np.flatnonzero(image.truth_is_crowd)
        if len(crowds):
            # numpy keeps the last value of a repeated index: the last group of a class.
            crowd_of_class = np.zeros(len(self.classes), np.intp)
            crowd_of_class[truth_class[crowds]] = crowds
            crowd = crowd_of_class[prediction_class]
            excused += np.where(crowd > 0, area[crowd, np.arange(len(crowd))], 0)
        wrong = 2 * excused <= prediction_area
        wrong[0] = False
        wrong[column] = False

        count = len(self.classes)
        self._iou_sum += np.bincount(truth_class[row], weights=iou, minlength=count)
        self._tp += np.bincount(truth_class[row], minlength=count)
        self._fn += np.bincount(truth_class[missed], minlength=count)
        self._fp += np.bincount(prediction_class[wrong], minlength=count)

    def result(self) -> QualityResult:
        """Return the result over all images so far."""
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
