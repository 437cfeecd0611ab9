"""What to import, and the parts of it that every importer reads alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from panoptic_ros.datasets.street.scene import synthetic_samples
from panoptic_ros.errors import SourceError
from panoptic_ros.image_files import read_image
from panoptic_ros.importing.labels import ClassMap
from panoptic_ros.model.resize import Resize

_LABELS_FILE = 'labels.yaml'


@dataclass(frozen=True)
class Request:
    """What to import, and how.

    Parameters
    ----------
    checkpoint
        Folder, hub id, or ONNX file of a detector.
    folder
        The model folder to write.
    size_wh
        Input size; None for the one that the checkpoint names.
    labels
        A label set's name or ``.yaml`` file; None to find it by the class names.
    task
        Of :data:`~panoptic_ros.importing.families.family`; None for the family's usual one.
    pictures
        Pictures on which the files are compared; the first becomes the golden one. A synthetic
        street takes their place if there are none.
    licence
        Of the weights.
    names
        File with the class names of an ONNX file, or ``coco-ids``; None for those it has.
    """

    checkpoint: str
    folder: Path
    size_wh: tuple[int, int] | None = None
    labels: str | None = None
    task: str | None = None
    pictures: tuple[Path, ...] = ()
    licence: str = 'unknown'
    names: str | None = None


def read_images(
    pictures: Sequence[Path], resize: Resize, size_wh: tuple[int, int]
) -> list[np.ndarray]:
    """Return pictures at the size of a network's input, uint8 [H, W, 3] RGB; a street if none.

    Raises SourceError if a picture cannot be read.
    """
    images = []
    for path in pictures:
        picture = read_image(path) if path.is_file() else None
        if picture is None:
            raise SourceError(f'{path} is not a picture that can be read; correct --check')
        images.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
    if not images:
        images.append(synthetic_samples(seed=7, count=1, size_wh=(640, 320))[0].image_rgb)
    return [np.ascontiguousarray(resize.apply(image, size_wh)) for image in images]


def label_set_name(labels: str | None, class_map: ClassMap, folder: Path) -> str:
    """Return what the card calls the label set; a file is copied into the model folder."""
    if labels is None or not labels.endswith('.yaml'):
        return class_map.label_set.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _LABELS_FILE).write_bytes(Path(labels).read_bytes())
    return _LABELS_FILE
