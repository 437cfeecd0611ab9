import itertools
import random

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_ros.large.stitching import (
    NODATA,
    Stitcher,
    WindowMap,
    agree_on_a_part,
    stitch,
)
from panoptic_ros.large.windows import Grid, Window

GRASS, CAR, TRUCK = 1, 2, 3


def window_maps(
    semantic: np.ndarray, instance: np.ndarray, grid: Grid, seed: int = 0
) -> list[WindowMap]:
    """Cut a true map into windows, and give the connected pieces in each ids in random order."""
    return [
        cut(semantic, instance, window, random.Random(seed + row))
        for row in range(len(grid.rows))
        for window in grid.band(row)
    ]


def cut(
    semantic: np.ndarray, instance: np.ndarray, window: Window, chance: random.Random
) -> WindowMap:
    place = np.s_[
        window.y.kept_start : window.y.kept_stop, window.x.kept_start : window.x.kept_stop
    ]
    semantic, instance = semantic[place], instance[place]
    masks = []
    for value in np.unique(instance[instance > 0]):
        count, pieces = cv2.connectedComponents(
            (instance == value).astype(np.uint8), connectivity=8
        )
        masks += [pieces == n for n in range(1, count)]
    chance.shuffle(masks)
    local = np.zeros(instance.shape, np.uint16)
    for number, mask in enumerate(masks, 1):
        local[mask] = number
    return WindowMap(semantic.copy(), local, np.ones(len(masks) + 1, np.float32))


def in_reading_order(instance: np.ndarray) -> np.ndarray:
    """Number the ids of a map by their first pixels."""
    ids, first = np.unique(instance, return_index=True)
    ids = ids[np.argsort(first)]
    new = np.zeros(int(instance.max()) + 1, np.uint32)
    ids = ids[ids > 0]
    new[ids] = np.arange(1, len(ids) + 1)
    return new[instance]


