"""``panoptic score TRUTH.json PREDICTION.json``: Panoptic Quality of COCO panoptic files.

The pictures lie in the folder of the JSON's name (``val.json`` and ``val/``), as the COCO
panoptic tools assume. The figures are theirs, in percent; see :mod:`.quality` for the definition.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from panoptic_ros.datasets.coco import PanopticJson
from panoptic_ros.errors import DatasetError
from panoptic_ros.evaluation.joint import JointAreas, SegmentTable
from panoptic_ros.evaluation.overlap import ClassOverlap, OverlapResult
from panoptic_ros.evaluation.quality import PanopticQuality, QualityResult
from panoptic_ros.evaluation.report import as_json, class_table, summary_table, write_json
from panoptic_ros.labels import VOID, LabelSet

_FEW_CORES = 4
_LARGE_BLOCK = 31 << 20  # bytes; glibc learns from blocks of up to 32 MiB
_LARGEST_ID = 0xFFFFFF  # three bytes of colour
_Item = TypeVar('_Item')


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument('truth', type=Path, help='panoptic JSON of the truth')
    parser.add_argument('prediction', type=Path, help='panoptic JSON of the predictions')
    parser.add_argument(
        '--truth-folder', type=Path, help="the truth's pictures (the JSON's path without .json)"
    )
    parser.add_argument('--prediction-folder', type=Path, help='the predicted pictures (likewise)')
    parser.add_argument('--json', type=Path, help='write all figures to this file')
    parser.add_argument('--threads', type=int, help='images in work at once (one a core)')


def run(args: argparse.Namespace) -> int:
    """Print the official table and the one by class."""
    if args.threads is not None and args.threads < 1:
        raise DatasetError(f'--threads is {args.threads}; expected 1 or more')
    prepare_process()
    score = score_files(
        args.truth,
        args.prediction,
        args.truth_folder,
        args.prediction_folder,
        threads=args.threads,
        progress=True,
    )
    print(f'{class_table(score.quality, score.overlap)}\n')
    print(summary_table(score.quality))
    print(f'mean IoU {score.overlap.mean_iou:.1f}, {score.quality.images} images')
    if score.misstated:
        print(
            f'note: {score.misstated} true segments state another area in the JSON than their '
            'picture has; the stated one counts, as in the COCO panoptic tools',
            file=sys.stderr,
        )
    if args.json:
        write_json(args.json, as_json(score.quality, score.overlap))
    return 0


def prepare_process() -> None:
    """Set OpenCV and the allocator for many small pictures; for commands, not for libraries."""
    # One image is too little work for OpenCV's threads, and they would fight ours.
    cv2.setNumThreads(1)
    # glibc returns a freed block of a picture's size to the system, and every page of the next
    # picture costs a fault: most of the time, where pages are dear. Once it has seen a larger
    # block go, it keeps them.
    np.empty(_LARGE_BLOCK, np.uint8)


@dataclass(frozen=True, eq=False)
class Score:
    """The figures of one pair of files.

    ``misstated`` counts the true segments whose JSON states another area than the picture has.
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

    Parameters
    ----------
    truth_json, prediction_json
        COCO panoptic files. The categories are those of the truth. Every image of the truth
        must be predicted; further predictions are ignored.
    truth_folder, prediction_folder
        Where the pictures are; the JSON's path without its suffix if None.
    threads
        Images in work at once; None for what is fastest: one for each core, or one where there
        are few cores and the fast decoder is installed.
    progress
        Whether to show a bar on standard error.

    Raises
    ------
    DatasetError
        A file is missing or malformed; an image has no prediction, another size, a category
        that the truth's file lacks, an id in its picture that its JSON lacks, or a predicted
        segment without pixels. The message names the image.
    """
    truth = PanopticJson.read(truth_json)
    prediction = PanopticJson.read(prediction_json)
    label_set = truth.label_set()
    annotation_of = {str(a['image_id']): a for a in prediction.annotations}
    predicted = []
    for annotation in truth.annotations:
        image_id = str(annotation['image_id'])
        if image_id not in annotation_of:
            raise DatasetError(
                f'image {image_id}: {prediction_json} has no prediction for it; every image of '
                'the truth needs one'
            )
        predicted.append(annotation_of[image_id])
    if threads is None and _fast_decoder() and (os.cpu_count() or 1) <= _FEW_CORES:
        threads = 1
    # The fast decoder keeps the interpreter's lock: threads would only wait for one another.
    read = _read_ids_fast if threads == 1 else _read_ids
    truth_folder = truth_folder or truth_json.with_suffix('')
    prediction_folder = prediction_folder or prediction_json.with_suffix('')

    def compare(pair: tuple[_Picture, _Picture]) -> JointAreas:
        of_truth, of_prediction = pair
        try:
            return JointAreas.of_ids(
                read(of_prediction.path), of_prediction.table, read(of_truth.path), of_truth.table
            )
        except DatasetError as error:
            raise DatasetError(f'image {of_truth.image_id}: {error}') from error

    pairs = list(
        zip(
            _pictures(truth.annotations, truth_folder, label_set, 'truth'),
            _pictures(predicted, prediction_folder, label_set, 'prediction'),
            strict=True,
        )
    )
    quality, overlap, misstated = PanopticQuality(label_set), ClassOverlap(label_set), 0
    joints = _in_threads(compare, pairs, threads)
    for joint in tqdm(joints, total=len(pairs), unit='image', disable=None if progress else True):
        quality.add(joint)
        overlap.add(joint)
        misstated += int((joint.truth_area != joint.area.sum(axis=1))[1:].sum())
    return Score(quality.result(), overlap.result(), misstated)


def _in_threads(
    work: Callable[[_Item], JointAreas], items: Sequence[_Item], threads: int | None
) -> Iterator[JointAreas]:
    """Map in order; reading and counting release the interpreter's lock for most of their time."""
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(work, items)
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, eq=False)
class _Picture:
    """One side of one image: where its picture is, and what the JSON says of it."""

    image_id: str
    path: str
    table: SegmentTable


