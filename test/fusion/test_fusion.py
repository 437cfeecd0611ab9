"""Fusion: literal scenes, the promises of a panoptic map, and equality with plain loops."""

from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panoptic_ros.errors import LabelSetError
from panoptic_ros.fusion import (
    CentreFusion,
    CentreHeads,
    Fused,
    MaskFusion,
    MaskHeads,
    QueryFusion,
    QueryHeads,
)
from panoptic_ros.fusion.centres import nearest_centre, pointed_positions
from panoptic_ros.labels import VOID, LabelClass, LabelSet
from panoptic_ros.panoptic import Panoptic, Segments, check_maps, measure_segments

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


class Expected(NamedTuple):
    """What a reference implementation returns."""

    semantic: np.ndarray
    instance: np.ndarray
    segments: Segments


KEEP_ALL = CentreFusion(
    min_thing_area_fraction=0, min_orphan_area_fraction=0, min_stuff_area_fraction=0
)


def centre_heads(
    semantic: list[list[int]],
    centres: list[tuple[float, int]] = (),
    offset_xy: np.ndarray | None = None,
    confidence: int = 255,
) -> CentreHeads:
    """Heads whose coarser grid is half the semantic map; centres are (score, index)."""
    grid = np.array(semantic, np.uint8)
    height, width = grid.shape[0] // 2, grid.shape[1] // 2
    return CentreHeads(
        semantic=grid,
        confidence=np.full((height, width), confidence, np.uint8),
        centre_score=np.array([score for score, _ in centres], np.float32),
        centre_index=np.array([index for _, index in centres], np.int32),
        offset_xy=np.zeros((2, height, width), np.float32) if offset_xy is None else offset_xy,
    )


# ---- way 3: centres ----


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


# ---- way 1: instance masks ----


def mask_heads(
    semantic: list[list[int]],
    masks: list[list[list[int]]],
    class_id: list[int],
    score: list[float],
) -> MaskHeads:
    grid = np.array(semantic, np.uint8)
    return MaskHeads(
        semantic=grid,
        confidence=np.full(grid.shape, 255, np.uint8),
        mask=np.array(masks, bool).reshape(-1, *grid.shape),
        class_id=np.array(class_id, np.uint8),
        score=np.array(score, np.float32),
    )


def test_masks_claim_in_falling_score_and_the_rest_is_stuff_or_void() -> None:
    heads = mask_heads(
        [[0, 0, 0, 0, 1, 2]],
        masks=[[[1, 1, 1, 0, 0, 0]], [[0, 0, 1, 1, 0, 0]]],
        class_id=[CAR, PERSON],
        score=[0.6, 0.9],
    )
    panoptic = MaskFusion(min_stuff_area_fraction=0)(heads, LABELS, (6, 1)).panoptic
    assert panoptic.instance.tolist() == [[2, 2, 1, 1, 0, 0]]
    assert panoptic.semantic.tolist() == [[CAR, CAR, PERSON, PERSON, SKY, VOID]]
    assert panoptic.segments.things.score.tolist() == pytest.approx([0.9, 0.6])


def test_a_dropped_mask_frees_its_cells_for_the_next() -> None:
    heads = mask_heads(
        [[0] * 6],
        masks=[[[1, 1, 1, 0, 0, 0]], [[1, 1, 1, 1, 0, 0]], [[0, 0, 0, 1, 1, 0]]],
        class_id=[CAR, CAR, PERSON],
        score=[0.9, 0.8, 0.7],
    )
    # The second keeps a quarter of itself and is dropped; the third gets the cell it leaves.
    panoptic = MaskFusion(min_kept_fraction=0.5)(heads, LABELS, (6, 1)).panoptic
    assert panoptic.instance.tolist() == [[1, 1, 1, 2, 2, 0]]
    panoptic = MaskFusion(min_kept_fraction=0.25)(heads, LABELS, (6, 1)).panoptic
    assert panoptic.instance.tolist() == [[1, 1, 1, 2, 3, 0]]


