"""Fusion of centres: literal scenes, and equality with plain loops."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.fusion import (
    CAR,
    KEEP_ALL,
    LABELS,
    PERSON,
    ROAD,
    SKY,
    Expected,
    assert_keeps_the_promises,
    assert_same,
    bytes_,
    centre_heads,
    class_ids,
    fractions,
    min_scores,
    plain_assemble,
    sizes_wh,
)

from panoptic_ros.fusion import (
    CentreFusion,
    CentreHeads,
)
from panoptic_ros.fusion.centres import nearest_centre, pointed_positions
from panoptic_ros.labels import VOID


def test_two_cars_side_by_side_become_two_instances() -> None:
    heads = centre_heads(
        [
            [1, 1, 1, 1, 1, 1, 1, 1],
            [2, 2, 2, 2, 2, 2, 2, 0],
            [2, 2, 2, 2, 2, 2, 2, 0],
            [0, 0, 0, 0, 0, 0, 0, 0],
        ],
        centres=[(0.9, 7), (0.5, 4)],  # both ends of the lower row of the 2x4 grid
    )
    fused = KEEP_ALL(heads, LABELS, (8, 4))
    assert fused.panoptic.semantic.tolist() == heads.semantic.tolist()
    assert fused.panoptic.instance.tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [2, 2, 2, 2, 1, 1, 1, 0],
        [2, 2, 2, 2, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_offsets_decide_and_not_the_distance_of_the_pixel() -> None:
    offset_xy = np.zeros((2, 2, 4), np.float32)
    offset_xy[0] = [[3, 2, 1, 0]] * 2  # all point to the last column
    heads = centre_heads([[2] * 8] * 4, [(0.9, 0), (0.8, 3)], offset_xy)
    panoptic = KEEP_ALL(heads, LABELS, (8, 4)).panoptic
    assert panoptic.instance.tolist() == [[1] * 8] * 4
    # The first centre has no pixel, so it has no id: the only id is the second centre's.
    assert panoptic.segments.id.tolist() == [1]
    assert panoptic.segments.score.tolist() == pytest.approx([0.8])


def test_the_majority_gives_an_instance_its_class() -> None:
    heads = centre_heads([[2, 2, 3, 0], [2, 3, 3, 0], [2, 2, 3, 0], [2, 3, 3, 0]], [(0.5, 0)])
    panoptic = KEEP_ALL(heads, LABELS, (4, 4)).panoptic
    assert panoptic.semantic.tolist() == [[2, 2, 2, 0]] * 4  # a draw, 6 to 6: the lower class id
    heads.semantic[0, 3] = PERSON
    panoptic = KEEP_ALL(heads, LABELS, (4, 4)).panoptic
    assert panoptic.semantic.tolist() == [[3, 3, 3, 3]] + [[3, 3, 3, 0]] * 3


def test_the_score_is_centre_score_times_mean_confidence() -> None:
    heads = centre_heads([[2, 2, 0, 0], [2, 2, 0, 0]], [(0.8, 0)])
    heads.confidence[:] = [[204, 51]]
    # Confidence at the finer grid, bilinear: 204, 165.75 (rounded), 89.25, 51.
    segments = KEEP_ALL(heads, LABELS, (4, 2)).panoptic.segments
    assert segments.class_id.tolist() == [ROAD, CAR]
    assert segments.score.tolist() == pytest.approx(
        [(89 + 51) / 2 / 255, 0.8 * (204 + 166) / 2 / 255], abs=1e-6
    )


def test_ids_follow_the_score_and_not_the_order_of_centres() -> None:
    heads = centre_heads([[2, 2, 0, 0, 2, 2]] * 2, [(0.6, 0), (0.5, 2)])
    heads.confidence[:] = [[51, 51, 255]]
    panoptic = KEEP_ALL(heads, LABELS, (6, 2)).panoptic
    assert panoptic.instance.tolist() == [[2, 2, 0, 0, 1, 1]] * 2


def test_padding_and_low_centres_do_not_count() -> None:
    heads = centre_heads([[2, 2, 2, 2]] * 2, [(0.9, 0), (0.2, 1), (0.0, 1)])
    for threshold in (0.3, 0.9):
        fusion = replace(KEEP_ALL, centre_threshold=threshold)
        assert fusion(heads, LABELS, (4, 2)).panoptic.instance.tolist() == [[1, 1, 1, 1]] * 2
    fusion = replace(KEEP_ALL, centre_threshold=0)  # the padding still does not count
    assert fusion(heads, LABELS, (4, 2)).panoptic.instance.tolist() == [[1, 1, 2, 2]] * 2


def test_orphans_are_connected_patches_of_one_class() -> None:
    heads = centre_heads(
        [
            [2, 2, 3, 3, 0, 0],
            [2, 2, 3, 3, 0, 0],
            [0, 0, 0, 0, 2, 0],
            [0, 0, 0, 0, 0, 2],  # touches the one above by a corner: one patch
        ],
        confidence=204,
    )
    fusion = replace(KEEP_ALL, centre_threshold=0.5)
    panoptic = fusion(heads, LABELS, (6, 4)).panoptic
    assert panoptic.semantic.tolist() == heads.semantic.tolist()
    assert panoptic.instance.tolist() == [
        [1, 1, 3, 3, 0, 0],
        [1, 1, 3, 3, 0, 0],
        [0, 0, 0, 0, 2, 0],
        [0, 0, 0, 0, 0, 2],
    ]
    # No centre supports them: the threshold stands for its score.
    assert panoptic.segments.things.score.tolist() == pytest.approx([0.5 * 0.8] * 3)
    fusion = replace(fusion, min_orphan_area_fraction=3 / 24)
    panoptic = fusion(heads, LABELS, (6, 4)).panoptic
    assert panoptic.semantic[2:].tolist() == [[0, 0, 0, 0, VOID, 0], [0, 0, 0, 0, 0, VOID]]
    assert panoptic.segments.things.id.tolist() == [1, 2]


def test_a_cell_too_far_from_every_centre_is_an_orphan() -> None:
    heads = centre_heads([[2] * 16] * 2, [(0.9, 0)])
    assert KEEP_ALL(heads, LABELS, (16, 2)).panoptic.instance.tolist() == [[1] * 16] * 2
    reach = 3 / np.hypot(8, 1)  # three cells of the coarser grid
    fusion = replace(KEEP_ALL, max_centre_distance_fraction=reach)
    assert fusion(heads, LABELS, (16, 2)).panoptic.instance.tolist() == [[1] * 8 + [2] * 8] * 2


def test_what_is_too_small_becomes_void() -> None:
    heads = centre_heads(
        [[2, 2, 0, 0, 0, 3], [2, 2, 0, 0, 0, 0], [0] * 6, [0, 0, 0, 0, 0, 1]],
        [(0.9, 0), (0.8, 2)],
    )
    fusion = CentreFusion(min_thing_area_fraction=2 / 24, min_stuff_area_fraction=0)
    panoptic = fusion(heads, LABELS, (6, 4)).panoptic
    assert panoptic.semantic[0].tolist() == [2, 2, 0, 0, 0, VOID]
    assert panoptic.segments.class_id.tolist() == [ROAD, SKY, CAR]
    fusion = CentreFusion(min_thing_area_fraction=0, min_stuff_area_fraction=2 / 24)
    panoptic = fusion(heads, LABELS, (6, 4)).panoptic
    assert panoptic.semantic[3].tolist() == [0, 0, 0, 0, 0, VOID]
    assert panoptic.segments.class_id.tolist() == [ROAD, CAR, PERSON]


def test_what_scores_too_low_becomes_void() -> None:
    heads = centre_heads(
        [[2, 2, 0, 0, 3, 3], [2, 2, 0, 0, 3, 3]], [(0.9, 0), (0.4, 2)], confidence=204
    )  # scores 0.72 and 0.32, stuff 0.8
    panoptic = replace(KEEP_ALL, min_thing_score=0.4)(heads, LABELS, (6, 2)).panoptic
    assert panoptic.semantic[0].tolist() == [2, 2, 0, 0, VOID, VOID]
    assert panoptic.instance[0].tolist() == [1, 1, 0, 0, 0, 0]
    panoptic = replace(KEEP_ALL, min_stuff_score=0.81)(heads, LABELS, (6, 2)).panoptic
    assert panoptic.semantic[0].tolist() == [2, 2, VOID, VOID, 3, 3]
    kept = replace(KEEP_ALL, min_thing_score=0.3, min_stuff_score=0.79)
    assert len(kept(heads, LABELS, (6, 2)).panoptic.segments) == 3


def test_the_weakest_instances_beyond_the_largest_number_become_void() -> None:
    heads = centre_heads([[2, 2, 2, 2, 2, 2]] * 2, [(0.9, 0), (0.7, 1), (0.8, 2)])
    panoptic = replace(KEEP_ALL, max_instances=2)(heads, LABELS, (6, 2)).panoptic
    assert panoptic.instance.tolist() == [[1, 1, 0, 0, 2, 2]] * 2
    assert panoptic.semantic.tolist() == [[2, 2, VOID, VOID, 2, 2]] * 2


def test_nothing_to_see_gives_an_empty_table() -> None:
    panoptic = KEEP_ALL(centre_heads([[VOID] * 4] * 2), LABELS, (4, 2)).panoptic
    assert (panoptic.semantic == VOID).all()
    assert len(panoptic.segments) == 0


def test_offsets_off_the_things_do_not_count() -> None:
    # The left half is a car at x = 0..1 of the coarse grid; beside it the network talks nonsense.
    is_thing = np.array([[1, 1, 1, 1, 0, 0, 0, 0]] * 2, np.uint8)
    offset_xy = np.zeros((2, 1, 4), np.float32)
    offset_xy[0] = [[0.5, -0.5, 90, 90]]
    offset_xy[1] = [[2, 2, -90, -90]]
    x, y = pointed_positions(offset_xy, is_thing)
    assert x[0, :4].tolist() == [0.25, 0.5, 0.5, 0.75]
    assert y[:, :4].tolist() == [[1.75] * 4, [2.25] * 4]


@settings(deadline=None)
@given(
    offset_xy=hnp.arrays(np.float32, (2, 3, 4), elements=st.integers(-8, 8).map(float)),
    is_thing=hnp.arrays(np.uint8, (6, 8), elements=st.integers(0, 1)),
)
def test_pointed_positions_is_a_weighted_mean_of_the_cells_around(
    offset_xy: np.ndarray, is_thing: np.ndarray
) -> None:
    x, y = pointed_positions(offset_xy, is_thing)
    weight = is_thing.reshape(3, 2, 4, 2).mean((1, 3))
    for row, column in np.argwhere(is_thing):
        place = np.array([(column + 0.5) / 2 - 0.5, (row + 0.5) / 2 - 0.5])
        total, offset = 0.0, np.zeros(2)
        for near_row in (int(np.floor(place[1])), int(np.floor(place[1])) + 1):
            for near_column in (int(np.floor(place[0])), int(np.floor(place[0])) + 1):
                share = (1 - abs(place[1] - near_row)) * (1 - abs(place[0] - near_column))
                inside = min(max(near_row, 0), 2), min(max(near_column, 0), 3)
                total += share * weight[inside]
                offset += share * weight[inside] * offset_xy[:, inside[0], inside[1]]
        expected = place + offset / total
        assert (x[row, column], y[row, column]) == pytest.approx(expected, abs=1e-4)


@settings(deadline=None)
@given(
    centre_index=hnp.arrays(
        np.int32, st.integers(1, 12), elements=st.integers(0, 62), unique=True
    ),
    reach=st.sampled_from([0.0, 1.5, 3.0, np.inf]),
)
def test_nearest_centre_is_the_nearest_and_of_equals_the_leftmost(
    centre_index: np.ndarray, reach: float
) -> None:
    number = nearest_centre(centre_index, (9, 7), reach)
    y, x = np.divmod(np.arange(63), 9)
    centre_y, centre_x = np.divmod(centre_index, 9)
    distance = np.hypot(y[:, None] - centre_y, x[:, None] - centre_x)
    best = distance.min(1)
    chosen = number.ravel().astype(int)
    assert ((chosen > 0) == (best <= reach)).all()
    # Of equally near centres the leftmost, then the topmost.
    rank = np.where(distance == best[:, None], centre_x * 7 + centre_y, 63)
    expected = np.where(best <= reach, rank.argmin(1) + 1, 0)
    np.testing.assert_array_equal(chosen, expected)


def plain_centre_fusion(
    heads: CentreHeads, fusion: CentreFusion, size_wh: tuple[int, int]
) -> Expected:
    semantic = heads.semantic
    is_thing = LABELS.is_thing[semantic].astype(np.uint8)
    height, width = heads.confidence.shape
    centres = [
        k
        for k, score in enumerate(heads.centre_score)
        if score > 0 and score >= fusion.centre_threshold
    ]
    instance = np.zeros(semantic.shape, int)
    if centres:
        # These two are tested for themselves above.
        reach = fusion.max_centre_distance_fraction * np.hypot(width, height)
        nearest = nearest_centre(heads.centre_index[centres], (width, height), reach)
        place_x, place_y = pointed_positions(heads.offset_xy, is_thing)
        for y, x in np.argwhere(is_thing):
            column = min(max(round(float(place_x[y, x])), 0), width - 1)
            row = min(max(round(float(place_y[y, x])), 0), height - 1)
            instance[y, x] = nearest[row, column]
    evidence = {k + 1: heads.centre_score[centre] for k, centre in enumerate(centres)}
    min_area = dict.fromkeys(evidence, fusion.min_thing_area_fraction)
    for class_id in (CAR, PERSON):
        for y, x in np.ndindex(semantic.shape):
            if semantic[y, x] == class_id and not instance[y, x]:
                number = len(evidence) + 1
                evidence[number] = fusion.centre_threshold
                min_area[number] = fusion.min_orphan_area_fraction
                flood(semantic, instance, y, x, number)
    class_of = {}
    for number in evidence:
        votes = semantic[instance == number]
        class_of[number] = CAR if (votes == CAR).sum() >= (votes == PERSON).sum() else PERSON
    return plain_assemble(
        semantic,
        instance,
        class_of,
        evidence,
        min_area,
        fusion.min_stuff_area_fraction,
        fusion.max_instances,
        heads.confidence,
        size_wh,
        fusion.min_thing_score,
        fusion.min_stuff_score,
    )


def flood(semantic: np.ndarray, instance: np.ndarray, y: int, x: int, number: int) -> None:
    class_id, todo = semantic[y, x], [(y, x)]
    while todo:
        y, x = todo.pop()
        inside = 0 <= y < semantic.shape[0] and 0 <= x < semantic.shape[1]
        if inside and semantic[y, x] == class_id and not instance[y, x]:
            instance[y, x] = number
            todo += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


@st.composite
def random_centre_heads(draw: st.DrawFn) -> CentreHeads:
    height, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    count = draw(st.integers(0, 5))
    score = draw(hnp.arrays(np.float32, count, elements=st.integers(0, 8).map(lambda n: n / 8)))
    index = hnp.arrays(np.int32, count, elements=st.integers(0, height * width - 1))
    # Two centres never share a cell, except for padding.
    index = draw(index.filter(lambda i: len(set(i[score > 0])) == (score > 0).sum()))
    dtype = draw(st.sampled_from([np.float32, np.float16]))
    return CentreHeads(
        semantic=draw(hnp.arrays(np.uint8, (2 * height, 2 * width), elements=class_ids)),
        confidence=draw(hnp.arrays(np.uint8, (height, width), elements=bytes_)),
        centre_score=score,
        centre_index=index,
        offset_xy=draw(
            hnp.arrays(
                dtype, (2, height, width), elements=st.integers(-16, 16).map(lambda n: n / 4)
            )
        ),
    )


@settings(max_examples=150, deadline=None)
@given(
    heads=random_centre_heads(),
    size_wh=sizes_wh,
    thing=fractions,
    orphan=fractions,
    stuff=fractions,
    distance=fractions,
    threshold=st.sampled_from([0.0, 0.5]),
    max_instances=st.sampled_from([1, 3, 1000]),
    thing_score=min_scores,
    stuff_score=min_scores,
)
def test_centre_fusion_equals_plain_loops(
    heads: CentreHeads,
    size_wh: tuple[int, int],
    thing: float,
    orphan: float,
    stuff: float,
    distance: float,
    threshold: float,
    max_instances: int,
    thing_score: float,
    stuff_score: float,
) -> None:
    fusion = CentreFusion(
        threshold, distance, thing, orphan, stuff, max_instances, thing_score, stuff_score
    )
    fused = fusion(heads, LABELS, size_wh)
    assert_same(fused, plain_centre_fusion(heads, fusion, size_wh))
    assert_keeps_the_promises(fused.panoptic)


@settings(deadline=None)
@given(heads=random_centre_heads())
def test_without_limits_only_void_is_void_and_things_stay_things(heads: CentreHeads) -> None:
    height, width = heads.semantic.shape
    panoptic = KEEP_ALL(heads, LABELS, (width, height)).panoptic
    assert ((panoptic.semantic == VOID) == (heads.semantic == VOID)).all()
    is_thing = LABELS.is_thing[heads.semantic]
    assert ((panoptic.instance > 0) == is_thing).all()
    assert (panoptic.semantic == heads.semantic)[~is_thing].all()


@pytest.mark.parametrize(
    ('column', 'value', 'message'),
    [
        ('semantic', np.zeros((2, 4), np.int32), r'semantic is int32 \(2, 4\)'),
        ('semantic', np.zeros((0, 4), np.uint8), r'semantic is uint8 \(0, 4\)'),
        ('confidence', np.zeros((1, 2), np.float32), r'confidence is float32 \(1, 2\)'),
        ('centre_score', np.zeros((1, 1), np.float32), r'centre_score is float32 \(1, 1\)'),
        ('centre_index', np.zeros(2, np.int32), r'centre_index is int32 \(2,\)'),
        ('centre_index', np.array([2], np.int32), r'centre_index runs from 2 to 2; expected 0..1'),
        ('centre_index', np.array([-1], np.int32), 'centre_index runs from -1'),
        ('offset_xy', np.zeros((2, 2, 2), np.float32), r'offset_xy is float32 \(2, 2, 2\)'),
        ('offset_xy', np.zeros((2, 1, 2), np.float64), r'offset_xy is float64 \(2, 1, 2\)'),
    ],
)
def test_centre_heads_that_do_not_fit_are_refused(
    column: str, value: np.ndarray, message: str
) -> None:
    heads = centre_heads([[0] * 4] * 2, [(0.9, 0)])
    with pytest.raises(ValueError, match=message):
        replace(heads, **{column: value})
