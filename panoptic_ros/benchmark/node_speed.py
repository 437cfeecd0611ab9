"""``python -m panoptic_ros.benchmark.node_speed``: time of the node by stage and end to end.

The node runs as a child process. This process publishes an image, waits for all outputs, and
publishes the next one, so that no image waits or is dropped. Two networks: ``recorded`` replays
outputs that the real network gave before (see :mod:`.recorded_node`), which measures the rest of
the node alone; ``real`` computes, which also evicts the rest from the processor's caches.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import cycle, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tqdm import tqdm
from visualization_msgs.msg import MarkerArray

from panoptic_ros.benchmark.cdr import frame_key
from panoptic_ros.benchmark.client import Client
from panoptic_ros.benchmark.figures import P_COLUMNS, distribution, machine, percentile_table
from panoptic_ros.benchmark.frames import FrameRecord, Frames
from panoptic_ros.benchmark.processes import NodeLostError, Processes, process_environment
from panoptic_ros.benchmark.recorded_node import street_frames
from panoptic_ros.engines import ENGINES
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.evaluation.report import write_json
from panoptic_ros.ros.arguments import size_wh
from panoptic_ros.ros.camera import street_frame

OK, FAILED = 0, 1
"""Exit codes of :func:`main`."""

SIZES_WH = ((640, 480), (1280, 720), (1920, 1080))
NETWORKS = {'recorded': 'panoptic_ros.benchmark.recorded_node', 'real': 'panoptic_ros.ros.node'}
"""Modules that run the node, by name on the command line."""

SUBSCRIBED: dict[str, dict[str, type]] = {
    'maps': {'semantic': Image, 'instance': Image},
    'all': {'semantic': Image, 'instance': Image, 'markers': MarkerArray, 'overlay': Image},
}
"""Outputs that are subscribed to, by name on the command line."""

SETTLING_FRAMES = 60
"""Images at the start that do not count: connections, caches and memory settle."""

PAUSE_S = 0.005
"""From the last output for an image to the next image, as with a camera slower than the node."""

START_TIMEOUT_S = 120.0
RESEND_S = 1.0
"""Images are best effort: one that is not answered in this time is lost, another one is sent."""

BESIDE_NETWORK = 'beside network'


@dataclass(frozen=True)
class Case:
    """One table; see the options of the command line."""

    size_wh: tuple[int, int]
    subscribed: str
    network: str
    model: str
    engine: str
    frames: int


class Exchange:
    """Publishes images and waits for their outputs.

    Parameters
    ----------
    client
        Talks to the node.
    case
        What is published and subscribed to.
    """

    def __init__(self, client: Client, case: Case) -> None:
        self._client = client
        self._images = cycle([street_frame(frame) for frame in street_frames(case.size_wh)])
        self._info = client.publisher(CameraInfo, '/camera_info')
        self._image = client.publisher(Image, '/image', qos_profile_sensor_data)
        client.receive_outputs(SUBSCRIBED[case.subscribed])
        client.receive_timing()

    def run(self) -> dict[str, float]:
        """Publish an image; return milliseconds by stage, and to the receipt of each output.

        Raises NodeLostError if no image is answered for a long time, or the node ends.
        """
        frames = self._client.frames
        end_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end_s:
            with self._client.lock:
                frames.forget()
            # A message without a marker has no header to match.
            markers = frames.received['markers'] + ('markers' in frames.outputs)
            key = self._publish()
            record = frames[key]

            def is_answered(r: FrameRecord = record, m: int = markers) -> bool:
                return frames.is_complete(r) and frames.received['markers'] >= m

            if self._client.wait_until(is_answered, RESEND_S):
                row = dict(record.stages_ms)
                row[BESIDE_NETWORK] = row['total'] - row['inference']
                for topic in frames.outputs:
                    for received_ns in record.received_ns.get(topic, ())[:1]:
                        row[f'end to end: {topic}'] = (received_ns - record.published_ns) / 1e6
                return row
        raise NodeLostError(f'the node did not answer for {START_TIMEOUT_S:.0f} s')

    def _publish(self) -> Any:
        image = next(self._images)
        header = Header(frame_id='camera_optical_frame')
        header.stamp = self._client.node.get_clock().now().to_msg()
        image.stamp(header)

        def send() -> int:
            self._info.publish(image.by_topic['camera_info'])
            published_ns = time.time_ns()
            self._image.publish(image.by_topic['image'])
            return published_ns

        key = frame_key(header)
        self._client.publish(key, send)
        return key


def measure(case: Case) -> dict[str, Any]:
    """Run one case; returns it and percentiles in milliseconds by stage and output.

    Raises NodeLostError if the node does not start, answer or end.
    """
    topics = tuple(SUBSCRIBED[case.subscribed])
    frames = Frames(topics, keep=[topic for topic in topics if topic != 'markers'])
    parameters = {'model': case.model, 'engine': case.engine}
    engine_ms = 0.0 if case.network == 'recorded' else None
    with Client(frames) as client:
        exchange = Exchange(client, case)
        with running_node(client, case.size_wh, parameters, engine_ms):
            rows = []
            for number in tqdm(range(SETTLING_FRAMES + case.frames), unit='frame', disable=None):
                row = exchange.run()
                if number >= SETTLING_FRAMES:
                    rows.append(row)
                time.sleep(PAUSE_S)
    return {**asdict(case), 'milliseconds': percentiles(rows)}


@contextmanager
def running_node(
    client: Client,
    size_wh: tuple[int, int],
    parameters: Mapping[str, Any],
    engine_ms: float | None,
) -> Iterator[None]:
    """Run the node for the images of the street as a child process until the end of the block.

    Parameters
    ----------
    client
        Fails if the node ends before the block does.
    size_wh
        Size of the images.
    parameters
        Of the node; the pose of the camera is added.
    engine_ms
        Wait for each image instead of the network; None for the real network.

    Raises NodeLostError if the exit code is not 0.
    """
    mounting, (width, height) = street_frames(size_wh)[0], size_wh
    arguments: tuple[str, ...] = ()
    if engine_ms is not None:
        arguments = ('--size', f'{width}x{height}')
    if engine_ms:
        arguments += ('--engine-ms', str(engine_ms))
    pose = {
        'camera_height_m': mounting.camera_height_m,
        'camera_pitch_rad': mounting.camera_pitch_rad,
    }
    with TemporaryDirectory() as folder, Processes(Path(folder)) as processes:
        module = NETWORKS['real' if engine_ms is None else 'recorded']
        node = processes.start(module, {**parameters, **pose}, arguments, log='node')
        client.processes = [node]
        yield
        client.processes = []
        if code := node.interrupt():
            raise NodeLostError(f'the node ended with exit code {code}:\n{node.tail()}')


def percentiles(rows: Sequence[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Return p50, p95 and p99 by name, over the rows that have it."""
    figures = {
        name: distribution([row[name] for row in rows if name in row])
        for name in dict.fromkeys(name for row in rows for name in row)
    }
    return {name: {column: f[column] for column in P_COLUMNS} for name, f in figures.items()}


