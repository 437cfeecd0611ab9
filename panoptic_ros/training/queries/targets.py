"""The segments of an image, as the losses of the queries take them."""

from dataclasses import dataclass

import numpy as np

from panoptic_ros.labels import VOID

STRIDE = 4
"""Pixels per cell of the masks."""

UNKNOWN = 255
"""Segment of the cells that have none: void and crowds."""


@dataclass(frozen=True, eq=False)
class SegmentTargets:
    """The segments of one image, things and stuff.

    Parameters
    ----------
    segment
        uint8 [h, w], the segment of each cell, :data:`UNKNOWN` for none.
    class_id
        uint8 [255], the class of each segment, 255 beyond the last one.
    """

    segment: np.ndarray
    class_id: np.ndarray


def make_segments(
    semantic: np.ndarray, instance: np.ndarray, is_crowd: np.ndarray
) -> SegmentTargets:
    """Turn a panoptic map into segments at stride 4.

    Segments are ordered by falling area; those beyond the 255th are unknown.

    Parameters
    ----------
    semantic
        uint8 [H, W], H and W multiples of 4.
    instance
        uint16 [H, W], 0 for stuff and void.
    is_crowd
        bool [ids], True for instance ids that stand for a group of objects.
    """
    cells = np.s_[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]
    semantic, instance = semantic[cells], instance[cells]
    is_known = (semantic != VOID) & ~is_crowd[instance]
    key = instance[is_known].astype(np.int64) * 256 + semantic[is_known]
    keys, number, area = np.unique(key, return_inverse=True, return_counts=True)
    order = np.argsort(-area, kind='stable')
    rank = np.empty(len(keys), np.int64)
    rank[order] = np.arange(len(keys))
    segment = np.full(semantic.shape, UNKNOWN, np.uint8)
    segment[is_known] = np.minimum(rank, UNKNOWN)[number.ravel()]
    class_id = np.full(UNKNOWN, VOID, np.uint8)
    kept = keys[order][:UNKNOWN]
    class_id[: len(kept)] = kept % 256
    return SegmentTargets(segment, class_id)
