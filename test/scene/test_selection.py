"""Selecting classes and a region: literal maps, and the same maps pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.scene.selection import Region, keep_classes, place

LABELS = LabelSet.load('cityscapes')
ROAD, CAR, PERSON = (LABELS.class_id(name) for name in ('road', 'car', 'person'))


def a_map() -> Panoptic:
    semantic = np.array([[ROAD, CAR, CAR], [ROAD, PERSON, VOID]], np.uint8)
    instance = np.array([[0, 7, 7], [0, 9, 0]], np.uint16)
    return Panoptic.from_maps(semantic, instance, LABELS, np.linspace(0, 0.9, 10))


def test_other_classes_become_void() -> None:
    is_kept = np.zeros(256, bool)
    is_kept[[ROAD, PERSON]] = True
    kept = keep_classes(a_map(), is_kept)
    assert kept.semantic.tolist() == [[ROAD, VOID, VOID], [ROAD, PERSON, VOID]]
    assert kept.instance.tolist() == [[0, 0, 0], [0, 9, 0]]
    assert kept.segments.class_id.tolist() == [ROAD, PERSON]
    assert kept.segments.score.tolist() == pytest.approx([1.0, 0.9])


def test_a_region_in_its_image() -> None:
    placed = place(a_map(), Region(1, 2, 3, 2), (5, 6))
    semantic = np.full((6, 5), VOID)
    semantic[2:4, 1:4] = a_map().semantic
    assert np.array_equal(placed.semantic, semantic)
    assert placed.instance[2].tolist() == [0, 0, 7, 7, 0]
    assert placed.segments.box_xyxy.tolist() == [[1, 2, 2, 4], [2, 2, 4, 3], [2, 3, 3, 4]]
    assert placed.segments.score.tolist() == a_map().segments.score.tolist()


@settings(deadline=None)
@given(
    data=st.data(),
    instance=hnp.arrays(
        np.uint16, st.tuples(*[st.integers(1, 6)] * 2), elements=st.integers(0, 3)
    ),
    around=st.tuples(*[st.integers(0, 3)] * 4),
)
def test_placed_maps_are_those_of_pixels(
    data: st.DataObject, instance: np.ndarray, around: tuple[int, int, int, int]
) -> None:
    semantic = np.where(instance > 0, CAR, data.draw(st.sampled_from([ROAD, VOID])))
    panoptic = Panoptic.from_maps(semantic.astype(np.uint8), instance, LABELS)
    top, bottom, left, right = around
    (width, height), (rows, columns) = panoptic.size_wh, ((top, bottom), (left, right))
    placed = place(
        panoptic,
        Region(left, top, width, height),
        (width + left + right, height + top + bottom),
    )
    expected = Panoptic.from_maps(
        np.pad(panoptic.semantic, (rows, columns), constant_values=VOID),
        np.pad(instance, (rows, columns)),
        LABELS,
    )
    assert np.array_equal(placed.semantic, expected.semantic)
    assert np.array_equal(placed.instance, expected.instance)
    for name in ('id', 'class_id', 'area', 'box_xyxy'):
        assert np.array_equal(getattr(placed.segments, name), getattr(expected.segments, name))


def test_regions_are_read_and_cut_off_at_the_border() -> None:
    region = Region.parse('10, 20,30,40')
    assert region == Region(10, 20, 30, 40)
    assert region.within((100, 100)) == region
    assert region.within((20, 50)) == Region(10, 20, 10, 30)
    assert region.within((10, 100)) is None


@pytest.mark.parametrize('text', ['', '1,2,3', '1,2,3,x', '1,2,3,4,5', '-1,0,3,4', '0,0,0,4'])
def test_other_regions_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match='expected'):
        Region.parse(text)


def test_places_outside_are_refused() -> None:
    with pytest.raises(ValueError, match='expected the size of'):
        place(a_map(), Region(0, 0, 2, 2), (9, 9))
    with pytest.raises(ValueError, match='is not inside'):
        place(a_map(), Region(1, 0, 3, 2), (3, 9))
