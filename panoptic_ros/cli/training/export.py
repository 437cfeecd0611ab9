"""The command ``panoptic export RUN --out models/NAME``."""

import argparse
import datetime
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from panoptic_ros.cli.engine.fuse import add_fuse_argument, fuse_or_hint
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.fusion import Fusion
from panoptic_ros.model import Model
from panoptic_ros.model.card import TrainingData
from panoptic_ros.ros.arguments import size_wh
from panoptic_ros.training.config import NETWORK_FIELDS, TrainingConfig
from panoptic_ros.training.export import blend, export_model
from panoptic_ros.training.golden_image import golden_image
from panoptic_ros.training.head_kinds import HEAD_KINDS
from panoptic_ros.training.run_folder import (
    LABELS,
    final_weights,
    open_run,
    run_labels,
    write_labels,
)
from panoptic_ros.training.warm_start import import_weights

_DATA = {
    'cityscapes': TrainingData(
        'Cityscapes, 1,971 images of 12 cities at 640x320',
        'uploaded as CC BY 4.0; the original Cityscapes terms are for non-commercial research: '
        'check both before you ship a product',
    ),
    'synthetic': TrainingData('synthetic streets of panoptic_ros', 'Apache-2.0'),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = 'Export a training run to a model folder: ONNX files, card, golden file.'
    parser.add_argument('run', help='folder of the training run')
    parser.add_argument('--out', help='model folder, for example models/NAME')
    parser.add_argument(
        '--weights',
        type=Path,
        metavar='FILE.npz',
        help='instead of a model, write the weights alone, in float16, for panoptic train --init',
    )
    parser.add_argument(
        '--size', type=size_wh, default=(640, 320), metavar='WxH', help='input size (640x320)'
    )
    parser.add_argument(
        '--fusion',
        nargs='*',
        default=[],
        metavar='NAME=VALUE',
        help='thresholds for the card, for example min_stuff_area_fraction=0.002',
    )
    parser.add_argument(
        '--semantic-stride',
        type=int,
        choices=(1, 2, 3, 4),
        help='input pixels per cell of the class map (default: 2)',
    )
    parser.add_argument(
        '--peaks', type=int, help="most objects per input (default: the configuration's)"
    )
    parser.add_argument(
        '--blend',
        metavar='MODEL',
        help='mix in the weights of the exported model that the run started from',
    )
    parser.add_argument(
        '--blend-share',
        type=float,
        default=0.3,
        metavar='SHARE',
        help='share of the mixed-in weights, 0..1 (default: %(default)s)',
    )
    add_fuse_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Export a run; return the exit status."""
    if (args.out is None) == (args.weights is None):
        raise PanopticRosError('expected either --out or --weights')
    config, state = open_run(args.run)
    labels = run_labels(args.run, config)
    if args.weights is not None:
        arrays = {name: _narrow(value.numpy()) for name, value in final_weights(state).items()}
        np.savez_compressed(args.weights, class_names=np.array(labels.names), **arrays)
        print(f'{args.weights}  {args.weights.stat().st_size / 1e6:.1f} MB')
        return 0
    if config.head != 'centres' and (args.peaks or args.semantic_stride):
        raise PanopticRosError(
            f'the heads of {args.run} are {config.head}; --peaks and --semantic-stride apply to '
            'centres only'
        )
    width, height = args.size
    if width % 32 or height % 32:
        raise PanopticRosError(f'--size is {width}x{height}; expected multiples of 32')
    fusion = parse_fusion(args.fusion, HEAD_KINDS[config.head].fusion)
    network = config.build_network(len(labels), pretrained=False)
    network.load_state_dict(final_weights(state))
    provenance = _provenance(config, state)
    if args.blend:
        other = config.build_network(len(labels), pretrained=False)
        blended_in = Model.load(args.blend)
        import_weights(other, blended_in)
        network = blend(network, other, args.blend_share)
        provenance['blended'] = f'{args.blend_share:g} of {blended_in.card.name}'
    folder = Path(args.out)
    if not config.label_set:
        folder.mkdir(parents=True, exist_ok=True)
        write_labels(folder, labels)
    model = export_model(
        network,
        folder,
        golden_image=golden_image(config.dataset, args.size),
        label_set=config.label_set or LABELS,
        scale=config.image_scale or None,
        peaks=args.peaks or config.peaks,
        semantic_stride=args.semantic_stride or 2,
        fusion=fusion,
        provenance=provenance,
        data=(_training_data(config),),
    )
    for precision, entry in model.card.files.items():
        print(f'{model.folder / entry.path}  {precision}  {entry.bytes / 1e6:.1f} MB')
    note = fuse_or_hint(model, args.fuse)
    if note:
        print(note)
    return 0


def _narrow(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float16) if array.dtype == np.float32 else array


def _provenance(config: TrainingConfig, state: dict) -> dict[str, str]:
    provenance = {
        'trained': f'{state["images_seen"]} images in {state["seconds"] / 60:.0f} minutes',
        'initial_weights': state.get('initial_weights', 'not known'),
        'command': f'panoptic train config/training/{config.name}.yaml --data ROOT',
        'exported': datetime.date.today().isoformat(),
        'network': json.dumps({name: getattr(config, name) for name in NETWORK_FIELDS}),
    }
    if config.made_share:
        provenance['synthetic_share'] = f'{config.made_share:.2f}'
    return provenance


def _training_data(config: TrainingConfig) -> TrainingData:
    if config.data_name:
        return TrainingData(config.data_name, config.data_terms or 'not stated')
    unknown = TrainingData(config.dataset, 'see the terms of the data set')
    return _DATA.get(config.dataset, unknown)


def parse_fusion(texts: Sequence[str], default: Fusion) -> Fusion:
    """Return the default with ``NAME=VALUE`` texts applied.

    Raises PanopticRosError for an unknown or unusable one.
    """
    try:
        pairs = (text.split('=', 1) for text in texts)
        kinds = {name: type(value) for name, value in vars(default).items()}
        values = {name: kinds.get(name, str)(value) for name, value in pairs}
        return replace(default, **values)
    except (TypeError, ValueError) as error:
        raise PanopticRosError(
            f'--fusion {" ".join(texts)} is not usable ({error}); expected NAME=VALUE of '
            f'{", ".join(vars(default))}'
        ) from error
