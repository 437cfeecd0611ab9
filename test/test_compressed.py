"""Whole pictures pass; whatever would make a decoder take memory or time for nothing does not."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_ros.compressed import MAX_SCANS, check_compressed
from panoptic_ros.errors import FrameError

SMOOTH = np.full((24, 40, 3), (10, 120, 200), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
FLAGS = {
    'jpeg': ('.jpg', []),
    'jpeg, progressive': ('.jpg', [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    'jpeg, restarts': ('.jpg', [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]),
    'png': ('.png', []),
}


def encode(image: np.ndarray, kind: str = 'jpeg') -> bytes:
    extension, flags = FLAGS[kind]
    good, data = cv2.imencode(extension, image, flags)
    assert good
    return data.tobytes()


def chunk(kind: bytes, content: bytes = b'') -> bytes:
    checksum = struct.pack('>I', zlib.crc32(kind + content))
    return struct.pack('>I', len(content)) + kind + content + checksum


def png(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        [chunk(b'IHDR', header), chunk(b'IDAT', zlib.compress(rows)), chunk(b'IEND')]
    )


def jpeg_of(width: int, height: int, data: bytes = b'') -> bytes:
    data = data or encode(NOISE)
    at = next(
        data.index(b'\xff' + bytes([c])) for c in (0xC0, 0xC2) if b'\xff' + bytes([c]) in data
    )
    return data[: at + 5] + struct.pack('>HH', height, width) + data[at + 9 :]


@pytest.mark.parametrize('kind', FLAGS)
@pytest.mark.parametrize('image', [SMOOTH, NOISE, NOISE[..., 0], NOISE[:1, :1]])
def test_pictures_pass(kind: str, image: np.ndarray) -> None:
    assert check_compressed(encode(image, kind)) == image.shape[1::-1]


@pytest.mark.parametrize('kind', FLAGS)
def test_black_as_large_as_is_accepted(kind: str) -> None:
    assert check_compressed(encode(np.zeros((4096, 8192), np.uint8), kind)) == (8192, 4096)


@pytest.mark.parametrize('kind', ['jpeg', 'png'])
def test_what_follows_the_picture_does_not_matter(kind: str) -> None:
    assert check_compressed(encode(NOISE, kind) + bytes(100)) == (40, 24)


@pytest.mark.parametrize('kind', FLAGS)
def test_no_part_of_a_picture_passes(kind: str) -> None:
    data = encode(NOISE, kind)
    for length in range(len(data)):
        with pytest.raises(FrameError):
            check_compressed(data[:length])


@pytest.mark.parametrize(
    ('data', 'words'),
    [
        (png(20000, 20000, b''), ['20000x20000', '33.6 million pixels at most']),
        (png(8192, 4096, b''), ['8192x4096', 'so few bytes']),
        (png(0, 5, b''), ['0x5', 'no pixels']),
        (jpeg_of(30000, 30000), ['30000x30000', '33.6 million']),
        (jpeg_of(5000, 5000), ['5000x5000', 'so few bytes']),
        (jpeg_of(0, 24), ['0x24', 'no pixels']),
        (png(4, 4, b'')[:33] + b'\x7f\xff\xff\xffIDAT' + bytes(9), ['2147483647 bytes']),
        (b'\x89PNG\r\n\x1a\n' + chunk(b'IEND'), ['does not begin with a header']),
        (encode(NOISE)[:-2], ['ends before the picture does']),
        (encode(NOISE) + b'\xff\xda' * MAX_SCANS, [f'{MAX_SCANS + 1} scans']),
        (encode(NOISE)[:2] + jpeg_of(9, 9)[2:160], ['before its pixels begin']),
        (b'BM' + bytes(60), ['62 bytes of something else than JPEG or PNG']),
        (b'', ['0 bytes of something else']),
    ],
)
def test_what_is_refused_and_how(data: bytes, words: list[str]) -> None:
    with pytest.raises(FrameError) as caught:
        check_compressed(data)
    for word in words:
        assert word in str(caught.value)


def test_two_headers() -> None:
    data = encode(NOISE)
    at = data.index(b'\xff\xc0')
    frame = data[at : at + 2 + struct.unpack_from('>H', data, at + 2)[0]]
    with pytest.raises(FrameError, match='two headers'):
        check_compressed(data[:at] + frame + data[at:])


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(sorted(FLAGS)),
    edits=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_the_decoder_finds_the_size_that_was_declared(
    kind: str, edits: list[tuple[int, int]]
) -> None:
    """Damage anywhere: if both take it, they mean the same picture."""
    data = bytearray(encode(NOISE, kind))
    for at, value in edits:
        data[at % len(data)] = value
    try:
        size_wh = check_compressed(bytes(data))
    except FrameError:
        return
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_IGNORE_ORIENTATION)
    assert pixels is None or pixels.shape[1::-1] == size_wh
