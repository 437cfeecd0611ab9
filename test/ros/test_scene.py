"""The 3D part of a frame: poses of the grid, velocities, free space."""

import math

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header
from support.pipeline import CAR, Bench, calibration, street

from panoptic_ros.errors import FrameError
from panoptic_ros.ros.frame import Frame
from panoptic_ros.ros.parameters import Tuning
from panoptic_ros.ros.scene import grid_in_optical_frame, grid_in_target_frame
from panoptic_ros.scene.geometry import GroundPlane
from panoptic_ros.scene.ground_view import CameraPose, Grid

GROUND = GroundPlane(1.5, 0.1, 60.0)
GRID = Grid.ahead(20.0, 10.0, 0.1)
SIZE_WH = (320, 240)
MS = 1_000_000


def test_the_pose_of_a_grid_in_the_optical_frame() -> None:
    camera, grid = CameraPose.over(GroundPlane(2.0)), Grid(0.5, (1.0, -3.0), (4, 12))
    place, turn_xyzw = grid_in_optical_frame(camera, grid)
    assert place == pytest.approx((3.0, 2.0, 1.0))
    rotation = Rotation.from_quat(turn_xyzw)
    # Ground: forward, left, up. Optical: right, down, forward.
    assert rotation.apply(np.eye(3)) == pytest.approx(
        np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]), abs=1e-9
    )


def turned(pose: CameraPose, yaw_rad: float, xy_m: tuple[float, float]) -> CameraPose:
    cos, sin = math.cos(yaw_rad), math.sin(yaw_rad)
    matrix = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ pose.matrix
    return CameraPose(tuple(map(tuple, matrix.tolist())), (*xy_m, pose.position_m[2]))


@settings(deadline=None)
@given(
    yaw_rad=st.floats(-3.2, 3.2),
    pitch_rad=st.floats(-0.5, 1.55),
    xy_m=st.tuples(st.floats(-30, 30), st.floats(-30, 30)),
)
def test_a_grid_in_a_target_frame_covers_what_is_ahead(
    yaw_rad: float, pitch_rad: float, xy_m: tuple[float, float]
) -> None:
    camera = turned(CameraPose.over(GroundPlane(1.5, pitch_rad)), yaw_rad, xy_m)
    grid = grid_in_target_frame(camera, GRID)
    # 20 m ahead and 5 m to each side, whatever the frame's axes are.
    forward = np.array([math.cos(yaw_rad), math.sin(yaw_rad)])
    left = np.array([-forward[1], forward[0]])
    for ahead, aside in ((0.1, 4.9), (0.1, -4.9), (19.9, 4.9), (19.9, -4.9), (10, 0)):
        assert grid.cells((np.array(xy_m) + ahead * forward + aside * left)[None])[0] >= 0
    for value in grid.origin_xy_m:
        assert value / 0.1 == pytest.approx(round(value / 0.1), abs=1e-6)


@settings(deadline=None)
@given(yaw_rad=st.floats(-3.2, 3.2), xy_m=st.tuples(st.floats(-30, 30), st.floats(-30, 30)))
def test_a_grid_in_a_target_frame_has_one_size(yaw_rad: float, xy_m: tuple[float, float]) -> None:
    camera = turned(CameraPose.over(GROUND), yaw_rad, xy_m)
    # The diagonal of 20 m and 10 m is 22.36 m.
    assert grid_in_target_frame(camera, GRID).size_xy == (225, 225)


def with_depth(depth_m: list[float]) -> Bench:
    """Return a pipeline whose frames show a flat car at these depths in turn, NaN for no depth."""
    values = iter(depth_m)

    def find_depth(frame: Frame) -> np.ndarray | None:
        car_m = next(values)
        if math.isnan(car_m):
            return None
        return np.where(frame.panoptic.semantic == CAR, car_m, 40.0).astype(np.float32)

    bench = Bench(['markers'], find_depth=find_depth)
    bench.pipeline.take_camera_info('/camera_info', calibration(SIZE_WH, 250.0))
    return bench


def test_velocities_are_known_if_every_other_image_has_depth() -> None:
    depths_m = [20.0 - 0.4 * n if n % 2 == 0 else math.nan for n in range(13)]
    bench = with_depth(depths_m)
    for number in range(13):
        bench.process(street([(120, 80, 200, 160)], SIZE_WH), 80 * MS * number)
    ((name, seconds),) = bench.pipeline.proximity.time_to_collision_s
    assert name == 'car 1'
    assert seconds == pytest.approx((15.2 - 1.5) / 5.0, abs=0.5)


