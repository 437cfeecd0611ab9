"""Recordings of received messages and of the outputs of the node.

test/cli/test_make_bag.py tests recordings of sources.
"""

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')
pytest.importorskip('rosbags', reason='rosbags writes the recordings')

from rclpy.serialization import deserialize_message, serialize_message
from rosbags.interfaces import QosDurability, QosReliability
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from panoptic_ros.benchmark.bags import BagReader, BagWriter, Message, Topic
from panoptic_ros.benchmark.recording.node_outputs import (
    Recorder,
    installed_definitions,
    output_classes,
)
from panoptic_ros.ros.messages import image_message
from panoptic_ros.ros.outputs import OUTPUTS, TIMING


class Unknown:
    """A message class of a package that the recording library does not know."""

    __module__ = 'acme_msgs.msg._unknown'


def test_messages_are_recorded_in_the_order_of_receipt(tmp_path: Path) -> None:
    image = serialize_message(image_message(np.zeros((2, 4, 3), np.uint8), Header()))
    text = serialize_message(String(data='hello'))
    with BagWriter(tmp_path / 'bag', 'mcap') as bag:
        recorder = Recorder(bag)
        recorder('/segment/overlay', Image, 20, image)
        recorder('/chatter', String, 10, text)  # received before, reported after
        recorder('/unknown', Unknown, 30, b'')
        recorder('/segment/overlay', Image, 40, image)
    assert recorder.skipped == {'/unknown'}
    with BagReader(tmp_path / 'bag') as recorded:
        assert recorded.topics == (
            Topic('/chatter', 'std_msgs/msg/String', 1),
            Topic('/segment/overlay', 'sensor_msgs/msg/Image', 2),
        )
        assert list(recorded.read(['/segment/overlay', '/chatter'])) == [
            Message('/segment/overlay', 20, image),
            Message('/chatter', 20, text),
            Message('/segment/overlay', 40, image),
        ]


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install the definitions of a package that the recording library does not know."""
    prefix = tmp_path / 'prefix'
    index = prefix / 'share' / 'ament_index' / 'resource_index' / 'packages'
    index.mkdir(parents=True)
    (index / 'acme_msgs').touch()
    folder = prefix / 'share' / 'acme_msgs' / 'msg'
    folder.mkdir(parents=True)
    (folder / 'Known.msg').write_text('std_msgs/Header header\nPart[] parts\n')
    (folder / 'Part.msg').write_text(
        '# Lines like\n# Other text\nuint8 MAX=3\nacme_msgs/Leaf leaf\n'
    )
    (folder / 'Leaf.msg').write_text('uint16 id\n')
    monkeypatch.setenv('AMENT_PREFIX_PATH', f'{prefix}:{os.environ["AMENT_PREFIX_PATH"]}')
    return 'acme_msgs/msg/Known'


def test_definitions_of_installed_packages_have_those_of_their_fields(acme: str) -> None:
    found = installed_definitions(acme)
    assert found.keys() == {f'acme_msgs/msg/{name}' for name in ('Known', 'Part', 'Leaf')}
    assert found['acme_msgs/msg/Leaf'] == 'uint16 id\n'
    assert installed_definitions('nobody_msgs/msg/Known') == {}
    assert installed_definitions('acme_msgs/msg/Missing') == {}


def test_types_of_installed_packages_are_recorded(tmp_path: Path, acme: str) -> None:
    known = type('Known', (), {'__module__': 'acme_msgs.msg._known'})
    with BagWriter(tmp_path / 'bag', 'mcap') as bag:
        recorder = Recorder(bag, latched={'/known'})
        recorder('/known', known, 10, bytes(16))
        recorder('/image', Image, 20, serialize_message(Image()))
    assert not recorder.skipped
    with BagReader(tmp_path / 'bag') as recorded:
        assert recorded.topics[1] == Topic('/known', acme, 1)
    with Reader(tmp_path / 'bag') as reader:
        offered = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
    assert offered['/known'].durability == QosDurability.TRANSIENT_LOCAL
    assert offered['/image'].durability == QosDurability.VOLATILE
    assert offered['/known'].reliability == QosReliability.RELIABLE
    assert offered['/image'].reliability == QosReliability.BEST_EFFORT


def test_the_outputs_of_each_image_are_those_that_the_parameters_offer() -> None:
    plain, with_depth = output_classes({'depth': False}), output_classes({'depth': True})
    offered = {o.topic for o in OUTPUTS if o.message_type is not None}
    assert with_depth.keys() == (offered - {'~/occlusion'}) | {TIMING}
    assert with_depth.keys() - plain.keys() == {
        o.topic for o in OUTPUTS if o.parameter == 'depth' and o.message_type is not None
    }
    assert plain['~/semantic'] is Image
    assert plain['~/overlay/compressed'] is CompressedImage


def test_a_compressed_recording_holds_the_same_messages(tmp_path: Path) -> None:
    data = serialize_message(image_message(np.zeros((200, 300, 3), np.uint8), Header()))
    sizes = []
    for compress in (False, True):
        path = tmp_path / str(compress)
        with BagWriter(path, 'mcap', compress=compress) as bag:
            Recorder(bag)('/segment/overlay', Image, 20, data)
        with BagReader(path) as recorded:
            (message,) = recorded.read(['/segment/overlay'])
        assert deserialize_message(message.data, Image).width == 300
        assert message.data == data
        sizes.append(sum(file.stat().st_size for file in path.iterdir()))
    assert sizes[1] < 0.2 * sizes[0]
