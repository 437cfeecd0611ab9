import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from panoptic_ros.benchmark.cdr import FrameKey
from panoptic_ros.benchmark.demo.observer import OUTPUTS_IN_TRANSIT, Observer
from panoptic_ros.benchmark.frames import IMAGES_KEPT, Frames
from panoptic_ros.labels import LabelSet
from panoptic_ros.ros.messages import image_message

LABELS = LabelSet.load('cityscapes')
ROAD, SKY = LABELS.class_id('road'), LABELS.class_id('sky')
TRUE_SEMANTIC = np.array([[SKY, SKY], [ROAD, ROAD]], np.uint8)
NO_THING = np.zeros((2, 2), np.uint16)
KEPT = (
    *('/camera_info', '/image', '/ground_truth/semantic', '/ground_truth/instance'),
    *('semantic', 'instance', 'overlay'),
)


def header(second: int) -> Header:
    made = Header(frame_id='camera')
    made.stamp.sec = second
    return made


def receive(frames: Frames, topic: str, second: int, array: np.ndarray) -> None:
    data = serialize_message(image_message(array, header(second)))
    frames.receive(topic, FrameKey(second, 0, 'camera'), 5, data)


def send(frames: Frames, second: int, truth: bool = True) -> None:
    key = FrameKey(second, 0, 'camera')
    info = CameraInfo(header=header(second), width=2, height=2)
    frames.publish(key)
    frames.receive('/camera_info', key, 5, serialize_message(info))
    # Large enough to be dropped for old images.
    receive(frames, '/image', second, np.zeros((2, 2000, 3), np.uint8))
    if truth:
        for topic, array in (('semantic', TRUE_SEMANTIC), ('instance', NO_THING)):
            receive(frames, f'/ground_truth/{topic}', second, array)


def answer(frames: Frames, second: int, semantic: np.ndarray = TRUE_SEMANTIC) -> None:
    overlay = np.full((2, 2, 3), second, np.uint8)
    for topic, array in (('semantic', semantic), ('instance', NO_THING), ('overlay', overlay)):
        receive(frames, topic, second, array)


def check(observer: Observer, frames: Frames, in_transit: int = 0) -> int:
    due = observer.take(frames, in_transit)
    for _, messages in due:
        observer.check(messages)
    return len(due)


def test_a_short_run() -> None:
    frames, observer = Frames(keep=KEPT), Observer(LABELS, sample_every=2)
    for second in range(4):
        send(frames, second)
        answer(frames, second)
    assert check(observer, frames) == 4
    assert check(observer, frames) == 0
    assert observer.checks.passed
    assert observer.size_wh == (2, 2)
    assert observer.quality.images == 4
    assert observer.quality.result().PQ == 100
    assert observer.overlap.result().mean_iou == 100
    assert [s.overlay_bgr[0, 0, 0] for s in observer.samples] == [0, 2]


def test_quality_is_against_the_truth_of_the_same_image() -> None:
    frames, observer = Frames(keep=KEPT), Observer(LABELS)
    send(frames, 1)
    answer(frames, 1, np.full((2, 2), ROAD, np.uint8))
    check(observer, frames)
    # Road: IoU 1/2 is no match; sky is missed.
    assert observer.quality.result().PQ == 0


def test_without_truth_there_is_no_quality() -> None:
    frames, observer = Frames(keep=KEPT), Observer(LABELS)
    send(frames, 1, truth=False)
    answer(frames, 1)
    check(observer, frames)
    assert observer.checks.passed
    assert observer.quality.images == 0


def test_images_are_checked_when_no_output_can_be_in_transit() -> None:
    frames, observer = Frames(keep=KEPT), Observer(LABELS)
    for second in range(OUTPUTS_IN_TRANSIT + 1):
        send(frames, second)
        answer(frames, second)
    assert check(observer, frames, OUTPUTS_IN_TRANSIT) == 1


def test_an_output_after_the_check_is_checked_on_its_own() -> None:
    frames, observer = Frames(keep=KEPT), Observer(LABELS)
    send(frames, 1)
    receive(frames, 'overlay', 1, np.zeros((2, 2, 3), np.uint8))
    assert check(observer, frames) == 1
    receive(frames, 'semantic', 1, TRUE_SEMANTIC)
    assert check(observer, frames) == 1
    assert observer.checks.passed
    assert observer.checks['semantic: header is that of a frame sent'].looked == 1


def test_an_answer_that_comes_very_late_is_still_matched() -> None:
    frames, observer = Frames(keep=KEPT), Observer(LABELS)
    for second in range(3 * IMAGES_KEPT):
        send(frames, second)
    answer(frames, 0)
    answer(frames, 3 * IMAGES_KEPT - 1)
    check(observer, frames)
    assert observer.checks.passed
    assert [sample.image_bgr.shape for sample in observer.samples] == [(2, 2000, 3)]


def test_an_answer_to_no_image_is_a_fault() -> None:
    frames, observer = Frames(keep=KEPT), Observer(LABELS)
    send(frames, 1)
    answer(frames, 2)
    check(observer, frames)
    assert not observer.checks.passed
    assert not observer.quality.images
