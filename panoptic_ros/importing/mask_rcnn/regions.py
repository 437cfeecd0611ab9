"""Boxes and the features inside them, with fixed shapes: anchors, decoding, pooling, pasting.

Boxes are float32 also in a float16 network, where pixels above 1024 would have no fractions.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

SCALE = 16
"""Boxes are divided by this before products are made of them. The import keeps modules in float32
as a whole where a value is beyond float16, and pixels squared are."""

LARGEST_LOG_SCALE = math.log(1000 / 16)
"""A box grows at most by this, as torchvision clips it."""


def anchors_of(
    grid_hw: tuple[int, int], image_hw: tuple[int, int], side: int, ratios: tuple[float, ...]
) -> Tensor:
    """Return the anchors of one level, float32 [h * w * ratios, 4], x1 y1 x2 y2 in pixels."""
    ratio = torch.tensor(ratios)
    height, width = ratio.sqrt() * side, ratio.rsqrt() * side
    base = torch.stack([-width, -height, width, height], 1).div(2).round()
    stride_hw = image_hw[0] // grid_hw[0], image_hw[1] // grid_hw[1]
    y, x = torch.meshgrid(
        torch.arange(grid_hw[0]) * stride_hw[0],
        torch.arange(grid_hw[1]) * stride_hw[1],
        indexing='ij',
    )
    shift = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (shift + base).reshape(-1, 4).float()


def decode(
    deltas: Tensor, box_xyxy: Tensor, weights: tuple[float, ...], size_wh: tuple[int, int]
) -> Tensor:
    """Move and scale boxes, and clip them to the image (Girshick et al., arXiv 1311.2524).

    Parameters
    ----------
    deltas
        [N, 4]: shift of the centre in box sides, logarithm of the scale of the sides.
    box_xyxy
        [N, 4], pixels.
    weights
        By which the deltas are divided.
    size_wh
        Of the image.
    """
    dx, dy, dw, dh = (deltas.float() / torch.tensor(weights)).unbind(-1)
    x1, y1, x2, y2 = (box_xyxy / SCALE).unbind(-1)
    width, height = x2 - x1, y2 - y1
    x, y = x1 + width / 2 + dx * width, y1 + height / 2 + dy * height
    half_width = width * dw.clamp(max=LARGEST_LOG_SCALE).exp() / 2
    half_height = height * dh.clamp(max=LARGEST_LOG_SCALE).exp() / 2
    xs = torch.stack([x - half_width, x + half_width], -1).clamp(0.0, size_wh[0] / SCALE)
    ys = torch.stack([y - half_height, y + half_height], -1).clamp(0.0, size_wh[1] / SCALE)
    return torch.stack([xs[:, 0], ys[:, 0], xs[:, 1], ys[:, 1]], -1) * SCALE


def pool(pyramid: list[Tensor], box_xyxy: Tensor, size_wh: tuple[int, int], cells: int) -> Tensor:
    """Return the features inside boxes, [N, C, cells, cells] (RoIAlign, arXiv 1703.06870).

    Each cell is the mean of 2x2 samples. A box is taken from the level that its area names; all
    levels are sampled, so that no shape depends on the boxes.

    Parameters
    ----------
    pyramid
        P2..P5, [1, C, h, w].
    box_xyxy
        [N, 4], pixels of the image, inside it.
    size_wh
        Of the image.
    cells
        Side of the result.
    """
    x1, y1, x2, y2 = box_xyxy.unbind(-1)
    # In units of 32 pixels: areas in pixels are beyond float16.
    side = (((x2 - x1) / 32) * ((y2 - y1) / 32)).clamp(min=1e-6).sqrt()
    level = (4 + (side / 7).log2() + 1e-6).floor().clamp(2, 5)
    count = len(box_xyxy)
    place = (torch.arange(2 * cells) + 0.5) / (2 * cells)
    result = None
    for number, features in enumerate(pyramid, start=2):
        height, width = features.shape[2:]
        scale = width / size_wh[0], height / size_wh[1]
        start_x, start_y = x1[:, None] * scale[0], y1[:, None] * scale[1]
        # Boxes below one cell count as one.
        extent_x = ((x2 - x1) * scale[0]).clamp(min=1)[:, None]
        extent_y = ((y2 - y1) * scale[1]).clamp(min=1)[:, None]
        x = (start_x + place * extent_x) * (2 / max(1, width - 1)) - 1
        y = (start_y + place * extent_y) * (2 / max(1, height - 1)) - 1
        x, y = x.to(features.dtype), y.to(features.dtype)
        shape = (count, 2 * cells, 2 * cells)
        grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], -1)
        sampled = functional.grid_sample(
            features,
            grid.reshape(1, count * 2 * cells, 2 * cells, 2),
            padding_mode='border',
            align_corners=True,
        )
        pooled = functional.avg_pool2d(sampled, 2)
        pooled = pooled.reshape(-1, count, cells, cells).transpose(0, 1)
        is_here = (level == number)[:, None, None, None]
        result = pooled if result is None else torch.where(is_here, pooled, result)
    assert result is not None
    return result


def paste(
    mask: Tensor, box_xyxy: Tensor, size_wh: tuple[int, int], grid_hw: tuple[int, int]
) -> Tensor:
    """Draw square masks into their boxes, bilinearly; 0 outside.

    Bilinear weights are a product of one for the row and one for the column, so the drawing is two
    matrix products.

    Parameters
    ----------
    mask
        [N, s, s], probabilities.
    box_xyxy
        [N, 4], pixels of the image.
    size_wh
        Of the image.
    grid_hw
        Height and width of the result, [N, h, w], which covers the image.
    """
    side = mask.shape[-1]
    rows = _weights(box_xyxy[:, 1::2], size_wh[1], grid_hw[0], side).to(mask.dtype)
    columns = _weights(box_xyxy[:, 0::2], size_wh[0], grid_hw[1], side).to(mask.dtype)
    return rows @ mask @ columns.transpose(1, 2)


def _weights(span: Tensor, length: int, cells: int, side: int) -> Tensor:
    """Return the weight of each mask row for each row of the grid, [N, cells, side].

    ``span`` is [N, 2], where each box starts and ends, of an image of this length.
    """
    start, end = span[:, :1], span[:, 1:]
    place = (torch.arange(cells) + 0.5) * (length / cells)
    place = (place - start) / (end - start).clamp(min=1e-2) * side - 0.5
    return (1 - (place[:, :, None] - torch.arange(side)).abs()).clamp(min=0)
