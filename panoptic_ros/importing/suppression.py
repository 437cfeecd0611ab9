"""Non-maximum suppression without dynamic shapes, for detectors in an ONNX graph."""

import torch
from torch import Tensor

ROUNDS = 12
"""Longest chain of boxes, each suppressing the next, that is resolved exactly."""


def keep_best(box_xyxy: Tensor, group: Tensor, max_iou: float) -> Tensor:
    """Return which boxes non-maximum suppression keeps, 1 or 0 in the type of the boxes, [N].

    A box is suppressed by a kept box before it of the same group with a larger IoU than
    ``max_iou``. The sequential rule is the fixed point of this sentence. It is reached after as
    many rounds as the longest chain of suppressions has boxes.

    Parameters
    ----------
    box_xyxy
        float [N, 4], best first; in units in which float16 holds the areas.
    group
        Integers [N], for example classes; boxes of different groups do not compete.
    max_iou
        0..1.
    """
    better = torch.ones(len(box_xyxy), len(box_xyxy), dtype=torch.bool).triu(1)
    rival = better & (iou(box_xyxy) > max_iou) & (group[:, None] == group[None, :])
    beats = rival.to(box_xyxy.dtype)
    kept = torch.ones_like(box_xyxy[:1, :1]).expand(1, len(box_xyxy))
    for _ in range(ROUNDS):
        kept = (kept @ beats == 0).to(box_xyxy.dtype)
    return kept[0]


def iou(box_xyxy: Tensor) -> Tensor:
    """Return the IoU of each box with each, [N, N]."""
    x1, y1, x2, y2 = box_xyxy.unbind(-1)
    area = (x2 - x1) * (y2 - y1)
    width = torch.minimum(x2[:, None], x2[None]) - torch.maximum(x1[:, None], x1[None])
    height = torch.minimum(y2[:, None], y2[None]) - torch.maximum(y1[:, None], y1[None])
    common = width.clamp(min=0) * height.clamp(min=0)
    union = area[:, None] + area[None] - common
    return common / union.clamp(min=1e-6)
