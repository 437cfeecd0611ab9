"""Read and change the fields of serialised messages that a benchmark needs, without a copy.

The format is CDR with its four bytes of encapsulation (OMG DDS-XTypes 1.3, 7.4.3): numbers of
four bytes lie at multiples of four.
"""

import struct
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from panoptic_ros.errors import BagError

_HEADER = 'std_msgs/Header'


class FrameKey(NamedTuple):
    """The content of a std_msgs/Header; two headers are equal if their keys are."""

    sec: int
    nanosec: int
    frame_id: str

    @property
    def stamp_ns(self) -> int:
        """The stamp in nanoseconds."""
        return self.sec * 1_000_000_000 + self.nanosec


def frame_key(header: Any) -> FrameKey:
    """Return the content of a std_msgs/Header."""
    return FrameKey(header.stamp.sec, header.stamp.nanosec, header.frame_id)


def header_key(data: bytes, at: int = 4) -> FrameKey:
    """Return the header that begins at byte ``at``; raises BagError for a message cut short."""
    sec, nanosec, size = _unpack('iII', data, at)
    text = data[at + 12 : at + 12 + size].rstrip(b'\0')
    return FrameKey(sec, nanosec, text.decode('utf-8', 'replace'))


def header_stamp_ns(data: bytes) -> int:
    """Return the stamp, nanoseconds, of a message that begins with a std_msgs/Header.

    Raises BagError for a message cut short.
    """
    sec, nanosec = _unpack('iI', data, 4)
    return sec * 1_000_000_000 + nanosec


def with_header_stamp(data: bytes, stamp_ns: int) -> bytes:
    """Return a message that begins with a std_msgs/Header, with another stamp.

    Raises BagError for a stamp that a header cannot hold.
    """
    sec, nanosec = divmod(stamp_ns, 1_000_000_000)
    if not -(2**31) <= sec < 2**31:
        raise BagError(f'stamp {sec} s does not fit into a header; expected less than 2**31 s')
    return b''.join((data[:4], struct.pack(_byte_order(data) + 'iI', sec, nanosec), data[12:]))


def image_encoding(data: bytes) -> str:
    """Return the encoding of a sensor_msgs/Image; raises BagError for a message cut short."""
    return _text_after_header(data, 8)  # after height and width


def compressed_format(data: bytes) -> str:
    """Return the format of a sensor_msgs/CompressedImage; raises BagError as image_encoding."""
    return _text_after_header(data, 0)


def _text_after_header(data: bytes, skipped: int) -> str:
    (frame_id_size,) = _unpack('I', data, 12)
    at = 16 + frame_id_size + -frame_id_size % 4 + skipped
    (size,) = _unpack('I', data, at)
    return data[at + 4 : at + 4 + size].rstrip(b'\0').decode('ascii', 'replace')


def message_class(message_type: str) -> type:
    """Return the class of ``package/msg/Type``; raises BagError if it is not installed."""
    package, _, name = message_type.partition('/msg/')
    try:
        return getattr(import_module(f'{package}.msg'), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise BagError(
            f'message type {message_type} is not installed; install the ROS package {package}'
        ) from error


def type_name(message_class: type) -> str:
    """Return ``package/msg/Type`` of a message class."""
    return f'{message_class.__module__.split(".")[0]}/msg/{message_class.__name__}'


def begins_with_header(message_class: Any) -> bool:
    """Return whether the first field of a message class is a std_msgs/Header."""
    fields = message_class.get_fields_and_field_types()
    return next(iter(fields.values()), '') == _HEADER


def key_reader(message_class: type) -> Callable[[bytes], FrameKey | None]:
    """Return a function that reads the header of serialised messages of a class.

    For a MarkerArray it is the first marker's header, None for an empty array. Raises BagError
    for a class without a header.
    """
    if begins_with_header(message_class):
        return header_key
    if message_class.__name__ == 'MarkerArray':
        return _first_marker_key
    raise BagError(
        f'messages of {message_class.__name__} have no header and cannot be matched to an image'
    )


def _first_marker_key(data: bytes) -> FrameKey | None:
    (count,) = _unpack('I', data, 4)
    return header_key(data, 8) if count else None  # the first marker begins with its header


def _byte_order(data: bytes) -> str:
    return '<' if data[1] & 1 else '>'


def _unpack(layout: str, data: bytes, at: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(_byte_order(data) + layout, data, at)
    except (struct.error, IndexError) as error:
        raise BagError(
            f'a message of {len(data)} bytes is cut off; expected a header at its beginning'
        ) from error
