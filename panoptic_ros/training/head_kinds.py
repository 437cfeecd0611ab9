"""The kinds of heads: targets, losses, exported graph and fusion of each."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from panoptic_ros.fusion import CentreFusion, Fusion, Heads, QueryFusion, heads_of
from panoptic_ros.training.centres.inference_graph import CentreGraph
from panoptic_ros.training.centres.losses import CentreLosses, centre_losses
from panoptic_ros.training.centres.targets import CentreTargets, make_targets
from panoptic_ros.training.loss_weights import LossWeights
from panoptic_ros.training.network.panoptic_network import PanopticNetwork
from panoptic_ros.training.queries.inference_graph import QueryGraph
from panoptic_ros.training.queries.losses import QueryLosses, query_losses
from panoptic_ros.training.queries.targets import SegmentTargets, make_segments

Targets = CentreTargets | SegmentTargets
Losses = CentreLosses | QueryLosses
Graph = CentreGraph | QueryGraph


@dataclass(frozen=True)
class HeadKind:
    """The parts of training, validation and export that depend on the kind of heads.

    Parameters
    ----------
    targets
        Takes semantic uint8 [N, H, W], instance int16 [N, H, W] (-1 for crowds) and the weights;
        returns the targets, on the same device.
    losses
        Takes what the network returns, the targets and the weights; returns the losses.
    graph
        Takes a network, ``half`` and, for centres, options; returns what is exported.
    fusion
        Fuses the outputs in validation, and in the exported model unless another is given.
    """

    targets: Callable[[Tensor, Tensor, LossWeights], Targets]
    losses: Callable[[Any, Any, LossWeights], Losses]
    graph: Callable[..., Graph]
    fusion: Fusion


def _query_targets(semantic: Tensor, instance: Tensor, weights: LossWeights) -> SegmentTargets:
    del weights  # only centres weight their targets
    return make_segments(semantic, instance)


HEAD_KINDS = MappingProxyType(
    {
        'centres': HeadKind(make_targets, centre_losses, CentreGraph, CentreFusion()),
        'queries': HeadKind(
            _query_targets, query_losses, QueryGraph, QueryFusion(rule='mask2former')
        ),
    }
)
"""The kinds of heads that can be trained, by the name in the model card."""


def make_graph(
    network: PanopticNetwork, *, half: bool = False, peaks: int = 128, semantic_stride: int = 2
) -> Graph:
    """Return the graph to export.

    ``peaks`` and ``semantic_stride`` apply to centres; see :class:`CentreGraph`.
    """
    options = (
        {'peaks': peaks, 'semantic_stride': semantic_stride} if network.head == 'centres' else {}
    )
    return HEAD_KINDS[network.head].graph(network, half=half, **options)


def infer_heads(graph: nn.Module, image_rgb: np.ndarray) -> Heads:
    """Run uint8 [H, W, 3] through torch and return the heads that fusion takes."""
    with torch.inference_mode():
        outputs = graph(torch.from_numpy(image_rgb)[None])
    arrays = (tensor[0].numpy() for tensor in outputs)
    return heads_of(graph.head, dict(zip(graph.outputs, arrays, strict=True)))
