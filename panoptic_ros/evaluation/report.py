"""Results as text tables, as JSON, and the worst images as a contact sheet."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from panoptic_ros.datasets import Sample
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.evaluation.mask_ap import MaskAPResult
from panoptic_ros.evaluation.overlap import OverlapResult
from panoptic_ros.evaluation.quality import QualityResult
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.visualize import overlay, panel

_SUFFIXES = {'All': '', 'Things': '_things', 'Stuff': '_stuff'}
_COLUMN_WIDTH = 480  # pixels


@dataclass(frozen=True, eq=False)
class ScoredImage:
    """One image, its prediction, and the PQ of this image in percent."""

    PQ: float
    sample: Sample
    prediction: Panoptic


def summary_table(quality: QualityResult) -> str:
    """Return the table that the COCO panoptic tools print: PQ, SQ, RQ, number of classes."""
    occurring = [c.is_thing for c in quality.per_class if c.occurs]
    counts = {
        'All': len(occurring),
        'Things': sum(occurring),
        'Stuff': len(occurring) - sum(occurring),
    }
    lines = [f'{"":10}|{"PQ":>7}{"SQ":>7}{"RQ":>7}{"N":>6}', '-' * 38]
    for title, suffix in _SUFFIXES.items():
        figures = (getattr(quality, name + suffix) for name in ('PQ', 'SQ', 'RQ'))
        lines.append(f'{title:10}|' + ''.join(map(_figure, figures)) + f'{counts[title]:6d}')
    return '\n'.join(lines)


def class_table(quality: QualityResult, overlap: OverlapResult) -> str:
    """Return a table with one line per class that occurs: PQ, SQ, RQ, IoU, TP, FP, FN."""
    width = max((len(c.name) for c in quality.per_class), default=5) + 1
    lines = [
        f'{"class":{width}}{"kind":6}|{"PQ":>7}{"SQ":>7}{"RQ":>7}{"IoU":>7}'
        f'{"TP":>8}{"FP":>8}{"FN":>8}'
    ]
    lines.append('-' * len(lines[0]))
    for c, iou in zip(quality.per_class, overlap.iou.tolist(), strict=True):
        if c.occurs:
            figures = ''.join(map(_figure, (c.PQ, c.SQ, c.RQ, iou)))
            kind = 'thing' if c.is_thing else 'stuff'
            lines.append(f'{c.name:{width}}{kind:6}|{figures}{c.tp:8d}{c.fp:8d}{c.fn:8d}')
    return '\n'.join(lines)


def confusion_table(
    quality: QualityResult, overlap: OverlapResult, label_set: LabelSet, worst: int = 5
) -> str:
    """Return what is predicted in place of the classes of lowest PQ, in percent of pixels."""
    occurring = [i for i, c in enumerate(quality.per_class) if c.occurs]
    chosen = sorted(occurring, key=lambda i: quality.per_class[i].PQ)[:worst]
    width = max((len(label_set.names[i]) for i in chosen), default=5) + 1
    lines = [f'{"class":{width}}|{"PQ":>7}  predicted as']
    lines.append('-' * len(lines[0]))
    for i in chosen:
        taken = ', '.join(
            f'{"void" if other == VOID else label_set.names[other]} {share:.1f} %'
            for other, share in overlap.confused_with(i)
        )
        lines.append(
            f'{label_set.names[i]:{width}}|{_figure(quality.per_class[i].PQ)}  {taken or "-"}'
        )
    return '\n'.join(lines)


def as_json(
    quality: QualityResult, overlap: OverlapResult, mask_ap: MaskAPResult | None = None
) -> dict[str, Any]:
    """Return all results as plain values for a JSON file, in percent; null for NaN."""
    masks = {}
    if mask_ap is not None:
        masks = {name: finite_or_none(getattr(mask_ap, name)) for name in ('AP', 'AP50', 'AP75')}
    summary = {
        name + suffix: finite_or_none(getattr(quality, name + suffix))
        for suffix in _SUFFIXES.values()
        for name in ('PQ', 'SQ', 'RQ')
    }
    per_class = {
        c.name: {
            'isthing': c.is_thing,
            'PQ': c.PQ if c.occurs else None,
            'SQ': c.SQ if c.occurs else None,
            'RQ': c.RQ if c.occurs else None,
            'IoU': finite_or_none(iou),
            'tp': c.tp,
            'fp': c.fp,
            'fn': c.fn,
        }
        for c, iou in zip(quality.per_class, overlap.iou.tolist(), strict=True)
    }
    return {
        **summary,
        'mIoU': finite_or_none(overlap.mean_iou),
        'pixel_accuracy': finite_or_none(overlap.pixel_accuracy),
        **masks,
        'per_class': per_class,
        'images': quality.images,
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file and make its folder; raises PanopticRosError if that fails."""
    text = json.dumps(content, indent=1, allow_nan=False) + '\n'
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')
    except OSError as error:
        raise PanopticRosError(
            f'cannot write {path} ({error.strerror}); choose another path'
        ) from error


def worst_sheet(worst: Sequence[ScoredImage], label_set: LabelSet) -> np.ndarray:
    """Return a contact sheet with one row per image: the image, its truth, its prediction.

    Parameters
    ----------
    worst
        At least one image.

    Returns
    -------
    uint8 [H, W, 3] BGR.
    """
    pictures, titles = [], []
    for scored in worst:
        image_bgr = cv2.cvtColor(scored.sample.image_rgb, cv2.COLOR_RGB2BGR)
        pictures += [
            _shrink(image_bgr),
            _shrink(overlay(image_bgr, scored.sample.truth, label_set, 0.7)),
            _shrink(overlay(image_bgr, scored.prediction, label_set, 0.7)),
        ]
        titles += [scored.sample.image_id, 'truth', f'prediction, PQ {scored.PQ:.1f}']
    return panel(pictures, titles, columns=3)


def _shrink(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    size_wh = (_COLUMN_WIDTH, max(1, round(height * _COLUMN_WIDTH / width)))
    return cv2.resize(picture, size_wh, interpolation=cv2.INTER_AREA)


def _figure(value: float) -> str:
    return f'{"-":>7}' if math.isnan(value) else f'{value:7.1f}'


def finite_or_none(value: float) -> float | None:
    """Return the value, or None for NaN and infinity, which JSON lacks."""
    return float(value) if math.isfinite(value) else None
