import math

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from rclpy.serialization import deserialize_message
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Segments
from panoptic_ros.ros.messages.cdr import MarkerRow, header_cdr
from panoptic_ros.ros.messages.markers import (
    TEXT_HEIGHT_M,
    MarkerBoard,
    object_markers,
    surface_markers,
)
from panoptic_ros.scene.geometry import GroundPlane, PlacedBy, Placement, upright_xyzw
from panoptic_ros.scene.occlusion import Planes

LABELS = LabelSet.load('cityscapes')
PERSON, CAR = LABELS.class_id('person'), LABELS.class_id('car')
HEADER = Header(frame_id='camera_optical')


def things(*class_and_track: tuple[int, int]) -> Segments:
    count = len(class_and_track)
    class_id, track_id = np.array(class_and_track).reshape(-1, 2).T
    return Segments(
        id=np.arange(1, count + 1, dtype=np.uint16),
        class_id=class_id.astype(np.uint8),
        is_thing=np.ones(count, bool),
        score=np.ones(count, np.float32),
        area=np.ones(count, np.int32),
        box_xyxy=np.zeros((count, 4), np.int32),
        track_id=track_id.astype(np.int32),
    )


def placement(*methods: PlacedBy, pitch_rad: float = 0.0) -> Placement:
    count = len(methods)
    place = np.tile([1.0, 0.5, 10.0], (count, 1))
    place[np.array(methods) == PlacedBy.NOTHING] = np.nan
    return Placement(
        position_m=place,
        base_m=place + np.array([0.0, 0.75, 0.0]),
        size_m=np.tile([2.0, 1.5, 2.0], (count, 1)),
        orientation_xyzw=upright_xyzw(pitch_rad, np.zeros(count)),
        method=np.array(methods, np.uint8),
    )


def rows(objects: Segments, places: Placement, pitch_rad: float = 0.0) -> list[MarkerRow]:
    return object_markers(objects, places, GroundPlane(1.5, pitch_rad), LABELS)


def shown(board: MarkerBoard, markers: list[MarkerRow], lifetime_s: float = 0.0) -> list[Marker]:
    data = board.show(markers, header_cdr(HEADER), lifetime_s)
    return deserialize_message(data, MarkerArray).markers


def markers(
    objects: Segments, places: Placement, pitch_rad: float = 0.0, lifetime_s: float = 0.0
) -> list[Marker]:
    return shown(MarkerBoard(), rows(objects, places, pitch_rad), lifetime_s)


def test_box_and_text_of_an_object() -> None:
    box, text = markers(things((CAR, 41)), placement(PlacedBy.GROUND), lifetime_s=1.25)
    assert (box.ns, box.id, box.type, box.action) == ('car', 41, Marker.CUBE, Marker.ADD)
    assert box.header == text.header == HEADER
    position = box.pose.position
    assert (position.x, position.y, position.z) == (1.0, 0.5, 10.0)
    assert (box.scale.x, box.scale.y, box.scale.z) == (2.0, 1.5, 2.0)
    assert (box.pose.orientation.x, box.pose.orientation.w) == (0.0, 1.0)
    red, green, blue = LABELS.colors_rgb[CAR] / 255
    assert (box.color.r, box.color.g, box.color.b) == pytest.approx((red, green, blue))
    assert 0 < box.color.a < 1
    assert (box.lifetime.sec, box.lifetime.nanosec) == (1, 250_000_000)
    assert (text.ns, text.id, text.type) == ('text', 41, Marker.TEXT_VIEW_FACING)
    assert text.text == 'car 41\n10.0 m, on the ground'
    assert text.pose.position.y == pytest.approx(0.5 - 0.75 - 1.5 * TEXT_HEIGHT_M)
    assert text.color.a == 1.0


def test_the_assumption_is_stated() -> None:
    _, text = markers(things((PERSON, 1)), placement(PlacedBy.KNOWN_HEIGHT))
    assert text.text == 'person 1\n10.0 m, by its height'


def test_what_depth_has_measured_is_said() -> None:
    _, text = markers(things((PERSON, 1)), placement(PlacedBy.DEPTH))
    assert text.text == 'person 1\n10.0 m, measured'


def test_a_known_speed_is_said() -> None:
    two = things((PERSON, 1), (CAR, 2), (CAR, 3))
    places = placement(PlacedBy.DEPTH, PlacedBy.NOTHING, PlacedBy.DEPTH)
    velocity_m_s = np.array([[0.0, 3.0, -4.0], [1.0, 1.0, 1.0], [np.nan] * 3])
    found = object_markers(two, places, GroundPlane(1.5), LABELS, velocity_m_s)
    texts = [row.text for row in found if row.text]
    assert texts == ['person 1\n10.0 m, measured\n5.0 m/s', 'car 3\n10.0 m, measured']


