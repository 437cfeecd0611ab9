"""``panoptic change BEFORE AFTER``: what changed between two label rasters or two pictures.

::

    OUT/transitions.csv   area by class before and class after
    OUT/objects.csv       objects that are the same, changed, vanished or appeared
    OUT/change.tif        1 where the class changed, the class before, the class after
    OUT/change.gpkg       outlines of what changed (change.geojson: the same in degrees)
    OUT/change.png        a small picture of the whole

With ``--model`` both sources are pictures, which are mapped first, to OUT/before and OUT/after.
"""

import argparse
from pathlib import Path

import numpy as np

from panoptic_ros.cli.map_image import add_model_arguments, add_reading_arguments, plan_from
from panoptic_ros.large.change import STATES, Change, compare
from panoptic_ros.large.jobs import run_maps
from panoptic_ros.large.mapping import Results
from panoptic_ros.model import Model


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument('before', type=Path, help='a label raster, or a picture with --model')
    parser.add_argument('after', type=Path, help='the same place at another date')
    parser.add_argument('--out', type=Path, help='folder for the results (out/change/AFTER)')
    add_model_arguments(parser, required=False)
    add_reading_arguments(parser)
    parser.add_argument('--resume', action='store_true', help='go on with an interrupted run')


def run(args: argparse.Namespace) -> int:
    """Compare; map the two pictures first if there is a model."""
    out = args.out or Path('out', 'change', args.after.stem)
    rasters = [args.before, args.after]
    if args.model:
        model = Model.load(args.model)
        folders = [out / 'before', out / 'after']
        plans = [
            (plan_from(args, source, model), Results(folder))
            for source, folder in zip(rasters, folders, strict=True)
        ]
        list(run_maps(plans, model, args.resume))
        rasters = [folder / 'labels.tif' for folder in folders]
    before, after = rasters
    print(_report(compare(before, after, out, ('gpkg', 'geojson'))))
    print(f'results in {out}')
    return 0


def _report(change: Change) -> str:
    table = change.transitions
    unit = next(name for name in table if name.startswith('area_') and name != 'area_px')
    lines = [f'{"before":<20}{"after":<20}{unit:>16}']
    order = np.argsort(-table[unit])
    for row in order[table['before'][order] != table['after'][order]]:
        lines.append(
            f'{table["before"][row]:<20}{table["after"][row]:<20}{table[unit][row]:>16.6g}'
        )
    counts = [np.count_nonzero(change.objects['state'] == state) for state in STATES]
    texts = (f'{count} {state}' for count, state in zip(counts, STATES, strict=True))
    lines.append('objects: ' + ', '.join(texts))
    return '\n'.join(lines)
