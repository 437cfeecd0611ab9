"""The segments of images, as the losses of the queries take them."""

from typing import NamedTuple

import torch
from torch import Tensor

from panoptic_ros.labels import VOID

STRIDE = 4
"""Pixels per cell of the masks."""

UNKNOWN = 255
"""Segment of the cells that have none: void and crowds."""


class SegmentTargets(NamedTuple):
    """The segments of a batch, things and stuff."""

    segment: Tensor
    """uint8 [N, h, w], the segment of each cell, :data:`UNKNOWN` for none."""
    class_id: Tensor
    """uint8 [N, 255], the class of each segment, 255 beyond the last one."""


def make_segments(semantic: Tensor, instance: Tensor) -> SegmentTargets:
    """Turn panoptic maps into segments at stride 4, on the device they are on.

    Segments are ordered by falling area; those beyond the 255th are unknown.

    Parameters
    ----------
    semantic
        uint8 [N, H, W], H and W multiples of 4.
    instance
        int16 [N, H, W]: 0 for stuff and void, -1 for groups of objects (crowds).
    """
    every = slice(STRIDE // 2, None, STRIDE)
    semantic, instance = semantic[:, every, every], instance[:, every, every]
    segments = [_segments(*maps) for maps in zip(semantic, instance, strict=True)]
    return SegmentTargets(*(torch.stack(parts) for parts in zip(*segments, strict=True)))


def _segments(semantic: Tensor, instance: Tensor) -> tuple[Tensor, Tensor]:
    """Return segment uint8 [h, w] and class_id uint8 [255] of the cells of one image."""
    is_known = (semantic != VOID) & (instance >= 0)
    key = instance[is_known].long() * 256 + semantic[is_known]
    keys, number, area = key.unique(return_inverse=True, return_counts=True)
    order = area.argsort(descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    segment = torch.full_like(semantic, UNKNOWN)
    segment[is_known] = rank[number].clamp(max=UNKNOWN).to(torch.uint8)
    class_id = torch.full((UNKNOWN,), VOID, dtype=torch.uint8, device=semantic.device)
    kept = keys[order][:UNKNOWN]
    class_id[: len(kept)] = (kept % 256).to(torch.uint8)
    return segment, class_id
