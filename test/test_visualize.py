"""Pictures: exact colours of small maps."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panoptic_ros.labels import VOID, LabelClass, LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.visualize import (
    free_space_picture,
    instance_color,
    overlay,
    panel,
    semantic_color,
)

LABELS = LabelSet(
    'three',
    (
        LabelClass('road', False, (128, 64, 32), 1),
        LabelClass('car', True, (0, 0, 142), 2),
        LabelClass('person', True, (220, 20, 60), 3),
    ),
)
ROAD, CAR, PERSON = range(3)
ROAD_BGR = [32, 64, 128]


def panoptic_of(semantic: list[list[int]], instance: list[list[int]]) -> Panoptic:
    return Panoptic.from_maps(np.array(semantic, np.uint8), np.array(instance, np.uint16), LABELS)


def scene() -> Panoptic:
    """Road, two cars side by side, void."""
    return panoptic_of(
        [[0, 0, 0, 0, 0, VOID], [0, 1, 1, 1, 1, VOID], [0, 1, 1, 1, 1, VOID]],
        [[0, 0, 0, 0, 0, 0], [0, 1, 1, 2, 2, 0], [0, 1, 1, 2, 2, 0]],
    )


def test_semantic_colors_are_the_label_set_s_in_bgr() -> None:
    semantic = np.array([[ROAD, PERSON, VOID]], np.uint8)
    assert semantic_color(semantic, LABELS).tolist() == [[ROAD_BGR, [60, 20, 220], [0, 0, 0]]]


def test_instances_of_one_class_have_different_shades_and_stuff_is_black() -> None:
    picture = instance_color(scene(), LABELS)
    assert picture.shape == (3, 6, 3)
    assert picture.dtype == np.uint8
    assert not picture[:, 0].any()
    assert not picture[:, 5].any()
    first, second = picture[1, 1].astype(int), picture[1, 3].astype(int)
    assert (picture[1:, 1:3] == first).all()
    assert (picture[1:, 3:5] == second).all()
    assert abs(first - second).max() > 25


def test_the_shade_follows_the_track_and_not_the_id() -> None:
    before = scene().with_track_ids(np.array([0, 7, 9], np.int32))
    after = panoptic_of(
        [[0, 0, 0, 0, 0, VOID], [0, 1, 1, 1, 1, VOID], [0, 1, 1, 1, 1, VOID]],
        [[0, 0, 0, 0, 0, 0], [0, 2, 2, 1, 1, 0], [0, 2, 2, 1, 1, 0]],
    ).with_track_ids(np.array([0, 9, 7], np.int32))
    assert (instance_color(before, LABELS) == instance_color(after, LABELS)).all()
    assert (instance_color(before, LABELS) != instance_color(scene(), LABELS)).any()


@pytest.mark.parametrize('class_id', [CAR, PERSON])
def test_fifty_tracks_have_fifty_shades_with_the_hue_of_the_class(class_id: int) -> None:
    ids = np.arange(1, 51)[None]
    picture = instance_color(panoptic_of(np.full_like(ids, class_id), ids), LABELS)
    assert len(np.unique(picture[0], axis=0)) == 50
    shade = picture[0].astype(int)
    for step in range(1, 6):  # neighbouring numbers are easy to tell apart
        assert abs(shade[step:] - shade[:-step]).max(axis=1).min() >= 20
    hue = cv2.cvtColor(picture, cv2.COLOR_BGR2HLS)[0, :, 0].astype(int) * 2
    own = {CAR: 240, PERSON: 348}[class_id]
    assert (abs((hue - own + 180) % 360 - 180) <= 24).all()


def test_overlay_mixes_colors_leaves_void_and_draws_white_edges() -> None:
    image = np.full((3, 6, 3), 100, np.uint8)
    picture = overlay(image, scene(), LABELS, opacity=0.5)
    assert picture[0, 0].tolist() == [66, 82, 114]  # half the image, half the road
    assert (picture[:, 5] == 100).all()  # void, though beside an edge
    white = (picture == 255).all(axis=2)
    # Left of and above each change of the id.
    assert white.astype(int).tolist() == [
        [0, 1, 1, 1, 1, 0],
        [1, 0, 1, 0, 1, 0],
        [1, 0, 1, 0, 1, 0],
    ]
    assert (image == 100).all()  # the image itself is not drawn on


def test_opacity_0_shows_the_image_and_1_the_colors() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 200, (3, 6, 3), dtype=np.uint8)
    inside = (slice(1, 3), slice(1, 2))  # of the first car, off the edges
    clear = overlay(image, scene(), LABELS, opacity=0)
    assert (clear[inside] == image[inside]).all()
    solid = overlay(image, scene(), LABELS, opacity=1)
    assert (solid[inside] == instance_color(scene(), LABELS)[inside]).all()
    assert solid[0, 0].tolist() == ROAD_BGR
    assert (solid[:, 5] == image[:, 5]).all()


def test_many_and_high_instance_ids_are_painted_too() -> None:
    ids = np.array([[1, 300, 65535]])
    panoptic = panoptic_of([[CAR] * 3], ids)
    picture = overlay(np.zeros((1, 3, 3), np.uint8), panoptic, LABELS, opacity=1)
    assert (picture[0, 2] == instance_color(panoptic, LABELS)[0, 2]).all()
    assert picture[0, 2].any()


def test_labels_are_written_above_high_things_only() -> None:
    semantic, instance = np.zeros((2, 100, 200), int)
    semantic[40:80, 60:120] = CAR
    instance[40:80, 60:120] = 1
    semantic[90:98, 10:20] = PERSON  # too low for a text
    instance[90:98, 10:20] = 2
    panoptic = panoptic_of(semantic, instance)
    image = np.zeros((100, 200, 3), np.uint8)
    plain = overlay(image, panoptic, LABELS)
    labelled = overlay(image, panoptic, LABELS, labels=True)
    rows, columns = np.nonzero((plain != labelled).any(axis=2))
    assert 20 <= rows.min() <= rows.max() < 40
    assert 60 <= columns.min() <= columns.max() < 120
    assert (labelled[20:40] == 255).any()


def test_labels_at_the_border_stay_inside() -> None:
    semantic, instance = np.zeros((2, 60, 60), int)
    semantic[0:30, 50:60] = PERSON
    instance[0:30, 50:60] = 1
    panoptic = panoptic_of(semantic, instance)
    image = np.zeros((60, 60, 3), np.uint8)
    labelled = overlay(image, panoptic, LABELS, labels=True)
    changed = (labelled != overlay(image, panoptic, LABELS)).any(axis=2)
    columns = np.flatnonzero(changed.any(axis=0))
    # The text is wider than the thing, so it begins left of it.
    assert columns.min() < 45
    assert not changed[25:].any()


def test_a_picture_of_another_size_or_opacity_is_refused() -> None:
    with pytest.raises(ValueError, match=r'image_bgr is uint8 \(3, 5, 3\); expected uint8 \(3, 6'):
        overlay(np.zeros((3, 5, 3), np.uint8), scene(), LABELS)
    with pytest.raises(ValueError, match='image_bgr is float32'):
        overlay(np.zeros((3, 6, 3), np.float32), scene(), LABELS)
    with pytest.raises(ValueError, match=r'opacity is 1.5; expected a number from 0 to 1'):
        overlay(np.zeros((3, 6, 3), np.uint8), scene(), LABELS, opacity=1.5)


def test_free_space_is_drawn_with_forward_up_and_left_on_the_left() -> None:
    # Three cells ahead, two across: right is the first row of a grid, left the second.
    occupancy = np.array([[0, -1, 100], [50, 0, 0]], np.int8)
    picture = free_space_picture(occupancy, (12, 9))
    assert picture.shape == (9, 12, 3)
    cells = picture[1::3, [4, 7]]  # squares of 3 pixels, in the middle
    green, grey, red, yellow = (cells[i, j].tolist() for i, j in ((2, 1), (1, 1), (0, 1), (2, 0)))
    assert cells.tolist() == [[green, red], [green, grey], [yellow, green]]
    assert len({tuple(c) for c in (green, grey, red, yellow)}) == 4
    assert red[2] > 150 > red[1]
    assert green[1] > 150 > green[2]
    assert not picture[:, [0, 1, 2, 9, 10, 11]].any()


def test_panel_puts_pictures_under_titles_in_rows() -> None:
    red = np.full((40, 60, 3), (0, 0, 255), np.uint8)
    grey = np.full((20, 30), 7, np.uint8)
    picture = panel([red, grey, red], ['input', 'grey', 'again'], columns=2)
    title = 28
    assert picture.shape == (2 * (40 + title), 120, 3)
    assert (picture[title : title + 40, :60] == (0, 0, 255)).all()
    assert (picture[title : title + 40, 60:] == 7).all()  # stretched to the first's size
    assert (picture[-40:, :60] == (0, 0, 255)).all()
    assert not picture[title + 40 :, 60:].any()
    for x in (0, 60):
        assert picture[:title, x : x + 60].max() > 200  # a title
    assert panel([red, red], ['a', 'b']).shape == (40 + title, 120, 3)


def test_a_long_title_does_not_run_into_the_next_picture() -> None:
    black = np.zeros((10, 40, 3), np.uint8)
    picture = panel([black, black], ['a very long title', ''])
    assert picture[:, :40].any()
    assert not picture[:, 40:].any()


def test_a_panel_needs_pictures_and_as_many_titles() -> None:
    with pytest.raises(ValueError, match='0 images and 0 titles'):
        panel([], [])
    with pytest.raises(ValueError, match='1 images and 2 titles'):
        panel([np.zeros((2, 2, 3), np.uint8)], ['a', 'b'])


def plain_overlay(image_bgr: np.ndarray, panoptic: Panoptic, opacity: float) -> np.ndarray:
    """Lay the map over the image pixel by pixel, as the docstring of overlay says."""
    semantic, instance = panoptic.semantic, panoptic.instance
    color = semantic_color(semantic, LABELS)
    shade = instance_color(panoptic, LABELS)
    color[instance > 0] = shade[instance > 0]
    picture = cv2.addWeighted(image_bgr, 1 - opacity, color, opacity, 0)
    picture[semantic == VOID] = image_bgr[semantic == VOID]
    for y, x in np.ndindex(semantic.shape):
        beside = [(y, x + 1), (y + 1, x)]
        beside = [at for at in beside if at[0] < semantic.shape[0] and at[1] < semantic.shape[1]]
        if any(instance[at] != instance[y, x] for at in beside):
            picture[y, x] = 255
    return picture


@given(
    id_map=hnp.arrays(
        np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.integers(0, 5)
    ),
    copies_xy=st.tuples(st.integers(1, 8), st.integers(1, 4)),
    opacity=st.sampled_from([0.0, 0.37, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_overlay_is_what_its_docstring_says_pixel_by_pixel(
    id_map: np.ndarray, copies_xy: tuple[int, int], opacity: float, seed: int
) -> None:
    # Enlarged, as maps from a network are, with rows that repeat.
    id_map = id_map.repeat(copies_xy[0], axis=1).repeat(copies_xy[1], axis=0)
    class_of_id = np.array([ROAD, CAR, PERSON, CAR, CAR, VOID], np.uint8)
    semantic = class_of_id[id_map]
    panoptic = Panoptic.from_maps(
        semantic, np.where(semantic == VOID, 0, id_map).astype(np.uint16), LABELS
    )
    image = np.random.default_rng(seed).integers(0, 256, (*id_map.shape, 3), np.uint8)
    before = image.copy()
    picture = overlay(image, panoptic, LABELS, opacity)
    assert np.array_equal(picture, plain_overlay(image, panoptic, opacity))
    assert np.array_equal(image, before)


def test_overlay_of_a_map_with_repeated_rows() -> None:
    id_map = np.array([[0, 0, 2, 2], [1, 1, 2, 2], [1, 0, 0, 5]], np.uint16)
    semantic = np.array([ROAD, CAR, PERSON, CAR, CAR, VOID], np.uint8)[id_map]
    instance = np.where(semantic == VOID, 0, id_map).astype(np.uint16)
    panoptic = Panoptic.from_maps(semantic, instance, LABELS)
    enlarged = replace(panoptic, runs=replace(panoptic.runs, copies=np.array([2, 0, 3])))
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    expected = plain_overlay(image, enlarged, 0.5)
    assert np.array_equal(overlay(image, enlarged, LABELS), expected)
