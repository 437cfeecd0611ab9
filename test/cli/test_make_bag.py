"""``panoptic make-bag``: what is recorded is what the source shows."""

import json
import os
from fractions import Fraction

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')
pytest.importorskip('rosbags', reason='rosbags writes the recordings')

from ament_index_python.packages import get_package_share_path
from rclpy.serialization import deserialize_message
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from panoptic_ros import cli
from panoptic_ros.benchmark.bags import BagReader
from panoptic_ros.benchmark.cdr import frame_key, header_stamp_ns, key_reader
from panoptic_ros.benchmark.checks import pixels
from panoptic_ros.benchmark.processes import process_environment
from panoptic_ros.benchmark.recording import sources as recording
from panoptic_ros.benchmark.recording.node_outputs import output_classes
from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.street.scene import SyntheticStreet
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import Panoptic

SIZE_WH = (64, 32)
STREET = ('street', '--size', '64x32', '--rate', '10')
KINDS = {
    'sensor_msgs/msg/Image': Image,
    'sensor_msgs/msg/CompressedImage': CompressedImage,
    'sensor_msgs/msg/CameraInfo': CameraInfo,
}


def make_bag(out, *arguments):
    return cli.main(['make-bag', *map(str, arguments), '--out', str(out)])


def messages(path):
    """Return by topic what was recorded, with rclpy's own deserialisation."""
    with BagReader(path) as bag:
        return {
            topic.name: [
                deserialize_message(message.data, KINDS[topic.type])
                for message in bag.read([topic.name])
            ]
            for topic in bag.topics
        }


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_street(tmp_path, storage, capsys):
    assert make_bag(tmp_path / 'bag', *STREET, '--frames', 3, '--storage', storage) == 0
    assert '3 frames, 0.3 s at 10 Hz' in capsys.readouterr().out
    recorded = messages(tmp_path / 'bag')
    assert recorded.keys() == {
        *('/image', '/camera_info', '/ground_truth/semantic', '/ground_truth/instance'),
        *('/depth', '/depth/camera_info'),
    }
    street = SyntheticStreet(0, SIZE_WH, 10.0)
    for index in range(3):
        rendered = street.frame(index)
        frame = {topic: found[index] for topic, found in recorded.items()}
        keys = {frame_key(message.header) for message in frame.values()}
        assert keys == {(1_700_000_000, index * 100_000_000, 'camera_optical_frame')}
        assert np.array_equal(pixels(frame['/image'])[..., ::-1], rendered.image_rgb)
        truth = rendered.truth
        assert np.array_equal(pixels(frame['/ground_truth/semantic']), truth.semantic)
        assert np.array_equal(pixels(frame['/ground_truth/instance']), truth.instance)
        assert np.array_equal(pixels(frame['/depth']), rendered.depth_m, equal_nan=True)
        assert np.allclose(frame['/camera_info'].k, rendered.camera_matrix.ravel())
    with BagReader(tmp_path / 'bag') as bag:
        assert (bag.note('label_set'), bag.note('is_video')) == ('cityscapes', 'true')
        assert float(bag.note('camera_height_m')) == rendered.camera_height_m


def test_types_are_hashed_as_ros_hashes_them(tmp_path):
    make_bag(tmp_path / 'bag', *STREET, '--frames', 1)
    description = get_package_share_path('sensor_msgs') / 'msg' / 'Image.json'
    if not description.is_file():
        pytest.skip('this ROS has no type descriptions (before Iron)')
    hashes = json.loads(description.read_text())['type_hashes']
    (expected,) = (h['hash_string'] for h in hashes if h['type_name'] == 'sensor_msgs/msg/Image')
    with Reader(tmp_path / 'bag') as bag:
        assert {c.digest for c in bag.connections if c.topic == '/image'} == {expected}


def write_video(path, count):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 12.0, SIZE_WH)
    for index in range(count):
        writer.write(np.full((32, 64, 3), 20 * index, np.uint8))
    writer.release()


def test_video_is_recorded_to_its_end_at_its_rate(tmp_path):
    write_video(tmp_path / 'drive.avi', 6)
    assert make_bag(tmp_path / 'bag', tmp_path / 'drive.avi', '--fov', 90) == 0
    recorded = messages(tmp_path / 'bag')
    assert recorded.keys() == {'/image', '/camera_info'}  # nobody knows the truth
    with BagReader(tmp_path / 'bag') as bag:
        stamps_ns = [header_stamp_ns(m.data) for m in bag.read(['/image'])]
        assert [m.time_ns for m in bag.read(['/image'])] == stamps_ns
        assert bag.note('source') == 'drive.avi'
    assert np.allclose(np.diff(stamps_ns), 1e9 / 12, atol=1)
    assert len(stamps_ns) == 6
    assert recorded['/camera_info'][0].k[0] == pytest.approx(32)


def test_seconds_end_a_video_before_its_end(tmp_path):
    write_video(tmp_path / 'drive.avi', 6)
    assert make_bag(tmp_path / 'bag', tmp_path / 'drive.avi', '--seconds', 0.25) == 0
    assert len(messages(tmp_path / 'bag')['/image']) == 3


