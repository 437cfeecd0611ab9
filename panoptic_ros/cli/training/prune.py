"""The command ``panoptic prune RUN --data ROOT --out FOLDER``."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from panoptic_ros.datasets.opening import open_dataset
from panoptic_ros.datasets.subset import evenly_spaced
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.training.pruning import prune
from panoptic_ros.training.run_folder import (
    CHECKPOINT,
    final_weights,
    open_run,
    run_labels,
    write_labels,
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "Narrow the blocks of a trained network's EfficientNet-Lite backbone to make it faster. "
        'Then train with the block_channels that it prints and --init OUT.'
    )
    parser.add_argument('run', help='folder of the training run')
    parser.add_argument('--data', required=True, help='root folder of the data set')
    parser.add_argument('--split', default='train', help='split to measure on (default: train)')
    parser.add_argument('--out', required=True, help='folder for the narrower weights')
    parser.add_argument(
        '--share',
        type=float,
        default=0.8,
        help="share of the blocks' computation that stays, 0..1 (default: %(default)s)",
    )
    parser.add_argument(
        '--without-detail', action='store_true', help='also remove the detail at stride 2'
    )
    parser.add_argument(
        '--images',
        type=int,
        default=64,
        help='number of images to measure on (default: %(default)s)',
    )


def run(args: argparse.Namespace) -> int:
    """Prune a run; return the exit status."""
    if not 0 < args.share < 1:
        raise PanopticRosError(f'--share is {args.share:g}; expected between 0 and 1')
    if args.images < 1:
        raise PanopticRosError(f'--images is {args.images}; expected 1 or more')
    config, state = open_run(args.run)
    target = Path(args.out) / CHECKPOINT
    if target.exists():
        raise PanopticRosError(f'{target} exists; name another folder with --out')
    if not config.backbone.startswith('efficientnet-lite'):
        raise PanopticRosError(
            f'{args.run} has backbone {config.backbone}; expected an EfficientNet-Lite'
        )
    weights = final_weights(state)
    labels = run_labels(args.run, config)
    if args.without_detail:
        config = replace(config, detail_channels=0, trained_part='')
        weights = {k: v for k, v in weights.items() if not k.startswith('semantic_head.detail.')}
    network = config.build_network(len(labels), pretrained=False)
    network.load_state_dict(weights)
    samples, _ = open_dataset(config.dataset, args.data, args.split)
    chosen = evenly_spaced(samples, args.images)
    images = (_batch_of(sample.image_rgb) for sample in tqdm(chosen, unit='image'))
    pruned, widths = prune(network, images, args.share)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not config.label_set:
        write_labels(target.parent, labels)
    torch.save(
        {
            'average': pruned,
            'config': asdict(replace(config, block_channels=tuple(widths))),
            'images_seen': state['images_seen'],
            'seconds': state['seconds'],
            'initial_weights': state.get('initial_weights', 'not known'),
        },
        target,
    )
    print(f'{target}\nblock_channels: {widths}')
    return 0


def _batch_of(image_rgb: np.ndarray) -> Tensor:
    """Return float [1, 3, H, W], cut to multiples of 32."""
    height, width = (side // 32 * 32 for side in image_rgb.shape[:2])
    return torch.from_numpy(image_rgb[None, :height, :width]).permute(0, 3, 1, 2).float()
