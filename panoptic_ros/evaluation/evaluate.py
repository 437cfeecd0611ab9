"""``panoptic evaluate MODEL DATASET ROOT --split S``: how good a model is on labelled images."""

import argparse
import heapq
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.opening import DEFAULT_SPLITS, open_dataset
from panoptic_ros.datasets.videos import Chosen, open_videos
from panoptic_ros.engines import ENGINES, PRECISIONS, open_engine
from panoptic_ros.errors import DatasetError, LabelSetError, PanopticRosError
from panoptic_ros.evaluation.follow import follow_table, follow_videos
from panoptic_ros.evaluation.joint import JointAreas
from panoptic_ros.evaluation.overlap import ClassOverlap, OverlapResult
from panoptic_ros.evaluation.precision import MaskPrecision, PrecisionResult
from panoptic_ros.evaluation.quality import PanopticQuality, QualityResult
from panoptic_ros.evaluation.report import (
    ScoredImage,
    as_json,
    class_table,
    confusion_table,
    summary_table,
    worst_sheet,
    write_json,
)
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.packing import coco_categories, to_coco
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.segmenter import Segmenter, StageTimes

_WORST = 8  # images on the sheet


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument('model', help='name or folder of a model')
    parser.add_argument('dataset', choices=tuple(DEFAULT_SPLITS))
    parser.add_argument('root', type=Path, nargs='?', help='its folder (synthetic needs none)')
    parser.add_argument('--split', help="part of the data set (its usual one, for example 'val')")
    parser.add_argument('--limit', type=int, help='take that many images, evenly spread')
    parser.add_argument('--json', type=Path, help='write all figures to this file')
    parser.add_argument(
        '--sheet',
        type=Path,
        help='picture of the worst images (out/evaluate/MODEL_DATASET_SPLIT_worst.jpg)',
    )
    parser.add_argument(
        '--save-predictions',
        type=Path,
        metavar='DIR',
        help='write COCO panoptic files that "panoptic score" takes: DIR/panoptic.json',
    )
    parser.add_argument(
        '--video',
        action='store_true',
        help='how well ids follow their objects: VPQ, STQ and id switches with and without '
        'tracking, for the true masks and the predicted ones; --limit then is frames of each '
        'video. Images whose ids differ in the last number only are a video',
    )
    parser.add_argument(
        '--rate', type=float, default=10.0, help='frames per second of videos (%(default)s)'
    )
    parser.add_argument('--engine', default='auto', choices=('auto', *ENGINES))
    parser.add_argument('--precision', default='auto', choices=PRECISIONS)
    parser.add_argument('--threads', type=int, default=0, help='0 for one a core')


def run(args: argparse.Namespace) -> int:
    """Evaluate; print the tables, write what was asked for."""
    model = Model.load(args.model)
    split = args.split or DEFAULT_SPLITS[args.dataset]
    if args.video:
        return _run_video(args, model, split)
    samples, label_set = open_dataset(args.dataset, args.root, split)
    check_label_sets(model.label_set, label_set)
    samples = spread(samples, args.limit)
    times: list[StageTimes] = []
    # OpenCV's threads would fight the engine's for the same cores.
    cv2.setNumThreads(1)
    with ExitStack() as stack:
        engine = stack.enter_context(
            closing(open_engine(model, args.engine, args.threads, args.precision))
        )
        print(f'model {model.card.name}, engine {engine.description}', file=sys.stderr)
        segmenter = Segmenter(model, engine)
        progress = tqdm(samples, unit='image', disable=None)
        pairs = predict(segmenter, progress, times)
        if args.save_predictions:
            writer = stack.enter_context(PredictionWriter(args.save_predictions, label_set))
            pairs = writer.passing(pairs)
        evaluation = evaluate_pairs(pairs, label_set)
    sheet = args.sheet or Path(
        'out', 'evaluate', f'{model.card.name}_{args.dataset}_{split}_worst.jpg'
    )
    stages_ms = median_stages_ms(times)
    print(_tables(evaluation, label_set))
    print('median ms: ' + ', '.join(f'{name} {ms:.2f}' for name, ms in stages_ms.items()))
    if evaluation.worst:
        _write_picture(sheet, worst_sheet(evaluation.worst, label_set))
        print(f'worst images: {sheet}')
    if args.json:
        content = as_json(evaluation.quality, evaluation.overlap, evaluation.precision)
        content |= {
            'model': model.card.name,
            'dataset': args.dataset,
            'split': split,
            'engine': str(engine.description),
            'median_ms': stages_ms,
            'worst_images': {w.sample.image_id: w.PQ for w in evaluation.worst},
        }
        write_json(args.json, content)
    return 0