def recorded_ms(path):
    """Return the stamps of the recorded images, relative to the first one."""
    with BagReader(path) as bag:
        stamps_ns = np.array([header_stamp_ns(m.data) for m in bag.read(['/image'])])
    return (stamps_ns - stamps_ns[0]) / 1e6


def test_a_row_of_jpegs_is_recorded_to_its_end(tmp_path, capsys):
    """The container's count of frames is an estimate, here a negative number."""
    jpeg = cv2.imencode('.jpg', np.full((8, 16, 3), 90, np.uint8))[1].tobytes()
    (tmp_path / 's.mjpeg').write_bytes(300 * jpeg)
    assert make_bag(tmp_path / 'bag', tmp_path / 's.mjpeg') == 0
    assert '300 frames, 12.0 s at 25 Hz' in capsys.readouterr().out
    assert len(recorded_ms(tmp_path / 'bag')) == 300


def test_an_unreadable_image_is_named_and_left_out(tmp_path, capsys, caplog):
    folder = tmp_path / 'images'
    folder.mkdir()
    for index in range(3):
        cv2.imwrite(str(folder / f'{index}.png'), np.full((8, 16, 3), 40 * index, np.uint8))
    (folder / '1.png').write_bytes(b'not an image')
    assert make_bag(tmp_path / 'bag', folder, '--rate', 10) == 0
    assert '2 frames, 0.2 s at 10 Hz' in capsys.readouterr().out
    assert "1.png' cannot be read; expected an image file; it is skipped" in caplog.text
    assert [int(pixels(m)[0, 0, 0]) for m in messages(tmp_path / 'bag')['/image']] == [0, 80]


@pytest.fixture
def phone_video(tmp_path):
    """Write a video of variable rate, as phones do."""
    av = pytest.importorskip('av', reason='extra test')
    times_ms = [0, 33, 66, 100, 133, 1133, 2133, 2166]
    with av.open(str(tmp_path / 'phone.mp4'), 'w') as file:
        stream = file.add_stream('mpeg4', rate=30)
        stream.width, stream.height, stream.pix_fmt = 32, 16, 'yuv420p'
        stream.codec_context.time_base = Fraction(1, 1000)
        for time_ms in times_ms:
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8), format='bgr24')
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return tmp_path / 'phone.mp4', times_ms


def test_stamps_of_a_variable_rate_are_recorded(tmp_path, phone_video):
    path, times_ms = phone_video
    assert make_bag(tmp_path / 'bag', path) == 0
    assert recorded_ms(tmp_path / 'bag') == pytest.approx(times_ms, abs=0.5)
    assert make_bag(tmp_path / 'cut', path, '--seconds', 2) == 0
    assert recorded_ms(tmp_path / 'cut') == pytest.approx(times_ms[:6], abs=0.5)
    assert make_bag(tmp_path / 'rate', path, '--rate', 10) == 0
    assert recorded_ms(tmp_path / 'rate') == pytest.approx(range(0, 800, 100))


def test_names_that_are_not_utf8_are_recorded(tmp_path):
    name = os.fsdecode(b'stra\xdfe')
    (tmp_path / name).mkdir()
    image = cv2.imencode('.png', np.full((8, 16, 3), 90, np.uint8))[1].tobytes()
    (tmp_path / name / f'{name}.png').write_bytes(image)
    (tmp_path / name / f'._{name}.png').write_bytes(b'companion')
    assert make_bag(tmp_path / 'bag', tmp_path / name) == 0
    assert len(messages(tmp_path / 'bag')['/image']) == 1
    with BagReader(tmp_path / 'bag') as bag:
        assert bag.note('source') == r'stra\udcdfe'


def test_compressed_images(tmp_path):
    assert make_bag(tmp_path / 'bag', *STREET, '--frames', 1, '--compressed') == 0
    recorded = messages(tmp_path / 'bag')
    assert '/image' not in recorded
    (message,) = recorded['/image/compressed']
    assert 'jpeg' in message.format
    decoded = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    rendered = SyntheticStreet(0, SIZE_WH, 10.0).frame(0).image_rgb[..., ::-1]
    assert np.abs(decoded.astype(int) - rendered).mean() < 5
    assert frame_key(message.header) == frame_key(recorded['/camera_info'][0].header)


LABELS = LabelSet.load('cityscapes')
ROAD, CAR = LABELS.class_id('road'), LABELS.class_id('car')


def labelled():
    semantic = np.full((4, 8), ROAD, np.uint8)
    instance = np.zeros((4, 8), np.uint16)
    semantic[:, :4] = CAR
    instance[:, :2], instance[:, 2:4] = 7, 9
    truth = Panoptic.from_maps(semantic, instance, LABELS)
    image_rgb = np.zeros((4, 8, 3), np.uint8)
    image_rgb[..., 0] = 200
    return Sample('one', image_rgb, truth, np.array([9], np.uint16))


