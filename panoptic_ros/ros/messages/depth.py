"""Depth images (REP 118): decoding, and fitting them to the camera image."""

import struct
from typing import NamedTuple

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from panoptic_ros.compressed import check_compressed
from panoptic_ros.errors import FrameError
from panoptic_ros.ros.messages.calibration import fit_camera


class _DepthLayout(NamedTuple):
    dtype: type
    low: float  # range of valid depth, in the unit of the encoding
    high: float


_METRES = (1e-6, float(np.finfo(np.float32).max))
_DEPTH_LAYOUTS = {
    '32FC1': _DepthLayout(np.float32, *_METRES),
    '64FC1': _DepthLayout(np.float64, *_METRES),
    '16UC1': _DepthLayout(np.uint16, 1, 65535),
    'mono16': _DepthLayout(np.uint16, 1, 65535),
    'Z16': _DepthLayout(np.uint16, 1, 65535),
    '16SC1': _DepthLayout(np.int16, 1, 32767),
}
_PNG = b'\x89PNG\r\n\x1a\n'
_TRANSPORT_HEADER = struct.Struct('<iff')
_BY_NAME = {name.lower(): layout for name, layout in _DEPTH_LAYOUTS.items()}

DEPTH_ENCODINGS = tuple(_DEPTH_LAYOUTS)
"""Encodings of ``sensor_msgs/Image`` that :func:`decode_depth` accepts, without regard to case.

REP 118: 32FC1 is metres, 16UC1 millimetres. Some drivers call the latter mono16 or Z16; nodes in
Python publish 64FC1.
"""

ALIGNMENT_TOLERANCE = 0.01
"""Depth counts as aligned if its camera, at the image's size, agrees with the image's this well:

focal lengths relatively, the principal point in fractions of the image's width.
"""


def decode_depth(message: Image, may_be_empty: bool = False) -> np.ndarray:
    """Decode a depth image to metres, float32 [H, W], NaN where there is no depth.

    Depth is unknown where it is not above 0, and where metres are not finite (REP 117: too near,
    too far, unknown). Rows may be padded (``step``), ``is_bigendian`` is
    honoured. The result is a view into the message where nothing has to change.

    Raises FrameError for another encoding, no pixels, a ``step`` shorter than a row, data of
    another length than ``step * height``, and an image without any depth unless
    ``may_be_empty``.
    """
    encoding, width, height = message.encoding, message.width, message.height
    layout = _BY_NAME.get(encoding.strip().lower())
    if layout is None:
        raise FrameError(
            f'{encoding!r} is not a depth encoding; accepted are {", ".join(DEPTH_ENCODINGS)}'
        )
    what = f'{encoding} depth of {width}x{height}'
    if not width or not height:
        raise FrameError(f'{what} has no pixels; accepted is 1x1 and larger')
    item_bytes = np.dtype(layout.dtype).itemsize
    if message.step < width * item_bytes:
        raise FrameError(
            f'{what} has step {message.step}; accepted is {width * item_bytes} bytes a row, or '
            'more if rows are padded'
        )
    if len(message.data) != message.step * height:
        raise FrameError(
            f'{what} has {len(message.data)} bytes of data; expected {message.step * height} '
            f'(step {message.step} * height {height})'
        )
    stored = np.ndarray(
        (height, width),
        np.dtype(layout.dtype).newbyteorder('>' if message.is_bigendian else '<'),
        message.data,
        strides=(message.step, item_bytes),
    )
    depth = np.ascontiguousarray(stored, layout.dtype)
    return _in_metres(depth, layout, what, may_be_empty)


def _in_metres(
    depth: np.ndarray, layout: _DepthLayout, what: str, may_be_empty: bool
) -> np.ndarray:
    """Return stored depth in metres, float32 [H, W], NaN where there is none."""
    is_metres = np.issubdtype(layout.dtype, np.floating)
    # fmin and fmax ignore NaN; if there is nothing else, the comparisons are false.
    low, high = np.fmin.reduce(depth, None), np.fmax.reduce(depth, None)
    if is_metres and layout.low <= low and high <= layout.high:
        return depth.astype(np.float32, copy=False)  # unknown depth is NaN already
    has_depth = _has_depth(depth, layout)
    known = cv2.countNonZero(has_depth)
    if not known and not may_be_empty:
        raise FrameError(f'{what} has no pixel with a depth; is the camera covered?')
    if not is_metres:
        depth = np.divide(depth, np.float32(1000), dtype=np.float32)
    depth = depth.astype(np.float32, copy=False)
    if known < depth.size:
        depth = cv2.copyTo(depth, has_depth, np.full(depth.shape, np.nan, np.float32))
    return depth


