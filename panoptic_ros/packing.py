"""One panoptic map in the four packings that data sets, tools and robots exchange.

======================  =========================================================  ==============
packing                 value of a pixel                                           void
======================  =========================================================  ==============
COCO panoptic           segment id as a colour, ``R + 256 G + 65536 B``            0
Cityscapes              ``label * 1000 + k``; ``label`` alone for stuff, groups    0 (any other)
class and instance      ``class << 16 | instance`` (Hydra and others), 32SC1       ``255 << 16``
id map                  segment id 1..n (detectron style), 32SC1                   0 (or below)
======================  =========================================================  ==============

All functions are pure. Instances come back numbered 1, 2, ... in the order of the packing's own
table, so a map whose ids are already 1..n survives the round trip bit for bit; the number an
object had in the file is kept as its ``track_id``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import NO_INSTANCE, Panoptic
from panoptic_ros.runs import Runs

COCO_VOID = 0
"""Segment id of the pixels that have no class, in COCO panoptic pictures."""

CITYSCAPES_FACTOR = 1000
"""Cityscapes writes ``label * 1000 + k``: below it, a value is a label without an instance."""

_STUFF_ID_BASE = 1 << 16  # above every instance id, so stuff and things never share an id
_ID_MASK = 0xFFFFFF


def rows_of(ids: np.ndarray, table_ids: np.ndarray) -> np.ndarray:
    """Return the row of each id in a table of ids, intp; -1 where the table lacks it."""
    if not len(table_ids):
        return np.full(np.shape(ids), -1, np.intp)
    order = np.argsort(table_ids)
    known = table_ids[order]
    at = np.searchsorted(known, ids)
    np.minimum(at, len(known) - 1, out=at)
    rows = order.take(at)
    rows[known.take(at) != ids] = -1
    return rows


def rgb_to_ids(rgb: np.ndarray) -> np.ndarray:
    """Turn the colours of a COCO panoptic picture into segment ids.

    Parameters
    ----------
    rgb
        uint8 [H, W, 3].

    Returns
    -------
    int32 [H, W], ``R + 256 G + 65536 B``.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(
            f'a COCO panoptic picture is {rgb.dtype} {rgb.shape}; expected uint8 [H, W, 3]'
        )
    # A fourth byte makes each pixel one little-endian word; the mask clears that byte again.
    words = cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA).view('<u4')[..., 0]
    return (words & _ID_MASK).astype(np.int32)


def ids_to_rgb(ids: np.ndarray) -> np.ndarray:
    """Turn segment ids (integers [H, W], 0..2**24 - 1) into colours, uint8 [H, W, 3]."""
    words = np.ascontiguousarray(ids).astype('<u4')
    return np.ascontiguousarray(words.view(np.uint8).reshape(*ids.shape, 4)[..., :3])


