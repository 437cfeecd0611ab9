"""The whole of ``replay_benchmark``, from its options to its exit code."""

import os
import sys
from concurrent.futures import Future
from contextlib import ExitStack

from panoptic_ros.benchmark.bags import COMPRESSED_IMAGE, BagReader
from panoptic_ros.benchmark.client import Client
from panoptic_ros.benchmark.frames import Frames
from panoptic_ros.benchmark.processes import (
    Process,
    Processes,
    large_image_environment,
    process_environment,
)
from panoptic_ros.benchmark.replay.node import Interrupted, find_node
from panoptic_ros.benchmark.replay.options import Options
from panoptic_ros.benchmark.replay.recording import Recording
from panoptic_ros.benchmark.replay.report import Report
from panoptic_ros.benchmark.replay.session import Session
from panoptic_ros.evaluation.report import write_json

OK, FAILED = 0, 1
"""Exit codes: measured or interrupted, the node stopped answering."""


def run(options: Options, stop: Future[None]) -> int:
    """Measure and report; ``stop`` ends it early with the results so far.

    Raises BagError, ModelError and others for options that cannot be used, NodeLostError if the
    node is not there or does not answer.
    """
    with ExitStack() as stack:
        bag = stack.enter_context(BagReader(options.bag))
        recording = Recording.open(bag, options)
        processes = stack.enter_context(Processes(options.out))
        os.environ.update(_environment(options))  # before the first ROS context
        client = stack.enter_context(
            Client(Frames(options.outputs), options.node_name, 'replay_benchmark')
        )
        stop.add_done_callback(lambda _: client.stop())
        process = None
        if options.node is None:
            process = _start_node(options, recording, processes)
            client.processes = [process]
        try:
            node = find_node(client, process, options.timeout)
            session = Session(options, recording, client, node)
            session.measure()
        except Interrupted:
            print('replay_benchmark: interrupted before anything was measured', file=sys.stderr)
            return OK
        report = Report(options, recording, node, session, client)
    write_json(options.out / 'replay.json', report.as_json())
    print(report.text())
    for path in report.write_plots():
        print(f'plot       {path}')
    print(f'result     {options.out / "replay.json"}')
    return FAILED if session.failure else OK


def _start_node(options: Options, recording: Recording, processes: Processes) -> Process:
    is_compressed = recording.image.type == COMPRESSED_IMAGE
    parameters = {
        'model': options.model,
        'engine': options.engine,
        'image_transport': 'compressed' if is_compressed else 'raw',
        **recording.mounting(),
        **dict(options.param),
    }
    print(f'starting the node with model {options.model} ...', flush=True)
    return processes.start('panoptic_ros.ros.node', parameters)


def _environment(options: Options) -> dict[str, str]:
    if options.node is None:
        return process_environment()
    # A node that already runs has its domain and profile.
    return {k: v for k, v in large_image_environment().items() if k not in os.environ}
