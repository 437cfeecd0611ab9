"""Serialised messages: the bytes that DDS sends, written without message objects.

rclpy serialises objects value by value, and a marker consists of a dozen objects; writing the
bytes directly takes a tenth of the time. ``Publisher.publish`` accepts serialised messages. The
format is plain CDR, version 1, in the byte order of this machine: four bytes of encapsulation
header, then the fields in order. A number is aligned to its size, a string is its length, its
bytes and a zero, a sequence is its length and its elements (OMG DDSI-RTPS 2.5, section 10). The
tests compare with rclpy.
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

_FRONT = bytes(
    [0, sys.byteorder == 'little', 0, 0]
)  # encapsulation header; alignment starts after it
_STAMP = struct.Struct('=iI')
_UINT32 = struct.Struct('=I')
_MARKER_HEAD = struct.Struct('=3i')  # id, type, action
_MARKER_BODY = struct.Struct('=10d4fiI')  # pose, scale, color, lifetime

# Unused fields of a marker: frame_locked, points, colors, texture_resource, texture (stamp,
# frame_id, format, data), uv_coordinates; then mesh_resource, mesh_file (filename, data),
# mesh_use_embedded_materials. An empty string is a one and a zero.
_UNUSED = struct.pack('=13I', 0, 0, 0, *(1, 0), 0, 0, *(1, 0), *(1, 0), 0, 0)
_END = struct.pack('=6I', *(1, 0), *(1, 0), 0, 0)
_AFTER_LAST = 3  # bytes of padding at the end

_ZERO_XYZ = (0.0, 0.0, 0.0)
IDENTITY_XYZW = (0.0, 0.0, 0.0, 1.0)


class MarkerRow(NamedTuple):
    """Fields of a marker that differ between the markers of a frame.

    Parameters
    ----------
    namespace, number, kind
        ``ns``, ``id`` and ``type`` of visualization_msgs/Marker.
    position_xyz, orientation_xyzw, size_xyz
        Metres and a unit quaternion, in the frame of the header.
    color_rgba
        0..1 each.
    text
        Text of kinds that have one.
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
    """Return the first bytes of a message whose first field is this header."""
    stamp = _STAMP.pack(header.stamp.sec, header.stamp.nanosec)
    return _aligned(_FRONT + stamp + _text(header.frame_id))


def image_cdr(header: bytes, array: np.ndarray) -> bytes:
    """Return a serialised Image of an array, with one copy of the pixels.

    Parameters
    ----------
    header
        From :func:`header_cdr`.
    array
        As for :func:`~panoptic_ros.ros.messages.images.image_layout`, which raises ValueError for
        another one.
    """
    layout = image_layout(array)
    fields = header + struct.pack('=2I', layout.height, layout.width) + _text(layout.encoding)
    fields = _aligned(fields + bytes([sys.byteorder == 'big']))
    fields += struct.pack('=2I', layout.step, array.nbytes)
    return b''.join((fields, np.ascontiguousarray(array).data.cast('B')))


def point_cloud_cdr(header: bytes, fields: Sequence[PointField], points: np.ndarray) -> bytes:
    """Return a serialised PointCloud2, organised and not dense, with one copy of the points.

    Parameters
    ----------
    header
        From :func:`header_cdr`.
    fields
        Fields of a point.
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
    """Return a serialised nav_msgs/OccupancyGrid, with the stamp of the header as load time.

    Parameters
    ----------
    header
        Header of the message.
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
    """Return a serialised MarkerArray that adds some markers, then deletes others.

    Parameters
    ----------
    header
        Header of all markers, from :func:`header_cdr`.
    lifetime
        Lifetime of the added markers.
    shown
        Markers to add or modify.
    gone
        Namespace and number of the markers to delete.
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