def true_map(picture: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Letters are cars, digits trucks, one object each; '.' is grass, '-' has no data."""
    rows = np.array([[ord(c) for c in row] for row in picture])
    letters = (rows >= ord('a')) & (rows <= ord('z'))
    digits = (rows >= ord('0')) & (rows <= ord('9'))
    semantic = np.full(rows.shape, GRASS, np.uint16)
    semantic[letters], semantic[digits], semantic[rows == ord('-')] = CAR, TRUCK, NODATA
    return semantic, np.where(letters | digits, rows, 0)


def check_exact(semantic: np.ndarray, instance: np.ndarray, grid: Grid, seed: int = 0) -> None:
    found_semantic, found, objects = stitch(grid, window_maps(semantic, instance, grid, seed))
    expected = in_reading_order(instance)
    np.testing.assert_array_equal(found_semantic, semantic)
    np.testing.assert_array_equal(found, expected)
    assert len(objects) == expected.max()
    for row in range(len(objects)):
        y, x = np.nonzero(expected == row + 1)
        assert objects.area_px[row] == len(x)
        assert objects.class_id[row] == semantic[y[0], x[0]]
        assert objects.box_xyxy[row].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        np.testing.assert_allclose(objects.centroid_xy[row], [x.mean() + 0.5, y.mean() + 0.5])


@pytest.mark.parametrize(
    'picture',
    [
        pytest.param(['..........', '.aaaaaaaa.', '..........', '..........'], id='longer'),
        pytest.param(['..........', '...aaa....', '...aaa....', '..........'], id='four windows'),
        pytest.param(['..aa11bb..', '..aa11bb..', '..aa11bb..', '..ccccdd..'], id='touching'),
        pytest.param(['aaaaaaaaaa', 'a........a', 'aaaaaaaa.a', 'bbbbbbbb.a'], id='twice'),
        pytest.param(['a....a....', '.a..a.a...', '..aa...a..', '........a.'], id='diagonal'),
        pytest.param(['----------', '-aaaa.....', '-aaaa...11', '--........'], id='no data'),
    ],
)
@pytest.mark.parametrize('overlap', [1, 2])
def test_true_windows_give_the_true_map(picture: list[str], overlap: int) -> None:
    check_exact(*true_map(picture), Grid((10, 4), (4, 4), overlap))


@st.composite
def maps_and_grids(draw) -> tuple[np.ndarray, np.ndarray, Grid]:
    width, height = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    window = draw(st.integers(2, 12)), draw(st.integers(2, 12))
    overlap = draw(st.integers(1, min(window) // 2))
    trim = draw(st.integers(0, (overlap - 1) // 2))
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # Blobs of several sizes that touch and enclose each other, every one of them connected.
    scale = draw(st.sampled_from([1, 2, 4, 8]))
    cells = chance.integers(0, 4, (height // scale + 1, width // scale + 1)).astype(np.uint8)
    semantic = cv2.resize(cells, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    semantic = semantic[:height, :width].astype(np.uint16)
    instance = np.zeros(semantic.shape, np.int64)
    for class_id in (CAR, TRUCK):
        _, pieces = cv2.connectedComponents((semantic == class_id).astype(np.uint8))
        instance = np.where(pieces > 0, pieces + instance.max(), instance)
    return semantic, instance, Grid((width, height), window, overlap, trim)


@settings(deadline=None)
@given(maps_and_grids(), st.integers(0, 100))
def test_any_true_windows_give_the_true_map(case, seed: int) -> None:
    check_exact(*case, seed)


@settings(deadline=None, max_examples=40)
@given(maps_and_grids())
def test_order_of_local_ids_changes_nothing(case) -> None:
    semantic, instance, grid = case
    first, second = (stitch(grid, window_maps(semantic, instance, grid, s)) for s in (1, 2))
    np.testing.assert_array_equal(first[1], second[1])


def test_mirrored_and_turned_windows_give_the_mirrored_and_turned_map() -> None:
    # With maps that contradict each other there is no true map; order must not decide.
    chance = np.random.default_rng(5)
    grid = Grid((34, 34), (14, 14), 4)
    cells = [chance.integers(0, 3, (14, 14)).astype(np.uint16) for _ in range(9)]
    noisy = [
        WindowMap(np.where(c > 0, CAR, GRASS).astype(np.uint16), c, np.ones(3)) for c in cells
    ]
    turned = [WindowMap(m.semantic.T, m.instance.T, m.score) for m in noisy]
    turned = [turned[row * 3 + column] for column, row in itertools.product(range(3), range(3))]
    semantic, instance, _ = stitch(grid, noisy)
    semantic_t, instance_t, _ = stitch(grid, turned)
    np.testing.assert_array_equal(semantic_t, semantic.T)
    np.testing.assert_array_equal(in_reading_order(instance_t.T), instance)


def two_windows(left: list[str], right: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stitch two windows of 8 columns that share 4; columns 6 and on are the right one's."""
    maps = []
    for picture in (left, right):
        semantic, codes = true_map(picture)
        ids = np.searchsorted(np.unique(codes[codes > 0]), codes) + 1
        local = np.where(codes > 0, ids, 0).astype(np.uint16)
        maps.append(WindowMap(semantic, local, np.linspace(0, 1, local.max() + 1)))
    grid = Grid((12, len(left)), (8, 8), 4)
    return stitch(grid, maps)


def test_an_object_that_each_window_cuts_otherwise_is_one() -> None:
    # The windows share the middle column. The left one sees its first three pixels as one piece,
    # the right one its last three; the two pieces share one pixel of three.
    picture = ['.a.', 'a..', '.a.', 'a..', '.a.', '..a', '.a.', '..a', '.a.']
    check_exact(*true_map(picture), Grid((3, 9), (2, 9), 1))


def test_masks_agree_on_a_part_only_if_all_of_it_is_in_both() -> None:
    a = np.array([[1, 0, 1], [1, 0, 1]], bool)
    assert agree_on_a_part(a, np.array([[1, 0, 0], [1, 0, 0]], bool))
    assert not agree_on_a_part(a, np.array([[1, 0, 1], [0, 0, 0]], bool))
    assert not agree_on_a_part(a, np.array([[1, 0, 0], [1, 1, 0]], bool))


def test_each_pixel_comes_from_the_window_that_has_it_farther_from_its_border() -> None:
    semantic, instance, _ = two_windows(['....aaaa'], ['........'])
    assert instance[0].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    assert semantic[0].tolist() == [1, 1, 1, 1, 2, 2, 1, 1, 1, 1, 1, 1]


def test_too_little_overlap_leaves_two_objects() -> None:
    _, instance, _ = two_windows(['...aaa..', '........'], ['........', '.aaaa...'])
    assert instance.max() == 2


def test_other_classes_need_an_overlap_of_their_union() -> None:
    # A person on a car that only one window has seen is no car.
    _, _, objects = two_windows(['.....1..', '.aaaaaaa'], ['aaaa....', 'aaaa....'])
    assert len(objects) == 2
    assert objects.class_id.tolist() == [TRUCK, CAR]
    # One object, and most of its pixels are those of a truck.
    semantic, _, objects = two_windows(['.aaaaaaa'], ['1111111.'])
    assert len(objects) == 1
    assert semantic[0].tolist() == [1, *[CAR] * 10, 1]


def test_scores_are_weighted_by_area() -> None:
    _, _, objects = two_windows(['.....aaa'], ['.aaa....'])
    # One pixel at the left, two at the right, each with score 1.
    assert objects.area_px.tolist() == [3]
    assert objects.score.tolist() == [1.0]


def test_rows_are_checked() -> None:
    grid = Grid((10, 10), (6, 6), 2)
    stitcher = Stitcher(grid)
    wrong = WindowMap(np.zeros((5, 6), np.uint16), np.zeros((5, 6), np.uint16), np.ones(1))
    with pytest.raises(ValueError, match=r'window 0 of row 0 has maps of \(5, 6\)'):
        stitcher.add_row([wrong, wrong])
    with pytest.raises(ValueError, match='0 of 2 rows'):
        stitcher.finish()
