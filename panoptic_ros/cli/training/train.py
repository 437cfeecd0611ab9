"""The command ``panoptic train [CONFIG] --data ROOT``."""

import argparse
import ctypes
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.opening import default_split, open_dataset
from panoptic_ros.datasets.street.scene import synthetic_samples
from panoptic_ros.datasets.subset import Subset
from panoptic_ros.errors import DatasetError, PanopticRosError
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.resources import resource
from panoptic_ros.training.config import HEAD_FIELDS, NETWORK_FIELDS, TrainingConfig
from panoptic_ros.training.head_kinds import HEAD_KINDS
from panoptic_ros.training.run_folder import CHECKPOINT, open_run
from panoptic_ros.training.trainer import Trainer
from panoptic_ros.untrusted import read_yaml

# Of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8

_MADE_SEED = 1000  # the demo and the tests use small seeds: training never shows their streets
_HELD_OUT = 10  # one of this many images validates where there is no validation split


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        'Train a panoptic network, or fine-tune one with --init. An interrupted run continues '
        'with the same command.'
    )
    parser.add_argument(
        'config',
        nargs='?',
        help='YAML file, for example config/training/street-lite.yaml; with --init it may be left '
        'out (config/training/fine-tune.yaml)',
    )
    parser.add_argument('--data', required=True, help='root folder of the data set')
    parser.add_argument('--split', default='train', help='split to train on (default: train)')
    parser.add_argument(
        '--validation-split',
        help="split to validate on (default: the data set's usual one; without one, a tenth of "
        'the training images is held out)',
    )
    parser.add_argument(
        '--labels', help='label set: a name or a YAML file (default: as configured)'
    )
    parser.add_argument(
        '--out', help='folder of the run (default: ~/.cache/panoptic_ros/training/NAME)'
    )
    parser.add_argument('--images', type=int, help='images to see in total')
    parser.add_argument('--minutes', type=float, help='training time after which the run ends')
    parser.add_argument('--made-share', type=float, help='share of synthetic images')
    parser.add_argument('--validate-every', type=int, help='images between validations, 0 never')
    parser.add_argument(
        '--image-scale',
        type=float,
        help='network pixels per image pixel, for objects of few pixels; the random scale of '
        'training is multiplied by it',
    )
    parser.add_argument(
        '--weights',
        help="weights of a new backbone: imagenet, none or, for timm, a file's path",
    )
    parser.add_argument(
        '--init',
        help='start from the folder of another run, an exported model (a name like street-lite, '
        'or a folder with a card.yaml) or a file of panoptic export --weights',
    )
    parser.add_argument(
        '--head',
        choices=tuple(HEAD_KINDS),
        help='kind of the heads (default: as configured, or that of --init)',
    )
    parser.add_argument('--device', default='cpu', help='cpu (default) or cuda')


def run(args: argparse.Namespace) -> int:
    """Train; return the exit status."""
    keep_freed_memory()
    config = read_config(args)
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise PanopticRosError('--device cuda needs an NVIDIA GPU and a CUDA build of torch')
    folder = Path(args.out or Path.home() / '.cache/panoptic_ros/training' / config.name)
    if config.block_channels and not args.init and not (folder / CHECKPOINT).is_file():
        raise PanopticRosError(
            f'{args.config} has block_channels, for which there are no ImageNet weights; give '
            '--init a run with these widths (panoptic prune makes one) to start from'
        )
    real, validation, label_set = _open_data(config, args)
    made: Sequence[Sample] = ()
    if config.made_share > 0:
        made = synthetic_samples(_MADE_SEED, config.made_images)
    trainer = Trainer(config, folder, args.device, label_set)
    if args.init and trainer.images_seen == 0:
        if (Path(args.init) / CHECKPOINT).is_file():
            trainer.start_from_run(args.init, real)
        elif Path(args.init).suffix == '.npz':
            trainer.start_from_file(Path(args.init), real)
        else:
            trainer.start_from_model(Model.load(args.init), real)
    print(
        f'{folder}: {trainer.images_seen} of {config.images} images seen, '
        f'{len(real)} training images, {len(made)} synthetic ones at {config.made_share:.0%}, '
        f'{len(validation)} validation images, {len(trainer.label_set)} classes'
    )
    try:
        trainer.run(real, made, validation, report=tqdm.write)
    except KeyboardInterrupt:
        trainer.save()
        print(f'\nstopped after {trainer.images_seen} images; the same command continues')
        return 130
    return 0


