"""Where the camera is in another frame: from tf2, which comes with ROS and not from PyPI."""

from time import monotonic, sleep

import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.time import Time
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header

from panoptic_ros.errors import FrameError
from panoptic_ros.ros.messages import stamp_ns
from panoptic_ros.ros.parameters import ParameterError
from panoptic_ros.scene.free_space import CameraPose

try:
    import tf2_ros
except ModuleNotFoundError:
    tf2_ros = None

WAIT_S = 0.05
"""Transforms come at a rate of their own: the one of an image may be so much later."""

POLL_S = 0.002
"""How often is looked meanwhile; the buffer itself would look every 20 ms, and the frame waits."""

RETRY_S = 1.0
"""Where nobody tells of transforms, no frame waits for so long after one that waited in vain."""

JUMP_BACK_NS = 1_000_000_000
"""Stamps that go back by more mean that time began anew, as when a recording is played again."""


class Frames:
    """Listens to transforms, from construction to :meth:`destroy`.

    Parameters
    ----------
    node
        Its executor takes the transforms in.
    target_frame
        Where poses are wanted; its x-y plane is the ground, as that of ``base_footprint``,
        ``odom`` and ``map`` is.

    Raises ParameterError if tf2 is not installed.
    """

    def __init__(self, node: LifecycleNode, target_frame: str) -> None:
        if tf2_ros is None:
            raise ParameterError(
                f'parameter target_frame is {target_frame!r}, which needs tf2_ros, and that is '
                'not installed (on Ubuntu it is the package ros-DISTRO-tf2-ros-py); leave '
                'target_frame empty for the frame of the camera'
            )
        self.target_frame = target_frame
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)
        self._latest_ns = 0
        self._waits_from_s = 0.0

    def camera_pose(self, header: Header) -> CameraPose:
        """Return where the frame of a header was at its stamp.

        Raises FrameError if there is no such transform, or it has the camera below the ground.
        """
        source = header.frame_id
        now_ns = stamp_ns(header)
        if now_ns < self._latest_ns - JUMP_BACK_NS:
            # The buffer ignores transforms that are older by 10 s than those it has.
            self._buffer.clear()
        self._latest_ns = now_ns
        try:
            time = Time.from_msg(header.stamp)
            self._wait(source, time)
            transform = self._buffer.lookup_transform(self.target_frame, source, time).transform
            self._waits_from_s = 0.0
            turn, shift = transform.rotation, transform.translation
            axes = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
            return CameraPose(tuple(map(tuple, axes.tolist())), (shift.x, shift.y, shift.z))
        except (tf2_ros.TransformException, ValueError) as error:
            raise FrameError(
                f'no pose of {source!r} in target_frame {self.target_frame!r}: {error}'
            ) from error

    def _wait(self, source: str, time: Time) -> None:
        start_s = monotonic()
        if start_s < self._waits_from_s:
            return
        while not self._buffer.can_transform(self.target_frame, source, time):
            if monotonic() - start_s > WAIT_S:
                self._waits_from_s = monotonic() + RETRY_S
                return
            sleep(POLL_S)

    def destroy(self) -> None:
        """Stop listening."""
        self._listener.unregister()


def quaternion_xyzw(axes: np.ndarray) -> list[float]:
    """Return the turn of a frame whose x, y and z are the rows of ``axes`` [3, 3]."""
    return Rotation.from_matrix(np.asarray(axes).T).as_quat().tolist()
