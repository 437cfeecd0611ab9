"""Objects with a role, and the surface that supports each object."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic, Segments

LOWEST_SHARE = 0.25
"""Fraction of an object's height, from below, that can touch its support: a foot, not an arm."""

MIN_CONTACT = 0.25
"""Smallest fraction of an object's lower edge on its support; the rest may be hidden."""

DEPTH_TOLERANCE = 0.05
"""Relative step of depth across the edge beyond which the surface is behind, not below."""

NONE = -1
"""Row of the support of an object without a visible one."""


def with_roles(segments: Segments, label_set: LabelSet, roles: Iterable[str]) -> np.ndarray:
    """Return which segments are objects with at least one of the roles, bool [n].

    Without roles, all objects. Raises LabelSetError for an unknown role.
    """
    tables = [label_set.with_role(role) for role in roles]
    if not tables:
        return segments.is_thing.copy()
    return segments.is_thing & np.logical_or.reduce(tables)[segments.class_id]


@dataclass(frozen=True, eq=False)
class Supports:
    """The support of each segment; rows as in the segment table of the panoptic map.

    Parameters
    ----------
    row
        intp [n], the row of the segment it stands or lies on; :data:`NONE` where none is visible,
        and for stuff.
    contact
        float32 [n], 0..1, fraction of its lower edge that is on the support.
    """

    row: np.ndarray
    contact: np.ndarray


def find_supports(
    panoptic: Panoptic, label_set: LabelSet, depth_m: np.ndarray | None = None
) -> Supports:
    """Find the surface under each object: the table under the cup, the floor under the table.

    In every column, the segment below the object's lowest pixel is a candidate if that pixel is
    in the lowest quarter of the object. The candidate with the role ``support_surface`` below most
    columns supports the object, if its fraction of the columns with a known segment is large
    enough. An image alone does not tell a cup in front of a table from a cup on it; depth does.

    Parameters
    ----------
    panoptic
        The map.
    label_set
        The classes, with the role ``support_surface``.
    depth_m
        float32 [H, W] of the map's size, metres, NaN where unknown; None without depth.

    Raises ValueError if depth has another size.
    """
    semantic, instance, segments = panoptic.semantic, panoptic.instance, panoptic.segments
    if depth_m is not None and depth_m.shape != semantic.shape:
        raise ValueError(f'depth_m is {depth_m.shape}; expected {semantic.shape}')
    count, width = len(segments), semantic.shape[1]
    # In reading order, the last of an object's pixels in a column is the lowest.
    ends = instance > 0
    ends[:-1] &= instance[:-1] != instance[1:]
    pixel = np.flatnonzero(ends)
    above = panoptic.rows_at(pixel)
    low = segments.box_xyxy[above, 3] - pixel // width
    tall = segments.box_xyxy[above, 3] - segments.box_xyxy[above, 1]
    lowest = np.full(count * width, -1)
    # numpy keeps the last of several values for one index.
    lowest[above * width + pixel % width] = np.where(
        low <= np.maximum(LOWEST_SHARE * tall, 1), pixel, -1
    )
    pixel = lowest[lowest >= 0]
    above = panoptic.rows_at(pixel)
    inside = pixel < semantic.size - width
    pixel, above = pixel[inside], above[inside]
    below = panoptic.rows_at(pixel + width)
    # The segment below is unknown where the map is void or depth has a step.
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
