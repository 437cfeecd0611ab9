import queue
import time
from itertools import count

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from panoptic_ros.benchmark.cdr import frame_key
from panoptic_ros.benchmark.checks import pixels
from panoptic_ros.datasets.street.scene import SyntheticStreet
from panoptic_ros.errors import SourceError
from panoptic_ros.ros.camera import (
    CameraSettings,
    Prefetch,
    open_source,
    picture_frame,
    street_frame,
)

CAMERA = ('-m', 'panoptic_ros.ros.camera')
SIZE_WH = (64, 32)
SMALL = ('-p', 'width:=64', '-p', 'height:=32')
STREET_TOPICS = {
    'camera_info': CameraInfo,
    'image': Image,
    'ground_truth/semantic': Image,
    'ground_truth/instance': Image,
    'depth/camera_info': CameraInfo,
    'depth': Image,
}
BEST_EFFORT = {'reliability': ReliabilityPolicy.BEST_EFFORT}  # what the camera offers for images


def test_street_frame_is_what_was_rendered():
    rendered = SyntheticStreet(3, SIZE_WH).frame(5)
    messages = street_frame(rendered).by_topic
    assert list(messages) == list(STREET_TOPICS)
    encodings = {topic: m.encoding for topic, m in messages.items() if isinstance(m, Image)}
    assert encodings == {
        'image': 'bgr8',
        'ground_truth/semantic': 'mono8',
        'ground_truth/instance': '16UC1',
        'depth': '32FC1',
    }
    assert np.array_equal(pixels(messages['image'])[..., ::-1], rendered.image_rgb)
    assert np.array_equal(pixels(messages['ground_truth/semantic']), rendered.truth.semantic)
    assert np.array_equal(pixels(messages['ground_truth/instance']), rendered.truth.instance)
    assert np.array_equal(pixels(messages['depth']), rendered.depth_m, equal_nan=True)
    assert np.isnan(pixels(messages['depth'])).any()
    info = messages['camera_info']
    assert (info.width, info.height) == SIZE_WH
    assert np.array_equal(info.k, rendered.camera_matrix.ravel())
    assert np.array_equal(np.reshape(info.p, (3, 4))[:, :3], rendered.camera_matrix)


def test_picture_frame_resizes_and_assumes_a_field_of_view():
    frame = picture_frame(np.zeros((90, 160, 3), np.uint8), (64, 36), 90.0)
    image, info = frame.by_topic['image'], frame.by_topic['camera_info']
    assert (image.width, image.height, image.step) == (64, 36, 192)
    # Half the width lies 45 degrees off the axis.
    assert np.allclose(info.k, [32, 0, 31.5, 0, 32, 17.5, 0, 0, 1])


def test_picture_frame_without_field_of_view_is_uncalibrated():
    info = picture_frame(np.zeros((9, 16, 3), np.uint8), None, 0.0).by_topic['camera_info']
    assert (info.width, info.height) == (16, 9)
    assert not np.any(info.k)
    assert not np.any(info.p)


def test_frames_of_a_video_are_due_at_its_stamps_unless_a_rate_is_set(tmp_path):
    path = tmp_path / 'drive.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 12.5, (32, 16))
    for _ in range(3):
        writer.write(np.zeros((16, 32, 3), np.uint8))
    writer.release()
    rate_hz, frames = open_source(CameraSettings(source=str(path)))
    assert rate_hz == 12.5
    assert [frame.stamp_ns for frame in frames] == [0, 80_000_000, 160_000_000]
    rate_hz, frames = open_source(CameraSettings(source=str(path), rate_hz=5.0))
    assert rate_hz == 5
    assert [frame.stamp_ns for frame in frames] == [None] * 3


def test_stamp_gives_all_messages_one_header():
    frame = street_frame(SyntheticStreet(0, SIZE_WH).frame(0))
    header = Header(frame_id='here')
    header.stamp.nanosec = 7
    frame.stamp(header)
    assert {frame_key(m.header) for m in frame.by_topic.values()} == {(0, 7, 'here')}


def test_prefetch_keeps_the_order_and_ends():
    prefetch = Prefetch(iter('abc'), ahead=2)
    assert [prefetch.get(5) for _ in range(4)] == ['a', 'b', 'c', None]
    prefetch.close()


def test_prefetch_is_ready_when_full_and_goes_no_further():
    numbers = count()
    prefetch = Prefetch(numbers, ahead=3)
    while not prefetch.is_ready:
        pass
    prefetch.close()
    assert next(numbers) <= 5  # three in the queue, one in hand


def test_prefetch_passes_on_what_went_wrong_after_what_went_well():
    def items():
        yield 'a'
        raise SourceError('no more')

    prefetch = Prefetch(items(), ahead=5)
    assert prefetch.get(5) == 'a'
    with pytest.raises(SourceError, match='no more'):
        prefetch.get(5)
    prefetch.close()


def test_prefetch_times_out():
    release = queue.Queue()
    prefetch = Prefetch(iter(release.get, 'end'), ahead=1)
    with pytest.raises(queue.Empty):
        prefetch.get(0.05)
    release.put('end')
    prefetch.close()


