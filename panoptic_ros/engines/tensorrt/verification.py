"""Prove an engine right where it runs: the golden picture in, the golden outputs expected."""

from dataclasses import dataclass

import numpy as np

from panoptic_ros.engines import Engine, compare_golden, compare_golden_queries
from panoptic_ros.fusion import HEAD_KINDS
from panoptic_ros.model import Model

MIN_INSTANCE_IOU = 0.7
"""Mean overlap of the golden instances below which an engine is refused."""


@dataclass(frozen=True)
class Verification:
    """How an engine's outputs for the golden picture compare with the golden outputs.

    Parameters
    ----------
    semantic_agreement
        Share of the cells of the finer grid, or of the queries, with the same class.
    instance_iou
        Mean over the golden instances of their best overlap with one of the same class; NaN if
        there are none.
    largest_confidence, largest_score, largest_offset
        Largest difference of confidence (of 255), of centre scores by rank, and of offsets
        (cells). Between arithmetics a few cells may differ a lot, so these are told, not judged.
        Queries have none of these: NaN, and in their places class logits and mask logits.
    fault
        What is further off than another arithmetic explains; empty if nothing is.
    """

    semantic_agreement: float
    instance_iou: float
    largest_confidence: float
    largest_score: float
    largest_offset: float
    fault: str

    def __str__(self) -> str:
        instances = 'no instances' if np.isnan(self.instance_iou) else f'{self.instance_iou:.3f}'
        return (
            f'semantic agreement {self.semantic_agreement:.2%}, instance IoU {instances}, largest '
            f'differences: confidence {self.largest_confidence:g}/255, centre score '
            f'{self.largest_score:.3g}, offset {self.largest_offset:.3g} cells'
        )


def verify(engine: Engine, model: Model) -> Verification:
    """Run the golden picture and compare; raises as :meth:`Engine.infer` does."""
    image, golden = model.golden()
    outputs = engine.infer(image)
    if model.card.head == 'queries':
        return _verify_queries(outputs, golden, model)
    threshold = float(model.card.fusion.get('centre_threshold', 0.1))
    faults = [compare_golden(outputs, golden, threshold, model.label_set.is_thing).exceeded()]
    instance_iou = _instance_iou(outputs, golden, model)
    if instance_iou < MIN_INSTANCE_IOU:
        faults.append(f'instance IoU is {instance_iou:.3g} (at least {MIN_INSTANCE_IOU:g})')
    return Verification(
        semantic_agreement=float((outputs['semantic'] == golden['semantic']).mean()),
        instance_iou=instance_iou,
        largest_confidence=_largest(outputs, golden, 'confidence'),
        largest_score=_largest(outputs, golden, 'centre_score'),
        largest_offset=_largest(outputs, golden, 'offset_xy'),
        fault=', '.join(filter(None, faults)),
    )


def _verify_queries(
    outputs: dict[str, np.ndarray], golden: dict[str, np.ndarray], model: Model
) -> Verification:
    faults = [compare_golden_queries(outputs, golden).exceeded()]
    instance_iou = _instance_iou(outputs, golden, model)
    if instance_iou < MIN_INSTANCE_IOU:
        faults.append(f'instance IoU is {instance_iou:.3g} (at least {MIN_INSTANCE_IOU:g})')
    same = outputs['class_logits'].argmax(1) == golden['class_logits'].argmax(1)
    return Verification(
        semantic_agreement=float(same.mean()),
        instance_iou=instance_iou,
        largest_confidence=float('nan'),
        largest_score=_largest(outputs, golden, 'class_logits'),
        largest_offset=_largest(outputs, golden, 'mask_logits'),
        fault=', '.join(filter(None, faults)),
    )


def _largest(outputs: dict[str, np.ndarray], golden: dict[str, np.ndarray], name: str) -> float:
    return float(np.max(abs(outputs[name].astype(np.float32) - golden[name]), initial=0.0))


def _instance_iou(
    outputs: dict[str, np.ndarray], golden: dict[str, np.ndarray], model: Model
) -> float:
    if not all(np.isfinite(array).all() for array in outputs.values()):
        return 0.0  # nothing can be fused from them
    heads_class, fusion_class = HEAD_KINDS[model.card.head]
    try:
        found_heads = heads_class(**outputs)
    except ValueError:  # a centre that lies outside
        return 0.0
    fusion = fusion_class(**model.card.fusion)
    found, wanted = (
        fusion(heads, model.label_set, model.card.size_wh).panoptic
        for heads in (found_heads, heads_class(**golden))
    )
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
    # The numbers of the instances may differ; their class and place may not.
    both_things = (wanted_keys[:, None] & 0xFFFF > 0) & (found_keys & 0xFFFF > 0)
    iou = np.where(same_class & both_things, overlap / union, 0.0).max(1)
    iou = iou[wanted_keys & 0xFFFF > 0]
    return float(iou.mean()) if len(iou) else float('nan')
