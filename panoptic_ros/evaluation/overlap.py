"""Mean IoU of the classes, and which class is taken for which.

As the Cityscapes scripts count it: a confusion matrix of all pixels whose truth is not void;
``IoU = TP / (TP + FP + FN)`` for each class, a pixel predicted void counts as missed; the mean
is over the classes that occur.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from panoptic_ros.evaluation.joint import JointAreas
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import Panoptic


@dataclass(frozen=True, eq=False)
class OverlapResult:
    """Semantic figures, in percent; NaN where nothing occurs.

    Parameters
    ----------
    mean_iou
        Mean of ``iou`` over the classes that occur.
    pixel_accuracy
        Share of the pixels with a true class that have this class in the prediction.
    iou
        float64 [classes].
    confusion
        int64 [classes + 1, classes + 1], pixels by true class (row) and predicted class
        (column); the last of each is void.
    """

    mean_iou: float
    pixel_accuracy: float
    iou: np.ndarray
    confusion: np.ndarray

    def confused_with(self, class_id: int, count: int = 3) -> list[tuple[int, float]]:
        """Return the classes that most of a class's true pixels were wrongly taken for.

        Each is a class id (VOID for none) and its share in percent of the true pixels, largest
        first; shares of 0 are left out.
        """
        row = self.confusion[class_id].astype(float)
        total = row.sum()
        row[class_id] = 0
        order = np.argsort(-row, kind='stable')[:count]
        last = len(row) - 1
        return [
            (VOID if c == last else int(c), float(100 * row[c] / total)) for c in order if row[c]
        ]


class ClassOverlap:
    """Confusion of the classes over a stream of images; can be pickled and merged.

    Parameters
    ----------
    label_set
        The classes of both the predictions and the truth.
    """

    def __init__(self, label_set: LabelSet) -> None:
        self.label_set = label_set
        classes = len(label_set)
        self._confusion = np.zeros((classes + 1, classes + 1), np.int64)

    def update(
        self,
        prediction: Panoptic,
        truth: Panoptic,
        crowd_ids: np.ndarray | Sequence[int] = (),
    ) -> None:
        """Count one image; groups count as their class.

        Raises DatasetError if the sizes differ.
        """
        self.add(JointAreas.of(prediction, truth, crowd_ids))

    def add(self, joint: JointAreas) -> None:
        """Count one image whose joint areas are known."""
        void = len(self.label_set)
        row = np.where(joint.truth_class == VOID, void, joint.truth_class)
        column = np.where(joint.prediction_class == VOID, void, joint.prediction_class)
        np.add.at(self._confusion, (row[:, None], column[None, :]), joint.area)

    def merge(self, other: 'ClassOverlap') -> None:
        """Add the counts of another one, which must be of the same classes (ValueError)."""
        if other.label_set != self.label_set:
            raise ValueError(
                f'cannot merge figures of label set {other.label_set.name!r} into those of '
                f'{self.label_set.name!r}; both must have the same classes'
            )
        self._confusion += other._confusion

    def result(self) -> OverlapResult:
        """Return the figures of all images so far."""
        counted = self._confusion[:-1]
        right = np.diagonal(counted).astype(float)
        union = counted.sum(axis=1) + counted[:, :-1].sum(axis=0) - right
        iou = np.full(len(right), np.nan)
        occurs = union > 0
        iou[occurs] = 100 * right[occurs] / union[occurs]
        pixels = counted.sum()
        return OverlapResult(
            mean_iou=float(iou[occurs].mean()) if occurs.any() else float('nan'),
            pixel_accuracy=float(100 * right.sum() / pixels) if pixels else float('nan'),
            iou=iou,
            confusion=self._confusion.copy(),
        )
