"""Depth images: from their topic to the image they belong to, without delaying the masks."""

from time import monotonic_ns
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from panoptic_ros.errors import FrameError
from panoptic_ros.ros.diagnostics import FrameLog
from panoptic_ros.ros.frame import Frame
from panoptic_ros.ros.inputs.sync import DepthCounts, DepthSync, Match
from panoptic_ros.ros.messages.calibration import check_camera_info
from panoptic_ros.ros.messages.depth import (
    decode_compressed_depth,
    decode_depth,
    fit_depth,
)
from panoptic_ros.ros.messages.headers import stamp_ns
from panoptic_ros.ros.parameters import Tuning

WARN_PERIOD_S = 5.0
"""Warnings about depth are throttled to one in this period."""

MISSES_IN_A_ROW = 3
"""Images in a row without depth before a warning: best-effort transport loses some."""


COMPRESSED_SUFFIXES = ('/compressedDepth', '/compressed')
"""Ends of the topics of compressed depth, as image_transport names them."""


def depth_type(topic: str) -> type:
    """Return the type of the messages of a depth topic."""
    return CompressedImage if topic.endswith(COMPRESSED_SUFFIXES) else Image


class DepthInput:
    """Keeps the latest depth images and finds the one of an image.

    Parameters
    ----------
    logger
        Of the node.
    log
        Receives the problems.
    topic
        Resolved name.
    name
        Topic and parameter.
    may_be_empty
        Whether an image without any valid depth can be used.
    """

    def __init__(
        self,
        logger: Any,
        log: FrameLog,
        topic: str,
        name: str = 'depth',
        *,
        may_be_empty: bool = False,
    ) -> None:
        self._logger = logger
        self._log = log
        self._sync: DepthSync[Image | CompressedImage] = DepthSync()
        self._topic = topic
        self._name = name
        self._may_be_empty = may_be_empty
        self._calibration: CameraInfo | None = None
        self._misses = 0

    @property
    def counts(self) -> DepthCounts:
        """Counts of the depth images."""
        return self._sync.counts

    # On the executor's thread.

    def take(self, topic: str, message: Image | CompressedImage) -> None:
        """Keep a depth image; it is decoded only if it is needed."""
        self._sync.offer(stamp_ns(message.header), message)

    def take_camera_info(self, topic: str, message: CameraInfo) -> None:
        """Use a calibration for the following depth images; an unusable one counts as none."""
        try:
            check_camera_info(message)
        except FrameError as error:
            self._calibration = None
            self._logger.warning(f'{topic}: {error}', throttle_duration_sec=60.0)
        else:
            self._calibration = message

    # On the worker's threads.

    def begin(self, header: Header) -> None:
        """Announce an image that :meth:`find` will be called for."""
        self._sync.begin(stamp_ns(header))

    def find(self, frame: Frame) -> np.ndarray | None:
        """Return the depth of an announced image, float32 [H, W], metres, NaN where unknown.

        None, with a warning and a count, if there is none in time or none that can be used.
        """
        tuning = frame.tuning
        tolerance_ns = round(tuning.depth_tolerance_s * 1e9)
        match = self._sync.match(stamp_ns(frame.header), tolerance_ns, tuning.depth_wait_s)
        self._misses = self._misses + 1 if match.depth is None else 0
        if match.depth is None:
            if self._misses >= MISSES_IN_A_ROW:
                self._warn(_describe_miss(match, tuning, self._name))
            return None
        try:
            is_compressed = isinstance(match.depth, CompressedImage)
            decode = decode_compressed_depth if is_compressed else decode_depth
            depth_m = decode(match.depth, self._may_be_empty)
            size_wh = frame.picture.size_wh
            return fit_depth(
                depth_m, size_wh, self._calibration, frame.calibration, tuning.camera_matrix
            )
        except FrameError as error:
            self._sync.count_bad()
            self._warn(str(error))
            return None

    def _warn(self, why: str) -> None:
        self._log.note_trouble(monotonic_ns(), f'{self._topic}: {why}')
        self._logger.warning(
            f'{self._topic}: {why}; this image goes without {self._name}',
            throttle_duration_sec=WARN_PERIOD_S,
        )


def _describe_miss(match: Match[Any], tuning: Tuning, name: str) -> str:
    wanted = f'no depth within {tuning.depth_tolerance_s:g} s of the image'
    if match.offset_ns is None:
        return f'{wanted}: none has come yet; check the topic, or switch the parameter {name} off'
    side = 'newer' if match.offset_ns > 0 else 'older'
    return (
        f'{wanted}: the closest is {abs(match.offset_ns) / 1e9:.3f} s {side}; check that one '
        'clock stamps both and that no images are lost on the way (large images need the Fast DDS '
        'profile), or set depth_tolerance_s or depth_wait_s higher'
    )