def test_masks_below_the_score_threshold_and_empty_masks_are_ignored() -> None:
    heads = mask_heads(
        [[0, 0, 0]],
        masks=[[[1, 0, 0]], [[0, 1, 0]], [[0, 0, 0]]],
        class_id=[CAR] * 3,
        score=[0.5, 0.49, 0.9],
    )
    panoptic = MaskFusion(score_threshold=0.5)(heads, LABELS, (3, 1)).panoptic
    assert panoptic.instance.tolist() == [[1, 0, 0]]
    assert panoptic.segments.class_id.tolist() == [ROAD, CAR]


def test_no_masks_leave_the_stuff() -> None:
    heads = mask_heads([[0, 1, 2]], [], [], [])
    panoptic = MaskFusion(min_stuff_area_fraction=0)(heads, LABELS, (3, 1)).panoptic
    assert panoptic.semantic.tolist() == [[ROAD, SKY, VOID]]


def test_small_stuff_around_masks_becomes_void() -> None:
    heads = mask_heads([[0, 1, 1, 1]], [[[0, 1, 1, 0]]], [CAR], [0.9])
    panoptic = MaskFusion(min_stuff_area_fraction=0.3)(heads, LABELS, (4, 1)).panoptic
    assert panoptic.semantic.tolist() == [[VOID, CAR, CAR, VOID]]


# ---- way 2: queries ----


def query_heads(
    likeliest: list[tuple[int, float]], mask_logits: np.ndarray, dtype: type = np.float32
) -> QueryHeads:
    """Queries whose likeliest class has the given probability, the rest being equal."""
    probability = np.empty((len(likeliest), len(LABELS) + 1))
    for row, (class_id, score) in zip(probability, likeliest, strict=True):
        row[:] = (1 - score) / (len(row) - 1)
        row[class_id] = score
    return QueryHeads(np.log(probability).astype(dtype), np.asarray(mask_logits, dtype))


NOTHING = len(LABELS)
LEFT = [[9.0, -9.0]]
RIGHT = [[-9.0, 9.0]]
ALL = [[9.0, 9.0]]


@pytest.mark.parametrize('dtype', [np.float32, np.float16])
def test_queries_share_the_picture(dtype: type) -> None:
    heads = query_heads([(ROAD, 0.75), (CAR, 0.9), (NOTHING, 0.9)], [LEFT, RIGHT, ALL], dtype)
    panoptic = QueryFusion()(heads, LABELS, (8, 2)).panoptic
    assert panoptic.semantic.tolist() == [[ROAD] * 4 + [CAR] * 4] * 2
    assert panoptic.instance.tolist() == [[0] * 4 + [1] * 4] * 2
    assert panoptic.segments.score == pytest.approx([0.75, 0.9], abs=1e-3)
    assert panoptic.segments.box_xyxy.tolist() == [[0, 0, 4, 2], [4, 0, 8, 2]]
    assert_keeps_the_promises(panoptic)


def test_two_queries_of_one_thing_class_stay_two_and_of_stuff_become_one() -> None:
    for class_id, ids in ((CAR, [2, 1]), (SKY, [0, 0])):
        heads = query_heads([(class_id, 0.7), (class_id, 0.8)], [LEFT, RIGHT])
        panoptic = QueryFusion()(heads, LABELS, (4, 1)).panoptic
        assert panoptic.semantic.tolist() == [[class_id] * 4]
        assert panoptic.instance.tolist() == [[ids[0]] * 2 + [ids[1]] * 2]
        mean = [0.8, 0.7] if class_id == CAR else [0.75]
        assert panoptic.segments.score == pytest.approx(mean)


def test_a_query_that_lost_most_of_its_mask_leaves_void() -> None:
    heads = query_heads([(SKY, 0.6), (CAR, 0.9)], [ALL, RIGHT])
    panoptic = QueryFusion()(heads, LABELS, (4, 1)).panoptic
    assert panoptic.semantic.tolist() == [[VOID, VOID, CAR, CAR]]
    kept = QueryFusion(min_kept_fraction=0.4)(heads, LABELS, (4, 1)).panoptic
    assert kept.semantic.tolist() == [[SKY, SKY, CAR, CAR]]


def test_a_query_below_the_mask_threshold_everywhere_leaves_void() -> None:
    heads = query_heads([(SKY, 0.6)], [ALL])
    assert (QueryFusion(mask_threshold=0.7)(heads, LABELS, (3, 3)).panoptic.semantic == VOID).all()


