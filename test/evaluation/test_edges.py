"""The band around true borders."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panoptic_ros.errors import PanopticRosError
from panoptic_ros.evaluation.edges import near_borders
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import Panoptic

LABELS = LabelSet.load('cityscapes')
ROAD, SKY, CAR = 0, 10, 13


def test_only_pixels_at_borders_are_kept() -> None:
    semantic = np.array([[ROAD] * 6 + [SKY] * 6], np.uint8)
    truth = Panoptic.from_maps(semantic, np.zeros((1, 12), np.uint16), LABELS)
    assert near_borders(truth, 1).semantic[0, 4:8].tolist() == [VOID, ROAD, SKY, VOID]
    assert near_borders(truth, 3).semantic[0, 2:10].tolist() == [
        VOID,
        *[ROAD] * 3,
        *[SKY] * 3,
        VOID,
    ]


def test_two_things_of_one_class_have_a_border() -> None:
    instance = np.array([[1, 1, 1, 2, 2, 2]], np.uint16)
    truth = Panoptic.from_maps(np.full((1, 6), CAR, np.uint8), instance, LABELS)
    assert near_borders(truth, 1).instance.tolist() == [[0, 0, 1, 2, 0, 0]]


def test_one_segment_has_no_border() -> None:
    truth = Panoptic.from_maps(np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint16), LABELS)
    assert (near_borders(truth, 3).semantic == VOID).all()


@settings(deadline=None, max_examples=50)
@given(
    hnp.arrays(np.uint8, (7, 9), elements=st.sampled_from([ROAD, SKY, VOID])), st.integers(1, 4)
)
def test_the_band_equals_its_definition(semantic: np.ndarray, radius_px: int) -> None:
    truth = Panoptic.from_maps(semantic, np.zeros(semantic.shape, np.uint16), LABELS)
    y, x = np.mgrid[:7, :9]
    apart = np.hypot(y.ravel()[:, None] - y.ravel(), x.ravel()[:, None] - x.ravel())
    flat = semantic.ravel()
    is_border = ((flat[:, None] != flat) & (apart == 1)).any(1)
    is_kept = ((apart < radius_px) & is_border).any(1)
    expected = np.where(is_kept, flat, VOID).reshape(semantic.shape)
    np.testing.assert_array_equal(near_borders(truth, radius_px).semantic, expected)


def test_a_band_without_width_is_refused() -> None:
    truth = Panoptic.from_maps(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint16), LABELS)
    with pytest.raises(PanopticRosError, match='is 0 pixels wide; expected 1 or more'):
        near_borders(truth, 0)
