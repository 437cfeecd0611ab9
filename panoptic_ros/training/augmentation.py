"""Random changes of a training image and its truth."""

from dataclasses import dataclass

import cv2
import numpy as np

from panoptic_ros.labels import VOID


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes.

    Parameters
    ----------
    crop_wh
        Size in pixels of the crop, the network's input; multiples of 32.
    scale
        Range of the scale factor. Where the scaled image is smaller than the crop, the rest is
        void.
    stretch
        Largest ratio of the scales of width and height, for cameras of another aspect ratio.
    brightness, contrast, saturation
        Largest relative change of each.
    gamma
        Largest factor by which the exponent of the brightness curve is varied, 1 or more.
    flip
        Probability of a mirror image.
    aim_share
        Probability that the crop is placed to contain a pixel of an object drawn at random;
        otherwise its position is uniform.
    turn
        Also turn by multiples of 90 degrees, for images without an upright direction.
    """

    crop_wh: tuple[int, int] = (512, 256)
    scale: tuple[float, float] = (0.7, 1.6)
    stretch: float = 1.2
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.3
    gamma: float = 1.0
    flip: float = 0.5
    aim_share: float = 0.0
    turn: bool = False

    def __post_init__(self) -> None:
        if any(size < 32 or size % 32 for size in self.crop_wh):
            raise ValueError(f'crop_wh is {self.crop_wh}; expected multiples of 32')
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f'scale is {self.scale}; expected two rising factors above 0')
        for name in ('stretch', 'gamma'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} is {getattr(self, name)}; expected 1 or more')

    def apply(
        self,
        image_rgb: np.ndarray,
        semantic: np.ndarray,
        instance: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the varied image uint8 [h, w, 3], semantic uint8 and instance uint16 [h, w]."""
        if self.turn:
            quarters = int(rng.integers(4))
            image_rgb, semantic, instance = (
                np.ascontiguousarray(np.rot90(array, quarters))
                for array in (image_rgb, semantic, instance)
            )
        height, width = semantic.shape
        crop_w, crop_h = self.crop_wh
        scale = np.exp(rng.uniform(*np.log(self.scale)))
        stretch = np.exp(rng.uniform(-1, 1) * np.log(self.stretch) / 2)
        scale_x, scale_y = scale * stretch, scale / stretch
        left = rng.uniform(0, 1) * (width * scale_x - crop_w)
        top = rng.uniform(0, 1) * (height * scale_y - crop_h)
        if self.aim_share and rng.uniform() < self.aim_share:
            rows, columns = np.nonzero(instance == rng.integers(1, max(2, instance.max() + 1)))
            if len(rows):
                middle = rng.integers(len(rows))
                left = _start_near(columns[middle] * scale_x, crop_w, width * scale_x, rng)
                top = _start_near(rows[middle] * scale_y, crop_h, height * scale_y, rng)
        mirror = rng.uniform() < self.flip
        # One affine map, from pixels of the crop to pixels of the image, does all of it.
        x_step = -1 / scale_x if mirror else 1 / scale_x
        x_start = (left + (crop_w - 1 if mirror else 0) + 0.5) / scale_x - 0.5
        y_start = (top + 0.5) / scale_y - 0.5
        to_image = np.array([[x_step, 0, x_start], [0, 1 / scale_y, y_start]])
        nearest = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        linear = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        if scale < 0.8:  # linear alone would skip pixels
            image_rgb = cv2.blur(image_rgb, (2, 2))
        image_rgb = cv2.warpAffine(
            image_rgb, to_image, self.crop_wh, flags=linear, borderValue=(127, 127, 127)
        )
        semantic = cv2.warpAffine(
            semantic, to_image, self.crop_wh, flags=nearest, borderValue=VOID
        )
        instance = cv2.warpAffine(instance, to_image, self.crop_wh, flags=nearest, borderValue=0)
        return self._vary_colour(image_rgb, rng), semantic, instance

    def _vary_colour(self, image_rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        brightness = 1 + rng.uniform(-1, 1) * self.brightness
        contrast = 1 + rng.uniform(-1, 1) * self.contrast
        saturation = 1 + rng.uniform(-1, 1) * self.saturation
        # Saturation mixes each pixel with its grey value, brightness and contrast act on all
        # channels alike: one 3x4 colour matrix.
        grey = np.array([0.299, 0.587, 0.114])
        matrix = saturation * np.eye(3) + (1 - saturation) * np.tile(grey, (3, 1))
        matrix *= brightness * contrast
        shift = 127 * (1 - contrast) * brightness
        if self.gamma > 1:
            gamma = np.exp(rng.uniform(-1, 1) * np.log(self.gamma))
            curve = 255 * (np.arange(256) / 255) ** gamma
            image_rgb = cv2.LUT(image_rgb, np.rint(curve).astype(np.uint8))
        return cv2.transform(image_rgb, np.column_stack([matrix, np.full(3, shift)]))


def _start_near(position: float, crop: int, size: float, rng: np.random.Generator) -> float:
    """Return where a crop that contains ``position`` starts; it stays inside if it fits."""
    start = position - rng.uniform(0, 1) * crop
    low, high = sorted((0.0, size - crop))
    return float(np.clip(start, low, high))
