"""All metrics of single images in one pass: PQ, mean IoU, mask AP, and the worst images."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from panoptic_ros.cluster import SegmentImages
from panoptic_ros.datasets import Sample
from panoptic_ros.errors import DatasetError
from panoptic_ros.evaluation.edges import near_borders
from panoptic_ros.evaluation.intersections import Intersections
from panoptic_ros.evaluation.mask_ap import MaskAP, MaskAPResult
from panoptic_ros.evaluation.overlap import ClassOverlap, OverlapResult
from panoptic_ros.evaluation.quality import PanopticQuality, QualityResult
from panoptic_ros.evaluation.report import (
    ScoredImage,
    class_table,
    confusion_table,
    summary_table,
)
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.segmenter import StageTimes

_WORST = 8  # images on the contact sheet


@dataclass(frozen=True, eq=False)
class Accuracy:
    """The results over a set of images, and the images with the lowest PQ, lowest first.

    ``edges`` is the overlap near true borders, None unless asked for.
    """

    quality: QualityResult
    overlap: OverlapResult
    mask_ap: MaskAPResult
    worst: tuple[ScoredImage, ...]
    edges: OverlapResult | None = None

    def tables(self, label_set: LabelSet) -> str:
        """Return the tables to print, from the classes to the summary."""
        near = [] if self.edges is None else [f'mean IoU near borders {self.edges.mean_iou:.2f}']
        return '\n'.join(
            (
                class_table(self.quality, self.overlap),
                '',
                confusion_table(self.quality, self.overlap, label_set),
                '',
                summary_table(self.quality),
                f'mean IoU {self.overlap.mean_iou:.1f}, '
                f'pixel accuracy {self.overlap.pixel_accuracy:.1f}, '
                f'mask AP {self.mask_ap.AP:.1f}, {self.quality.images} images',
                *near,
            )
        )


def measure_accuracy(
    pairs: Iterable[tuple[Panoptic, Sample]],
    label_set: LabelSet,
    worst: int = _WORST,
    edge_px: int | None = None,
) -> Accuracy:
    """Compare predictions with the truth.

    Parameters
    ----------
    pairs
        Prediction and labelled image, of one size; taken one at a time.
    label_set
        The classes of both.
    worst
        Number of images with the lowest PQ to keep.
    edge_px
        Also measure the overlap of pixels closer than this to a true border, see
        :func:`~panoptic_ros.evaluation.edges.near_borders`.

    Raises DatasetError, naming the image, if the sizes of a pair differ.
    """
    quality, overlap, mask_ap = (
        PanopticQuality(label_set),
        ClassOverlap(label_set),
        MaskAP(label_set),
    )
    edges = None if edge_px is None else ClassOverlap(label_set)
    heap: list[tuple[float, int, ScoredImage]] = []
    for number, (prediction, sample) in enumerate(pairs):
        try:
            image = Intersections.of(prediction, sample.truth, sample.crowd_ids)
        except DatasetError as error:
            raise DatasetError(f'image {sample.image_id}: {error}') from error
        of_image = PanopticQuality(label_set)
        of_image.add(image)
        quality.add(image)
        overlap.add(image)
        mask_ap.add(image, prediction.segments.score)
        if edges is not None and edge_px is not None:
            edges.update(prediction, near_borders(sample.truth, edge_px))
        scored = ScoredImage(of_image.result().PQ, sample, prediction)
        if np.isfinite(scored.PQ):
            # The first entry of the heap is the best of the kept images; the number breaks ties.
            heapq.heappush(heap, (-scored.PQ, -number, scored))
            if len(heap) > worst:
                heapq.heappop(heap)
    kept = tuple(scored for _, _, scored in sorted(heap, reverse=True, key=lambda h: h[:2]))
    return Accuracy(
        quality.result(),
        overlap.result(),
        mask_ap.result(),
        kept,
        None if edges is None else edges.result(),
    )


def predict(
    segment: SegmentImages, samples: Iterable[Sample], times: list[StageTimes] | None = None
) -> Iterator[tuple[Panoptic, Sample]]:
    """Segment labelled images in order; append the stage times of each to ``times``."""
    images = ((sample, sample.image_rgb) for sample in samples)
    for sample, result in segment(images, 'rgb8'):
        if times is not None:
            times.append(result.stages_ns)
        yield result.panoptic, sample


def median_stages_ms(times: Sequence[StageTimes]) -> dict[str, float]:
    """Return the median of each stage and of their sum, in milliseconds."""
    columns = {
        'preprocess': [t.preprocess_ns for t in times],
        'inference': [t.inference_ns for t in times],
        'fusion': [t.fusion_ns for t in times],
        'total': [t.total_ns for t in times],
    }
    return {name: float(np.median(column)) / 1e6 for name, column in columns.items() if column}
