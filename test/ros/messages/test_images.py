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


@pytest.mark.parametrize('encoding', ['BGR8', 'Bgr8', 'bgr8'])
def test_names_of_encodings_have_no_case(encoding: str) -> None:
    assert decode_image(raw(encoding, 1, 1, bytes([1, 2, 3]))).pixels.tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize('big_endian', [False, True])
@pytest.mark.parametrize('pad', [0, 2])
@pytest.mark.parametrize(
    ('encoding', 'channels', 'order'),
    [
        ('mono16', 1, [0]),
        ('16UC1', 1, [0]),
        ('bgr16', 3, [0, 1, 2]),
        ('rgb16', 3, [2, 1, 0]),
        ('bgra16', 4, [0, 1, 2]),
        ('rgba16', 4, [2, 1, 0]),
    ],
)
def test_16_bits_are_scaled_to_8(
    encoding: str, channels: int, order: list[int], pad: int, big_endian: bool
) -> None:
    values = np.array([0, 1000, 2000, 65535], np.uint16)[:channels]
    data = values.astype(np.dtype(np.uint16).newbyteorder('<>'[big_endian])).tobytes()
    message = raw(encoding, 1, 1, data + b'\xff' * pad)
    message.is_bigendian = int(big_endian)
    full = np.array([0, 4, 8, 255])  # 1000 / 257 and 2000 / 257
    chosen = np.array([0, 128, 255, 255])  # 500 is black, 1500 is white
    for levels, expected in (((0, 65535), full), ((500, 1500), chosen)):
        pixel = decode_image(message, levels).bgr()[0, 0]
        assert pixel.tolist() == np.resize(expected[order], 3).tolist()


@pytest.mark.parametrize('encoding', ['nv12', 'nv21', 'nv24', 'yuv420'])
@pytest.mark.parametrize('pad', [0, 4])
def test_planar_yuv(encoding: str, pad: int) -> None:
    # BT.601, limited range: red is Y 81, U 90, V 240; grey is 126, 128, 128.
    red, grey, u, v = 81, 126, (90, 128), (240, 128)
    luma = np.array([[red, red, grey, grey]] * 2, np.uint8)
    chroma = {
        'nv12': [[u[0], v[0], u[1], v[1]]],
        'nv21': [[v[0], u[0], v[1], u[1]]],
        'nv24': [[u[0], v[0], u[0], v[0]], [u[1], v[1], u[1], v[1]]] * 2,
        'yuv420': [[*u, *v]],
    }[encoding]
    rows = np.pad(np.vstack([luma, np.array(chroma, np.uint8)]), ((0, 0), (0, pad)))
    message = raw(encoding, 4, 2, rows.tobytes(), step=4 + pad)
    picture = decode_image(message)
    assert picture.encoding == 'bgr8'
    assert abs(picture.pixels[:, :2].astype(int) - [0, 0, 255]).max() <= 3
    assert abs(picture.pixels[:, 2:].astype(int) - 128).max() <= 3


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_compressed_mosaics_are_demosaiced(pattern: str, bits: int) -> None:
    data = np.random.default_rng(3).integers(0, 1 << bits, (12, 16), f'u{bits // 8}')
    expected = decode_image(raw(f'bayer_{pattern}{bits}', 16, 12, data.tobytes()))
    message = CompressedImage(
        format=f'bayer_{pattern}{bits}; png compressed ',
        data=cv2.imencode('.png', data)[1].tobytes(),
    )
    found = decode_compressed_image(message)
    assert found.encoding == 'bgr8'
    assert np.array_equal(found.pixels, expected.pixels)


@pytest.mark.parametrize(
    ('image_format', 'is_rgb'),
    [
        ('rgb8; png compressed rgb8', True),
        ('rgb8; png compressed bgr8', False),
        ('bgr8; png compressed rgb8', True),
        ('RGB8; PNG compressed RGB8', True),
        ('png', False),
        ('', False),
    ],
)
def test_compressed_channels_are_in_the_order_of_the_format(
    image_format: str, is_rgb: bool
) -> None:
    data = cv2.imencode('.png', np.array([[[1, 2, 3]]], np.uint8))[1].tobytes()
    picture = decode_compressed_image(CompressedImage(format=image_format, data=data))
    assert picture.bgr().tolist() == [[[3, 2, 1] if is_rgb else [1, 2, 3]]]


def test_compressed_16_bits_are_scaled_to_8() -> None:
    data = cv2.imencode('.png', np.array([[0, 1000, 65535]], np.uint16))[1].tobytes()
    message = CompressedImage(format='mono16; png compressed ', data=data)
    assert decode_compressed_image(message).pixels.tolist() == [[0, 4, 255]]
    assert decode_compressed_image(message, (0, 1000)).pixels.tolist() == [[0, 255, 255]]


