"""Fusion of instance masks: literal scenes, and equality with plain loops."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.fusion import (
    CAR,
    LABELS,
    PERSON,
    ROAD,
    SKY,
    Expected,
    assert_keeps_the_promises,
    assert_same,
    bytes_,
    class_ids,
    fractions,
    mask_heads,
    plain_assemble,
    sizes_wh,
)

from panoptic_ros.fusion import (
    MaskFusion,
    MaskHeads,
)
from panoptic_ros.labels import VOID


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
@given(heads=random_mask_heads())
def test_things_lie_over_stuff(heads: MaskHeads) -> None:
    height, width = heads.semantic.shape
    fusion = MaskFusion(score_threshold=0, min_kept_fraction=0, min_stuff_area_fraction=0)
    panoptic = fusion(heads, LABELS, (width, height)).panoptic
    assert ((panoptic.instance > 0) == heads.mask.any(0)).all()


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
