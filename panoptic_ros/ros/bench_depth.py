"""``python -m panoptic_ros.ros.bench_depth``: what tracking and depth add to a frame, by stage.

The node's own calls in one thread, each from its input to the bytes that go out. The street, its
depth and its masks are synthetic: the masks are true, so there are more objects than a small
network finds.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from time import perf_counter_ns

import cv2
import numpy as np
from rclpy.serialization import serialize_message
from std_msgs.msg import Header

from panoptic_ros.cli import run_alone
from panoptic_ros.datasets.synthetic import SyntheticStreet
from panoptic_ros.errors import DatasetError
from panoptic_ros.evaluation.report import write_json
from panoptic_ros.fusion import Fused
from panoptic_ros.labels import LabelSet
from panoptic_ros.ros import messages
from panoptic_ros.ros.arguments import size_wh
from panoptic_ros.ros.camera import CameraFrame, street_frame
from panoptic_ros.ros.outputs import Result
from panoptic_ros.ros.parameters import Tuning
from panoptic_ros.ros.points import CloudBuilder
from panoptic_ros.ros.surroundings import SurroundingsBuilder
from panoptic_ros.segmenter import Segmentation, StageTimes
from panoptic_ros.tracking import Tracker

RATE_HZ = 15.0
SETTLING_FRAMES = 30
"""Frames at the start that do not count."""

TRACKING, DECODING, MEASURING = 'tracking', 'depth, decoded', 'depth of the objects, velocities'
FREE_SPACE, FLAT, POINTS = '~/free_space', '~/free_space without depth', '~/points'
ADDED = f'{TRACKING}, depth, {FREE_SPACE}'
PERCENTILES = (50, 95)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; returns the exit status."""
    return run_alone('bench_depth', 'Time what tracking and depth add.', configure, run, argv)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument('--size', type=size_wh, default=(640, 480), metavar='WxH')
    parser.add_argument('--frames', type=int, default=300, help='(%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='which street (%(default)s)')
    parser.add_argument('--json', type=Path, metavar='PATH', help='write the figures there')


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    if args.frames < 1:
        raise DatasetError(f'--frames is {args.frames}; expected 1 or more')
    cv2.setNumThreads(1)
    rows = list(
        islice(times_ms(args.seed, args.size), SETTLING_FRAMES, SETTLING_FRAMES + args.frames)
    )
    figures = {
        name: np.percentile([row[name] for row in rows], PERCENTILES).tolist() for name in rows[0]
    }
    width, height = args.size
    print(f'{f"ms, {width}x{height}, {args.frames} frames":<36}' + 'p50'.rjust(8) + 'p95'.rjust(8))
    for name, values in figures.items():
        print(f'{name:<36}' + ''.join(f'{value:8.2f}' for value in values))
    if args.json:
        write_json(args.json, {'size_wh': args.size, 'frames': args.frames, 'p50_p95_ms': figures})
    return 0


def times_ms(seed: int, size_wh: tuple[int, int]) -> Iterator[dict[str, float]]:
    """Yield what each stage took, milliseconds by name, frame after frame of a street."""
    street = SyntheticStreet(seed, size_wh, RATE_HZ)
    label_set = LabelSet.load('cityscapes')
    tracker, clouds = Tracker(), CloudBuilder()
    surroundings, flat = SurroundingsBuilder(None, ''), SurroundingsBuilder(None, '')
    for frame in map(street.frame, count()):
        sent: CameraFrame = street_frame(frame)
        header = Header(frame_id='camera')
        header.stamp.sec, header.stamp.nanosec = divmod(frame.stamp_ns, 1_000_000_000)
        sent.stamp(header)
        row: dict[str, float] = {}
        panoptic = _timed(row, TRACKING, lambda: tracker.update(frame.truth, frame.stamp_ns))
        info, depth = sent.by_topic['camera_info'], sent.by_topic['depth']
        result, without = (
            Result(
                header=header,
                picture=messages.decode_image(sent.by_topic['image']),
                segmentation=Segmentation(
                    Fused(panoptic, np.zeros((1, 1), np.uint8)), StageTimes(0, 0, 0)
                ),
                label_set=label_set,
                calibration=info,
                tuning=Tuning(
                    camera_height_m=frame.camera_height_m, camera_pitch_rad=frame.camera_pitch_rad
                ),
                find_depth=find_depth,
                tracker=tracker,
            )
            for find_depth in (
                lambda: messages.fit_depth(messages.decode_depth(depth), size_wh, info, info),
                lambda: None,
            )
        )
        _timed(row, DECODING, lambda: result.depth_m)
        _timed(row, MEASURING, lambda: (result.placement, result.velocity_m_s))
        _timed(row, FREE_SPACE, lambda: serialize_message(surroundings.build(result)))
        row[ADDED] = sum(row.values())
        _timed(
            row,
            POINTS,
            lambda: clouds.build(
                result.header_cdr, result.camera, result.depth_m, panoptic, result.picture
            ),
        )
        _timed(row, FLAT, lambda: serialize_message(flat.build(without)))
        yield row


def _timed(row: dict[str, float], name: str, call: Callable[[], object]) -> object:
    start_ns = perf_counter_ns()
    value = call()
    row[name] = (perf_counter_ns() - start_ns) / 1e6
    return value


if __name__ == '__main__':
    sys.exit(main())