@pytest.mark.parametrize('likeliest', [[], [(CAR, 0.4)], [(NOTHING, 0.9)]])
def test_no_query_gives_nothing(likeliest: list[tuple[int, float]]) -> None:
    heads = query_heads(likeliest, np.full((len(likeliest), 2, 3), 9.0))
    fused = QueryFusion()(heads, LABELS, (6, 4))
    assert (fused.panoptic.semantic == VOID).all()
    assert fused.panoptic.size_wh == (6, 4)
    assert len(fused.panoptic.segments) == 0
    assert not fused.confidence.any()


def test_the_weakest_queries_beyond_the_largest_number_become_void() -> None:
    heads = query_heads([(CAR, 0.7), (PERSON, 0.8)], [LEFT, RIGHT])
    panoptic = QueryFusion(max_instances=1)(heads, LABELS, (4, 1)).panoptic
    assert panoptic.semantic.tolist() == [[VOID, VOID, PERSON, PERSON]]
    assert panoptic.instance.tolist() == [[0, 0, 1, 1]]


def test_confidence_of_queries_is_the_largest_weighted_probability() -> None:
    heads = query_heads([(CAR, 0.8), (ROAD, 0.6)], [LEFT, ALL])
    assert QueryFusion()(heads, LABELS, (2, 1)).confidence.tolist() == [[204, 153]]


def plain_query_fusion(
    fusion: QueryFusion, heads: QueryHeads, size_wh: tuple[int, int]
) -> Expected:
    """Enlarge every mask, one argmax, then one query after the other."""
    weight = np.exp(heads.class_logits.astype(np.float64))
    weight /= weight.sum(axis=1, keepdims=True)
    score, class_id = weight.max(axis=1), weight.argmax(axis=1)
    kept = (class_id < len(LABELS)) & (score > fusion.score_threshold)
    score, class_id = score[kept], class_id[kept]
    semantic = np.full(size_wh[::-1], VOID, np.uint8)
    instance = np.zeros(size_wh[::-1], np.uint16)
    planes = []
    for logit in heads.mask_logits[kept].astype(np.float64):
        if fusion.logit_grid:
            logit = cv2.resize(logit, (fusion.logit_grid,) * 2)
        planes.append(cv2.resize(1 / (1 + np.exp(-logit)), size_wh))
    if not planes:
        return Expected(semantic, instance, measure_segments(semantic, instance))
    probability = np.array(planes) * score[:, None, None]
    winner = probability.argmax(axis=0)
    stuff_score: dict[int, list[float]] = {}
    found = []
    for query in range(len(score)):
        won = winner == query
        mask_area = np.count_nonzero(probability[query] >= fusion.mask_threshold)
        if not won.any() or not mask_area:
            continue
        if not float(np.float32(won.sum()) / np.float32(mask_area)) > fusion.min_kept_fraction:
            continue
        if LABELS.is_thing[class_id[query]]:
            found.append((-score[query], query))
        else:
            stuff_score.setdefault(class_id[query], []).extend([score[query]] * won.sum())
            semantic[won] = class_id[query]
    scores = [0.0]
    for number, (_, query) in enumerate(sorted(found)[: fusion.max_instances], start=1):
        semantic[winner == query] = class_id[query]
        instance[winner == query] = number
        scores.append(score[query])
    segments = measure_segments(semantic, instance, np.array(scores))
    mean = [np.mean(stuff_score[c]) for c in segments.class_id[~segments.is_thing]]
    segments.score[~segments.is_thing] = mean
    return Expected(semantic, instance, segments)


@st.composite
def random_query_heads(draw: st.DrawFn) -> QueryHeads:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, height, width = draw(st.integers(0, 12)), *draw(st.tuples(*[st.integers(1, 9)] * 2))
    class_logits = rng.normal(0, 2, (count, len(LABELS) + 1))
    y, x = np.mgrid[:height, :width]
    place = rng.uniform(-1, 10, (2, count, 1, 1))
    smooth = 6 - 3 * np.hypot(y - place[0], x - place[1])
    noise = rng.normal(0, draw(st.sampled_from([0.1, 2.0])), (count, height, width))
    return QueryHeads(class_logits.astype(np.float32), (smooth + noise).astype(np.float32))


