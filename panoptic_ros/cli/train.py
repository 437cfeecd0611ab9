"""The command ``panoptic train CONFIG --data ROOT``."""

import argparse
import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.opening import open_dataset
from panoptic_ros.datasets.street.scene import synthetic_samples
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.model import Model
from panoptic_ros.training.training import CHECKPOINT, Trainer, TrainingConfig

# Of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8

_MADE_SEED = 1000  # the demo and the tests use small seeds: it never shows a street trained on


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        'Train a panoptic network; interrupt it when you like, the same command goes on.'
    )
    parser.add_argument('config', help='YAML file, for example config/training/street-lite.yaml')
    parser.add_argument('--data', required=True, help='root folder of the data set')
    parser.add_argument('--split', default='train', help='split to train on (default: train)')
    parser.add_argument(
        '--validation-split', help="split to validate on (the data set's usual one)"
    )
    parser.add_argument(
        '--out', help='folder of the run (default: ~/.cache/panoptic_ros/training/NAME)'
    )
    parser.add_argument('--images', type=int, help='images to see in all, instead of the config')
    parser.add_argument('--made-share', type=float, help='share of synthetic images')
    parser.add_argument('--validate-every', type=int, help='images between validations, 0 never')
    parser.add_argument(
        '--init',
        help='where the weights of a new run come from: the folder of another run, or a model '
        'that was exported (a name like street-lite, or a folder with a card.yaml)',
    )
    parser.add_argument('--device', default='cpu', help='cpu (default) or cuda')


def run(args: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    keep_freed_memory()
    try:
        config = TrainingConfig.load(
            args.config,
            images=args.images,
            made_share=args.made_share,
            validate_every=args.validate_every,
        )
    except (OSError, ValueError, TypeError) as error:
        raise PanopticRosError(f'the training configuration is not usable: {error}') from error
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise PanopticRosError('--device cuda needs an NVIDIA GPU and a CUDA build of torch')
    folder = Path(args.out or Path.home() / '.cache/panoptic_ros/training' / config.name)
    if config.block_channels and not args.init and not (folder / CHECKPOINT).is_file():
        raise PanopticRosError(
            f'{args.config} has block_channels, for which there are no ImageNet weights; give '
            '--init a run with these widths (panoptic prune makes one) to start from'
        )
    real, _ = open_dataset(config.dataset, args.data, args.split)
    validation, _ = open_dataset(config.dataset, args.data, args.validation_split)
    validation = Shuffled(validation)
    made: Sequence[Sample] = ()
    if config.made_share > 0:
        made = synthetic_samples(_MADE_SEED, config.made_images)
    trainer = Trainer(config, folder, args.device)
    if args.init and trainer.images_seen == 0:
        if (Path(args.init) / CHECKPOINT).is_file():
            trainer.load_weights(Path(args.init) / CHECKPOINT, real)
        else:
            trainer.load_model(Model.load(args.init), real)
    print(
        f'{folder}: {trainer.images_seen} of {config.images} images seen, '
        f'{len(real)} training images, {len(made)} synthetic ones at {config.made_share:.0%}'
    )
    try:
        trainer.run(real, made, validation, report=tqdm.write)
    except KeyboardInterrupt:
        trainer.save()
        print(f'\nstopped after {trainer.images_seen} images; the same command goes on from here')
        return 130
    return 0


def keep_freed_memory() -> None:
    """Have glibc keep what this process frees; nothing where the C library is another.

    On a CPU every step frees gigabytes and takes them again. Given back to the system between,
    all their pages would be cleared anew.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)
        mallopt(_M_ARENA_MAX, 1)


class Shuffled(Sequence[Sample]):
    """A sequence in a fixed random order, so that its first part is a fair sample of it."""

    def __init__(self, samples: Sequence[Sample], seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._samples = samples
        self._order = torch.randperm(len(samples), generator=generator).tolist()

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[self._order[index]]
