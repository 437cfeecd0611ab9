"""How well two files of one network agree: on tensors, and on the panoptic maps they lead to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from panoptic_ros.engines.golden import compare_golden_queries
from panoptic_ros.evaluation.quality import PanopticQuality
from panoptic_ros.fusion import QueryFusion, QueryHeads
from panoptic_ros.importing.network import OUTPUTS
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic

MIN_PQ = 90.0
"""PQ between the maps of two precisions below which one of them has collapsed."""


class OnnxFile:
    """An ONNX file in ONNX Runtime, for comparisons."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, options, ['CPUExecutionProvider'])

    def infer(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs of one picture, float32, without the batch axis."""
        outputs = self._session.run(list(OUTPUTS), {'image': image[None]})
        return {
            name: array[0].astype(np.float32) for name, array in zip(OUTPUTS, outputs, strict=True)
        }


@dataclass(frozen=True)
class Agreement:
    """How far outputs are from the ones they should be.

    Parameters
    ----------
    classes, masks
        As in :class:`~panoptic_ros.engines.QueryDifference`.
    is_finite
        Whether all outputs are numbers.
    pq
        PQ of the maps, percent, the expected ones as truth; NaN where those have no segment.
    segments
        How many segments the expected maps have.
    """

    classes: float
    masks: float
    is_finite: bool
    pq: float
    segments: int

    @property
    def has_collapsed(self) -> bool:
        """Whether these are no outputs to work with."""
        return not self.is_finite or self.pq < MIN_PQ

    def __str__(self) -> str:
        if not self.is_finite:
            return 'outputs are not numbers'
        return (
            f'PQ {self.pq:.1f} over {self.segments} segments, mean differences: class probability '
            f'{self.classes:.2g}, mask probability {self.masks:.2g}'
        )


def compare(
    found: Sequence[dict[str, np.ndarray]],
    expected: Sequence[dict[str, np.ndarray]],
    fusion: QueryFusion,
    label_set: LabelSet,
    size_wh: tuple[int, int],
) -> Agreement:
    """Compare outputs picture by picture; the maps are made at ``size_wh``."""
    quality = PanopticQuality(label_set)
    differences, segments, is_finite = [], 0, True
    for ours, theirs in zip(found, expected, strict=True):
        if not all(np.isfinite(array).all() for array in ours.values()):
            is_finite = False
            continue
        differences.append(compare_golden_queries(ours, theirs))
        truth = fuse(theirs, fusion, label_set, size_wh)
        segments += len(truth.segments)
        quality.update(fuse(ours, fusion, label_set, size_wh), truth)
    return Agreement(
        classes=max((d.classes for d in differences), default=float('nan')),
        masks=max((d.masks for d in differences), default=float('nan')),
        is_finite=is_finite,
        pq=quality.result().PQ if differences else float('nan'),
        segments=segments,
    )


def fuse(
    outputs: dict[str, np.ndarray],
    fusion: QueryFusion,
    label_set: LabelSet,
    size_wh: tuple[int, int],
) -> Panoptic:
    """Return the panoptic map of outputs."""
    return fusion(QueryHeads(**outputs), label_set, size_wh).panoptic