def test_groups_of_a_data_set_become_void(tmp_path, monkeypatch):
    opened = []

    def open_dataset(name, root, split):
        opened.append((name, root, split))
        return [labelled(), labelled()], LABELS

    monkeypatch.setattr(recording, 'open_dataset', open_dataset)
    assert make_bag(tmp_path / 'bag', 'ROOT', '--dataset', 'cityscapes', '--split', 'train') == 0
    assert opened == [('cityscapes', 'ROOT', 'train')]
    recorded = messages(tmp_path / 'bag')
    assert len(recorded['/image']) == 2
    assert pixels(recorded['/image'][0])[0, 0].tolist() == [0, 0, 200]  # BGR
    semantic = pixels(recorded['/ground_truth/semantic'][0])
    instance = pixels(recorded['/ground_truth/instance'][0])
    assert semantic[0].tolist() == [CAR] * 2 + [VOID] * 2 + [ROAD] * 4
    assert instance[0].tolist() == [7] * 2 + [0] * 6
    Panoptic.from_maps(semantic, instance, LABELS)  # keeps its promises
    with BagReader(tmp_path / 'bag') as bag:
        assert bag.note('is_video') == 'false'


def test_truth_is_resized_with_the_image(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, 'open_dataset', lambda *_: ([labelled()], LABELS))
    make_bag(tmp_path / 'bag', 'ROOT', '--dataset', 'coco', '--size', '16x8')
    recorded = messages(tmp_path / 'bag')
    sizes = {(m.width, m.height) for (m,) in recorded.values()}
    assert sizes == {(16, 8)}
    assert np.unique(pixels(recorded['/ground_truth/instance'][0])).tolist() == [0, 7]


def test_interrupted_it_holds_what_there_was(tmp_path, monkeypatch, capsys):
    real = recording.write_frame

    def write_frame(bag, frame, is_first):
        if frame.stamp_ns == 200_000_000:
            raise KeyboardInterrupt
        real(bag, frame, is_first)

    monkeypatch.setattr(recording, 'write_frame', write_frame)
    assert make_bag(tmp_path / 'bag', *STREET, '--frames', 9) == 0
    assert 'interrupted' in capsys.readouterr().err
    assert len(messages(tmp_path / 'bag')['/image']) == 2


@pytest.mark.parametrize(
    ('arguments', 'match'),
    [
        (['/nowhere.mp4'], "'/nowhere.mp4' does not exist"),
        ([*STREET, '--frames', 0], '--frames is 0; expected 1 or more'),
        (['street', '--size', '8x8'], 'size'),
        (['/nowhere', '--dataset', 'coco'], '/nowhere'),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing_behind(tmp_path, capsys, arguments, match):
    assert make_bag(tmp_path / 'bag', *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert match in line
    assert not (tmp_path / 'bag').exists()


def test_a_folder_that_exists_is_left_alone(tmp_path, capsys):
    assert make_bag(tmp_path, *STREET) == 2
    assert 'exists' in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.parametrize('transport', ['raw', 'compressed'])
def test_with_outputs_every_frame_has_every_topic_of_the_node(tmp_path, monkeypatch, transport):
    for name, value in process_environment().items():
        monkeypatch.setenv(name, value)
    arguments = ('--compressed',) if transport == 'compressed' else ()
    assert make_bag(tmp_path / 'bag', *STREET, '--frames', 3, '--with-outputs', *arguments) == 0
    classes = output_classes({'depth': True})
    expected = {topic.replace('~', '/segment'): classes[topic] for topic in classes}
    image = '/image' if transport == 'raw' else '/image/compressed'
    with BagReader(tmp_path / 'bag') as bag:
        counts = {topic.name: topic.count for topic in bag.topics}
        assert counts.keys() >= expected.keys() | {image, '/depth', '/ground_truth/semantic'}
        assert {counts[topic] for topic in (*expected, image)} == {3}
        stamps_ns = [header_stamp_ns(m.data) for m in bag.read([image])]
        for topic, message_class in expected.items():
            found = list(bag.read([topic]))
            assert [m.time_ns for m in found] == stamps_ns
            read_key = key_reader(message_class)
            keys = [read_key(message.data) for message in found]
            assert [k.stamp_ns for k in keys if k is not None] == [
                stamp_ns for stamp_ns, k in zip(stamps_ns, keys, strict=True) if k is not None
            ]
            assert message_class.__name__ == 'MarkerArray' or None not in keys
        (first, *_) = bag.read(['/segment/semantic'])
        semantic = pixels(deserialize_message(first.data, Image))
        assert semantic.shape == (32, 64)
        assert set(np.unique(semantic)) <= {*range(19), VOID}


def test_with_outputs_of_a_model_that_is_not_there(tmp_path, capsys):
    arguments = ('--frames', 1, '--with-outputs', '--model', 'nope')
    assert make_bag(tmp_path / 'bag', *STREET, *arguments) == 2
    assert "no model is called 'nope'; expected one of" in capsys.readouterr().err
    assert not (tmp_path / 'bag').exists()
