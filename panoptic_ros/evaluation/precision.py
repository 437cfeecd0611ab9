"""Average precision of the instance masks, as COCO defines it.

Lin et al., Microsoft COCO, ECCV 2014, and its evaluation code: IoU thresholds 0.50 to 0.95 in
steps of 0.05, precision read at 101 recalls, at most 100 detections of a class in an image,
groups (``iscrowd``) neither help nor hurt. Classes without a true instance do not count.

The masks of one panoptic map do not overlap. So at these thresholds a mask has one possible
partner, and the usual greedy search over detections is one pass over a matrix: only at an IoU of
exactly one half can two masks want the same partner, and then the better score has it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from panoptic_ros.evaluation.joint import JointAreas
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU from which on a detection counts as right, float64 [10]."""

_RECALLS = np.linspace(0, 1, 101)
_MAX_DETECTIONS = 100


@dataclass(frozen=True)
class ClassPrecision:
    """AP, AP50 and AP75 of one class in percent, NaN without a true instance; its instances."""

    name: str
    AP: float
    AP50: float
    AP75: float
    instances: int


@dataclass(frozen=True)
class PrecisionResult:
    """Means over the classes that have a true instance, in percent; NaN if none has."""

    AP: float
    AP50: float
    AP75: float
    per_class: tuple[ClassPrecision, ...]


class MaskPrecision:
    """Average precision of a stream of images; can be pickled and merged.

    Parameters
    ----------
    label_set
        The classes of both the predictions and the truth; only things are looked at.
    """

    def __init__(self, label_set: LabelSet) -> None:
        self.label_set = label_set
        self._instances = np.zeros(len(label_set), np.int64)
        # One entry an image: columns of its detections.
        self._class_id: list[np.ndarray] = []
        self._score: list[np.ndarray] = []
        self._right: list[np.ndarray] = []
        self._ignored: list[np.ndarray] = []

    def update(
        self,
        prediction: Panoptic,
        truth: Panoptic,
        crowd_ids: np.ndarray | Sequence[int] = (),
    ) -> None:
        """Count one image; the scores are those of ``prediction.segments``.

        Raises DatasetError if the sizes differ.
        """
        self.add(JointAreas.of(prediction, truth, crowd_ids), prediction.segments.score)

    def add(self, joint: JointAreas, segment_score: np.ndarray) -> None:
        """Count one image whose joint areas are known.

        ``segment_score`` is float32 [P], the scores of the prediction's segment table.
        """
        # Row and column 0 are void; the rest are in the order of the segment tables.
        is_thing = self.label_set.is_thing
        rows = np.flatnonzero(is_thing[joint.truth_class])
        columns = np.flatnonzero(is_thing[joint.prediction_class])
        score = segment_score[columns - 1]
        columns = columns[_best_first(joint.prediction_class[columns], score)]
        score = segment_score[columns - 1]
        class_id = joint.prediction_class[columns]

        shared = joint.area[np.ix_(rows, columns)].astype(float)
        of_one_class = joint.truth_class[rows, None] == class_id
        area = joint.prediction_area[columns]
        is_crowd = joint.truth_is_crowd[rows]
        union = np.where(is_crowd[:, None], area, joint.truth_area[rows, None] + area - shared)
        iou = np.where(of_one_class, shared / union, 0.0)
        right, ignored = _match(iou, is_crowd)

        self._instances += np.bincount(
            joint.truth_class[rows[~is_crowd]], minlength=len(self.label_set)
        )
        self._class_id.append(class_id)
        self._score.append(score)
        self._right.append(right)
        self._ignored.append(ignored)

    def merge(self, other: 'MaskPrecision') -> None:
        """Add the detections of another one, which must be of the same classes (ValueError)."""
        if other.label_set != self.label_set:
            raise ValueError(
                f'cannot merge figures of label set {other.label_set.name!r} into those of '
                f'{self.label_set.name!r}; both must have the same classes'
            )
        self._instances += other._instances
        self._class_id += other._class_id
        self._score += other._score
        self._right += other._right
        self._ignored += other._ignored

    def result(self) -> PrecisionResult:
        """Return the figures of all images so far."""
        levels = len(THRESHOLDS)
        class_id = np.concatenate([np.zeros(0, np.uint8), *self._class_id])
        score = np.concatenate([np.zeros(0, np.float32), *self._score])
        right = np.concatenate([np.zeros((0, levels), bool), *self._right])
        ignored = np.concatenate([np.zeros((0, levels), bool), *self._ignored])
        per_class = []
        for number, label in enumerate(self.label_set.classes):
            chosen = np.flatnonzero(class_id == number)
            chosen = chosen[np.argsort(-score[chosen], kind='stable')]
            instances = int(self._instances[number])
            ap = 100 * _average_precision(right[chosen], ignored[chosen], instances)
            per_class.append(
                ClassPrecision(label.name, float(ap.mean()), *ap[[0, 5]].tolist(), instances)
            )
        occurring = [c for c in per_class if c.instances]
        means = (
            float(np.mean([getattr(c, name) for c in occurring])) if occurring else float('nan')
            for name in ('AP', 'AP50', 'AP75')
        )
        return PrecisionResult(*means, tuple(per_class))


def _best_first(class_id: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return the order by falling score, without what exceeds the number allowed of a class."""
    order = np.argsort(-score, kind='stable')
    ordered = class_id[order]
    by_class = np.argsort(ordered, kind='stable')
    rank = np.empty(len(order), np.intp)
    rank[by_class] = np.arange(len(order)) - np.searchsorted(ordered[by_class], ordered[by_class])
    return order[rank < _MAX_DETECTIONS]


def _match(iou: np.ndarray, is_crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find which detections are right, and which of the others do not count.

    Both are bool [detections, thresholds]; what is right counts in any case.

    ``iou`` is float [instances, detections], the detections by falling score; for groups it is
    the share of the detection inside.
    """
    detections = iou.shape[1]
    levels = len(THRESHOLDS)
    right = np.zeros((detections, levels), bool)
    ignored = np.zeros((detections, levels), bool)
    if not iou.size:
        return right, ignored
    singles = iou[~is_crowd]
    if len(singles):
        best = singles.max(axis=0)
        partner = singles.argmax(axis=0)
        candidates = np.flatnonzero(best >= THRESHOLDS[0])
        # The first of those that want the same partner has the best score.
        _, first = np.unique(partner[candidates], return_index=True)
        winners = candidates[first]
        right[winners] = best[winners, None] >= THRESHOLDS
    if is_crowd.any():
        ignored = iou[is_crowd].max(axis=0)[:, None] >= THRESHOLDS
    return right, ignored


def _average_precision(right: np.ndarray, ignored: np.ndarray, instances: int) -> np.ndarray:
    """Return the average precision at each threshold, float64 [thresholds], 0..1 or NaN.

    ``right`` and ``ignored`` are bool [detections, thresholds] by falling score.
    """
    if instances == 0:
        return np.full(len(THRESHOLDS), np.nan)
    tp = np.cumsum(right, axis=0, dtype=float)
    fp = np.cumsum(~right & ~ignored, axis=0, dtype=float)
    precision = tp / np.maximum(tp + fp, 1)
    # The best precision at this recall or a higher one.
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    precision = np.concatenate((precision, np.zeros((1, len(THRESHOLDS)))))
    recall = tp / instances
    return np.array(
        [
            precision[np.searchsorted(recall[:, level], _RECALLS), level].mean()
            for level in range(len(THRESHOLDS))
        ]
    )
