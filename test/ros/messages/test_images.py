import array

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from builtin_interfaces.msg import Time
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from panoptic_ros.errors import FrameError
from panoptic_ros.ros.messages import (
    ENCODINGS,
    decode_compressed_image,
    decode_image,
    image_message,
)

HEADER = Header(stamp=Time(sec=7, nanosec=8), frame_id='camera_optical')


# One row of two pixels: red-ish and blue-ish, as (R, G, B).
FIRST, SECOND = (200, 30, 10), (20, 60, 180)


def raw(encoding: str, width: int, height: int, data: bytes, step: int | None = None) -> Image:
    return Image(
        header=HEADER,
        height=height,
        width=width,
        encoding=encoding,
        step=len(data) // max(height, 1) if step is None else step,
        data=array.array('B', data),
    )


def bgr(*pixels: tuple[int, int, int]) -> list[list[int]]:
    return [list(pixel[::-1]) for pixel in pixels]


@pytest.mark.parametrize(
    ('encoding', 'data'),
    [
        ('bgr8', FIRST[::-1] + SECOND[::-1]),
        ('8UC3', FIRST[::-1] + SECOND[::-1]),
        ('rgb8', FIRST + SECOND),
        ('bgra8', (*FIRST[::-1], 255, *SECOND[::-1], 0)),
        ('8UC4', (*FIRST[::-1], 255, *SECOND[::-1], 0)),
        ('rgba8', (*FIRST, 255, *SECOND, 0)),
    ],
)
def test_colour_encodings(encoding: str, data: tuple[int, ...]) -> None:
    picture = decode_image(raw(encoding, 2, 1, bytes(data)))
    assert picture.bgr().tolist() == [bgr(FIRST, SECOND)]
    assert picture.size_wh == (2, 1)


@pytest.mark.parametrize('encoding', ['mono8', '8UC1'])
def test_grey_stays_grey(encoding: str) -> None:
    picture = decode_image(raw(encoding, 2, 1, bytes([10, 200])))
    assert picture.encoding == 'mono8'
    assert picture.pixels.tolist() == [[10, 200]]
    assert picture.bgr().tolist() == [[[10] * 3, [200] * 3]]


@pytest.mark.parametrize(
    ('encoding', 'order'),
    [('yuv422', 'UYVY'), ('uyvy', 'UYVY'), ('yuv422_yuy2', 'YUYV'), ('yuyv', 'YUYV')],
)
def test_yuv422_byte_order(encoding: str, order: str) -> None:
    # BT.601 limited range: white has Y 235, black Y 16, and neutral colour is 128.
    values = {'U': iter([128]), 'V': iter([128]), 'Y': iter([235, 16])}
    data = bytes(next(values[letter]) for letter in order)
    pixels = decode_image(raw(encoding, 2, 1, data)).pixels
    assert pixels[0, 0].min() >= 254
    assert pixels[0, 1].max() <= 1


@pytest.mark.parametrize(
    ('encoding', 'pattern'),
    [
        ('bayer_rggb8', 'RGGB'),
        ('bayer_bggr8', 'BGGR'),
        ('bayer_gbrg8', 'GBRG'),
        ('bayer_grbg8', 'GRBG'),
    ],
)
@pytest.mark.parametrize('colour', ['R', 'G', 'B'])
def test_bayer_patterns(encoding: str, pattern: str, colour: str) -> None:
    cell = np.array([255 if letter == colour else 0 for letter in pattern], np.uint8)
    mosaic = np.tile(cell.reshape(2, 2), (4, 4))
    pixels = decode_image(raw(encoding, 8, 8, mosaic.tobytes())).pixels
    seen = pixels[2:6, 2:6].reshape(-1, 3).mean(axis=0)
    expected = {'R': (0, 0, 255), 'G': (0, 255, 0), 'B': (255, 0, 0)}[colour]
    assert seen.tolist() == pytest.approx(expected)


def test_rows_may_be_padded_and_are_not_copied() -> None:
    message = raw('bgr8', 1, 2, bytes([1, 2, 3, 9, 9, 4, 5, 6, 9, 9]))
    pixels = decode_image(message).pixels
    assert pixels.tolist() == [[[1, 2, 3]], [[4, 5, 6]]]
    message.data[0] = 77
    assert pixels[0, 0, 0] == 77


