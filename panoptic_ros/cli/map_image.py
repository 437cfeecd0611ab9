"""``panoptic map SOURCE``: a large picture, a stack or a volume in, a panoptic map out.

::

    OUT/labels.tif        class and instance id, georeferenced, tiled, with overviews
    OUT/polygons.gpkg     outline, class, score, area and centroid of each object
    OUT/polygons.geojson  the same in degrees (qupath.geojson for slides)
    OUT/classes.csv       counts, areas and densities by class and zone
    OUT/objects.csv       one row an object
    OUT/overview.png      a small picture of the whole

NIfTI files and folders of DICOM files are volumes; ``--stack z`` takes the pages of a TIFF as one,
``--stack time`` as frames.

::

    OUT/class.nii.gz, OUT/instance.nii.gz  of a volume, with its affine
    OUT/objects.csv, OUT/classes.csv       volumes in mm3
    OUT/labels.tif, OUT/tracks.csv         of frames: class and instance id that stays
"""

import argparse
import re
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from panoptic_ros.cluster import ModelChoice
from panoptic_ros.engines import ENGINES, PRECISIONS
from panoptic_ros.errors import SourceError
from panoptic_ros.large.bands import model_segmenter
from panoptic_ros.large.jobs import (
    BANDS,
    PlannedMap,
    open_store,
    plan_grid,
    plan_map,
    run_maps,
)
from panoptic_ros.large.mapping import POLYGON_FORMATS, TABLE_FORMATS, Map, Results
from panoptic_ros.large.reading.pictures import ReadOptions
from panoptic_ros.large.reading.pyramids import SLIDE_SUFFIXES, TIFF_SUFFIXES
from panoptic_ros.large.reading.stacks import is_volume, open_stack
from panoptic_ros.large.volumes import (
    link_planes,
    segment_planes,
    stitch_planes,
    track_planes,
    write_frames,
    write_volume,
)
from panoptic_ros.model import Model
from panoptic_ros.ros.arguments import positive_number

SUFFIXES = (*SLIDE_SUFFIXES, *TIFF_SUFFIXES, '.png', '.jpg', '.jpeg', '.jp2', '.vrt')
RESULT_NAMES = {'labels.tif', 'change.tif', 'overview.png'}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument('source', type=Path, help='a picture, or a folder of pictures')
    parser.add_argument('--out', type=Path, help='folder for the results (out/map/SOURCE)')
    add_model_arguments(parser)
    add_reading_arguments(parser)
    parser.add_argument(
        '--polygons',
        type=_polygons,
        metavar='FORMATS',
        help='some of gpkg, geojson, qupath, with commas between, or none (gpkg and geojson; for '
        'pictures in micrometres gpkg and qupath)',
    )
    parser.add_argument(
        '--stuff-polygons', action='store_true', help='also outline areas without instances'
    )
    parser.add_argument('--tables', choices=(*TABLE_FORMATS, 'both'), default='csv')
    parser.add_argument('--zones', type=Path, help='a polygon layer to count by')
    parser.add_argument(
        '--stack', choices=('time', 'z'), help='what the pages of a TIFF are (one picture)'
    )
    parser.add_argument(
        '--rate',
        type=positive_number,
        default=1.0,
        help='frames per second of --stack time (%(default)s)',
    )
    parser.add_argument('--resume', action='store_true', help='go on with an interrupted run')
    parser.add_argument('--scheduler', metavar='ADDRESS', help='of a dask cluster to run on')


def add_model_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add the arguments that choose a model and its windows."""
    parser.add_argument('--model', required=required, help='name or folder')
    parser.add_argument('--engine', default='auto', choices=('auto', *ENGINES))
    parser.add_argument('--precision', default='auto', choices=PRECISIONS)
    parser.add_argument('--threads', type=int, default=0, help='0 for one a core')
    parser.add_argument(
        '--window',
        type=_window,
        metavar='PX',
        help="side of a window, or WIDTHxHEIGHT, in pixels of the resolution (the model's input)",
    )
    parser.add_argument(
        '--overlap', type=int, metavar='PX', help='of neighbouring windows (an eighth of a window)'
    )


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how a file is read."""
    parser.add_argument(
        '--resolution', default='', help='0.5um, 0.3m, or levelN of the file (its own pixels)'
    )
    parser.add_argument(
        '--pixel-size', default='', help='of the file, where it does not say it: 0.25um'
    )
    parser.add_argument(
        '--bands', type=_bands, default=(), help='which are red, green and blue: 3,2,1; or one'
    )
    parser.add_argument(
        '--range',
        type=float,
        nargs=2,
        metavar=('LOW', 'HIGH'),
        help='values that become black and white',
    )


def run(args: argparse.Namespace) -> int:
    """Map all pictures of the source, or the stack."""
    model = Model.load(args.model)
    out = args.out or Path('out', 'map', args.source.name.split('.')[0])
    is_stack = args.stack or is_volume(args.source)
    try:
        (_map_stack if is_stack else _map_pictures)(args, model, out)
    except KeyboardInterrupt:
        print('panoptic: what is finished is kept; go on with --resume', file=sys.stderr)
        raise
    return 0


