"""Prove an engine right where it runs: compare its outputs for the golden picture."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.special import expit, softmax

from panoptic_ros.engines import Engine, infer_images
from panoptic_ros.errors import EngineError
from panoptic_ros.fusion import HEAD_KINDS, heads_of
from panoptic_ros.model import Model
from panoptic_ros.panoptic import Panoptic

INT8_SLACK = 2.0
"""Factor on the limits for int8, which rounds to two or three digits."""


@dataclass(frozen=True)
class GoldenDifference:
    """How far an engine's outputs for the golden picture are from the golden outputs.

    Parameters
    ----------
    semantic
        Share of the cells whose class differs.
    confidence
        Mean difference, of 255.
    centres
        Share of the golden centres that have no centre in the same or a neighbouring cell.
    offset
        Median length of the difference where the golden picture has things, cells. Elsewhere
        offsets mean nothing, and another arithmetic may change them as it likes.
    """

    semantic: float
    confidence: float
    centres: float
    offset: float

    def exceeded(self, slack: float = 1.0) -> str:
        """Name what differs more than another arithmetic explains; empty if nothing does.

        ``slack`` is a factor on the limits.
        """
        limits = GoldenDifference(semantic=0.05, confidence=8.0, centres=0.2, offset=0.5)
        return _exceeded(self, limits, slack)


def compare_golden(
    outputs: dict[str, np.ndarray],
    golden: dict[str, np.ndarray],
    centre_threshold: float,
    is_thing: np.ndarray,
) -> GoldenDifference:
    """Compare outputs of head kind ``centres``; the arrays are as :meth:`Engine.infer` gives.

    ``is_thing`` is bool [256], by class id.
    """
    confidence = outputs['confidence'].astype(np.float32) - golden['confidence']
    offset = outputs['offset_xy'].astype(np.float32) - golden['offset_xy']
    height, width = golden['confidence'].shape
    rows, columns = (
        np.arange(few) * many // few
        for few, many in zip((height, width), golden['semantic'].shape, strict=True)
    )
    off_cells = np.hypot(*offset)
    of_things = off_cells[is_thing[golden['semantic'][np.ix_(rows, columns)]]]
    wanted = golden['centre_index'][golden['centre_score'] >= centre_threshold]
    # Half the threshold: a centre that another arithmetic moves a little below it still counts.
    found = outputs['centre_index'][outputs['centre_score'] >= centre_threshold / 2]
    apart = np.maximum(
        abs(wanted[:, None] // width - found // width),
        abs(wanted[:, None] % width - found % width),
    )
    lost = ~(apart <= 1).any(axis=1)
    return GoldenDifference(
        semantic=float((outputs['semantic'] != golden['semantic']).mean()),
        confidence=float(abs(confidence).mean()),
        centres=float(lost.mean()) if len(wanted) else 0.0,
        offset=float(np.median(of_things)) if len(of_things) else 0.0,
    )


@dataclass(frozen=True)
class QueryDifference:
    """How far an engine's queries for the golden picture are from the golden ones.

    Parameters
    ----------
    classes
        Mean over the golden queries of the largest difference of a class probability.
    masks
        Mean difference of the mask probabilities.
    others
        By how much another object exceeds the least likely golden object.
    """

    classes: float
    masks: float
    others: float = 0.0

    def exceeded(self, slack: float = 1.0) -> str:
        """Name what differs more than another arithmetic explains; empty if nothing does.

        ``slack`` is a factor on the limits.
        """
        return _exceeded(self, QueryDifference(classes=0.05, masks=0.05, others=0.1), slack)


def compare_golden_queries(
    outputs: dict[str, np.ndarray], golden: dict[str, np.ndarray]
) -> QueryDifference:
    """Compare outputs of head kind ``queries``; the arrays are as :meth:`Engine.infer` gives.

    Queries are compared as a set, because some networks order them by their scores, which another
    arithmetic changes. The golden ones may be the likeliest only.
    """
    if not all(np.isfinite(array).all() for array in outputs.values()):
        return QueryDifference(classes=float('nan'), masks=float('nan'), others=float('nan'))
    found, wanted = (
        (softmax(side['class_logits'].astype(np.float64), axis=1), expit(side['mask_logits']))
        for side in (outputs, golden)
    )
    partner = match_queries(outputs, golden)
    others = np.delete(found[0], partner, axis=0)[:, :-1]
    beyond = others.max(initial=0) - wanted[0][:, :-1].max(axis=1).min() if len(others) else 0.0
    masks = np.mean(
        [abs(found[1][p] - mask).mean() for p, mask in zip(partner, wanted[1], strict=True)]
    )
    return QueryDifference(
        classes=float(abs(found[0][partner] - wanted[0]).max(axis=1).mean()),
        masks=float(masks),
        others=max(0.0, float(beyond)),
    )


def match_queries(outputs: dict[str, np.ndarray], golden: dict[str, np.ndarray]) -> np.ndarray:
    """Return the query that resembles each golden one most, intp [golden queries], none twice.

    Raises ValueError if there are fewer queries than golden ones.
    """
    count, wanted_count = len(outputs['class_logits']), len(golden['class_logits'])
    if count < wanted_count:
        raise ValueError(f'{count} queries, but {wanted_count} golden ones')
    classes, masks = [], []
    for side in (outputs, golden):
        classes.append(softmax(side['class_logits'].astype(np.float32), axis=1))
        # A few hundred cells tell masks apart.
        step = max(1, int(np.sqrt(side['mask_logits'][0].size / 400)))
        coarse = expit(side['mask_logits'][:, ::step, ::step].astype(np.float32))
        masks.append(coarse.reshape(len(coarse), -1))
    cost = cdist(classes[1], classes[0], 'cityblock') / 2
    cost += cdist(masks[1], masks[0], 'cityblock') / masks[0].shape[1]
    # Of equal ones the order decides.
    cost[np.arange(wanted_count), np.arange(wanted_count)] -= 1e-9 * (count == wanted_count)
    return linear_sum_assignment(cost)[1]


@dataclass(frozen=True)
class MapDifference:
    """How far the panoptic map of an engine's outputs is from that of the golden outputs.

    Parameters
    ----------
    semantic
        Share of the pixels whose class differs.
    instances
        1 minus the mean over the golden instances of their best IoU with one of the same class;
        0 if there are none.
    """

    semantic: float
    instances: float

    def exceeded(self, slack: float = 1.0) -> str:
        """Name what differs more than another arithmetic explains; empty if nothing does."""
        return _exceeded(self, MapDifference(semantic=0.05, instances=0.3), slack)


def compare_maps(
    outputs: dict[str, np.ndarray], golden: dict[str, np.ndarray], model: Model
) -> MapDifference:
    """Fuse both outputs at the size of the network and compare the maps.

    An engine's outputs that cannot be fused differ in everything.
    """
    head, size_wh = model.card.head, model.card.size_wh
    fusion = HEAD_KINDS[head][1](**model.card.fusion)
    wanted = fusion(heads_of(head, golden), model.label_set, size_wh).panoptic
    try:
        heads = heads_of(head, outputs)
    except ValueError:
        return MapDifference(1.0, 1.0)
    found = fusion(heads, model.label_set, size_wh).panoptic
    iou = instance_iou(found, wanted)
    return MapDifference(
        semantic=float((found.semantic != wanted.semantic).mean()),
        instances=0.0 if np.isnan(iou) else 1 - iou,
    )


def instance_iou(found: Panoptic, wanted: Panoptic) -> float:
    """Return the mean best IoU of the wanted instances with found ones of their class.

    NaN if there are no instances.
    """
    # One joint histogram of (class, instance) gives every overlap at once.
    keys = [p.semantic.astype(np.int64) << 16 | p.instance for p in (wanted, found)]
    (wanted_keys, rows), (found_keys, columns) = (
        np.unique(key, return_inverse=True) for key in keys
    )
    shape = (len(wanted_keys), len(found_keys))
    flat = rows.ravel() * shape[1] + columns.ravel()
    overlap = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
    union = overlap.sum(1, keepdims=True) + overlap.sum(0) - overlap
    same_class = wanted_keys[:, None] >> 16 == found_keys >> 16
    # The ids of the instances may differ; their class and place may not.
    both_things = (wanted_keys[:, None] & 0xFFFF > 0) & (found_keys & 0xFFFF > 0)
    iou = np.where(same_class & both_things, overlap / union, 0.0).max(1)
    iou = iou[wanted_keys & 0xFFFF > 0]
    return float(iou.mean()) if len(iou) else float('nan')


def golden_fault(engine: Engine, model: Model) -> str:
    """Run the golden picture; return what is wrong with the outputs, or an empty text."""
    image, golden = model.golden()
    slack = INT8_SLACK if engine.description.precision == 'int8' else 1.0
    faults = (
        output_fault(outputs, golden, model, slack) for outputs in golden_outputs(engine, image)
    )
    return next(filter(None, faults), '')


def golden_outputs(engine: Engine, image: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Return the outputs of an engine for the golden picture.

    An engine that computes several pictures at once has to give the same wherever the golden
    picture is among others, so it is run as the first and as the last one.
    """
    others = [255 - image] * (engine.description.batch - 1)
    if not others:
        return [engine.infer(image)]
    return [infer_images(engine, [image, *others])[0], infer_images(engine, [*others, image])[-1]]