def table(result: dict[str, Any]) -> str:
    """Return the table of one case."""
    width, height = result['size_wh']
    return (
        f'\n{width}x{height}, subscribed: {", ".join(SUBSCRIBED[result["subscribed"]])}; '
        f'{result["network"]} network; {result["frames"]} frames\n'
        + percentile_table('ms', result['milliseconds'])
    )


LEGEND = (
    f'\n{BESIDE_NETWORK}: from receipt of the image to the last publish, without inference'
    '\nend to end: from publishing the image to receipt of the output in another process'
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
    parser.add_argument('--frames', type=int, default=2000, help='for each case (%(default)s)')
    parser.add_argument('--json', type=Path, metavar='PATH', help='write the figures there')
    return parser


def write_cases(name: str, cases: Iterator[dict[str, Any]], json: Path | None) -> int:
    """Measure the cases of a benchmark that starts nodes and write their figures.

    Parameters
    ----------
    name
        Of the benchmark, for messages.
    cases
        Measures and prints one case after the other.
    json
        File for the figures; None for none.

    Returns
    -------
    The exit code.
    """
    os.environ.update(process_environment())  # before the first ROS context
    cv2.setNumThreads(1)
    try:
        figures = list(cases)
    except PanopticRosError as error:
        print(f'{name}: {error}', file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    if json is not None:
        write_json(json, machine() | {'cases': figures})
    return OK


def _cases(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for network, size, subscribed in product(args.network, args.sizes, args.subscribe):
        result = measure(Case(size, subscribed, network, args.model, args.engine, args.frames))
        print(table(result), flush=True)
        yield result
    print(LEGEND)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; returns the exit code."""
    args = make_parser().parse_args(argv)
    return write_cases('node_speed', _cases(args), args.json)


if __name__ == '__main__':
    sys.exit(main())
