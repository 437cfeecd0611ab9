"""Messages to arrays and arrays to messages: pure functions, no node, no state.

Pictures are decoded with OpenCV alone. It does what is needed in one call, is faster than
``cv_bridge`` (which copies every picture) and is there where ``cv_bridge`` is not; the tests hold
the result against ``rosbags-image``.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from panoptic_ros.compressed import check_compressed
from panoptic_ros.errors import FrameError
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import Segments
from panoptic_ros.scene.geometry import CameraModel, PlacedBy, Placement

try:
    import vision_msgs.msg as vision_msgs
except ModuleNotFoundError:  # it comes with ROS, not from the package index
    vision_msgs = None

if TYPE_CHECKING:
    from vision_msgs.msg import (
        Detection2D,
        Detection2DArray,
        Detection3D,
        Detection3DArray,
        LabelInfo,
        ObjectHypothesisWithPose,
    )


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
"""Encodings of ``sensor_msgs/Image`` that :func:`decode_image` accepts."""

LARGEST_CALIBRATION = 1e9
SMALLEST_FOCAL_LENGTH_PX = 0.01
"""What no camera's calibration goes beyond; within these, no computation overflows."""

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


class _DepthLayout(NamedTuple):
    dtype: type
    low: float  # what counts as depth, in the encoding's own unit
    high: float


_MILLIMETRES = _DepthLayout(np.uint16, 1, 65535)
_DEPTH_LAYOUTS = {
    '32FC1': _DepthLayout(np.float32, 1e-6, float(np.finfo(np.float32).max)),
    '16UC1': _MILLIMETRES,
    'mono16': _MILLIMETRES,
}

DEPTH_ENCODINGS = tuple(_DEPTH_LAYOUTS)
"""Encodings of ``sensor_msgs/Image`` that :func:`decode_depth` accepts (REP 118).

32FC1 is metres; 16UC1, which some drivers call mono16, is millimetres.
"""

ALIGNMENT_TOLERANCE = 0.01
"""Depth counts as aligned if its camera, at the image's size, agrees with the image's this well:

focal lengths relatively, the principal point in fractions of the image's width.
"""


