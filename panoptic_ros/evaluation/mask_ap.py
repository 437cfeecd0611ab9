"""Average precision of instance masks (mask AP), as COCO defines it.

Lin et al., Microsoft COCO, ECCV 2014, and its evaluation code: IoU thresholds 0.50 to 0.95 in
steps of 0.05, precision at 101 recalls, at most 100 detections of a class in an image. Detections
on groups (``iscrowd``) are ignored. Classes without a true instance do not count.

The masks of a panoptic map do not overlap. At these thresholds a mask therefore has at most one
possible match, and the usual greedy search over detections is one pass over a matrix. Only at an
IoU of exactly one half can two masks have the same match; the one with the higher score gets it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from panoptic_ros.evaluation.intersections import Intersections
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Lowest IoU at which a detection is a true positive, float64 [10]."""

_RECALLS = np.linspace(0, 1, 101)
_MAX_DETECTIONS = 100


@dataclass(frozen=True)
class ClassAP:
    """AP, AP50 and AP75 of one class in percent, NaN without a true instance; true instances."""

    name: str
    AP: float
    AP50: float
    AP75: float
    instances: int


@dataclass(frozen=True)
class MaskAPResult:
    """Means over the classes that have a true instance, in percent; NaN if none has."""

    AP: float
    AP50: float
    AP75: float
    per_class: tuple[ClassAP, ...]


class MaskAP:
    """Average precision of a stream of images.

    Parameters
    ----------
    label_set
        The classes of predictions and truth. Only things count.
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
        self.add(Intersections.of(prediction, truth, crowd_ids), prediction.segments.score)

    def add(self, image: Intersections, segment_score: np.ndarray) -> None:
        """Count one image by its intersections.

        ``segment_score`` is float32 [P], the scores of the prediction's segment table.
        """
        # Row and column 0 are void; the rest are in the order of the segment tables.
        is_thing = self.label_set.is_thing
        rows = np.flatnonzero(is_thing[image.truth_class])
        columns = np.flatnonzero(is_thing[image.prediction_class])
        score = segment_score[columns - 1]
        columns = columns[_best_first(image.prediction_class[columns], score)]
        score = segment_score[columns - 1]
        class_id = image.prediction_class[columns]

        shared = image.area[np.ix_(rows, columns)].astype(float)
        of_one_class = image.truth_class[rows, None] == class_id
        area = image.prediction_area[columns]
        is_crowd = image.truth_is_crowd[rows]
        union = np.where(is_crowd[:, None], area, image.truth_area[rows, None] + area - shared)
        iou = np.where(of_one_class, shared / union, 0.0)
        right, ignored = _match_detections(iou, is_crowd)

        self._instances += np.bincount(
            image.truth_class[rows[~is_crowd]], minlength=len(self.label_set)
        )
        self._class_id.append(class_id)
        self._score.append(score)
        self._right.append(right)
        self._ignored.append(ignored)

    def result(self) -> MaskAPResult:
        """Return the result over all images so far."""
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
            by_threshold = 100 * _average_precision(right[chosen], ignored[chosen], instances)
            ap, ap50, ap75 = map(float, (by_threshold.mean(), by_threshold[0], by_threshold[5]))
            per_class.append(ClassAP(label.name, ap, ap50, ap75, instances))
        occurring = [c for c in per_class if c.instances]
        ap, ap50, ap75 = (
            float(np.mean([getattr(c, name) for c in occurring])) if occurring else float('nan')
            for name in ('AP', 'AP50', 'AP75')
        )
        return MaskAPResult(ap, ap50, ap75, tuple(per_class))


def _best_first(class_id: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return the order by descending score, limited to the 100 best of each class."""
    order = np.argsort(-score, kind='stable')
    ordered = class_id[order]
    by_class = np.argsort(ordered, kind='stable')
    rank = np.empty(len(order), np.intp)
    rank[by_class] = np.arange(len(order)) - np.searchsorted(ordered[by_class], ordered[by_class])
    return order[rank < _MAX_DETECTIONS]


def _match_detections(iou: np.ndarray, is_crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which detections are true positives and which are ignored unless they are.

    Both are bool [detections, thresholds]. ``iou`` is float [instances, detections], the
    detections by descending score; for groups it is the share of the detection that lies inside.
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
        match = singles.argmax(axis=0)
        candidates = np.flatnonzero(best >= THRESHOLDS[0])
        # Of several with the same match, the first has the highest score.
        _, first = np.unique(match[candidates], return_index=True)
        winners = candidates[first]
        right[winners] = best[winners, None] >= THRESHOLDS
    if is_crowd.any():
        ignored = iou[is_crowd].max(axis=0)[:, None] >= THRESHOLDS
    return right, ignored


def _average_precision(right: np.ndarray, ignored: np.ndarray, instances: int) -> np.ndarray:
    """Return the average precision at each threshold, float64 [thresholds], 0..1 or NaN.

    ``right`` and ``ignored`` are bool [detections, thresholds] by descending score.
    """
    if instances == 0:
        return np.full(len(THRESHOLDS), np.nan)
    tp = np.cumsum(right, axis=0, dtype=float)
    fp = np.cumsum(~right & ~ignored, axis=0, dtype=float)
    precision = tp / np.maximum(tp + fp, 1)
    # The highest precision at this recall or a higher one.
    precision = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    precision = np.concatenate((precision, np.zeros((1, len(THRESHOLDS)))))
    recall = tp / instances
    return np.array(
        [
            precision[np.searchsorted(recall[:, level], _RECALLS), level].mean()
            for level in range(len(THRESHOLDS))
        ]
    )
