import array
import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Pose, PoseWithCovariance, Vector3
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from panoptic_ros.errors import FrameError
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Segments
from panoptic_ros.ros import messages
from panoptic_ros.ros.messages import (
    ENCODINGS,
    check_camera_info,
    decode_compressed_image,
    decode_depth,
    decode_image,
    fit_camera,
    fit_camera_info,
    fit_depth,
    image_message,
)
from panoptic_ros.scene.geometry import CameraModel, GroundPlane, PlacedBy, Placement, place_boxes

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


def camera_info(**changes: object) -> CameraInfo:
    info = CameraInfo(
        width=640,
        height=480,
        distortion_model='plumb_bob',
        d=[0.1, 0.0, 0.0, 0.0, 0.0],
        k=[500.0, 0.0, 319.5, 0.0, 400.0, 239.5, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[500.0, 0.0, 319.5, -50.0, 0.0, 400.0, 239.5, 0.0, 0.0, 0.0, 1.0, 0.0],
    )
    for name, value in changes.items():
        setattr(info, name, value)
    return info


def test_camera_info_of_the_images_size_only_gets_the_header() -> None:
    info = camera_info()
    fitted = fit_camera_info(info, HEADER, (640, 480))
    assert fitted.header is HEADER
    fitted.header = info.header
    assert fitted == info


def test_camera_info_scales() -> None:
    fitted = fit_camera_info(camera_info(), HEADER, (320, 480))
    assert (fitted.width, fitted.height) == (320, 480)
    assert fitted.k.tolist() == [250.0, 0.0, 159.5, 0.0, 400.0, 239.5, 0.0, 0.0, 1.0]
    assert fitted.p.tolist()[:8] == [250.0, 0.0, 159.5, -25.0, 0.0, 400.0, 239.5, 0.0]
    assert fitted.d.tolist() == camera_info().d.tolist()


def test_camera_info_of_a_cropped_and_binned_image() -> None:
    roi = RegionOfInterest(x_offset=120, y_offset=40, width=400, height=200)
    info = camera_info(roi=roi, binning_x=2, binning_y=2)
    fitted = fit_camera_info(info, HEADER, (200, 100))
    # The pixel of the full image at the principal point, cropped, then two pixels to one.
    assert fitted.k.tolist() == [250.0, 0.0, 99.5, 0.0, 200.0, 99.5, 0.0, 0.0, 1.0]
    assert (fitted.binning_x, fitted.roi.width) == (0, 0)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'k': [math.nan, *[0.0] * 8]}, ['camera_info.k', 'nan', 'finite']),
        ({'d': [math.inf]}, ['camera_info.d', 'inf']),
        ({'p': [math.nan] * 12}, ['camera_info.p']),
        ({'k': [0.0] * 9}, ['focal', '0.0']),
        ({'k': [500.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0]}, ['-1.0', '0.01 pixels']),
        ({'k': [1e300, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]}, ['1e+300', 'up to 1e+09']),
        ({'width': 0}, ['0x480']),
        ({'k': [50.0, 0, 31.5, 0, 50.0, 15.5, 1.0, 0, 0]}, ['[1.0, 0.0, 0.0]', '[0.0, 0.0, 1.0]']),
    ],
)
def test_camera_info_that_cannot_be_used(changes: dict[str, object], words: list[str]) -> None:
    check_camera_info(camera_info())
    with pytest.raises(FrameError) as caught:
        check_camera_info(camera_info(**changes))
    for word in words:
        assert word in str(caught.value)


numbers = st.floats() | st.sampled_from([0.0, 0.01, 1.0, 500.0, -1e9, 1e9])
sizes = st.integers(0, 2**32 - 1) | st.integers(0, 2000)


@settings(max_examples=300, deadline=None)
@given(
    k=st.lists(numbers, min_size=9, max_size=9),
    p=st.lists(numbers, min_size=12, max_size=12),
    size_wh=st.tuples(sizes, sizes),
    roi=st.tuples(sizes, sizes, sizes, sizes),
    image_wh=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
)
def test_any_camera_info_is_refused_or_stays_finite(
    k: list[float],
    p: list[float],
    size_wh: tuple[int, int],
    roi: tuple[int, int, int, int],
    image_wh: tuple[int, int],
) -> None:
    x, y, width, height = roi
    info = camera_info(k=k, p=p, width=size_wh[0], height=size_wh[1])
    info.roi = RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height)
    try:
        check_camera_info(info)
    except FrameError:
        return
    fitted = fit_camera_info(info, HEADER, image_wh)
    assert np.isfinite(fitted.k).all()
    assert np.isfinite(fitted.p).all()
    whole_image = np.array([[0, 0, *image_wh], [0, 0, 1, 1]])
    camera = CameraModel.from_k(fitted.k, image_wh)
    assert fit_camera(info, image_wh) == camera
    placed = place_boxes(whole_image, camera, GroundPlane(1.5, 0.3), np.array([1.7, np.nan]))
    has_place = placed.method > 0
    assert np.isfinite(placed.position_m[has_place]).all()
    assert np.isfinite(placed.size_m[has_place]).all()


