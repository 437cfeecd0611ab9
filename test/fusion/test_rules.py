"""The fusion rules of single networks: literal masks, and equality with plain loops."""

import numpy as np
import pytest
from fusion.test_ownership import enlarge
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fusion import CAR, LABELS, PERSON, ROAD, SKY, assert_keeps_the_promises

from panoptic_ros.errors import LabelSetError
from panoptic_ros.fusion import RULES, QueryFusion, QueryHeads
from panoptic_ros.labels import VOID

EOMT = QueryFusion(rule='eomt', score_threshold=0.5)
RF_DETR = QueryFusion(rule='rf_detr')
SEMANTIC = QueryFusion(rule='semantic')


def heads_of(classes: list[tuple[int, float]], masks: list) -> QueryHeads:
    """Return queries of one likely class each; masks are logits [Q, h, w]."""
    class_logits = np.zeros((len(classes), len(LABELS) + 1), np.float32)
    for row, (class_id, probability) in zip(class_logits, classes, strict=True):
        rest = (1 - probability) / len(LABELS)
        row[:] = np.log(rest)
        row[class_id] = np.log(probability)
    return QueryHeads(class_logits, np.array(masks, np.float32))


def class_maps(maps: list) -> QueryHeads:
    count = len(LABELS)
    return QueryHeads(np.eye(count, count + 1, dtype=np.float32) * 30, np.array(maps, np.float32))


def test_eomt_leaves_pixels_void_where_the_owner_itself_is_unsure() -> None:
    heads = heads_of([(ROAD, 0.9)], [[[4.0, 4.0, 4.0, 4.0, 4.0, -1.0]]])
    panoptic = EOMT(heads, LABELS, (6, 1)).panoptic
    assert panoptic.semantic.tolist() == [[ROAD] * 5 + [VOID]]
    # DETR's rule gives an owner all its pixels.
    detr = QueryFusion()(heads, LABELS, (6, 1)).panoptic
    assert detr.semantic.tolist() == [[ROAD] * 6]


def test_eomt_measures_masks_without_their_weight() -> None:
    # 0.6 * sigmoid(1) is below 0.5, sigmoid(1) is not.
    heads = heads_of([(CAR, 0.6)], [[[1.0, 1.0]]])
    assert EOMT(heads, LABELS, (2, 1)).panoptic.semantic.tolist() == [[CAR, CAR]]
    assert QueryFusion()(heads, LABELS, (2, 1)).panoptic.semantic.tolist() == [[VOID, VOID]]


def test_eomt_takes_the_sigmoid_after_enlarging() -> None:
    # Halfway between -2 and 6 the logit is 2; of the probabilities the middle is 0.56.
    heads = heads_of([(CAR, 0.99)], [[[-2.0, 6.0]]])
    strict = QueryFusion(rule='eomt', mask_threshold=0.8, min_kept_fraction=0)
    assert strict(heads, LABELS, (4, 1)).panoptic.semantic.tolist() == [[VOID, VOID, CAR, CAR]]


def test_rf_detr_paints_the_best_first_and_drops_nothing() -> None:
    masks = [[[5.0, 5.0, 5.0, 5.0]], [[5.0, 5.0, -5.0, -5.0]], [[5.0, -5.0, -5.0, -5.0]]]
    heads = heads_of([(CAR, 0.6), (PERSON, 0.9), (CAR, 0.8)], masks)
    panoptic = RF_DETR(heads, LABELS, (4, 1)).panoptic
    assert panoptic.semantic.tolist() == [[PERSON, PERSON, CAR, CAR]]
    assert panoptic.instance.tolist() == [[1, 1, 2, 2]]
    assert panoptic.segments.score == pytest.approx([0.9, 0.6], abs=1e-3)


def test_rf_detr_leaves_void_what_no_mask_covers() -> None:
    heads = heads_of([(CAR, 0.9)], [[[5.0, -5.0]]])
    assert RF_DETR(heads, LABELS, (2, 1)).panoptic.semantic.tolist() == [[CAR, VOID]]


def test_class_maps_give_classes_and_patches_of_things() -> None:
    road, sky = [[1.0, 9.0, 1.0, 9.0]], [[0.0] * 4]
    car, person = [[5.0, 0.0, 5.0, 0.0]], [[-9.0] * 4]
    panoptic = SEMANTIC(class_maps([road, sky, car, person]), LABELS, (4, 1)).panoptic
    assert panoptic.semantic.tolist() == [[CAR, ROAD, CAR, ROAD]]
    assert panoptic.instance.tolist() == [[1, 0, 2, 0]]
    assert_keeps_the_promises(panoptic)


def test_class_maps_may_be_negative() -> None:
    panoptic = SEMANTIC(
        class_maps([[[-3.0]], [[-2.0]], [[-5.0]], [[-4.0]]]), LABELS, (3, 2)
    ).panoptic
    assert (panoptic.semantic == SKY).all()


def test_the_weakest_patches_beyond_the_largest_number_become_void() -> None:
    maps = np.zeros((4, 1, 5))
    maps[CAR, 0] = 2, 0, 9, 9, 0
    maps[ROAD, 0, [1, 4]] = 9
    fusion = QueryFusion(rule='semantic', max_instances=1)
    panoptic = fusion(class_maps(maps), LABELS, (5, 1)).panoptic
    assert panoptic.semantic.tolist() == [[VOID, ROAD, CAR, CAR, ROAD]]
    assert panoptic.instance.tolist() == [[0, 0, 1, 1, 0]]