def to_coco(
    panoptic: Panoptic, label_set: LabelSet, crowd_ids: np.ndarray | Sequence[int] = ()
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Pack into a COCO panoptic picture and its ``segments_info``.

    The id of a thing is its instance id; the id of a stuff segment is 65536 + class id, so both
    stay the same from frame to frame.

    Parameters
    ----------
    crowd_ids
        Instance ids that are groups rather than single objects (``iscrowd``).

    Returns
    -------
    The picture, uint8 [H, W, 3] RGB, and one dict a segment with the official keys ``id``,
    ``category_id``, ``area``, ``bbox`` (x, y, width, height), ``iscrowd``, and ``score``.
    """
    segments = panoptic.segments
    ids = np.where(segments.is_thing, segments.id, _STUFF_ID_BASE + segments.class_id.astype(int))
    boxes_xywh = segments.box_xyxy.copy()
    boxes_xywh[:, 2:] -= boxes_xywh[:, :2]
    is_crowd = segments.is_thing & np.isin(segments.id, np.asarray(crowd_ids, np.int64))
    columns = (
        ids.tolist(),
        label_set.category_ids[segments.class_id].tolist(),
        segments.area.tolist(),
        boxes_xywh.tolist(),
        is_crowd.astype(int).tolist(),
        segments.score.tolist(),
    )
    keys = ('id', 'category_id', 'area', 'bbox', 'iscrowd', 'score')
    segments_info = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
    return ids_to_rgb(panoptic.paint(ids, COCO_VOID)), segments_info


def coco_categories(label_set: LabelSet) -> list[dict[str, Any]]:
    """Return the ``categories`` of a panoptic JSON: id, name, supercategory, isthing, color."""
    return [
        {
            'id': c.category_id,
            'name': c.name,
            'supercategory': c.name,
            'isthing': int(c.is_thing),
            'color': list(c.color_rgb),
        }
        for c in label_set.classes
    ]


def from_coco(
    rgb: np.ndarray, segments_info: Sequence[Mapping[str, Any]], label_set: LabelSet
) -> tuple[Panoptic, np.ndarray]:
    """Unpack a COCO panoptic picture.

    Parameters
    ----------
    rgb
        uint8 [H, W, 3] RGB.
    segments_info
        The list of that name in the annotation: ``id``, ``category_id``, optionally ``iscrowd``
        and ``score``. Segments of one stuff class become one. A group (``iscrowd``) of a stuff
        class has no counterpart in :class:`Panoptic`; its pixels become void.

    Returns
    -------
    The map, and the instance ids that are groups, uint16 [n], in the order of the list.

    Raises
    ------
    ValueError
        The picture has an id that the list lacks, the list has an id twice, or a category is
        not in the label set.
    """
    ids = np.array([info['id'] for info in segments_info], np.int64)
    categories = np.array([info['category_id'] for info in segments_info], np.int64)
    is_crowd = np.array([bool(info.get('iscrowd', 0)) for info in segments_info], bool)
    score = np.array([info.get('score', 1.0) for info in segments_info], np.float32)
    class_id = label_set.class_ids_of(categories)
    if (class_id == VOID).any():
        unknown = np.unique(categories[class_id == VOID]).tolist()
        raise ValueError(
            f'the segments have category ids {unknown}; label set {label_set.name!r} has '
            f'{label_set.category_ids.tolist()}'
        )
    class_id[is_crowd & ~label_set.is_thing[class_id]] = VOID
    return _unpack(rgb_to_ids(rgb), ids, class_id, is_crowd, label_set, score)


def from_cityscapes(values: np.ndarray, label_set: LabelSet) -> tuple[Panoptic, np.ndarray]:
    """Unpack the values of a Cityscapes ``*_instanceIds.png``.

    Parameters
    ----------
    values
        Integers [H, W]. Labels outside the label set are void: the data set has many.

    Returns
    -------
    The map, and the instance ids that are groups (a thing's label without a number), uint16 [n].
    """
    values = np.asarray(values)
    present = np.unique(Runs.of(values).sample(values)).astype(np.int64)
    numbered = present >= CITYSCAPES_FACTOR
    labels = np.where(numbered, present // CITYSCAPES_FACTOR, present)
    class_id = label_set.class_ids_of(labels)
    is_crowd = label_set.is_thing[class_id] & ~numbered
    return _unpack(values, present, class_id, is_crowd, label_set)


def to_class_instance(panoptic: Panoptic) -> np.ndarray:
    """Pack into ``class << 16 | instance``, int32 [H, W]; stuff has instance 0."""
    packed = panoptic.semantic.astype(np.int32)
    packed <<= 16
    packed |= panoptic.instance
    return packed


def to_thing_instance(panoptic: Panoptic) -> np.ndarray:
    """Pack the objects alone into ``class << 16 | instance``, int32 [H, W]; 0 everywhere else.

    What the instance segmentation node of MIT-SPARK's ``semantic_inference`` publishes.
    """
    packed = to_class_instance(panoptic)
    packed[panoptic.instance == NO_INSTANCE] = 0
    return packed


def to_segment_ids(panoptic: Panoptic) -> np.ndarray:
    """Pack into one id a segment, int32 [H, W]: ``(class + 1) << 16 | instance``, 0 where void.

    For mappers that want a map of ids in which 0 is nothing, and a fixed table that says what
    each id is (``panoptic_mapping``): an id does not change from frame to frame unless the
    instance does.
    """
    # One more in a byte makes void, 255, a 0.
    packed = (panoptic.semantic + np.uint8(1)).astype(np.int32)
    packed <<= 16
    packed |= panoptic.instance
    return packed


PANOPTIC_PACKINGS: Mapping[str, Callable[[Panoptic], np.ndarray]] = {
    'class_instance': to_class_instance,
    'thing_instance': to_thing_instance,
    'segment_id': to_segment_ids,
}
"""The packings into one integer a pixel that the node's ``~/panoptic`` has, by name."""


def _unpack(
    ids: np.ndarray,
    segment_id: np.ndarray,
    class_id: np.ndarray,
    is_crowd: np.ndarray,
    label_set: LabelSet,
    score: np.ndarray | None = None,
) -> tuple[Panoptic, np.ndarray]:
    """Build a map from a map of ids (0 is void) and the table of its segments."""
    unique, count = np.unique(segment_id, return_counts=True)
    if (count > 1).any():
        raise ValueError(f'segment ids {unique[count > 1].tolist()} are listed more than once')
    runs = Runs.of(ids)
    run_ids = runs.sample(ids).astype(np.int64)
    rows = rows_of(run_ids, segment_id)
    lost = (rows < 0) & (run_ids != COCO_VOID)
    if lost.any():
        raise ValueError(
            f'the picture has segment ids {np.unique(run_ids[lost])[:5].tolist()} that its list '
            'of segments lacks'
        )
    is_thing = label_set.is_thing[class_id]
    if is_thing.sum() > np.iinfo(np.uint16).max:
        raise ValueError(
            f'the picture has {is_thing.sum()} instances; expected {np.iinfo(np.uint16).max} at '
            'most'
        )
    # Row -1 is void: one more entry at the end of both columns.
    instance_of_row = np.append(np.cumsum(is_thing) * is_thing, NO_INSTANCE).astype(np.uint16)
    class_of_row = np.append(class_id, VOID).astype(np.uint8)
    score_by_id = None if score is None else np.append(np.float32(1), score[is_thing])
    panoptic = Panoptic.from_runs(runs, class_of_row[rows], instance_of_row[rows], score_by_id)
    id_in_file = np.append(0, segment_id[is_thing]).astype(np.int32)
    panoptic = panoptic.with_track_ids(id_in_file[panoptic.segments.id])
    return panoptic, instance_of_row[:-1][is_crowd & is_thing]
