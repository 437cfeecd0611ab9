"""Checks of JPEG and PNG headers before anything is decoded.

A few hundred bytes can declare a picture of gigabytes or cause hours of work, and decoders obey
them.
"""

import re
import struct

from panoptic_ros.errors import FrameError

MAX_PIXELS = 8192 * 4096
"""More than an 8K camera has."""

MAX_EXPANSION = 2048
"""Pixels for each byte sent: deflate reaches 1032 of grey, a JPEG without detail about 700."""

MAX_SCANS = 64
"""Scans of a progressive JPEG: encoders write about ten, each costs a pass over the picture."""

_PNG = b'\x89PNG\r\n\x1a\n'
_JPEG = b'\xff\xd8\xff'
_END_OF_IMAGE, _START_OF_SCAN = b'\xff\xd9', b'\xff\xda'
# Markers: https://www.w3.org/Graphics/JPEG/itu-t81.pdf, table B.1. Bytes that decoders skip before
# the next marker are skipped here too.
_MARKER = re.compile(rb'\xff+([^\x00\xff])', re.DOTALL)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})


def check_compressed(data: bytes) -> tuple[int, int]:
    """Return the width and height that a whole JPEG or PNG declares.

    Raises FrameError for other formats, for files that are cut short, for more than
    :data:`MAX_PIXELS`, and for more pixels than the number of bytes can encode.
    """
    if data.startswith(_PNG):
        width, height = _png_size_wh(data)
    elif data.startswith(_JPEG):
        width, height = _jpeg_size_wh(data)
    else:
        raise FrameError(f'{len(data)} bytes of something else than JPEG or PNG')
    what = f'{len(data)} bytes that declare a picture of {width}x{height}'
    if not width or not height:
        raise FrameError(f'{what}, which has no pixels; accepted is 1x1 and larger')
    if width * height > MAX_PIXELS:
        raise FrameError(f'{what}; accepted are {MAX_PIXELS / 1e6:.1f} million pixels at most')
    if width * height > MAX_EXPANSION * len(data):
        raise FrameError(f'{what}; so many pixels are not in so few bytes: damaged JPEG or PNG')
    return width, height


def _png_size_wh(data: bytes) -> tuple[int, int]:
    # The decoder allocates as many bytes as a chunk declares.
    size_wh: tuple[int, int] | None = None
    at, kind = len(_PNG), b''
    while kind != b'IEND':
        if at + 12 > len(data):
            raise _damaged('PNG', data, 'it ends before its last chunk')
        length, kind = struct.unpack_from('>I4s', data, at)
        at += 12 + length
        if at > len(data):
            raise _damaged('PNG', data, f'a chunk says it has {length} bytes')
        if size_wh is None:
            if kind != b'IHDR' or length != 13:
                raise _damaged('PNG', data, 'it does not begin with a header')
            width, height = struct.unpack_from('>II', data, at - 17)
            size_wh = width, height
    if size_wh is None:
        raise _damaged('PNG', data, 'it has no header')
    return size_wh


def _jpeg_size_wh(data: bytes) -> tuple[int, int]:
    size_wh, at = None, 2
    while True:
        marker = _MARKER.search(data, at)
        if marker is None or marker.end() + 2 > len(data):
            raise _damaged('JPEG', data, 'it ends before its pixels begin')
        code, at = marker[1][0], marker.end()
        if code in _ALONE:
            continue
        if code == _START_OF_SCAN[1]:
            break
        if code in _FRAMES:
            if size_wh is not None or at + 7 > len(data):
                raise _damaged('JPEG', data, 'it has two headers, or half of one')
            height, width = struct.unpack_from('>HH', data, at + 3)
            size_wh = width, height
        at += struct.unpack_from('>H', data, at)[0]
    if size_wh is None:
        raise _damaged('JPEG', data, 'it has no header')
    # In pixel data a byte 255 is never followed by one of these.
    if data.find(_END_OF_IMAGE, at) < 0:
        raise _damaged('JPEG', data, 'it ends before the picture does')
    scans = 1 + data.count(_START_OF_SCAN, at)
    if scans > MAX_SCANS:
        raise _damaged('JPEG', data, f'it has {scans} scans, accepted are {MAX_SCANS}')
    return size_wh


def _damaged(kind: str, data: bytes, why: str) -> FrameError:
    return FrameError(f'{len(data)} bytes that are damaged JPEG or PNG: a {kind}, {why}')
