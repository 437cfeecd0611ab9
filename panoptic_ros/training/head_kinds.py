"""The kinds of heads: targets, losses, exported graph and fusion of each."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from panoptic_ros.fusion import CentreFusion, Fusion, Heads, QueryFusion, heads_of
from panoptic_ros.training.centres.inference_graph import CentreGraph
from panoptic_ros.training.centres.losses import (
    CentreBatch,
    CentreLosses,
    centre_losses,
)
from panoptic_ros.training.centres.targets import make_targets
from panoptic_ros.training.loss_weights import LossWeights
from panoptic_ros.training.network.panoptic_network import PanopticNetwork
from panoptic_ros.training.queries.inference_graph import QueryGraph
from panoptic_ros.training.queries.losses import QueryBatch, QueryLosses, query_losses
from panoptic_ros.training.queries.targets import make_segments

Batch = CentreBatch | QueryBatch
Losses = CentreLosses | QueryLosses
Graph = CentreGraph | QueryGraph


@dataclass(frozen=True)
class HeadKind:
    """The parts of training, validation and export that depend on the kind of heads.

    Parameters
    ----------
    targets
        Takes semantic uint8 [H, W], instance uint16 [H, W], is_crowd bool [ids] and the weights;
        returns the arrays of the fields of ``batch`` after the image.
    batch
        Class of a batch of images and targets.
    losses
        Takes what the network returns, a batch and the weights; returns the losses.
    graph
        Takes a network, ``half`` and, for centres, options; returns what is exported.
    fusion
        Fuses the outputs in validation, and in the exported model unless another is given.
    """

    targets: Callable[[np.ndarray, np.ndarray, np.ndarray, LossWeights], tuple[np.ndarray, ...]]
    batch: type[Batch]
    losses: Callable[[Any, Any, LossWeights], Losses]
    graph: Callable[..., Graph]
    fusion: Fusion


def _centre_targets(
    semantic: np.ndarray, instance: np.ndarray, is_crowd: np.ndarray, weights: LossWeights
) -> tuple[np.ndarray, ...]:
    targets = make_targets(
        semantic,
        instance,
        is_crowd,
        small_area=weights.small_area,
        small_weight=weights.small_weight,
        by_segment=weights.by_segment,
    )
    return tuple(getattr(targets, name) for name in CentreBatch._fields[1:])


def _query_targets(
    semantic: np.ndarray, instance: np.ndarray, is_crowd: np.ndarray, weights: LossWeights
) -> tuple[np.ndarray, ...]:
    targets = make_segments(semantic, instance, is_crowd)
    return targets.segment, targets.class_id


HEAD_KINDS = MappingProxyType(
    {
        'centres': HeadKind(
            _centre_targets, CentreBatch, centre_losses, CentreGraph, CentreFusion()
        ),
        'queries': HeadKind(
            _query_targets, QueryBatch, query_losses, QueryGraph, QueryFusion(rule='mask2former')
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
