"""``python -m panoptic_ros.benchmark.recorded_node``: the node with recorded network outputs.

The network runs once on each image of a street; after that the node answers every image with
these outputs in turn. What remains is the time of the node without its network. ``--engine-ms``
adds a wait for each image, as for a GPU that computes while the processor is free.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import cycle
from time import sleep

import cv2
import numpy as np
import rclpy
from rclpy.signals import SignalHandlerOptions

from panoptic_ros.datasets.street.scene import StreetFrame, SyntheticStreet
from panoptic_ros.engines import EngineDescription
from panoptic_ros.ros.arguments import positive_number, size_wh
from panoptic_ros.ros.node import SegmentNode, load_segmenter, run
from panoptic_ros.ros.parameters import Structure
from panoptic_ros.ros.signals import StopSignal
from panoptic_ros.segmenter import Segmenter

PICTURES = 8
"""Number of different images."""


class RecordedEngine:
    """An engine that returns recorded outputs in turn, whatever the image.

    It waits ``wait_s`` for each image, without holding the lock of the interpreter.
    """

    def __init__(
        self,
        description: EngineDescription,
        recorded: Sequence[dict[str, np.ndarray]],
        wait_s: float = 0.0,
    ) -> None:
        self.description = description
        self._outputs = cycle(recorded)
        self._wait_s = wait_s

    def infer(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """See :meth:`panoptic_ros.engines.Engine.infer`."""
        if self._wait_s:
            sleep(self._wait_s)
        return {name: output.copy() for name, output in next(self._outputs).items()}

    def close(self) -> None:
        """Nothing to free."""


def record(
    segmenter: Segmenter, images_rgb: Sequence[np.ndarray], wait_s: float = 0.0
) -> Segmenter:
    """Run the network of a segmenter on some images and return a segmenter without it.

    The segmenter that is given is closed. ``wait_s`` is that of :class:`RecordedEngine`.
    """
    engine, recorded = segmenter.engine, []

    class Recorder:
        description = engine.description

        def infer(self, image: np.ndarray) -> dict[str, np.ndarray]:
            recorded.append(engine.infer(image))
            return recorded[-1]

        def close(self) -> None:
            """The engine is closed below."""

    recording = Segmenter(segmenter.model, Recorder())
    for image in images_rgb:
        recording.segment(image, 'rgb8')
    engine.close()
    return Segmenter(segmenter.model, RecordedEngine(engine.description, recorded, wait_s))


def street_frames(size_wh: tuple[int, int]) -> list[StreetFrame]:
    """Return the images that the camera shows."""
    street = SyntheticStreet(3, size_wh, 15.0)
    return [street.frame(number) for number in range(PICTURES)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(description='Run the node with recorded network outputs.')
    parser.add_argument('--size', type=size_wh, required=True, metavar='WxH')
    parser.add_argument('--engine-ms', type=positive_number, default=0.0)
    args, ros_args = parser.parse_known_args(arguments)
    cv2.setNumThreads(1)

    def load(structure: Structure) -> Segmenter:
        images_rgb = [frame.image_rgb for frame in street_frames(args.size)]
        return record(load_segmenter(structure), images_rgb, args.engine_ms / 1e3)

    with StopSignal() as stop:
        rclpy.init(args=ros_args, signal_handler_options=SignalHandlerOptions.NO)
        node = SegmentNode(load)
        stop.came.add_done_callback(lambda _: node.stop())
        return run(node)


if __name__ == '__main__':
    sys.exit(main())
