"""Cityscapes, from its panoptic JSON or straight from ``*_gtFine_instanceIds.png``.

The official layout (Cordts et al., CVPR 2016; the panoptic files are what the data set's own
scripts make)::

    ROOT/leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png   (or .jpg)
    ROOT/gtFine/cityscapes_panoptic_val.json
    ROOT/gtFine/cityscapes_panoptic_val/ulm_000000_000019_gtFine_panoptic.png
    ROOT/gtFine/val/ulm/ulm_000000_000019_gtFine_instanceIds.png
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.coco import (
    CocoFormatDataset,
    check_same_size,
    read_rgb,
    read_values,
)
from panoptic_ros.errors import DatasetError
from panoptic_ros.labels import LabelSet
from panoptic_ros.packing import from_cityscapes
from panoptic_ros.panoptic import Panoptic

_INSTANCE_IDS = '_gtFine_instanceIds.png'


class CityscapesPanoptic(CocoFormatDataset):
    """Cityscapes read from the panoptic JSON and its pictures.

    Parameters
    ----------
    root
        The folder with ``leftImg8bit`` and ``gtFine``.
    split
        ``train`` or ``val``.

    Raises DatasetError as :class:`CocoFormatDataset` does.
    """

    def __init__(
        self, root: str | Path, split: str = 'val', label_set: LabelSet | None = None
    ) -> None:
        truth = Path(root) / 'gtFine'
        super().__init__(
            truth / f'cityscapes_panoptic_{split}.json',
            truth / f'cityscapes_panoptic_{split}',
            Path(root) / 'leftImg8bit' / split,
            label_set or LabelSet.load('cityscapes'),
        )

    def _image_path(self, index: int) -> Path:
        # The JSON's file names are of pictures that never existed (*_gtFine_leftImg8bit.png).
        return _camera_image(self._image_folder, self.image_id(index))


class CityscapesInstanceIds(Sequence[Sample]):
    """Cityscapes read from ``*_gtFine_instanceIds.png``, for who has not made the panoptic files.

    A label id without a number (a group, where the label is a thing) is listed in
    ``Sample.crowd_ids``; labels that are not evaluated are void.

    Raises
    ------
    DatasetError
        If there is no such picture, the camera image is missing, or the two differ in size.
    """

    def __init__(
        self, root: str | Path, split: str = 'val', label_set: LabelSet | None = None
    ) -> None:
        self.label_set = label_set or LabelSet.load('cityscapes')
        self._image_folder = Path(root) / 'leftImg8bit' / split
        folder = Path(root) / 'gtFine' / split
        self._paths = sorted(folder.glob(f'*/*{_INSTANCE_IDS}'))
        if not self._paths:
            raise DatasetError(f'{folder} has no file CITY/*{_INSTANCE_IDS}; the data are missing')

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        truth, crowd_ids = self.truth(index)
        image_rgb = self.image(index)
        image_id = self.image_id(index)
        check_same_size(image_id, image_rgb, truth)
        return Sample(image_id, image_rgb, truth, crowd_ids)

    def image_id(self, index: int) -> str:
        """Return the id of an image, ``CITY_SEQUENCE_FRAME``."""
        return self._paths[index].name.removesuffix(_INSTANCE_IDS)

    def image(self, index: int) -> np.ndarray:
        """Read only the image, uint8 [H, W, 3] RGB."""
        image_id = self.image_id(index)
        return read_rgb(_camera_image(self._image_folder, image_id), image_id)

    def truth(self, index: int) -> tuple[Panoptic, np.ndarray]:
        """Read only the truth: the map, and the ids of its groups, uint16 [n]."""
        values = read_values(self._paths[index], self.image_id(index))
        return from_cityscapes(values, self.label_set)


def open_cityscapes(
    root: str | Path, split: str = 'val'
) -> CityscapesPanoptic | CityscapesInstanceIds:
    """Open Cityscapes by its panoptic JSON where there is one, else by the instance id pictures.

    Raises DatasetError if there is neither.
    """
    truth = Path(root) / 'gtFine'
    json_path = truth / f'cityscapes_panoptic_{split}.json'
    if json_path.is_file():
        return CityscapesPanoptic(root, split)
    if not (truth / split).is_dir():
        raise DatasetError(
            f'{root} has no Cityscapes split {split!r}: expected {json_path} or pictures '
            f'{truth / split}/CITY/*{_INSTANCE_IDS}'
        )
    return CityscapesInstanceIds(root, split)


def _camera_image(folder: Path, image_id: str) -> Path:
    """Return the path of a camera image; the official files are PNG, smaller copies JPEG."""
    path = folder / image_id.split('_')[0] / f'{image_id}_leftImg8bit.png'
    jpeg = path.with_suffix('.jpg')
    return jpeg if jpeg.is_file() and not path.is_file() else path
