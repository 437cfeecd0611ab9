import struct
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from builtin_interfaces.msg import Duration, Time
from hypothesis import given
from hypothesis import strategies as st
from nav_msgs.msg import OccupancyGrid
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.ros.messages import image_message
from panoptic_ros.ros.messages.cdr import (
    MarkerRow,
    header_cdr,
    image_cdr,
    marker_array_cdr,
    occupancy_grid_cdr,
    point_cloud_cdr,
)

texts = st.text(st.characters(exclude_categories=('Cs',), exclude_characters='\0'), max_size=9)
int32s = st.integers(-(2**31), 2**31 - 1)
uint32s = st.integers(0, 2**32 - 1)
stamps = st.builds(Time, sec=int32s, nanosec=uint32s)
headers = st.builds(Header, stamp=stamps, frame_id=texts)
doubles = st.floats(allow_nan=False)
rows = st.builds(
    MarkerRow,
    namespace=texts,
    number=int32s,
    kind=st.integers(0, 11),
    position_xyz=st.tuples(*[doubles] * 3),
    orientation_xyzw=st.tuples(*[doubles] * 4),
    size_xyz=st.tuples(*[doubles] * 3),
    color_rgba=st.tuples(*[st.floats(0, 1, width=32)] * 4),
    text=texts,
)


def assert_same(data: bytes, message: Any) -> None:
    """Assert that the bytes mean the message and are as many as rclpy makes of it.

    What rclpy leaves between the fields is not defined, so bytes alone would say too little.
    """
    assert deserialize_message(data, type(message)) == message
    expected = serialize_message(message)
    assert len(data) == len(expected)
    assert data[:4] == expected[:4]


def marker(row: MarkerRow, header: Header, lifetime: Duration) -> Marker:
    message = Marker(header=header, ns=row.namespace, id=row.number, type=row.kind, text=row.text)
    message.lifetime = lifetime
    position, turn = message.pose.position, message.pose.orientation
    position.x, position.y, position.z = row.position_xyz
    turn.x, turn.y, turn.z, turn.w = row.orientation_xyzw
    message.scale.x, message.scale.y, message.scale.z = row.size_xyz
    color = message.color
    color.r, color.g, color.b, color.a = row.color_rgba
    return message


@given(header=headers)
def test_header_begins_the_message(header: Header) -> None:
    data = header_cdr(header)
    assert len(data) % 4 == 0
    assert deserialize_message(data, Header) == header


@given(
    header=headers,
    size_hw=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kind=st.sampled_from([('uint8', ()), ('uint16', ()), ('int32', ()), ('uint8', (3,))]),
    crop=st.booleans(),
    turn=st.booleans(),
)
def test_image(
    header: Header,
    size_hw: tuple[int, int],
    kind: tuple[str, tuple[int, ...]],
    crop: bool,
    turn: bool,
) -> None:
    dtype, channels = kind
    array = np.arange(8 * 8 * 3).reshape(8, 8, 3) * 77
    array = (array if channels else array[..., 0]).astype(dtype)
    array = array[: size_hw[0], : size_hw[1]] if crop else array
    array = array.swapaxes(0, 1)[::-1] if turn else array
    assert_same(image_cdr(header_cdr(header), array), image_message(array, header))


def test_image_to_the_byte() -> None:
    # A frame and an encoding whose texts leave no gap.
    header = Header(stamp=Time(sec=1, nanosec=2), frame_id='cam')
    array = np.array([[1, 2], [3, 40000]], np.uint16)
    assert image_cdr(header_cdr(header), array) == (
        bytes([0, sys.byteorder == 'little', 0, 0])
        + struct.pack('=iII4s', 1, 2, 4, b'cam\0')
        + struct.pack('=II', 2, 2)
        + struct.pack('=I6s', 6, b'16UC1\0')
        + struct.pack('=Bx', sys.byteorder == 'big')
        + struct.pack('=II4H', 4, 8, 1, 2, 3, 40000)
    )


@pytest.mark.parametrize(
    'array', [np.zeros((2, 2), np.float32), np.zeros((2, 2, 4), np.uint8), np.zeros(4, np.uint8)]
)
def test_image_refuses_what_has_no_encoding(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match='expected uint8'):
        image_cdr(header_cdr(Header()), array)


@given(
    header=headers,
    lifetime=st.builds(Duration, sec=int32s, nanosec=uint32s),
    shown=st.lists(rows, max_size=4),
    gone=st.lists(st.tuples(texts, int32s), max_size=3),
)
def test_marker_array(
    header: Header, lifetime: Duration, shown: list[MarkerRow], gone: list[tuple[str, int]]
) -> None:
    data = marker_array_cdr(header_cdr(header), lifetime, shown, gone)
    expected = [marker(row, header, lifetime) for row in shown]
    expected += [
        Marker(header=header, ns=namespace, id=number, action=Marker.DELETE)
        for namespace, number in gone
    ]
    assert_same(data, MarkerArray(markers=expected))


@given(
    header=headers,
    size_wh=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    names=st.lists(texts, min_size=1, max_size=5),
    counts=st.integers(1, 3),
)
def test_point_cloud(
    header: Header, size_wh: tuple[int, int], names: list[str], counts: int
) -> None:
    fields = [
        PointField(name=name, offset=4 * i, datatype=i % 8 + 1, count=counts)
        for i, name in enumerate(names)
    ]
    width, height = size_wh
    points = np.arange(width * height * len(names), dtype=np.float32)
    points = points.reshape(height, width, len(names))
    message = PointCloud2(
        header=header,
        width=width,
        height=height,
        fields=fields,
        is_bigendian=sys.byteorder == 'big',
        point_step=4 * len(names),
        row_step=4 * len(names) * width,
        is_dense=False,
    )
    message.data.frombytes(points.tobytes())
    assert_same(point_cloud_cdr(header_cdr(header), fields, points), message)


@given(
    header=headers,
    size_xy=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    resolution_m=st.floats(0.0, 10.0, width=32),
    pose=st.tuples(*[st.floats(-1e6, 1e6)] * 7),
)
def test_occupancy_grid(
    header: Header, size_xy: tuple[int, int], resolution_m: float, pose: tuple[float, ...]
) -> None:
    width, height = size_xy
    cells = np.arange(-1, width * height - 1).astype(np.int8).reshape(width, height).T
    message = OccupancyGrid(header=header)
    info = message.info
    info.map_load_time = header.stamp
    info.resolution, info.width, info.height = resolution_m, width, height
    position, turn = info.origin.position, info.origin.orientation
    position.x, position.y, position.z, turn.x, turn.y, turn.z, turn.w = pose
    message.data.frombytes(cells.tobytes())
    assert_same(occupancy_grid_cdr(header, resolution_m, pose[:3], pose[3:], cells), message)
