"""The command ``panoptic quantize MODEL DATASET ROOT``."""

import argparse
from pathlib import Path

from tqdm import tqdm

from panoptic_ros.datasets.opening import open_dataset
from panoptic_ros.datasets.subset import evenly_spaced
from panoptic_ros.model import Model
from panoptic_ros.training.quantize import quantize


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        'Add an int8 file to a model, calibrated on images of a data set. It is used with '
        '--precision int8 or, in the node, engine_precision: int8.'
    )
    parser.add_argument('model', help='folder of a model, for example models/NAME')
    parser.add_argument('dataset', help='data set to calibrate on, as for panoptic evaluate')
    parser.add_argument('root', type=Path, nargs='?', help='its folder (synthetic needs none)')
    parser.add_argument('--split', default='train', help='part of the data set (%(default)s)')
    parser.add_argument(
        '--images', type=int, default=64, help='number of images, evenly spaced (%(default)s)'
    )


def run(args: argparse.Namespace) -> int:
    """Quantize a model; return the exit status."""
    model = Model.load(args.model)
    samples, _ = open_dataset(args.dataset, args.root, args.split)
    samples = evenly_spaced(samples, args.images)
    progress = tqdm(samples, unit='image', desc='ranges', disable=None)
    command = f'panoptic quantize {model.card.name} {args.dataset} ROOT --split {args.split}'
    model = quantize(
        model, [sample.image_rgb for sample in progress], f'{command} --images {len(samples)}'
    )
    entry = model.card.files['int8']
    print(f'{model.folder / entry.path}  int8  {entry.bytes / 1e6:.1f} MB')
    return 0
