import hashlib

import numpy as np
import pytest

pytest.importorskip('rosbags', reason='rosbags reads and writes the recordings of these tests')

import yaml
from rosbags.rosbag2 import (
    CompressionFormat,
    CompressionMode,
    Reader,
    StoragePlugin,
    Writer,
)
from rosbags.typesys import Stores, get_typestore

from panoptic_ros.benchmark.bags import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    BagReader,
    BagWriter,
    Message,
    Topic,
    camera_info_name,
    camera_info_topic,
    frames,
    image_topic,
)
from panoptic_ros.errors import BagError

STORE = get_typestore(Stores.ROS2_HUMBLE)
TYPES = STORE.types
SUFFIX = {'mcap': '.mcap', 'sqlite3': '.db3'}
CAMERA_ENCODINGS = ('bgr8', 'mono8')
storages = pytest.mark.parametrize('storage', SUFFIX)


def header(stamp_ns, frame_id='eye'):
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    return TYPES['std_msgs/msg/Header'](
        TYPES['builtin_interfaces/msg/Time'](sec, nanosec), frame_id
    )


def image(stamp_ns, encoding='bgr8', frame_id='eye'):
    pixels = np.arange(6, dtype=np.uint8)
    message = TYPES[IMAGE](header(stamp_ns, frame_id), 1, 2, encoding, 0, 6, pixels)
    return bytes(STORE.serialize_cdr(message, IMAGE))


def compressed(stamp_ns, image_format='jpeg'):
    message = TYPES[COMPRESSED_IMAGE](header(stamp_ns), image_format, np.zeros(3, np.uint8))
    return bytes(STORE.serialize_cdr(message, COMPRESSED_IMAGE))


