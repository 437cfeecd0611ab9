"""``python -m panoptic_ros.benchmark.node_speed``: the time of the node by stage.

The node runs in a process of its own. This process is its camera and its only subscriber, and
sends the next image when the last one is answered on every topic: no frame waits or is dropped.
Two networks: ``recorded`` gives outputs that the real one gave before, so that the rest is
measured alone; ``real`` computes, which also takes the caches from the rest.
"""

import argparse
import multiprocessing
import os
import platform
import signal
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from tqdm import tqdm

from panoptic_ros import __version__
from panoptic_ros.benchmark.processes import process_environment
from panoptic_ros.datasets.street.scene import StreetFrame, SyntheticStreet
from panoptic_ros.engines import ENGINES, Engine, EngineDescription
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.evaluation.report import write_json
from panoptic_ros.ros.arguments import size_wh
from panoptic_ros.segmenter import Segmenter

if TYPE_CHECKING:
    from panoptic_ros.ros.camera import CameraFrame
    from panoptic_ros.ros.parameters import Structure

OK, FAILED = 0, 1
"""Exit codes of :func:`main`."""

SIZES_WH = ((640, 480), (1280, 720), (1920, 1080))
NETWORKS = ('recorded', 'real')
PERCENTILES = (50, 95, 99)
SUBSCRIBED = {
    'maps': ('semantic', 'instance'),
    'all': ('semantic', 'instance', 'markers', 'overlay'),
}
"""The node's topics that are subscribed to, by what the command line calls them."""

PICTURES = 8
"""So many different images are sent, over and over."""

SETTLING_FRAMES = 60
"""Frames at the start that do not count: connections, caches and memory settle."""

PAUSE_S = 0.005
"""From an image's last answer to the next image, as with a camera that is slower than the node."""

START_TIMEOUT_S = 120.0
RESEND_S = 1.0
"""Images are best effort: one that is not answered for so long is lost, and another is sent."""

BESIDE = 'beside network'
_TIMING = 'timing'


class BenchError(PanopticRosError):
    """The node did not do what was to be measured."""


@dataclass(frozen=True)
class Case:
    """What one table is about; see the command line's options."""

    size_wh: tuple[int, int]
    subscribed: str
    network: str
    model: str
    engine: str
    frames: int


