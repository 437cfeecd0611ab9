"""Poses from tf2, played by a stand-in."""

import math

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header

from panoptic_ros.errors import FrameError
from panoptic_ros.ros.inputs import transforms
from panoptic_ros.ros.inputs.transforms import CameraPoses
from panoptic_ros.ros.parameters import ParameterError
from panoptic_ros.scene.geometry import GroundPlane
from panoptic_ros.scene.ground_view import CameraPose

GROUND = GroundPlane(1.5, 0.1, 60.0)


class FakeTf2:
    """Stands in for the module tf2_ros, with its names and arguments.

    After ros2/geometry2, rolling: tf2_ros_py/tf2_ros/buffer.py and transform_listener.py, and
    tf2_py/src/tf2_py.cpp for the errors, what a time is, and ``clear``; tf2/src/cache.cpp for what
    becomes of transforms that are older than those there are, whoever sends them.
    """

    class TransformException(Exception):
        """The base of all errors."""

    class LookupException(TransformException):
        """What a look-up raises for a frame that nobody has told of."""

    def __init__(self, transform: TransformStamped | None) -> None:
        self.transform = transform
        self.asked: list[tuple] = []
        self.registered = 0
        self.cleared = 0
        self.looked = 0
        self.late = 0  # so many looks before the transform is there
        self.refuses_stamps = False
        tf2 = self

        class Buffer:
            def __init__(self, cache_time: Duration | None = None, node: Node | None = None):
                assert node is None  # it would make a service

            def lookup_transform(
                self,
                target_frame: str,
                source_frame: str,
                time: Time,
                timeout: Duration = Duration(),  # noqa: B008
            ) -> TransformStamped:
                assert isinstance(time.nanoseconds, int)
                assert timeout == Duration()  # it would sleep for 20 ms
                tf2.asked.append((target_frame, source_frame, time.nanoseconds))
                if tf2.transform is None:
                    raise tf2.LookupException(f'"{source_frame}" does not exist')
                if tf2.refuses_stamps and time.nanoseconds:
                    raise tf2.TransformException('extrapolation into the future')
                return tf2.transform

            def can_transform(
                self,
                target_frame: str,
                source_frame: str,
                time: Time,
                timeout: Duration = Duration(),  # noqa: B008
                return_debug_tuple: bool = False,
            ) -> bool:
                assert timeout == Duration()
                tf2.looked += 1
                return tf2.transform is not None and tf2.looked > tf2.late

            def clear(self) -> None:
                tf2.cleared += 1

        class TransformListener:
            def __init__(
                self,
                buffer: Buffer,
                node: Node | None,
                *,
                spin_thread: bool = False,
                qos: object = None,
                static_qos: object = None,
            ) -> None:
                assert isinstance(buffer, Buffer)
                tf2.registered += 1

            def unregister(self) -> None:
                tf2.registered -= 1

        self.Buffer, self.TransformListener = Buffer, TransformListener


def header(sec: int = 12) -> Header:
    message = Header(frame_id='camera')
    message.stamp.sec, message.stamp.nanosec = sec, 34
    return message


def transform(pose: CameraPose) -> TransformStamped:
    message = TransformStamped()
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = pose.position_m
    q.x, q.y, q.z, q.w = Rotation.from_matrix(pose.matrix).as_quat()
    return message


def find(poses: CameraPoses, sec: int = 12, max_age_s: float = 0.0) -> CameraPose:
    return poses.find(header(sec), 0.05, max_age_s)


def test_the_pose_is_looked_up_at_the_stamp_of_the_image() -> None:
    cos, sin = math.cos(0.7), math.sin(0.7)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    matrix = turn @ CameraPose.over(GROUND).matrix
    pose = CameraPose(tuple(map(tuple, matrix.tolist())), (3.0, -2.0, 1.5))
    tf2 = FakeTf2(transform(pose))
    poses = CameraPoses(None, 'odom', tf2=tf2)
    assert tf2.registered == 1
    found = find(poses)
    assert tf2.asked == [('odom', 'camera', 12_000_000_034)]
    assert found.position_m == pytest.approx(pose.position_m)
    assert found.matrix == pytest.approx(pose.matrix)
    poses.destroy()
    assert tf2.registered == 0


