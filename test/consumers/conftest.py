"""What the tests of consumers share.

Each test file plays one consumer: it subscribes over DDS to the real node, with the quality of
service, the synchronisation and the checks that the consumer's published source has, and fails
where the consumer would drop, refuse or misread a message. The rules are written anew from those
sources; each is named where it is followed, as repository, file and function.
"""

import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.ros import wait_until

if TYPE_CHECKING:
    from rclpy.qos import QoSProfile

IMAGE, CAMERA_INFO, OUT = '/robot/image', '/robot/camera_info', '/robot/segment/'
SIZE_WH = (128, 64)
FOCAL_PX = 64.0

Stamp = tuple[int, int]


class ExactTime:
    """Messages of several topics, handed over as a set once all have the same stamp.

    ros2/message_filters, ``include/message_filters/sync_policies/exact_time.hpp``: sets are kept
    by stamp; a set that is complete is handed over and all older ones are given up; beyond
    ``queue_size`` sets the oldest goes.
    """

    def __init__(self, topics: Iterable[str], queue_size: int) -> None:
        self.sets: list[dict[str, Any]] = []
        self._topics = set(topics)
        self._queue_size = queue_size
        self._waiting: dict[Stamp, dict[str, Any]] = {}

    def add(self, topic: str, message: Any) -> None:
        stamp = (message.header.stamp.sec, message.header.stamp.nanosec)
        found = self._waiting.setdefault(stamp, {})
        found[topic] = message
        if found.keys() == self._topics:
            self.sets.append(found)
            self._waiting = {s: w for s, w in self._waiting.items() if s > stamp}
        while len(self._waiting) > self._queue_size:
            del self._waiting[min(self._waiting)]


class Camera:
    """Publishes the scene on the node's input topics, as a camera does, frame after frame.

    ``others`` are topics with a function each that makes a message from the frame's header.
    """

    def __init__(self, peer: Any, scene_bgr: np.ndarray) -> None:
        self.peer = peer
        self.scene_bgr = scene_bgr
        self.others: dict[str, Callable[[Any], Any]] = {CAMERA_INFO: calibration}

    def image(self) -> Any:
        from panoptic_ros.ros.messages import image_message

        return image_message(self.scene_bgr, self.peer.header())

    def film(self, frames: int, done: Callable[[], int], what: str) -> None:
        """Publish images, each with its calibration, until ``done`` has counted some frames."""

        def send_and_spin() -> None:
            before, image = done(), self.image()
            for topic, make in self.others.items():
                self.peer.publish(topic, make(image.header))
            self.peer.publish(IMAGE, image)
            end = time.monotonic() + 0.5
            while time.monotonic() < end and done() == before:
                self.peer._executor.spin_once(timeout_sec=0.02)

        wait_until(lambda: done() >= frames, what, send_and_spin)


