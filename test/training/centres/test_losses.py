import math

import pytest
import torch

from panoptic_ros.training.centres.losses import (
    CentreLosses,
    centre_losses,
    hard_pixel_cross_entropy,
)
from panoptic_ros.training.centres.targets import CentreTargets
from panoptic_ros.training.loss_weights import LossWeights
from panoptic_ros.training.network.centre_network import Heads


def test_cross_entropy_of_all_pixels_is_the_weighted_mean_without_void() -> None:
    logits = torch.zeros(1, 2, 1, 3)
    logits[0, :, 0, 0] = torch.tensor([0.0, math.log(3.0)])
    target = torch.tensor([[[0, 0, 255]]], dtype=torch.uint8)
    weight = torch.tensor([[[2.0, 1.0, 5.0]]])
    loss = hard_pixel_cross_entropy(logits, target, weight, 1.0)
    assert loss.item() == pytest.approx((2 * math.log(4) + math.log(2)) / 2)


def test_only_the_hard_pixels_count() -> None:
    torch.manual_seed(0)
    logits = torch.zeros(1, 2, 40, 40)
    logits[0, 0, :30] = 20.0  # three quarters are easy
    target = torch.zeros(1, 40, 40, dtype=torch.uint8)
    loss = hard_pixel_cross_entropy(logits, target, torch.ones(1, 40, 40), 0.2)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-5)
    everything = hard_pixel_cross_entropy(logits, target, torch.ones(1, 40, 40), 1.0)
    assert everything.item() == pytest.approx(math.log(2) / 4, rel=1e-5)


def test_nothing_known_is_no_loss_and_no_nan() -> None:
    logits = torch.zeros(1, 2, 4, 4, requires_grad=True)
    target = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    loss = hard_pixel_cross_entropy(logits, target, torch.ones(1, 4, 4), 0.25)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.abs().max() == 0.0


def batch() -> CentreTargets:
    return CentreTargets(
        semantic=torch.zeros(1, 8, 8, dtype=torch.uint8),
        pixel_weight=torch.ones(1, 8, 8),
        centre=torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]),
        centre_weight=torch.tensor([[[1.0, 1.0], [1.0, 0.0]]]),
        offset_xy=torch.zeros(1, 2, 2, 2),
        offset_weight=torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]),
    )


def test_perfect_heads_have_no_loss() -> None:
    truth = batch()
    semantic = torch.zeros(1, 3, 4, 4)
    semantic[:, 0] = 50.0
    heads = Heads(semantic, truth.centre[:, None], truth.offset_xy)
    losses = centre_losses(heads, truth, LossWeights(hard_fraction=0.5))
    assert [round(float(v), 6) for v in losses] == [0.0, 0.0, 0.0]


def test_centre_and_offset_errors_are_means_over_what_is_known() -> None:
    truth = batch()
    centre = torch.tensor([[[[0.0, 0.0], [0.0, 9.0]]]])  # misses the peak; 9 lies in void
    offset = torch.tensor([[[[3.0, 7.0], [7.0, 7.0]], [[-1.0, 7.0], [7.0, 7.0]]]])
    heads = Heads(torch.zeros(1, 3, 4, 4), centre, offset)
    losses = centre_losses(heads, truth, LossWeights(hard_fraction=1.0))
    assert losses.centre.item() == pytest.approx(1 / 3)
    assert losses.offset.item() == pytest.approx(4.0)
    assert losses.semantic.item() == pytest.approx(math.log(3))


def test_the_total_is_the_weighted_sum() -> None:
    losses = CentreLosses(torch.tensor(2.0), torch.tensor(0.5), torch.tensor(4.0))
    weights = LossWeights(semantic=1, centre=10, offset=0.25)
    assert losses.total(weights).item() == 8.0


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        ({'centre': -1}, 'loss centre is -1; expected 0 or more'),
        ({'hard_fraction': 0}, 'loss hard_fraction is 0'),
    ],
)
def test_wrong_weights_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossWeights(**wrong)