def _map_pictures(args: argparse.Namespace, model: Model, out: Path) -> None:
    plans = []
    for source in _sources(args.source):
        plan = plan_from(args, source, model)
        folder = out / source.relative_to(args.source) if args.source.is_dir() else out
        polygons = args.polygons
        if polygons is None:
            polygons = ('gpkg', 'qupath' if plan.georeference.unit == 'um' else 'geojson')
        tables = TABLE_FORMATS if args.tables == 'both' else (args.tables,)
        plans.append((plan, Results(folder, polygons, args.stuff_polygons, tables, args.zones)))
    for (plan, results), found in zip(
        plans, run_maps(plans, model, args.resume, args.scheduler or ''), strict=True
    ):
        print(_report(plan, found))
        print(f'results in {results.folder}')


def _map_stack(args: argparse.Namespace, model: Model, out: Path) -> None:
    for option in ('scheduler', 'zones', 'resolution', 'pixel_size', 'bands'):
        if getattr(args, option):
            raise SourceError(
                f'--{option.replace("_", "-")} is for single pictures and {str(args.source)!r} is '
                'a stack; leave it out'
            )
    stack = open_stack(args.source)
    value_range = tuple(args.range) if args.range else None
    grid = plan_grid(stack.size_wh, args.window or model.card.size_wh, args.overlap)
    choice = model_choice(args)
    options = asdict(grid) | {'value_range': value_range}
    store = open_store(out / BANDS, args.source, model, choice, options, args.resume)
    total = len(store.missing(range(stack.count * len(grid.rows)))) * len(grid.columns)
    segmenter = choice.open()
    with closing(segmenter.engine), tqdm(total=total, unit='window', disable=None) as bar:
        segment = model_segmenter(segmenter)
        segment_planes(stack, segment, grid, value_range, store, bar.update)
    planes = stitch_planes(stack, grid, store)
    if args.stack == 'time':
        instance, tracks = track_planes(planes, model.label_set, args.rate)
        write_frames(planes, instance, tracks, out)
        print(f'{stack.count} frames, {len(tracks["id"])} tracks')
    else:
        found = link_planes(planes)
        write_volume(found, stack, model.label_set, out)
        print(f'{stack.count} planes, {len(found.class_id)} objects')
    store.remove()
    print(f'results in {out}')


def model_choice(args: argparse.Namespace) -> ModelChoice:
    """Return the model that the arguments choose."""
    return ModelChoice(args.model, args.engine, args.precision, args.threads)


def plan_from(args: argparse.Namespace, source: Path, model: Model) -> PlannedMap:
    """Lay out the windows of a picture as the arguments ask for."""
    reading = ReadOptions(
        args.resolution, args.pixel_size, args.bands, tuple(args.range) if args.range else None
    )
    return plan_map(
        source, reading, model_choice(args), args.window or model.card.size_wh, args.overlap
    )


def _sources(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    # Results of an earlier run are not pictures.
    found = [
        path
        for path in sorted(source.rglob('*'))
        if path.suffix.lower() in SUFFIXES
        and path.name not in RESULT_NAMES
        and not path.name.startswith('.')
    ]
    if not found:
        raise SourceError(
            f'folder {str(source)!r} has no pictures; expected files ending in '
            f'{", ".join(SUFFIXES)}'
        )
    return found


def _report(plan: PlannedMap, found: Map) -> str:
    grid, unit = plan.job.grid, plan.georeference.unit
    width, height = plan.georeference.pixel_size_xy
    lines = [
        f'{plan.job.source.name}: {grid.size_wh[0]} x {grid.size_wh[1]} pixels of '
        f'{width:g} x {height:g} {unit}, {len(grid.columns) * len(grid.rows)} windows'
    ]
    if unit == 'px':
        lines.append('the file does not say how large its pixels are: areas are in pixels')
    table = found.classes
    lines.append(f'{"class":<20}{"count":>10}{"area " + unit + "2":>18}{"share %":>9}')
    for row in np.flatnonzero((table['zone'] == '') & (table['area_px'] > 0)):
        lines.append(
            f'{table["class"][row]:<20}{table["count"][row]:>10}'
            f'{table[f"area_{unit}2"][row]:>18.6g}{100 * table["share"][row]:>9.2f}'
        )
    return '\n'.join(lines)


def _polygons(text: str) -> tuple[str, ...]:
    names = () if text == 'none' else tuple(text.split(','))
    unknown = set(names) - set(POLYGON_FORMATS)
    if unknown:
        raise argparse.ArgumentTypeError(
            f'{text!r} names {", ".join(sorted(unknown))}; expected some of '
            f'{", ".join(POLYGON_FORMATS)} with commas between, or none'
        )
    return names


def _bands(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r'\d+(,\d+,\d+)?', text):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not one or three band numbers; expected for example 3,2,1'
        )
    return tuple(int(part) for part in text.split(','))


def _window(text: str) -> tuple[int, int]:
    found = re.fullmatch(r'(\d+)(?:x(\d+))?', text)
    if not found or min(int(n) for n in found.groups(found[1])) < 2:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a window; expected pixels, for example 256 or 640x384'
        )
    width, height = (int(n) for n in found.groups(found[1]))
    return width, height
