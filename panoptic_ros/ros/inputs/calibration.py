"""Calibration of the camera: the latest usable one, and warnings where there is none."""

from time import monotonic_ns
from typing import Any

from sensor_msgs.msg import CameraInfo

from panoptic_ros.errors import FrameError
from panoptic_ros.ros.diagnostics import FrameLog
from panoptic_ros.ros.messages.calibration import (
    check_camera_info,
    check_pinhole,
    check_shape,
    fit_camera,
    matrix_warning,
)
from panoptic_ros.scene.geometry import CameraModel

WARN_PERIOD_S = 5.0
"""Warnings about a calibration are throttled to one in this period."""

IMAGES_WITHOUT = 10
"""Images in a row without calibration before the warning: the first ones may be earlier."""


class CalibrationInput:
    """Keeps the calibration of the camera.

    Parameters
    ----------
    logger
        Of the node.
    log
        Receives the problems, for the diagnostics.
    topic
        Resolved name.

    Attributes
    ----------
    info
        Latest calibration, None if there is no usable one.
    """

    def __init__(self, logger: Any, log: FrameLog, topic: str) -> None:
        self.info: CameraInfo | None = None
        self._logger = logger
        self._log = log
        self._topic = topic
        self._images_without = 0
        self._reported = ''

    def take(self, message: CameraInfo) -> None:
        """Use a calibration for the following images; an unusable one counts as none."""
        try:
            check_camera_info(message)
        except FrameError as error:
            self.info = None
            self._logger.warning(
                f'{self._topic}: {error}; until a usable one comes there are no markers and no '
                '~/camera_info',
                throttle_duration_sec=WARN_PERIOD_S,
            )
        else:
            self.info = message

    def camera(self, size_wh: tuple[int, int], choice: str) -> CameraModel | None:
        """Return the pinhole camera for images of a size; None if there is none.

        ``choice`` is the parameter ``camera_matrix``.
        """
        info = self.info  # take() may replace it meanwhile
        if info is None:
            return None
        try:
            check_pinhole(info, choice)
            check_shape(info, size_wh)
        except FrameError:
            return None  # report() says why
        return fit_camera(info, size_wh, choice)

    def report(self, size_wh: tuple[int, int], choice: str) -> None:
        """Warn, once, if an image that needs a calibration has none or a doubtful one."""
        info = self.info
        problem = self._problem(info, size_wh, choice)
        if problem:
            self._log.note_trouble(monotonic_ns(), f'{self._topic}: {problem}')
        text = problem
        if not problem and info is not None:
            text = matrix_warning(info, choice)
        if text and text != self._reported:
            self._logger.warning(f'{self._topic}: {text}')
        self._reported = text

    def _problem(self, info: CameraInfo | None, size_wh: tuple[int, int], choice: str) -> str:
        """Return why nothing can be placed in space, else ''."""
        if info is None:
            self._images_without += 1
            if self._images_without < IMAGES_WITHOUT:
                return ''
            return (
                'no usable calibration has come: nothing is placed in space, ~/markers, ~/points '
                "and ~/free_space stay empty; remap camera_info to the camera's topic"
            )
        self._images_without = 0
        try:
            check_pinhole(info, choice)
            check_shape(info, size_wh)
        except FrameError as error:
            return str(error)
        return ''
