import numpy as np
import pytest
from peers.nuclei import is_fluorescence

from panoptic_ros.datasets import Sample
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic

GREY, VIOLET, WHITE = (40, 40, 40), (90, 40, 120), (230, 230, 230)


@pytest.mark.parametrize(
    ('nucleus', 'rest', 'expected'),
    [
        (WHITE, GREY, True),
        (GREY, WHITE, False),  # transmitted light
        (VIOLET, WHITE, False),  # a stain
        ((200, 196, 203), GREY, True),  # grey but for rounding
    ],
)
def test_kinds_of_microscopy(nucleus, rest, expected) -> None:
    semantic = np.array([[0, 1], [0, 1]], np.uint8)
    truth = Panoptic.from_maps(semantic, semantic.astype(np.uint16), LabelSet.load('nuclei'))
    image_rgb = np.array([rest, nucleus], np.uint8)[semantic]
    assert is_fluorescence(Sample('a', image_rgb, truth, np.zeros(0, np.uint16))) is expected