def test_a_slash_before_the_name_of_a_frame_is_left_out() -> None:
    tf2 = FakeTf2(transform(CameraPose.over(GROUND)))
    message = header()
    message.frame_id = '/camera'
    CameraPoses(None, 'odom', tf2=tf2).find(message, 0.05, 0.0)
    assert tf2.asked == [('odom', 'camera', 12_000_000_034)]


def test_no_transform_and_a_camera_below_the_ground_are_errors() -> None:
    with pytest.raises(FrameError, match=r"no pose of 'camera' in target_frame 'odom'.*not exist"):
        find(CameraPoses(None, 'odom', tf2=FakeTf2(None)))
    below = transform(CameraPose.over(GROUND))
    below.transform.translation.z = -1.0
    with pytest.raises(FrameError, match='expected the camera above the ground'):
        find(CameraPoses(None, 'odom', tf2=FakeTf2(below)))
    with pytest.raises(FrameError, match='no pose'):  # a stamp that rclpy refuses
        find(CameraPoses(None, 'odom', tf2=FakeTf2(None)), sec=-1)


def test_a_late_transform_is_waited_for() -> None:
    tf2 = FakeTf2(transform(CameraPose.over(GROUND)))
    tf2.late = 3
    assert find(CameraPoses(None, 'odom', tf2=tf2)).position_m[2] == 1.5
    assert (tf2.looked, len(tf2.asked)) == (4, 1)


def test_without_transforms_only_the_first_image_waits(monkeypatch) -> None:
    monkeypatch.setattr(transforms, 'RETRY_S', 1e6)
    tf2 = FakeTf2(None)
    poses = CameraPoses(None, 'odom', tf2=tf2)
    for sec, looked in ((12, None), (13, 1), (14, 1)):
        before = tf2.looked
        with pytest.raises(FrameError):
            find(poses, sec)
        assert looked is None or tf2.looked - before == looked
    tf2.transform = transform(CameraPose.over(GROUND))
    find(poses, 15)  # there at once
    tf2.late = tf2.looked + 2
    find(poses, 16)  # and waited for again
    assert tf2.looked == tf2.late + 1


def test_the_latest_transform_serves_for_a_stated_time_with_a_warning() -> None:
    tf2 = FakeTf2(transform(CameraPose.over(GROUND)))
    tf2.transform.header.stamp.sec = 12
    tf2.late = 10**9
    warnings: list[str] = []
    poses = CameraPoses(None, 'odom', warnings.append, tf2)
    late = header(12)
    late.stamp.nanosec = 300_000_000
    assert poses.find(late, 0.0, 0.5).position_m[2] == 1.5
    (warning,) = warnings
    assert "the latest pose of 'camera' in target_frame 'odom' is 0.300 s older" in warning
    tf2.refuses_stamps = True
    with pytest.raises(FrameError, match='into the future'):
        poses.find(late, 0.0, 0.25)


def test_transforms_are_dropped_when_time_starts_over() -> None:
    tf2 = FakeTf2(transform(CameraPose.over(GROUND)))
    poses = CameraPoses(None, 'odom', tf2=tf2)
    for sec, cleared in ((100, 0), (101, 0), (100, 0), (40, 1), (41, 1)):
        find(poses, sec)
        assert tf2.cleared == cleared
    assert len(tf2.asked) == 5


def test_without_tf2_a_target_frame_is_refused() -> None:
    with pytest.raises(ParameterError, match="target_frame is 'odom', which needs tf2_ros"):
        CameraPoses(None, 'odom', tf2=None)
