"""Data sets in the formats of COCO: COCO itself, and every data set published like it.

Panoptic truth is a JSON and a folder of PNGs whose colours are segment ids (Kirillov et al.,
Panoptic Segmentation, CVPR 2019). Instance truth is a JSON with polygons or RLE masks. The
official layout is::

    ROOT/annotations/panoptic_val2017.json
    ROOT/annotations/panoptic_val2017/000000000139.png
    ROOT/annotations/instances_val2017.json
    ROOT/val2017/000000000139.jpg

:func:`open_coco` also takes the layouts that annotation tools export.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_ros.datasets import LabelledImages
from panoptic_ros.datasets.coco_json import (
    BACKGROUND,
    InstancesJson,
    PanopticJson,
    read_coco_json,
)
from panoptic_ros.datasets.reading import read_id_colors, read_rgb
from panoptic_ros.errors import DatasetError
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.packing import from_coco
from panoptic_ros.panoptic import NO_INSTANCE, Panoptic

_PREFIXES = ('panoptic_', 'instances_')
_USUAL_SPLITS = ('val2017', 'val', 'valid', 'validation')


class CocoPanoptic(LabelledImages):
    """Images with truth in COCO panoptic format.

    Parameters
    ----------
    annotations
        The panoptic JSON, or its path.
    png_folder
        The folder of the PNGs that it names.
    image_folder
        The folder of the camera images.
    label_set
        The classes of its category ids; made of the JSON's categories if None.

    Raises
    ------
    DatasetError
        At construction, if the JSON is missing, malformed or of other classes. On access, if a
        file is missing, an image and its truth differ in size, or a PNG has a segment id that
        the JSON lacks; the message names the image.
    """

    def __init__(
        self,
        annotations: Path | PanopticJson,
        png_folder: Path,
        image_folder: Path,
        label_set: LabelSet | None = None,
    ) -> None:
        if isinstance(annotations, Path):
            annotations = PanopticJson.read(annotations)
        self._json = annotations
        self.label_set = label_set or annotations.categories.label_set()
        annotations.categories.check(self.label_set)
        self._png_folder = png_folder
        self._image_folder = image_folder

    def __len__(self) -> int:
        return len(self._json.annotations)

    def image_id(self, index: int) -> str:
        """Return the id of an image as text."""
        return str(self._json.annotations[index]['image_id'])

    def image(self, index: int) -> np.ndarray:
        """Read the image without its truth, uint8 [H, W, 3] RGB."""
        return read_rgb(self._image_path(index), self.image_id(index))

    def truth(self, index: int) -> tuple[Panoptic, np.ndarray]:
        """Read the truth without the image: the map, and the ids of its groups, uint16 [n]."""
        annotation = self._json.annotations[index]
        image_id = self.image_id(index)
        rgb = read_id_colors(self._png_folder / annotation['file_name'], image_id)
        entry = self._json.images.get(annotation['image_id'], {})
        height, width = rgb.shape[:2]
        stated = (entry.get('width', width), entry.get('height', height))
        if stated != (width, height):
            raise DatasetError(
                f'image {image_id}: its panoptic PNG is {width}x{height}, the JSON states '
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


class CocoInstances(LabelledImages):
    """Images with truth in COCO instance format.

    Smaller objects lie on top of larger ones where masks overlap. Pixels without an object have
    the stuff class ``background`` if the label set has it, otherwise they are void.

    Parameters
    ----------
    annotations
        The instance JSON.
    image_folder
        The folder of the camera images.
    label_set
        The classes of its category ids; made of the JSON's categories if None (see
        :meth:`Categories.instance_label_set`).

    Raises
    ------
    DatasetError
        At construction, if the categories are unusable or no object has a mask. On access, if a
        file is missing or a mask malformed; the message names the image.
    """

    def __init__(
        self, annotations: InstancesJson, image_folder: Path, label_set: LabelSet | None = None
    ) -> None:
        self._json = annotations
        self._image_ids = list(annotations.images)
        self.label_set = label_set or annotations.categories.instance_label_set()
        annotations.categories.check(self.label_set)
        objects = [o for found in annotations.annotations.values() for o in found]
        if objects and not any(o['segmentation'] for o in objects):
            raise DatasetError(
                f'{annotations.path} has boxes but no masks; expected polygons or RLE in '
                '"segmentation"'
            )
        self._image_folder = image_folder

    def __len__(self) -> int:
        return len(self._image_ids)

    def image_id(self, index: int) -> str:
        """Return the id of an image as text."""
        return str(self._image_ids[index])

    def image(self, index: int) -> np.ndarray:
        """Read the image without its truth, uint8 [H, W, 3] RGB."""
        entry = self._json.images[self._image_ids[index]]
        return read_rgb(self._image_folder / entry['file_name'], self.image_id(index))

    def truth(self, index: int) -> tuple[Panoptic, np.ndarray]:
        """Read the truth without the image: the map, and the ids of its groups, uint16 [n]."""
        image_id = self._image_ids[index]
        entry = self._json.images[image_id]
        size_wh = (int(entry['width']), int(entry['height']))
        try:
            return from_instances(self._json.annotations[image_id], size_wh, self.label_set)
        except ValueError as error:
            raise DatasetError(f'image {image_id}: {error}') from error


def from_instances(
    annotations: Sequence[Mapping[str, Any]], size_wh: tuple[int, int], label_set: LabelSet
) -> tuple[Panoptic, np.ndarray]:
    """Draw the objects of a COCO instance file into a panoptic map.

    Parameters
    ----------
    annotations
        Mappings with ``category_id``, ``segmentation`` (polygons, or RLE as text or list) and
        optionally ``iscrowd``. An empty segmentation is left out.
    size_wh
        Width and height of the image in pixels.
    label_set
        The classes.

    Returns
    -------
    The map, and the instance ids that are groups, uint16 [n].

    Raises ValueError for an unknown category or a malformed mask.
    """
    width, height = size_wh
    background = VOID
    if BACKGROUND in label_set.names:
        background = label_set.class_id(BACKGROUND)
    semantic = np.full((height, width), background, np.uint8)
    instance = np.zeros((height, width), np.uint16)
    drawn = []
    for annotation in annotations:
        mask = _decode_mask(annotation['segmentation'], size_wh)
        category_id = int(annotation['category_id'])
        class_id = int(label_set.class_ids_of([category_id])[0])
        if class_id == VOID:
            raise ValueError(
                f'an object has category id {category_id}; label set {label_set.name!r} has '
                f'{label_set.category_ids.tolist()}'
            )
        is_crowd = bool(annotation.get('iscrowd') or 0)
        is_thing = bool(label_set.is_thing[class_id])
        # Stuff lies below groups, groups below objects, large objects below small ones.
        drawn.append(((is_thing, not is_crowd, -int(mask.sum())), class_id, is_crowd, mask))
    crowd_ids = []
    drawn.sort(key=lambda entry: entry[0])
    for number, ((is_thing, *_), class_id, is_crowd, mask) in enumerate(drawn, 1):
        semantic[mask] = class_id
        instance[mask] = number if is_thing else NO_INSTANCE
        if is_crowd and is_thing:
            crowd_ids.append(number)
    return Panoptic.from_maps(semantic, instance, label_set), np.array(crowd_ids, np.uint16)


def _decode_mask(segmentation: Any, size_wh: tuple[int, int]) -> np.ndarray:
    """Return the mask of polygons or RLE, bool [H, W]."""
    try:
        from pycocotools import mask as coco_mask
    except ModuleNotFoundError as error:
        raise DatasetError(
            "COCO instance files need pycocotools: pip install 'panoptic_ros[coco]'"
        ) from error
    width, height = size_wh
    if isinstance(segmentation, list):
        if segmentation and isinstance(segmentation[0], int | float):
            segmentation = [segmentation]  # one polygon, as some tools write it
        # A polygon of fewer than three corners has no area, and pycocotools takes it for a box.
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        if not polygons:
            return np.zeros((height, width), bool)
        rle = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    else:
        if not isinstance(segmentation, Mapping) or not {'counts', 'size'} <= segmentation.keys():
            raise ValueError(
                f'a segmentation is {str(segmentation)[:60]!r}; expected polygons or RLE'
            )
        if list(segmentation['size']) != [height, width]:
            raise ValueError(
                f'a mask has size {segmentation["size"]}, the image {[height, width]}; expected '
                'one size'
            )
        rle = dict(segmentation)
        if isinstance(rle['counts'], list):
            rle = coco_mask.frPyObjects(rle, height, width)
    return coco_mask.decode(rle).astype(bool)


def open_coco(
    root: str | Path, split: str | None = None, label_set: LabelSet | None = None
) -> CocoPanoptic | CocoInstances:
    """Open a data set in a layout of COCO, with panoptic or instance annotations.

    Parameters
    ----------
    root
        The folder of the data set, or its JSON file.
    split
        The part of the data set, for example ``val2017``; see :func:`default_coco_split` for
        None. Panoptic annotations are preferred to instance annotations of the same split.
    label_set
        The classes of the category ids. If None, the categories of the JSON; the shipped set
        ``coco`` if these are the 133 of COCO.

    Raises DatasetError if there are no annotations, and as the readers do.
    """
    root = Path(root)
    path = root if root.suffix == '.json' else _find_annotations(root, split)
    annotations = read_coco_json(path)
    if root.suffix == '.json':
        split = split or _split_of(path)
        root = path.parent.parent if path.parent.name == 'annotations' else path.parent
    images = annotations.images
    first = next(iter(images.values()), {}).get('file_name', '')
    image_folder = _find_image_folder(root, split or _split_of(path), path.parent, first)
    if isinstance(annotations, InstancesJson):
        return CocoInstances(annotations, image_folder, label_set)
    if label_set is None:
        label_set = annotations.categories.label_set()
        shipped = LabelSet.load('coco')
        if _signature(shipped) == _signature(label_set):
            label_set = shipped  # which has roles and heights as well
    return CocoPanoptic(annotations, path.with_suffix(''), image_folder, label_set)


def default_coco_split(root: str | Path) -> str:
    """Return the split to take where none is named: the usual validation split, or the only one.

    Raises DatasetError if there is none, or the choice is not clear.
    """
    root = Path(root)
    if root.suffix == '.json':
        return _split_of(root)
    found = _splits(root)
    for split in _USUAL_SPLITS:
        if split in found:
            return split
    if len(found) == 1:
        return found[0]
    if not found:
        raise DatasetError(
            f'{root} has no COCO annotations; expected annotations/panoptic_SPLIT.json or '
            'annotations/instances_SPLIT.json there, or give the path of the JSON file'
        )
    raise DatasetError(f'{root} has the splits {", ".join(found)}; choose one with --split')


def _find_annotations(root: Path, split: str | None) -> Path:
    split = split or default_coco_split(root)
    folders = (root / 'annotations', root)
    candidates = [
        *(folder / f'{prefix}{split}.json' for prefix in _PREFIXES for folder in folders),
        *(folder / f'{split}.json' for folder in folders),
        root / split / '_annotations.coco.json',
    ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    known = ', '.join(_splits(root)) or 'none'
    raise DatasetError(
        f'{root} has no COCO annotations of split {split!r}: {candidates[0]} does not exist, nor '
        f'does {candidates[2].name}; splits found: {known}'
    )


def _splits(root: Path) -> list[str]:
    """Return the splits whose annotations are in a folder, sorted."""
    found = set()
    for folder in (root / 'annotations', root):
        for path in folder.glob('panoptic_*.json'):
            if path.with_suffix('').is_dir():
                found.add(_split_of(path))
        found.update(_split_of(path) for path in folder.glob('instances_*.json'))
        usual = ('train', *_USUAL_SPLITS)
        found.update(split for split in usual if (folder / f'{split}.json').is_file())
    found.update(path.parent.name for path in root.glob('*/_annotations.coco.json'))
    return sorted(found)


def _split_of(path: Path) -> str:
    if path.name == '_annotations.coco.json':
        return path.parent.name
    for prefix in _PREFIXES:
        if path.stem.startswith(prefix):
            return path.stem.removeprefix(prefix)
    return path.stem


def _find_image_folder(root: Path, split: str, json_folder: Path, file_name: str) -> Path:
    """Return the folder that has the first image; the official one if none has it."""
    official = root / split
    candidates = (
        official,
        root / 'images' / split,
        official / 'images',
        root / 'images',
        root / 'input_images',
        root,
        json_folder,
        json_folder / 'images',
    )
    return next((c for c in candidates if file_name and (c / file_name).is_file()), official)


def _signature(label_set: LabelSet) -> tuple[tuple[str, bool, int], ...]:
    return tuple((c.name, c.is_thing, c.category_id) for c in label_set.classes)
