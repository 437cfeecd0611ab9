"""``panoptic evaluate MODEL DATASET ROOT --split S``: measure a model on labelled images.

Images are used as stored: the EXIF orientation is ignored, as in every command of this package.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
from tqdm import tqdm

from panoptic_ros.cluster import ModelChoice, open_model
from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.coco_writer import CocoPanopticWriter
from panoptic_ros.datasets.opening import DEFAULT_SPLITS, default_split, open_dataset
from panoptic_ros.datasets.subset import evenly_spaced
from panoptic_ros.datasets.videos import open_videos
from panoptic_ros.engines import ENGINES, PRECISIONS, open_engine
from panoptic_ros.errors import DatasetError, LabelSetError, PanopticRosError
from panoptic_ros.evaluation.accuracy import measure_accuracy, median_stages_ms, predict
from panoptic_ros.evaluation.report import as_json, worst_sheet, write_json
from panoptic_ros.evaluation.trackers import score_trackers, tracking_table
from panoptic_ros.image_files import write_image
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.segmenter import Segmenter, StageTimes

Data = TypeVar('Data')


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument('model', help='name or folder of a model')
    parser.add_argument(
        'dataset',
        choices=tuple(DEFAULT_SPLITS),
        help='"coco" is every data set with COCO panoptic or instance JSON, of any categories',
    )
    parser.add_argument(
        'root',
        type=Path,
        nargs='?',
        help='its folder; of coco also the JSON file (synthetic needs none)',
    )
    parser.add_argument('--split', help='part of the data set (its validation split)')
    parser.add_argument(
        '--labels',
        help='label set of the truth, by name or .yaml file (the one of the data set; of coco '
        'the categories of its JSON)',
    )
    parser.add_argument('--limit', type=int, help='number of images, evenly spaced')
    parser.add_argument(
        '--edges',
        type=int,
        metavar='PX',
        help='also the mean IoU of pixels closer than this to a true border',
    )
    parser.add_argument('--json', type=Path, help='write all results to this file')
    parser.add_argument(
        '--sheet',
        type=Path,
        help='picture of the worst images (out/evaluate/MODEL_DATASET_SPLIT_worst.jpg)',
    )
    parser.add_argument(
        '--save-predictions',
        type=Path,
        metavar='DIR',
        help='write COCO panoptic files for "panoptic score": DIR/panoptic.json',
    )
    parser.add_argument(
        '--video',
        action='store_true',
        help='measure tracking: VPQ, STQ and id switches with and without the tracker, for true '
        'and predicted masks. Images whose ids differ only in the last number form a video; '
        '--limit is the number of frames of each video',
    )
    parser.add_argument(
        '--rate', type=float, default=10.0, help='frames per second of videos (%(default)s)'
    )
    parser.add_argument('--engine', default='auto', choices=('auto', *ENGINES))
    parser.add_argument('--precision', default='auto', choices=PRECISIONS)
    parser.add_argument('--threads', type=int, default=0, help='0 for one per core')
    parser.add_argument(
        '--scheduler', metavar='ADDRESS', default='', help='of a dask cluster to run on'
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the tables, write the files that were asked for."""
    model = Model.load(args.model)
    split = args.split or default_split(args.dataset, args.root)
    if args.video:
        return _run_video(args, model, split)
    labels = LabelSet.load(args.labels) if args.labels else None
    samples, label_set = open_matched(
        partial(open_dataset, args.dataset, args.root, split), model.label_set, labels
    )
    samples = evenly_spaced(samples, args.limit)
    times: list[StageTimes] = []
    try:
        with ExitStack() as stack:
            choice = ModelChoice(args.model, args.engine, args.precision, args.threads)
            engine, segment = stack.enter_context(open_model(choice, args.scheduler))
            print(f'model {model.card.name}, engine {engine}', file=sys.stderr)
            pairs = predict(segment, tqdm(samples, unit='image', disable=None), times)
            if args.save_predictions:
                info = {'description': f'panoptic_ros, model {model.card.name}'}
                writer = CocoPanopticWriter(args.save_predictions, label_set, info)
                pairs = _written(stack.enter_context(writer), pairs)
            accuracy = measure_accuracy(pairs, label_set, edge_px=args.edges)
        name = f'{model.card.name}_{args.dataset}_{split}_worst.jpg'
        sheet = args.sheet or Path('out', 'evaluate', name)
        if accuracy.worst:
            write_image(sheet, worst_sheet(accuracy.worst, label_set))
    except OSError as error:
        raise PanopticRosError(
            f'cannot write {error.filename} ({error.strerror}); choose another path'
        ) from error
    stages_ms = median_stages_ms(times)
    print(accuracy.tables(label_set))
    print('median ms: ' + ', '.join(f'{name} {ms:.2f}' for name, ms in stages_ms.items()))
    if accuracy.worst:
        print(f'worst images: {sheet}')
    if args.json:
        content = as_json(accuracy.quality, accuracy.overlap, accuracy.mask_ap)
        content |= {
            'model': model.card.name,
            'dataset': args.dataset,
            'split': split,
            'engine': engine,
            'median_ms': stages_ms,
            'worst_images': {w.sample.image_id: w.PQ for w in accuracy.worst},
        }
        if accuracy.edges is not None:
            content['edges'] = {'pixels': args.edges, 'mIoU': accuracy.edges.mean_iou}
        write_json(args.json, content)
    return 0