def output_fault(
    outputs: dict[str, np.ndarray],
    golden: dict[str, np.ndarray],
    model: Model,
    slack: float = 1.0,
) -> str:
    """Return what is wrong with an engine's outputs for the golden picture."""
    if model.card.head == 'masks' or 'owner' in outputs:
        return compare_maps(outputs, golden, model).exceeded(slack)
    if model.card.head == 'queries':
        return _query_fault(outputs, golden, model, slack)
    threshold = float(model.card.fusion.get('centre_threshold', 0.1))
    return compare_golden(outputs, golden, threshold, model.label_set.is_thing).exceeded(slack)


def _query_fault(
    outputs: dict[str, np.ndarray], golden: dict[str, np.ndarray], model: Model, slack: float
) -> str:
    """Compare queries, and the maps that they lead to where the queries differ.

    A decoder that masks its attention with a threshold changes unlikely queries much with the
    arithmetic, and the map little. A golden map without instances proves nothing.
    """
    difference = compare_golden_queries(outputs, golden)
    fault = difference.exceeded(slack)
    if not fault or not np.isfinite(difference.classes) or not _has_instances(golden, model):
        return fault
    map_fault = compare_maps(outputs, golden, model).exceeded(slack)
    return f'{fault}; {map_fault}' if map_fault else ''


def _has_instances(golden: dict[str, np.ndarray], model: Model) -> bool:
    """Return whether the map of the golden outputs has an instance."""
    fusion = HEAD_KINDS[model.card.head][1](**model.card.fusion)
    heads = heads_of(model.card.head, golden)
    wanted = fusion(heads, model.label_set, model.card.size_wh).panoptic
    return bool((wanted.instance > 0).any())


def require_golden(engine: Engine, model: Model) -> None:
    """Close the engine and raise EngineError unless it gives the model's golden outputs."""
    fault = golden_fault(engine, model)
    if fault:
        engine.close()
        raise EngineError(
            f'{engine.description} gives wrong results for the golden picture of model '
            f'{model.card.name!r}: {fault}; choose another engine or precision, or export the '
            'model again'
        )


def _exceeded(found: Any, limits: Any, slack: float) -> str:
    return ', '.join(
        f'{name} differs by {value:.3g} (at most {slack * vars(limits)[name]:g})'
        for name, value in vars(found).items()
        if not value <= slack * vars(limits)[name]  # also true for NaN
    )
