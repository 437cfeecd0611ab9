"""The JSON files of COCO: panoptic annotations, instance annotations and their categories.

Formats: https://cocodataset.org/#format-data. Panoptic files have ``segments_info`` and one PNG of
segment ids for each image; instance files have one mask (polygons or RLE) for each object.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panoptic_ros.errors import DatasetError, LabelSetError
from panoptic_ros.labels import VOID, LabelClass, LabelSet

BACKGROUND = 'background'
"""Stuff class that takes the pixels without an object, in label sets of instance files."""

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Categories:
    """The ``categories`` list of a COCO JSON.

    Parameters
    ----------
    path
        The file, for messages.
    entries
        One mapping for each category: ``id``, ``name``, ``isthing`` and optionally ``color``.
    """

    path: Path
    entries: tuple[Json, ...]

    def classes(self, *, default_is_thing: bool | None = None) -> tuple[LabelClass, ...]:
        """Return one class for each category, in the order of the file.

        Categories of the same name get their id appended. A category without ``color`` gets one
        computed from its name.

        Parameters
        ----------
        default_is_thing
            Kind of a category without ``isthing``; None to refuse it.

        Raises DatasetError if there are no categories, or one is malformed.
        """
        if not self.entries:
            raise DatasetError(
                f'{self.path} has no categories; add the list "categories" with id, name and '
                'isthing'
            )
        names = [str(entry.get('name')) for entry in self.entries]
        classes = []
        for name, entry in zip(names, self.entries, strict=True):
            is_thing = _is_thing(entry, default_is_thing)
            if is_thing is None:
                raise DatasetError(
                    f'{self.path}: category {entry.get("id")} ({name!r}) has no "isthing"; add '
                    '1 for countable objects (things) or 0 for stuff to every category'
                )
            if names.count(name) > 1:
                name = f'{name} ({entry.get("id")})'
            try:
                red, green, blue = map(int, entry.get('color') or _color_of(name))
                classes.append(LabelClass(name, is_thing, (red, green, blue), int(entry['id'])))
            except (KeyError, TypeError, ValueError, LabelSetError) as error:
                raise DatasetError(
                    f'{self.path}: category {dict(entry)} is not usable ({error!r}); expected '
                    'an integer id, a name, isthing and optionally color'
                ) from error
        return tuple(classes)

    def label_set(self) -> LabelSet:
        """Return a label set of the categories, named after the file, without roles.

        Raises DatasetError as :meth:`classes` does, and for more than 255 categories.
        """
        return self._label_set(self.classes())

    def instance_label_set(self) -> LabelSet:
        """Return a label set in which categories without ``isthing`` are things.

        If no category is stuff, the class :data:`BACKGROUND` comes first, because a panoptic
        network needs a class for every pixel.
        """
        classes = self.classes(default_is_thing=True)
        if all(c.is_thing for c in classes) and BACKGROUND not in {c.name for c in classes}:
            used = {c.category_id for c in classes}
            free_id = 0 if 0 not in used else max(used) + 1
            classes = (LabelClass(BACKGROUND, False, (30, 30, 30), free_id), *classes)
        return self._label_set(classes)

    def check(self, label_set: LabelSet) -> None:
        """Raise DatasetError unless every category is in the label set and of the same kind.

        A category without ``isthing`` may be of either kind.
        """
        class_ids = label_set.class_ids_of([int(entry['id']) for entry in self.entries])
        for entry, class_id in zip(self.entries, class_ids.tolist(), strict=True):
            is_thing = bool(label_set.is_thing[class_id])
            if class_id == VOID or _is_thing(entry, is_thing) != is_thing:
                raise DatasetError(
                    f'{self.path} has category {entry["id"]} ({entry.get("name")!r}, isthing '
                    f'{entry.get("isthing")}), which label set {label_set.name!r} lacks or '
                    'declares as the other kind; use the label set of this data set'
                )

    def _label_set(self, classes: tuple[LabelClass, ...]) -> LabelSet:
        try:
            return LabelSet(self.path.stem, classes)
        except LabelSetError as error:
            raise DatasetError(f'the categories of {self.path} are not usable: {error}') from error


def _is_thing(category: Json, default: bool | None) -> bool | None:
    """Return ``isthing`` of a category, which may be a number, a boolean, text or missing."""
    value = category.get('isthing')
    return default if value is None else bool(int(value))


def _color_of(name: str) -> tuple[int, int, int]:
    """Return a colour computed from a name: the same in every process, and never too dark."""
    red, green, blue = hashlib.sha256(name.encode('utf-8', 'surrogateescape')).digest()[:3]
    return 64 + red * 3 // 4, 64 + green * 3 // 4, 64 + blue * 3 // 4


@dataclass(frozen=True)
class PanopticJson:
    """A panoptic JSON with its required fields checked.

    Parameters
    ----------
    path
        The file.
    categories
        Its categories. They may be missing in a file of predictions.
    images
        Image entries by id: ``file_name``, ``width``, ``height``. May be empty in a file of
        predictions.
    annotations
        Annotations in the order of the file: ``image_id``, ``file_name``, ``segments_info``.
    """

    path: Path
    categories: Categories
    images: Mapping[Any, Json]
    annotations: tuple[Json, ...]

    @classmethod
    def read(cls, path: Path) -> 'PanopticJson':
        """Read a file; raises DatasetError if it is missing, not JSON or of another format."""
        return cls.parse(path, _read_json(path))

    @classmethod
    def parse(cls, path: Path, data: Any) -> 'PanopticJson':
        """Check the content of a file that is already read; raises DatasetError."""
        try:
            annotations = tuple(data['annotations'])
            for annotation in annotations:
                _ = annotation['image_id'], annotation['file_name']
                for segment in annotation['segments_info']:
                    _ = int(segment['id']), int(segment['category_id'])
            images, categories = _images_and_categories(path, data)
        except _FAULTS as error:
            raise DatasetError(
                f'{path} is not a panoptic JSON in COCO format: {_describe(error)}; expected '
                'annotations with image_id, file_name and segments_info'
            ) from error
        return cls(path, categories, images, annotations)


@dataclass(frozen=True)
class InstancesJson:
    """An instance JSON with its required fields checked.

    Parameters
    ----------
    path
        The file.
    categories
        Its categories.
    images
        Image entries by id: ``file_name``, ``width``, ``height``.
    annotations
        The objects of each image by its id: ``category_id``, ``segmentation``, ``iscrowd``.
    """

    path: Path
    categories: Categories
    images: Mapping[Any, Json]
    annotations: Mapping[Any, Sequence[Json]]

    @classmethod
    def parse(cls, path: Path, data: Any) -> 'InstancesJson':
        """Check the content of a file that is already read; raises DatasetError."""
        try:
            images, categories = _images_and_categories(path, data)
            for image in images.values():
                _ = image['file_name'], int(image['width']), int(image['height'])
            by_image: dict[Any, list[Json]] = {image_id: [] for image_id in images}
            for annotation in data['annotations']:
                _ = int(annotation['category_id']), annotation['segmentation']
                by_image[annotation['image_id']].append(annotation)
        except _FAULTS as error:
            raise DatasetError(
                f'{path} is not an instance JSON in COCO format: {_describe(error)}; expected '
                'images with file_name, width and height, and annotations '
                'with image_id, category_id and segmentation'
            ) from error
        return cls(path, categories, images, by_image)


_FAULTS = (KeyError, TypeError, AttributeError, ValueError, OverflowError)


def _describe(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f'{error} is missing'
    if isinstance(error, (TypeError, AttributeError)):
        # Their texts are about Python, for example "list indices must be integers".
        return 'it is a list, or an entry is of the wrong kind'
    return str(error)


def read_coco_json(path: Path) -> PanopticJson | InstancesJson:
    """Read a panoptic or an instance JSON, whichever the file is.

    Raises DatasetError if it is missing, not JSON or of another format.
    """
    data = _read_json(path)
    annotations = data.get('annotations') if isinstance(data, Mapping) else None
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    if isinstance(first, Mapping) and 'segmentation' in first and 'segments_info' not in first:
        return InstancesJson.parse(path, data)
    return PanopticJson.parse(path, data)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(
            f'{path} does not exist; expected annotations in COCO format there'
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f'{path} is not a readable JSON file: {error}') from error


def _images_and_categories(path: Path, data: Any) -> tuple[dict[Any, Json], Categories]:
    images = {image['id']: image for image in data.get('images') or ()}
    entries = tuple(data.get('categories') or ())
    for entry in entries:
        _ = int(entry['id']), entry['name'], _is_thing(entry, None)
    return images, Categories(path, entries)
