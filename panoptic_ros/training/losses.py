"""The composite loss: what is wrong about the classes, the centres and the offsets."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from panoptic_ros.labels import VOID
from panoptic_ros.training.network.panoptic_network import Heads


@dataclass(frozen=True)
class LossWeights:
    """How much each part counts in the sum, and how the semantic part is formed.

    Parameters
    ----------
    semantic
        Weight of the pixel cross-entropy (nats).
    centre
        Weight of the centre heatmap's mean squared error. Centres are a thousandth of the
        cells, hence the large number (Panoptic-DeepLab uses 200).
    offset
        Weight of the offsets' mean absolute error in cells (a cell is 4 pixels).
    hard_fraction
        Fraction 0..1 of the pixels, the hardest, that the cross-entropy is averaged over.
    small_area, small_weight
        Objects below this area in pixels count this much in the cross-entropy.
    by_segment
        Count every segment below ``small_area``, stuff too, by the root of how much smaller it
        is, at most ``small_weight``, and what surrounds it half as much: panoptic quality counts
        segments, not pixels. The offsets of large objects count less by the same rule.
    """

    semantic: float = 1.0
    centre: float = 200.0
    offset: float = 0.1
    hard_fraction: float = 0.25
    small_area: int = 400
    small_weight: float = 3.0
    by_segment: bool = False

    def __post_init__(self) -> None:
        for name in ('semantic', 'centre', 'offset', 'small_area', 'small_weight'):
            if getattr(self, name) < 0:
                raise ValueError(f'loss {name} is {getattr(self, name)}; expected 0 or more')
        if not 0 < self.hard_fraction <= 1:
            raise ValueError(f'loss hard_fraction is {self.hard_fraction}; expected 0..1, not 0')


class Batch(NamedTuple):
    """Images and targets as tensors; see :class:`~panoptic_ros.training.targets.Targets`."""

    image: Tensor
    """uint8 [N, 3, H, W]."""
    semantic: Tensor
    pixel_weight: Tensor
    centre: Tensor
    centre_weight: Tensor
    offset_xy: Tensor
    offset_weight: Tensor


class Losses(NamedTuple):
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


def panoptic_losses(heads: Heads, batch: Batch, hard_fraction: float) -> Losses:
    """Compare a batch's heads with its targets; everything in float32.

    The classes are compared at stride 2, where the deployed network takes its argmax: at full
    size the semantic loss alone takes a third of a step. Which of the four pixels of a 2x2 block
    is looked at is drawn anew each time, so that no pixel is left out and nothing is shifted.
    """
    logits = heads.semantic.float()
    top, left = torch.randint(2, (2,)).tolist()
    target = batch.semantic[:, top::2, left::2]
    pixel_weight = batch.pixel_weight[:, top::2, left::2]
    centre_error = (heads.centre[:, 0].float() - batch.centre).square()
    offset_error = (heads.offset_xy.float() - batch.offset_xy).abs().sum(1)
    return Losses(
        semantic=hard_pixel_cross_entropy(logits, target, pixel_weight, hard_fraction),
        centre=_weighted_mean(centre_error, batch.centre_weight),
        offset=_weighted_mean(offset_error, batch.offset_weight),
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
        return loss.sum()  # nothing is known: 0, with a gradient of 0
    rank = max(1, round(len(known) * (1 - hard_fraction)))
    threshold = known.kthvalue(rank).values
    return _weighted_mean(loss, (loss.detach() >= threshold.clamp(min=1e-9)).float())


def _weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1.0)
