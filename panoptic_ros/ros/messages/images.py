"""Camera images: ``sensor_msgs/Image`` and ``CompressedImage`` to arrays and back.

The 8-bit encodings of cameras are decoded with one OpenCV call or none. An encoding that is not in
the table goes to ``cv_bridge`` where that is installed.
"""

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from panoptic_ros.compressed import check_compressed
from panoptic_ros.errors import FrameError, one_line
from panoptic_ros.ros.messages.optional import cv_bridge

FULL_RANGE = (0, 65535)
"""Black and white level of 16-bit images, unless they are known."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded camera image.

    Parameters
    ----------
    pixels
        uint8 [H, W, 3], or [H, W] if the encoding is ``mono8``; often a view into the message.
    encoding
        ``bgr8``, ``rgb8`` or ``mono8``.
    """

    pixels: np.ndarray
    encoding: str

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width = self.pixels.shape[:2]
        return width, height

    def bgr(self) -> np.ndarray:
        """Return the image as uint8 [H, W, 3] BGR, without a copy if it is that already."""
        if self.encoding == 'bgr8':
            return self.pixels
        code = cv2.COLOR_RGB2BGR if self.encoding == 'rgb8' else cv2.COLOR_GRAY2BGR
        return cv2.cvtColor(self.pixels, code)


class _Layout(NamedTuple):
    """How the pixels of an encoding are stored, and the conversion to ``decoded``."""

    channels: int
    decoded: str
    conversion: int | None = None  # OpenCV colour code
    dtype: type = np.uint8
    rows: float = 1  # rows of data for each row of pixels
    multiple: int = 1  # width (and height, if rows is not whole) are multiples of this


def _bayer(pattern: str, dtype: type) -> _Layout:
    return _Layout(1, 'bgr8', getattr(cv2, f'COLOR_Bayer{pattern.upper()}2BGR'), dtype)


# Names and meanings: sensor_msgs/image_encodings.hpp; nv12 and yuv420 are what V4L2 drivers call
# these formats. 8UC1 to 16UC4 do not define colours; as in cv_bridge, they have OpenCV's order.
_LAYOUTS = {
    'bgr8': _Layout(3, 'bgr8'),
    'rgb8': _Layout(3, 'rgb8'),
    'mono8': _Layout(1, 'mono8'),
    'bgra8': _Layout(4, 'bgr8', cv2.COLOR_BGRA2BGR),
    'rgba8': _Layout(4, 'bgr8', cv2.COLOR_RGBA2BGR),
    '8UC1': _Layout(1, 'mono8'),
    '8UC3': _Layout(3, 'bgr8'),
    '8UC4': _Layout(4, 'bgr8', cv2.COLOR_BGRA2BGR),
    'mono16': _Layout(1, 'mono8', dtype=np.uint16),
    'bgr16': _Layout(3, 'bgr8', dtype=np.uint16),
    'rgb16': _Layout(3, 'rgb8', dtype=np.uint16),
    'bgra16': _Layout(4, 'bgr8', cv2.COLOR_BGRA2BGR, np.uint16),
    'rgba16': _Layout(4, 'bgr8', cv2.COLOR_RGBA2BGR, np.uint16),
    '16UC1': _Layout(1, 'mono8', dtype=np.uint16),
    '16UC3': _Layout(3, 'bgr8', dtype=np.uint16),
    '16UC4': _Layout(4, 'bgr8', cv2.COLOR_BGRA2BGR, np.uint16),
    **{f'bayer_{name}8': _bayer(name, np.uint8) for name in ('rggb', 'bggr', 'gbrg', 'grbg')},
    **{f'bayer_{name}16': _bayer(name, np.uint16) for name in ('rggb', 'bggr', 'gbrg', 'grbg')},
    'yuv422': _Layout(2, 'bgr8', cv2.COLOR_YUV2BGR_UYVY, multiple=2),
    'uyvy': _Layout(2, 'bgr8', cv2.COLOR_YUV2BGR_UYVY, multiple=2),
    'yuv422_yuy2': _Layout(2, 'bgr8', cv2.COLOR_YUV2BGR_YUY2, multiple=2),
    'yuyv': _Layout(2, 'bgr8', cv2.COLOR_YUV2BGR_YUY2, multiple=2),
    'nv12': _Layout(1, 'bgr8', cv2.COLOR_YUV2BGR_NV12, rows=1.5, multiple=2),
    'nv21': _Layout(1, 'bgr8', cv2.COLOR_YUV2BGR_NV21, rows=1.5, multiple=2),
    'yuv420': _Layout(1, 'bgr8', cv2.COLOR_YUV2BGR_I420, rows=1.5, multiple=2),
    'nv24': _Layout(1, 'bgr8', rows=3),
}

