"""COCO Panoptic, and every data set that is published in its format.

The format is one JSON (``images``, ``annotations``, ``categories``) and a folder of pictures whose
colours are segment ids (Kirillov et al., Panoptic Segmentation, CVPR 2019; the COCO panoptic
tools). The official layout of COCO itself::

    ROOT/annotations/panoptic_val2017.json
    ROOT/annotations/panoptic_val2017/000000000139.png
    ROOT/val2017/000000000139.jpg
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from panoptic_ros.datasets import Sample
from panoptic_ros.errors import DatasetError, LabelSetError
from panoptic_ros.labels import VOID, LabelClass, LabelSet
from panoptic_ros.packing import from_coco
from panoptic_ros.panoptic import Panoptic


@dataclass(frozen=True)
class PanopticJson:
    """A panoptic JSON, read and checked for the fields that everybody needs.

    Parameters
    ----------
    path
        Where it was read.
    categories
        The JSON's own list: ``id``, ``name``, ``isthing``.
    images
        Image entries by id: ``file_name``, ``width``, ``height``. May be empty in a file of
        predictions.
    annotations
        Annotations in the order of the file: ``image_id``, ``file_name``, ``segments_info``.
    """

    path: Path
    categories: tuple[Mapping[str, Any], ...]
    images: Mapping[Any, Mapping[str, Any]]
    annotations: tuple[Mapping[str, Any], ...]

    @classmethod
    def read(cls, path: Path) -> 'PanopticJson':
        """Read a file; raises DatasetError if it is missing, not JSON or not of the format."""
        try:
            data = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise DatasetError(
                f'{path} does not exist; expected a panoptic JSON in COCO format there'
            ) from error
        except (OSError, ValueError) as error:
            raise DatasetError(f'{path} is not a readable JSON file: {error}') from error
        try:
            annotations = tuple(data['annotations'])
            for annotation in annotations:
                _ = annotation['image_id'], annotation['file_name']
                for segment in annotation['segments_info']:
                    _ = segment['id'], segment['category_id']
            images = {image['id']: image for image in data.get('images', ())}
            categories = tuple(data.get('categories', ()))
            for category in categories:
                _ = category['id'], category['name'], category['isthing']
        except (KeyError, TypeError, AttributeError) as error:
            raise DatasetError(
                f'{path} is not a panoptic JSON in COCO format: {error!r} is missing or of the '
                'wrong kind; expected annotations with image_id, file_name and segments_info'
            ) from error
        return cls(path, categories, images, annotations)

    def label_set(self) -> LabelSet:
        """Make a label set of the file's own categories, named after the file, without roles.

        Raises DatasetError if it has none, or more than 255.
        """
        names = [str(c['name']) for c in self.categories]
        try:
            return LabelSet(
                self.path.stem,
                tuple(
                    LabelClass(
                        # Some data sets have two categories of one name.
                        name if names.count(name) == 1 else f'{name} ({c["id"]})',
                        bool(c['isthing']),
                        tuple(c.get('color', (0, 0, 0))),
                        int(c['id']),
                    )
                    for name, c in zip(names, self.categories, strict=True)
                ),
            )
        except (LabelSetError, TypeError, ValueError) as error:
            raise DatasetError(f'the categories of {self.path} are not usable: {error}') from error

    def check_categories(self, label_set: LabelSet) -> None:
        """Raise DatasetError unless every category is in the label set and of the same kind."""
        class_ids = label_set.class_ids_of([c['id'] for c in self.categories])
        for category, class_id in zip(self.categories, class_ids.tolist(), strict=True):
            if class_id == VOID or label_set.is_thing[class_id] != bool(category['isthing']):
                raise DatasetError(
                    f'{self.path} has category {category["id"]} ({category["name"]!r}, isthing '
                    f'{category["isthing"]}), which label set {label_set.name!r} does not have '
                    'so; use the label set of this data set'
                )


class CocoFormatDataset(Sequence[Sample]):
    """Images with truth in COCO panoptic format; each is read when it is asked for.

    Parameters
    ----------
    json_path
        The panoptic JSON.
    png_folder
        The folder of the pictures that it names.
    image_folder
        The folder of the camera images.
    label_set
        What its category ids mean; the JSON's own categories if None.

    Raises
    ------
    DatasetError
        At construction, if the JSON is missing, malformed or of other classes. On access, if a
        file is missing, an image and its truth differ in size, or the picture has a segment id
        that the JSON lacks; the message names the image.
    """

    def __init__(
        self,
        json_path: Path,
        png_folder: Path,
        image_folder: Path,
        label_set: LabelSet | None = None,
    ) -> None:
        self._json = PanopticJson.read(json_path)
        self.label_set = label_set or self._json.label_set()
        self._json.check_categories(self.label_set)
        self._png_folder = png_folder
        self._image_folder = image_folder

    def __len__(self) -> int:
        return len(self._json.annotations)

    def __getitem__(self, index: int) -> Sample:
        truth, crowd_ids = self.truth(index)
        image_rgb = self.image(index)
        image_id = self.image_id(index)
        check_same_size(image_id, image_rgb, truth)
        return Sample(image_id, image_rgb, truth, crowd_ids)

    def image_id(self, index: int) -> str:
        """Return the id of an image as text."""
        return str(self._json.annotations[index]['image_id'])

    def image(self, index: int) -> np.ndarray:
        """Read only the image, uint8 [H, W, 3] RGB."""
        return read_rgb(self._image_path(index), self.image_id(index))

    def truth(self, index: int) -> tuple[Panoptic, np.ndarray]:
        """Read only the truth: the map, and the ids of its groups, uint16 [n]."""
        annotation = self._json.annotations[index]
        image_id = self.image_id(index)
        rgb = read_rgb(self._png_folder / annotation['file_name'], image_id)
        entry = self._json.images.get(annotation['image_id'], {})
        height, width = rgb.shape[:2]
        stated = (entry.get('width', width), entry.get('height', height))
        if stated != (width, height):
            raise DatasetError(
                f'image {image_id}: its panoptic picture is {width}x{height}, the JSON says '
                f'{stated[0]}x{stated[1]}; the two are not of one data set'
            )
        try:
            return from_coco(rgb, annotation['segments_info'], self.label_set)
        except ValueError as error:
            raise DatasetError(f'image {image_id}: {error}') from error

    def _image_path(self, index: int) -> Path:
        image_id = self._json.annotations[index]['image_id']
        if image_id not in self._json.images:
            raise DatasetError(
                f'image {image_id}: {self._json.path} has an annotation but no entry in "images" '
                'that names its file'
            )
        return self._image_folder / self._json.images[image_id]['file_name']


class CocoPanoptic(CocoFormatDataset):
    """COCO Panoptic in its official layout, ``split`` for example ``val2017``."""

    def __init__(
        self, root: str | Path, split: str = 'val2017', label_set: LabelSet | None = None
    ) -> None:
        annotations = Path(root) / 'annotations'
        super().__init__(
            annotations / f'panoptic_{split}.json',
            annotations / f'panoptic_{split}',
            Path(root) / split,
            label_set or LabelSet.load('coco'),
        )


def read_rgb(path: Path, image_id: str) -> np.ndarray:
    """Read a picture, uint8 [H, W, 3] RGB, as it is stored (no EXIF rotation).

    Raises DatasetError naming the image if the file is missing or not a picture.
    """
    # Annotations refer to the stored pixels; OpenCV would turn them by the EXIF tag.
    return cv2.cvtColor(
        _read(path, image_id, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION),
        cv2.COLOR_BGR2RGB,
    )


def read_values(path: Path, image_id: str) -> np.ndarray:
    """Read a one-channel picture as it is stored, uint8 or uint16 [H, W].

    Raises DatasetError naming the image if the file is missing or has several channels.
    """
    values = _read(path, image_id, cv2.IMREAD_UNCHANGED)
    if values.ndim != 2:
        raise DatasetError(
            f'image {image_id}: {path} has {values.shape[2]} channels; expected one with ids'
        )
    return values


def check_same_size(image_id: str, image_rgb: np.ndarray, truth: Panoptic) -> None:
    """Raise DatasetError unless an image and its truth have one size."""
    height, width = image_rgb.shape[:2]
    if (width, height) != truth.size_wh:
        raise DatasetError(
            f'image {image_id}: it is {width}x{height}, its truth is '
            f'{truth.size_wh[0]}x{truth.size_wh[1]}; they must have one size'
        )


def _read(path: Path, image_id: str, flags: int) -> np.ndarray:
    if not path.is_file():
        raise DatasetError(
            f'image {image_id}: file {path} does not exist; the data are incomplete'
        )
    picture = cv2.imread(str(path), flags)
    if picture is None:
        raise DatasetError(f'image {image_id}: file {path} is not a picture that OpenCV can read')
    return picture
