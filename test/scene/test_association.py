from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panoptic_ros.runs import Runs
from panoptic_ros.scene.association import Masks, shared_cells


# Against a plain way, and what always holds.
@settings(deadline=None)
@given(
    hnp.arrays(np.uint16, (7, 9), elements=st.integers(0, 4)),
    hnp.arrays(np.uint16, (7, 9), elements=st.integers(0, 3)),
    hnp.arrays(np.int64, (4, 2), elements=st.integers(-10, 10)),
)
def test_shared_cells_as_counted_pixel_by_pixel(
    before: np.ndarray, now: np.ndarray, shift_xy: np.ndarray
) -> None:
    tracked = Masks.of(before, np.array([2, 4, 1, 3], np.uint16)).moved(shift_xy)
    seen = Masks.of(now, np.array([3, 1, 2], np.uint16))
    expected = np.zeros((4, 3))
    for owner, track_id in enumerate((2, 4, 1, 3)):
        for y, x in np.argwhere(before == track_id):
            x2, y2 = x + shift_xy[owner, 0], y + shift_xy[owner, 1]
            if 0 <= x2 < 9 and 0 <= y2 < 7 and now[y2, x2]:
                expected[owner, (3, 1, 2).index(now[y2, x2])] += 1
    assert np.array_equal(shared_cells(tracked, 4, seen, 3), expected)
    assert np.array_equal(seen.area(3), [(now == k).sum() for k in (3, 1, 2)])


@settings(deadline=None)
@given(
    instance=hnp.arrays(np.uint16, (4, 5), elements=st.integers(0, 3)),
    columns=st.lists(st.integers(0, 4), min_size=5, max_size=5),
    copies=st.lists(st.integers(0, 4), min_size=4, max_size=4),
    step=st.integers(1, 4),
)
def test_masks_of_runs_are_those_of_the_map_they_make(
    instance: np.ndarray, columns: list[int], copies: list[int], step: int
) -> None:
    runs = Runs.of(instance)
    edge = np.concatenate(([0], np.cumsum(columns)))
    enlarged = replace(
        runs,
        start=edge[runs.start],
        stop=edge[runs.stop],
        width=int(edge[-1]),
        copies=np.array(copies),
    )
    ids = np.array([3, 1, 2], np.uint16)
    found = Masks.of_runs(enlarged, np.array([-1, 1, 2, 0])[runs.sample(instance)], step)
    grid = instance.repeat(columns, axis=1).repeat(copies, axis=0)[step // 2 :: step]
    grid = grid[:, step // 2 :: step]
    assert found.size_wh == grid.shape[::-1]
    assert (found.start < found.stop).all()
    painted = np.zeros(grid.shape, np.uint16)
    for owner, row, start, stop in zip(
        found.owner, found.row, found.start, found.stop, strict=True
    ):
        painted[row, start:stop] = ids[owner]
    assert np.array_equal(painted, grid)
    place = found.row * grid.shape[1] + found.start
    assert (np.diff(place) > 0).all()


@settings(deadline=None)
@given(hnp.arrays(np.uint16, (5, 6), elements=st.integers(0, 3)), st.permutations([0, 1, 2]))
def test_masks_taken_apart_and_joined(instance: np.ndarray, order: list[int]) -> None:
    masks = Masks.of(instance, np.array([1, 2, 3], np.uint16))
    chosen = masks.where(np.array(order[:2]), 3)
    assert np.array_equal(chosen.area(2), masks.area(3)[order[:2]])
    joined = chosen.joined(masks, 2)
    assert np.array_equal(joined.area(5), [*chosen.area(2), *masks.area(3)])
