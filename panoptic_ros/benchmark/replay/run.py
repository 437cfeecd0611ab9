"""The whole of ``replay_benchmark`` from its arguments to its exit code."""

import argparse
import os
import sys
from concurrent.futures import Future
from contextlib import ExitStack

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from panoptic_ros.benchmark.bags import BagReader
from panoptic_ros.benchmark.processes import large_image_environment, process_environment
from panoptic_ros.benchmark.replay.command import FAILED, OK
from panoptic_ros.benchmark.replay.ends import (
    Recording,
    Segment,
    Stopped,
    segment_name,
    start_node,
)
from panoptic_ros.benchmark.replay.playback import Records, Spinner, SteadyClock, listen_to_status
from panoptic_ros.benchmark.replay.report import Report
from panoptic_ros.benchmark.replay.session import Session
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.evaluation.report import write_json


def run(args: argparse.Namespace, stop: Future[None]) -> int:
    """Measure and report; ``stop`` ends it early, with what there is.

    Raises BagError, ModelError and the like for what cannot be done as asked, NoAnswerError if
    the node is not there or does not answer.
    """
    clock = SteadyClock()
    stop.add_done_callback(lambda _: clock.stopped.set())
    with ExitStack() as stack:
        bag = stack.enter_context(BagReader(args.bag))
        recording = Recording.of(bag, args)
        try:
            args.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PanopticRosError(
                f'cannot make the folder {args.out} ({error.strerror}); choose another with --out'
            ) from error
        # Before ROS looks at it.
        os.environ.update(_environment(args))
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        stack.callback(rclpy.try_shutdown)
        node = Node('replay_benchmark')
        stack.callback(node.destroy_node)
        name, records = segment_name(args), Records(args.outputs)
        listen_to_status(node, name, records)
        process = start_node(args, recording, stack) if args.node is None else None
        stack.callback(Spinner(node).close)
        try:
            segment = Segment.find(node, name, records, clock, process, args)
            session = Session(args, recording, node, segment, records, clock)
            session.measure()
        except Stopped:
            print('replay_benchmark: interrupted before anything was measured', file=sys.stderr)
            return OK
        report = Report(args, recording, segment, session, records)
    write_json(args.out / 'replay.json', report.as_json())
    print(report.text())
    for path in report.write_plots():
        print(f'plot       {path}')
    print(f'result     {args.out / "replay.json"}')
    return FAILED if session.failure else OK


def _environment(args: argparse.Namespace) -> dict[str, str]:
    if args.node is None:
        return process_environment()
    # Who runs a node already has chosen domain and profile.
    return {k: v for k, v in large_image_environment().items() if k not in os.environ}
