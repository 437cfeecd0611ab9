"""``panoptic fuse MODEL``: append the fusion to the file that GPUs run."""

import argparse
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

from panoptic_ros.engines.golden import golden_fault
from panoptic_ros.engines.onnxruntime import OnnxRuntimeEngine
from panoptic_ros.errors import ModelError
from panoptic_ros.model import Model, add_onnx
from panoptic_ros.segmenter import card_fusion


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument('model', type=Path, help='folder of the model; its file is replaced')
    parser.add_argument(
        '--precision', default='float16', help='which ONNX file (default: %(default)s)'
    )


def add_fuse_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--fuse`` to a command that writes a model."""
    parser.add_argument(
        '--fuse',
        action=argparse.BooleanOptionalAction,
        help='append the fusion to the float16 file, as panoptic fuse does: a GPU returns one map '
        'instead of a mask for each object, and thresholds are fixed (head kind queries: yes, '
        'centres: no)',
    )


def run(args: argparse.Namespace) -> int:
    """Replace the file; raises ModelError if it cannot be fused or is fused already."""
    print(fuse(Model.load(args.model), args.precision))
    return 0


def fuse(model: Model, precision: str = 'float16') -> str:
    """Replace a file of a model by one that ends in the fusion; return a line about it.

    Raises ModelError, and leaves the file as it is, if it cannot be fused, is fused already, or
    gives another map for the golden picture.
    """
    try:
        from panoptic_ros.fusion.graph import fuse_onnx
    except ModuleNotFoundError as error:
        raise ModelError(f"{error}; install it with pip install 'panoptic_ros[import]'") from error
    card = model.card
    if precision in card.fused or card.head not in ('centres', 'queries'):
        raise ModelError(
            f'the {precision} file of model {card.name!r} has head kind {card.head}'
            f'{" and is fused already" if precision in card.fused else ""}; expected head '
            'kind centres or queries without the fusion'
        )
    with tempfile.TemporaryDirectory() as folder:
        plain, target = Path(folder) / 'plain.onnx', Path(folder) / 'fused.onnx'
        shutil.copy(model.onnx_path(precision), plain)
        fuse_onnx(plain, target, card_fusion(model), model.label_set)
        fused = add_onnx(model, precision, target, is_fused=True)
        with closing(OnnxRuntimeEngine(fused, precision=precision)) as engine:
            fault = golden_fault(engine, fused)
        if fault:
            add_onnx(model, precision, plain)
            raise ModelError(
                f'the fused {precision} file of model {card.name!r} gives another map for the '
                f'golden picture: {fault}; use the file without the fusion'
            )
    entry = fused.card.files[precision]
    outputs = ', '.join(f'{name} {spec}' for name, spec in fused.card.outputs(precision).items())
    return f'{fused.folder / entry.path}: {entry.bytes / 1e6:.1f} MB, outputs {outputs}'


def fuse_or_hint(model: Model, is_wanted: bool | None) -> str:
    """Fuse a model that was just written, or say how to; empty if there is nothing to fuse.

    By default (None) models of head kind ``queries`` are fused where that is possible: their masks
    take the CPU longer to fuse than a GPU to compute.
    """
    how_to = hint(model)
    if is_wanted:
        return fuse(model)
    if is_wanted is None and how_to and model.card.head == 'queries':
        try:
            return fuse(model)
        except ModelError as error:
            return f'the CPU makes the map of each frame: {error}'
    return how_to


def hint(model: Model) -> str:
    """Return how to put the fusion on the GPU; empty if it is there or cannot be."""
    card = model.card
    is_possible = card.head in ('centres', 'queries') and card.scale is None
    if not is_possible or 'float16' not in card.files or 'float16' in card.fused:
        return ''
    return (
        f'the CPU makes the map of each frame; "panoptic fuse {model.folder}" moves it to the GPU'
    )
