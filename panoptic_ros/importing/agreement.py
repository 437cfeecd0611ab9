"""How well two files of one network agree: on tensors, and on the panoptic maps they lead to."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from panoptic_ros.engines.golden import compare_golden_queries
from panoptic_ros.engines.onnxruntime import runtime_errors
from panoptic_ros.errors import ModelError, one_line
from panoptic_ros.evaluation.quality import PanopticQuality
from panoptic_ros.fusion import Fusion, heads_of
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic

MIN_PQ = 90.0
"""PQ between the maps of two precisions below which one of them has collapsed."""

MIN_AREA_FRACTION = 1e-3
"""Smaller segments, as a fraction of the picture, do not count: PQ weighs a segment of one pixel
like any other, and the last bit of a mask decides whether it exists."""


@dataclass(frozen=True)
class Judged:
    """What outputs are outputs of: enough to make a map of them.

    Parameters
    ----------
    head
        Head kind, as in the card.
    fusion
        Of that head kind.
    label_set
        Of the map.
    size_wh
        Of the map.
    """

    head: str
    fusion: Fusion
    label_set: LabelSet
    size_wh: tuple[int, int]

    def fuse(self, outputs: dict[str, np.ndarray]) -> Panoptic:
        """Return the panoptic map of outputs, without segments of a few pixels."""
        fusion: Any = self.fusion  # the head kind decides its class and that of the heads
        panoptic: Panoptic = fusion(
            heads_of(self.head, outputs), self.label_set, self.size_wh
        ).panoptic
        width, height = self.size_wh
        rows = np.flatnonzero(panoptic.segments.area >= MIN_AREA_FRACTION * width * height)
        return panoptic.with_segments(panoptic.segments.where(rows), rows)


class OnnxFile:
    """An ONNX file in ONNX Runtime, for comparisons.

    Raises ModelError if ONNX Runtime cannot load it.
    """

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(path, options, ['CPUExecutionProvider'])
        except runtime_errors() as error:
            raise ModelError(f'ONNX Runtime cannot load {path.name}: {one_line(error)}') from error
        self._names = [output.name for output in self._session.get_outputs()]

    def infer(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs of one picture without the batch axis, float32 where float16."""
        outputs = self._session.run(self._names, {'image': image[None]})
        return {
            name: array[0].astype(np.float32) if array.dtype == np.float16 else array[0]
            for name, array in zip(self._names, outputs, strict=True)
        }


def infer_all(path: Path, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Return the outputs of an ONNX file for each picture; see :class:`OnnxFile`."""
    file = OnnxFile(path)
    return [file.infer(image) for image in images]


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
    model: Judged,
) -> Agreement:
    """Compare outputs picture by picture; the maps are made at the size of the input."""
    quality = PanopticQuality(model.label_set)
    differences, segments, is_finite = [], 0, True
    for ours, theirs in zip(found, expected, strict=True):
        if not all(np.isfinite(array).all() for array in ours.values()):
            is_finite = False
            continue
        differences.append(_difference(ours, theirs, model.head))
        truth = model.fuse(theirs)
        segments += len(truth.segments)
        quality.update(model.fuse(ours), truth)
    return Agreement(
        classes=max((d[0] for d in differences), default=float('nan')),
        masks=max((d[1] for d in differences), default=float('nan')),
        is_finite=is_finite,
        pq=quality.result().PQ if differences else float('nan'),
        segments=segments,
    )


def _difference(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], head: str
) -> tuple[float, float]:
    """Return the mean differences of class and mask probabilities."""
    if head == 'queries':
        found = compare_golden_queries(ours, theirs)
        return found.classes, found.masks
    # Masks are binary here, and the order of detections with close scores may differ.
    scores = np.abs(np.sort(ours['score']) - np.sort(theirs['score']))
    masks = (ours['mask'].any(0) != theirs['mask'].any(0)).mean()
    return float(scores.mean()), float(masks)
