"""Camera calibration: ``sensor_msgs/CameraInfo`` checked and fitted to the size of the maps."""

from functools import lru_cache

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from panoptic_ros.errors import FrameError
from panoptic_ros.scene.geometry import CameraModel

LARGEST_CALIBRATION = 1e9
SMALLEST_FOCAL_LENGTH_PX = 0.01
"""What no camera's calibration goes beyond; within these, no computation overflows."""


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
