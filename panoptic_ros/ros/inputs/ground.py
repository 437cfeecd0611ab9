"""Height and pitch of the camera: from static transforms, else from parameters."""

from collections.abc import Callable
from math import asin
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from panoptic_ros.ros.parameters import Tuning
from panoptic_ros.scene.geometry import GroundPlane

MAX_DEPTH = 50
"""Longest chain of frames that is followed; a longer one is a loop."""


class GroundInput:
    """Reads the pose of the camera from ``/tf_static``.

    Parameters
    ----------
    ground_frame
        Frame on the ground below the robot; empty for the parameters only.
    log
        Logs which height and pitch are used.
    """

    def __init__(self, ground_frame: str, log: Callable[[str], None]) -> None:
        self._ground_frame = ground_frame.lstrip('/')
        self._log = log
        self._parents: dict[str, tuple[str, np.ndarray]] = {}
        self._poses: dict[str, tuple[float, float] | None] = {}
        self._logged = ''

    def take(self, topic: str, message: Any) -> None:
        """Add the transforms of a tf2_msgs/TFMessage."""
        for transform in message.transforms:
            shift, turn = transform.transform.translation, transform.transform.rotation
            matrix = np.eye(4)
            matrix[:3, :3] = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
            matrix[:3, 3] = shift.x, shift.y, shift.z
            parent, child = transform.header.frame_id, transform.child_frame_id
            self._parents[child.lstrip('/')] = parent.lstrip('/'), matrix
        self._poses = {}

    def plane(self, frame_id: str, tuning: Tuning) -> GroundPlane:
        """Return the ground plane of a camera, whose optical frame is ``frame_id``."""
        if frame_id not in self._poses:
            self._poses = self._poses | {frame_id: self._find(frame_id)}
        found = self._poses[frame_id]
        height_m, pitch_rad = found or (tuning.camera_height_m, tuning.camera_pitch_rad)
        source = 'from the parameters camera_height_m and camera_pitch_rad'
        if found:
            source = f'from the static transform of {frame_id!r} in {self._ground_frame!r}'
        pose = f'{height_m:.2f} m above the ground, pitch {pitch_rad:.3f} rad'
        text = f'the camera is {pose}, {source}'
        if text != self._logged:
            self._logged = text
            self._log(text)
        return GroundPlane(height_m, pitch_rad, tuning.ground_range_m)

    def _find(self, frame_id: str) -> tuple[float, float] | None:
        """Return height and pitch of an optical frame in the ground frame; None if unknown."""
        # Names of ROS 1 begin with a slash.
        pose, frame = np.eye(4), frame_id.lstrip('/')
        for _ in range(MAX_DEPTH):
            if frame == self._ground_frame or frame not in self._parents:
                break
            frame, matrix = self._parents[frame]
            pose = matrix @ pose
        height_m = float(pose[2, 3])
        if frame != self._ground_frame or frame == frame_id.lstrip('/') or not height_m > 0:
            return None
        # The optical axis is z; its component downwards is the sine of the pitch.
        return height_m, asin(min(max(-float(pose[2, 2]), -1.0), 1.0))
