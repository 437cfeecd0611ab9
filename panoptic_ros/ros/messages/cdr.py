"""Messages that every frame needs, written as the bytes DDS sends instead of as Python objects.

rclpy makes those bytes from objects, value by value, and one marker is a dozen objects; written
from the values themselves, they take a tenth of the time. ``Publisher.publish`` takes bytes as
they are. The format is plain CDR, version 1, in this machine's byte order: four bytes that say
so, then the fields in order; a number lies at a multiple of its size counted from there, a text
is its length, its bytes and a zero, a list its length and its elements (OMG DDSI-RTPS 2.5, section
10). The tests hold it against rclpy.
"""

import struct
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from builtin_interfaces.msg import Duration
from sensor_msgs.msg import PointField
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from panoptic_ros.ros.messages.images import image_layout

_FRONT = bytes([0, sys.byteorder == 'little', 0, 0])  # alignment counts from behind these
_STAMP = struct.Struct('=iI')
_UINT32 = struct.Struct('=I')
_MARKER_HEAD = struct.Struct('=3i')  # id, type, action
_MARKER_BODY = struct.Struct('=10d4fiI')  # pose, scale, color, lifetime

# A marker without all that: frame_locked, points, colors, texture_resource, texture (stamp,
# frame_id, format, data), uv_coordinates; then mesh_resource, mesh_file (filename, data),
# mesh_use_embedded_materials. An empty text is a one and a zero.
_UNUSED = struct.pack('=13I', 0, 0, 0, *(1, 0), 0, 0, *(1, 0), *(1, 0), 0, 0)
_END = struct.pack('=6I', *(1, 0), *(1, 0), 0, 0)
_AFTER_LAST = 3  # bytes in it that align what would follow

_ZERO_XYZ = (0.0, 0.0, 0.0)
IDENTITY_XYZW = (0.0, 0.0, 0.0, 1.0)


class MarkerRow(NamedTuple):
    """A marker without what all markers of a frame share.

    Parameters
    ----------
    namespace, number, kind
        ``ns``, ``id`` and ``type`` of visualization_msgs/Marker.
    position_xyz, orientation_xyzw, size_xyz
        Metres and a unit quaternion, in the header's frame.
    color_rgba
        Each 0..1.
    text
        For kinds that show one.
    """

    namespace: str
    number: int
    kind: int
    position_xyz: Sequence[float]
    orientation_xyzw: Sequence[float]
    size_xyz: Sequence[float]
    color_rgba: Sequence[float]
    text: str = ''


def _gone(namespace: str, number: int) -> MarkerRow:
    return MarkerRow(namespace, number, 0, _ZERO_XYZ, IDENTITY_XYZW, _ZERO_XYZ, (0, 0, 0, 0))


def header_cdr(header: Header) -> bytes:
    """Return how every message begins whose first field is this header."""
    stamp = _STAMP.pack(header.stamp.sec, header.stamp.nanosec)
    return _aligned(_FRONT + stamp + _text(header.frame_id))


def image_cdr(header: bytes, array: np.ndarray) -> bytes:
    """Return the bytes of :func:`messages.image_message`, with one copy of the pixels.

    Parameters
    ----------
    header
        From :func:`header_cdr`.
    array
        As there.

    Raises ValueError for another dtype or shape.
    """
    layout = image_layout(array)
    fields = header + struct.pack('=2I', layout.height, layout.width) + _text(layout.encoding)
    fields = _aligned(fields + bytes([sys.byteorder == 'big']))
    fields += struct.pack('=2I', layout.step, array.nbytes)
    return b''.join((fields, np.ascontiguousarray(array).data.cast('B')))


def point_cloud_cdr(header: bytes, fields: Sequence[PointField], points: np.ndarray) -> bytes:
    """Return the bytes of an organised PointCloud2 that is not dense, with one copy of the points.

    Parameters
    ----------
    header
        From :func:`header_cdr`.
    fields
        What a point consists of.
    points
        [H, W, n], contiguous; the last axis is one point.
    """
    height, width = points.shape[:2]
    data = header + struct.pack('=3I', height, width, len(fields))
    for field in fields:
        data = _aligned(data + _text(field.name)) + _UINT32.pack(field.offset)
        data = _aligned(data + bytes([field.datatype])) + _UINT32.pack(field.count)
    data = _aligned(data + bytes([sys.byteorder == 'big']))
    row_step = points.nbytes // height
    data += struct.pack('=3I', row_step // width, row_step, points.nbytes)
    is_dense = b'\0'
    return b''.join((data, points.data.cast('B'), is_dense))


def occupancy_grid_cdr(
    header: Header,
    resolution_m: float,
    origin_xyz_m: Sequence[float],
    orientation_xyzw: Sequence[float],
    occupancy: np.ndarray,
) -> bytes:
    """Return the bytes of a nav_msgs/OccupancyGrid, loaded at the header's stamp.

    Parameters
    ----------
    header
        Of the message.
    resolution_m
        Side of a cell.
    origin_xyz_m, orientation_xyzw
        Pose of the first cell's corner in the header's frame.
    occupancy
        int8 [size y, size x].
    """
    height, width = occupancy.shape
    stamp = _STAMP.pack(header.stamp.sec, header.stamp.nanosec)
    data = header_cdr(header) + stamp + struct.pack('=f2I', resolution_m, width, height)
    data += bytes(-(len(data) - len(_FRONT)) % 8)  # doubles follow
    data += struct.pack('=7dI', *origin_xyz_m, *orientation_xyzw, occupancy.size)
    return b''.join((data, np.ascontiguousarray(occupancy).data.cast('B')))


def marker_array_cdr(
    header: bytes,
    lifetime: Duration,
    shown: Iterable[MarkerRow],
    gone: Iterable[tuple[str, int]],
) -> bytes:
    """Return the bytes of a MarkerArray that adds some markers, then deletes others.

    Parameters
    ----------
    header
        From :func:`header_cdr`, of all markers.
    lifetime
        Of the markers that are shown.
    shown
        The markers to add or to change.
    gone
        Namespace and number of those to delete.
    """
    header = header.removeprefix(_FRONT)
    lives = lifetime.sec, lifetime.nanosec
    rows = [(row, Marker.ADD, lives) for row in shown]
    rows += [(_gone(*which), Marker.DELETE, (0, 0)) for which in gone]
    parts = [_FRONT, _UINT32.pack(len(rows))]
    size = _UINT32.size
    names = {row.namespace for row, _, _ in rows}
    begin = {name: header + _aligned(_text(name)) for name in names}
    for row, action, lives in rows:
        place = begin[row.namespace] + _MARKER_HEAD.pack(row.number, row.kind, action)
        place += bytes((size + len(place)) % 8)  # doubles follow
        values = *row.position_xyz, *row.orientation_xyzw, *row.size_xyz, *row.color_rgba, *lives
        rest = _MARKER_BODY.pack(*values) + _UNUSED + _aligned(_text(row.text)) + _END
        size += len(place) + len(rest)
        parts += place, rest
    data = b''.join(parts)
    return data[:-_AFTER_LAST] if rows else data


def _text(text: str) -> bytes:
    data = text.encode() + b'\0'
    return _UINT32.pack(len(data)) + data


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