@pytest.mark.parametrize(
    ('name', 'encoding'),
    [
        *(('BGR', 'bgr8'), ('rgb24', 'rgb8'), ('RGB8Packed', 'rgb8'), ('rgb8 ', 'rgb8')),
        *(('GRAY8', 'mono8'), ('y16', 'mono16'), ('YUY2', 'yuyv'), ('uyvy422', 'uyvy')),
        *(('I420', 'yuv420'), ('BayerRG8', 'bayer_rggb8'), ('BayerGB16', 'bayer_gbrg16')),
    ],
)
def test_names_that_drivers_use_for_encodings(name: str, encoding: str) -> None:
    channels = {'rgb8': 3, 'bgr8': 3, 'yuyv': 2, 'uyvy': 2}.get(encoding, 1)
    width, rows, item = 4, 3 if encoding == 'yuv420' else 2, 2 if '16' in encoding else 1
    data = np.random.default_rng(1).bytes(width * channels * rows * item)
    expected = decode_image(raw(encoding, width, 2, data, step=width * channels * item))
    found = decode_image(raw(name, width, 2, data, step=width * channels * item))
    assert found.encoding == expected.encoding
    assert np.array_equal(found.pixels, expected.pixels)


@pytest.mark.parametrize('codec', ['jpeg', 'MJPG', 'h264'])
def test_a_codec_is_no_encoding_of_a_raw_image(codec: str) -> None:
    words = f"encoding '{codec}' is a codec; .* image_transport set to compressed"
    with pytest.raises(FrameError, match=words):
        decode_image(raw(codec, 2, 1, bytes(9)))


class StubBridge:
    """Stands in for the module cv_bridge: knows one encoding more."""

    class CvBridgeError(Exception):
        """What it raises for an encoding it does not know."""

    class CvBridge:
        def imgmsg_to_cv2(self, message: Image, desired_encoding: str) -> np.ndarray:
            assert desired_encoding == 'bgr8'
            if message.encoding != 'new8':
                raise StubBridge.CvBridgeError(f'[{message.encoding}] is not a\ncolor format')
            return np.full((message.height, message.width, 3), 7, np.uint8)


def test_cv_bridge_decodes_what_is_not_in_the_table() -> None:
    picture = decode_image(raw('new8', 2, 1, bytes(2)), bridge=StubBridge)
    assert (picture.encoding, picture.pixels.tolist()) == ('bgr8', [[[7, 7, 7]] * 2])
    with pytest.raises(FrameError, match=r"'new9' is not a camera image: cv_bridge says \[new9\]"):
        decode_image(raw('new9', 2, 1, bytes(2)), bridge=StubBridge)


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_agrees_with_cv_bridge(encoding: str) -> None:
    bridge = pytest.importorskip('cv_bridge', reason='cv_bridge is not installed')
    four = ('bgra8', 'rgba8', 'bgra16', 'rgba16', '8UC4', '16UC4')
    three = ('bgr8', 'rgb8', 'bgr16', 'rgb16', '8UC3', '16UC3')
    two = ('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv')
    channels = dict.fromkeys(four, 4) | dict.fromkeys(three, 3) | dict.fromkeys(two, 2)
    width = 16 * channels.get(encoding, 1)
    rows = {'nv12': 18, 'yuv420': 18, 'nv21': 18, 'nv24': 36}.get(encoding, 12)
    dtype = np.uint16 if '16' in encoding else np.uint8
    rng = np.random.default_rng(4)
    data = rng.integers(0, np.iinfo(dtype).max, (rows, width), dtype, endpoint=True)
    message = raw(encoding, 16, 12, data.tobytes(), step=data.strides[0])
    try:
        expected = bridge.CvBridge().imgmsg_to_cv2(message, 'bgr8')
    except bridge.CvBridgeError as error:  # 8UC3 has no colours for it, and nv12 is newer
        pytest.skip(f'cv_bridge refuses it: {error}')
    assert np.array_equal(decode_image(message).bgr(), expected)


def test_what_cv_bridge_refuses_is_one_sentence() -> None:
    bridge = pytest.importorskip('cv_bridge', reason='cv_bridge is not installed')
    with pytest.raises(FrameError, match=r"'new9' is not a camera image: cv_bridge says .*new9"):
        decode_image(raw('new9', 2, 1, bytes(2)), bridge=bridge)


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_agrees_with_rosbags_image(encoding: str) -> None:
    rosbags = pytest.importorskip('rosbags.image', reason='rosbags-image is not installed')
    channels = {'bgr8': 3, 'rgb8': 3, '8UC3': 3, 'bgra8': 4, 'rgba8': 4, '8UC4': 4}
    channels |= dict.fromkeys(('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'), 2)
    if '16' in encoding or encoding.startswith(('nv', 'yuv420')):
        pytest.skip('decoded by value in other tests')
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
        (raw('mono16', 2, 1, bytes(4), step=3), ['step 3', '4 bytes']),
        (
            raw('nv12', 4, 2, bytes(8), step=4),
            ['8 bytes', 'expected 12', '* 1.5'],
        ),
        (raw('nv21', 4, 3, bytes(18), step=4), ['4x3', 'odd']),
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
    encoding=st.sampled_from([*ENCODINGS, '32FC1', 'nonsense']),
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