@pytest.mark.parametrize('encoding', ['bgra8', 'yuv422', 'bayer_rggb8', 'mono8', 'rgb8'])
def test_padding_does_not_change_what_is_decoded(encoding: str) -> None:
    channels = {'bgra8': 4, 'yuv422': 2, 'rgb8': 3}.get(encoding, 1)
    rows = np.random.default_rng(5).integers(0, 256, (6, 8 * channels), np.uint8)
    padded = np.pad(rows, ((0, 0), (0, 7)), constant_values=99)
    expected = decode_image(raw(encoding, 8, 6, rows.tobytes()))
    assert np.array_equal(
        decode_image(raw(encoding, 8, 6, padded.tobytes())).pixels, expected.pixels
    )


def test_byte_order_flag_has_no_meaning_for_bytes() -> None:
    message = raw('mono8', 2, 1, bytes([1, 2]))
    message.is_bigendian = 1
    assert decode_image(message).pixels.tolist() == [[1, 2]]


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_agrees_with_rosbags_image(encoding: str) -> None:
    rosbags = pytest.importorskip('rosbags.image', reason='rosbags-image is not installed')
    channels = {'bgr8': 3, 'rgb8': 3, '8UC3': 3, 'bgra8': 4, 'rgba8': 4, '8UC4': 4}
    channels |= dict.fromkeys(('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'), 2)
    shape = (12, 16 * channels.get(encoding, 1))
    data = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    message = raw(encoding, 16, 12, data.tobytes())
    # It has no opinion on the colours of OpenCV's types.
    message.encoding = {'8UC1': 'mono8', '8UC3': 'bgr8', '8UC4': 'bgra8'}.get(encoding, encoding)
    expected = rosbags.message_to_cvimage(message, 'bgr8')
    message.encoding = encoding
    assert np.array_equal(decode_image(message).bgr(), expected)


@pytest.mark.parametrize(
    ('message', 'words'),
    [
        (raw('32FC1', 2, 1, bytes(8)), ["'32FC1'", 'bgr8', 'mono8']),
        (raw('mono16', 2, 1, bytes(4)), ["'mono16'", 'bgr8']),
        (raw('16UC1', 2, 1, bytes(4)), ["'16UC1'", '8-bit']),
        (raw('', 2, 1, bytes(6)), ["''", 'bgr8']),
        (raw('bgr8', 0, 1, bytes(6)), ['0x1', '1x1']),
        (raw('bgr8', 1, 0, bytes(6)), ['1x0', '1x1']),
        (raw('bgr8', 2, 1, b'', step=6), ['2x1', 'no data']),
        (raw('bgr8', 2, 1, bytes(6), step=5), ['step 5', '6 bytes']),
        (raw('bgr8', 2, 1, bytes(6), step=0), ['step 0', '6 bytes']),
        (raw('bgr8', 2, 2, bytes(11), step=6), ['11 bytes', 'expected 12']),
        (raw('bgr8', 2, 2, bytes(13), step=6), ['13 bytes', 'expected 12']),
        (raw('yuv422', 3, 1, bytes(6)), ['3x1', 'odd']),
        (raw('mono8', 2**32 - 1, 2**32 - 1, bytes(6), step=2**32 - 1), ['6 bytes']),
    ],
)
def test_what_is_refused_and_how(message: Image, words: list[str]) -> None:
    with pytest.raises(FrameError) as caught:
        decode_image(message)
    for word in words:
        assert word in str(caught.value)
    assert '\n' not in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(
    encoding=st.sampled_from([*ENCODINGS, 'mono16', '32FC1', 'nonsense']),
    width=st.integers(0, 9),
    height=st.integers(0, 9),
    step=st.integers(0, 40),
    length=st.integers(0, 400),
)
def test_any_message_is_decoded_or_refused(
    encoding: str, width: int, height: int, step: int, length: int
) -> None:
    message = raw(encoding, width, height, bytes(length), step)
    try:
        picture = decode_image(message)
    except FrameError:
        return
    assert picture.size_wh == (width, height)
    assert length == step * height
    assert picture.bgr().shape == (height, width, 3)


