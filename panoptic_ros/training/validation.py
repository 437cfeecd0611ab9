"""The panoptic quality of a network in training."""

from collections.abc import Iterable

from panoptic_ros.datasets import Sample
from panoptic_ros.evaluation.quality import PanopticQuality, QualityResult
from panoptic_ros.fusion import Fusion
from panoptic_ros.labels import LabelSet
from panoptic_ros.segmenter import prepare
from panoptic_ros.training.head_kinds import HEAD_KINDS, infer_heads, make_graph
from panoptic_ros.training.network.panoptic_network import PanopticNetwork


def validate(
    network: PanopticNetwork,
    samples: Iterable[Sample],
    label_set: LabelSet,
    fusion: Fusion | None = None,
    *,
    image_scale: float = 0.0,
    peaks: int = 128,
) -> QualityResult:
    """Return the panoptic quality of a network, with the fusion that the node uses.

    Images are resized by ``image_scale`` (0: not at all), to the nearest multiples of 32 pixels.
    """
    fusion = fusion or HEAD_KINDS[network.head].fusion
    graph = make_graph(network, peaks=peaks)
    scale = image_scale or 1.0
    quality = PanopticQuality(label_set)
    for sample in samples:
        width, height = (max(1, round(side * scale / 32)) * 32 for side in sample.truth.size_wh)
        network.backbone.set_input_size((width, height))
        image_rgb = prepare(sample.image_rgb, 'rgb8', (width, height))
        fused = fusion(infer_heads(graph, image_rgb), label_set, sample.truth.size_wh)
        quality.update(fused.panoptic, sample.truth, sample.crowd_ids)
    return quality.result()
