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
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import NO_INSTANCE, Panoptic, measure_segments

COCO_VOID = 0
"""Segment id of the pixels that have no class, in COCO panoptic pictures."""

CITYSCAPES_FACTOR = 1000
"""Cityscapes writes ``label * 1000 + k``: below it, a value is a label without an instance."""

_STUFF_ID_BASE = 1 << 16  # above every instance id, so stuff and things never share an id
_ID_MASK = 0xFFFFFF


def find_runs(*maps: np.ndarray) -> np.ndarray:
    """Return where the pixels change: the flat index of the first pixel of every run, intp [n].

    A run is a stretch of consecutive pixels (row-major) on which none of the maps changes its
    value. Label maps have some thousand runs where they have some hundred thousand pixels:
    whatever is looked up or counted once a run, weighted by its length, costs next to nothing.

    Parameters
    ----------
    maps
        Arrays of one shape [H, W], any integer dtype.
    """
    flat = [np.ascontiguousarray(m).reshape(-1) for m in maps]
    begins = np.ones(flat[0].size, bool)
    mark_changes(begins[1:], *flat)
    return indices_of_true(begins)


def mark_changes(changes: np.ndarray, first: np.ndarray, *others: np.ndarray) -> None:
    """Set ``changes``, bool [n - 1], to where the next value of any of the arrays [n] differs."""
    np.not_equal(first[1:], first[:-1], out=changes)
    if others:
        differs = np.empty_like(changes)
        for other in others:
            np.not_equal(other[1:], other[:-1], out=differs)
            changes |= differs


def indices_of_true(flags: np.ndarray) -> np.ndarray:
    """Return ``np.flatnonzero`` of a contiguous bool array [n] of which few are true.

    Looks at eight flags at a time, and then into the eights that have one: numpy takes a
    mispredicted branch for every flag that is set.
    """
    whole = flags.size & ~7
    eights = flags[:whole].view(np.uint64)
    chosen = np.flatnonzero(eights != 0)
    index = np.flatnonzero(eights.take(chosen).view(bool))
    # index // 8 is a row of chosen, index % 8 the place among its eight flags.
    at = chosen.take(index >> 3)
    at <<= 3
    index &= 7
    at |= index
    if whole == flags.size:
        return at
    return np.concatenate((at, whole + np.flatnonzero(flags[whole:])))


def run_lengths(starts: np.ndarray, size: int) -> np.ndarray:
    """Return the pixels of each run, intp [n], from where runs start and the map's size."""
    lengths = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1:] = size - starts[-1:]
    return lengths


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
    return ids_to_rgb(_paint(panoptic, ids, COCO_VOID)), segments_info


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


def to_cityscapes(
    panoptic: Panoptic, label_set: LabelSet, crowd_ids: np.ndarray | Sequence[int] = ()
) -> np.ndarray:
    """Pack into the values of Cityscapes ``*_instanceIds.png``, int32 [H, W].

    A thing becomes ``label * 1000 + k``, k = 0, 1, ... in the order of the instance ids of its
    class; stuff and groups (``crowd_ids``) become their label id; void becomes 0.

    Raises ValueError for more than 1000 instances of one class, or a label id below 1.
    """
    segments = panoptic.segments
    labels = label_set.category_ids[segments.class_id]
    if (labels < 1).any():
        raise ValueError(
            f'label id {labels.min()} cannot be packed as label * 1000 + k; expected 1 or more'
        )
    counted = segments.is_thing & ~np.isin(segments.id, np.asarray(crowd_ids, np.int64))
    rank = _rank_within(segments.class_id[counted])
    if rank.max(initial=0) >= CITYSCAPES_FACTOR:
        raise ValueError(
            f'a class has {rank.max() + 1} instances; label * 1000 + k has room for '
            f'{CITYSCAPES_FACTOR}, use the COCO packing'
        )
    values = labels.astype(np.int64)
    values[counted] = values[counted] * CITYSCAPES_FACTOR + rank
    return _paint(panoptic, values, 0)


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
    present = np.unique(values.reshape(-1)[find_runs(values)]).astype(np.int64)
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


def from_class_instance(packed: np.ndarray, label_set: LabelSet) -> Panoptic:
    """Unpack ``class << 16 | instance``, int32 [H, W]; instance ids are kept as they are.

    Raises ValueError for a class id outside the label set, or maps that contradict each other
    (see :meth:`Panoptic.from_maps`).
    """
    packed = np.asarray(packed)
    class_id = packed >> 16
    if class_id.size and not 0 <= class_id.min() <= class_id.max() <= VOID:
        raise ValueError(
            f'packed values have class ids {class_id.min()}..{class_id.max()}; expected 0..{VOID}'
        )
    instance = (packed & 0xFFFF).astype(np.uint16)
    return Panoptic.from_maps(class_id.astype(np.uint8), instance, label_set)


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