@settings(max_examples=200, deadline=None)
@given(
    heads=random_query_heads(),
    size_wh=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    fusion=st.builds(
        QueryFusion,
        score_threshold=st.sampled_from([0.0, 0.3, 0.5]),
        mask_threshold=st.sampled_from([0.1, 0.3, 0.5]),
        min_kept_fraction=st.sampled_from([0.0, 0.5, 0.8]),
        logit_grid=st.sampled_from([0, 16, 33]),
        max_instances=st.sampled_from([1, 3, 1000]),
    ),
)
def test_query_fusion_equals_plain_loops(
    heads: QueryHeads, size_wh: tuple[int, int], fusion: QueryFusion
) -> None:
    fused = fusion(heads, LABELS, size_wh)
    assert_same(fused, plain_query_fusion(fusion, heads, size_wh))
    assert_keeps_the_promises(fused.panoptic)


# ---- the other ways against plain loops ----


def plain_assemble(
    semantic: np.ndarray,
    instance: np.ndarray,
    class_of: dict[int, int],
    evidence: dict[int, float],
    min_area: dict[int, float],
    min_stuff_area: float,
    max_instances: int,
    confidence: np.ndarray,
    size_wh: tuple[int, int],
    min_thing_score: float = 0.0,
    min_stuff_score: float = 0.0,
) -> Expected:
    """Do what _assemble does, pixel by pixel on the enlarged maps."""
    grid_height, grid_width = semantic.shape
    # Which cell each pixel shows is OpenCV's affair.
    cell = np.arange(semantic.size, dtype=np.float32).reshape(semantic.shape)
    cell = cv2.resize(cell, size_wh, interpolation=cv2.INTER_NEAREST_EXACT).astype(int)
    sure = cv2.resize(confidence, (grid_width, grid_height), interpolation=cv2.INTER_LINEAR)
    name = {}  # of each cell: ('stuff', class), ('thing', number) or None
    for at in range(semantic.size):
        if instance.flat[at]:
            name[at] = ('thing', int(instance.flat[at]))
        elif semantic.flat[at] == VOID or LABELS.is_thing[semantic.flat[at]]:
            name[at] = None
        else:
            name[at] = ('stuff', int(semantic.flat[at]))
    kept = []
    for segment in {n for n in name.values() if n}:
        cells = [at for at, n in name.items() if n == segment]
        area = sum(int((cell == at).sum()) for at in cells)
        if area == 0:
            continue
        total = sum(int(sure.flat[at]) for at in cells)
        mean = np.float32(total / (len(cells) * 255))
        kind, number = segment
        limit = min_stuff_area if kind == 'stuff' else min_area[number]
        if area >= limit * size_wh[0] * size_wh[1]:
            score = mean * np.float32(evidence[number]) if kind == 'thing' else mean
            if score >= (min_thing_score if kind == 'thing' else min_stuff_score):
                kept.append((segment, score))
    things = [entry for entry in kept if entry[0][0] == 'thing']
    things = sorted(things, key=lambda entry: (-entry[1], entry[0][1]))[:max_instances]
    out_semantic = np.full(cell.shape, VOID, np.uint8)
    out_instance = np.zeros(cell.shape, np.uint16)
    for y, x in np.ndindex(cell.shape):
        segment = name[cell[y, x]]
        for new_id, (thing, _) in enumerate(things, start=1):
            if thing == segment:
                out_instance[y, x] = new_id
                out_semantic[y, x] = class_of[segment[1]]
        if segment in [entry[0] for entry in kept if entry[0][0] == 'stuff']:
            out_semantic[y, x] = segment[1]
    segments = measure_segments(
        out_semantic, out_instance, np.array([0, *(score for _, score in things)], np.float32)
    )
    for segment, score in kept:
        if segment[0] == 'stuff':
            segments.score[(segments.class_id == segment[1]) & ~segments.is_thing] = score
    return Expected(out_semantic, out_instance, segments)


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


