"""What robots ask about objects: which have a role, and what each one stands or lies on."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic, Segments

LOWEST_SHARE = 0.25
"""Only the lowest part of an object touches what carries it: a foot, not an arm."""

MIN_CONTACT = 0.25
"""So much of an object's lower edge has to be on a surface. The rest may be hidden."""

DEPTH_TOLERANCE = 0.05
"""Where depth steps by more than this share across the edge, one is only behind the other."""

NONE = -1
"""Row of an object's support where none is seen."""


def with_roles(segments: Segments, label_set: LabelSet, roles: Iterable[str]) -> np.ndarray:
    """Return which segments are objects with at least one of the roles, bool [n].

    No roles at all ask for every object. Raises LabelSetError for a role that is none.
    """
    tables = [label_set.with_role(role) for role in roles]
    if not tables:
        return segments.is_thing.copy()
    return segments.is_thing & np.logical_or.reduce(tables)[segments.class_id]


@dataclass(frozen=True, eq=False)
class Supports:
    """What carries each segment, row by row those of the panoptic map.

    Parameters
    ----------
    row
        intp [n], the row of the segment it stands or lies on, :data:`NONE` where none is seen;
        always for stuff.
    contact
        float32 [n], 0..1, how much of its lower edge that surface is seen below.
    """

    row: np.ndarray
    contact: np.ndarray


def find_supports(
    panoptic: Panoptic, label_set: LabelSet, depth_m: np.ndarray | None = None
) -> Supports:
    """Find the surface under each object: the table under the cup, the floor under the table.

    In every column the object's lowest pixel is looked at, if it is in the lowest quarter of the
    object, and the segment right below it. The segment with the role ``support_surface`` that is
    below most of them carries the object, if it is below enough of those below which anything is
    seen. A picture does not tell whether a cup hangs before a table or stands on it; depth does.

    Parameters
    ----------
    panoptic
        The map.
    label_set
        Says which classes are surfaces.
    depth_m
        float32 [H, W] of the map's size, metres, NaN where unknown; None if there is none.

    Raises ValueError if depth has another size.
    """
    semantic, instance, segments = panoptic.semantic, panoptic.instance, panoptic.segments
    if depth_m is not None and depth_m.shape != semantic.shape:
        raise ValueError(f'depth_m is {depth_m.shape}; expected {semantic.shape}')
    count, width = len(segments), semantic.shape[1]
    # Reading order: of an object's pixels in a column the last is the lowest.
    ends = instance > 0
    ends[:-1] &= instance[:-1] != instance[1:]
    pixel = np.flatnonzero(ends)
    above = panoptic.rows_at(pixel)
    low = segments.box_xyxy[above, 3] - pixel // width
    tall = segments.box_xyxy[above, 3] - segments.box_xyxy[above, 1]
    lowest = np.full(count * width, -1)
    # Of several values for one index, numpy keeps the last.
    lowest[above * width + pixel % width] = np.where(
        low <= np.maximum(LOWEST_SHARE * tall, 1), pixel, -1
    )
    pixel = lowest[lowest >= 0]
    above = panoptic.rows_at(pixel)
    inside = pixel < semantic.size - width
    pixel, above = pixel[inside], above[inside]
    below = panoptic.rows_at(pixel + width)
    # Below the object nothing is known where the map is void or depth steps.
    known = below != NONE
    if depth_m is not None:
        upper_m, lower_m = depth_m.ravel()[pixel], depth_m.ravel()[pixel + width]
        known &= ~(np.abs(upper_m - lower_m) > DEPTH_TOLERANCE * lower_m)
    above, below = above[known], below[known]
    pairs = np.bincount(above * count + below, minlength=count * count).reshape(count, count)
    total = pairs.sum(1)
    pairs = pairs * label_set.with_role('support_surface')[segments.class_id]
    best = pairs.argmax(1) if count else np.zeros(0, np.intp)
    contact = pairs[np.arange(count), best] / np.maximum(total, 1)
    return Supports(np.where(contact >= MIN_CONTACT, best, NONE), contact.astype(np.float32))