def two_things() -> Segments:
    return Segments(
        id=np.array([1, 2], np.uint16),
        class_id=np.array([13, 11], np.uint8),
        is_thing=np.array([True, True]),
        score=np.array([0.75, 0.5], np.float32),
        area=np.array([8, 1], np.int32),
        box_xyxy=np.array([[2, 4, 6, 6], [0, 0, 1, 1]], np.int32),
        track_id=np.array([41, 42], np.int32),
    )


def test_detections() -> None:
    pytest.importorskip('vision_msgs', reason='vision_msgs is not installed')
    names = LabelSet.load('cityscapes').names
    message = messages.detections_message(two_things(), names, HEADER)
    car, person = message.detections
    assert message.header == car.header == HEADER
    assert (car.id, car.results[0].hypothesis.class_id) == ('41', 'car')
    assert car.results[0].hypothesis.score == 0.75
    assert (car.bbox.center.position.x, car.bbox.center.position.y) == (4.0, 5.0)
    assert (car.bbox.size_x, car.bbox.size_y) == (4.0, 2.0)
    assert (person.id, person.bbox.center.position.x, person.bbox.size_x) == ('42', 0.5, 1.0)


def test_label_info_declares_void() -> None:
    pytest.importorskip('vision_msgs', reason='vision_msgs is not installed')
    message = messages.label_info_message(LabelSet.load('cityscapes'), HEADER)
    meaning = {entry.class_id: entry.class_name for entry in message.class_map}
    assert len(meaning) == len(message.class_map) == 20
    assert (meaning[0], meaning[13], meaning[255]) == ('road', 'car', 'void')


def depth_message(
    values: list[list[float]], dtype: str, encoding: str, big_endian: bool = False, pad: int = 0
) -> Image:
    """Return a depth image with ``pad`` bytes after each row."""
    array_2d = np.array(values, dtype).astype(np.dtype(dtype).newbyteorder('<>'[big_endian]))
    data = b''.join(row.tobytes() + b'\xff' * pad for row in array_2d)
    message = raw(encoding, array_2d.shape[1], array_2d.shape[0], data)
    message.is_bigendian = int(big_endian)
    return message


@pytest.mark.parametrize('encoding', ['16UC1', 'mono16'])
@pytest.mark.parametrize('big_endian', [False, True])
@pytest.mark.parametrize('pad', [0, 1, 6])
def test_millimetres_become_metres(encoding: str, big_endian: bool, pad: int) -> None:
    message = depth_message([[1, 0, 256], [65535, 1500, 0]], 'uint16', encoding, big_endian, pad)
    depth_m = decode_depth(message)
    assert depth_m.dtype == np.float32
    expected = np.array([[0.001, np.nan, 0.256], [65.535, 1.5, np.nan]], np.float32)
    assert np.array_equal(depth_m, expected, equal_nan=True)


@pytest.mark.parametrize('big_endian', [False, True])
@pytest.mark.parametrize('pad', [0, 3, 8])
def test_metres_stay_and_what_is_no_depth_becomes_nan(big_endian: bool, pad: int) -> None:
    values = [[1.5, np.nan, np.inf, 1e-3], [-np.inf, 0.0, -2.0, 3e38]]
    depth_m = decode_depth(depth_message(values, 'float32', '32FC1', big_endian, pad))
    expected = np.array([[1.5, np.nan, np.nan, 1e-3], [np.nan, np.nan, np.nan, 3e38]], np.float32)
    assert depth_m.dtype == np.float32
    assert np.array_equal(depth_m, expected, equal_nan=True)