def test_street_over_dds_is_bit_for_bit_what_was_rendered(peer, start_node):
    received = {
        topic: peer.subscribe(kind, topic, **(BEST_EFFORT if topic in ('image', 'depth') else {}))
        for topic, kind in STREET_TOPICS.items()
    }
    arguments = ('-p', 'frames:=12', '-p', 'rate_hz:=20.0', '-p', 'seed:=4', *SMALL)
    camera = start_node(*arguments, program=CAMERA)
    peer.wait_until(lambda: camera.process.poll() is not None, 'the camera to end')
    assert camera.wait() == 0, camera.log
    assert 'published 12 frames' in camera.log
    by_key = {
        topic: {frame_key(m.header): m for m in messages} for topic, messages in received.items()
    }
    complete = set.intersection(*(set(messages) for messages in by_key.values()))
    assert len(complete) >= 6  # whoever has just been discovered loses the first
    assert {frame_id for _, _, frame_id in complete} == {'camera_optical_frame'}
    street = SyntheticStreet(4, SIZE_WH, 20.0, camera_height_m=1.5, camera_pitch_rad=0.0)
    rendered = {street.frame(i).image_rgb.tobytes(): street.frame(i) for i in range(12)}
    for key in complete:
        image_rgb = pixels(by_key['image'][key])[..., ::-1]
        frame = rendered[image_rgb.tobytes()]
        truth = frame.truth
        assert np.array_equal(pixels(by_key['ground_truth/semantic'][key]), truth.semantic)
        assert np.array_equal(pixels(by_key['ground_truth/instance'][key]), truth.instance)
        assert np.array_equal(pixels(by_key['depth'][key]), frame.depth_m, equal_nan=True)
        assert by_key['camera_info'][key].k.tolist() == by_key['depth/camera_info'][key].k.tolist()


def test_nothing_is_published_before_somebody_subscribes(peer, start_node):
    camera = start_node('-p', 'frames:=3', '-p', 'rate_hz:=50.0', *SMALL, program=CAMERA)
    camera.wait_for_log('waiting for 1 subscriber')
    until = time.monotonic() + 1.0
    peer.wait_until(lambda: time.monotonic() > until, 'a second')
    assert camera.process.poll() is None
    peer.subscribe(Image, 'image', **BEST_EFFORT)
    peer.wait_until(lambda: camera.process.poll() is not None, 'the camera to end')
    assert camera.wait() == 0, camera.log


def test_a_folder_in_a_loop_ends_at_the_number_of_frames(peer, start_node, tmp_path):
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((32, 64, 3), 9, np.uint8))
    images = peer.subscribe(Image, 'image', **BEST_EFFORT)
    arguments = ('-p', f'source:={tmp_path}', '-p', 'loop:=true', '-p', 'frames:=5')
    camera = start_node(*arguments, '-p', 'frame_id:=front', program=CAMERA)
    peer.wait_until(lambda: camera.process.poll() is not None, 'the camera to end')
    assert camera.wait() == 0, camera.log
    assert images
    assert images[0].header.frame_id == 'front'
    assert (pixels(images[0]) == 9).all()


def test_interrupt_ends_it_well(start_node):
    camera = start_node(*SMALL, program=CAMERA)
    camera.wait_for_log('waiting for 1 subscriber')
    assert camera.interrupt(2, 2) == 0  # Ctrl-C may come twice


@pytest.mark.parametrize(
    ('argument', 'sentence'),
    [
        ('source:=/nowhere/at.mp4', "source '/nowhere/at.mp4' does not exist"),
        ('rate_hz:=fast', 'parameter rate_hz is not usable'),
        ('frames:=-1', 'parameter frames is not usable'),
    ],
)
def test_bad_parameters_end_it_with_one_sentence(start_node, argument, sentence):
    camera = start_node('-p', argument, program=CAMERA)
    assert camera.wait() == 2
    (line,) = [line for line in camera.lines if line.startswith('camera: ')]
    assert sentence in line
    assert 'expected' in line
    assert 'Traceback' not in camera.log


def test_an_unreadable_image_of_a_folder_is_named_and_left_out(start_node, tmp_path):
    for name in ('a', 'c'):
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / 'b.png').write_bytes(b'not a picture')
    arguments = ('-p', f'source:={tmp_path}', '-p', 'wait_for_subscribers:=0')
    camera = start_node(*arguments, program=CAMERA)
    assert camera.wait() == 0
    (warning,) = [line for line in camera.lines if 'b.png' in line]
    assert "b.png' cannot be read; expected an image file; it is skipped" in warning
    assert 'published 2 frames' in camera.log
    assert 'Traceback' not in camera.log


def test_a_folder_without_a_readable_image_ends_it_with_one_sentence(start_node, tmp_path):
    (tmp_path / 'b.png').write_bytes(b'not a picture')
    camera = start_node('-p', f'source:={tmp_path}', program=CAMERA)
    assert camera.wait() == 2
    assert 'none of the 1 images' in camera.lines[-1]
    assert 'Traceback' not in camera.log
