"""``python -m panoptic_ros.benchmark.demo``: run a camera and the node, check every topic.

The camera and the node run as child processes and communicate over DDS, as on a robot. This
process subscribes to both, checks every message against the topic contract, and writes a table,
pictures and ``report.json``.
"""

import argparse
import importlib.util
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
from tqdm import tqdm

from panoptic_ros.benchmark.demo.plan import STREET, Plan, make_plan
from panoptic_ros.benchmark.processes import (
    NodeLostError,
    Process,
    Processes,
    process_environment,
)
from panoptic_ros.engines import ENGINES
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.evaluation.report import write_json
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.ros.arguments import field_of_view_deg, positive_number, size_wh

if TYPE_CHECKING:
    from panoptic_ros.benchmark.client import Client
    from panoptic_ros.benchmark.demo.observer import Observer
    from panoptic_ros.benchmark.demo.report import Report

OK, FAILED, USER_ERROR = 0, 1, 2
"""Exit codes: all checks passed, a check failed, the arguments cannot be used."""

RECORDING = 'recording'
START_TIMEOUT_S = 120.0
REPORT_TIMEOUT_S = 30.0


class DemoError(PanopticRosError):
    """There is no ROS 2 to run the demo with."""


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns :data:`OK` if every check passed."""
    if importlib.util.find_spec('rclpy') is None:
        raise DemoError(
            f'there is no ROS 2 in this Python ({platform.system()} {platform.machine()}, '
            f'{platform.python_version()}): its wheels exist for Linux x86_64 and Python 3.10 to '
            '3.14; elsewhere install ROS 2 and build with colcon (see the README)'
        )
    plan = make_plan(args)
    label_set = Model.load(args.model).label_set
    with Processes(args.out) as processes:
        for old in [*args.out.glob('panel_*.png'), args.out / 'report.json']:
            old.unlink(missing_ok=True)
        shutil.rmtree(args.out / RECORDING, ignore_errors=True)
        report = _run_processes(args, plan, label_set, processes)
    write_json(args.out / 'report.json', report.as_json())
    print(report.text())
    print(f'report     {args.out / "report.json"}')
    if report.passed:
        return OK
    for process in report.processes:
        print(f'\n--- end of {process.log}\n{process.tail()}')
    return FAILED


def _run_processes(
    args: argparse.Namespace, plan: Plan, label_set: LabelSet, processes: Processes
) -> 'Report':
    os.environ.update(process_environment())  # before the first ROS context
    from panoptic_ros.benchmark.bags import BagWriter
    from panoptic_ros.benchmark.client import Client
    from panoptic_ros.benchmark.demo.observer import Observer, record
    from panoptic_ros.benchmark.demo.report import Report
    from panoptic_ros.benchmark.frames import Frames

    observer = Observer(label_set, sample_every=max(1, plan.frames // 5))
    with ExitStack() as stack:
        bag = stack.enter_context(BagWriter(args.out / RECORDING, 'mcap')) if args.record else None
        client = stack.enter_context(Client(Frames()))
        if bag is not None:
            record(client, bag)
        with_points = plan.node['depth'] and args.points
        topics = observer.subscribe(client, with_points=with_points)
        print(f'starting the node with model {args.model} ...', flush=True)
        node = processes.start('panoptic_ros.ros.node', plan.node)
        client.processes = [node]
        if not client.wait_until(
            lambda: client.status.values.get('state') == 'active', START_TIMEOUT_S
        ):
            raise NodeLostError(
                f'the node did not become active within {START_TIMEOUT_S:.0f} s; the end of '
                f'{node.log}:\n{node.tail()}'
            )
        print(f'starting the camera, {plan.frames} frames of {args.source} ...', flush=True)
        camera = processes.start('panoptic_ros.ros.camera', plan.camera)
        _observe(client, observer, camera, plan)
        codes = {'camera': camera.interrupt()}
        # The last report then counts all images.
        client.wait_for_reports(2, REPORT_TIMEOUT_S)
        client.processes = []
        codes['node'] = node.interrupt()
        for _, messages in observer.take(client.frames, in_transit=0):
            observer.check(messages)
        return Report(
            args,
            plan,
            observer,
            client.frames,
            client.active_status,
            topics,
            codes,
            [camera, node],
        )


def _observe(client: 'Client', observer: 'Observer', camera: Process, plan: Plan) -> None:
    """Check outputs and show progress until the camera has sent everything."""
    end_s = time.monotonic() + START_TIMEOUT_S + 2 * plan.frames / plan.rate_hz
    with tqdm(total=plan.frames, unit='frame', disable=None) as progress:
        while not client.wait_until(lambda: camera.exit_code is not None, 0.1):
            if time.monotonic() > end_s:
                raise NodeLostError(
                    f'the camera does not end; the end of its log:\n{camera.tail()}'
                )
            with client.lock:
                progress.update(client.frames.published - progress.n)
                due = observer.take(client.frames)
            for _, messages in due:
                observer.check(messages)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m panoptic_ros.benchmark.demo',
        description='Run a camera and the node as two processes over DDS and check every topic.',
    )
    parser.add_argument(
        'source',
        nargs='?',
        default=STREET,
        help='street (synthetic), a video, a folder of pictures, a picture or a camera number',
    )
    parser.add_argument('--out', type=Path, default=Path('out', 'demo'), help='(%(default)s)')
    parser.add_argument('--model', default='street-lite', help='name or folder (%(default)s)')
    parser.add_argument('--engine', default='auto', choices=('auto', *ENGINES))
    parser.add_argument('--seconds', type=positive_number, default=20.0, help='(%(default)s)')
    parser.add_argument('--frames', type=int, help='instead of seconds')
    parser.add_argument('--rate', type=positive_number, help="Hz (a video's own, else 15)")
    parser.add_argument('--size', type=size_wh, help="WIDTHxHEIGHT (the source's own)")
    parser.add_argument('--seed', type=int, default=0, help='which street (%(default)s)')
    parser.add_argument(
        '--min-pq',
        type=float,
        help='fail below this PQ in percent (25 for an embedded model on the street)',
    )
    parser.add_argument(
        '--record',
        action='store_true',
        help='record the images and all outputs as OUT/recording, an MCAP for Foxglove or rerun',
    )
    parser.add_argument(
        '--points',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='subscribe to ~/points, the largest output, when the source is the street',
    )
    parser.add_argument(
        '--fov',
        type=field_of_view_deg,
        default=60.0,
        help='degrees, the field of view assumed of videos and pictures (%(default)s)',
    )
    parser.add_argument(
        '--camera-height',
        type=positive_number,
        default=1.5,
        help='metres above the ground, likewise (%(default)s)',
    )
    parser.add_argument(
        '--camera-pitch',
        type=float,
        default=0.0,
        help='radians that the camera looks down, likewise (%(default)s)',
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit code."""
    args = make_parser().parse_args(argv)
    # SIGTERM, like Ctrl-C, has to end the child processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    cv2.setNumThreads(1)
    try:
        return run(args)
    except PanopticRosError as error:
        print(f'demo: {error}', file=sys.stderr)
        return FAILED if isinstance(error, DemoError | NodeLostError) else USER_ERROR
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == '__main__':
    sys.exit(main())