def test_good_metres_are_not_copied_and_a_message_is_never_changed() -> None:
    message = depth_message([[1.0, 2.0]], 'float32', '32FC1')
    assert np.shares_memory(decode_depth(message), np.frombuffer(message.data, np.uint8))
    message = depth_message([[1.0, np.inf]], 'float32', '32FC1')
    before = bytes(message.data)
    decode_depth(message)
    assert bytes(message.data) == before


@pytest.mark.parametrize(
    ('message', 'words'),
    [
        (raw('bgr8', 2, 1, bytes(6)), ["'bgr8' is no depth image", '32FC1, 16UC1, mono16']),
        (raw('64FC1', 1, 1, bytes(8)), ["'64FC1'"]),
        (raw('32FC1', 0, 3, b'', 0), ['32FC1 depth of 0x3 has no pixels']),
        (raw('16UC1', 3, 0, b'', 6), ['3x0 has no pixels']),
        (raw('16UC1', 3, 1, bytes(6), 5), ['step 5', '6 bytes a row']),
        (raw('32FC1', 1, 2, bytes(7), 4), ['7 bytes of data', 'expected 8']),
        (raw('16UC1', 1, 2, b'', 2), ['0 bytes of data', 'expected 4']),
        (raw('16UC1', 2, 1, bytes(4)), ['no pixel with a depth']),
        (depth_message([[np.nan, 0.0, np.inf]], 'float32', '32FC1'), ['no pixel with a depth']),
    ],
)
def test_depth_that_is_refused_and_how(message: Image, words: list[str]) -> None:
    with pytest.raises(FrameError) as caught:
        decode_depth(message)
    for word in words:
        assert word in str(caught.value)


@settings(deadline=None)
@given(
    encoding=st.sampled_from(('32FC1', '16UC1', 'mono16', 'mono8', '')),
    width=st.integers(0, 5),
    height=st.integers(0, 5),
    step=st.integers(0, 24),
    data=st.binary(max_size=120),
    big_endian=st.booleans(),
)
def test_any_depth_message_is_decoded_or_refused(
    encoding: str, width: int, height: int, step: int, data: bytes, big_endian: bool
) -> None:
    message = raw(encoding, width, height, data, step)
    message.is_bigendian = int(big_endian)
    try:
        depth_m = decode_depth(message)
    except FrameError:
        return
    assert (depth_m.shape, depth_m.dtype) == ((height, width), np.float32)
    known = depth_m[~np.isnan(depth_m)]
    assert len(known)
    assert (np.isfinite(known) & (known > 0)).all()


DEPTH_M = np.arange(1, 13, dtype=np.float32).reshape(3, 4)


def small_info(width: int = 4, height: int = 3, **changes: object) -> CameraInfo:
    k = [width, 0.0, (width - 1) / 2, 0.0, height, (height - 1) / 2, 0.0, 0.0, 1.0]
    return camera_info(**{'width': width, 'height': height, 'k': k} | changes)


def test_depth_of_the_images_size_stays_as_it_is() -> None:
    for infos in ((None, None), (small_info(), None), (small_info(), small_info())):
        assert fit_depth(DEPTH_M, (4, 3), *infos) is DEPTH_M


def test_depth_of_another_size_is_resized_by_nearest_neighbour() -> None:
    twice = fit_depth(DEPTH_M, (8, 6), small_info(), small_info(8, 6))
    assert np.array_equal(twice, DEPTH_M.repeat(2, axis=0).repeat(2, axis=1))
    half = fit_depth(twice, (4, 3), small_info(8, 6), small_info())
    assert np.array_equal(half, DEPTH_M)


def shifted(info: CameraInfo, pixels: float) -> CameraInfo:
    info.k[2] += pixels
    return info


@pytest.mark.parametrize(
    ('size_wh', 'depth_info', 'image_info', 'words'),
    [
        ((8, 6), None, small_info(8, 6), ['4x3, the image 8x6', 'without camera_info of both']),
        ((8, 6), small_info(), None, ['without camera_info of both']),
        ((8, 3), small_info(), small_info(8, 3), ['8x3', 'same proportions']),
        ((4, 3), shifted(small_info(), 1.0), small_info(), ['differ', 'aligned to the image']),
        ((4, 3), small_info(k=[5.0, 0, 1.5, 0, 3, 1, 0, 0, 1]), small_info(), ['aligned']),
    ],
)
def test_depth_that_does_not_fit_its_image(
    size_wh: tuple[int, int],
    depth_info: CameraInfo | None,
    image_info: CameraInfo | None,
    words: list[str],
) -> None:
    with pytest.raises(FrameError) as caught:
        fit_depth(DEPTH_M, size_wh, depth_info, image_info)
    for word in words:
        assert word in str(caught.value)


