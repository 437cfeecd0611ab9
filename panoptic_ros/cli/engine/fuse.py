"""``panoptic fuse MODEL``: append the fusion to the file that GPUs run."""

import argparse
import tempfile
from pathlib import Path

from panoptic_ros.errors import ModelError
from panoptic_ros.model import Model, add_onnx
from panoptic_ros.segmenter import card_fusion


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument('model', type=Path, help='folder of the model; its file is replaced')
    parser.add_argument(
        '--precision', default='float16', help='which ONNX file (default: %(default)s)'
    )


def run(args: argparse.Namespace) -> int:
    """Replace the file; raises ModelError if it cannot be fused or is fused already."""
    try:
        from panoptic_ros.fusion.graph import fuse_onnx
    except ModuleNotFoundError as error:
        raise ModelError(f"{error}; install it with pip install 'panoptic_ros[import]'") from error
    model = Model.load(args.model)
    card = model.card
    if args.precision in card.fused or card.head not in ('centres', 'queries'):
        raise ModelError(
            f'the {args.precision} file of model {card.name!r} has head kind {card.head}'
            f'{" and is fused already" if args.precision in card.fused else ""}; expected head '
            'kind centres or queries without the fusion'
        )
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / 'fused.onnx'
        fuse_onnx(model.onnx_path(args.precision), target, card_fusion(model), model.label_set)
        fused = add_onnx(model, args.precision, target, is_fused=True)
    entry = fused.card.files[args.precision]
    outputs = ', '.join(f'{name} {spec}' for name, spec in card_outputs(fused, args.precision))
    print(f'{fused.folder / entry.path}: {entry.bytes / 1e6:.1f} MB, outputs {outputs}')
    return 0


def card_outputs(model: Model, precision: str) -> list[tuple[str, str]]:
    """Return name, type and shape of each output of a file."""
    return [(name, str(spec)) for name, spec in model.card.outputs(precision).items()]
