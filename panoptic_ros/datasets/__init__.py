"""Images with their panoptic truth, from data sets on disk and from a renderer."""

from dataclasses import dataclass

import numpy as np

from panoptic_ros.panoptic import Panoptic


@dataclass(frozen=True, eq=False)
class Sample:
    """One labelled image.

    Parameters
    ----------
    image_id
        The data set's own name of the image.
    image_rgb
        uint8 [H, W, 3].
    truth
        The panoptic truth at the image's size.
    crowd_ids
        uint16 [n], instance ids in ``truth`` that stand for a group of objects nobody separated
        (``iscrowd`` in COCO files); evaluation and training treat them apart.
    """

    image_id: str
    image_rgb: np.ndarray
    truth: Panoptic
    crowd_ids: np.ndarray
