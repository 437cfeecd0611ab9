"""From a camera image of any size to the input of a network: stretch or letterbox, filtered."""

from dataclasses import dataclass

import cv2
import numpy as np

STRETCH, LETTERBOX = 'stretch', 'letterbox'
MODES = (STRETCH, LETTERBOX)


@dataclass(frozen=True)
class Resize:
    """How an image is brought to the size of a network's input.

    Parameters
    ----------
    mode
        ``stretch`` fills the input and changes the aspect ratio. ``letterbox`` keeps the aspect
        ratio: the image lies in the upper left corner, the rest is padding.
    antialias
        Average all pixels under each pixel of a smaller image (a triangle filter as wide as the
        reduction), as Pillow and torchvision do. False samples two pixels in each direction
        whatever the reduction is: faster, but fine detail aliases.
    pad_value
        0..255, the grey level of the padding.

    Raises ValueError if a value is outside its range.
    """

    mode: str = STRETCH
    antialias: bool = False
    pad_value: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f'mode is {self.mode!r}; expected one of {", ".join(MODES)}')
        if not isinstance(self.antialias, bool):
            raise ValueError(f'antialias is {self.antialias!r}; expected true or false')
        if isinstance(self.pad_value, bool) or self.pad_value not in range(256):
            raise ValueError(f'pad_value is {self.pad_value!r}; expected an integer 0..255')

    def content_wh(
        self, image_wh: tuple[int, int], network_wh: tuple[int, int]
    ) -> tuple[int, int]:
        """Return width and height of the part of the network's input that shows the image."""
        if self.mode == STRETCH:
            return network_wh
        width, height = image_wh
        # Rounded as transformers does: the long side may end one pixel short.
        if width / network_wh[0] >= height / network_wh[1]:
            short = network_wh[0] * height / width
            content_wh = int(short * width / height), round(short)
        else:
            short = network_wh[1] * width / height
            content_wh = round(short), int(short * height / width)
        return max(1, content_wh[0]), max(1, content_wh[1])

    def extent_wh(
        self, image_wh: tuple[int, int], network_wh: tuple[int, int]
    ) -> tuple[float, float]:
        """Return that part's width and height as fractions of the input's."""
        content_wh = self.content_wh(image_wh, network_wh)
        return content_wh[0] / network_wh[0], content_wh[1] / network_wh[1]

    def apply(self, image: np.ndarray, network_wh: tuple[int, int]) -> np.ndarray:
        """Return the image at the network's size.

        ``image`` is uint8 [H, W] or [H, W, 3]; the result has as many axes and may be the image
        itself.
        """
        content_wh = self.content_wh(image.shape[1::-1], network_wh)
        if image.shape[1::-1] != content_wh:
            reduces = image.shape[1] > content_wh[0] or image.shape[0] > content_wh[1]
            if self.antialias and reduces:
                image = _reduce(image, content_wh)
            else:
                image = cv2.resize(image, content_wh, interpolation=cv2.INTER_LINEAR)
        if content_wh == network_wh:
            return image
        padded = np.full((*network_wh[::-1], *image.shape[2:]), self.pad_value, np.uint8)
        padded[: content_wh[1], : content_wh[0]] = image
        return padded


def _reduce(image: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    # Pillow is what the models were trained with. OpenCV has no filter that is as wide as the
    # reduction: INTER_AREA differs from this by up to 8 grey levels.
    from PIL import Image

    whole = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(whole.resize(size_wh, Image.Resampling.BILINEAR))
