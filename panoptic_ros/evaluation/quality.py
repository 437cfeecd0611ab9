"""Panoptic Quality, as the COCO panoptic tools define it.

Kirillov et al., Panoptic Segmentation, CVPR 2019. A true and a predicted segment of one class
match if their IoU is above one half; at most one partner can be. Then, for each class,
``SQ`` is the mean IoU of the matched pairs, ``RQ = TP / (TP + FP / 2 + FN / 2)`` and
``PQ = SQ * RQ``; a table's figure is the mean over the classes that occur. Void pixels of the
truth are taken out of the union; groups (``iscrowd``) are neither matched nor missed; a
predicted segment that lies for more than half on void and its class's group is not counted as
wrong. Where one image has several groups of a class, the last one counts, as in the tools.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from panoptic_ros.evaluation.joint import JointAreas
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import Panoptic


@dataclass(frozen=True)
class ClassQuality:
    """The figures of one class: PQ, SQ, RQ in percent, and the counts they come from."""

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
    """The official table, in percent; NaN where no class of the group occurs.

    ``per_class`` has every class of the label set in order, also those that do not occur.
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
    label_set
        The classes of both the predictions and the truth.
    """

    def __init__(self, label_set: LabelSet) -> None:
        self.label_set = label_set
        self.images = 0
        self._iou_sum = np.zeros(len(label_set))
        self._tp = np.zeros(len(label_set), np.int64)
        self._fp = np.zeros(len(label_set), np.int64)
        self._fn = np.zeros(len(label_set), np.int64)

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
        self.add(JointAreas.of(prediction, truth, crowd_ids))

    def add(self, joint: JointAreas) -> None:
        """Count one image whose joint areas are known."""
        truth_class, prediction_class = joint.truth_class, joint.prediction_class
        prediction_area = joint.prediction_area
        # Pairs that share pixels and a class: candidates, some ten of them.
        may_match = (truth_class[:, None] == prediction_class) & (joint.area > 0)
        may_match[0] = False
        may_match[joint.truth_is_crowd] = False
        candidate = np.flatnonzero(may_match)
        rows, columns = np.divmod(candidate, len(prediction_class))
        shared = joint.area.take(candidate)
        union = joint.truth_area[rows] + prediction_area[columns] - shared - joint.area[0, columns]
        iou = shared / union
        matched = iou > 0.5
        rows, columns, iou = rows[matched], columns[matched], iou[matched]

        missed = ~joint.truth_is_crowd
        missed[0] = False
        missed[rows] = False

        excused = joint.area[0]
        crowds = np.flatnonzero(joint.truth_is_crowd)
        if len(crowds):
            # For an index that is repeated, numpy keeps the last value: the last group of a class.
            crowd_row = np.zeros(VOID + 1, np.intp)
            crowd_row[truth_class[crowds]] = crowds
            own_crowd = crowd_row[prediction_class]
            on_crowd = joint.area[own_crowd, np.arange(len(own_crowd))]
            excused = excused + np.where(own_crowd > 0, on_crowd, 0)
        wrong = 2 * excused <= prediction_area
        wrong[0] = False
        wrong[columns] = False

        classes = len(self.label_set)
        self._iou_sum += np.bincount(truth_class[rows], weights=iou, minlength=classes)
        self._tp += np.bincount(truth_class[rows], minlength=classes)
        self._fn += np.bincount(truth_class[missed], minlength=classes)
        self._fp += np.bincount(prediction_class[wrong], minlength=classes)
        self.images += 1

    def merge(self, other: 'PanopticQuality') -> None:
        """Add the counts of another one, which must be of the same classes (ValueError)."""
        if other.label_set != self.label_set:
            raise ValueError(
                f'cannot merge figures of label set {other.label_set.name!r} into those of '
                f'{self.label_set.name!r}; both must have the same classes'
            )
        self.images += other.images
        self._iou_sum += other._iou_sum
        self._tp += other._tp
        self._fp += other._fp
        self._fn += other._fn

    def result(self) -> QualityResult:
        """Return the figures of all images so far."""
        weight = self._tp + 0.5 * self._fp + 0.5 * self._fn
        occurs = weight > 0
        weight = np.where(occurs, weight, 1)
        pq = 100 * self._iou_sum / weight
        sq = 100 * self._iou_sum / np.where(self._tp > 0, self._tp, 1)
        rq = 100 * self._tp / weight
        is_thing = self.label_set.is_thing[: len(self.label_set)]

        def mean(values: np.ndarray, group: np.ndarray) -> float:
            chosen = values[occurs & group]
            return float(chosen.mean()) if len(chosen) else float('nan')

        figures = {
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
                self.label_set.classes,
                pq.tolist(),
                sq.tolist(),
                rq.tolist(),
                self._tp.tolist(),
                self._fp.tolist(),
                self._fn.tolist(),
                strict=True,
            )
        )
        return QualityResult(**figures, per_class=per_class, images=self.images)
