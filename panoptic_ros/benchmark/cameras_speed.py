"""``python -m panoptic_ros.benchmark.cameras_speed``: time of one engine for several cameras.

The node runs as a child process. All cameras publish an image at the same time; when the last one
is answered they publish the next ones. The engine is that of this machine, or one that waits a
fixed time for each image, as for a GPU (:mod:`.recorded_node`).
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle, product
from pathlib import Path
from statistics import median
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from panoptic_ros.benchmark.cdr import FrameKey, frame_key
from panoptic_ros.benchmark.client import OUTPUT_QOS, Client
from panoptic_ros.benchmark.frames import Frames
from panoptic_ros.benchmark.node_speed import SUBSCRIBED, running_node, write_cases
from panoptic_ros.benchmark.overlap_speed import engine_time
from panoptic_ros.benchmark.processes import NodeLostError
from panoptic_ros.benchmark.recorded_node import street_frames
from panoptic_ros.ros.arguments import size_wh
from panoptic_ros.ros.camera import street_frame
from panoptic_ros.ros.parameters import OVERLAP

START_TIMEOUT_S = 120.0
REPEAT_S = 2.0
"""Images are best effort: a round that is not answered in this time does not count."""

SETTLING_ROUNDS = 10
PAUSE_S = 0.02
"""Between two rounds, as with cameras that are slower than the node."""


@dataclass(frozen=True)
class Case:
    """One run of the node; ``engine_ms`` None is the real network."""

    cameras: int
    engine_ms: float | None
    overlap: str
    size_wh: tuple[int, int]
    rounds: int


class Rig:
    """Cameras that publish at the same time."""

    def __init__(self, client: Client, case: Case) -> None:
        self._client = client
        self._images = cycle([street_frame(frame) for frame in street_frames(case.size_wh)])
        self._answered: dict[str, FrameKey] = {}
        self._publishers = {}
        for number in range(case.cameras):
            camera = f'camera{number}'
            self._publishers[camera] = client.publisher(
                Image, f'/{camera}/image', qos_profile_sensor_data
            )
            for topic, message_class in SUBSCRIBED['maps'].items():
                client.node.create_subscription(
                    message_class,
                    f'{client.target}/{camera}/{topic}',
                    lambda _: None,
                    OUTPUT_QOS,
                    raw=True,
                )
            client.node.create_subscription(
                DiagnosticArray,
                f'{client.target}/{camera}/timing',
                partial(self._answer, camera),
                OUTPUT_QOS,
            )

    def _answer(self, camera: str, message: DiagnosticArray) -> None:
        with self._client.lock:
            self._answered[camera] = frame_key(message.header)
            self._client.lock.notify_all()

    def round_ms(self, timeout_s: float) -> float | None:
        """Return milliseconds from the first image to the last answer; None after the timeout."""
        image = next(self._images)
        header = Header(frame_id='camera_optical_frame')
        header.stamp = self._client.node.get_clock().now().to_msg()
        image.stamp(header)
        key, start_s = frame_key(header), time.monotonic()
        for publisher in self._publishers.values():
            publisher.publish(image.by_topic['image'])
        is_answered = self._client.wait_until(
            lambda: all(self._answered.get(camera) == key for camera in self._publishers),
            timeout_s,
        )
        return (time.monotonic() - start_s) * 1e3 if is_answered else None


def measure(case: Case) -> float:
    """Return the median milliseconds of a round.

    Raises NodeLostError if the node does not start, answer or end.
    """
    parameters = {
        'cameras': ','.join(f'camera{number}' for number in range(case.cameras)),
        'overlap': case.overlap,
    }
    with Client(Frames((), keep=())) as client:
        rig = Rig(client, case)
        with running_node(client, case.size_wh, parameters, case.engine_ms):
            end_s = time.monotonic() + START_TIMEOUT_S
            rounds: list[float] = []
            while len(rounds) < SETTLING_ROUNDS + case.rounds:
                took_ms = rig.round_ms(REPEAT_S)
                if took_ms is not None:
                    rounds.append(took_ms)
                elif not rounds and time.monotonic() > end_s:
                    raise NodeLostError(f'the node did not answer for {START_TIMEOUT_S:.0f} s')
                time.sleep(PAUSE_S)
    return median(rounds[SETTLING_ROUNDS:])


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m panoptic_ros.benchmark.cameras_speed',
        description='Measure how the time of one engine grows with the number of cameras.',
    )
    parser.add_argument('--cameras', type=int, nargs='+', default=[1, 2, 4, 8], metavar='N')
    parser.add_argument(
        '--engine-ms',
        type=engine_time,
        nargs='+',
        default=[8.0, None],
        metavar='MS',
        help='time of the engine for an image, or real for the engine of this machine (8 real)',
    )
    parser.add_argument('--overlap', nargs='+', choices=OVERLAP, default=['never', 'always'])
    parser.add_argument('--size', type=size_wh, default=(640, 480), metavar='WxH')
    parser.add_argument('--rounds', type=int, default=50, help='for each case (%(default)s)')
    parser.add_argument('--json', type=Path, metavar='PATH', help='write the figures there')
    return parser


def _cases(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    print('engine_ms  overlap  cameras  round_ms  over_one')
    for engine_ms, overlap in product(args.engine_ms, args.overlap):
        name = 'real' if engine_ms is None else f'{engine_ms:g}'
        first_ms = 0.0
        for cameras in args.cameras:
            case = Case(cameras, engine_ms, overlap, args.size, args.rounds)
            round_ms = measure(case)
            first_ms = first_ms or round_ms
            over_one = round_ms / first_ms
            row = f'{name:>9}{overlap:>9}{cameras:>9}{round_ms:>10.1f}{over_one:>10.2f}'
            print(row, flush=True)
            yield asdict(case) | {'round_ms': round_ms, 'over_one': over_one}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; returns the exit code."""
    args = make_parser().parse_args(argv)
    return write_cases('cameras_speed', _cases(args), args.json)


if __name__ == '__main__':
    sys.exit(main())
