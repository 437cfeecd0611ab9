"""Images for golden files, rendered so that a model folder holds no picture of a data set."""

import cv2
import numpy as np

from panoptic_ros.datasets.street.scene import synthetic_samples

_STREETS = ('cityscapes', 'vistas', 'vistas-v2.0', 'synthetic')


def golden_image(dataset: str, size_wh: tuple[int, int]) -> np.ndarray:
    """Return an image with several objects, uint8 [H, W, 3] RGB, always the same.

    A synthetic street for models of streets, otherwise bright blobs on a dark ground, some of
    them touching.
    """
    if dataset in _STREETS:
        return np.ascontiguousarray(
            synthetic_samples(seed=7, count=1, size_wh=size_wh)[0].image_rgb
        )
    return blobs(size_wh, seed=7)


def blobs(size_wh: tuple[int, int], seed: int) -> np.ndarray:
    """Return ellipses of several sizes and brightnesses with blur and noise, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    width, height = size_wh
    image = np.full((height, width, 3), (24, 20, 28), np.uint8)
    for _ in range(max(8, width * height // 4000)):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = tuple(int(side) for side in rng.uniform(0.012, 0.05, 2) * min(size_wh) + 3)
        level = rng.uniform(70, 230)
        color = [int(level * factor) for factor in (0.8, 0.7, 1.0)]
        cv2.ellipse(image, centre, axes, rng.uniform(0, 180), 0, 360, color, cv2.FILLED)
    image = cv2.GaussianBlur(image, (0, 0), 1.2)
    noise = rng.normal(0, 3, image.shape[:2])[..., None]
    return np.clip(image + noise, 0, 255).astype(np.uint8)
