"""``python -m panoptic_ros.benchmark.depth_speed``: time of tracking and depth by stage.

Runs the functions that the node calls in one thread, each from its input to the serialised
output, on the synthetic street. The masks are the ground truth, so there are more objects than a
small network finds.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import cv2
import numpy as np
from std_msgs.msg import Header

from panoptic_ros.benchmark.figures import distribution, percentile_table
from panoptic_ros.datasets.street.scene import StreetFrame, SyntheticStreet
from panoptic_ros.evaluation.report import write_json
from panoptic_ros.fusion import Fused
from panoptic_ros.labels import LabelSet
from panoptic_ros.ros import messages
from panoptic_ros.ros.arguments import size_wh
from panoptic_ros.ros.camera import street_frame
from panoptic_ros.ros.frame import Frame, Needs
from panoptic_ros.ros.outputs import OUTPUTS
from panoptic_ros.ros.parameters import Tuning
from panoptic_ros.ros.scene import SceneEstimator
from panoptic_ros.scene.geometry import GroundPlane
from panoptic_ros.scene.tracking import Tracker
from panoptic_ros.segmenter import Segmentation, StageTimes

RATE_HZ = 15.0
SETTLING_FRAMES = 30
"""Frames at the start that are not measured."""

TRACKING, DECODING, MEASURING = 'tracking', 'depth, decoded', 'depth of the objects, velocities'
FREE_SPACE, FLAT, POINTS = '~/free_space', '~/free_space without depth', '~/points'
COLUMNS = ('p50', 'p95')
ADDED = f'{TRACKING}, depth, {FREE_SPACE}'


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog='python -m panoptic_ros.benchmark.depth_speed',
        description='Measure the time that tracking and depth add to a frame.',
    )
    parser.add_argument('--size', type=size_wh, default=(640, 480), metavar='WxH')
    parser.add_argument('--frames', type=int, default=300, help='(%(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the street (%(default)s)')
    parser.add_argument('--json', type=Path, metavar='PATH', help='write the figures there')
    args = parser.parse_args(argv)
    if args.frames < 1:
        parser.error(f'--frames is {args.frames}; expected 1 or more')
    cv2.setNumThreads(1)
    frames = times_ms(args.seed, args.size)
    rows = list(islice(frames, SETTLING_FRAMES, SETTLING_FRAMES + args.frames))
    figures = {name: distribution([row[name] for row in rows]) for name in rows[0]}
    width, height = args.size
    title = f'ms, {width}x{height}, {args.frames} frames'
    print(percentile_table(title, figures, COLUMNS))
    if args.json:
        percentiles = {name: [f[column] for column in COLUMNS] for name, f in figures.items()}
        content = {'size_wh': args.size, 'frames': args.frames, 'p50_p95_ms': percentiles}
        write_json(args.json, content)
    return 0


def times_ms(seed: int, size_wh: tuple[int, int]) -> Iterator[dict[str, float]]:
    """Yield milliseconds by stage for each frame of a street."""
    street = SyntheticStreet(seed, size_wh, RATE_HZ)
    stages = Stages()
    for number in count():
        yield stages.times_ms(street.frame(number))


class Stages:
    """The stages of the node that use tracking and depth, on consecutive frames."""

    def __init__(self) -> None:
        self._label_set = LabelSet.load('cityscapes')
        self._tracker = Tracker()
        self._depth_m = np.zeros((0, 0), np.float32)
        self._with_depth = SceneEstimator(
            self._label_set, self._tracker, find_depth=lambda frame: self._depth_m
        )
        self._without = SceneEstimator(self._label_set, Tracker())

    def times_ms(self, frame: StreetFrame) -> dict[str, float]:
        """Process a frame; return milliseconds by stage."""
        header = Header(frame_id='camera')
        header.stamp.sec, header.stamp.nanosec = divmod(frame.stamp_ns, 1_000_000_000)
        sent = street_frame(frame)
        sent.stamp(header)
        picture, info, depth = (sent.by_topic[t] for t in ('image', 'camera_info', 'depth'))
        times: dict[str, float] = {}

        def timed(name: str, call: Callable[[], Any]) -> Any:
            start_ns = perf_counter_ns()
            value = call()
            times[name] = (perf_counter_ns() - start_ns) / 1e6
            return value

        def decode_depth() -> np.ndarray:
            depth_m = messages.decode_depth(depth)
            return messages.fit_depth(depth_m, frame.size_wh, info, info)

        panoptic = timed(TRACKING, lambda: self._tracker.update(frame.truth, frame.stamp_ns))
        confidence = np.zeros((1, 1), np.uint8)
        segmented = Frame(
            header=header,
            picture=messages.decode_image(picture),
            segmentation=Segmentation(Fused(panoptic, confidence), StageTimes(0, 0, 0)),
            label_set=self._label_set,
            calibration=info,
            camera=messages.fit_camera(info, frame.size_wh),
            ground=GroundPlane(frame.camera_height_m, frame.camera_pitch_rad),
            tuning=Tuning(),
        )
        build = {output.topic: output.build for output in OUTPUTS}
        self._depth_m = timed(DECODING, decode_depth)
        timed(MEASURING, lambda: self._with_depth.estimate(segmented, Needs.OBJECTS))

        def publish_grid(estimator: SceneEstimator) -> None:
            scene = estimator.estimate(segmented, Needs.GRID)
            build['~/free_space'](replace(segmented, scene=scene))

        timed(FREE_SPACE, lambda: publish_grid(self._with_depth))
        times[ADDED] = sum(times.values())
        with_depth = replace(segmented, scene=self._with_depth.estimate(segmented, Needs.DEPTH))
        timed(POINTS, lambda: build['~/points'](with_depth))
        timed(FLAT, lambda: publish_grid(self._without))
        return times


if __name__ == '__main__':
    sys.exit(main())