def _run_video(args: argparse.Namespace, model: Model, split: str) -> int:
    if args.limit is not None and args.limit < 1:
        raise DatasetError(f'the limit is {args.limit}; expected 1 or more frames of each video')
    if args.sheet or args.save_predictions:
        raise DatasetError('--video writes neither --sheet nor --save-predictions; leave them out')
    videos, label_set = open_videos(args.dataset, args.root, split, args.rate)
    check_label_sets(model.label_set, label_set)
    cv2.setNumThreads(1)
    with closing(open_engine(model, args.engine, args.threads, args.precision)) as engine:
        print(f'model {model.card.name}, engine {engine.description}', file=sys.stderr)
        segmenter = Segmenter(model, engine)
        followed = follow_videos(videos, label_set, segmenter=segmenter, limit=args.limit)
        description = str(engine.description)
    print(follow_table(followed))
    if args.json:
        content = {
            'model': model.card.name,
            'dataset': args.dataset,
            'split': split,
            'rate_hz': args.rate,
            'engine': description,
            'followed': [f.as_json() for f in followed],
        }
        write_json(args.json, content)
    return 0


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All figures of a run, and its worst images, the worst first."""

    quality: QualityResult
    overlap: OverlapResult
    precision: PrecisionResult
    worst: tuple[ScoredImage, ...]


def evaluate_pairs(
    pairs: Iterable[tuple[Panoptic, Sample]], label_set: LabelSet, worst: int = _WORST
) -> Evaluation:
    """Evaluate predictions as they come, wherever they come from.

    Parameters
    ----------
    pairs
        Prediction and labelled image, of one size; taken one at a time.
    label_set
        The classes of both.
    worst
        How many of the images with the lowest PQ to keep.

    Raises DatasetError, naming the image, if the sizes of a pair differ.
    """
    quality, overlap = PanopticQuality(label_set), ClassOverlap(label_set)
    precision = MaskPrecision(label_set)
    heap: list[tuple[float, int, ScoredImage]] = []
    for number, (prediction, sample) in enumerate(pairs):
        try:
            joint = JointAreas.of(prediction, sample.truth, sample.crowd_ids)
        except DatasetError as error:
            raise DatasetError(f'image {sample.image_id}: {error}') from error
        of_image = PanopticQuality(label_set)
        of_image.add(joint)
        quality.merge(of_image)
        overlap.add(joint)
        precision.add(joint, prediction.segments.score)
        scored = ScoredImage(of_image.result().PQ, sample, prediction)
        if np.isfinite(scored.PQ):
            # The heap's first is the best of the worst; the number settles ties.
            heapq.heappush(heap, (-scored.PQ, -number, scored))
            if len(heap) > worst:
                heapq.heappop(heap)
    kept = tuple(scored for _, _, scored in sorted(heap, reverse=True, key=lambda h: h[:2]))
    return Evaluation(quality.result(), overlap.result(), precision.result(), kept)


def predict(
    segmenter: Segmenter, samples: Iterable[Sample], times: list[StageTimes] | None = None
) -> Iterator[tuple[Panoptic, Sample]]:
    """Segment labelled images one after the other; append what each took to ``times``."""
    for sample in samples:
        result = segmenter.segment(sample.image_rgb, 'rgb8')
        if times is not None:
            times.append(result.stages_ns)
        yield result.panoptic, sample


def evaluate_model(segmenter: Segmenter, samples: Iterable[Sample]) -> Evaluation:
    """Evaluate a segmenter on labelled images of its own label set."""
    return evaluate_pairs(predict(segmenter, samples), segmenter.model.label_set)


def check_label_sets(model_labels: LabelSet, data_labels: LabelSet) -> None:
    """Raise LabelSetError unless a model's classes are those of the data, in the same order."""
    for index in range(max(len(model_labels), len(data_labels))):
        ours, theirs = (
            (labels.classes[index].name, labels.classes[index].is_thing)
            if index < len(labels)
            else ('no class', False)
            for labels in (model_labels, data_labels)
        )
        if ours != theirs:
            raise LabelSetError(
                f'the model has label set {model_labels.name!r}, the data {data_labels.name!r}: '
                f'class {index} is {ours[0]!r} and {theirs[0]!r}; evaluate on data with the '
                "model's classes"
            )


