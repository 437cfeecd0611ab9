"""Cityscapes, from its panoptic JSON or from ``*_gtFine_instanceIds.png``.

The official layout (Cordts et al., CVPR 2016; the data set's own scripts make the panoptic
files)::

    ROOT/leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png   (or .jpg)
    ROOT/gtFine/cityscapes_panoptic_val.json
    ROOT/gtFine/cityscapes_panoptic_val/ulm_000000_000019_gtFine_panoptic.png
    ROOT/gtFine/val/ulm/ulm_000000_000019_gtFine_instanceIds.png
"""

from pathlib import Path

import numpy as np

from panoptic_ros.datasets import LabelledImages
from panoptic_ros.datasets.coco import CocoPanoptic
from panoptic_ros.datasets.reading import read_rgb, read_values
from panoptic_ros.errors import DatasetError
from panoptic_ros.image_files import is_hidden
from panoptic_ros.labels import LabelSet
from panoptic_ros.packing import from_cityscapes
from panoptic_ros.panoptic import Panoptic

_INSTANCE_IDS = '_gtFine_instanceIds.png'


class CityscapesPanoptic(CocoPanoptic):
    """Cityscapes read from the panoptic JSON and its PNGs.

    Parameters
    ----------
    root
        The folder with ``leftImg8bit`` and ``gtFine``.
    split
        ``train`` or ``val``.

    Raises DatasetError as :class:`CocoPanoptic` does.
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
        # The file names in the JSON (*_gtFine_leftImg8bit.png) are of images that do not exist.
        return _camera_image(self._image_folder, self.image_id(index))


class CityscapesInstanceIds(LabelledImages):
    """Cityscapes read from ``*_gtFine_instanceIds.png``, where there are no panoptic files.

    A thing's label id without an instance number is a group and is listed in
    ``Sample.crowd_ids``. Labels that are not evaluated are void.

    Raises
    ------
    DatasetError
        If there is no instance id image, the camera image is missing, or the two differ in size.
    """

    def __init__(
        self, root: str | Path, split: str = 'val', label_set: LabelSet | None = None
    ) -> None:
        self.label_set = label_set or LabelSet.load('cityscapes')
        self._image_folder = Path(root) / 'leftImg8bit' / split
        folder = Path(root) / 'gtFine' / split
        self._paths = sorted(
            path
            for path in folder.glob(f'*/*{_INSTANCE_IDS}')
            if not is_hidden(path.relative_to(folder))
        )
        if not self._paths:
            raise DatasetError(f'{folder} has no file CITY/*{_INSTANCE_IDS}; the data are missing')

    def __len__(self) -> int:
        return len(self._paths)

    def image_id(self, index: int) -> str:
        """Return the id of an image, ``CITY_SEQUENCE_FRAME``."""
        return self._paths[index].name.removesuffix(_INSTANCE_IDS)

    def image(self, index: int) -> np.ndarray:
        """Read the image without its truth, uint8 [H, W, 3] RGB."""
        image_id = self.image_id(index)
        return read_rgb(_camera_image(self._image_folder, image_id), image_id)

    def truth(self, index: int) -> tuple[Panoptic, np.ndarray]:
        """Read the truth without the image: the map, and the ids of its groups, uint16 [n]."""
        values = read_values(self._paths[index], self.image_id(index))
        return from_cityscapes(values, self.label_set)


def open_cityscapes(
    root: str | Path, split: str = 'val', label_set: LabelSet | None = None
) -> CityscapesPanoptic | CityscapesInstanceIds:
    """Open Cityscapes by its panoptic JSON, or by the instance id images where there is none.

    Raises DatasetError if there is neither.
    """
    truth = Path(root) / 'gtFine'
    json_path = truth / f'cityscapes_panoptic_{split}.json'
    if json_path.is_file():
        return CityscapesPanoptic(root, split, label_set)
    if not (truth / split).is_dir():
        raise DatasetError(
            f'{root} has no Cityscapes split {split!r}: expected {json_path} or images '
            f'{truth / split}/CITY/*{_INSTANCE_IDS}'
        )
    return CityscapesInstanceIds(root, split, label_set)


def _camera_image(folder: Path, image_id: str) -> Path:
    """Return the path of a camera image: PNG in the official data, JPEG in smaller copies."""
    path = folder / image_id.split('_')[0] / f'{image_id}_leftImg8bit.png'
    jpeg = path.with_suffix('.jpg')
    return jpeg if jpeg.is_file() and not path.is_file() else path
