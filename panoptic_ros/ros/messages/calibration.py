"""Camera calibration: ``sensor_msgs/CameraInfo`` checked and fitted to the size of the maps."""

import re
from functools import lru_cache

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from panoptic_ros.errors import FrameError
from panoptic_ros.scene.geometry import CameraModel

LARGEST_CALIBRATION = 1e9
SMALLEST_FOCAL_LENGTH_PX = 0.01
"""Limits of a plausible calibration; within them, no computation overflows."""

MAX_DISTORTION = 0.02
"""Lens distortion of raw images above which objects are not placed, as a share of the width."""

MATRIX_TOLERANCE = 0.05
"""Difference of P and K above which a warning says which one is used, as a share of the width."""

SHAPE_TOLERANCE = 0.02
"""Relative difference of width : height between calibration and image that rounding explains."""

PINHOLE_MODELS = frozenset(
    {
        *('', 'none', 'no_distortion', 'pinhole', 'perspective', 'unknown'),
        *('plumb_bob', 'radtan', 'radial_tangential', 'rational_polynomial'),
        *('brown', 'brown_conrady', 'inverse_brown_conrady', 'modified_brown_conrady'),
        *('thin_prism', 'tilted'),
    }
)
"""Names of distortion models of pinhole cameras, in lower case with underscores.

sensor_msgs defines ``plumb_bob``, ``rational_polynomial`` and ``equidistant``; drivers and
simulators have more names for them.
"""


def check_camera_info(info: CameraInfo) -> None:
    """Raise FrameError unless the calibration can be used.

    It cannot if a number in it is not finite or absurdly large, if neither ``k`` nor ``p`` is
    filled in, if a focal length is not above 0 or the last row is not 0 0 1, or if it does not
    say for which image size it is. (All zeros mean an uncalibrated camera.)
    """
    for name in ('k', 'd', 'r', 'p'):
        values = np.asarray(getattr(info, name), np.float64)
        if not (abs(values) <= LARGEST_CALIBRATION).all():  # written so that NaN is refused
            raise FrameError(
                f'camera_info.{name} is {values.tolist()}; accepted are finite numbers up to '
                f'{LARGEST_CALIBRATION:g}'
            )
    matrices = {'k': np.reshape(info.k, (3, 3)), 'p': np.reshape(info.p, (3, 4))[:, :3]}
    filled = {name: matrix for name, matrix in matrices.items() if _is_filled(matrix)}
    for name, matrix in (filled or {'k': matrices['k']}).items():
        fx, fy = float(matrix[0, 0]), float(matrix[1, 1])
        if not min(fx, fy) >= SMALLEST_FOCAL_LENGTH_PX:
            raise FrameError(
                f'camera_info.{name} has focal lengths {fx} and {fy}; accepted are '
                f'{SMALLEST_FOCAL_LENGTH_PX} pixels and more'
            )
        last_row = [float(value) for value in matrix[2]]
        if last_row != [0.0, 0.0, 1.0]:
            raise FrameError(
                f'camera_info.{name} has the last row {last_row}; accepted is [0.0, 0.0, 1.0]'
            )
    if not info.width or not info.height:
        raise FrameError(
            f'camera_info is for images of {info.width}x{info.height}; accepted is 1x1 and larger'
        )


def _is_filled(matrix: np.ndarray) -> bool:
    # A camera without calibration has zeros; some drivers leave P as the identity.
    return bool(matrix.any()) and not np.array_equal(matrix, np.eye(3))


def choose_matrix(info: CameraInfo, choice: str = 'auto') -> tuple[str, np.ndarray]:
    """Return the name (``P`` or ``K``) and the matrix that describe the images, float64 [3, 3].

    ``choice`` is ``auto``, ``P`` or ``K``. A matrix that is not filled in is replaced by the other
    one.
    """
    k, p = np.reshape(info.k, (3, 3)), np.reshape(info.p, (3, 4))[:, :3]
    if _is_filled(p) and (choice != 'K' or not _is_filled(k)):
        return 'P', p
    return 'K', k


def fit_camera(info: CameraInfo, size_wh: tuple[int, int], choice: str = 'auto') -> CameraModel:
    """Return the pinhole camera of an image of another size.

    Parameters
    ----------
    info
        A calibration that :func:`check_camera_info` accepts.
    size_wh
        Width and height of the image in pixels.
    choice
        As for :func:`choose_matrix`.
    """
    matrix = choose_matrix(info, choice)[1]
    return _fit_camera(tuple(matrix.ravel().tolist()), _crop_xywh(info), size_wh)


@lru_cache(maxsize=8)  # the calibration comes with every image
def _fit_camera(
    matrix: tuple[float, ...], crop_xywh: tuple[int, int, int, int], size_wh: tuple[int, int]
) -> CameraModel:
    full = np.reshape(matrix, (3, 3))
    return CameraModel.from_k(_crop_to_image(crop_xywh, size_wh) @ full, size_wh)


