"""``panoptic tune MODEL DATASET ROOT``: choose the thresholds of a model's fusion."""

import argparse
from contextlib import closing
from functools import partial
from pathlib import Path

from tqdm import tqdm

from panoptic_ros.cli.evaluate import open_matched
from panoptic_ros.datasets.opening import DEFAULT_SPLITS, open_dataset
from panoptic_ros.datasets.subset import evenly_spaced
from panoptic_ros.engines import ENGINES, PRECISIONS, open_engine
from panoptic_ros.errors import ModelError
from panoptic_ros.evaluation.quality import PanopticQuality, QualityResult
from panoptic_ros.evaluation.tuning import Trial, tune
from panoptic_ros.fusion import Fusion
from panoptic_ros.model import Model, write_thresholds
from panoptic_ros.segmenter import Segmenter


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        'Choose the thresholds of fusion that give the highest panoptic quality on labelled '
        'images. Take images that the final evaluation does not see, for example those of '
        'training. The outputs of the network are held in memory.'
    )
    parser.add_argument('model', help='name or folder of a model')
    parser.add_argument('dataset', choices=tuple(DEFAULT_SPLITS), help='as of panoptic evaluate')
    parser.add_argument('root', type=Path, nargs='?', help='its folder (synthetic needs none)')
    parser.add_argument('--split', default='train', help='part of the data set (%(default)s)')
    parser.add_argument(
        '--limit', type=int, default=300, help='number of images, evenly spaced (%(default)s)'
    )
    parser.add_argument('--engine', default='auto', choices=('auto', *ENGINES))
    parser.add_argument('--precision', default='auto', choices=PRECISIONS)
    parser.add_argument('--threads', type=int, default=0, help='0 for one per core')
    parser.add_argument('--write', action='store_true', help="write them to the model's card")


def run(args: argparse.Namespace) -> int:
    """Choose the thresholds; return the exit status."""
    model = Model.load(args.model)
    if args.write and model.card.fused:
        raise ModelError(
            f'the {", ".join(model.card.fused)} file of model {model.card.name!r} ends in the '
            'fusion, with its thresholds as constants; tune the model before panoptic fuse'
        )
    samples, label_set = open_matched(
        partial(open_dataset, args.dataset, args.root, args.split), model.label_set
    )
    samples = evenly_spaced(samples, args.limit)
    engine = open_engine(model, args.engine, threads=args.threads, precision=args.precision)
    with closing(engine):
        segmenter = Segmenter(model, engine)
        inferred = []
        for sample in tqdm(samples, unit='image', desc='Running the network', disable=None):
            inference = segmenter.infer(segmenter.prepare(sample.image_rgb, 'rgb8'))
            inferred.append((inference, sample.truth, sample.crowd_ids))

    def quality(fusion: Fusion) -> QualityResult:
        result = PanopticQuality(label_set)
        for inference, truth, crowd_ids in inferred:
            result.update(segmenter.fuse(inference, fusion).panoptic, truth, crowd_ids)
        return result.result()

    def report(trial: Trial) -> None:
        values = ', '.join(f'{value:g}: {PQ:.2f}' for value, PQ in sorted(trial.PQ.items()))
        print(f'{trial.name}: {trial.chosen:g} ({values})')

    before = quality(segmenter.fusion)
    chosen = tune(segmenter.fusion, lambda fusion: quality(fusion).PQ, report=report)
    after = quality(chosen)
    for title, result in (('present', before), ('chosen', after)):
        print(
            f'{title}: PQ {result.PQ:.1f}, things {result.PQ_things:.1f}, '
            f'stuff {result.PQ_stuff:.1f}, {result.images} images'
        )
    changed = {k: v for k, v in vars(chosen).items() if v != getattr(segmenter.fusion, k)}
    print('changed: ' + (' '.join(f'{k}={v:g}' for k, v in changed.items()) or 'nothing'))
    if args.write and changed:
        how = f'panoptic tune {model.card.name} {args.dataset} ROOT --split {args.split}'
        card = write_thresholds(model, vars(chosen), f'{how} --limit {len(samples)}')
        print(f'{model.folder}: the card has {len(card.fusion)} thresholds')
    return 0
