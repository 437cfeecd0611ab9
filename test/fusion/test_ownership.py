"""The contest of soft masks: literal grids, and equality with enlarging every mask."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_ros.fusion.ownership import Assignment, own_pixels, sigmoid

HIGH, LOW = 8.0, -8.0


def enlarge(planes: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """Return float64 [K, H, W]: each pixel's middle, bilinear between the middles of cells."""

    def weights(cells: int, pixels: int) -> np.ndarray:
        matrix = np.zeros((pixels, cells))
        for pixel in range(pixels):
            place = max((pixel + 0.5) * cells / pixels - 0.5, 0)
            first = int(place)
            matrix[pixel, first] += 1 - (place - first)
            matrix[pixel, min(first + 1, cells - 1)] += place - first
        return matrix

    height, width = planes.shape[1:]
    across = planes.astype(np.float64) @ weights(width, size_wh[0]).T
    return weights(height, size_wh[1]) @ across


def plain_probabilities(
    logit: np.ndarray, weight: np.ndarray, size_wh: tuple[int, int], logit_grid: int
) -> np.ndarray:
    logit = logit.astype(np.float64)
    if logit_grid:
        logit = enlarge(logit, (logit_grid, logit_grid))
    return enlarge(1 / (1 + np.exp(-logit)), size_wh) * weight[:, None, None]


def assert_fair(
    logit: np.ndarray,
    weight: np.ndarray,
    size_wh: tuple[int, int],
    threshold: float,
    logit_grid: int,
) -> None:
    """Check against every mask enlarged, up to what float32 rounds."""
    owner, area, largest, _ = own_pixels(logit, weight, size_wh, threshold, logit_grid)
    expected = plain_probabilities(logit, weight, size_wh, logit_grid)
    assert owner.dtype == np.uint16
    assert owner.shape == size_wh[::-1]
    of_owner = np.take_along_axis(expected, owner[None].astype(np.intp), axis=0)[0]
    np.testing.assert_allclose(of_owner, expected.max(axis=0), rtol=3e-6)
    surely = (expected >= threshold * (1 + 3e-6)).sum(axis=(1, 2))
    perhaps = (expected >= threshold * (1 - 3e-6)).sum(axis=(1, 2))
    assert ((surely <= area) & (area <= perhaps)).all()
    coarse = (sigmoid(logit) * weight[:, None, None]).max(axis=0)
    np.testing.assert_array_equal(largest, coarse)


def test_a_border_between_two_masks_lies_in_the_middle() -> None:
    logit = np.array([[[HIGH, LOW]], [[LOW, HIGH]]], np.float32)
    owner, area, largest, _ = own_pixels(logit, np.ones(2, np.float32), (8, 1), 0.5)
    assert owner.tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]]
    assert area.tolist() == [4, 4]
    np.testing.assert_allclose(largest, 1, atol=1e-3)


def test_the_weight_decides_where_masks_overlap() -> None:
    logit = np.full((3, 2, 2), HIGH, np.float32)
    owner, area, _, _ = own_pixels(logit, np.array([0.4, 0.9, 0.6], np.float32), (5, 3), 0.5)
    assert (owner == 1).all()
    assert area.tolist() == [0, 15, 15]


def test_the_first_of_equals_has_the_pixel() -> None:
    logit = np.zeros((4, 3, 3), np.float32)
    owner, area, _, _ = own_pixels(logit, np.ones(4, np.float32), (7, 7), 0.5)
    assert not owner.any()
    assert area.tolist() == [49] * 4


def test_logits_enlarged_first_make_a_border_that_probabilities_do_not() -> None:
    logit = np.array([[[6.0, -2.0]], [[-6.0, 6.0]]], np.float32)
    weight = np.ones(2, np.float32)
    direct, _, _, _ = own_pixels(logit, weight, (64, 1), 0.5)
    through, _, _, _ = own_pixels(logit, weight, (64, 1), 0.5, logit_grid=64)
    # Logits cross at 6 - 8 t = -6 + 12 t, t = 0.6; probabilities nearer to the middle.
    assert np.count_nonzero(through == 0) == pytest.approx(16 + 32 * 0.6, abs=1)
    assert np.count_nonzero(direct == 0) < np.count_nonzero(through == 0)


def test_one_mask_owns_everything() -> None:
    owner, area, _, _ = own_pixels(
        np.full((1, 1, 1), -50, np.float32), np.ones(1, np.float32), (4, 2), 0.5
    )
    assert not owner.any()
    assert area.tolist() == [0]


@st.composite
def contests(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, tuple[int, int], float, int]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    masks, height, width = (draw(st.integers(1, top)) for top in (12, 9, 9))
    logit = rng.normal(0, draw(st.sampled_from([0.1, 3, 30])), (masks, height, width))
    if draw(st.booleans()):  # masks that are smooth, as networks make them
        y, x = np.mgrid[:height, :width]
        place = rng.uniform(-1, max(height, width) + 1, (2, masks, 1, 1))
        logit = 6 - 3 * np.hypot(y - place[0], x - place[1])
    size_wh = (draw(st.integers(1, 40)), draw(st.integers(1, 40)))
    logit_grid = draw(st.sampled_from([0, 0, 1, 5, 17, 31]))
    weight = rng.uniform(0.05, 1, masks).astype(np.float32)
    threshold = draw(st.sampled_from([0.01, 0.3, 0.5, 1.0]))
    return logit.astype(np.float32), weight, size_wh, threshold, logit_grid


@settings(max_examples=300, deadline=None)
@given(contests())
def test_equals_enlarging_every_mask(
    case: tuple[np.ndarray, np.ndarray, tuple[int, int], float, int],
) -> None:
    assert_fair(*case)


@pytest.mark.parametrize('logit_grid', [0, 96])
def test_many_masks_at_camera_size(logit_grid: int) -> None:
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:40, :60]
    place = rng.uniform(0, 60, (2, 40, 1, 1))
    logit = 6 - np.hypot(y - place[0], x - place[1]) + rng.normal(0, 1, (40, 40, 60))
    weight = rng.uniform(0.5, 1, 40).astype(np.float32)
    assert_fair(logit.astype(np.float32), weight, (320, 200), 0.5, logit_grid)


@pytest.mark.parametrize('logit_grid', [0, 11])
def test_areas_of_enlarged_logits_count_only_pixels_that_exist(logit_grid: int) -> None:
    logit = np.random.default_rng(0).normal(0, 2, (6, 5, 7)).astype(np.float32)
    weight = np.linspace(0.5, 1, 6, dtype=np.float32)
    owned = own_pixels(logit, weight, (33, 22), 0.5, logit_grid, Assignment.LOGIT)
    enlarged = enlarge(logit, (logit_grid, logit_grid)) if logit_grid else logit
    probability = 1 / (1 + np.exp(-enlarge(enlarged, (33, 22))))
    assert abs(owned.area - (probability >= 0.5).sum((1, 2))).max() <= 1
    winner = (probability * weight[:, None, None]).argmax(0)
    assert np.count_nonzero(owned.owner != winner) <= 1