class RecordingEngine:
    """An engine that keeps what another one gives."""

    def __init__(self, engine: Engine) -> None:
        self.description = engine.description
        self.recorded: list[dict[str, np.ndarray]] = []
        self._engine = engine

    def infer(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """See :meth:`panoptic_ros.engines.Engine.infer`."""
        self.recorded.append(self._engine.infer(image))
        return self.recorded[-1]

    def close(self) -> None:
        """See :meth:`panoptic_ros.engines.Engine.close`."""
        self._engine.close()


class RecordedEngine:
    """An engine that gives again what was recorded, in turn, whatever the picture."""

    def __init__(
        self, description: EngineDescription, recorded: Sequence[dict[str, np.ndarray]]
    ) -> None:
        self.description = description
        self._outputs = cycle(recorded)

    def infer(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """See :meth:`panoptic_ros.engines.Engine.infer`."""
        return {name: output.copy() for name, output in next(self._outputs).items()}

    def close(self) -> None:
        """Free nothing, as there is nothing."""


def record(segmenter: Segmenter, images_rgb: Sequence[np.ndarray]) -> Segmenter:
    """Run a segmenter on images and return one that gives the same without a network."""
    recording = RecordingEngine(segmenter.engine)
    for image in images_rgb:
        Segmenter(segmenter.model, recording).segment(image, 'rgb8')
    recording.close()
    return Segmenter(segmenter.model, RecordedEngine(recording.description, recording.recorded))


def street_frames(size_wh: tuple[int, int]) -> list[StreetFrame]:
    """Return what the camera shows."""
    street = SyntheticStreet(3, size_wh, 15.0)
    return [street.frame(number) for number in range(PICTURES)]


def be_node(case: Case) -> None:
    """Be the node's process, until SIGTERM."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from panoptic_ros.ros.node import SegmentNode, load_segmenter, run
    from panoptic_ros.ros.signals import StopSignal

    cv2.setNumThreads(1)
    frames = street_frames(case.size_wh)

    def load(structure: 'Structure') -> Segmenter:
        segmenter = load_segmenter(structure)
        if case.network == 'real':
            return segmenter
        return record(segmenter, [frame.image_rgb for frame in frames])

    parameters = {
        'model': case.model,
        'engine': case.engine,
        'camera_height_m': frames[0].camera_height_m,
        'camera_pitch_rad': frames[0].camera_pitch_rad,
    }
    arguments = [part for name in parameters for part in ('-p', f'{name}:={parameters[name]}')]
    with StopSignal() as stop:
        rclpy.init(
            args=['--ros-args', '--log-level', 'warn', *arguments],
            signal_handler_options=SignalHandlerOptions.NO,
        )
        node = SegmentNode(load)
        stop.came.add_done_callback(lambda _: node.stop())
        sys.exit(run(node))


class Peer:
    """The camera, and the subscriber that knows when an image has been answered.

    Parameters
    ----------
    case
        What is sent and subscribed to.
    node
        The node's process.
    """

    def __init__(self, case: Case, node: BaseProcess) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import CameraInfo, Image
        from visualization_msgs.msg import MarkerArray

        from panoptic_ros.ros.camera import street_frame

        self._process = node
        self._frames = cycle([street_frame(frame) for frame in street_frames(case.size_wh)])
        self._node = rclpy.create_node('peer')
        self._camera = {
            'camera_info': self._node.create_publisher(CameraInfo, 'camera_info', 1),
            'image': self._node.create_publisher(Image, 'image', qos_profile_sensor_data),
        }
        self._topics = (*SUBSCRIBED[case.subscribed], _TIMING)
        self._answers: dict[str, tuple[int, bytes]] = {}
        self._stamp = (0, 0)
        types = {'markers': MarkerArray, _TIMING: DiagnosticArray}
        for topic in self._topics:
            take = partial(self._take, topic)
            message_type = types.get(topic, Image)
            # As bytes: what a subscriber makes of them is its own affair.
            self._node.create_subscription(message_type, f'segment/{topic}', take, 1, raw=True)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)

    def _take(self, topic: str, data: bytes) -> None:
        received_ns = time.perf_counter_ns()
        # Answers to an image that was given up may still come.
        if stamp_in(data, topic) in (None, self._stamp):
            self._answers[topic] = received_ns, data

    def exchange(self) -> dict[str, float]:
        """Send an image; return milliseconds by stage, and to the receipt of each topic.

        Raises BenchError if the node ends, or answers nothing for long.
        """
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.serialization import deserialize_message

        from panoptic_ros.ros.diagnostics import stage_times_ms

        end_s = time.monotonic() + START_TIMEOUT_S
        sent_ns = self._send()
        while len(self._answers) < len(self._topics):
            self._executor.spin_once(timeout_sec=0.1)
            if not self._process.is_alive() or time.monotonic() > end_s:
                raise BenchError('the node does not answer; what it wrote is above')
            if time.perf_counter_ns() - sent_ns > RESEND_S * 1e9:
                sent_ns = self._send()
        _, timing = self._answers[_TIMING]
        row = stage_times_ms(deserialize_message(timing, DiagnosticArray))
        row[BESIDE] = row['total'] - row['inference']
        for topic in self._topics[:-1]:
            row[f'end to end: {topic}'] = (self._answers[topic][0] - sent_ns) / 1e6
        return row

    def _send(self) -> int:
        from std_msgs.msg import Header

        self._answers.clear()
        frame: CameraFrame = next(self._frames)
        stamp = self._node.get_clock().now().to_msg()
        self._stamp = stamp.sec, stamp.nanosec
        frame.stamp(Header(stamp=stamp, frame_id='camera_optical_frame'))
        self._camera['camera_info'].publish(frame.by_topic['camera_info'])
        sent_ns = time.perf_counter_ns()
        self._camera['image'].publish(frame.by_topic['image'])
        return sent_ns

    def close(self) -> None:
        """Leave."""
        self._executor.shutdown()
        self._node.destroy_node()


def stamp_in(data: bytes, topic: str) -> tuple[int, int] | None:
    """Return seconds and nanoseconds of a serialised message; None if it has no header.

    It follows four bytes that say how the rest is written; a MarkerArray has its length before.
    """
    begin = 8 if topic == 'markers' else 4
    return struct.unpack_from('=iI', data, begin) if len(data) >= begin + 8 else None


def measure(case: Case) -> dict[str, Any]:
    """Run one case; returns it and percentiles in milliseconds by stage and topic.

    Raises BenchError if the node does not start, does not answer or does not end.
    """
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    node = multiprocessing.get_context('spawn').Process(target=be_node, args=(case,))
    node.start()
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    rows = []
    try:
        peer = Peer(case, node)
        for number in tqdm(range(SETTLING_FRAMES + case.frames), unit='frame', disable=None):
            row = peer.exchange()
            if number >= SETTLING_FRAMES:
                rows.append(row)
            time.sleep(PAUSE_S)
        peer.close()
        node.terminate()
        node.join(START_TIMEOUT_S)
    finally:
        rclpy.try_shutdown()
        if node.is_alive():
            node.kill()
        node.join()
    if node.exitcode != OK:
        raise BenchError(f'the node ended with exit code {node.exitcode}')
    return {**asdict(case), 'milliseconds': percentiles(rows)}


def percentiles(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return :data:`PERCENTILES` by name, of the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {
        name: np.percentile([row[name] for row in rows if name in row], PERCENTILES).tolist()
        for name in names
    }
    return {
        name: {f'p{p}': value for p, value in zip(PERCENTILES, column, strict=True)}
        for name, column in values.items()
    }


def table(result: dict[str, Any]) -> str:
    """Return what one case came to, a line a stage and topic."""
    width, height = result['size_wh']
    lines = [
        '',
        f'{width}x{height}, subscribed: {", ".join(SUBSCRIBED[result["subscribed"]])}; '
        f'{result["network"]} network; {result["frames"]} frames',
        f'{"ms":<24}' + ''.join(f'{f"p{p}":>9}' for p in PERCENTILES),
    ]
    for name, values in result['milliseconds'].items():
        lines.append(f'{name:<24}' + ''.join(f'{value:>9.2f}' for value in values.values()))
    return '\n'.join(lines)


LEGEND = (
    f'\n{BESIDE}: from the receipt of the image to the last publish, without inference'
    '\nend to end: from sending the image to receiving the topic in the process that sent it'
)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m panoptic_ros.benchmark.node_speed',
        description="Measure the node's way from image to topics, by stage and end to end.",
    )
    parser.add_argument('--sizes', type=size_wh, nargs='+', default=SIZES_WH, metavar='WxH')
    parser.add_argument('--subscribe', nargs='+', choices=SUBSCRIBED, default=[*SUBSCRIBED])
    parser.add_argument('--network', nargs='+', choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument('--model', default='street-lite', help='name or folder (%(default)s)')
    parser.add_argument('--engine', default='auto', choices=('auto', *ENGINES))
    parser.add_argument('--frames', type=int, default=2000, help='of each case (%(default)s)')
    parser.add_argument('--json', type=Path, metavar='PATH', help='write the figures there')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; returns the exit code."""
    args = make_parser().parse_args(argv)
    # For this process too, and before ROS looks at it.
    os.environ.update(process_environment())
    cv2.setNumThreads(1)
    cases = [
        Case(size, subscribed, network, args.model, args.engine, args.frames)
        for network in args.network
        for size in args.sizes
        for subscribed in args.subscribe
    ]
    results = []
    try:
        for case in cases:
            results.append(measure(case))
            print(table(results[-1]), flush=True)
    except PanopticRosError as error:
        print(f'bench: {error}', file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    print(LEGEND)
    if args.json:
        machine = {'platform': platform.platform(), 'processors': os.cpu_count()}
        write_json(args.json, {'version': __version__, **machine, 'cases': results})
    return OK


if __name__ == '__main__':
    sys.exit(main())
