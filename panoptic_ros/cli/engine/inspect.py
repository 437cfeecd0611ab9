"""``panoptic inspect-engine MODEL``: the layers of the engine, their types and times."""

import argparse
import json
from contextlib import closing
from dataclasses import asdict

from panoptic_ros.cli.engine.build import add_engine_arguments
from panoptic_ros.engines import tensorrt
from panoptic_ros.engines.tensorrt import Layer
from panoptic_ros.model import Model

NAME_WIDTH = 60


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    add_engine_arguments(parser)
    parser.add_argument(
        '--runs', type=int, default=50, help='to time the layers in; 0 for none (%(default)s)'
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of a table')


def run(args: argparse.Namespace) -> int:
    """Print the layers in the order they run."""
    # Also an engine with wrong results: this is how to find out why.
    opened = tensorrt.open_cached(
        Model.load(args.model),
        cache_folder=args.cache,
        use_graph=False,
        library=tensorrt.LIBRARIES[args.engine],
    )
    with closing(opened.engine) as engine:
        layers = engine.layers(max(args.runs, 0))
    print(
        json.dumps([asdict(layer) for layer in layers], indent=2) if args.json else table(layers)
    )
    return 0


def table(layers: list[Layer]) -> str:
    """Return a text table, with the total below it."""
    rows = [f'{"layer":{NAME_WIDTH}} {"kind":16} {"ms":>8}  outputs']
    for layer in layers:
        name = (
            layer.name if len(layer.name) <= NAME_WIDTH else f'{layer.name[: NAME_WIDTH - 3]}...'
        )
        rows.append(
            f'{name:{NAME_WIDTH}} {layer.kind:16} {_time(layer.milliseconds):>8}  '
            f'{", ".join(layer.outputs)}'
        )
    measured = [layer.milliseconds for layer in layers if layer.milliseconds >= 0]
    total = f'{sum(measured):.3f} ms' if measured else 'not timed'
    return '\n'.join([*rows, f'{len(layers)} layers, {total} (one by one, without a CUDA graph)'])


def _time(milliseconds: float) -> str:
    return f'{milliseconds:.4f}' if milliseconds >= 0 else '-'  # NaN was not measured