def from_segment_ids(ids: np.ndarray, label_set: LabelSet) -> Panoptic:
    """Unpack what :func:`to_segment_ids` gives; raises ValueError as from_class_instance does."""
    ids = np.asarray(ids)
    return from_class_instance(np.where(ids == 0, VOID << 16, ids - (1 << 16)), label_set)


def to_id_map(panoptic: Panoptic) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Pack into a map of segment ids and a table, in the manner of detectron2.

    Returns
    -------
    The ids, int32 [H, W] (0 where void, else 1 + row of the table), and one dict a segment with
    the keys ``id``, ``isthing``, ``category_id`` (the class id), ``area``, ``score``.
    """
    segments = panoptic.segments
    ids = np.arange(1, len(segments) + 1)
    columns = (
        ids.tolist(),
        segments.is_thing.tolist(),
        segments.class_id.tolist(),
        segments.area.tolist(),
        segments.score.tolist(),
    )
    keys = ('id', 'isthing', 'category_id', 'area', 'score')
    table = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
    return _paint(panoptic, ids, 0), table


def from_id_map(
    id_map: np.ndarray, table: Sequence[Mapping[str, Any]], label_set: LabelSet
) -> Panoptic:
    """Unpack a map of segment ids, integers [H, W], with its table; ids below 1 are void.

    Raises ValueError for an id that the table lacks or has twice, or a class id that the label
    set lacks.
    """
    ids = np.array([row['id'] for row in table], np.int64)
    class_id = np.array([row['category_id'] for row in table], np.int64)
    unknown = (class_id < 0) | (class_id >= len(label_set))
    if unknown.any():
        raise ValueError(
            f'the table has class ids {np.unique(class_id[unknown]).tolist()}; label set '
            f'{label_set.name!r} has 0..{len(label_set) - 1}'
        )
    score = np.array([row.get('score', 1.0) for row in table], np.float32)
    id_map = np.maximum(id_map, 0)
    panoptic, _ = _unpack(
        id_map, ids, class_id.astype(np.uint8), np.zeros(len(ids), bool), label_set, score
    )
    return panoptic


PANOPTIC_PACKINGS: Mapping[str, Callable[[Panoptic], np.ndarray]] = {
    'class_instance': to_class_instance,
    'thing_instance': to_thing_instance,
    'segment_id': to_segment_ids,
}
"""The packings into one integer a pixel that the node's ``~/panoptic`` has, by name."""


def _paint(panoptic: Panoptic, value_of_segment: np.ndarray, void_value: int) -> np.ndarray:
    """Give each pixel the value of its segment, int32 [H, W]."""
    segments = panoptic.segments
    is_thing = segments.is_thing
    of_class = np.full(256, void_value, np.int32)
    of_class[segments.class_id[~is_thing]] = value_of_segment[~is_thing]
    of_instance = np.zeros(int(segments.id.max(initial=0)) + 1, np.int32)
    of_instance[segments.id[is_thing]] = value_of_segment[is_thing]
    starts = find_runs(panoptic.semantic, panoptic.instance)
    instance = panoptic.instance.reshape(-1)[starts]
    values = np.where(
        instance != NO_INSTANCE,
        of_instance[instance],
        of_class[panoptic.semantic.reshape(-1)[starts]],
    )
    return _expand(values, starts, panoptic.semantic.shape)


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
    starts = find_runs(ids)
    run_ids = ids.reshape(-1)[starts].astype(np.int64)
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
    semantic = _expand(class_of_row[rows], starts, ids.shape)
    instance = _expand(instance_of_row[rows], starts, ids.shape)
    score_by_id = None if score is None else np.append(np.float32(1), score[is_thing])
    segments = measure_segments(semantic, instance, score_by_id)
    id_in_file = np.append(0, segment_id[is_thing]).astype(np.int32)
    segments = replace(segments, track_id=id_in_file[segments.id])
    return Panoptic(semantic, instance, segments), instance_of_row[:-1][is_crowd & is_thing]


def _expand(values: np.ndarray, starts: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Give every pixel of a run the value of the run."""
    return np.repeat(values, run_lengths(starts, int(np.prod(shape)))).reshape(shape)


def _rank_within(group: np.ndarray) -> np.ndarray:
    """Return the position of each entry among the entries equal to it: 0, 1, ..."""
    order = np.argsort(group, kind='stable')
    ordered = group[order]
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.searchsorted(ordered, ordered)
    return rank
