"""``panoptic make-bag SOURCE --out DIR``: record a source as a rosbag2."""

import argparse
from pathlib import Path

from panoptic_ros.benchmark.bags import STORAGES
from panoptic_ros.benchmark.recording.sources import Options, record
from panoptic_ros.datasets.opening import DEFAULT_SPLITS
from panoptic_ros.engines import ENGINES
from panoptic_ros.ros.arguments import field_of_view_deg, positive_number, size_wh


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        'source',
        help='street (synthetic), a video, a folder of images, an image, a camera, a stream, or '
        'the folder of a data set',
    )
    parser.add_argument(
        '--dataset',
        choices=[name for name in DEFAULT_SPLITS if name != 'synthetic'],
        help='SOURCE is the folder of this data set; record its truth as well',
    )
    parser.add_argument('--split', help="part of the data set (its usual one, for example 'val')")
    parser.add_argument('--out', type=Path, required=True, help='folder to create')
    parser.add_argument('--storage', default='mcap', choices=tuple(STORAGES))
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        '--seconds', type=positive_number, help='(all; of a source without an end, 10 seconds)'
    )
    length.add_argument('--frames', type=int, help='instead of seconds')
    parser.add_argument(
        '--rate', type=positive_number, help='Hz (the stamps of a video; 15 for the rest)'
    )
    parser.add_argument('--size', type=size_wh, help='WIDTHxHEIGHT (that of the source)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the street (%(default)s)')
    parser.add_argument(
        '--fov',
        type=field_of_view_deg,
        default=60.0,
        help='horizontal field of view assumed for videos and images, degrees (%(default)s)',
    )
    parser.add_argument(
        '--compressed', action='store_true', help='images as JPEG, on /image/compressed'
    )
    parser.add_argument(
        '--with-outputs',
        action='store_true',
        help='run the node on every frame and record all its topics',
    )
    parser.add_argument('--model', default='street-lite', help='of the node (%(default)s)')
    parser.add_argument(
        '--engine', default='auto', choices=('auto', *ENGINES), help='of the node (%(default)s)'
    )


def run(args: argparse.Namespace) -> int:
    """Write the recording and print a summary."""
    options = {name: value for name, value in vars(args).items() if name != 'command'}
    print(record(Options(**options)))
    return 0