def compressed(extension: str, pixels: np.ndarray) -> CompressedImage:
    good, data = cv2.imencode(extension, pixels)
    assert good
    return CompressedImage(
        header=HEADER, format=extension[1:], data=array.array('B', data.tobytes())
    )


def test_compressed_pictures() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
    colour = decode_compressed_image(compressed('.png', pixels))
    assert colour.encoding == 'bgr8'
    assert np.array_equal(colour.pixels, pixels)
    grey = decode_compressed_image(compressed('.png', pixels[..., 0]))
    assert grey.encoding == 'mono8'
    assert np.array_equal(grey.pixels, pixels[..., 0])
    smooth = np.full((16, 16, 3), (10, 120, 200), np.uint8)
    jpeg = decode_compressed_image(compressed('.jpg', smooth))
    assert np.abs(jpeg.pixels.astype(int) - smooth).max() <= 3
    with_alpha = np.dstack([pixels, pixels[..., 0]])
    assert np.array_equal(decode_compressed_image(compressed('.png', with_alpha)).pixels, pixels)


@pytest.mark.parametrize(
    ('message', 'words'),
    [
        (CompressedImage(format='jpeg'), ["'jpeg'", 'no data', 'JPEG or PNG']),
        (CompressedImage(format='h264', data=array.array('B', bytes(9))), ["'h264'", '9 bytes']),
        (compressed('.bmp', np.zeros((2, 2, 3), np.uint8)), ["'bmp'", 'JPEG or PNG']),
        (compressed('.png', np.zeros((2, 2), np.uint16)), ['uint16', '8 bits']),
        (CompressedImage(format='jpeg', data=array.array('B', b'\xff\xd8\xff' * 9)), ['damaged']),
    ],
)
def test_compressed_pictures_that_are_refused(message: CompressedImage, words: list[str]) -> None:
    with pytest.raises(FrameError) as caught:
        decode_compressed_image(message)
    for word in words:
        assert word in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(
    start=st.sampled_from([b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n', b'']),
    rest=st.binary(max_size=200),
)
def test_any_compressed_bytes_are_decoded_or_refused(start: bytes, rest: bytes) -> None:
    message = CompressedImage(format='?', data=array.array('B', start + rest))
    try:
        picture = decode_compressed_image(message)
    except FrameError:
        return
    assert picture.pixels.dtype == np.uint8


@pytest.mark.parametrize(
    ('pixels', 'encoding', 'step'),
    [
        (np.array([[1, 2, 255]], np.uint8), 'mono8', 3),
        (np.array([[1, 258, 65535]], np.uint16), '16UC1', 6),
        (np.array([[1, -2, 255 << 16]], np.int32), '32SC1', 12),
        (np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8), 'bgr8', 6),
    ],
)
def test_arrays_become_messages(pixels: np.ndarray, encoding: str, step: int) -> None:
    message = image_message(pixels, HEADER)
    assert (message.encoding, message.step) == (encoding, step)
    assert (message.height, message.width) == pixels.shape[:2]
    assert message.header is HEADER
    back = np.frombuffer(message.data, pixels.dtype).reshape(pixels.shape)
    assert np.array_equal(back, pixels)
    assert message.is_bigendian == (np.array(1, np.uint16).tobytes() == b'\x00\x01')


def test_rosbags_image_reads_what_we_write() -> None:
    rosbags = pytest.importorskip('rosbags.image', reason='rosbags-image is not installed')
    for dtype in (np.uint8, np.uint16, np.int32):
        pixels = np.arange(12).reshape(3, 4).astype(dtype) * 7
        assert np.array_equal(rosbags.message_to_cvimage(image_message(pixels, HEADER)), pixels)


def test_views_become_messages_too() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)[:, ::2]
    message = image_message(pixels, HEADER)
    assert message.step == 3
    assert bytes(message.data) == pixels.tobytes()


@pytest.mark.parametrize(
    'pixels', [np.zeros((2, 2), np.float32), np.zeros((2, 2, 4), np.uint8), np.zeros(4, np.uint8)]
)
def test_other_arrays_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=str(pixels.dtype)):
        image_message(pixels, HEADER)
