"""Headers and encodings read from serialised messages, against rclpy's own serialisation."""

import struct

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.benchmark.cdr import (
    FrameKey,
    begins_with_header,
    frame_key,
    header_key,
    header_stamp_ns,
    image_encoding,
    key_reader,
    message_class,
    with_header_stamp,
)
from panoptic_ros.errors import BagError
from panoptic_ros.ros.messages import image_message

S = 1_000_000_000


def header(stamp_ns: int, frame_id: str = 'eye') -> Header:
    made = Header(frame_id=frame_id)
    made.stamp.sec, made.stamp.nanosec = divmod(stamp_ns, S)
    return made


def image(stamp_ns: int, frame_id: str = 'eye') -> bytes:
    made = image_message(np.full((1, 2, 3), 7, np.uint8), header(stamp_ns, frame_id))
    return serialize_message(made)


@given(
    st.integers(-(2**31) * 10**9, 2**31 * 10**9 - 1), st.integers(0, 2**31 * 10**9 - 1), st.text()
)
def test_headers_are_read_and_changed(first_ns: int, second_ns: int, frame_id: str) -> None:
    frame_id = frame_id.replace('\0', '').encode('utf-8', 'replace').decode()
    data = image(first_ns, frame_id)
    assert header_stamp_ns(data) == first_ns
    assert header_key(data) == frame_key(header(first_ns, frame_id))
    assert header_key(data).stamp_ns == first_ns
    assert image_encoding(data) == 'bgr8'
    assert with_header_stamp(data, second_ns) == image(second_ns, frame_id)


def test_big_endian_messages() -> None:
    data = b'\0\0\0\0' + struct.pack('>iII', -5, 7, 2) + b'a\0'
    assert header_stamp_ns(data) == -5 * S + 7
    assert header_key(data) == FrameKey(-5, 7, 'a')
    assert with_header_stamp(data, 3_000_000_002) == (
        data[:4] + struct.pack('>iII', 3, 2, 2) + b'a\0'
    )


@pytest.mark.parametrize('size', [0, 3, 8, 11])
def test_messages_cut_short(size: int) -> None:
    for read in (header_stamp_ns, header_key):
        with pytest.raises(BagError, match=f'{size} bytes is cut off'):
            read(image(0)[:size])


def test_stamp_that_no_header_holds() -> None:
    with pytest.raises(BagError, match='does not fit'):
        with_header_stamp(image(0), 2**31 * S)


def test_message_classes() -> None:
    assert message_class('sensor_msgs/msg/Image') is Image
    for unknown in ('acme_msgs/msg/Image', 'sensor_msgs/msg/Immage', 'nonsense'):
        with pytest.raises(BagError, match=f'message type {unknown} is not installed'):
            message_class(unknown)


def test_which_messages_begin_with_a_header() -> None:
    assert begins_with_header(Image)
    assert begins_with_header(CameraInfo)
    assert not begins_with_header(String)
    assert not begins_with_header(MarkerArray)


def test_headers_of_outputs() -> None:
    assert key_reader(Image)(image(3 * S + 5)) == FrameKey(3, 5, 'eye')
    markers = MarkerArray(markers=[Marker(header=header(S + n)) for n in range(2)])
    read = key_reader(MarkerArray)
    assert read(serialize_message(markers)) == FrameKey(1, 0, 'eye')
    assert read(serialize_message(MarkerArray())) is None
    with pytest.raises(BagError, match='String have no header'):
        key_reader(String)


def test_frame_key_is_the_whole_header() -> None:
    assert frame_key(header(S + 2, 'a')) == (1, 2, 'a')
