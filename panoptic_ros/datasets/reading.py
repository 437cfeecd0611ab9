"""Read the image files of data sets, with errors that name the image."""

from pathlib import Path

import cv2
import numpy as np

from panoptic_ros.errors import DatasetError
from panoptic_ros.image_files import read_image


def read_rgb(path: Path, image_id: str) -> np.ndarray:
    """Read an image as stored (without EXIF rotation), uint8 [H, W, 3] RGB.

    Raises DatasetError if the file is missing or not an image.
    """
    return cv2.cvtColor(_read(path, image_id, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_id_colors(path: Path, image_id: str) -> np.ndarray:
    """Read a COCO panoptic PNG, whose colours are segment ids, uint8 [H, W, 3] RGB.

    Raises DatasetError if the file is missing, not an image, or has other than three (or, with
    alpha, four) channels of 8 bits.
    """
    bgr = _read(path, image_id, cv2.IMREAD_UNCHANGED)
    channels = 1 if bgr.ndim == 2 else bgr.shape[2]
    if channels not in (3, 4) or bgr.dtype != np.uint8:
        raise DatasetError(
            f'image {image_id}: {path} has {channels} channel{"s" * (channels > 1)} of '
            f'{8 * bgr.itemsize} bits; a COCO panoptic PNG has three of 8 bits that hold the '
            'segment id as R + 256 G + 65536 B: convert it'
        )
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB if channels == 3 else cv2.COLOR_BGRA2RGB)


def read_values(path: Path, image_id: str) -> np.ndarray:
    """Read an image of one channel as stored, uint8 or uint16 [H, W].

    Raises DatasetError if the file is missing or has several channels.
    """
    values = _read(path, image_id, cv2.IMREAD_UNCHANGED)
    if values.ndim != 2:
        raise DatasetError(
            f'image {image_id}: {path} has {values.shape[2]} channels; expected one with ids'
        )
    return values


def _read(path: Path, image_id: str, flags: int) -> np.ndarray:
    try:
        image = read_image(path, flags)
    except FileNotFoundError as error:
        raise DatasetError(
            f'image {image_id}: file {path} does not exist; the data are incomplete'
        ) from error
    except OSError as error:
        raise DatasetError(
            f'image {image_id}: file {path} cannot be read ({error.strerror})'
        ) from error
    if image is None:
        raise DatasetError(f'image {image_id}: file {path} is not an image that OpenCV can read')
    return image