def decode_depth(message: Image, may_be_empty: bool = False) -> np.ndarray:
    """Decode a depth image to metres, float32 [H, W], NaN where there is no depth.

    No depth is 0 in 16UC1, and in 32FC1 whatever is not finite (REP 117: too near, too far,
    unknown) or not above 0. Rows may be padded (``step``), ``is_bigendian`` is honoured. The
    result is a view into the message where nothing has to change.

    Raises FrameError for another encoding, no pixels, a ``step`` shorter than a row, data of
    another length than ``step * height``, and an image without any depth unless
    ``may_be_empty``.
    """
    encoding, width, height = message.encoding, message.width, message.height
    layout = _DEPTH_LAYOUTS.get(encoding)
    if layout is None:
        raise FrameError(
            f'encoding {encoding!r} is no depth image; accepted are {", ".join(DEPTH_ENCODINGS)}'
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
    # NaN is passed over; where there is nothing else, the comparisons are false.
    low, high = np.fmin.reduce(depth, None), np.fmax.reduce(depth, None)
    if layout is not _MILLIMETRES and layout.low <= low and high <= layout.high:
        return depth  # all that is not known is NaN already
    has_depth = _has_depth(depth, layout)
    known = cv2.countNonZero(has_depth)
    if not known and not may_be_empty:
        raise FrameError(f'{what} has no pixel with a depth; is the camera covered?')
    if layout is _MILLIMETRES:
        depth = np.divide(depth, np.float32(1000), dtype=np.float32)
    if known < depth.size:
        depth = cv2.copyTo(depth, has_depth, np.full(depth.shape, np.nan, np.float32))
    return depth


def _has_depth(depth: np.ndarray, layout: _DepthLayout) -> np.ndarray:
    """uint8 [H, W], above 0 where there is a depth. OpenCV compares with numbers slowly."""
    # Comparisons with NaN are false: what is not in the range is no depth.
    has_depth = (depth >= layout.low) & (depth <= layout.high)
    return has_depth.view(np.uint8)


def fit_depth(
    depth_m: np.ndarray,
    size_wh: tuple[int, int],
    depth_info: CameraInfo | None,
    image_info: CameraInfo | None,
) -> np.ndarray:
    """Return depth for the pixels of its image, resized by nearest neighbour if it has to be.

    (Not linearly: that would make up depths between an object and what is behind it.)

    Parameters
    ----------
    depth_m
        float32 [h, w].
    size_wh
        Width and height of the image in pixels.
    depth_info, image_info
        Calibrations that :func:`check_camera_info` accepts, None where there is none. Two that
        do not agree mean that depth is not aligned to the image.

    Raises FrameError if depth is not aligned, or has another size than the image and another
    shape, or no calibrations to prove that both see the same.
    """
    height, width = depth_m.shape
    both = depth_info is not None and image_info is not None
    sizes = f'depth is {width}x{height}, the image {size_wh[0]}x{size_wh[1]}'
    if both:
        cameras = (fit_camera(info, size_wh) for info in (image_info, depth_info))
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


def stamp_ns(header: Header) -> int:
    """Return a header's stamp in nanoseconds; any stamp, also before 1970."""
    return header.stamp.sec * 1_000_000_000 + header.stamp.nanosec


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


def check_camera_info(info: CameraInfo) -> None:
    """Raise FrameError unless the calibration can be used.

    It cannot if a number in it is not finite or absurdly large, a focal length is not above 0,
    the last row of ``k`` is not 0 0 1, or it does not say for which image size it is. (All zeros
    mean an uncalibrated camera.)
    """
    for name in ('k', 'd', 'r', 'p'):
        values = np.asarray(getattr(info, name), np.float64)
        if not (abs(values) <= LARGEST_CALIBRATION).all():  # so written that NaN is refused
            raise FrameError(
                f'camera_info.{name} is {values.tolist()}; accepted are finite numbers up to '
                f'{LARGEST_CALIBRATION:g}'
            )
    fx, fy = info.k[0], info.k[4]
    if not min(fx, fy) >= SMALLEST_FOCAL_LENGTH_PX:
        raise FrameError(
            f'camera_info.k has focal lengths {fx} and {fy}; accepted are '
            f'{SMALLEST_FOCAL_LENGTH_PX} pixels and more'
        )
    if (last_row := [float(value) for value in info.k[6:]]) != [0.0, 0.0, 1.0]:
        raise FrameError(f'camera_info.k has the last row {last_row}; accepted is [0.0, 0.0, 1.0]')
    if not info.width or not info.height:
        raise FrameError(
            f'camera_info is for images of {info.width}x{info.height}; accepted is 1x1 and larger'
        )


def fit_camera(info: CameraInfo, size_wh: tuple[int, int]) -> CameraModel:
    """Return the camera that :func:`fit_camera_info` describes."""
    k = np.asarray(info.k, np.float64).tolist()
    return _fit_camera(tuple(k), _crop_xywh(info), size_wh)


@lru_cache(maxsize=8)  # a camera's calibration comes with each of its images
def _fit_camera(
    k: tuple[float, ...], crop_xywh: tuple[int, int, int, int], size_wh: tuple[int, int]
) -> CameraModel:
    return CameraModel.from_k(_crop_to_image(crop_xywh, size_wh) @ np.reshape(k, (3, 3)), size_wh)


def _crop_xywh(info: CameraInfo) -> tuple[int, int, int, int]:
    """What the image shows of the full one, pixels."""
    roi = info.roi
    return roi.x_offset, roi.y_offset, roi.width or info.width, roi.height or info.height


def _crop_to_image(crop_xywh: tuple[int, int, int, int], size_wh: tuple[int, int]) -> np.ndarray:
    x, y, width, height = crop_xywh
    scale_x, scale_y = size_wh[0] / width, size_wh[1] / height
    return np.array(
        [
            [scale_x, 0.0, (0.5 - x) * scale_x - 0.5],
            [0.0, scale_y, (0.5 - y) * scale_y - 0.5],
            [0.0, 0.0, 1.0],
        ]
    )


def fit_camera_info(info: CameraInfo, header: Header, size_wh: tuple[int, int]) -> CameraInfo:
    """Return a calibration for images of another size, for example the masks'.

    Region of interest and binning are worked into the matrices, so the result has neither: its
    ``k`` and ``p`` are for the pixels of a whole image of ``size_wh``. Pixel centres lie at whole
    numbers, so a principal point scales by ``(c + 0.5) * scale - 0.5``, which is where
    ``cv2.resize`` puts it.

    Parameters
    ----------
    info
        A calibration that :func:`check_camera_info` accepts.
    header
        Goes into the result as it is.
    size_wh
        Width and height of the images in pixels.
    """
    full_to_image = _crop_to_image(_crop_xywh(info), size_wh)
    return CameraInfo(
        header=header,
        width=size_wh[0],
        height=size_wh[1],
        distortion_model=info.distortion_model,
        d=info.d,
        k=(full_to_image @ np.reshape(info.k, (3, 3))).reshape(-1),
        r=info.r,
        p=(full_to_image @ np.reshape(info.p, (3, 4))).reshape(-1),
    )


def label_info_message(label_set: LabelSet, header: Header) -> 'LabelInfo':
    """Return what the numbers in the semantic map mean; 255 is named ``void``.

    Needs ``vision_msgs``.
    """
    classes = [*enumerate(label_set.names), (VOID, 'void')]
    return vision_msgs.LabelInfo(
        header=header,
        class_map=[vision_msgs.VisionClass(class_id=i, class_name=name) for i, name in classes],
        threshold=0.0,
    )


def detections_message(
    things: Segments,
    names: tuple[str, ...],
    header: Header,
    carried_by: Sequence[str] = (),
) -> 'Detection2DArray':
    """Return one detection for every thing: its box, class name, score and track id.

    Boxes are in pixels of the image; a box of one pixel at x=0 has its centre at 0.5 and size 1.
    What a thing stands on, if ``carried_by`` names it, is a second hypothesis with score 0:
    ``on dining table 5``. Needs ``vision_msgs``.
    """
    detections = [
        _detection(names[class_id], score, box, track_id, header)
        for class_id, score, box, track_id in _rows(things)
    ]
    for detection, carrier in zip(detections, carried_by, strict=False):
        if carrier:
            detection.results.append(_hypothesis(f'on {carrier}', 0.0))
    return vision_msgs.Detection2DArray(header=header, detections=detections)


def detections_3d_message(
    things: Segments, boxes: Placement, names: tuple[str, ...], header: Header
) -> 'Detection3DArray':
    """Return one detection for every thing that depth has measured.

    Parameters
    ----------
    things
        The objects.
    boxes
        Theirs, row by row, in the header's frame. The box of one that is not measured by depth
        is an assumption and not sent.
    names
        Of the classes.
    header
        Goes into the message and its detections as it is.

    The pose of a detection is that of its box; covariances are 0, not known. Needs
    ``vision_msgs``.
    """
    rows = np.flatnonzero(boxes.method == PlacedBy.DEPTH)
    detections = [
        _detection_3d(names[class_id], score, _pose(*pose), size, track_id, header)
        for (class_id, score, _, track_id), pose, size in zip(
            _rows(things.where(rows)),
            zip(
                boxes.position_m[rows].tolist(),
                boxes.orientation_xyzw[rows].tolist(),
                strict=True,
            ),
            boxes.size_m[rows].tolist(),
            strict=True,
        )
    ]
    return vision_msgs.Detection3DArray(header=header, detections=detections)


def _pose(position_m: Sequence[float], orientation_xyzw: Sequence[float]) -> Pose:
    x, y, z = position_m
    turn_x, turn_y, turn_z, turn_w = orientation_xyzw
    return Pose(
        position=Point(x=x, y=y, z=z),
        orientation=Quaternion(x=turn_x, y=turn_y, z=turn_z, w=turn_w),
    )


def _detection_3d(
    name: str, score: float, pose: Pose, size_m: Sequence[float], track_id: int, header: Header
) -> 'Detection3D':
    detection = vision_msgs.Detection3D(header=header, id=str(track_id))
    detection.bbox.center = pose
    detection.bbox.size.x, detection.bbox.size.y, detection.bbox.size.z = size_m
    result = _hypothesis(name, score)
    result.pose.pose = pose
    detection.results.append(result)
    return detection


def _rows(things: Segments) -> Iterable[tuple[int, float, list[int], int]]:
    return zip(
        things.class_id.tolist(),
        things.score.tolist(),
        things.box_xyxy.tolist(),
        things.track_id.tolist(),
        strict=True,
    )


def _detection(
    name: str, score: float, box: list[int], track_id: int, header: Header
) -> 'Detection2D':
    x0, y0, x1, y1 = box
    detection = vision_msgs.Detection2D(header=header, id=str(track_id))
    detection.bbox.center.position.x = (x0 + x1) / 2
    detection.bbox.center.position.y = (y0 + y1) / 2
    detection.bbox.size_x = float(x1 - x0)
    detection.bbox.size_y = float(y1 - y0)
    detection.results.append(_hypothesis(name, score))
    return detection


def _hypothesis(name: str, score: float) -> 'ObjectHypothesisWithPose':
    result = vision_msgs.ObjectHypothesisWithPose()
    result.hypothesis.class_id = name
    result.hypothesis.score = score
    return result
