"""The robot's side of a soak: publishes images, and receives and counts all outputs."""

import math
import time
from collections import Counter
from typing import Any

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.benchmark.cdr import FrameKey, frame_key
from panoptic_ros.benchmark.checks import OUTCOMES
from panoptic_ros.benchmark.client import OUTPUT_QOS, Client
from panoptic_ros.benchmark.frames import Frames
from panoptic_ros.benchmark.soak.accounts import Output

OUTPUTS = {
    'semantic': Image,
    'instance': Image,
    'overlay': Image,
    'camera_info': CameraInfo,
    'markers': MarkerArray,
}
"""Outputs that are received; of the markers, messages that add some."""

NODE_QOS: dict[str, Any] = {
    'qos_overrides./image.subscription.reliability': 'reliable',
    'qos_overrides./image.subscription.depth': OUTPUT_QOS.depth,
} | {f'qos_overrides./segment/{topic}.publisher.depth': OUTPUT_QOS.depth for topic in OUTPUTS}
"""Parameters of the node that make DDS lossless, so that only the node can lose an image."""

CAMERA_QOS: dict[str, Any] = {
    'qos_overrides./image.publisher.reliability': 'reliable',
    'qos_overrides./image.publisher.depth': OUTPUT_QOS.depth,
}

CAMERA_FRAME_ID = 'camera_optical_frame'
"""Frame of the camera process; images of :meth:`Robot.send` have others."""


class Robot(Client):
    """A client that sends images and reports what the node made of them."""

    def __init__(self) -> None:
        super().__init__(Frames(tuple(OUTPUTS)), name='soak')
        self._camera_windows_ns: list[tuple[float, float]] = []
        self._image = self.publisher(Image, '/image')
        self._camera_info = self.publisher(CameraInfo, '/camera_info')
        self.receive('/camera_info', CameraInfo, publishes=True)
        self.receive_outputs({t: c for t, c in OUTPUTS.items() if c is not MarkerArray})
        self.receive(
            f'{self.target}/markers', MarkerArray, label='markers', read_key=_added_marker_key
        )

    def send(
        self, image: Image, calibration: CameraInfo | None = None, *, is_good: bool = True
    ) -> None:
        """Publish an image, after its calibration; a bad image must not be answered."""
        if calibration is not None:
            calibration.header = image.header
        if is_good:
            with self.lock:
                self.frames.publish(frame_key(image.header))
        if calibration is not None:
            self._camera_info.publish(calibration)
        self._image.publish(image)

    def counts(self) -> Counter[str]:
        """Return the node's counters from its newest report."""
        status = self.status
        return Counter({name: status.count(name) for name in ('received', *OUTCOMES)})

    def outputs(self) -> dict[str, Output]:
        """Return what came on each output since :meth:`forget`."""
        with self.lock:
            return {
                topic: Output(
                    sum(topic in record.received_ns for _, record in self.frames.items()),
                    [k for k in self.frames.unpublished(topic) if not self._may_be_missed(k)],
                    self.frames.repeated(topic),
                )
                for topic in OUTPUTS
            }

    def forget(self) -> None:
        """Begin a new account."""
        with self.lock:
            self.frames.forget()

    def answered(self) -> int:
        """Return the number of overlays received so far."""
        return self.frames.received['overlay']

    def begin_camera(self) -> None:
        """Note that a camera process is about to start.

        Its first images, published before it discovered this node, and the last one of a killed
        camera may have reached the node under test alone.
        """
        self._camera_windows_ns.append((time.time_ns(), math.inf))

    def end_camera(self) -> None:
        """Note that the camera process has ended."""
        self._camera_windows_ns[-1] = (self._camera_windows_ns[-1][0], time.time_ns())

    def _may_be_missed(self, key: FrameKey) -> bool:
        return key.frame_id == CAMERA_FRAME_ID and any(
            begin < key.stamp_ns < end for begin, end in self._camera_windows_ns
        )


def _added_marker_key(data: bytes) -> FrameKey | None:
    # A message that only deletes may repeat the header of an earlier image.
    markers = deserialize_message(data, MarkerArray).markers
    return next((frame_key(m.header) for m in markers if m.action == Marker.ADD), None)
