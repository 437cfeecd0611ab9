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

_AT_ONCE = 32
"""Images counted in one pass: each is so little work that numpy's calls would cost the most."""


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
        self._waiting: list[JointAreas] = []
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
        self._waiting.append(joint)
        self.images += 1
        if len(self._waiting) == _AT_ONCE:
            self._count()

    def _count(self) -> None:
        """Count the images that wait; as one image, in which only cells of its own can meet."""
        joints, self._waiting = self._waiting, []
        if not joints:
            return
        rows = np.array([len(joint.truth_class) for joint in joints])
        columns = np.array([len(joint.prediction_class) for joint in joints])
        truth_class = np.concatenate([joint.truth_class for joint in joints])
        prediction_class = np.concatenate([joint.prediction_class for joint in joints])
        is_crowd = np.concatenate([joint.truth_is_crowd for joint in joints])
        truth_area = np.concatenate([joint.truth_area for joint in joints])
        areas = np.concatenate([joint.area.reshape(-1) for joint in joints])

        # The cells that have pixels, some hundred an image, with their row and column.
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
            # For an index that is repeated, numpy keeps the last value: the last group of a class.
            image = np.repeat(np.arange(len(joints)), rows)[crowds]
            last = np.zeros((len(joints), VOID + 1), np.intp)
            last[image, truth_class[crowds]] = crowds
            is_last = np.zeros(len(truth_class), bool)
            is_last[last[last > 0]] = True
            on_crowd = same_class & is_last[row]
            excused[column[on_crowd]] += shared[on_crowd]
        wrong = 2 * excused <= prediction_area
        wrong[first_column] = False
        wrong[column_of] = False

        classes = len(self.label_set)
        self._iou_sum += np.bincount(truth_class[row_of], weights=iou, minlength=classes)
        self._tp += np.bincount(truth_class[row_of], minlength=classes)
        self._fn += np.bincount(truth_class[missed], minlength=classes)
        self._fp += np.bincount(prediction_class[wrong], minlength=classes)

    def merge(self, other: 'PanopticQuality') -> None:
        """Add the counts of another one, which must be of the same classes (ValueError)."""
        if other.label_set != self.label_set:
            raise ValueError(
                f'cannot merge figures of label set {other.label_set.name!r} into those of '
                f'{self.label_set.name!r}; both must have the same classes'
            )
        self._count()
        other._count()
        self.images += other.images
        self._iou_sum += other._iou_sum
        self._tp += other._tp
        self._fp += other._fp
        self._fn += other._fn

    def result(self) -> QualityResult:
        """Return the figures of all images so far."""
        self._count()
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
