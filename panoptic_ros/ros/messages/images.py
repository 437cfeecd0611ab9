"""Camera images: ``sensor_msgs/Image`` and ``CompressedImage`` to arrays and back."""

import sys
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from panoptic_ros.compressed import check_compressed
from panoptic_ros.errors import FrameError


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded camera picture.

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
        """Return the picture as uint8 [H, W, 3] BGR, without a copy if it is that already."""
        if self.encoding == 'bgr8':
            return self.pixels
        code = cv2.COLOR_RGB2BGR if self.encoding == 'rgb8' else cv2.COLOR_GRAY2BGR
        return cv2.cvtColor(self.pixels, code)


class _Layout(NamedTuple):
    channels: int  # bytes of a pixel
    encoding: str  # of the decoded picture
    conversion: int | None = None  # cv2 colour code from the message to that


# Names and meanings: sensor_msgs/image_encodings.hpp. The OpenCV types 8UC1/3/4 say nothing about
# colour; as cv_bridge does, they are read in OpenCV's own order.
_LAYOUTS = {
    'bgr8': _Layout(3, 'bgr8'),
    'rgb8': _Layout(3, 'rgb8'),
    'mono8': _Layout(1, 'mono8'),
    'bgra8': _Layout(4, 'bgr8', cv2.COLOR_BGRA2BGR),
    'rgba8': _Layout(4, 'bgr8', cv2.COLOR_RGBA2BGR),
    'bayer_rggb8': _Layout(1, 'bgr8', cv2.COLOR_BayerRGGB2BGR),
    'bayer_bggr8': _Layout(1, 'bgr8', cv2.COLOR_BayerBGGR2BGR),
    'bayer_gbrg8': _Layout(1, 'bgr8', cv2.COLOR_BayerGBRG2BGR),
    'bayer_grbg8': _Layout(1, 'bgr8', cv2.COLOR_BayerGRBG2BGR),
    'yuv422': _Layout(2, 'bgr8', cv2.COLOR_YUV2BGR_UYVY),
    'uyvy': _Layout(2, 'bgr8', cv2.COLOR_YUV2BGR_UYVY),
    'yuv422_yuy2': _Layout(2, 'bgr8', cv2.COLOR_YUV2BGR_YUY2),
    'yuyv': _Layout(2, 'bgr8', cv2.COLOR_YUV2BGR_YUY2),
    '8UC1': _Layout(1, 'mono8'),
    '8UC3': _Layout(3, 'bgr8'),
    '8UC4': _Layout(4, 'bgr8', cv2.COLOR_BGRA2BGR),
}

ENCODINGS = tuple(_LAYOUTS)

# As stored: grey stays grey, 16 bits stay 16 bits (and are refused), and the picture is not
# turned by a tag, because camera_info speaks of the sensor's own rows and columns.
_AS_STORED = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


def decode_image(message: Image) -> Picture:
    """Decode a raw picture; without a copy if it is bgr8, rgb8 or mono8.

    Rows may be padded (``step``). ``is_bigendian`` has no meaning for bytes and is not looked at.

    Raises FrameError for an unknown or 16-bit encoding, no pixels, no data, a ``step`` shorter
    than a row, data of another length than ``step * height``, and YUV 4:2:2 of odd width.
    """
    encoding, width, height = message.encoding, message.width, message.height
    layout = _LAYOUTS.get(encoding)
    if layout is None:
        raise FrameError(
            f'encoding {encoding!r} is not an 8-bit camera picture; accepted are '
            f'{", ".join(ENCODINGS)}'
        )
    what = f'{encoding} image of {width}x{height}'
    if not width or not height:
        raise FrameError(f'{what} has no pixels; accepted is 1x1 and larger')
    if not message.data:
        raise FrameError(f'{what} has no data; expected step * height bytes')
    row_bytes = width * layout.channels
    if message.step < row_bytes:
        raise FrameError(
            f'{what} has step {message.step}; accepted is {row_bytes} bytes a row, or more if '
            'rows are padded'
        )
    if len(message.data) != message.step * height:
        raise FrameError(
            f'{what} has {len(message.data)} bytes of data; expected {message.step * height} '
            f'(step {message.step} * height {height})'
        )
    if layout.channels == 2 and width % 2:
        raise FrameError(f'{what} has an odd width; accepted is an even one, pixels share colour')
    grey = layout.channels == 1
    pixels = np.ndarray(
        (height, width) if grey else (height, width, layout.channels),
        np.uint8,
        message.data,
        strides=(message.step, 1) if grey else (message.step, layout.channels, 1),
    )
    if layout.conversion is not None:
        pixels = cv2.cvtColor(pixels, layout.conversion)
    return Picture(pixels, layout.encoding)


def decode_compressed_image(message: CompressedImage) -> Picture:
    """Decode a JPEG or PNG picture, colour to bgr8 and grey to mono8.

    Raises FrameError for no data, another or damaged format, more pixels than
    :func:`~panoptic_ros.compressed.check_compressed` lets pass, and 16 bits a channel.
    """
    what = f'compressed image with format {message.format!r}'
    if not message.data:
        raise FrameError(f'{what} has no data; accepted is JPEG or PNG')
    # OpenCV knows many more formats, and believes whatever a picture says of its size.
    try:
        size_wh = check_compressed(bytes(message.data))
    except FrameError as error:
        raise FrameError(f'{what} holds {error}') from error
    try:
        pixels = cv2.imdecode(np.frombuffer(message.data, np.uint8), _AS_STORED)
    except cv2.error as error:
        raise FrameError(f'{what} cannot be decoded: {" ".join(str(error).split())}') from error
    if pixels is None or pixels.shape[1::-1] != size_wh:
        raise FrameError(f'{what} holds {len(message.data)} bytes that are damaged JPEG or PNG')
    if pixels.dtype != np.uint8:
        raise FrameError(f'{what} has {pixels.dtype} pixels; accepted are 8 bits a channel')
    return Picture(pixels, 'mono8' if pixels.ndim == 2 else 'bgr8')


_ENCODING_OF_ARRAY = {
    ('uint8', 2): 'mono8',
    ('uint16', 2): '16UC1',
    ('int32', 2): '32SC1',
    ('uint8', 3): 'bgr8',
}


class ImageLayout(NamedTuple):
    """The fields of a ``sensor_msgs/Image`` that describe its data."""

    height: int
    width: int
    encoding: str
    step: int


def image_layout(array: np.ndarray) -> ImageLayout:
    """Return how an array is described as an Image.

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
        As in :func:`image_layout`, which says what is raised for another.
    header
        Goes into the message as it is.
    """
    layout = image_layout(array)
    message = Image(header=header, is_bigendian=int(sys.byteorder == 'big'), **layout._asdict())
    # Assigning to `data` checks it value by value (70 ms for VGA); this is a plain copy.
    message.data.frombytes(np.ascontiguousarray(array).data.cast('B'))
    return message
