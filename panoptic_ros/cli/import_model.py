"""``panoptic import CHECKPOINT|FILE.onnx --out models/NAME``: another project's model."""

import argparse
from pathlib import Path

from panoptic_ros.cli.engine.fuse import add_fuse_argument, fuse_or_hint
from panoptic_ros.errors import ModelError
from panoptic_ros.importing.detectors.importer import import_onnx
from panoptic_ros.importing.families.family import INSTANCE, PANOPTIC, SEMANTIC
from panoptic_ros.importing.importer import import_checkpoint
from panoptic_ros.importing.request import Request
from panoptic_ros.ros.arguments import size_wh


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        'checkpoint',
        help='folder with config.json, preprocessor_config.json and safetensors weights, a hub id '
        'to download (owner/name), or the .onnx file of a YOLO or RF-DETR segmentation network',
    )
    parser.add_argument(
        '--out', type=Path, required=True, help='model folder to write, for example models/NAME'
    )
    parser.add_argument(
        '--size',
        type=size_wh,
        metavar='WxH',
        help="input size (the checkpoint's own, of a 4:3 picture)",
    )
    parser.add_argument(
        '--labels',
        metavar='NAME|FILE',
        help='label set, or its .yaml file (the one that has the class names of the checkpoint)',
    )
    parser.add_argument(
        '--names',
        metavar='FILE|coco-ids',
        help='class names of an .onnx file, one a line, or the category ids of COCO (those that '
        'the file has)',
    )
    parser.add_argument(
        '--task',
        choices=(PANOPTIC, SEMANTIC, INSTANCE),
        help="what it was trained for (its family's)",
    )
    parser.add_argument(
        '--check',
        type=Path,
        nargs='+',
        default=[],
        metavar='PICTURE',
        help='compare the files on these pictures; the first becomes the golden one (a synthetic '
        'street)',
    )
    parser.add_argument(
        '--licence', default='unknown', help='licence of the weights, for the card (%(default)s)'
    )
    add_fuse_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Import. Raises PanopticRosError if the checkpoint or an argument is not usable."""
    request = Request(
        checkpoint=args.checkpoint,
        folder=args.out,
        size_wh=args.size,
        labels=args.labels,
        task=args.task,
        pictures=tuple(args.check),
        licence=args.licence,
        names=args.names,
    )
    is_onnx = args.checkpoint.endswith('.onnx')
    if args.names and not is_onnx:
        raise ModelError('--names is for .onnx files; a checkpoint has its names in config.json')
    read = import_onnx if is_onnx else import_checkpoint
    model = read(request, lambda text: print(text, flush=True))
    note = fuse_or_hint(model, args.fuse)
    if note:
        print(note)
    return 0