def decode_compressed_depth(message: CompressedImage, may_be_empty: bool = False) -> np.ndarray:
    """Decode a depth image of compressed_depth_image_transport, or a PNG of 16 bits.

    The transport puts an int32 and two float32, A and B, before the PNG. A PNG of 16UC1 holds
    millimetres; one of 32FC1 holds the inverse depth q, and depth is A / (q - B) metres.
    Returns and raises as :func:`decode_depth`; FrameError also for another codec (``rvl``) and for
    damaged data.
    """
    what = f'compressed depth with format {message.format!r}'
    data, original = bytes(message.data), message.format.lower().partition(';')[0].strip()
    start = data.find(_PNG, 0, _TRANSPORT_HEADER.size + len(_PNG))
    if start < 0:
        raise FrameError(
            f'{what} is not a PNG; accepted is PNG: set the parameter of the driver that ends in '
            'compressedDepth.format to png'
        )
    try:
        check_compressed(data[start:])
    except FrameError as error:
        raise FrameError(f'{what} holds {error}') from error
    stored = cv2.imdecode(np.frombuffer(data, np.uint8, offset=start), cv2.IMREAD_UNCHANGED)
    if stored is None or stored.ndim != 2 or stored.dtype != np.uint16:
        raise FrameError(f'{what} is not a PNG with one channel of 16 bits')
    if original != '32fc1':
        return _in_metres(stored, _DEPTH_LAYOUTS['16UC1'], what, may_be_empty)
    if start != _TRANSPORT_HEADER.size:
        raise FrameError(
            f'{what} has no header; expected {_TRANSPORT_HEADER.size} bytes before it'
        )
    _, quantum, offset = _TRANSPORT_HEADER.unpack_from(data)
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        metres = np.float32(quantum) / (stored.astype(np.float32) - np.float32(offset))
    metres[stored == 0] = np.nan
    return _in_metres(metres, _DEPTH_LAYOUTS['32FC1'], what, may_be_empty)


def _has_depth(depth: np.ndarray, layout: _DepthLayout) -> np.ndarray:
    """Return where depth is known, uint8 [H, W]; OpenCV compares with numbers slowly."""
    # Comparisons with NaN are false.
    has_depth = (depth >= layout.low) & (depth <= layout.high)
    return has_depth.view(np.uint8)


def fit_depth(
    depth_m: np.ndarray,
    size_wh: tuple[int, int],
    depth_info: CameraInfo | None,
    image_info: CameraInfo | None,
    matrix: str = 'auto',
) -> np.ndarray:
    """Return depth for the pixels of its image, resized by nearest neighbour if needed.

    (Linear interpolation would invent depths between an object and its background.)

    Parameters
    ----------
    depth_m
        float32 [h, w].
    size_wh
        Width and height of the image in pixels.
    depth_info, image_info
        Calibrations that :func:`check_camera_info` accepts, None where there is none. Two that
        do not agree mean that depth is not aligned to the image.
    matrix
        Which matrix counts, as for :func:`~panoptic_ros.ros.messages.calibration.choose_matrix`.

    Raises FrameError if depth is not aligned, or has another size than the image and another
    shape, or no calibrations to prove that both see the same.
    """
    height, width = depth_m.shape
    both = depth_info is not None and image_info is not None
    sizes = f'depth is {width}x{height}, the image {size_wh[0]}x{size_wh[1]}'
    if both:
        cameras = (fit_camera(info, size_wh, matrix) for info in (image_info, depth_info))
        wanted, found = ((c.fx, c.fy, c.cx, c.cy) for c in cameras)
        scales = *wanted[:2], size_wh[0], size_wh[0]
        if any(
            abs(is_ - should) > ALIGNMENT_TOLERANCE * scale
            for is_, should, scale in zip(found, wanted, scales, strict=True)
        ):
            raise FrameError(
                f'{sizes}, and their camera_info differ: at the size of the image fx fy cx cy are '
                f'{np.round(found, 1).tolist()} and {np.round(wanted, 1).tolist()}; depth has to '
                'be aligned to the image (the driver can, or the register node of '
                'depth_image_proc)'
            )
    if (width, height) == size_wh:
        return depth_m
    if not both:
        raise FrameError(
            f'{sizes}; without camera_info of both only one size for both is accepted'
        )
    if abs(width * size_wh[1] - height * size_wh[0]) > max(size_wh):
        raise FrameError(f'{sizes}; accepted is another size only with the same proportions')
    return cv2.resize(depth_m, size_wh, interpolation=cv2.INTER_NEAREST_EXACT)