def open_matched(
    open_data: Callable[[LabelSet | None], tuple[Data, LabelSet]],
    model_labels: LabelSet,
    data_labels: LabelSet | None = None,
) -> tuple[Data, LabelSet]:
    """Return labelled data and its label set, with the classes in the order of the model's.

    Parameters
    ----------
    open_data
        Takes a label set, None for that of the data, and returns the data and the label set.
    model_labels, data_labels
        The label set of the model, and that of the data if it is not the usual one.

    Raises LabelSetError as :func:`match_label_sets` does.
    """
    data, label_set = open_data(data_labels)
    matched = match_label_sets(model_labels, label_set)
    return (data, label_set) if matched == label_set else open_data(matched)


def match_label_sets(model_labels: LabelSet, data_labels: LabelSet) -> LabelSet:
    """Return the label set of the data with its classes in the order of the model's.

    Raises LabelSetError unless the names and kinds of the classes are the same.
    """
    kinds = {c.name: c.is_thing for c in data_labels.classes}
    for c in model_labels.classes:
        if kinds.get(c.name) != c.is_thing:
            theirs = 'no such class' if c.name not in kinds else 'that class as the other kind'
            raise LabelSetError(
                f'the model has the {"thing" if c.is_thing else "stuff"} class {c.name!r} (label '
                f'set {model_labels.name!r}), the data have {theirs} (label set '
                f'{data_labels.name!r}); evaluate on data with the classes of the model, or name '
                'their label set with --labels'
            )
    ours = set(model_labels.names)
    missing = [name for name in data_labels.names if name not in ours]
    if missing:
        raise LabelSetError(
            f'the data have the classes {", ".join(missing[:5])} (label set '
            f'{data_labels.name!r}), which the model lacks (label set {model_labels.name!r}); '
            'evaluate on data with the classes of the model, or name their label set with --labels'
        )
    by_name = {c.name: c for c in data_labels.classes}
    return replace(data_labels, classes=tuple(by_name[name] for name in model_labels.names))


def _written(
    writer: CocoPanopticWriter, pairs: Iterable[tuple[Panoptic, Sample]]
) -> Iterator[tuple[Panoptic, Sample]]:
    """Write each prediction and pass it on."""
    for prediction, sample in pairs:
        name = sample.image_id
        # Ids in COCO's own files are numbers, and its tools compare them as numbers.
        is_number = name.isdecimal() and str(int(name)) == name
        writer.add(prediction, name, int(name) if is_number else name)
        yield prediction, sample


def _run_video(args: argparse.Namespace, model: Model, split: str) -> int:
    if args.limit is not None and args.limit < 1:
        raise DatasetError(f'the limit is {args.limit}; expected 1 or more frames of each video')
    if args.sheet or args.save_predictions:
        raise DatasetError('--video writes neither --sheet nor --save-predictions; leave them out')
    if args.scheduler:
        raise PanopticRosError('--video follows objects in this process; leave out --scheduler')
    labels = LabelSet.load(args.labels) if args.labels else None
    videos, label_set = open_matched(
        partial(open_videos, args.dataset, args.root, split, args.rate), model.label_set, labels
    )
    cv2.setNumThreads(1)
    with closing(open_engine(model, args.engine, args.threads, args.precision)) as engine:
        print(f'model {model.card.name}, engine {engine.description}', file=sys.stderr)
        segmenter = Segmenter(model, engine)
        scores = score_trackers(videos, label_set, segmenter=segmenter, limit=args.limit)
        description = str(engine.description)
    print(tracking_table(scores))
    if args.json:
        content = {
            'model': model.card.name,
            'dataset': args.dataset,
            'split': split,
            'rate_hz': args.rate,
            'engine': description,
            'followed': [score.as_json() for score in scores],
        }
        write_json(args.json, content)
    return 0
