import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_ros.fusion import CentreFusion, CentreHeads
from panoptic_ros.fusion.windows import Windows
from panoptic_ros.labels import LabelSet

NUCLEI = LabelSet.load('nuclei')


def window_heads(heads: CentreHeads, windows: Windows, peaks: int) -> list[CentreHeads]:
    """Return what windows of a picture would report if each saw the truth."""
    height, width = heads.confidence.shape
    window_width, window_height = windows.window_cells_wh
    pad = ((0, max(0, window_height - height)), (0, max(0, window_width - width)))
    fine = heads.semantic.shape[0] // height
    semantic = np.pad(heads.semantic, [(0, b * fine) for _, b in pad])
    confidence = np.pad(heads.confidence, pad)
    offset_xy = np.pad(heads.offset_xy, ((0, 0), *pad))
    rows, columns = np.divmod(heads.centre_index, width)
    result = []
    for x, y in windows.spans:
        inside = (rows >= y.start) & (rows < y.start + window_height)
        inside &= (columns >= x.start) & (columns < x.start + window_width)
        assert inside.sum() <= peaks
        score = np.zeros(peaks, np.float32)
        index = np.zeros(peaks, np.int32)
        score[: inside.sum()] = heads.centre_score[inside]
        index[: inside.sum()] = (rows[inside] - y.start) * window_width + columns[inside] - x.start
        window = np.s_[y.start : y.start + window_height, x.start : x.start + window_width]
        fine_window = np.s_[
            y.start * fine : (y.start + window_height) * fine,
            x.start * fine : (x.start + window_width) * fine,
        ]
        result.append(
            CentreHeads(
                semantic=semantic[fine_window],
                confidence=confidence[window],
                centre_score=score,
                centre_index=index,
                offset_xy=offset_xy[(slice(None), *window)],
            )
        )
    return result


def true_heads(height: int, width: int, seed: int, fine: int = 2) -> CentreHeads:
    """Return the heads of a picture with an object in every second square of 6 cells."""
    rng = np.random.default_rng(seed)
    instance = np.zeros((height, width), int)
    centres = []
    for top in range(0, height - 5, 6):
        for left in range(0, width - 5, 6):
            if rng.uniform() < 0.5:
                centres.append((top + 2, left + 2))
                instance[top : top + 5, left : left + 5] = len(centres)
    place = np.array([(0, 0), *centres])[instance]
    offset_xy = np.stack(
        [place[..., 1] - np.arange(width), place[..., 0] - np.arange(height)[:, None]]
    )
    offset_xy[:, instance == 0] = 0
    return CentreHeads(
        semantic=np.repeat(np.repeat((instance > 0).astype(np.uint8), fine, 0), fine, 1),
        confidence=rng.integers(100, 256, (height, width)).astype(np.uint8),
        centre_score=np.linspace(1, 0.5, len(centres), dtype=np.float32),
        centre_index=np.array([r * width + c for r, c in centres], np.int32).reshape(-1),
        offset_xy=offset_xy.astype(np.float32),
    )


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(8, 24), st.integers(8, 24)),
    st.integers(0, 7),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 5),
)
def test_true_windows_merge_into_the_true_picture(size_wh, window_wh, overlap, fine, seed) -> None:
    heads = true_heads(size_wh[1], size_wh[0], seed, fine)
    windows = Windows(size_wh, window_wh, overlap)
    merged = windows.merge(window_heads(heads, windows, peaks=64))
    np.testing.assert_array_equal(merged.semantic, heads.semantic)
    np.testing.assert_array_equal(merged.confidence, heads.confidence)
    np.testing.assert_array_equal(merged.offset_xy, heads.offset_xy)
    np.testing.assert_array_equal(merged.centre_score, heads.centre_score)
    np.testing.assert_array_equal(merged.centre_index, heads.centre_index)


def test_no_object_is_lost_where_a_picture_has_more_than_one_window_can_report() -> None:
    heads = true_heads(120, 120, seed=1)
    windows = Windows((120, 120), (32, 32), overlap=8)
    merged = windows.merge(window_heads(heads, windows, peaks=36))
    assert len(merged.centre_score) == len(heads.centre_score) > 128
    fused = CentreFusion(min_thing_area_fraction=0.0)(merged, NUCLEI, (480, 480))
    assert len(fused.panoptic.segments.things) == len(heads.centre_score)


def test_a_centre_that_two_windows_place_differently_counts_once() -> None:
    windows = Windows((14, 8), (8, 8), overlap=2)
    assert [x.start for x, _ in windows.spans] == [0, 6]

    def heads(column: int, score: float) -> CentreHeads:
        return CentreHeads(
            semantic=np.ones((8, 8), np.uint8),
            confidence=np.full((8, 8), 255, np.uint8),
            centre_score=np.array([score, 0], np.float32),
            centre_index=np.array([4 * 8 + column, 0], np.int32),
            offset_xy=np.zeros((2, 8, 8), np.float32),
        )

    # Column 7 of the first window and 0 of the second are columns 7 and 6 of the picture: each
    # lies in the half that the other window decides.
    merged = windows.merge([heads(7, 0.6), heads(0, 0.8)])
    assert merged.centre_index.tolist() == [4 * 14 + 6]
    np.testing.assert_allclose(merged.centre_score, [0.8])


def test_thresholds_are_fractions_of_a_window() -> None:
    windows = Windows((40, 40), (10, 10), overlap=2)
    fusion = CentreFusion(min_thing_area_fraction=0.16, max_centre_distance_fraction=0.4)
    rescaled = windows.rescale(fusion)
    assert rescaled.min_thing_area_fraction == pytest.approx(0.01)
    assert rescaled.max_centre_distance_fraction == pytest.approx(0.1)
    assert Windows((5, 5), (10, 10), 2).rescale(fusion).max_centre_distance_fraction == 0.8


@pytest.mark.parametrize(
    ('size_wh', 'window_wh', 'overlap'), [((0, 5), (8, 8), 2), ((9, 9), (8, 4), 4)]
)
def test_windows_that_cannot_cover_a_picture_are_refused(size_wh, window_wh, overlap) -> None:
    with pytest.raises(ValueError, match='an overlap smaller than a window'):
        Windows(size_wh, window_wh, overlap)
