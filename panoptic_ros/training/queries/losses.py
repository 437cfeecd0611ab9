"""The losses of queries, which are matched to the segments of an image one to one.

Matching and losses are those of Mask2Former (arXiv 2112.01527), on all cells instead of sampled
points.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from panoptic_ros.labels import VOID
from panoptic_ros.training.loss_weights import LossWeights
from panoptic_ros.training.network.query_network import Queries
from panoptic_ros.training.queries.targets import UNKNOWN, SegmentTargets


class QueryLosses(NamedTuple):
    """Scalars, before weighting."""

    query_class: Tensor
    mask: Tensor
    dice: Tensor

    def total(self, weights: LossWeights) -> Tensor:
        """Return the weighted sum."""
        return (
            weights.query_class * self.query_class
            + weights.mask * self.mask
            + weights.dice * self.dice
        )


class Segments(NamedTuple):
    """The segments of one image, S, on P cells."""

    class_id: Tensor
    """int64 [S]."""
    mask: Tensor
    """float32 [S, P], 0 or 1."""
    is_known: Tensor
    """float32 [P], 0 for cells whose segment is unknown."""


def query_losses(
    predictions: Sequence[Queries], targets: SegmentTargets, weights: LossWeights
) -> QueryLosses:
    """Return the losses of a batch, in float32, as means over the predictions.

    Each prediction (one for each decoder layer) is matched on its own.
    """
    truths = [_segments(segment, ids) for segment, ids in zip(*targets, strict=True)]
    parts = [_losses_of(prediction, truths, weights) for prediction in predictions]
    return QueryLosses(*(torch.stack(values).mean() for values in zip(*parts, strict=True)))


def _segments(segment: Tensor, class_id: Tensor) -> Segments:
    class_id = class_id[class_id != VOID].to(torch.int64)
    segment = segment.flatten()
    numbers = torch.arange(len(class_id), device=segment.device)
    mask = (segment == numbers[:, None]).float()
    return Segments(class_id, mask, (segment != UNKNOWN).float())


def _losses_of(queries: Queries, truths: Sequence[Segments], weights: LossWeights) -> QueryLosses:
    class_logits = queries.class_logits.float()
    no_object = class_logits.shape[2] - 1
    target = torch.full(class_logits.shape[:2], no_object, device=class_logits.device)
    mask_loss = dice_loss = class_logits.new_zeros(())
    for image, truth in enumerate(truths):
        mask_logits = queries.mask_logits[image].float().flatten(1)
        query, segment = match_segments(class_logits[image], mask_logits, truth, weights)
        target[image, query] = truth.class_id[segment]
        matched, mask = mask_logits[query], truth.mask[segment]
        mask_loss = mask_loss + mask_cross_entropy(matched, mask, truth.is_known).sum()
        dice_loss = dice_loss + dice(matched, mask, truth.is_known).sum()
    class_weight = torch.ones(no_object + 1, device=class_logits.device)
    class_weight[no_object] = weights.no_object
    count = max(1, sum(len(truth.class_id) for truth in truths))
    return QueryLosses(
        F.cross_entropy(class_logits.flatten(0, 1), target.flatten(), class_weight),
        mask_loss / count,
        dice_loss / count,
    )


@torch.no_grad()
def match_segments(
    class_logits: Tensor, mask_logits: Tensor, truth: Segments, weights: LossWeights
) -> tuple[Tensor, Tensor]:
    """Return queries and segments that belong together, int64 [M] each, at the lowest total cost.

    ``class_logits`` is float32 [Q, C + 1], ``mask_logits`` float32 [Q, P]. M is the smaller of
    the numbers of queries and segments. The cost of a pair is the weighted sum of the negative
    class probability, the mask cross-entropy and the dice loss.
    """
    probability = class_logits.softmax(1)[:, truth.class_id]
    logits = mask_logits * truth.is_known
    area = truth.is_known.sum().clamp(min=1)
    # softplus(x) - x y summed over the known cells, for all pairs.
    softplus = (F.softplus(mask_logits) * truth.is_known).sum(1, keepdim=True)
    cross_entropy = (softplus - logits @ truth.mask.T) / area
    inside = mask_logits.sigmoid() * truth.is_known
    overlap = 2 * inside @ truth.mask.T + 1
    dice_cost = 1 - overlap / (inside.sum(1)[:, None] + truth.mask.sum(1) + 1)
    cost = (
        weights.mask * cross_entropy + weights.dice * dice_cost - weights.query_class * probability
    )
    rows, columns = linear_sum_assignment(cost.nan_to_num().cpu().numpy())
    device = mask_logits.device
    return torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device)


def mask_cross_entropy(mask_logits: Tensor, mask: Tensor, is_known: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over the known cells, [M] of [M, P]."""
    loss = F.binary_cross_entropy_with_logits(mask_logits, mask, reduction='none')
    return (loss * is_known).sum(1) / is_known.sum().clamp(min=1)


def dice(mask_logits: Tensor, mask: Tensor, is_known: Tensor) -> Tensor:
    """Return 1 - (2 |A and B| + 1) / (|A| + |B| + 1) over the known cells, [M] of [M, P]."""
    inside = mask_logits.sigmoid() * is_known
    overlap = 2 * (inside * mask).sum(1) + 1
    return 1 - overlap / (inside.sum(1) + mask.sum(1) + 1)