# Names of V4L2, GenICam, FFmpeg and simulators that drivers pass on.
_ALIASES = {
    'bgr8': ('bgr', 'bgr24', 'bgr888', 'bgr8packed'),
    'rgb8': ('rgb', 'rgb24', 'rgb888', 'rgb8packed', 'r8g8b8'),
    'bgra8': ('bgra', 'bgra32', 'bgrx8', 'bgra8packed'),
    'rgba8': ('rgba', 'rgba32', 'rgbx8', 'rgba8packed'),
    'mono8': ('mono', 'gray', 'gray8', 'grey', 'y8', 'l8'),
    'mono16': ('gray16', 'gray16le', 'y16', 'l16'),
    'uyvy': ('uyvy422', 'yuv422_uyvy', 'yuv422packed'),
    'yuyv': ('yuy2', 'yuyv422', 'yuv422_yuyv', 'yuv422_yuyv_packed'),
    'yuv420': ('i420', 'yu12', 'yuv420p'),
    'bayer_rggb8': ('bayerrg8',),
    'bayer_bggr8': ('bayerbg8',),
    'bayer_gbrg8': ('bayergb8',),
    'bayer_grbg8': ('bayergr8',),
    'bayer_rggb16': ('bayerrg16',),
    'bayer_bggr16': ('bayerbg16',),
    'bayer_gbrg16': ('bayergb16',),
    'bayer_grbg16': ('bayergr16',),
}

# Names are matched without regard to case: some drivers write BGR8 or YUYV.
_BY_NAME = {name.lower(): (name, layout) for name, layout in _LAYOUTS.items()} | {
    alias: (name, _LAYOUTS[name]) for name, aliases in _ALIASES.items() for alias in aliases
}

_CODECS = frozenset({'jpeg', 'jpg', 'mjpeg', 'mjpg', 'png', 'h264', 'hevc'})

ENCODINGS = tuple(_LAYOUTS)
"""Encodings of ``sensor_msgs/Image`` that :func:`decode_image` decodes by itself."""

ENCODING_NAMES = frozenset(_BY_NAME)
"""The same with the other names of them, in lower case."""

# BT.601 with limited range, as OpenCV has it for NV12: (Y, U, V, 1) to (B, G, R).
_NV24_TO_BGR = np.array(
    [
        [1.164, 2.018, 0.0, -1.164 * 16 - 2.018 * 128],
        [1.164, -0.391, -0.813, -1.164 * 16 + (0.391 + 0.813) * 128],
        [1.164, 0.0, 1.596, -1.164 * 16 - 1.596 * 128],
    ]
)

# As stored: grey stays grey, 16 bits stay 16 bits, and an EXIF orientation is ignored, because
# camera_info describes the rows and columns of the sensor.
_AS_STORED = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


