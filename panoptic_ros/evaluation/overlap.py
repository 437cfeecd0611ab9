"""Mean IoU and the confusion matrix of the classes.

The definition is that of the Cityscapes scripts: a confusion matrix over all pixels whose truth is
not void, ``IoU = TP / (TP + FP + FN)`` for each class, and the mean over the classes that occur. A
pixel predicted void is a false negative.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from panoptic_ros.evaluation.classes import Classes
from panoptic_ros.evaluation.intersections import NO_CLASS, Intersections
from panoptic_ros.labels import VOID
from panoptic_ros.panoptic import Panoptic


@dataclass(frozen=True, eq=False)
class OverlapResult:
    """Semantic results in percent; NaN where no class occurs.

    Parameters
    ----------
    mean_iou
        Mean of ``iou`` over the classes that occur.
    pixel_accuracy
        Share of the pixels with a true class that are predicted to be of it.
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
        """Return the classes most often predicted in place of a class.

        Each is a class id (VOID for none) and its share in percent of the true pixels, largest
        first. Shares of 0 are left out.
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
    """Confusion of the classes over a stream of images.

    Parameters
    ----------
    classes
        The classes of predictions and truth: a label set, or a list of any length.
    """

    def __init__(self, classes: Classes) -> None:
        self.classes = classes
        self._confusion = np.zeros((len(classes) + 1, len(classes) + 1), np.int64)

    def update(
        self,
        prediction: Panoptic,
        truth: Panoptic,
        crowd_ids: np.ndarray | Sequence[int] = (),
    ) -> None:
        """Count one image; groups count as their class.

        Raises DatasetError if the sizes differ.
        """
        self.add(Intersections.of(prediction, truth, crowd_ids))

    def add(self, image: Intersections) -> None:
        """Count one image by its intersections."""
        void = len(self.classes)
        row = np.where(image.truth_class == NO_CLASS, void, image.truth_class)
        column = np.where(image.prediction_class == NO_CLASS, void, image.prediction_class)
        np.add.at(self._confusion, (row[:, None], column[None, :]), image.area)

    def result(self) -> OverlapResult:
        """Return the result over all images so far."""
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