def plain_mask_fusion(heads: MaskHeads, fusion: MaskFusion, size_wh: tuple[int, int]) -> Expected:
    """Follow the rule of Panoptic FPN and the COCO tools word by word."""
    order = sorted(range(len(heads.score)), key=lambda k: -heads.score[k])
    order = [k for k in order if heads.score[k] >= fusion.score_threshold]
    instance = np.zeros(heads.semantic.shape, int)
    for number, k in enumerate(order, start=1):
        mine = [tuple(at) for at in np.argwhere(heads.mask[k])]
        free = [at for at in mine if instance[at] == 0]
        if mine and len(free) / len(mine) >= fusion.min_kept_fraction:
            for at in free:
                instance[at] = number
    return plain_assemble(
        heads.semantic,
        instance,
        {number: int(heads.class_id[k]) for number, k in enumerate(order, start=1)},
        {number: heads.score[k] for number, k in enumerate(order, start=1)},
        dict.fromkeys(range(1, len(order) + 1), 0.0),
        fusion.min_stuff_area_fraction,
        fusion.max_instances,
        heads.confidence,
        size_wh,
    )


def assert_same(fused: Fused, expected: Expected) -> None:
    panoptic = fused.panoptic
    assert panoptic.semantic.tolist() == expected.semantic.tolist()
    assert panoptic.instance.tolist() == expected.instance.tolist()
    for name in ('id', 'class_id', 'is_thing', 'area', 'box_xyxy', 'track_id'):
        ours, theirs = getattr(panoptic.segments, name), getattr(expected.segments, name)
        assert ours.tolist() == theirs.tolist(), name
    assert panoptic.segments.score == pytest.approx(expected.segments.score, abs=1e-6)


def assert_keeps_the_promises(panoptic: Panoptic) -> None:
    check_maps(panoptic.semantic, panoptic.instance, LABELS)
    ids = np.unique(panoptic.instance[panoptic.instance > 0])
    assert ids.tolist() == list(range(1, len(ids) + 1))
    assert panoptic.segments.things.id.tolist() == ids.tolist()
    assert (np.diff(panoptic.segments.things.score) <= 0).all()


class_ids = st.sampled_from([ROAD, SKY, CAR, PERSON, CAR, PERSON, VOID])
bytes_ = st.integers(0, 255)
sizes_wh = st.tuples(st.integers(1, 20), st.integers(1, 20))
fractions = st.sampled_from([0.0, 1 / 16, 1 / 4, 1.0])  # exact in binary, like the areas
min_scores = st.sampled_from([0.0, 0.30007, 0.60007])  # what no score is exactly


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


@st.composite
def random_mask_heads(draw: st.DrawFn) -> MaskHeads:
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    count = draw(st.integers(0, 5))
    return MaskHeads(
        semantic=draw(hnp.arrays(np.uint8, (height, width), elements=class_ids)),
        confidence=draw(hnp.arrays(np.uint8, (height, width), elements=bytes_)),
        mask=draw(hnp.arrays(bool, (count, height, width))),
        class_id=draw(hnp.arrays(np.uint8, count, elements=st.sampled_from([CAR, PERSON]))),
        score=draw(hnp.arrays(np.float32, count, elements=st.integers(0, 8).map(lambda n: n / 8))),
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


@settings(max_examples=150, deadline=None)
@given(
    heads=random_mask_heads(),
    size_wh=sizes_wh,
    kept=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    stuff=fractions,
    threshold=st.sampled_from([0.0, 0.5]),
    max_instances=st.sampled_from([1, 3, 1000]),
)
def test_mask_fusion_equals_plain_loops(
    heads: MaskHeads,
    size_wh: tuple[int, int],
    kept: float,
    stuff: float,
    threshold: float,
    max_instances: int,
) -> None:
    fusion = MaskFusion(threshold, kept, stuff, max_instances)
    fused = fusion(heads, LABELS, size_wh)
    assert_same(fused, plain_mask_fusion(heads, fusion, size_wh))
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


@settings(deadline=None)
@given(heads=random_mask_heads())
def test_things_lie_over_stuff(heads: MaskHeads) -> None:
    height, width = heads.semantic.shape
    fusion = MaskFusion(score_threshold=0, min_kept_fraction=0, min_stuff_area_fraction=0)
    panoptic = fusion(heads, LABELS, (width, height)).panoptic
    assert ((panoptic.instance > 0) == heads.mask.any(0)).all()


# ---- sizes, confidence, bad input ----


def test_areas_and_boxes_are_those_of_the_output_at_camera_size() -> None:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 4, (10, 20)).astype(np.uint8)
    heads = CentreHeads(
        semantic=cv2.resize(blocks, (320, 160), interpolation=cv2.INTER_NEAREST),
        confidence=rng.integers(0, 255, (80, 160)).astype(np.uint8),
        centre_score=np.linspace(1, 0.2, 60, dtype=np.float32),
        centre_index=rng.choice(80 * 160, 60, replace=False).astype(np.int32),
        offset_xy=rng.normal(0, 3, (2, 80, 160)).astype(np.float16),
    )
    for size_wh in ((640, 480), (1279, 717), (200, 90)):
        panoptic = CentreFusion()(heads, LABELS, size_wh).panoptic
        assert panoptic.size_wh == size_wh
        assert_keeps_the_promises(panoptic)
        measured = measure_segments(panoptic.semantic, panoptic.instance)
        assert panoptic.segments.area.tolist() == measured.area.tolist()
        assert panoptic.segments.box_xyxy.tolist() == measured.box_xyxy.tolist()
        assert panoptic.segments.class_id.tolist() == measured.class_id.tolist()
        assert len(panoptic.segments.things) > 20