def calibration(header: Any) -> Any:
    """Return a rectified camera's calibration for the scene."""
    from sensor_msgs.msg import CameraInfo

    width, height = SIZE_WH
    cx, cy = width / 2 - 0.5, height / 2 - 0.5
    return CameraInfo(
        header=header,
        width=width,
        height=height,
        distortion_model='plumb_bob',
        d=[0.0] * 5,
        k=[FOCAL_PX, 0.0, cx, 0.0, FOCAL_PX, cy, 0.0, 0.0, 1.0],
        r=np.eye(3).ravel().tolist(),
        p=[FOCAL_PX, 0.0, cx, 0.0, 0.0, FOCAL_PX, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def depth_image(header: Any, depth_m: np.ndarray) -> Any:
    """Return a depth image in metres."""
    from sensor_msgs.msg import Image

    height, width = depth_m.shape
    message = Image(header=header, width=width, height=height, encoding='32FC1', step=4 * width)
    message.data.frombytes(depth_m.tobytes())
    return message


@pytest.fixture
def scene_depth_m() -> np.ndarray:
    """Return float32 [H, W]: flat ground 1.5 m below the camera, cars 6 m away, no sky."""
    width, height = SIZE_WH
    below = np.arange(height, dtype=np.float32) - (height / 2 - 0.5)
    with np.errstate(divide='ignore', invalid='ignore'):
        ground_m = np.where(below > 0, 1.5 * FOCAL_PX / below, np.nan)
    depth_m = np.repeat(ground_m[:, None], width, axis=1).astype(np.float32)
    for first in 16, 80:  # as paint_tiny_scene paints them, twice the size
        depth_m[16:48, first : first + 32] = 6.0
    return depth_m


@pytest.fixture
def scene_bgr(tiny_scene: Callable[..., np.ndarray]) -> np.ndarray:
    """Return the picture that the camera sees: sky above road, two cars side by side."""
    return np.ascontiguousarray(tiny_scene(SIZE_WH)[..., ::-1])


@pytest.fixture
def camera(peer: Any, scene_bgr: np.ndarray) -> Camera:
    """Return a camera in front of the scene."""
    return Camera(peer, scene_bgr)


@pytest.fixture
def depth_camera(camera: Camera, scene_depth_m: np.ndarray) -> Camera:
    """Return a camera that measures depth too, 32FC1, aligned to the image."""
    camera.others['/robot/depth'] = lambda header: depth_image(header, scene_depth_m)
    camera.others['/robot/depth/camera_info'] = calibration
    return camera


@pytest.fixture
def synchronise(peer: Any) -> Callable[..., ExactTime]:
    """Return a function that subscribes to topics and synchronises them by exact stamps.

    ``types`` maps topic to message type; ``qos`` is that of the consumer's subscriptions.
    """

    def subscribe(types: dict[str, type], qos: 'QoSProfile', queue_size: int) -> ExactTime:
        sync = ExactTime(types, queue_size)
        for topic, message_type in types.items():
            peer.node.create_subscription(message_type, topic, partial(sync.add, topic), qos)
        return sync

    return subscribe


@pytest.fixture
def assert_compatible(peer: Any) -> Callable[[str, 'QoSProfile'], None]:
    """Return a check that a subscription of some QoS gets what the node publishes on a topic."""
    from rclpy.qos import QoSCompatibility, qos_check_compatible

    def check(topic: str, qos: 'QoSProfile') -> None:
        infos = peer.wait_until(
            lambda: peer.node.get_publishers_info_by_topic(topic), f'a publisher of {topic}'
        )
        for info in infos:
            compatibility, reason = qos_check_compatible(info.qos_profile, qos)
            assert compatibility != QoSCompatibility.ERROR, f'{topic}: {reason}'

    return check


CAMERA_IN_ODOM_M = (3.0, -2.0, 1.5)

# The transform that a robot's tf would give: the camera looks along x of odom.
TF2_ROS = f"""
from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration

class TransformException(Exception):
    pass

class Buffer:
    def can_transform(self, target_frame, source_frame, time, timeout=Duration()):
        return target_frame == 'odom'

    def lookup_transform(self, target_frame, source_frame, time, timeout=Duration()):
        assert target_frame == 'odom'
        found = TransformStamped()
        shift, turn = found.transform.translation, found.transform.rotation
        shift.x, shift.y, shift.z = {CAMERA_IN_ODOM_M}
        turn.x, turn.y, turn.z, turn.w = -0.5, 0.5, -0.5, 0.5
        return found

class TransformListener:
    def __init__(self, buffer, node):
        pass

    def unregister(self):
        pass
"""


@pytest.fixture
def camera_in_odom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float, float]:
    """Give nodes that are started a tf2 that knows where the camera is in odom; return where."""
    (tmp_path / 'tf2_ros.py').write_text(TF2_ROS, encoding='utf-8')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path), prepend=os.pathsep)
    return CAMERA_IN_ODOM_M
