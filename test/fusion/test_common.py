"""What holds for every fusion: sizes, confidence, refused input."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from support.fusion import (
    KEEP_ALL,
    LABELS,
    ROAD,
    assert_keeps_the_promises,
    centre_heads,
    mask_heads,
)

from panoptic_ros.errors import LabelSetError
from panoptic_ros.fusion import (
    CentreFusion,
    CentreHeads,
    MaskFusion,
    QueryFusion,
)
from panoptic_ros.panoptic import measure_segments


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
