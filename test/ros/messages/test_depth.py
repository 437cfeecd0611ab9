import array
import struct

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from builtin_interfaces.msg import Time
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from panoptic_ros.errors import FrameError
from panoptic_ros.ros.messages.depth import decode_compressed_depth, decode_depth, fit_depth

HEADER = Header(stamp=Time(sec=7, nanosec=8), frame_id='camera_optical')


def raw(encoding: str, width: int, height: int, data: bytes, step: int | None = None) -> Image:
    return Image(
        header=HEADER,
        height=height,
        width=width,
        encoding=encoding,
        step=len(data) // max(height, 1) if step is None else step,
        data=array.array('B', data),
    )


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


@pytest.mark.parametrize(
    ('encoding', 'values'),
    [
        ('32fc1', np.float32([[2.5, 0.0]])),
        ('64FC1', np.float64([[2.5, -1.0]])),
        ('64FC1', np.float64([[2.5, np.nan]])),
        ('16uc1', np.uint16([[2500, 0]])),
        ('Z16', np.uint16([[2500, 0]])),
        ('MONO16', np.uint16([[2500, 0]])),
        ('16SC1', np.int16([[2500, -1]])),
    ],
)
def test_names_and_types_that_drivers_use_for_depth(encoding: str, values: np.ndarray) -> None:
    message = Image(encoding=encoding, width=2, height=1, step=values.nbytes)
    message.data.frombytes(values.tobytes())
    depth_m = decode_depth(message)
    assert depth_m.dtype == np.float32
    assert np.array_equal(depth_m, np.float32([[2.5, np.nan]]), equal_nan=True)


def compressed_depth(image_format: str, header: bytes, stored: np.ndarray) -> CompressedImage:
    message = CompressedImage(format=image_format)
    message.data.frombytes(header + cv2.imencode('.png', stored)[1].tobytes())
    return message


@pytest.mark.parametrize(
    ('image_format', 'header'),
    [
        ('16UC1; compressedDepth png', bytes(12)),
        ('16UC1; compressedDepth', bytes(12)),
        ('16UC1; png compressed ', b''),
        ('png', b''),
    ],
)
def test_compressed_millimetres(image_format: str, header: bytes) -> None:
    message = compressed_depth(image_format, header, np.uint16([[2500, 0]]))
    depth_m = decode_compressed_depth(message)
    assert depth_m.dtype == np.float32
    assert np.array_equal(depth_m, np.float32([[2.5, np.nan]]), equal_nan=True)


def test_compressed_metres_are_stored_inversely() -> None:
    # depth = A / (q - B): 4 m at q = 30, 2 m at q = 50, unknown at 0.
    message = compressed_depth(
        '32FC1; compressedDepth png', struct.pack('<iff', 0, 80, 10), np.uint16([[30, 50, 0]])
    )
    depth_m = decode_compressed_depth(message)
    assert np.array_equal(depth_m, np.float32([[4, 2, np.nan]]), equal_nan=True)


@pytest.mark.parametrize(
    ('message', 'words'),
    [
        (CompressedImage(format='16UC1; compressedDepth rvl', data=bytes(99)), 'is not a PNG'),
        (compressed_depth('png', bytes(13), np.uint16([[1]])), 'is not a PNG'),
        (compressed_depth('png', b'', np.uint8([[1]])), 'one channel of 16 bits'),
        (compressed_depth('png', b'', np.uint16([[[1, 2, 3]]])), 'one channel of 16 bits'),
        (compressed_depth('png', b'', np.uint16([[0]])), 'no pixel with a depth'),
        (compressed_depth('32FC1; png', b'', np.uint16([[9]])), 'has no header'),
        (
            CompressedImage(format='png', data=b'\x89PNG\r\n\x1a\n' + bytes(40)),
            'damaged JPEG or PNG',
        ),
    ],
)
def test_compressed_depth_that_is_refused(message: CompressedImage, words: str) -> None:
    with pytest.raises(FrameError, match=f'compressed depth with format .*{words}'):
        decode_compressed_depth(message)


@settings(deadline=None)
@given(data=st.binary(max_size=80), name=st.sampled_from(['16UC1; compressedDepth', '32FC1; a']))
def test_any_compressed_depth_is_decoded_or_refused(data: bytes, name: str) -> None:
    png = cv2.imencode('.png', np.uint16([[7, 9]]))[1].tobytes()
    for content in (data, data[:12] + png, data[:12] + png[:30] + data):
        message = CompressedImage(format=name)
        message.data.frombytes(content)
        try:
            depth_m = decode_compressed_depth(message)
        except FrameError:
            continue
        assert depth_m.dtype == np.float32
        assert not (depth_m <= 0).any()
        assert not np.isinf(depth_m).any()


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
        (
            raw('bgr8', 2, 1, bytes(6)),
            ["'bgr8' is not a depth encoding", '32FC1, 64FC1, 16UC1, mono16, Z16, 16SC1'],
        ),
        (raw('32SC1', 1, 1, bytes(8)), ["'32SC1'"]),
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
    p = [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0]
    return camera_info(**{'width': width, 'height': height, 'k': k, 'p': p} | changes)


def test_depth_of_the_images_size_stays_as_it_is() -> None:
    for infos in ((None, None), (small_info(), None), (small_info(), small_info())):
        assert fit_depth(DEPTH_M, (4, 3), *infos) is DEPTH_M


def test_depth_of_another_size_is_resized_by_nearest_neighbour() -> None:
    twice = fit_depth(DEPTH_M, (8, 6), small_info(), small_info(8, 6))
    assert np.array_equal(twice, DEPTH_M.repeat(2, axis=0).repeat(2, axis=1))
    half = fit_depth(twice, (4, 3), small_info(8, 6), small_info())
    assert np.array_equal(half, DEPTH_M)


def shifted(info: CameraInfo, pixels: float) -> CameraInfo:
    info.p[2] += pixels
    return info


@pytest.mark.parametrize(
    ('size_wh', 'depth_info', 'image_info', 'words'),
    [
        ((8, 6), None, small_info(8, 6), ['4x3, the image 8x6', 'without camera_info of both']),
        ((8, 6), small_info(), None, ['without camera_info of both']),
        ((8, 3), small_info(), small_info(8, 3), ['8x3', 'same proportions']),
        ((4, 3), shifted(small_info(), 1.0), small_info(), ['differ', 'aligned to the image']),
        (
            (4, 3),
            small_info(p=[5.0, 0, 1.5, 0, 0, 3, 1, 0, 0, 0, 1, 0]),
            small_info(),
            ['aligned'],
        ),
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