def test_confidence_is_enlarged_to_the_size_of_the_map() -> None:
    heads = centre_heads([[0, 0, 0, 0]] * 2)
    heads.confidence[:] = [[100, 200]]
    fused = KEEP_ALL(heads, LABELS, (4, 2))
    assert fused.confidence.tolist() == [[100, 125, 175, 200]] * 2
    assert fused.confidence.dtype == np.uint8


def test_a_class_outside_the_label_set_is_refused() -> None:
    with pytest.raises(LabelSetError, match=r"class ids \[4\]; label set 'four' has 0..3"):
        KEEP_ALL(centre_heads([[0, 0, 4, 4]] * 2), LABELS, (4, 2))
    heads = mask_heads([[0, 0]], [[[1, 0]]], [ROAD], [0.9])
    with pytest.raises(LabelSetError, match=r'class ids \[0\], which are no things'):
        MaskFusion()(heads, LABELS, (2, 1))


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


@pytest.mark.parametrize(
    ('column', 'value'),
    [
        ('mask', np.zeros((1, 1, 3), bool)),
        ('mask', np.zeros((1, 1, 2), np.int32)),
        ('class_id', np.zeros(2, np.uint8)),
        ('score', np.zeros(1, np.int32)),
    ],
)
def test_mask_heads_that_do_not_fit_are_refused(column: str, value: np.ndarray) -> None:
    heads = mask_heads([[0, 0]], [[[1, 0]]], [CAR], [0.9])
    with pytest.raises(ValueError, match=f'MaskHeads.{column} is'):
        replace(heads, **{column: value})


@pytest.mark.parametrize(
    ('column', 'value'),
    [
        ('class_logits', np.zeros((2, 5), np.float64)),
        ('class_logits', np.zeros(2, np.float32)),
        ('class_logits', np.zeros((3, 5), np.float32)),
        ('mask_logits', np.zeros((2, 4), np.float32)),
        ('mask_logits', np.zeros((2, 0, 4), np.float32)),
    ],
)
def test_query_heads_that_do_not_fit_are_refused(column: str, value: np.ndarray) -> None:
    heads = query_heads([(CAR, 0.9), (SKY, 0.9)], np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match=r'QueryHeads\.\w+ is'):
        replace(heads, **{column: value})


def test_queries_of_other_classes_are_refused() -> None:
    heads = QueryHeads(np.zeros((1, 8), np.float32), np.zeros((1, 2, 2), np.float32))
    with pytest.raises(LabelSetError, match=r"know 7 classes.*'four' has 4"):
        QueryFusion()(heads, LABELS, (4, 4))


@pytest.mark.parametrize('fusion', [CentreFusion(), MaskFusion(), QueryFusion(logit_grid=384)])
def test_thresholds_outside_their_range_are_refused(
    fusion: CentreFusion | MaskFusion | QueryFusion,
) -> None:
    for name, value in vars(fusion).items():
        if name == 'rule':
            continue
        for wrong in (-0.1, float('nan'), 1.1 if value <= 1 else 65536):
            with pytest.raises(ValueError, match=f'{name} is {wrong}; expected'):
                replace(fusion, **{name: wrong})