def decode_image(
    message: Image,
    levels: tuple[int, int] = FULL_RANGE,
    bridge: ModuleType | None = cv_bridge,
) -> Picture:
    """Decode a raw image; without a copy if it is bgr8, rgb8 or mono8.

    Rows may be padded (``step``).

    Parameters
    ----------
    message
        Image in one of :data:`ENCODINGS`, or in one that ``bridge`` decodes.
    levels
        Values of 16-bit images that become 0 and 255; values outside are clipped.
    bridge
        The module ``cv_bridge``, None where it is not installed.

    Raises FrameError for an unknown encoding, no pixels, no data, a ``step`` shorter than a row,
    data of another length than the encoding needs, and an odd size where pixels share colour.
    """
    name, layout = _BY_NAME.get(message.encoding.strip().lower(), (message.encoding, None))
    if layout is None:
        return _decode_with_bridge(message, bridge)
    width, height = message.width, message.height
    stored = _stored(message, name, layout)
    if name == 'nv24':
        luma, chroma = stored[:height], stored[height:].reshape(height, width, 2)
        pixels = cv2.transform(cv2.merge((luma, chroma)), _NV24_TO_BGR)
        return Picture(pixels, layout.decoded)
    if layout.conversion is not None:
        stored = cv2.cvtColor(stored, layout.conversion)
    return Picture(_as_8_bits(stored, levels), layout.decoded)


