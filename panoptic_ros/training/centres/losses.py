"""The losses of classes, centres and offsets."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from panoptic_ros.labels import VOID
from panoptic_ros.training.centres.targets import CentreTargets
from panoptic_ros.training.loss_weights import LossWeights
from panoptic_ros.training.network.centre_network import Heads


class CentreLosses(NamedTuple):
    """Scalars, before weighting."""

    semantic: Tensor
    centre: Tensor
    offset: Tensor

    def total(self, weights: LossWeights) -> Tensor:
        """Return the weighted sum."""
        return (
            weights.semantic * self.semantic
            + weights.centre * self.centre
            + weights.offset * self.offset
        )


def centre_losses(heads: Heads, targets: CentreTargets, weights: LossWeights) -> CentreLosses:
    """Compare a batch's heads with its targets; everything in float32.

    The classes are compared at stride 2, where the deployed network takes its argmax: at full
    size the semantic loss alone takes a third of a step. Each call draws which of the four pixels
    of the 2x2 blocks is compared, so that every pixel is used and nothing is shifted.
    """
    logits = heads.semantic.float()
    top, left = torch.randint(2, (2,)).tolist()
    target = targets.semantic[:, top::2, left::2]
    pixel_weight = targets.pixel_weight[:, top::2, left::2]
    centre_error = (heads.centre[:, 0].float() - targets.centre).square()
    offset_error = (heads.offset_xy.float() - targets.offset_xy).abs().sum(1)
    return CentreLosses(
        semantic=hard_pixel_cross_entropy(logits, target, pixel_weight, weights.hard_fraction),
        centre=_weighted_mean(centre_error, targets.centre_weight),
        offset=_weighted_mean(offset_error, targets.offset_weight),
    )


def hard_pixel_cross_entropy(
    logits: Tensor, target: Tensor, pixel_weight: Tensor, hard_fraction: float
) -> Tensor:
    """Average the weighted cross-entropy over the hardest pixels (as Panoptic-DeepLab does).

    ``logits`` float [N, C, H, W], ``target`` uint8 [N, H, W] with 255 ignored, ``pixel_weight``
    float [N, H, W]. The threshold of the hardest ``hard_fraction`` is estimated on one pixel in
    17: sorting all of them takes longer than the rest of the loss.
    """
    loss = F.cross_entropy(logits, target.long(), ignore_index=VOID, reduction='none')
    loss = (loss * pixel_weight).flatten()
    if hard_fraction == 1:
        return _weighted_mean(loss, (target != VOID).flatten().float())
    known = loss.detach()[(target != VOID).flatten()][::17]
    if not len(known):
        return loss.sum()  # no pixel is known: 0, with a gradient of 0
    rank = max(1, round(len(known) * (1 - hard_fraction)))
    threshold = known.kthvalue(rank).values
    return _weighted_mean(loss, (loss.detach() >= threshold.clamp(min=1e-9)).float())


def _weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1.0)
