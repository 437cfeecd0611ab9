"""``python -m panoptic_ros.benchmark.overlap_speed``: what the parameter ``overlap`` gains.

The node runs as a child process, with the engine of this machine or with one that waits a fixed
time for each image, as for a GPU, and returns recorded outputs (:mod:`.recorded_node`). A camera
publishes slowly, then more images than the node can process, with ``overlap`` never and always in
turn.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from statistics import median
from threading import Event, Thread
from typing import Any

from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from panoptic_ros.benchmark.cdr import frame_key
from panoptic_ros.benchmark.client import OUTPUT_QOS, Client
from panoptic_ros.benchmark.figures import distribution
from panoptic_ros.benchmark.frames import Frames
from panoptic_ros.benchmark.node_speed import SUBSCRIBED, running_node, write_cases
from panoptic_ros.benchmark.processes import NodeLostError
from panoptic_ros.benchmark.recorded_node import street_frames
from panoptic_ros.ros.arguments import positive_number, size_wh
from panoptic_ros.ros.camera import street_frame
from panoptic_ros.ros.parameters import Structure
from panoptic_ros.ros.publishing import offered

TOPICS: dict[str, dict[str, type]] = {
    **SUBSCRIBED,
    'every': {
        output.topic.removeprefix('~/'): output.message_type
        for output in offered(Structure())
        if output.message_type is not None
    },
}
"""Outputs that are subscribed to, by name on the command line."""

CALM_HZ = 10.0
"""Rate of the camera for the times of single images."""

OVERLOAD = 1.2
"""Rate of the camera for the rate of the node, over the highest that can be reached."""

START_TIMEOUT_S = 120.0
SETTLING_S = 1.0
"""Time at the start of a measurement that does not count."""


@dataclass(frozen=True)
class Case:
    """One row of the table; see the options of the command line. None is the real network."""

    engine_ms: float | None
    subscribed: str
    size_wh: tuple[int, int]
    seconds: float


@dataclass(frozen=True)
class Figures:
    """Figures of one run of the node.

    Parameters
    ----------
    engine_ms, rest_ms
        Time of an image in the engine, and apart from it and from waiting, at :data:`CALM_HZ`;
        median.
    calm_ms, calm_p95_ms
        Latency at that rate: from the arrival of an image to its last publish.
    rate_hz
        Images published a second, when more arrive.
    full_ms, full_p95_ms
        Latency at this rate.
    """

    engine_ms: float
    rest_ms: float
    calm_ms: float
    calm_p95_ms: float
    rate_hz: float
    full_ms: float
    full_p95_ms: float


class Camera:
    """Publishes images of the street on a thread of its own; the rate may change."""

    def __init__(self, client: Client, size_wh: tuple[int, int]) -> None:
        self.rate_hz = CALM_HZ
        self._client = client
        self._images = [street_frame(frame) for frame in street_frames(size_wh)]
        self._info = client.publisher(CameraInfo, '/camera_info', qos_profile_sensor_data)
        self._image = client.publisher(Image, '/image', qos_profile_sensor_data)
        self._stopped = Event()
        self._thread = Thread(target=self._publish, name='camera')

    def __enter__(self) -> 'Camera':
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _publish(self) -> None:
        number, next_s = 0, time.monotonic()
        while not self._stopped.wait(max(0.0, next_s - time.monotonic())):
            image = self._images[number % len(self._images)]
            header = Header(frame_id='camera_optical_frame')
            header.stamp = self._client.node.get_clock().now().to_msg()
            image.stamp(header)
            with self._client.lock:
                self._client.frames.publish(frame_key(header))
            self._info.publish(image.by_topic['camera_info'])
            self._image.publish(image.by_topic['image'])
            number += 1
            # A late image does not make the next ones come closer together.
            next_s = max(next_s + 1.0 / self.rate_hz, time.monotonic())


def measure(case: Case, overlap: str, without: Figures | None = None) -> Figures:
    """Run the node once; ``overlap`` is the parameter of that name.

    ``without`` decides the rate of the camera; None for the figures of this run. Raises
    NodeLostError if the node does not start, answer or end.
    """
    with Client(Frames((), keep=())) as client:
        for topic, message_class in TOPICS[case.subscribed].items():
            client.node.create_subscription(
                message_class, f'{client.target}/{topic}', lambda _: None, OUTPUT_QOS, raw=True
            )
        client.receive_timing()
        with (
            running_node(client, case.size_wh, {'overlap': overlap}, case.engine_ms),
            Camera(client, case.size_wh) as camera,
        ):
            if not client.wait_until(lambda: _rows(client), START_TIMEOUT_S):
                raise NodeLostError(f'the node did not answer for {START_TIMEOUT_S:.0f} s')
            calm, _ = _collect(client, case.seconds)
            engine_ms = median(row['inference'] for row in calm)
            rest_ms = median(map(_rest_ms, calm))
            slower_ms = max(without.engine_ms, without.rest_ms) if without else engine_ms
            camera.rate_hz = OVERLOAD * 1e3 / max(slower_ms, rest_ms)
            full, rate_hz = _collect(client, case.seconds)
    calm_ms = distribution([row['total'] for row in calm])
    full_ms = distribution([row['total'] for row in full])
    return Figures(
        engine_ms,
        rest_ms,
        calm_ms['p50'],
        calm_ms['p95'],
        rate_hz,
        full_ms['p50'],
        full_ms['p95'],
    )


def _collect(client: Client, seconds: float) -> tuple[list[dict[str, float]], float]:
    """Return the stages of the images of the next seconds, and their rate."""
    time.sleep(SETTLING_S)
    with client.lock:
        client.frames.forget()
    start_s = time.monotonic()
    time.sleep(seconds)
    with client.lock:
        rows = _rows(client)
    if not rows:
        raise NodeLostError(f'the node published no image in {seconds:g} s')
    return rows, len(rows) / (time.monotonic() - start_s)


def _rows(client: Client) -> list[dict[str, float]]:
    return [record.stages_ms for record in client.frames if record.stages_ms]


def _rest_ms(stages_ms: dict[str, float]) -> float:
    return stages_ms['total'] - sum(stages_ms[s] for s in ('wait', 'handover', 'inference'))


def summary(off: Sequence[Figures], on: Sequence[Figures]) -> dict[str, float]:
    """Return medians over runs without and with overlap, and the ratios of both (on over off).

    ``busy_ms`` is the time of the processor for each image at full rate: that between two images
    without overlap, apart from the engine. ``share_of_bound`` is the rate with overlap over the
    highest one, which the slower one of engine and processor allows.
    """
    without, with_overlap = (
        {field.name: median(getattr(f, field.name) for f in runs) for field in fields(Figures)}
        for runs in (off, on)
    )
    off_hz, on_hz, engine_ms = without['rate_hz'], with_overlap['rate_hz'], without['engine_ms']
    busy_ms = 1e3 / off_hz - engine_ms
    return {
        'engine_ms': engine_ms,
        'rest_ms': without['rest_ms'],
        'busy_ms': busy_ms,
        'off_hz': off_hz,
        'on_hz': on_hz,
        'rate_ratio': on_hz / off_hz,
        'share_of_bound': on_hz * max(engine_ms, busy_ms) / 1e3,
        'calm_ratio': with_overlap['calm_ms'] / without['calm_ms'],
        'calm_p95_ratio': with_overlap['calm_p95_ms'] / without['calm_p95_ms'],
        'full_ratio': with_overlap['full_ms'] / without['full_ms'],
        'full_p95_ratio': with_overlap['full_p95_ms'] / without['full_p95_ms'],
    }


def engine_time(text: str) -> float | None:
    """Return the milliseconds of an argument, None for ``real``."""
    return None if text == 'real' else positive_number(text)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m panoptic_ros.benchmark.overlap_speed',
        description='Measure rate and latency of the node without and with overlap.',
    )
    parser.add_argument(
        '--engine-ms',
        type=engine_time,
        nargs='+',
        default=[2.0, 8.0, 30.0],
        metavar='MS',
        help='time of the engine for an image, or real for the engine of this machine',
    )
    parser.add_argument('--subscribe', nargs='+', choices=TOPICS, default=['all', 'every'])
    parser.add_argument('--size', type=size_wh, default=(640, 480), metavar='WxH')
    parser.add_argument(
        '--seconds', type=positive_number, default=3.0, help='for each rate of the camera'
    )
    parser.add_argument(
        '--runs', type=int, default=2, help='without and with overlap, in turn (%(default)s)'
    )
    parser.add_argument('--json', type=Path, metavar='PATH', help='write the figures there')
    return parser


def _cases(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    head = ''
    for subscribed, engine_ms in product(args.subscribe, args.engine_ms):
        case = Case(engine_ms, subscribed, args.size, args.seconds)
        off: list[Figures] = []
        on: list[Figures] = []
        for _ in range(args.runs):
            off.append(measure(case, 'never'))
            on.append(measure(case, 'always', off[-1]))
        figures = summary(off, on)
        if not head:
            head = 'topics' + ''.join(f'{name:>16}' for name in figures)
            print(head)
        cells = ''.join(f'{value:>16.2f}' for value in figures.values())
        print(f'{subscribed:<6}{cells}', flush=True)
        yield asdict(case) | figures | {'off': [*map(asdict, off)], 'on': [*map(asdict, on)]}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; returns the exit code."""
    args = make_parser().parse_args(argv)
    return write_cases('overlap_speed', _cases(args), args.json)


if __name__ == '__main__':
    sys.exit(main())
