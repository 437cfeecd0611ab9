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
from typing import Any

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
    predicted = {str(a['image_id']): a for a in prediction.annotations}
    if threads is None and _fast_decoder() and (os.cpu_count() or 1) <= _FEW_CORES:
        threads = 1
    # The fast decoder keeps the interpreter's lock: threads would only wait for one another.
    read = _read_ids_fast if threads == 1 else _read_ids
    truth_folder = truth_folder or truth_json.with_suffix('')
    prediction_folder = prediction_folder or prediction_json.with_suffix('')

    def compare(annotation: Mapping[str, Any]) -> JointAreas:
        image_id = str(annotation['image_id'])
        if image_id not in predicted:
            raise DatasetError(
                f'image {image_id}: {prediction_json} has no prediction for it; every image of '
                'the truth needs one'
            )
        try:
            return _compare(
                truth_folder,
                annotation,
                prediction_folder,
                predicted[image_id],
                label_set,
                read,
            )
        except DatasetError as error:
            raise DatasetError(f'image {image_id}: {error}') from error

    quality, overlap, misstated = PanopticQuality(label_set), ClassOverlap(label_set), 0
    joints = _in_threads(compare, truth.annotations, threads)
    for joint in tqdm(
        joints,
        total=len(truth.annotations),
        unit='image',
        disable=None if progress else True,
    ):
        quality.add(joint)
        overlap.add(joint)
        misstated += int((joint.truth_area != joint.area.sum(axis=1))[1:].sum())
    return Score(quality.result(), overlap.result(), misstated)


def _in_threads(
    work: Any, items: Sequence[Mapping[str, Any]], threads: int | None
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


def _compare(
    truth_folder: Path,
    truth: Mapping[str, Any],
    prediction_folder: Path,
    prediction: Mapping[str, Any],
    label_set: LabelSet,
    read: Callable[[Path], np.ndarray],
) -> JointAreas:
    return JointAreas.of_ids(
        read(prediction_folder / prediction['file_name']),
        _table(prediction['segments_info'], label_set, 'prediction'),
        read(truth_folder / truth['file_name']),
        _table(truth['segments_info'], label_set, 'truth'),
    )


def _read_ids(path: Path) -> np.ndarray:
    """Read a COCO panoptic picture as segment ids, uint32 [H, W]."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        what = 'is not a picture that OpenCV can read' if path.is_file() else 'does not exist'
        raise DatasetError(f'file {path} {what}')
    return _pack(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA))


def _read_ids_fast(path: Path) -> np.ndarray:
    """Do the same with the fast decoder if it is installed and takes the file."""
    rgb = _decode_fast(path)
    return _read_ids(path) if rgb is None else _pack(cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA))


def _pack(rgba: np.ndarray) -> np.ndarray:
    words = rgba.view('<u4')[..., 0]
    words &= np.uint32(0xFFFFFF)
    return words


def _decode_fast(path: Path) -> np.ndarray | None:
    """Return uint8 [H, W, 3] RGB from a decoder that is several times as fast as OpenCV's.

    None if it is not installed (extra ``bench``) or refuses the file, for OpenCV to judge.
    """
    read = _fast_decoder()
    if read is None:
        return None
    try:
        picture = np.asarray(read(str(path)))
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


def _table(
    segments_info: Sequence[Mapping[str, Any]], label_set: LabelSet, side: str
) -> SegmentTable:
    ids = np.array([info['id'] for info in segments_info], np.int64)
    unique, count = np.unique(ids, return_counts=True)
    if (count > 1).any() or (ids == 0).any():
        wrong = unique[(count > 1) | (unique == 0)].tolist()
        raise DatasetError(
            f'the {side} lists segment ids {wrong[:5]}; each must be above 0 and listed once'
        )
    categories = np.array([info['category_id'] for info in segments_info], np.int64)
    class_id = label_set.class_ids_of(categories)
    if (class_id == VOID).any():
        raise DatasetError(
            f'the {side} has category ids {np.unique(categories[class_id == VOID]).tolist()} that '
            f'the truth does not declare'
        )
    return SegmentTable(
        ids,
        class_id,
        np.array([bool(info.get('iscrowd', 0)) for info in segments_info], bool),
        np.array([info.get('area', -1) for info in segments_info], np.int64),
    )
