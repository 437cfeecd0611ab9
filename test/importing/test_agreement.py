import numpy as np

from panoptic_ros.fusion import QueryFusion
from panoptic_ros.importing.agreement import Judged, compare
from panoptic_ros.labels import LabelSet

COCO = LabelSet.load('coco')
JUDGED = Judged('queries', QueryFusion(rule='rf_detr'), COCO, (64, 64))


def outputs(second_px: int) -> dict[str, np.ndarray]:
    """Return two queries: the left half, and a number of pixels in the last row."""
    class_logits = np.full((2, len(COCO) + 1), -9, np.float32)
    class_logits[[0, 1], [0, 1]] = 9
    mask_logits = np.full((2, 64, 64), -9, np.float32)
    mask_logits[0, :, :32] = 9
    mask_logits[1, -1, 64 - second_px :] = 9
    return {'class_logits': class_logits, 'mask_logits': mask_logits}


def test_a_segment_of_a_few_pixels_does_not_count() -> None:
    agreement = compare([outputs(second_px=1)], [outputs(second_px=0)], JUDGED)
    assert agreement.pq == 100
    assert agreement.segments == 1
    assert not agreement.has_collapsed


def test_a_segment_that_is_missing_counts() -> None:
    agreement = compare([outputs(second_px=0)], [outputs(second_px=24)], JUDGED)
    assert agreement.pq == 50
    assert agreement.segments == 2
    assert agreement.has_collapsed


def test_outputs_that_are_not_numbers_have_collapsed() -> None:
    found = outputs(second_px=0)
    found['mask_logits'][0, 0, 0] = np.nan
    assert compare([found], [outputs(second_px=0)], JUDGED).has_collapsed