def _pictures(
    annotations: Sequence[Mapping[str, Any]], folder: Path, label_set: LabelSet, side: str
) -> list[_Picture]:
    """Check what the JSON says, the segments of all images at once; pictures are not opened."""
    image_ids = [str(a['image_id']) for a in annotations]
    image = np.repeat(np.arange(len(annotations)), [len(a['segments_info']) for a in annotations])
    infos = [info for a in annotations for info in a['segments_info']]
    ids = np.array([info['id'] for info in infos], np.int64)
    categories = np.array([info['category_id'] for info in infos], np.int64)
    is_crowd = np.array([bool(info.get('iscrowd', 0)) for info in infos], bool)
    area = np.array([info.get('area', -1) for info in infos], np.int64)

    def refuse(wrong: np.ndarray, values: np.ndarray, message: str) -> None:
        if wrong.any():
            first = image[wrong][0]
            those = np.unique(values[wrong & (image == first)])[:5].tolist()
            raise DatasetError(f'image {image_ids[first]}: the {side} ' + message.format(those))

    order = np.lexsort((ids, image))
    repeated = np.zeros(len(ids), bool)
    repeated[order[1:]] = (np.diff(ids[order]) == 0) & (np.diff(image[order]) == 0)
    refuse(
        repeated | (ids < 1) | (ids > _LARGEST_ID),
        ids,
        f'lists segment ids {{}}; each must be above 0, at most {_LARGEST_ID}, and listed once',
    )
    class_id = label_set.class_ids_of(categories)
    refuse(class_id == VOID, categories, 'has category ids {} that the truth does not declare')
    ends = np.searchsorted(image, np.arange(1, len(annotations)))
    columns = (np.split(column, ends) for column in (ids, class_id, is_crowd, area))
    return [
        _Picture(image_id, f'{folder}/{annotation["file_name"]}', SegmentTable(*table))
        for image_id, annotation, *table in zip(image_ids, annotations, *columns, strict=True)
    ]


def _read_ids(path: str) -> np.ndarray:
    """Read a COCO panoptic picture, uint32 [H, W]; the low 24 bits are the segment id."""
    bgr = cv2.imread(path, cv2.IMREAD_COLOR)
    if bgr is None:
        what = (
            'is not a picture that OpenCV can read' if Path(path).is_file() else 'does not exist'
        )
        raise DatasetError(f'file {path} {what}')
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA).view('<u4')[..., 0]


def _read_ids_fast(path: str) -> np.ndarray:
    """Do the same with the fast decoder if it is installed and takes the file."""
    rgb = _decode_fast(path)
    if rgb is None:
        return _read_ids(path)
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA).view('<u4')[..., 0]


def _decode_fast(path: str) -> np.ndarray | None:
    """Return uint8 [H, W, 3] RGB from a decoder that is several times as fast as OpenCV's.

    None if it is not installed (extra ``bench``) or refuses the file, for OpenCV to judge.
    """
    read = _fast_decoder()
    if read is None:
        return None
    try:
        picture = np.asarray(read(path))
    except Exception:  # noqa: BLE001  the only type it raises for a file it cannot decode
        return None
    return picture if picture.dtype == np.uint8 and picture.shape[2:] == (3,) else None


@cache
def _fast_decoder() -> Callable[[str], Any] | None:
    try:
        from kornia_rs import io
    except ImportError:
        return None
    return io.read_image