def text(words):
    return bytes(STORE.serialize_cdr(TYPES['std_msgs/msg/String'](words), 'std_msgs/msg/String'))


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a recording: topic -> type, and messages."""

    def write(types, messages, storage='mcap', notes=(), name='bag'):
        with BagWriter(tmp_path / name, storage, notes) as bag:
            for topic, message_type in types.items():
                bag.add(topic, message_type, reliable=True, depth=10)
            for message in messages:
                bag.write(message)
        return tmp_path / name

    return write


MESSAGES = [Message('/image', 10 + i, image(100 + i)) for i in range(4)]


@storages
def test_messages_come_back_byte_for_byte(write, storage):
    path = write({'/image': IMAGE}, MESSAGES, storage, [('source', 'a test')])
    with BagReader(path) as bag:
        assert list(bag.read(['/image'])) == MESSAGES
        assert bag.topics == (Topic('/image', IMAGE, 4),)
        assert (bag.start_ns, bag.end_ns) == (10, 13)
        assert bag.note('source') == 'a test'
        assert bag.note('nothing') == ''
        assert list(bag.read(['/image'], 11, 13)) == MESSAGES[1:3]
        assert list(bag.read(['/other'])) == []
        assert bag.first('/image') == MESSAGES[0]


@storages
def test_the_file_alone_can_be_read_too(write, storage):
    path = write({'/image': IMAGE}, MESSAGES, storage) / f'bag{SUFFIX[storage]}'
    with BagReader(path) as bag:
        assert list(bag.read(['/image'])) == MESSAGES


@storages
def test_metadata_is_what_rosbag2_asks_for(write, storage):
    path = write({'/image': IMAGE}, MESSAGES, storage, [('label_set', 'cityscapes')])
    (information,) = yaml.safe_load((path / 'metadata.yaml').read_text()).values()
    # Keys and types as rosbag2_storage's yaml.hpp decodes version 8.
    assert information['version'] == 8
    assert information['storage_identifier'] == storage
    assert information['duration'] == {'nanoseconds': 3}
    assert information['starting_time'] == {'nanoseconds_since_epoch': 10}
    assert information['message_count'] == 4
    assert information['relative_file_paths'] == [f'bag{SUFFIX[storage]}']
    assert [file['path'] for file in information['files']] == [f'bag{SUFFIX[storage]}']
    assert information['files'][0]['message_count'] == 4
    assert (information['compression_format'], information['compression_mode']) == ('', '')
    assert information['custom_data'] == {'label_set': 'cityscapes'}
    assert isinstance(information['ros_distro'], str)
    (topic,) = information['topics_with_message_count']
    assert topic['message_count'] == 4
    metadata = topic['topic_metadata']
    assert (metadata['name'], metadata['type']) == ('/image', IMAGE)
    assert metadata['serialization_format'] == 'cdr'
    assert metadata['type_description_hash'].startswith('RIHS01_')
    (qos,) = yaml.safe_load(metadata['offered_qos_profiles'])  # text until version 8
    assert qos['history'] == qos['reliability'] == qos['liveliness'] == 1  # rmw's numbers
    assert (qos['durability'], qos['depth']) == (2, 10)
    assert qos['avoid_ros_namespace_conventions'] is False


def test_best_effort_is_recorded_as_such(tmp_path):
    with BagWriter(tmp_path / 'bag', 'mcap') as bag:
        bag.add('/image', IMAGE, reliable=False, depth=5)
        bag.write(MESSAGES[0])
    with Reader(tmp_path / 'bag') as reader:
        (profile,) = reader.connections[0].ext.offered_qos_profiles
    assert (profile.reliability.name, profile.depth) == ('BEST_EFFORT', 5)


@storages
@pytest.mark.parametrize('mode', [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_compressed_recordings(tmp_path, storage, mode):
    plugin = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}[storage]
    writer = Writer(tmp_path / 'bag', version=9, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection('/image', IMAGE, typestore=STORE)
        for message in MESSAGES:
            writer.write(connection, message.time_ns, message.data)
    with BagReader(tmp_path / 'bag') as bag:
        assert list(bag.read(['/image'])) == MESSAGES
        assert bag.note('source') == ''  # nothing was noted


def test_same_messages_same_bytes(write):
    first = write({'/image': IMAGE}, MESSAGES, name='one/bag')
    second = write({'/image': IMAGE}, MESSAGES, name='two/bag')
    with BagReader(first) as one, BagReader(second) as two:
        assert one.sha256() == two.sha256()
        assert one.sha256().keys() == {'metadata.yaml', 'bag.mcap'}
        content = (first / 'bag.mcap').read_bytes()
        assert one.sha256()['bag.mcap'] == hashlib.sha256(content).hexdigest()


def test_a_folder_that_exists_is_left_alone(tmp_path):
    with pytest.raises(BagError, match='exists; remove it, or choose another'):
        BagWriter(tmp_path, 'mcap')
    assert tmp_path.exists()


def test_a_recording_that_fails_is_removed(tmp_path):
    def fail():
        with BagWriter(tmp_path / 'bag', 'mcap') as bag:
            bag.add('/image', IMAGE, reliable=True, depth=1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not (tmp_path / 'bag').exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(BagError, match='cannot write'):
        BagWriter(tmp_path / 'file' / 'bag', 'mcap')


# What cannot be read.


@pytest.mark.parametrize(
    ('make', 'match'),
    [
        (lambda path: None, 'does not exist; expected a folder'),
        (lambda path: path.mkdir(), 'has no metadata.yaml'),
        (lambda path: path.write_text('hello'), 'is not a recording'),
    ],
)
def test_what_is_no_recording(tmp_path, make, match):
    path = tmp_path / 'thing'
    make(path)
    with pytest.raises(BagError, match=match):
        BagReader(path)


def test_recording_of_ros_1(tmp_path):
    (tmp_path / 'old.bag').write_text('#ROSBAG V2.0')
    with pytest.raises(BagError, match='rosbags-convert --src'):
        BagReader(tmp_path / 'old.bag')


@storages
def test_empty_recording(write, storage):
    path = write({'/image': IMAGE}, [], storage)
    with pytest.raises(BagError, match='is empty'):
        BagReader(path)


@storages
@pytest.mark.parametrize('tenths', range(10))
def test_truncated_file_is_a_sentence_wherever_it_ends(write, storage, tenths):
    path = write({'/image': IMAGE}, MESSAGES * 400, storage)
    file = path / f'bag{SUFFIX[storage]}'
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * tenths // 10])
    for truncated in (path, file):
        with (
            pytest.raises(BagError, match='damaged or was not ended'),
            BagReader(truncated) as bag,
        ):
            list(bag.read(['/image']))


@pytest.mark.parametrize('text', ['', 'a: [', '3', 'rosbag2_bagfile_information: {version: 99}'])
def test_damaged_metadata(write, text):
    path = write({'/image': IMAGE}, MESSAGES)
    (path / 'metadata.yaml').write_text(text)
    with pytest.raises(BagError, match='damaged'):
        BagReader(path)


def test_missing_file(write):
    path = write({'/image': IMAGE}, MESSAGES)
    (path / 'bag.mcap').unlink()
    with pytest.raises(BagError, match=r'bag\.mcap'):
        BagReader(path)


# Which topics.


def choose(path, name=None):
    with BagReader(path) as bag:
        return image_topic(bag, CAMERA_ENCODINGS, name).name


def test_the_only_camera_is_chosen_whatever_else_is_an_image(write):
    path = write(
        {'/image': IMAGE, '/depth': IMAGE, '/ground_truth/semantic': IMAGE, '/info': CAMERA_INFO},
        [
            Message('/depth', 1, image(0, '16UC1')),
            Message('/ground_truth/semantic', 1, image(0, 'mono8')),
            Message('/image', 1, image(0, 'mono8')),
        ],
    )
    assert choose(path) == '/image'


def test_compressed_camera_is_chosen_and_compressed_depth_is_not(write):
    topics = ('/eye/compressed', '/depth/compressedDepth')
    path = write(
        dict.fromkeys(topics, COMPRESSED_IMAGE), [Message(t, 1, compressed(0)) for t in topics]
    )
    assert choose(path) == '/eye/compressed'


def test_names_of_encodings_are_those_that_the_node_understands(write):
    path = write(
        {'/eye': IMAGE, '/depth': IMAGE},
        [Message('/eye', 1, image(0, 'BGR8')), Message('/depth', 1, image(0, '16uc1'))],
    )
    assert choose(path) == '/eye'


def test_depth_as_a_compressed_image_is_no_camera(write):
    topics = ('/eye/compressed', '/depth/compressed')
    formats = ('bgr8; jpeg compressed bgr8', '16UC1; png compressed ')
    path = write(
        dict.fromkeys(topics, COMPRESSED_IMAGE),
        [Message(t, 1, compressed(0, f)) for t, f in zip(topics, formats, strict=True)],
    )
    assert choose(path) == '/eye/compressed'


def test_several_cameras_have_to_be_told_apart(write):
    path = write(
        {'/left': IMAGE, '/right': IMAGE},
        [Message('/left', 1, image(0)), Message('/right', 1, image(0))],
    )
    with pytest.raises(BagError, match='several camera image topics; name one with --topic'):
        choose(path)
    assert choose(path, '/right') == '/right'


def test_without_a_camera_what_there_is_is_listed(write):
    path = write({'/chatter': 'std_msgs/msg/String'}, [Message('/chatter', 1, text('hello'))])
    listed = r'no camera image topic.*/chatter \(std_msgs/msg/String, 1 messages\)'
    with pytest.raises(BagError, match=listed):
        choose(path)
    with pytest.raises(BagError, match='has no topic /image; it has /chatter'):
        choose(path, '/image')
    with pytest.raises(BagError, match=r'/chatter of recording .* is std_msgs/msg/String'):
        choose(path, '/chatter')


@pytest.mark.parametrize(
    ('image', 'info'),
    [
        ('/image', '/camera_info'),
        ('/eye/image_raw', '/eye/camera_info'),
        ('/eye/image_raw/compressed', '/eye/camera_info'),
    ],
)
def test_calibration_lies_beside_the_image(image, info):
    assert camera_info_name(image) == info
    topics = [Topic('/other', CAMERA_INFO, 1), Topic(info, CAMERA_INFO, 1)]
    assert camera_info_topic(topics, image).name == info


def test_calibration_elsewhere_counts_if_it_is_the_only_one():
    topics = [Topic('/a', CAMERA_INFO, 1), Topic('/b', CAMERA_INFO, 1), Topic('/c', IMAGE, 1)]
    assert camera_info_topic(topics[1:], '/eye/image').name == '/b'
    assert camera_info_topic(topics, '/eye/image') is None
    assert camera_info_topic([], '/eye/image') is None


# Frames.


def test_frames_have_what_was_recorded_before_them_and_what_is_as_old():
    recorded = [
        Message('/info', 0, image(100)),
        Message('/image', 1, image(100)),
        Message('/depth', 2, image(100)),  # late, but of this image
        Message('/depth', 3, image(200)),
        Message('/tf', 4, text('x')),
        Message('/image', 5, image(200)),
        Message('/info', 6, image(300)),
    ]
    first, second = frames(recorded, '/image', ('/info', '/depth'))
    assert (first.image, second.image) == (recorded[1], recorded[5])
    assert first.companions == (recorded[0], recorded[2])
    assert second.companions == (recorded[3], recorded[4])
    assert (first.stamp_ns, second.stamp_ns) == (100, 200)


def test_no_image_no_frame():
    assert list(frames([Message('/info', 0, image(1))], '/image')) == []