def test_depth_that_contradicts_the_pose_of_the_camera_is_reported() -> None:
    pytest.importorskip('nav_msgs.msg')
    warnings: list[str] = []
    bench = Bench(
        ['free_space'],
        find_depth=lambda frame: np.full(frame.panoptic.semantic.shape, 40.0, np.float32),
        warn=warnings.append,
    )
    bench.pipeline.take_camera_info('/camera_info', calibration(SIZE_WH, 250.0))
    bench.process(street([(120, 80, 200, 160)], SIZE_WH), 5 * MS)
    (text,) = warnings
    assert 'does not lie on the ground plane' in text
    assert 'camera_height_m and camera_pitch_rad' in text


def test_a_jump_in_depth_shows_no_velocity() -> None:
    """At 3 Hz a mask that slips to the background looks like 36 m/s."""
    bench = with_depth([12.0, 12.0, 12.0, 24.0, 24.0])
    for number in range(5):
        ((_, message),) = bench.process(street([(120, 80, 200, 160)], SIZE_WH), 333 * MS * number)
        assert b'measured' in message
        assert b'm/s' not in message


def test_in_a_target_frame_a_turning_camera_sees_a_standing_object_stand() -> None:
    """The car stands 10 m ahead and 2 m to the left; the camera turns by 0.5 rad/s."""
    yaws_rad = 0.05 * np.arange(10)
    poses = iter([turned(CameraPose.over(GroundPlane(1.5)), yaw, (0.0, 0.0)) for yaw in yaws_rad])
    bench = Bench(
        ['markers'], find_pose=lambda header, tuning: next(poses), target_frame='base_footprint'
    )
    bench.tuning = Tuning(collision_radius_m=9.0)
    bench.pipeline.take_camera_info('/camera_info', calibration(SIZE_WH, 250.0))
    for number, yaw in enumerate(yaws_rad.tolist()):
        ahead = 10.0 * math.cos(yaw) + 2.0 * math.sin(yaw)
        left = -10.0 * math.sin(yaw) + 2.0 * math.cos(yaw)
        x, foot = 159.5 - 250 * left / ahead, round(119.5 + 250 * 1.5 / ahead) + 1
        box = (round(x - 15), foot - 40, round(x + 15), foot)
        bench.process(street([box], SIZE_WH), 100 * MS * number)
    assert bench.pipeline.proximity.time_to_collision_s == ()


def test_without_a_pose_there_is_no_grid_and_a_warning() -> None:
    warnings: list[str] = []

    def find_pose(header: Header, tuning: Tuning) -> CameraPose:
        raise FrameError("no pose of 'camera' in target_frame 'odom'")

    bench = Bench(['free_space', 'markers'], find_pose=find_pose, warn=warnings.append)
    bench.pipeline.take_camera_info('/camera_info', calibration(SIZE_WH, 250.0))
    sent = bench.process(street([(120, 80, 200, 160)], SIZE_WH), 0)
    assert [topic for topic, _ in sent] == ['~/markers']
    (warning,) = warnings
    assert warning.startswith("no pose of 'camera' in target_frame 'odom'; this image has no")


def test_a_grid_in_a_target_frame_has_its_axes_and_its_name() -> None:
    nav = pytest.importorskip('nav_msgs.msg')
    from rclpy.serialization import deserialize_message

    pose = turned(CameraPose.over(GROUND), 0.7, (30.0, -12.0))
    bench = Bench(['free_space'], find_pose=lambda header, tuning: pose, target_frame='odom')
    bench.pipeline.take_camera_info('/camera_info', calibration(SIZE_WH, 250.0))
    ((_, data),) = bench.process(street([(120, 80, 200, 160)], SIZE_WH), 5 * MS)
    message = deserialize_message(data, nav.OccupancyGrid)
    assert (message.header.frame_id, message.header.stamp.nanosec) == ('odom', 5 * MS)
    origin, turn = message.info.origin.position, message.info.origin.orientation
    assert (turn.x, turn.y, turn.z, turn.w, origin.z) == (0, 0, 0, 1, 0)
    grid = Grid(0.1, (origin.x, origin.y), (message.info.width, message.info.height))
    ahead = np.array([[math.cos(0.7), math.sin(0.7)]]) * [[2.5], [5.7]] + [30.0, -12.0]
    assert np.array(message.data)[grid.cells(ahead)].tolist() == [0, 100]
    assert bench.pipeline.proximity.closest_obstacle_m == pytest.approx(5.5, abs=0.2)
