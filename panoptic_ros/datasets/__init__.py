"""Labelled images: readers of data sets on disk, and a renderer of synthetic streets.

:func:`panoptic_ros.datasets.opening.open_dataset` opens any of them by name. Every reader is a
sequence of :class:`Sample` that reads an image only when it is asked for.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from panoptic_ros.errors import DatasetError
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic


@dataclass(frozen=True, eq=False)
class Sample:
    """One labelled image.

    Parameters
    ----------
    image_id
        The data set's name of the image.
    image_rgb
        uint8 [H, W, 3].
    truth
        The panoptic truth at the size of the image.
    crowd_ids
        uint16 [n], instance ids in ``truth`` that stand for a group of objects (``iscrowd`` in
        COCO files). Evaluation and training treat them separately.
    """

    image_id: str
    image_rgb: np.ndarray
    truth: Panoptic
    crowd_ids: np.ndarray


class LabelledImages(Sequence[Sample]):
    """A data set on disk whose images and truth can be read separately.

    ``label_set`` holds the classes of the truth. Indexing raises DatasetError if a file is
    missing or damaged, or an image and its truth differ in size; the message names the image.
    """

    label_set: LabelSet

    def __getitem__(self, index: int) -> Sample:
        """Read an image and its truth."""
        truth, crowd_ids = self.truth(index)
        image_rgb = self.image(index)
        image_id = self.image_id(index)
        height, width = image_rgb.shape[:2]
        if (width, height) != truth.size_wh:
            raise DatasetError(
                f'image {image_id}: it is {width}x{height}, its truth is '
                f'{truth.size_wh[0]}x{truth.size_wh[1]}; expected one size'
            )
        return Sample(image_id, image_rgb, truth, crowd_ids)

    @abstractmethod
    def image_id(self, index: int) -> str:
        """Return the id of an image as text."""

    @abstractmethod
    def image(self, index: int) -> np.ndarray:
        """Read the image without its truth, uint8 [H, W, 3] RGB."""

    @abstractmethod
    def truth(self, index: int) -> tuple[Panoptic, np.ndarray]:
        """Read the truth without the image: the map, and the ids of its groups, uint16 [n]."""
