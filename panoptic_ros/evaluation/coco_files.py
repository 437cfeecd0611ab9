"""Score predictions in COCO panoptic files against the truth in such files.

The PNGs lie in the folder named like the JSON (``val.json`` and ``val/``), as the COCO panoptic
tools assume, and the results equal those of the tools; see :mod:`.quality` for the definition.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from panoptic_ros.datasets.coco_json import PanopticJson
from panoptic_ros.datasets.reading import read_id_colors
from panoptic_ros.errors import DatasetError
from panoptic_ros.evaluation.classes import ClassList
from panoptic_ros.evaluation.intersections import Intersections, SegmentTable
from panoptic_ros.evaluation.overlap import ClassOverlap, OverlapResult
from panoptic_ros.evaluation.quality import PanopticQuality, QualityResult
from panoptic_ros.packing import rows_of

_FEW_CORES = 4
_LARGE_BLOCK = 31 << 20  # bytes; glibc adapts to blocks of up to 32 MiB
_LARGEST_NUMBER = 1 << 62
_LARGEST_ID = 0xFFFFFF  # three bytes of colour
_Item = TypeVar('_Item')
_Json = Mapping[str, Any]


def prepare_process() -> None:
    """Set OpenCV and the allocator for many small images; for commands, not for libraries."""
    # One image is too little work for OpenCV's threads, which would compete with ours.
    cv2.setNumThreads(1)
    # glibc returns freed blocks of an image's size to the system, and page faults would then
    # dominate. After a larger block was freed, it keeps them.
    np.empty(_LARGE_BLOCK, np.uint8)


@dataclass(frozen=True, eq=False)
class Score:
    """The results for one pair of files.

    ``misstated`` counts the true segments whose area in the JSON differs from the PNG.
    """

    quality: QualityResult
    overlap: OverlapResult
    misstated: int


def score_files(
    truth_json: Path,
    prediction_json: Path,
    truth_folder: Path | None = None,
    prediction_folder: Path | None = None,
    *,
    threads: int | None = None,
    progress: bool = False,
) -> Score:
    """Score predictions on disk.

    Images are matched by the file name in "images" where both files have it, otherwise by image
    id. Every image of the truth must be predicted; further predictions are ignored. The
    categories are those of the truth.

    Parameters
    ----------
    truth_json, prediction_json
        COCO panoptic files.
    truth_folder, prediction_folder
        The folders of the PNGs; the path of the JSON without its suffix if None.
    threads
        Images decoded at once; None for one per core, or for one on few cores with the fast
        decoder, which holds the interpreter lock.
    progress
        Whether to show a bar on standard error.

    Raises
    ------
    DatasetError
        A file is missing or malformed; an image has no prediction, another size, a category
        that the truth lacks, an id in its PNG that its JSON lacks, or a predicted segment
        without pixels. The message names the image.
    """
    truth = PanopticJson.read(truth_json)
    prediction = PanopticJson.read(prediction_json)
    classes = ClassList(truth_json.stem, truth.categories.classes())
    if threads is None and _fast_decoder() and (os.cpu_count() or 1) <= _FEW_CORES:
        threads = 1

    def compare(pair: tuple[_Image, _Image]) -> Intersections:
        of_truth, of_prediction = pair
        true_ids = _read_ids(of_truth)
        predicted_ids = _read_ids(of_prediction)
        try:
            return Intersections.of_ids(
                predicted_ids, of_prediction.table, true_ids, of_truth.table
            )
        except DatasetError as error:
            raise DatasetError(f'image {of_truth.image_id}: {error}') from error

    predicted = match_annotations(truth, prediction)
    truth_folder = truth_folder or truth_json.with_suffix('')
    prediction_folder = prediction_folder or prediction_json.with_suffix('')
    pairs = list(
        zip(
            _images(truth.annotations, truth_folder, classes, 'truth'),
            _images(predicted, prediction_folder, classes, 'prediction'),
            strict=True,
        )
    )
    quality, overlap, misstated = PanopticQuality(classes), ClassOverlap(classes), 0
    images = _in_threads(compare, pairs, threads)
    for image in tqdm(images, total=len(pairs), unit='image', disable=None if progress else True):
        quality.add(image)
        overlap.add(image)
        misstated += int((image.truth_area != image.area.sum(axis=1))[1:].sum())
    return Score(quality.result(), overlap.result(), misstated)


def match_annotations(truth: PanopticJson, prediction: PanopticJson) -> list[_Json]:
    """Return the predicted annotation for each annotation of the truth.

    File names are compared without suffix and, if that fails, without folders. Image ids decide
    only if no file name of the truth occurs in the prediction under another id.

    Raises DatasetError, naming the image, if one has no prediction.
    """
    by_id = {str(a['image_id']): a for a in prediction.annotations}
    matched = [by_id.get(str(a['image_id'])) for a in truth.annotations]
    for with_folders in (True, False):
        true_names = _image_names(truth, with_folders)
        predicted_names = _image_names(prediction, with_folders)
        annotation_of = {name: by_id.get(key) for key, name in predicted_names.items()}
        if not annotation_of.keys() & set(true_names.values()):
            continue
        unique = len(annotation_of) == len(predicted_names)
        if unique and len(set(true_names.values())) == len(true_names):
            matched = [
                annotation_of.get(true_names.get(str(a['image_id']), ''))
                for a in truth.annotations
            ]
            break
    complete: list[_Json] = []
    for annotation, found in zip(truth.annotations, matched, strict=True):
        if found is None:
            image_id = annotation['image_id']
            file_name = truth.images.get(image_id, {}).get('file_name')
            raise DatasetError(
                f'image {image_id}{f" ({file_name})" if file_name else ""}: {prediction.path} has '
                'no prediction for it; every image of the truth needs one'
            )
        complete.append(found)
    return complete


def _image_names(content: PanopticJson, with_folders: bool) -> dict[str, str]:
    """Return the names of camera images by image id, without suffix."""
    names = {}
    for image_id, image in content.images.items():
        if image.get('file_name'):
            path = PurePosixPath(str(image['file_name'])).with_suffix('')
            # The panoptic JSON of Cityscapes names ID_gtFine_leftImg8bit.png.
            for suffix in ('_leftImg8bit', '_gtFine'):
                path = path.with_name(path.name.removesuffix(suffix) or path.name)
            names[str(image_id)] = str(path) if with_folders else path.name
    return names


def _in_threads(
    work: Callable[[_Item], Intersections], items: Sequence[_Item], threads: int | None
) -> Iterator[Intersections]:
    """Map in order; decoding and counting mostly run without the interpreter lock."""
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(work, items)
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, eq=False)
class _Image:
    """One side of one image: the path of its PNG and the segments in its JSON."""

    image_id: str
    path: Path
    table: SegmentTable


def _images(
    annotations: Sequence[_Json], folder: Path, classes: ClassList, side: str
) -> list[_Image]:
    """Check the segments of all images at once; PNGs are not opened."""
    image_ids = [str(a['image_id']) for a in annotations]
    image = np.repeat(np.arange(len(annotations)), [len(a['segments_info']) for a in annotations])
    infos = [info for a in annotations for info in a['segments_info']]
    ids = np.array([_bounded(info['id']) for info in infos], np.int64)
    categories = np.array([_bounded(info['category_id']) for info in infos], np.int64)
    is_crowd = np.array([info.get('iscrowd') in (1, True, '1') for info in infos], bool)
    area = np.array([_stated_area(info) for info in infos], np.int64)

    def refuse(wrong: np.ndarray, values: np.ndarray, message: str) -> None:
        if wrong.any():
            first = image[wrong][0]
            those = np.unique(values[wrong & (image == first)])[:5].tolist()
            raise DatasetError(f'image {image_ids[first]}: the {side} ' + message.format(those))

    order = np.lexsort((ids, image))
    repeated = np.zeros(len(ids), bool)
    repeated[order[1:]] = (np.diff(ids[order]) == 0) & (np.diff(image[order]) == 0)
    # The tools count a predicted segment 0, but 0 is void in the truth.
    smallest = 1 if side == 'truth' else 0
    refuse(
        repeated | (ids < smallest) | (ids > _LARGEST_ID),
        ids,
        f'lists segment ids {{}}; expected {smallest} to {_LARGEST_ID}, each listed once',
    )
    known = np.array([c.category_id for c in classes.classes], np.int64)
    class_id = rows_of(categories, known)
    refuse(class_id < 0, categories, 'has category ids {} that the truth does not declare')
    ends = np.searchsorted(image, np.arange(1, len(annotations)))
    columns = (np.split(column, ends) for column in (ids, class_id, is_crowd, area))
    return [
        _Image(image_id, folder / annotation['file_name'], SegmentTable(*table))
        for image_id, annotation, *table in zip(image_ids, annotations, *columns, strict=True)
    ]


def _bounded(number: Any) -> int:
    """Return a number of JSON, which may be of any size, within the range of int64."""
    return min(max(int(number), -_LARGEST_NUMBER), _LARGEST_NUMBER)


def _stated_area(info: _Json) -> int:
    """Return the area that a JSON states, -1 if it is missing or no number of pixels."""
    area = info.get('area')
    if isinstance(area, (int, float)) and 0 <= area <= _LARGEST_NUMBER:
        return int(area)
    return -1


def _read_ids(image: _Image) -> np.ndarray:
    """Read a COCO panoptic PNG, uint32 [H, W]; the low 24 bits are the segment id."""
    rgb = _decode_fast(image.path)
    if rgb is None:
        rgb = read_id_colors(image.path, image.image_id)
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA).view('<u4')[..., 0]


def _decode_fast(path: Path) -> np.ndarray | None:
    """Return uint8 [H, W, 3] RGB from a decoder several times as fast as OpenCV's.

    None if it is not installed (extra ``bench``) or refuses the file, which OpenCV then judges.
    """
    read = _fast_decoder()
    if read is None:
        return None
    try:
        rgb = np.asarray(read(str(path)))
    except Exception:  # noqa: BLE001  the only type it raises for a file it cannot decode
        return None
    return rgb if rgb.dtype == np.uint8 and rgb.shape[2:] == (3,) else None


@cache
def _fast_decoder() -> Callable[[str], Any] | None:
    try:
        from kornia_rs import io
    except ImportError:
        return None
    return io.read_image