def spread(samples: Sequence[Sample], limit: int | None) -> Sequence[Sample]:
    """Return ``limit`` samples evenly spread over all, or all of them if None.

    Raises DatasetError if the limit is not above 0.
    """
    if limit is None or limit >= len(samples):
        return samples
    if limit < 1:
        raise DatasetError(f'the limit is {limit}; expected 1 or more images')
    return Chosen(samples, [i * len(samples) // limit for i in range(limit)])


def median_stages_ms(times: Sequence[StageTimes]) -> dict[str, float]:
    """Return the median of each stage, and of their sum, in milliseconds."""
    columns = {
        'preprocess': [t.preprocess_ns for t in times],
        'inference': [t.inference_ns for t in times],
        'fusion': [t.fusion_ns for t in times],
        'total': [t.total_ns for t in times],
    }
    return {name: float(np.median(column)) / 1e6 for name, column in columns.items() if column}


class PredictionWriter:
    """Writes predictions as ``FOLDER/panoptic.json`` and ``FOLDER/panoptic/IMAGE_ID.png``.

    A context manager: the JSON is written on leaving. Raises PanopticRosError where the folder
    cannot be written.
    """

    def __init__(self, folder: Path, label_set: LabelSet) -> None:
        self._folder = folder
        self._label_set = label_set
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def __enter__(self) -> 'PredictionWriter':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        write_json(
            self._folder / 'panoptic.json',
            {
                'images': self._images,
                'annotations': self._annotations,
                'categories': coco_categories(self._label_set),
            },
        )

    def passing(
        self, pairs: Iterable[tuple[Panoptic, Sample]]
    ) -> Iterator[tuple[Panoptic, Sample]]:
        """Write each prediction as it passes."""
        for prediction, sample in pairs:
            self.add(prediction, sample.image_id)
            yield prediction, sample

    def add(self, prediction: Panoptic, image_id: str) -> None:
        """Write one prediction."""
        rgb, segments_info = to_coco(prediction, self._label_set)
        file_name = f'{image_id}.png'
        path = self._folder / 'panoptic' / file_name
        _write_picture(path, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        # COCO's own ids are numbers, and its tools compare them as such.
        is_number = image_id.isdecimal() and str(int(image_id)) == image_id
        official = int(image_id) if is_number else image_id
        width, height = prediction.size_wh
        self._images.append(
            {'id': official, 'file_name': file_name, 'width': width, 'height': height}
        )
        self._annotations.append(
            {'image_id': official, 'file_name': file_name, 'segments_info': segments_info}
        )


def _tables(evaluation: Evaluation, label_set: LabelSet) -> str:
    quality, overlap = evaluation.quality, evaluation.overlap
    return '\n'.join(
        (
            class_table(quality, overlap),
            '',
            confusion_table(quality, overlap, label_set),
            '',
            summary_table(quality),
            f'mean IoU {overlap.mean_iou:.1f}, pixel accuracy {overlap.pixel_accuracy:.1f}, '
            f'mask AP {evaluation.precision.AP:.1f}, {quality.images} images',
        )
    )


def _write_picture(path: Path, bgr: np.ndarray) -> None:
    _, data = cv2.imencode(path.suffix, bgr)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise PanopticRosError(
            f'cannot write {path} ({error.strerror}); choose another path'
        ) from error