# The messages of vision_msgs (4.1, ROS 2) that are filled here, with its fields and their types:
# what has no such field is refused, as the real ones do.


@dataclass(slots=True)
class ObjectHypothesis:
    class_id: str = ''
    score: float = 0.0


@dataclass(slots=True)
class ObjectHypothesisWithPose:
    hypothesis: ObjectHypothesis = field(default_factory=ObjectHypothesis)
    pose: PoseWithCovariance = field(default_factory=PoseWithCovariance)


@dataclass(slots=True)
class BoundingBox3D:
    center: Pose = field(default_factory=Pose)
    size: Vector3 = field(default_factory=Vector3)


@dataclass(slots=True)
class Detection3D:
    header: Header = field(default_factory=Header)
    results: list[ObjectHypothesisWithPose] = field(default_factory=list)
    bbox: BoundingBox3D = field(default_factory=BoundingBox3D)
    id: str = ''


@dataclass(slots=True)
class Point2D:
    x: float = 0.0
    y: float = 0.0


@dataclass(slots=True)
class Pose2D:
    position: Point2D = field(default_factory=Point2D)
    theta: float = 0.0


@dataclass(slots=True)
class BoundingBox2D:
    center: Pose2D = field(default_factory=Pose2D)
    size_x: float = 0.0
    size_y: float = 0.0


@dataclass(slots=True)
class Detection2D:
    header: Header = field(default_factory=Header)
    results: list[ObjectHypothesisWithPose] = field(default_factory=list)
    bbox: BoundingBox2D = field(default_factory=BoundingBox2D)
    id: str = ''


@dataclass(slots=True)
class Detection2DArray:
    header: Header = field(default_factory=Header)
    detections: list[Detection2D] = field(default_factory=list)


@dataclass(slots=True)
class Detection3DArray:
    header: Header = field(default_factory=Header)
    detections: list[Detection3D] = field(default_factory=list)


STAND_IN = SimpleNamespace(
    ObjectHypothesisWithPose=ObjectHypothesisWithPose,
    Detection2D=Detection2D,
    Detection2DArray=Detection2DArray,
    Detection3D=Detection3D,
    Detection3DArray=Detection3DArray,
)


@pytest.mark.parametrize('kind', ['stand-in', 'installed'])
def test_detections_3d(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    if kind == 'stand-in':
        monkeypatch.setattr(messages, 'vision_msgs', STAND_IN)
    else:
        pytest.importorskip('vision_msgs', reason='vision_msgs is not installed')
    boxes = Placement(
        position_m=np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        base_m=np.zeros((2, 3)),
        size_m=np.array([[0.5, 0.25, 0.125], [7.0, 8.0, 9.0]]),
        orientation_xyzw=np.array([[0.0, 0.6, 0.0, 0.8], [0.0, 0.0, 0.0, 1.0]]),
        method=np.array([PlacedBy.DEPTH, PlacedBy.GROUND], np.uint8),
    )
    names = LabelSet.load('cityscapes').names
    message = messages.detections_3d_message(two_things(), boxes, names, HEADER)
    (car,) = message.detections  # the other is assumed, not measured
    assert message.header == car.header == HEADER
    assert car.id == '41'
    pose, size = car.bbox.center, car.bbox.size
    assert (pose.position.x, pose.position.y, pose.position.z) == (1.0, 2.0, 3.0)
    assert (pose.orientation.y, pose.orientation.w) == (0.6, 0.8)
    assert (size.x, size.y, size.z) == (0.5, 0.25, 0.125)
    (result,) = car.results
    assert (result.hypothesis.class_id, result.hypothesis.score) == ('car', 0.75)
    assert result.pose.pose == pose


def test_what_a_thing_stands_on_is_a_second_hypothesis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, 'vision_msgs', STAND_IN)
    names = LabelSet.load('cityscapes').names
    message = messages.detections_message(two_things(), names, HEADER, ['road', ''])
    said = [
        [(r.hypothesis.class_id, r.hypothesis.score) for r in detection.results]
        for detection in message.detections
    ]
    assert said == [[('car', 0.75), ('on road', 0.0)], [('person', 0.5)]]
    plain = messages.detections_message(two_things(), names, HEADER)
    assert [len(detection.results) for detection in plain.detections] == [1, 1]
