"""Recordings of received messages; test/cli/test_make_bag.py tests recordings of sources."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')
pytest.importorskip('rosbags', reason='rosbags writes the recordings')

from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from panoptic_ros.benchmark.bags import BagReader, BagWriter, Message, Topic
from panoptic_ros.benchmark.recording import Recorder
from panoptic_ros.ros.messages import image_message


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
