import math

import pytest
import torch

from panoptic_ros.training.loss_weights import LossWeights
from panoptic_ros.training.network.query_network import Queries
from panoptic_ros.training.queries.losses import (
    QueryLosses,
    Segments,
    dice,
    mask_cross_entropy,
    match_segments,
    query_losses,
)
from panoptic_ros.training.queries.targets import SegmentTargets

BIG = 30.0  # a logit of probability 1


def two_segments() -> Segments:
    """Class 0 on cells 0 and 1, class 1 on cell 2; cell 3 is unknown."""
    return Segments(
        class_id=torch.tensor([0, 1]),
        mask=torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 0]]),
        is_known=torch.tensor([1.0, 1, 1, 0]),
    )


def logits(rows: list[list[float]]) -> torch.Tensor:
    """Return logits of -BIG for 0 and BIG for 1."""
    return (torch.tensor(rows) * 2 - 1) * BIG


def test_each_segment_is_matched_to_the_query_that_fits() -> None:
    mask_logits = logits([[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]])
    class_logits = torch.zeros(3, 3)
    query, segment = match_segments(class_logits, mask_logits, two_segments(), LossWeights())
    assert dict(zip(query.tolist(), segment.tolist(), strict=True)) == {0: 1, 2: 0}


def test_the_class_decides_between_equal_masks() -> None:
    mask_logits = torch.zeros(2, 4)
    class_logits = torch.tensor([[0.0, 5.0, 0.0], [5.0, 0.0, 0.0]])
    query, segment = match_segments(class_logits, mask_logits, two_segments(), LossWeights())
    assert dict(zip(query.tolist(), segment.tolist(), strict=True)) == {0: 1, 1: 0}


def test_the_matching_has_the_lowest_total_cost_not_the_best_first_pair() -> None:
    # Query 0 fits both segments; query 1 only the first.
    weights = LossWeights(query_class=0.0, dice=0.0, mask=1.0)
    mask_logits = torch.tensor([[3.0, 3.0, 2.0, 0.0], [2.0, 2.0, -9.0, 0.0]])
    query, segment = match_segments(torch.zeros(2, 3), mask_logits, two_segments(), weights)
    assert dict(zip(query.tolist(), segment.tolist(), strict=True)) == {0: 1, 1: 0}


def test_fewer_queries_than_segments_match_as_many_as_there_are() -> None:
    mask_logits = logits([[0, 0, 1, 0]])
    query, segment = match_segments(torch.zeros(1, 3), mask_logits, two_segments(), LossWeights())
    assert (query.tolist(), segment.tolist()) == ([0], [1])


def test_mask_losses_ignore_unknown_cells() -> None:
    truth = two_segments()
    mask_logits = torch.tensor([[0.0, 0.0, 0.0, 9.0], [0.0, 0.0, 0.0, -9.0]])
    cross_entropy = mask_cross_entropy(mask_logits, truth.mask, truth.is_known)
    assert cross_entropy.tolist() == pytest.approx([math.log(2)] * 2)
    # (2 * 1 + 1) / (1.5 + 2 + 1) and (2 * 0.5 + 1) / (1.5 + 1 + 1)
    losses = dice(mask_logits, truth.mask, truth.is_known)
    assert losses.tolist() == pytest.approx([1 - 3 / 4.5, 1 - 2 / 3.5])


def batch() -> SegmentTargets:
    class_id = torch.full((1, 255), 255, dtype=torch.uint8)
    class_id[0, :2] = torch.tensor([0, 1])
    segment = torch.tensor([[[0, 0], [1, 255]]], dtype=torch.uint8)
    return SegmentTargets(segment, class_id)


def test_perfect_queries_have_no_loss() -> None:
    queries = Queries(
        logits([[0, 0, 1], [0, 1, 0], [1, 0, 0]])[None],
        logits([[0, 0, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0]]).view(1, 3, 2, 2),
    )
    losses = query_losses([queries], batch(), LossWeights())
    assert [round(float(value), 6) for value in losses] == [0.0, 0.0, 0.0]


def test_no_object_has_its_weight_in_the_class_loss() -> None:
    queries = Queries(
        torch.zeros(1, 3, 3), logits([[0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]).view(1, 3, 2, 2)
    )
    queries.class_logits[0, 2, 2] = math.log(2)
    losses = query_losses([queries], batch(), LossWeights(no_object=0.5))
    expected = (2 * math.log(3) + 0.5 * math.log(2)) / 2.5
    assert losses.query_class.item() == pytest.approx(expected)


def test_losses_are_means_over_the_predictions() -> None:
    perfect = Queries(
        logits([[0, 1, 0], [1, 0, 0]])[None],
        logits([[0, 0, 1, 0], [1, 1, 0, 0]]).view(1, 2, 2, 2),
    )
    unknown = Queries(torch.zeros(1, 2, 3), torch.zeros(1, 2, 2, 2))
    losses = query_losses([unknown, perfect], batch(), LossWeights())
    assert losses.query_class.item() == pytest.approx(math.log(3) / 2, rel=1e-5)
    assert losses.mask.item() == pytest.approx(math.log(2) / 2, rel=1e-5)


def test_an_image_without_segments_trains_no_object_only() -> None:
    empty = batch()._replace(
        segment=torch.full((1, 2, 2), 255, dtype=torch.uint8),
        class_id=torch.full((1, 255), 255, dtype=torch.uint8),
    )
    mask_logits = torch.zeros(1, 2, 2, 2, requires_grad=True)
    losses = query_losses([Queries(torch.zeros(1, 2, 3), mask_logits)], empty, LossWeights())
    assert losses.query_class.item() == pytest.approx(math.log(3))
    assert losses.mask.item() == losses.dice.item() == 0.0


def test_the_total_is_the_weighted_sum() -> None:
    losses = QueryLosses(torch.tensor(2.0), torch.tensor(0.5), torch.tensor(4.0))
    weights = LossWeights(query_class=1, mask=10, dice=0.25)
    assert losses.total(weights).item() == 8.0