def check_pinhole(info: CameraInfo, choice: str = 'auto') -> None:
    """Raise FrameError if the images are not those of a pinhole camera.

    They are not if the distortion model is not one of :data:`PINHOLE_MODELS` (a fisheye lens,
    ``equidistant``), unless ``choice`` is ``P``, which says that they are rectified; or if K is
    used, that is, the images are raw, and the lens moves pixels by more than
    :data:`MAX_DISTORTION`.
    """
    if choice == 'P':
        return
    if re.sub('[ -]', '_', info.distortion_model.strip().lower()) not in PINHOLE_MODELS:
        raise FrameError(
            f'the distortion_model {info.distortion_model!r} of camera_info is not that of a '
            'pinhole camera, so objects are not placed in space; rectify the images (image_proc) '
            'and set camera_matrix to P'
        )
    if choose_matrix(info, choice)[0] == 'K':
        share = _distortion(
            tuple(map(float, info.k)), tuple(map(float, info.d)), (info.width, info.height)
        )
        if share > MAX_DISTORTION:
            raise FrameError(
                f'the lens distortion in camera_info.d moves pixels by up to {share:.0%} of the '
                "image's width, so objects are not placed in space; rectify the images "
                '(image_proc) and set camera_matrix to P'
            )


def check_shape(info: CameraInfo, size_wh: tuple[int, int]) -> None:
    """Raise FrameError if an image has other proportions than those the calibration is for.

    Some drivers publish the calibration of one resolution with images of another. The matrix can
    be scaled, but an image of other proportions was cropped, and it is not known where.
    """
    _, _, width, height = _crop_xywh(info)
    if abs(width * size_wh[1] / (height * size_wh[0]) - 1) > SHAPE_TOLERANCE:
        raise FrameError(
            f'camera_info is for images of {width}x{height}, and they are {size_wh[0]}x'
            f'{size_wh[1]}, other proportions, so objects are not placed in space; calibrate the '
            'camera at this resolution, or correct width, height and roi of its camera_info'
        )


def matrix_warning(info: CameraInfo, choice: str = 'auto') -> str:
    """Return a warning if ``auto`` chooses between matrices that differ much, else ''."""
    k, p = np.reshape(info.k, (3, 3)), np.reshape(info.p, (3, 4))[:, :3]
    if choice != 'auto' or not (_is_filled(k) and _is_filled(p)):
        return ''
    share = abs(k[:2] - p[:2]).max() / max(info.width, 1)
    if share <= MATRIX_TOLERANCE:
        return ''
    return (
        f'matrices P (fx {p[0, 0]:.1f}, cx {p[0, 2]:.1f}) and K (fx {k[0, 0]:.1f}, cx '
        f'{k[0, 2]:.1f}) of camera_info differ; P is used, which is right for rectified images: '
        'set camera_matrix to K for raw ones, to P to accept it'
    )


@lru_cache(maxsize=8)
def _distortion(k: tuple[float, ...], d: tuple[float, ...], size_wh: tuple[int, int]) -> float:
    """Return how far the lens moves a pixel at most, as a share of the width."""
    if not any(d):
        return 0.0
    width, height = size_wh
    matrix, coefficients = np.reshape(k, (3, 3)), np.array(d)
    along = np.linspace(0, 1, 9)
    pixel = np.stack(np.meshgrid(along * (width - 1), along * (height - 1)), -1).reshape(-1, 2)
    focal, centre = matrix[[0, 1], [0, 1]], matrix[:2, 2]
    rays = np.column_stack([(pixel - centre) / focal, np.ones(len(pixel))])
    # OpenCV takes 4, 5, 8, 12 or 14 coefficients.
    length = next((n for n in (4, 5, 8, 12, 14) if n >= len(d)), 14)
    padded = np.zeros(length)
    padded[: min(len(d), length)] = coefficients[:length]
    moved = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), matrix, padded)[0].reshape(-1, 2)
    off = np.linalg.norm(moved - pixel, axis=1).max() / width
    return float(off) if np.isfinite(off) else float('inf')


def _crop_xywh(info: CameraInfo) -> tuple[int, int, int, int]:
    """Return the region of the full image that the image shows, pixels."""
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
    """Return a calibration for images of another size, for example of the maps.

    Region of interest and binning are applied to the matrices, so the result has neither: its
    ``k`` and ``p`` are for the pixels of a whole image of ``size_wh``. Pixel centres lie at whole
    numbers, so a principal point scales by ``(c + 0.5) * scale - 0.5``, which is where
    ``cv2.resize`` puts it.

    Parameters
    ----------
    info
        A calibration that :func:`check_camera_info` accepts.
    header
        Copied into the result.
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
