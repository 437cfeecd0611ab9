"""The data type: segment tables of literal maps, and every promise broken once."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panoptic_ros.labels import VOID, LabelClass, LabelSet
from panoptic_ros.panoptic import Panoptic, check_maps, measure_segments

ROAD, SKY, CAR, PERSON = range(4)
LABELS = LabelSet(
    'four',
    (
        LabelClass('road', False, (128, 64, 128), 1),
        LabelClass('sky', False, (0, 0, 255), 2),
        LabelClass('car', True, (0, 0, 142), 3),
        LabelClass('person', True, (220, 20, 60), 4),
    ),
)
SEMANTIC = [
    [1, 1, 1, 255],
    [2, 1, 3, 3],
    [2, 0, 0, 3],
]
INSTANCE = [
    [0, 0, 0, 0],
    [9, 0, 4, 4],
    [9, 0, 0, 4],
]


def maps(
    semantic: list[list[int]] = SEMANTIC, instance: list[list[int]] = INSTANCE
) -> tuple[np.ndarray, np.ndarray]:
    return np.array(semantic, np.uint8), np.array(instance, np.uint16)


def test_rows_of_the_table_can_be_reordered() -> None:
    panoptic = Panoptic.from_maps(*maps(), LABELS)
    order = np.array([0, 1, 3, 2])
    table = replace(panoptic.segments.where(order), id=np.array([0, 0, 7, 300], np.uint16))
    changed = panoptic.with_segments(table, order)
    new_id = np.zeros(10, np.uint16)
    new_id[[9, 4]] = 7, 300
    assert changed.instance.tolist() == new_id[panoptic.instance].tolist()
    assert np.array_equal(changed.semantic, panoptic.semantic)


def test_the_table_has_stuff_by_class_then_things_by_id() -> None:
    segments = measure_segments(*maps())
    assert segments.id.tolist() == [0, 0, 4, 9]
    assert segments.class_id.tolist() == [ROAD, SKY, PERSON, CAR]
    assert segments.is_thing.tolist() == [False, False, True, True]
    assert segments.score.tolist() == [1, 1, 1, 1]
    assert segments.area.tolist() == [2, 4, 3, 2]
    assert segments.box_xyxy.tolist() == [[1, 2, 3, 3], [0, 0, 3, 2], [2, 1, 4, 3], [0, 1, 1, 3]]
    assert segments.track_id.tolist() == [0, 0, 4, 9]


def test_scores_are_looked_up_by_instance_id() -> None:
    score_by_id = np.zeros(10)
    score_by_id[[4, 9]] = 0.25, 0.75
    panoptic = Panoptic.from_maps(*maps(), LABELS, score_by_id)
    assert panoptic.segments.score.tolist() == [1, 1, 0.25, 0.75]
    assert panoptic.size_wh == (4, 3)


def test_rows_can_be_chosen_and_track_ids_replaced() -> None:
    panoptic = Panoptic.from_maps(*maps(), LABELS)
    assert panoptic.segments.things.id.tolist() == [4, 9]
    assert panoptic.segments.where(np.array([3, 0])).class_id.tolist() == [CAR, ROAD]
    tracked = panoptic.with_track_ids(np.array([0, 0, 70, 71], np.int32))
    assert tracked.segments.track_id.tolist() == [0, 0, 70, 71]
    assert tracked.segments.id.tolist() == [0, 0, 4, 9]
    assert panoptic.segments.track_id.tolist() == [0, 0, 4, 9]


@pytest.mark.parametrize('shape', [(0, 0), (0, 4), (4, 0), (2, 3)])
def test_maps_without_segments_have_an_empty_table(shape: tuple[int, int]) -> None:
    panoptic = Panoptic.from_maps(
        np.full(shape, VOID, np.uint8), np.zeros(shape, np.uint16), LABELS
    )
    assert len(panoptic.segments) == 0
    assert panoptic.segments.box_xyxy.shape == (0, 4)


def test_an_instance_may_be_in_pieces_and_have_the_largest_id() -> None:
    semantic, instance = maps([[2, 0, 2]], [[65535, 0, 65535]])
    segments = Panoptic.from_maps(semantic, instance, LABELS).segments
    assert segments.id.tolist() == [0, 65535]
    assert segments.area.tolist() == [1, 2]
    assert segments.box_xyxy.tolist() == [[1, 0, 2, 1], [0, 0, 3, 1]]


@settings(deadline=None)
@given(
    class_id=hnp.arrays(np.uint8, (5, 6), elements=st.sampled_from([ROAD, SKY, CAR, VOID])),
    number=hnp.arrays(np.uint16, (5, 6), elements=st.sampled_from([1, 2, 300])),
)
def test_the_table_equals_what_masks_say(class_id: np.ndarray, number: np.ndarray) -> None:
    instance = np.where(class_id == CAR, number, 0).astype(np.uint16)
    segments = Panoptic.from_maps(class_id, instance, LABELS).segments
    seen = np.zeros(class_id.shape, bool)
    for row in range(len(segments)):
        mask = (class_id == segments.class_id[row]) & (instance == segments.id[row])
        y, x = np.nonzero(mask)
        assert segments.area[row] == len(y) > 0
        assert segments.box_xyxy[row].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert segments.is_thing[row] == (segments.class_id[row] == CAR)
        assert not (seen & mask).any()
        seen |= mask
    assert (seen == (class_id != VOID)).all()


@pytest.mark.parametrize(
    ('at', 'class_id', 'instance_id', 'message'),
    [
        ((0, 0), 7, 0, r'class ids \[7\].* 0\.\.3 and void is 255'),
        ((1, 0), CAR, 0, 'pixel x=0 y=1 has class 2 and instance 0.*1 pixels'),
        ((2, 1), ROAD, 3, 'pixel x=1 y=2 has class 0 and instance 3'),
        ((0, 3), VOID, 3, 'pixel x=3 y=0 has class 255 and instance 3'),
        ((1, 0), PERSON, 9, 'instance id 9 covers more than one class'),
    ],
)
def test_a_broken_promise_is_named(
    at: tuple[int, int], class_id: int, instance_id: int, message: str
) -> None:
    semantic, instance = maps()
    check_maps(semantic, instance, LABELS)
    semantic[at], instance[at] = class_id, instance_id
    with pytest.raises(ValueError, match=message):
        check_maps(semantic, instance, LABELS)
    with pytest.raises(ValueError, match=message):
        Panoptic.from_maps(semantic, instance, LABELS)


def test_shapes_and_dtypes_are_checked() -> None:
    semantic, instance = maps()
    segments = measure_segments(semantic, instance)
    with pytest.raises(ValueError, match=r'instance is uint16 \(2, 4\); expected uint16 \(3, 4'):
        Panoptic.from_maps(semantic, instance[:2], LABELS)
    with pytest.raises(ValueError, match='semantic is int64'):
        Panoptic.from_maps(semantic.astype(np.int64), instance, LABELS)
    with pytest.raises(ValueError, match=r'instance is int32 \(3, 4\); expected uint16'):
        Panoptic.from_maps(semantic, instance.astype(np.int32), LABELS)
    with pytest.raises(ValueError, match=r'Segments.score is float64 \(4,\); expected float32'):
        replace(segments, score=np.ones(4))
    with pytest.raises(ValueError, match=r'Segments.box_xyxy is int32 \(4,\); expected int32'):
        replace(segments, box_xyxy=np.ones(4, np.int32))


def test_columns_that_do_not_fit_together_are_refused() -> None:
    panoptic = Panoptic.from_maps(*maps(), LABELS)
    table = panoptic.segments
    for segment, message in (
        (panoptic.segment[1:], r'segment is int64 \(7,\); expected intp \(8,\)'),
        (panoptic.segment.astype(np.int16), 'segment is int16'),
        (panoptic.segment + 1, r'segment runs from 0 to 4; expected -1 \(void\) to 3'),
        (panoptic.segment - 1, 'segment runs from -2'),
    ):
        with pytest.raises(ValueError, match=message):
            replace(panoptic, segment=segment)
    for ids, message in (
        ([0, 0, 9, 9], 'one row for each instance id'),
        ([0, 1, 4, 9], 'ids above 0 for things'),
        ([0, 0, 0, 9], 'ids above 0 for things'),
    ):
        with pytest.raises(ValueError, match=message):
            replace(panoptic, segments=replace(table, id=np.array(ids, np.uint16)))
    twice = replace(table, class_id=np.array([SKY, SKY, PERSON, CAR], np.uint8))
    with pytest.raises(ValueError, match='each stuff class'):
        replace(panoptic, segments=twice)


def test_rows_at_finds_the_segment_of_a_pixel() -> None:
    panoptic = Panoptic.from_maps(*maps(), LABELS)
    assert panoptic.segments.id.tolist() == [0, 0, 4, 9]  # road, sky, person, car
    rows = panoptic.rows_at(np.arange(12)).reshape(3, 4)
    assert rows.tolist() == [[1, 1, 1, -1], [3, 1, 2, 2], [3, 0, 0, 2]]