def test_boxes_stand_upright_when_the_camera_looks_down() -> None:
    pitch_rad = 0.4
    box, text = markers(
        things((CAR, 1)), placement(PlacedBy.GROUND, pitch_rad=pitch_rad), pitch_rad
    )
    q = box.pose.orientation
    assert (q.y, q.z) == (0.0, 0.0)
    # The box's y axis, turned by the quaternion, is the vertical.
    assert (1 - 2 * q.x**2, 2 * q.x * q.w) == pytest.approx(
        (math.cos(pitch_rad), math.sin(pitch_rad))
    )
    up = np.array([text.pose.position.y - 0.5, text.pose.position.z - 10.0])
    assert up / np.linalg.norm(up) == pytest.approx([-math.cos(pitch_rad), -math.sin(pitch_rad)])


def test_what_an_object_stands_on_ends_its_text() -> None:
    objects, places = things((CAR, 1), (CAR, 2), (CAR, 3)), placement(*[PlacedBy.GROUND] * 3)
    places.method[0] = PlacedBy.NOTHING
    carried_by = ['table 9', 'road', '']
    found = object_markers(objects, places, GroundPlane(1.5), LABELS, carried_by=carried_by)
    assert [row.text for row in found if row.text] == [
        'car 2\n10.0 m, on the ground\non road',
        'car 3\n10.0 m, on the ground',
    ]


def test_a_surface_is_a_slab_with_the_pose_of_its_plane() -> None:
    # A road 1.5 m below a level camera, 6 m wide and 4 m long.
    planes = Planes(
        row=np.array([3]),
        normal=np.array([[0.0, -1, 0]]),
        centre_m=np.array([[1.0, 1.5, 8]]),
        size_m=np.array([[6.0, 4]]),
        across=np.array([[1.0, 0, 0]]),
        inliers=np.ones(1, np.float32),
    )
    segments = things((CAR, 7))
    (slab,) = shown(MarkerBoard(), surface_markers(planes, segments, LABELS))
    assert (slab.ns, slab.id, slab.type) == ('car', 7, Marker.CUBE)
    position, q = slab.pose.position, slab.pose.orientation
    assert (position.x, position.y, position.z) == (1.0, 1.5, 8.0)
    axes = Rotation.from_quat([q.x, q.y, q.z, q.w]).apply(np.eye(3))
    assert axes == pytest.approx(np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]), abs=1e-9)
    assert (slab.scale.x, slab.scale.y) == (6.0, 4.0)
    assert 0 < slab.scale.z < 0.1


def test_objects_without_a_place_have_no_marker() -> None:
    found = markers(things((CAR, 1), (CAR, 2)), placement(PlacedBy.NOTHING, PlacedBy.GROUND))
    assert {marker.id for marker in found} == {2}
    assert markers(things(), placement()) == []


def actions(board: MarkerBoard, markers: list[MarkerRow]) -> list[tuple[str, int, int]]:
    found = shown(board, markers)
    assert all(marker.header == HEADER for marker in found)
    return [(marker.ns, marker.id, marker.action) for marker in found]


def test_markers_are_deleted_once_when_their_object_is_gone() -> None:
    board = MarkerBoard()
    two = rows(things((CAR, 1), (PERSON, 2)), placement(*[PlacedBy.GROUND] * 2))
    one = rows(things((PERSON, 2)), placement(PlacedBy.GROUND))
    person = [('person', 2, Marker.ADD), ('text', 2, Marker.ADD)]
    assert len(actions(board, two)) == 4
    assert actions(board, one) == [
        *person,
        ('car', 1, Marker.DELETE),
        ('text', 1, Marker.DELETE),
    ]
    assert actions(board, one) == person
    assert actions(board, []) == [('person', 2, Marker.DELETE), ('text', 2, Marker.DELETE)]
    assert actions(board, []) == []


def test_a_changed_class_moves_the_box_to_another_namespace() -> None:
    board = MarkerBoard()
    shown(board, rows(things((CAR, 1)), placement(PlacedBy.GROUND)))
    found = actions(board, rows(things((PERSON, 1)), placement(PlacedBy.GROUND)))
    assert found == [
        ('person', 1, Marker.ADD),
        ('text', 1, Marker.ADD),
        ('car', 1, Marker.DELETE),
    ]


def test_clear_deletes_everything() -> None:
    board = MarkerBoard()
    shown(board, rows(things((CAR, 1)), placement(PlacedBy.GROUND)))
    (only,) = board.clear(HEADER).markers
    assert only.action == Marker.DELETEALL
    assert only.header is HEADER
    assert actions(board, []) == []
