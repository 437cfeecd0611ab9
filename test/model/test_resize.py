"""Pictures brought to the size of a network: placement, padding, and filtering as Pillow does."""

import numpy as np
import pytest
from PIL import Image

from panoptic_ros.model.resize import Resize

LETTERBOX = Resize('letterbox', pad_value=7)


def noise(size_wh: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size_wh[::-1], 3), np.uint8)


def test_a_picture_of_the_right_size_is_returned_as_it_is() -> None:
    image = noise((8, 4))
    assert Resize().apply(image, (8, 4)) is image


def test_a_letterbox_keeps_the_aspect_ratio_and_pads_right_and_below() -> None:
    wide = LETTERBOX.apply(np.full((2, 8, 3), 200, np.uint8), (4, 4))
    assert wide[..., 0].tolist() == [[200] * 4, [7] * 4, [7] * 4, [7] * 4]
    tall = LETTERBOX.apply(np.full((8, 4), 200, np.uint8), (4, 4))
    assert tall.tolist() == [[200, 200, 7, 7]] * 4


@pytest.mark.parametrize(
    ('image_wh', 'content_wh', 'extent_wh'),
    [
        ((1280, 720), (640, 360), (1.0, 0.5625)),
        ((720, 1280), (360, 640), (0.5625, 1.0)),
        ((640, 640), (640, 640), (1.0, 1.0)),
        ((6400, 1), (640, 1), (1.0, 1 / 640)),
        ((1000, 402), (639, 257), (639 / 640, 257 / 640)),  # 640 * 402 / 1000 * 1000 / 402 < 640
    ],
)
def test_the_part_that_shows_the_picture(
    image_wh: tuple[int, int], content_wh: tuple[int, int], extent_wh: tuple[float, float]
) -> None:
    assert LETTERBOX.content_wh(image_wh, (640, 640)) == content_wh
    assert LETTERBOX.extent_wh(image_wh, (640, 640)) == extent_wh
    assert Resize().extent_wh(image_wh, (640, 640)) == (1.0, 1.0)


@pytest.mark.parametrize('size_wh', [(64, 48), (50, 31), (160, 20)])
def test_antialiasing_is_pillows(size_wh: tuple[int, int]) -> None:
    image = noise((128, 96))
    found = Resize(antialias=True).apply(image, size_wh).astype(int)
    expected = np.asarray(Image.fromarray(image).resize(size_wh, Image.Resampling.BILINEAR))
    assert abs(found - expected).max() <= 1
    # The check can fail: without the filter the picture is another.
    assert abs(Resize().apply(image, size_wh).astype(int) - expected).max() > 20


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'mode': 'crop'}, "mode is 'crop'; expected one of stretch, letterbox"),
        ({'antialias': 1}, 'antialias is 1; expected true or false'),
        ({'pad_value': 256}, r'pad_value is 256; expected an integer 0\.\.255'),
        ({'pad_value': True}, 'pad_value is True'),
    ],
)
def test_other_values_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Resize(**arguments)
