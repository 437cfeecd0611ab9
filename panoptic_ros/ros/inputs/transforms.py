"""Poses of cameras in another frame, through tf2 (which comes with ROS and is not on PyPI)."""

from collections.abc import Callable
from time import monotonic, sleep
from types import ModuleType
from typing import Any

from rclpy.time import Time
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header

from panoptic_ros.errors import FrameError
from panoptic_ros.ros.messages.headers import stamp_ns
from panoptic_ros.ros.parameters import ParameterError
from panoptic_ros.scene.ground_view import CameraPose
from panoptic_ros.scene.tracking import CLOCK_JUMP_NS

try:
    import tf2_ros
except ModuleNotFoundError:
    tf2_ros = None

POLL_S = 0.002
"""Period of looking for a transform that is waited for; tf2 itself looks every 20 ms."""

RETRY_S = 1.0
"""After a wait without result, images do not wait for this long."""


class CameraPoses:
    """Finds poses of cameras, from construction to :meth:`destroy`.

    Parameters
    ----------
    node
        Its executor receives the transforms.
    target_frame
        Frame whose x-y plane is the ground, such as ``base_footprint``, ``odom`` or ``map``.
    warn
        Logs a warning.
    tf2
        The module ``tf2_ros``.

    Raises ParameterError if tf2_ros is not installed.
    """

    def __init__(
        self,
        node: Any,
        target_frame: str,
        warn: Callable[[str], None] = print,
        tf2: ModuleType | None = tf2_ros,
    ) -> None:
        if tf2 is None:
            raise ParameterError(
                f'parameter target_frame is {target_frame!r}, which needs tf2_ros, and that is '
                'not installed (on Ubuntu it is the package ros-DISTRO-tf2-ros-py); leave '
                'target_frame empty for the frame of the camera'
            )
        self.target_frame = target_frame
        self._tf2 = tf2
        self._warn = warn
        self._buffer = tf2.Buffer()
        self._listener = tf2.TransformListener(self._buffer, node)
        self._latest_ns: dict[str, int] = {}  # by frame: cameras may have clocks that differ
        self._waits_from_s: dict[str, float] = {}

    def find(self, header: Header, wait_s: float, max_age_s: float) -> CameraPose:
        """Return the pose of a header's frame at its stamp.

        Parameters
        ----------
        header
            Of an image.
        wait_s
            Time to wait for a transform that has not arrived yet.
        max_age_s
            If there is none for the stamp, the latest one counts if it is not older than this;
            a warning says so.

        Raises FrameError if there is no usable transform, or if it places the camera below the
        ground.
        """
        # Names of ROS 1 begin with a slash, which tf2 refuses.
        source, now_ns = header.frame_id.lstrip('/'), stamp_ns(header)
        if now_ns < self._latest_ns.get(source, now_ns) - CLOCK_JUMP_NS:
            # The buffer ignores transforms that are 10 s older than those it has.
            self._buffer.clear()
        self._latest_ns[source] = now_ns
        try:
            time = Time.from_msg(header.stamp)
            if self._wait(source, time, wait_s):
                found = self._buffer.lookup_transform(self.target_frame, source, time)
            else:
                found = self._latest(source, time, max_age_s)
            shift, turn = found.transform.translation, found.transform.rotation
            axes = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
            return CameraPose(tuple(map(tuple, axes.tolist())), (shift.x, shift.y, shift.z))
        except (self._tf2.TransformException, ValueError) as error:
            raise FrameError(
                f'no pose of {source!r} in target_frame {self.target_frame!r}: {error}'
            ) from error

    def _wait(self, source: str, time: Time, wait_s: float) -> bool:
        """Return whether there is a transform for a time, after waiting for it."""
        start_s = monotonic()
        while not self._buffer.can_transform(self.target_frame, source, time):
            now_s = monotonic()
            if now_s < self._waits_from_s.get(source, 0.0):
                return False
            if now_s - start_s >= wait_s:
                self._waits_from_s[source] = now_s + RETRY_S
                return False
            sleep(POLL_S)
        self._waits_from_s.pop(source, None)
        return True

    def _latest(self, source: str, time: Time, max_age_s: float) -> Any:
        """Return the latest transform if it is recent enough, else raise what tf2 raises."""
        latest = self._buffer.lookup_transform(self.target_frame, source, Time())
        age_s = (time.nanoseconds - stamp_ns(latest.header)) / 1e9
        if not 0 <= age_s <= max_age_s:
            return self._buffer.lookup_transform(self.target_frame, source, time)
        self._warn(
            f'the latest pose of {source!r} in target_frame {self.target_frame!r} is {age_s:.3f} '
            's older than the image and is used nevertheless; set transform_wait_s higher to wait '
            'for the right one'
        )
        return latest

    def destroy(self) -> None:
        """Stop listening."""
        self._listener.unregister()