def read_config(args: argparse.Namespace) -> TrainingConfig:
    """Return the configuration of the file, the options and the network of ``--init``.

    Raises PanopticRosError if one is missing or not usable.
    """
    if args.config is None and args.init is None:
        raise PanopticRosError('expected a training configuration, or --init to fine-tune')
    path = Path(args.config or resource('config', 'training', 'fine-tune.yaml'))
    try:
        data = read_yaml(path)
        if not isinstance(data, dict):
            raise ValueError(f'{path} is not a mapping of training options')
        if args.init and not data.keys() & (set(NETWORK_FIELDS) - set(HEAD_FIELDS)):
            data = _network_of(args.init) | data
        changes = {
            'images': args.images,
            'minutes': args.minutes,
            'made_share': args.made_share,
            'validate_every': args.validate_every,
            'label_set': args.labels,
            'head': args.head,
            'backbone_weights': args.weights,
        }
        data |= {key: value for key, value in changes.items() if value is not None}
        config = TrainingConfig.of(data, str(path))
        if args.image_scale is not None:
            scale = tuple(args.image_scale * factor for factor in config.augmentation.scale)
            augmentation = replace(config.augmentation, scale=scale)
            config = replace(config, image_scale=args.image_scale, augmentation=augmentation)
        return config
    except (OSError, ValueError, TypeError) as error:
        raise PanopticRosError(f'the training configuration is not usable: {error}') from error


def _network_of(init: str) -> dict[str, Any]:
    """Return the :data:`NETWORK_FIELDS` of a run or a model, and the scale of its images."""
    if (Path(init) / CHECKPOINT).is_file():
        config, _ = open_run(init)
        names = (*NETWORK_FIELDS, 'image_scale')
        return {name: getattr(config, name) for name in names}
    if Path(init).suffix == '.npz':
        raise PanopticRosError(f'{init} holds weights alone; expected a training configuration')
    card = Model.load(init).card
    if 'network' not in card.provenance:
        raise PanopticRosError(
            f'the card of model {card.name!r} does not describe its network; expected a training '
            'configuration'
        )
    return json.loads(card.provenance['network']) | {'image_scale': card.scale or 0.0}


def _open_data(
    config: TrainingConfig, args: argparse.Namespace
) -> tuple[Sequence[Sample], Sequence[Sample], LabelSet]:
    """Return training images, validation images in random order, and their classes."""
    given = LabelSet.load(config.label_set) if config.label_set else None
    training, label_set = open_dataset(config.dataset, args.data, args.split, given)
    try:
        split = args.validation_split or default_split(config.dataset, args.data)
    except DatasetError:
        split = args.split
    validation: Sequence[Sample]
    if split == args.split:
        held_out = range(0, len(training), _HELD_OUT)
        kept = [index for index in range(len(training)) if index % _HELD_OUT]
        training, validation = Subset(training, kept), Subset(training, held_out)
    else:
        validation, _ = open_dataset(config.dataset, args.data, split, label_set)
    if config.dataset == 'synthetic':
        training = list(training)  # rendering takes longer than a training step
    # In random order the first ones are a fair sample.
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(validation), generator=generator).tolist()
    return training, Subset(validation, order), given or label_set


def keep_freed_memory() -> None:
    """Make glibc keep freed memory; do nothing with another C library.

    On a CPU every step frees gigabytes and allocates them again. If they went back to the system
    in between, the kernel would clear all their pages again.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        mallopt(_M_ARENA_MAX, 1)
