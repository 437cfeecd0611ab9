"""Anchors, boxes, pooling and pasting, on literal arrays and against plain loops."""

import math

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='extra import')

from panoptic_ros.importing.mask_rcnn.regions import anchors_of, decode, paste, pool  # noqa: E402


def test_anchors_lie_on_the_grid_with_all_ratios():
    anchors = anchors_of((2, 3), (64, 96), 32, (0.5, 1.0, 2.0))
    assert anchors.shape == (18, 4)
    assert anchors[:3].tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    # The second cell of the first row, then the first of the second row.
    assert anchors[4].tolist() == [16, -16, 48, 16]
    assert anchors[10].tolist() == [-16, 16, 16, 48]


def test_deltas_move_and_scale_boxes_inside_the_image():
    box = torch.tensor([[10.0, 20.0, 30.0, 60.0]]).repeat(3, 1)
    deltas = torch.tensor([[0, 0, 0, 0], [1.0, -0.5, 0, 0], [0, 0, math.log(2), 0]])
    found = decode(deltas, box, (1.0,) * 4, (100, 80))
    assert found[0].tolist() == [10, 20, 30, 60]
    assert found[1].tolist() == [30, 0, 50, 40]
    np.testing.assert_allclose(found[2], [0, 20, 40, 60], atol=1e-5)
    halved = decode(deltas[1:2], box[:1], (2.0,) * 4, (100, 80))
    assert halved[0].tolist() == [20, 10, 40, 50]


def test_pooling_samples_the_level_of_the_box_bilinearly():
    rng = np.random.default_rng(0)
    size_wh = (256, 128)
    maps = [rng.normal(size=(1, 2, 128 >> n, 256 >> n)).astype(np.float32) for n in (2, 3, 4, 5)]
    boxes = np.array(
        [[8, 8, 60, 100], [0, 0, 256, 128], [200.5, 100.2, 256, 128], [3, 3, 3.5, 3.2]], np.float32
    )
    found = pool(list(map(torch.from_numpy, maps)), torch.from_numpy(boxes), size_wh, 3)
    for box, result in zip(boxes, found.numpy(), strict=True):
        side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
        level = min(5, max(2, math.floor(4 + math.log2(side / 224) + 1e-6)))
        np.testing.assert_allclose(
            result, roi_align(maps[level - 2][0], box / 2**level, 3), atol=1e-4
        )


def roi_align(features, box, cells):
    """Return the mean of 2x2 bilinear samples in each cell, [C, cells, cells]."""
    _, height, width = features.shape
    extent = np.maximum(box[2:] - box[:2], 1)
    result = np.zeros((len(features), cells, cells))
    for row in range(2 * cells):
        for column in range(2 * cells):
            x = min(max(box[0] + (column + 0.5) * extent[0] / (2 * cells), 0), width - 1)
            y = min(max(box[1] + (row + 0.5) * extent[1] / (2 * cells), 0), height - 1)
            left, top = int(x), int(y)
            right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
            upper = features[:, top, left] * (left + 1 - x) + features[:, top, right] * (x - left)
            lower = features[:, bottom, left] * (left + 1 - x)
            lower = lower + features[:, bottom, right] * (x - left)
            result[:, row // 2, column // 2] += (upper * (top + 1 - y) + lower * (y - top)) / 4
    return result


def test_masks_are_drawn_into_their_boxes():
    mask = torch.zeros(2, 2, 2)
    mask[0], mask[1, 0, 0] = 1, 1
    box = torch.tensor([[2.0, 2.0, 6.0, 4.0], [0.0, 0.0, 8.0, 8.0]])
    drawn = paste(mask, box, (8, 8), (4, 4)) >= 0.5
    assert drawn[0].int().tolist() == [[0] * 4, [0, 1, 1, 0], [0] * 4, [0] * 4]
    assert drawn[1].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]


def test_a_drawn_mask_is_the_bilinear_enlargement():
    mask = torch.rand(1, 7, 7, generator=torch.Generator().manual_seed(0))
    found = paste(mask, torch.tensor([[0.0, 0.0, 56.0, 28.0]]), (56, 28), (28, 56))[0]
    expected = torch.nn.functional.interpolate(mask[None], size=(28, 56), mode='bilinear')[0, 0]
    # At the rim masks fade to 0, as detectron2 draws them.
    np.testing.assert_allclose(found[2:-2, 4:-4], expected[2:-2, 4:-4], atol=1e-5)
