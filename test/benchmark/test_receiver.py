import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from panoptic_ros.benchmark.receiver import IMAGES_KEPT, OUTPUTS_UNDER_WAY, FrameBook
from panoptic_ros.labels import LabelSet
from panoptic_ros.ros.messages import image_message

LABELS = LabelSet.load('cityscapes')
ROAD, SKY = LABELS.class_id('road'), LABELS.class_id('sky')
TRUE_SEMANTIC = np.array([[SKY, SKY], [ROAD, ROAD]], np.uint8)
NOBODY = np.zeros((2, 2), np.uint16)


def header(second):
    made = Header(frame_id='camera')
    made.stamp.sec = second
    return made


def send(book, second, truth=True):
    book.take_camera_info(CameraInfo(header=header(second), width=2, height=2), 0)
    book.take_image('image', image_message(np.zeros((2, 2, 3), np.uint8), header(second)), 0)
    if truth:
        for topic, array in (('semantic', TRUE_SEMANTIC), ('instance', NOBODY)):
            book.take_image(f'ground_truth/{topic}', image_message(array, header(second)), 0)


def answer(book, second, semantic=TRUE_SEMANTIC):
    received_ns = second * 1_000_000_000 + 5
    overlay = np.full((2, 2, 3), second, np.uint8)
    for topic, array in (('semantic', semantic), ('instance', NOBODY), ('overlay', overlay)):
        book.take_output(topic, image_message(array, header(second)), received_ns)


def test_figures_of_a_short_run():
    book = FrameBook(LABELS, sample_every=2)
    for second in range(4):
        send(book, second)
        answer(book, second)
    book.close()
    assert book.checks.passed
    assert book.frames_sent == 4
    assert book.size_wh == (2, 2)
    assert book.received == {'semantic': 4, 'instance': 4, 'overlay': 4}
    assert book.latencies_ns == [5] * 4
    assert book.quality.images == 4
    assert book.quality.result().PQ == 100
    assert book.overlap.result().mean_iou == 100
    assert [s.overlay_bgr[0, 0, 0] for s in book.samples] == [0, 2]


def test_quality_is_against_the_truth_of_the_same_frame():
    book = FrameBook(LABELS)
    send(book, 1)
    answer(book, 1, np.full((2, 2), ROAD, np.uint8))
    book.close()
    # Road: IoU 1/2 is no match; sky is missed.
    assert book.quality.result().PQ == 0


def test_without_truth_there_is_no_quality():
    book = FrameBook(LABELS)
    send(book, 1, truth=False)
    answer(book, 1)
    book.close()
    assert book.checks.passed
    assert book.quality.images == 0


def test_frames_are_checked_when_later_ones_have_come():
    book = FrameBook(LABELS)
    for second in range(OUTPUTS_UNDER_WAY + 1):
        send(book, second)
        answer(book, second)
    assert book.quality.images == 1


def test_an_answer_that_comes_very_late_is_still_known():
    book = FrameBook(LABELS)
    for second in range(3 * IMAGES_KEPT):
        send(book, second)
    answer(book, 0)
    answer(book, 3 * IMAGES_KEPT - 1)
    book.close()
    assert book.checks.passed
    assert book.quality.images == 1  # of the first, image and truth have been let go


def test_an_answer_to_nothing_is_a_fault():
    book = FrameBook(LABELS)
    send(book, 1)
    answer(book, 2)
    book.close()
    assert not book.checks.passed
    assert not book.quality.images


def test_markers_without_a_marker_count_as_received():
    book = FrameBook(LABELS)
    book.take_output('markers', MarkerArray(), 0)
    book.close()
    assert book.received['markers'] == 1


def test_status_is_the_newest_of_the_name():
    book = FrameBook(LABELS)
    for text, name in (('old', 'a'), ('new', 'a'), ('other', 'b')):
        message = DiagnosticArray(status=[DiagnosticStatus(name=name, message=text)])
        book.take_status(message, 0, name='a')
    assert book.status.message == 'new'
    assert book.received['diagnostics'] == 2
