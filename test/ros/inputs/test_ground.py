"""Height and pitch of the camera from static transforms, in messages that are stand-ins."""

from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from geometry_msgs.msg import TransformStamped

from panoptic_ros.ros.inputs.ground import GroundInput
from panoptic_ros.ros.parameters import Tuning
from panoptic_ros.scene.geometry import GroundPlane, quaternion_xyzw
from panoptic_ros.scene.ground_view import CameraPose

TUNING = Tuning(camera_height_m=0.7, camera_pitch_rad=0.2, ground_range_m=30.0)
IDENTITY = (0.0, 0.0, 0.0, 1.0)


def transform(parent: str, child: str, z: float, xyzw: tuple[float, ...] = IDENTITY):
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.transform.translation.z = z
    q = message.transform.rotation
    q.x, q.y, q.z, q.w = xyzw
    return message


def tf(*transforms: TransformStamped) -> SimpleNamespace:
    return SimpleNamespace(transforms=transforms)


def test_pose_through_a_chain_of_frames() -> None:
    logged: list[str] = []
    ground = GroundInput('base_footprint', logged.append)
    pose = CameraPose.over(GroundPlane(1.3, 0.035))
    optical = tuple(quaternion_xyzw(pose.matrix.T))
    assert ground.plane('eye', TUNING) == GroundPlane(0.7, 0.2, 30.0)
    ground.take(
        '/tf_static',
        tf(
            transform('base_footprint', 'base_link', 0.3),
            transform('base_link', 'eye', 1.0, optical),
            transform('base_link', 'lidar', 1.0),
        ),
    )
    for _ in range(2):
        plane = ground.plane('eye', TUNING)
        assert (plane.camera_height_m, plane.pitch_rad) == pytest.approx((1.3, 0.035))
        assert plane.max_range_m == 30.0
    assert len(logged) == 2
    assert '0.70 m above the ground' in logged[0]
    assert 'from the parameters' in logged[0]
    assert '1.30 m above the ground, pitch 0.035 rad, from the static transform' in logged[1]


def test_names_of_frames_may_begin_with_a_slash() -> None:
    ground = GroundInput('/base_footprint', lambda text: None)
    ground.take('/tf_static', tf(transform('base_footprint', 'eye', 1.3)))
    assert ground.plane('/eye', TUNING).camera_height_m == pytest.approx(1.3)
    ground = GroundInput('base_footprint', lambda text: None)
    ground.take('/tf_static', tf(transform('/base_footprint', '/eye', 1.3)))
    assert ground.plane('eye', TUNING).camera_height_m == pytest.approx(1.3)


@pytest.mark.parametrize(
    ('frame', 'transforms'),
    [
        ('base_footprint', []),
        ('base_footprint', [transform('map', 'eye', 2.0)]),
        ('base_footprint', [transform('base_footprint', 'eye', -1.0)]),  # below the ground
        ('base_footprint', [transform('a', 'eye', 2.0), transform('eye', 'a', 2.0)]),  # a loop
        ('', [transform('base_footprint', 'eye', 2.0)]),
    ],
)
def test_without_a_usable_pose_the_parameters_count(
    frame: str, transforms: list[TransformStamped]
) -> None:
    ground = GroundInput(frame, lambda text: None)
    ground.take('/tf_static', tf(*transforms))
    assert ground.plane('eye', TUNING) == GroundPlane(0.7, 0.2, 30.0)