def _stored(message: Image, name: str, layout: _Layout) -> np.ndarray:
    """Return the stored values of an image, [rows, W] or [rows, W, channels]."""
    width, height = message.width, message.height
    what = f'{name} image of {width}x{height}'
    if not width or not height:
        raise FrameError(f'{what} has no pixels; accepted is 1x1 and larger')
    if not message.data:
        raise FrameError(f'{what} has no data; expected step * height bytes')
    item_bytes = np.dtype(layout.dtype).itemsize
    row_bytes = width * layout.channels * item_bytes
    if message.step < row_bytes:
        raise FrameError(
            f'{what} has step {message.step}; accepted is {row_bytes} bytes a row, or more if '
            'rows are padded'
        )
    if width % layout.multiple or (layout.rows % 1 and height % layout.multiple):
        raise FrameError(f'{what} has an odd size; accepted is an even one, pixels share colour')
    rows = round(height * layout.rows)
    if len(message.data) != message.step * rows:
        times = f' * {layout.rows:g}' if layout.rows != 1 else ''
        raise FrameError(
            f'{what} has {len(message.data)} bytes of data; expected {message.step * rows} '
            f'(step {message.step} * height {height}{times})'
        )
    is_grey = layout.channels == 1
    stored = np.ndarray(
        (rows, width) if is_grey else (rows, width, layout.channels),
        np.dtype(layout.dtype).newbyteorder('>' if message.is_bigendian else '<'),
        message.data,
        strides=(message.step, row_bytes // width, item_bytes)[: 2 if is_grey else 3],
    )
    if item_bytes > 1 or layout.rows != 1:
        # OpenCV takes neither the other byte order nor planes with padded rows.
        stored = np.ascontiguousarray(stored, layout.dtype)
    return stored


def _as_8_bits(pixels: np.ndarray, levels: tuple[int, int]) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    black, white = levels
    if black:
        pixels = cv2.subtract(pixels, np.full(4, black, np.float64))
    return cv2.convertScaleAbs(pixels, alpha=255 / (white - black))


def _decode_with_bridge(message: Image, bridge: ModuleType | None) -> Picture:
    encoding = message.encoding
    if encoding.strip().lower() in _CODECS:
        raise FrameError(
            f'encoding {encoding!r} is a codec; accepted are compressed images of type '
            'sensor_msgs/CompressedImage, with image_transport set to compressed'
        )
    if bridge is None:
        raise FrameError(
            f'encoding {encoding!r} is not a camera image; accepted are {", ".join(ENCODINGS)}, '
            'and what cv_bridge converts, which is not installed'
        )
    try:
        return Picture(bridge.CvBridge().imgmsg_to_cv2(message, 'bgr8'), 'bgr8')
    except (bridge.CvBridgeError, cv2.error, ValueError, TypeError) as error:
        reason = one_line(error)
        raise FrameError(
            f'encoding {encoding!r} is not a camera image: cv_bridge says {reason}; accepted are '
            f'{", ".join(ENCODINGS)}'
        ) from error


def decode_compressed_image(
    message: CompressedImage, levels: tuple[int, int] = FULL_RANGE
) -> Picture:
    """Decode a JPEG or PNG image.

    ``format`` is interpreted as CompressedImage.msg defines it, ``ORIGINAL; CODEC compressed
    [STORED]``: a grey image whose original is a Bayer mosaic is demosaiced, and the channels of a
    colour image are in the order of STORED, blue first if it is missing.

    Parameters
    ----------
    message
        Image, 8 or 16 bits.
    levels
        As for :func:`decode_image`.

    Raises FrameError for no data, another or damaged format, and more pixels than
    :func:`~panoptic_ros.compressed.check_compressed` accepts.
    """
    what = f'compressed image with format {message.format!r}'
    if not message.data:
        raise FrameError(f'{what} has no data; accepted is JPEG or PNG')
    # OpenCV decodes many more formats, and allocates whatever size a file declares.
    try:
        size_wh = check_compressed(bytes(message.data))
    except FrameError as error:
        raise FrameError(f'{what} holds {error}') from error
    try:
        pixels = cv2.imdecode(np.frombuffer(message.data, np.uint8), _AS_STORED)
    except cv2.error as error:
        raise FrameError(f'{what} cannot be decoded: {one_line(error)}') from error
    if pixels is None or pixels.shape[1::-1] != size_wh:
        raise FrameError(f'{what} holds {len(message.data)} bytes that are damaged JPEG or PNG')
    original, _, codec = message.format.lower().partition(';')
    if pixels.ndim == 2:
        mosaic = _BY_NAME.get(original.strip(), ('', None))[1]
        if not original.startswith('bayer_') or mosaic is None:
            return Picture(_as_8_bits(pixels, levels), 'mono8')
        pixels = cv2.cvtColor(pixels, mosaic.conversion)
        return Picture(_as_8_bits(pixels, levels), 'bgr8')
    stored = codec.partition('compressed')[2].strip()
    is_rgb = stored.startswith('rgb')
    return Picture(_as_8_bits(pixels, levels), 'rgb8' if is_rgb else 'bgr8')


_ENCODING_OF_ARRAY = {
    ('uint8', 2): 'mono8',
    ('uint16', 2): '16UC1',
    ('int32', 2): '32SC1',
    ('uint8', 3): 'bgr8',
}


class ImageLayout(NamedTuple):
    """Fields of a ``sensor_msgs/Image`` that describe its data."""

    height: int
    width: int
    encoding: str
    step: int


def image_layout(array: np.ndarray) -> ImageLayout:
    """Return the fields that describe an array as an Image.

    Parameters
    ----------
    array
        uint8 [H, W] (becomes mono8), uint16 [H, W] (16UC1), int32 [H, W] (32SC1) or
        uint8 [H, W, 3] (bgr8).

    Raises ValueError for another dtype or shape.
    """
    encoding = _ENCODING_OF_ARRAY.get((array.dtype.name, array.ndim))
    if encoding is None or array.shape[2:] not in ((), (3,)):
        raise ValueError(
            f'array is {array.dtype} {array.shape}; expected uint8 [H, W], uint16 [H, W], int32 '
            '[H, W] or uint8 [H, W, 3]'
        )
    height, width = array.shape[:2]
    return ImageLayout(height, width, encoding, array.nbytes // height)


def image_message(array: np.ndarray, header: Header) -> Image:
    """Wrap an array in an Image message, with one copy of the pixels.

    Parameters
    ----------
    array
        As for :func:`image_layout`, which raises ValueError for another one.
    header
        Copied into the message.
    """
    layout = image_layout(array)
    message = Image(header=header, is_bigendian=int(sys.byteorder == 'big'), **layout._asdict())
    # Assigning to `data` checks every value (70 ms for VGA); this is a plain copy.
    message.data.frombytes(np.ascontiguousarray(array).data.cast('B'))
    return message


def compressed_image_message(
    header: Header, data: np.ndarray, image_format: str
) -> CompressedImage:
    """Wrap an encoded image, uint8 [n], in a CompressedImage message.

    ``image_format`` is as CompressedImage.msg defines it, for example ``mono8; png compressed ``.
    """
    message = CompressedImage(header=header, format=image_format)
    message.data.frombytes(data.data.cast('B'))
    return message