@pytest.mark.parametrize(('rule', 'confidence'), [('semantic', 123), ('mask_sum', 204)])
def test_confidence_of_class_maps(rule: str, confidence: int) -> None:
    maps = class_maps([[[0.8]], [[0.1]], [[0.0]], [[0.0]]])
    fused = QueryFusion(rule=rule)(maps, LABELS, (1, 1))
    softmax = round(255 * np.exp(0.8) / (np.exp(0.8) + np.exp(0.1) + 2))
    assert fused.confidence.item() == (softmax if rule == 'semantic' else confidence)
    assert fused.panoptic.segments.score == pytest.approx(fused.confidence.item() / 255, abs=1e-6)


def test_a_wrong_number_of_class_maps_is_refused() -> None:
    heads = QueryHeads(np.zeros((3, 5), np.float32), np.zeros((3, 1, 1), np.float32))
    with pytest.raises(LabelSetError, match=r"3 class maps, label set 'four' has 4 classes"):
        SEMANTIC(heads, LABELS, (1, 1))


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="rule is 'vote'; expected one of detr"):
        QueryFusion(rule='vote')


@pytest.mark.parametrize('rule', RULES)
def test_padding_is_left_out(rule: str) -> None:
    """A letterboxed mask gives what the mask of the picture alone gives."""
    rng = np.random.default_rng(3)
    content = rng.normal(0, 4, (4, 4, 8)).astype(np.float32)
    padded = np.full((4, 8, 8), 20, np.float32)
    padded[:, :4] = content
    classes = [(CAR, 0.9), (ROAD, 0.8), (SKY, 0.7), (PERSON, 0.6)]
    # Below the last row of the picture the enlarged logits see padding, so that row repeats.
    padded[:, 4] = content[:, 3]
    fusion = QueryFusion(rule=rule, min_kept_fraction=0.1, logit_grid=16 if rule == 'eomt' else 0)
    if rule == 'mask2former':
        fusion = QueryFusion(rule=rule, min_kept_fraction=0.1, logit_grid=64)
    cropped = fusion(heads_of(classes, padded), LABELS, (40, 20), (1.0, 0.5)).panoptic
    assert cropped.size_wh == (40, 20)
    assert_keeps_the_promises(cropped)
    if rule == 'mask2former':
        return  # its square grid is of the content in one case, of the whole in the other
    alone = QueryFusion(rule=rule, min_kept_fraction=0.1)(
        heads_of(classes, content), LABELS, (40, 20)
    )
    differs = (alone.panoptic.semantic != cropped.semantic).mean()
    assert differs <= (0.15 if rule == 'eomt' else 0.0)


def plain(
    rule: str, score: np.ndarray, logit: np.ndarray, grid: int, size_wh: tuple
) -> np.ndarray:
    """Return the value of each mask at each pixel, float64 [K, H, W]; the largest one wins."""
    if grid:
        logit = enlarge(logit, (grid, grid))
    enlarged = enlarge(logit, size_wh)
    if rule == 'eomt':
        return score[:, None, None] / (1 + np.exp(-enlarged))
    if rule == 'rf_detr':
        return score[:, None, None] * (enlarged > 0)
    return enlarged


@settings(max_examples=60)
@given(
    rule=st.sampled_from(['eomt', 'rf_detr', 'semantic']),
    seed=st.integers(0, 1000),
    size_wh=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    grid=st.sampled_from([0, 9, 16]),
)
def test_the_largest_enlarged_value_wins(
    rule: str, seed: int, size_wh: tuple[int, int], grid: int
) -> None:
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 3, (4, 5, 6)).astype(np.float32)
    score = np.array([0.9, 0.8, 0.7, 0.6])
    classes = list(zip([ROAD, SKY, CAR, PERSON], score, strict=True))
    heads = class_maps(logit) if rule == 'semantic' else heads_of(classes, logit)
    fusion = QueryFusion(rule=rule, score_threshold=0.5, min_kept_fraction=0, logit_grid=grid)
    panoptic = fusion(heads, LABELS, size_wh).panoptic
    assert_keeps_the_promises(panoptic)
    value = plain(rule, score, logit.astype(np.float64), grid, size_wh)
    shown = panoptic.semantic
    of_shown = np.take_along_axis(value, np.minimum(shown, 3)[None].astype(int), axis=0)[0]
    lost = value.max(axis=0) - of_shown
    if rule == 'rf_detr':
        near = abs(enlarge_through(logit, grid, size_wh)).min(axis=0) < 1e-5
        assert ((lost == 0) | near | (shown == VOID)).all()
        assert ((value.max(axis=0) == 0) == (shown == VOID))[~near].all()
    else:
        assert (lost[shown != VOID] < 1e-5).all()


def enlarge_through(logit: np.ndarray, grid: int, size_wh: tuple[int, int]) -> np.ndarray:
    return enlarge(enlarge(logit, (grid, grid)) if grid else logit, size_wh)
