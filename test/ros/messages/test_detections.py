from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseWithCovariance, Vector3
from std_msgs.msg import Header

from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Segments
from panoptic_ros.ros import messages
from panoptic_ros.ros.messages import (
    detections,
)
from panoptic_ros.scene.geometry import PlacedBy, Placement

HEADER = Header(stamp=Time(sec=7, nanosec=8), frame_id='camera_optical')


def two_things() -> Segments:
    return Segments(
        id=np.array([1, 2], np.uint16),
        class_id=np.array([13, 11], np.uint8),
        is_thing=np.array([True, True]),
        score=np.array([0.75, 0.5], np.float32),
        area=np.array([8, 1], np.int32),
        box_xyxy=np.array([[2, 4, 6, 6], [0, 0, 1, 1]], np.int32),
        track_id=np.array([41, 42], np.int32),
    )


def test_detections() -> None:
    pytest.importorskip('vision_msgs', reason='vision_msgs is not installed')
    names = LabelSet.load('cityscapes').names
    message = messages.detections_message(two_things(), names, HEADER)
    car, person = message.detections
    assert message.header == car.header == HEADER
    assert (car.id, car.results[0].hypothesis.class_id) == ('41', 'car')
    assert car.results[0].hypothesis.score == 0.75
    assert (car.bbox.center.position.x, car.bbox.center.position.y) == (4.0, 5.0)
    assert (car.bbox.size_x, car.bbox.size_y) == (4.0, 2.0)
    assert (person.id, person.bbox.center.position.x, person.bbox.size_x) == ('42', 0.5, 1.0)


def test_label_info_declares_void() -> None:
    pytest.importorskip('vision_msgs', reason='vision_msgs is not installed')
    message = messages.label_info_message(LabelSet.load('cityscapes'), HEADER)
    meaning = {entry.class_id: entry.class_name for entry in message.class_map}
    assert len(meaning) == len(message.class_map) == 20
    assert (meaning[0], meaning[13], meaning[255]) == ('road', 'car', 'void')


# The messages of vision_msgs (4.1, ROS 2) that are filled here, with its fields and their types:
# what has no such field is refused, as the real ones do.


@dataclass(slots=True)
class ObjectHypothesis:
    class_id: str = ''
    score: float = 0.0


@dataclass(slots=True)
class ObjectHypothesisWithPose:
    hypothesis: ObjectHypothesis = field(default_factory=ObjectHypothesis)
    pose: PoseWithCovariance = field(default_factory=PoseWithCovariance)


@dataclass(slots=True)
class BoundingBox3D:
    center: Pose = field(default_factory=Pose)
    size: Vector3 = field(default_factory=Vector3)


@dataclass(slots=True)
class Detection3D:
    header: Header = field(default_factory=Header)
    results: list[ObjectHypothesisWithPose] = field(default_factory=list)
    bbox: BoundingBox3D = field(default_factory=BoundingBox3D)
    id: str = ''


@dataclass(slots=True)
class Point2D:
    x: float = 0.0
    y: float = 0.0


@dataclass(slots=True)
class Pose2D:
    position: Point2D = field(default_factory=Point2D)
    theta: float = 0.0


@dataclass(slots=True)
class BoundingBox2D:
    center: Pose2D = field(default_factory=Pose2D)
    size_x: float = 0.0
    size_y: float = 0.0


@dataclass(slots=True)
class Detection2D:
    header: Header = field(default_factory=Header)
    results: list[ObjectHypothesisWithPose] = field(default_factory=list)
    bbox: BoundingBox2D = field(default_factory=BoundingBox2D)
    id: str = ''


@dataclass(slots=True)
class Detection2DArray:
    header: Header = field(default_factory=Header)
    detections: list[Detection2D] = field(default_factory=list)


@dataclass(slots=True)
class Detection3DArray:
    header: Header = field(default_factory=Header)
    detections: list[Detection3D] = field(default_factory=list)


STAND_IN = SimpleNamespace(
    ObjectHypothesisWithPose=ObjectHypothesisWithPose,
    Detection2D=Detection2D,
    Detection2DArray=Detection2DArray,
    Detection3D=Detection3D,
    Detection3DArray=Detection3DArray,
)


@pytest.mark.parametrize('kind', ['stand-in', 'installed'])
def test_detections_3d(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    if kind == 'stand-in':
        monkeypatch.setattr(detections, 'vision_msgs', STAND_IN)
    else:
        pytest.importorskip('vision_msgs', reason='vision_msgs is not installed')
    boxes = Placement(
        position_m=np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        base_m=np.zeros((2, 3)),
        size_m=np.array([[0.5, 0.25, 0.125], [7.0, 8.0, 9.0]]),
        orientation_xyzw=np.array([[0.0, 0.6, 0.0, 0.8], [0.0, 0.0, 0.0, 1.0]]),
        method=np.array([PlacedBy.DEPTH, PlacedBy.GROUND], np.uint8),
    )
    names = LabelSet.load('cityscapes').names
    message = messages.detections_3d_message(two_things(), boxes, names, HEADER)
    (car,) = message.detections  # the other is assumed, not measured
    assert message.header == car.header == HEADER
    assert car.id == '41'
    pose, size = car.bbox.center, car.bbox.size
    assert (pose.position.x, pose.position.y, pose.position.z) == (1.0, 2.0, 3.0)
    assert (pose.orientation.y, pose.orientation.w) == (0.6, 0.8)
    assert (size.x, size.y, size.z) == (0.5, 0.25, 0.125)
    (result,) = car.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ('car', 0.75)
    assert result.pose.pose == pose


def test_what_a_thing_stands_on_is_a_second_hypothesis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detections, 'vision_msgs', STAND_IN)
    names = LabelSet.load('cityscapes').names
    message = messages.detections_message(two_things(), names, HEADER, ['road', ''])
    said = [
        [(r.hypothesis.class_id, r.hypothesis.score) for r in detection.results]
        for detection in message.detections
    ]
    assert said == [[('car', 0.75), ('on road', 0.0)], [('person', 0.5)]]
    plain = messages.detections_message(two_things(), names, HEADER)
    assert [len(detection.results) for detection in plain.detections] == [1, 1]
