"""Depth images from their topic to the picture they belong to; never in the way of the masks."""

from time import monotonic_ns

import numpy as np
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from panoptic_ros.errors import FrameError
from panoptic_ros.ros import messages
from panoptic_ros.ros.depth_sync import DepthCounts, DepthSync, Match
from panoptic_ros.ros.diagnostics import FrameLog
from panoptic_ros.ros.parameters import Tuning

WARN_PERIOD_S = 5.0
"""A warning about depth is not repeated within so many seconds."""

MISSES_IN_A_ROW = 3
"""Fewer pictures in a row without depth are counted but not warned of: best effort loses some."""


class DepthInput:
    """Keeps the depth images that come and finds the one of a picture.

    Parameters
    ----------
    node
        Names the topics and logs.
    log
        Is told what goes wrong.
    name
        Of the topic, and of the parameter that switches it on.
    may_be_empty
        Whether an image without any depth can be used.
    """

    def __init__(
        self,
        node: LifecycleNode,
        log: FrameLog,
        name: str = 'depth',
        *,
        may_be_empty: bool = False,
    ) -> None:
        self._node = node
        self._log = log
        self._sync: DepthSync[Image] = DepthSync()
        self._name = name
        self._topic = node.resolve_topic_name(name)
        self._may_be_empty = may_be_empty
        self._calibration: CameraInfo | None = None
        self._misses = 0

    @property
    def counts(self) -> DepthCounts:
        """What became of the depth images."""
        return self._sync.counts

    # On the executor's thread.

    def take(self, topic: str, message: Image) -> None:
        """Keep a depth image; it is decoded only if its picture asks for it."""
        self._sync.offer(messages.stamp_ns(message.header), message)

    def take_camera_info(self, topic: str, message: CameraInfo) -> None:
        """Use a calibration for the depth to come; one that makes no sense counts as none."""
        try:
            messages.check_camera_info(message)
        except FrameError as error:
            self._calibration = None
            self._node.get_logger().warning(f'{topic}: {error}', throttle_duration_sec=60.0)
        else:
            self._calibration = message

    # On the worker's thread.

    def begin(self, header: Header) -> None:
        """Announce the picture that :meth:`find` will be asked for."""
        self._sync.begin(messages.stamp_ns(header))

    def find(
        self, size_wh: tuple[int, int], calibration: CameraInfo | None, tuning: Tuning
    ) -> np.ndarray | None:
        """Return the announced picture's depth, float32 [H, W], metres, NaN = unknown.

        None, with a warning and a count, if there is none in time or none that can be used.

        Parameters
        ----------
        size_wh
            Of the picture, pixels.
        calibration
            The picture's, None if it has none.
        tuning
            Says how far stamps may differ, and how long to wait.
        """
        tolerance_ns = round(tuning.depth_tolerance_s * 1e9)
        match = self._sync.match(tolerance_ns, tuning.depth_wait_s)
        self._misses = self._misses + 1 if match.depth is None else 0
        if match.depth is None:
            if self._misses >= MISSES_IN_A_ROW:
                self._complain(_miss(match, tuning, self._name))
            return None
        try:
            depth_m = messages.decode_depth(match.depth, self._may_be_empty)
            return messages.fit_depth(depth_m, size_wh, self._calibration, calibration)
        except FrameError as error:
            self._sync.count_bad()
            self._complain(str(error))
            return None

    def _complain(self, why: str) -> None:
        self._log.note_trouble(monotonic_ns(), f'{self._topic}: {why}')
        self._node.get_logger().warning(
            f'{self._topic}: {why}; this image goes without {self._name}',
            throttle_duration_sec=WARN_PERIOD_S,
        )


def _miss(match: Match[Image], tuning: Tuning, name: str) -> str:
    wanted = f'no depth within {tuning.depth_tolerance_s:g} s of the image'
    if match.offset_ns is None:
        return f'{wanted}: none has come yet; check the topic, or switch the parameter {name} off'
    side = 'newer' if match.offset_ns > 0 else 'older'
    return (
        f'{wanted}: the closest is {abs(match.offset_ns) / 1e9:.3f} s {side}; see that one clock '
        'stamps both, or set depth_tolerance_s or depth_wait_s higher'
    )
