"""``ros2 run panoptic_ros replay_benchmark BAG``: how fast the node is on a recording.

Publishes the images of a rosbag2 recording, mcap or sqlite3, and measures what comes back. Without
``--rate`` it finds the highest rate at which less than 5 % of the frames are dropped, and reports
that, 10, 30 and 60 Hz; with the truth in the recording (``panoptic make-bag``) also PQ and VPQ.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import yaml

from panoptic_ros.benchmark.replay.options import (
    AS_FAST,
    OUTPUTS,
    QUALITY_FRAMES,
    RATES_HZ,
    RECORDED,
    TRIAL_SECONDS,
    Options,
)
from panoptic_ros.engines import ENGINES
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.ros.arguments import positive_number
from panoptic_ros.ros.signals import StopSignal
from panoptic_ros.untrusted import plain_yaml

OK, FAILED, USER_ERROR = 0, 1, 2
"""Exit codes: measured or interrupted, the node gave no answer, what was asked for cannot be."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog='replay_benchmark',
        description='Replay a rosbag2 recording to the node and measure it.',
    )
    parser.add_argument('bag', help='folder of a recording, or an .mcap or .db3 file')
    parser.add_argument(
        '--node',
        metavar='NAME',
        help='measure a running node, for example /segment (a node is started)',
    )
    parser.add_argument(
        '--model', default='street-lite', help='model of the node that is started (%(default)s)'
    )
    parser.add_argument('--engine', default='auto', choices=('auto', *ENGINES))
    parser.add_argument(
        '--param',
        action='append',
        default=[],
        type=_parameter,
        metavar='NAME:=VALUE',
        help='another parameter of the node that is started; may be repeated',
    )
    parser.add_argument(
        '--rate',
        type=_rate,
        help='recorded, max (as fast as the node answers) or Hz: measure only this rate, once '
        'through the recording (search the peak, then --rates)',
    )
    parser.add_argument(
        '--rates',
        nargs='+',
        type=positive_number,
        default=RATES_HZ,
        metavar='HZ',
        help='further rates (10 30 60)',
    )
    parser.add_argument(
        '--seconds',
        type=positive_number,
        help=f'length of each trial ({TRIAL_SECONDS:g}; with --rate to the end)',
    )
    parser.add_argument(
        '--loop', action='store_true', help='with --rate: start again at the end, until Ctrl-C'
    )
    parser.add_argument(
        '--start-offset', type=_not_negative, default=0.0, help='seconds to skip (0)'
    )
    parser.add_argument('--duration', type=positive_number, help='seconds to replay (all)')
    parser.add_argument(
        '--topic',
        type=_remapping,
        metavar='NAME[:=INPUT]',
        help="image topic of the recording (its only one), and where to publish it (the node's "
        'input)',
    )
    parser.add_argument(
        '--remap',
        action='append',
        default=[],
        type=_remapping,
        metavar='NAME:=INPUT',
        help='where to publish another topic of the recording; may be repeated',
    )
    parser.add_argument(
        '--stamps',
        default='recorded',
        choices=('recorded', 'now'),
        help='stamps of the published messages; recorded ones are shifted in each lap, so that '
        'none is repeated; with now the age in the diagnostics is valid (%(default)s)',
    )
    parser.add_argument(
        '--outputs',
        nargs='+',
        default=OUTPUTS,
        metavar='NAME',
        help=f'outputs to subscribe to; the first one decides whether a frame was answered '
        f'({" ".join(OUTPUTS)})',
    )
    parser.add_argument(
        '--quality-frames',
        type=int,
        default=QUALITY_FRAMES,
        metavar='N',
        help='frames for PQ and VPQ, if the recording has truth; 0 for none (%(default)s)',
    )
    parser.add_argument(
        '--timeout',
        type=positive_number,
        default=60.0,
        help='seconds to wait for the node and its first answer (%(default)s)',
    )
    parser.add_argument(
        '--out', type=Path, default=Path('out', 'replay'), help='folder (%(default)s)'
    )
    return parser


def parse(arguments: Sequence[str]) -> Options:
    """Return the options of a command line."""
    given: dict[str, Any] = vars(make_parser().parse_args(arguments))
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items()
    }
    return Options(**options)


def _rate(text: str) -> float | str:
    return text if text in (RECORDED, AS_FAST) else positive_number(text)


def _not_negative(text: str) -> float:
    return 0.0 if text in ('0', '0.0') else positive_number(text)


def _remapping(text: str) -> tuple[str, str]:
    name, _, target = text.partition(':=')
    if not name.startswith('/') or (target and not target.startswith('/')):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a topic such as /camera/image_raw or a remapping such as /a:=/b'
        )
    return name, target


def _parameter(text: str) -> tuple[str, object]:
    name, separator, value = text.partition(':=')
    if not name or not separator:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a parameter such as overlay_opacity:=1.0'
        )
    try:
        return name, plain_yaml(value.encode())
    except yaml.YAMLError as error:
        raise argparse.ArgumentTypeError(f'{text!r} has a value that is not YAML') from error


def own_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without those for ROS, from ``--ros-args`` to ``--`` or the end.

    rclpy's own function also removes ``a:=b``.
    """
    own: list[str] = []
    is_own = True
    for argument in arguments:
        if argument == '--ros-args':
            is_own = False
        elif is_own:
            own.append(argument)
        elif argument == '--':
            is_own = True
    return own


def main(args: Sequence[str] | None = None) -> int:
    """Measure, until done, SIGINT or SIGTERM; returns the process's exit code."""
    options = parse(own_arguments(sys.argv[1:] if args is None else args))
    cv2.setNumThreads(1)  # leaves the cores to the node
    try:
        from panoptic_ros.benchmark.processes import NodeLostError
        from panoptic_ros.benchmark.replay.run import run
    except ModuleNotFoundError as error:
        missing = str(error.name).partition('.')[0]
        if missing == 'panoptic_ros':
            raise
        way_out = 'pip install rosbags matplotlib'
        if importlib.util.find_spec('rclpy') is None:
            way_out = "install ROS 2, or its wheels: pip install 'panoptic_ros[ros,bench]'"
        print(f'replay_benchmark: {missing} is not installed; {way_out}', file=sys.stderr)
        return USER_ERROR
    with StopSignal() as stop:
        try:
            return run(options, stop.came)
        except NodeLostError as error:
            print(f'replay_benchmark: {error}', file=sys.stderr)
            return FAILED
        except PanopticRosError as error:
            print(f'replay_benchmark: {error}', file=sys.stderr)
            return USER_ERROR


if __name__ == '__main__':
    sys.exit(main())
