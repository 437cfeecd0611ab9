"""Fusion of queries: literal scenes, and equality with plain loops."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fusion import (
    CAR,
    LABELS,
    PERSON,
    ROAD,
    SKY,
    Expected,
    assert_keeps_the_promises,
    assert_same,
)

from panoptic_ros.errors import LabelSetError
from panoptic_ros.fusion import (
    QueryFusion,
    QueryHeads,
)
from panoptic_ros.labels import VOID
from panoptic_ros.panoptic import measure_segments


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
