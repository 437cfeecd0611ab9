"""Outputs of YOLO and RF-DETR as queries, on literal tensors."""

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='extra import')

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from panoptic_ros.importing.detectors.layouts import (  # noqa: E402
    YoloCandidates,
    YoloDetections,
    cropped_masks,
    find_detector,
)
from panoptic_ros.importing.suppression import iou, keep_best  # noqa: E402

SIZE_WH = (80, 40)


def table(*rows):
    return torch.tensor([rows], dtype=torch.float32)


PROTOTYPES = torch.stack([torch.full((10, 20), 2.0), torch.full((10, 20), -3.0)])[None]


def test_candidates_become_queries_of_the_best_boxes():
    candidates = table(
        # centre, size, two classes, two coefficients
        (20, 20, 16, 16, 0.9, 0.1, 1, 0),
        (21, 20, 16, 16, 0.8, 0.1, 1, 0),  # the same object
        (20, 20, 16, 16, 0.1, 0.7, 0, 1),  # of another class
        (60, 20, 16, 8, 0.6, 0.2, 1, 1),
    ).transpose(1, 2)
    logits, masks = YoloCandidates(SIZE_WH, 2)(candidates, PROTOTYPES)
    score = logits[0].sigmoid().max(-1)
    assert score.values.tolist() == pytest.approx([0.9, 0.7, 0.6, 0], abs=1e-6)
    assert score.indices[:3].tolist() == [0, 1, 0]
    assert masks.shape == (1, 4, 10, 20)
    assert masks[0, 0, 5, 5] == 2
    assert masks[0, 1, 5, 5] == -3
    assert masks[0, 2, 5, 15] == -1
    inside = np.argwhere(masks[0, 0].numpy() != 0)
    assert (inside.min(0).tolist(), inside.max(0).tolist()) == ([3, 3], [6, 6])


def test_detections_after_suppression_stay_as_they_are():
    detections = table((12, 12, 28, 28, 0.9, 1, 1, 0), (12, 12, 28, 28, 0.3, 0, 0, 1))
    logits, masks = YoloDetections(SIZE_WH, 2)(detections, PROTOTYPES)
    score = logits[0].sigmoid()
    np.testing.assert_allclose(score, [[0, 0.9], [0.3, 0]], atol=1e-6)
    assert (masks[0] != 0).sum((1, 2)).tolist() == [16, 16]


def test_masks_end_at_their_boxes():
    box = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.25, 0.5, 1.0, 1.0]])
    masks = cropped_masks(torch.tensor([[1.0], [2.0]]), torch.ones(1, 1, 2, 4), box)
    assert masks[0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]
    assert masks[1].tolist() == [[0, 0, 0, 0], [0, 2, 2, 2]]


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([0.3, 0.5, 0.7]))
def test_suppression_is_the_sequential_rule(seed, count, max_iou):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 0.5, (count, 2))
    box = torch.from_numpy(np.concatenate([corner, corner + rng.uniform(0.1, 0.5, (count, 2))], 1))
    group = torch.from_numpy(rng.integers(0, 2, count))
    overlap, kept = iou(box), []
    for i in range(count):
        rivals = [k for k in kept if group[k] == group[i] and overlap[k, i] > max_iou]
        kept += [] if rivals else [i]
    assert keep_best(box, group, max_iou).nonzero().ravel().tolist() == kept


def test_the_layout_follows_from_names_and_shapes():
    def family(outputs, classes=0):
        found = find_detector(outputs, SIZE_WH, classes)
        return found and (found.family, type(found.queries).__name__, found.classes)

    planes = {'output1': (1, 32, 160, 160)}
    assert family({'output0': (1, 116, 8400), **planes}) == (
        'YOLO segmentation',
        'YoloCandidates',
        80,
    )
    assert family({'output0': (1, 300, 38), **planes}, 80) == (
        'YOLO segmentation',
        'YoloDetections',
        80,
    )
    rf_detr = {'dets': (1, 200, 4), 'labels': (1, 200, 91), 'masks': (1, 200, 108, 108)}
    assert family(rf_detr) == ('RF-DETR', 'RfDetrOutputs', 91)
    assert family({'output0': (1, 84, 8400)}) is None
    assert family({'boxes': (1, 5, 4), 'scores': (1, 5, 80)}) is None
    assert family({'output0': (1, 20, 8400), **planes}) is None
