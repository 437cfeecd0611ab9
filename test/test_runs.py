"""Run-length encoding: literal maps, and every operation against the map it stands for."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panoptic_ros.runs import Runs, ranges

SEMANTIC = np.array([[2, 2, 2], [2, 0, 0]], np.uint8)
INSTANCE = np.array([[1, 1, 2], [2, 0, 0]], np.uint16)
label_maps = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 7)), elements=st.integers(0, 3)
)
sizes_wh = st.tuples(st.integers(1, 15), st.integers(1, 15))


def test_runs_split_rows_where_any_map_changes() -> None:
    runs = Runs.of(SEMANTIC, INSTANCE)
    assert runs.row.tolist() == [0, 0, 1, 1]
    assert runs.start.tolist() == [0, 2, 0, 1]
    assert runs.stop.tolist() == [2, 3, 1, 3]
    assert runs.first.tolist() == [0, 2, 3, 4]
    assert runs.length.tolist() == [2, 1, 1, 2]
    assert runs.sample(SEMANTIC).tolist() == [2, 2, 2, 0]
    assert runs.sample(INSTANCE).tolist() == [1, 2, 2, 0]
    assert len(Runs.of(SEMANTIC)) == 3


@pytest.mark.parametrize('shape', [(0, 0), (0, 4), (4, 0)])
def test_a_map_without_pixels_has_no_runs(shape: tuple[int, int]) -> None:
    runs = Runs.of(np.zeros(shape, np.uint8))
    assert len(runs) == 0
    assert runs.expand(np.zeros(0, np.uint8)).shape == shape


def test_maps_of_several_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r'maps are \(2, 3\) and \(1, 3\)'):
        Runs.of(SEMANTIC, INSTANCE[:1])


def test_runs_with_gaps_are_refused() -> None:
    with pytest.raises(ValueError, match='cover 3 pixels; expected 1 rows of 4'):
        Runs(np.array([0]), np.array([0]), np.array([3]), 4, np.array([1]))


@settings(deadline=None)
@given(labels=label_maps, size_wh=sizes_wh)
def test_resized_runs_are_those_of_the_resized_map(
    labels: np.ndarray, size_wh: tuple[int, int]
) -> None:
    runs = Runs.of(labels)
    resized = runs.resized(size_wh)
    expected = cv2.resize(labels, size_wh, interpolation=cv2.INTER_NEAREST_EXACT)
    values = runs.sample(labels)
    assert resized.size_wh == size_wh
    assert resized.expand(values).tolist() == expected.tolist()
    area, box_xyxy = resized.measure(values, 4)
    for label in range(4):
        y, x = np.nonzero(expected == label)
        assert area[label] == len(y)
        if len(y):
            box = [x.min(), y.min(), x.max() + 1, y.max() + 1]
            assert box_xyxy[label].tolist() == box
    first, run = resized.unrolled()
    assert np.repeat(values[run], np.diff(first, append=expected.size)).tolist() == (
        expected.ravel().tolist()
    )


def test_ranges_one_after_the_other() -> None:
    assert ranges(np.array([3, 9, 5]), np.array([2, 0, 3])).tolist() == [3, 4, 5, 6, 7]
    assert ranges(0, np.array([1, 3])).tolist() == [0, 0, 1, 2]
    assert ranges(0, np.zeros(0, np.intp)).tolist() == []
