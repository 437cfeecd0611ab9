"""Narrow the layers of a trained network.

A light backbone spends most of its time in the widened middle of its blocks. Channels there are
removed one by one: each time the one whose removal changes the input of the next convolution's
output least, after that convolution is refitted to the remaining channels. This is the optimal
brain surgeon (Hassibi and Stork, 1992) for a linear layer under squared error, on the activations
of real images. Training afterwards recovers most of the loss.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from panoptic_ros.training.network.panoptic_network import PanopticNetwork

STEP = 16
"""Channels are removed in groups of this size: odd remainders save no time."""

# Writing one value of a map takes as long as this many multiplications (measured on AVX2).
_WRITE_COST = 14
_CELLS = 600  # sampled in each map of each image


@dataclass(frozen=True)
class Widened:
    """The middle of a block: the layers that produce its channels and the one that consumes them.

    Parameters
    ----------
    makers
        Names of the convolutions with batch normalisation whose outputs are these channels. All
        but the first are depthwise.
    user
        Name of the pointwise convolution with batch normalisation that follows them.
    """

    makers: tuple[str, ...]
    user: str


def widened_layers(network: PanopticNetwork) -> list[Widened]:
    """Return the middles of all blocks of an EfficientNet-Lite backbone, from the image on."""
    found = []
    for stage, blocks in enumerate(network.backbone.stages):
        for number, block in enumerate(blocks):
            names = [f'backbone.stages.{stage}.{number}.layers.{i}' for i in range(3)]
            if len(block.layers) == 3:
                found.append(Widened((names[0], names[1]), names[2]))
            else:  # the first block works on the output of the stem
                found.append(Widened(('backbone.stem', names[0]), names[1]))
    return found


@dataclass(frozen=True, eq=False)
class Elimination:
    """The best order of removing channels, and the error of each removal.

    Parameters
    ----------
    order
        int64 [C], channels in the order of removal.
    loss
        float64 [C], squared error per sample, summed over the outputs, after the removal of the
        channels up to this one and a refit of the others.
    """

    order: np.ndarray
    loss: np.ndarray


def eliminate(covariance: np.ndarray, weight: np.ndarray) -> Elimination:
    """Order the inputs of a linear layer by how little their removal changes its output.

    Parameters
    ----------
    covariance
        float64 [C, C], of the inputs.
    weight
        float64 [outputs, C].
    """
    inverse = np.linalg.inv(_regular(covariance))
    weight = weight.astype(np.float64).copy()
    left = np.arange(len(covariance))
    order, loss = [], []
    total = 0.0
    while len(left):
        # Removing a channel and refitting the others raises the squared error by this.
        rise = np.square(weight).sum(0) / np.diagonal(inverse)
        index = int(rise.argmin())
        total += rise[index]
        order.append(left[index])
        loss.append(total)
        column = inverse[:, index] / inverse[index, index]
        weight -= np.outer(weight[:, index], column)
        inverse -= np.outer(column, inverse[index])
        left, weight = np.delete(left, index), np.delete(weight, index, 1)
        inverse = np.delete(np.delete(inverse, index, 0), index, 1)
    return Elimination(np.array(order), np.array(loss))


def refit(covariance: np.ndarray, weight: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return the weights float64 [outputs, kept] that best reproduce the output of all inputs."""
    regular = _regular(covariance)
    return np.linalg.solve(regular[np.ix_(kept, kept)], regular[kept] @ weight.T).T


def _regular(covariance: np.ndarray) -> np.ndarray:
    """Return a covariance that a constant channel does not make singular."""
    scale = np.trace(covariance) / len(covariance)
    return covariance + 1e-5 * max(scale, 1e-12) * np.eye(len(covariance))


@dataclass(frozen=True, eq=False)
class Activations:
    """Statistics of the channels before a pointwise convolution.

    Parameters
    ----------
    mean
        float64 [C].
    covariance
        float64 [C, C].
    output_variance
        Variance of the block's output, summed over its channels.
    cost
        Multiplications per channel and image.
    """

    mean: np.ndarray
    covariance: np.ndarray
    output_variance: float
    cost: float


def measure_activations(
    network: PanopticNetwork, layers: Sequence[Widened], images: Iterable[Tensor]
) -> list[Activations]:
    """Run batches float [N, 3, H, W]; return the statistics before each ``user``."""
    modules = dict(network.named_modules())
    generator = torch.Generator().manual_seed(0)
    inputs: dict[str, list[Tensor]] = {layer.user: [] for layer in layers}
    outputs: dict[str, list[Tensor]] = {layer.user: [] for layer in layers}
    cells: dict[str, list[int]] = {}

    def sample(x: Tensor) -> Tensor:
        flat = x.flatten(2)
        picked = torch.randperm(flat.shape[2], generator=generator)[:_CELLS]
        return flat[:, :, picked].transpose(0, 1).flatten(1).double()

    hooks = []
    for layer in layers:
        block = modules[layer.user.rpartition('.layers')[0]]

        def before(_: Any, x: Any, user: str = layer.user) -> None:
            inputs[user].append(sample(x[0]))

        def after(_: Any, x: Any, y: Any, user: str = layer.user) -> None:
            outputs[user].append(sample(y))

        hooks += [
            modules[layer.user].register_forward_pre_hook(before),
            block.register_forward_hook(after),
        ]
        for name in (*layer.makers, layer.user):

            def count(_: Any, x: Any, y: Any, name: str = name) -> None:
                cells[name] = y.shape[2] * y.shape[3]

            hooks.append(modules[name].register_forward_hook(count))
    network.eval()
    with torch.inference_mode():
        for batch in images:
            network(batch)
    for hook in hooks:
        hook.remove()
    found = []
    for layer in layers:
        x = torch.cat(inputs[layer.user], 1)
        makers = [modules[name][0] for name in layer.makers]
        cost = sum(
            cells[name] * (conv.weight[0].numel() + _WRITE_COST)
            for name, conv in zip(layer.makers, makers, strict=True)
        )
        cost += cells[layer.user] * modules[layer.user][0].out_channels
        found.append(
            Activations(
                x.mean(1).numpy(),
                torch.cov(x).numpy(),
                float(torch.cat(outputs[layer.user], 1).var(1).sum()),
                float(cost),
            )
        )
    return found


def choose_widths(
    eliminations: Sequence[Elimination], activations: Sequence[Activations], share: float
) -> list[int]:
    """Return how many channels of each layer stay so that ``share`` of the cost stays.

    Greedy: repeatedly remove the group of :data:`STEP` channels that adds the least error,
    relative to the variance of its block's output, per cost that it saves.
    """
    widths = [len(e.order) for e in eliminations]
    budget = share * sum(w * a.cost for w, a in zip(widths, activations, strict=True))

    def price(index: int) -> float:
        width, known = widths[index], activations[index]
        if width <= STEP:
            return np.inf
        loss = eliminations[index].loss
        gone = len(loss) - width
        so_far = loss[gone - 1] if gone else 0.0
        step = width % STEP or STEP
        return (loss[gone + step - 1] - so_far) / known.output_variance / (step * known.cost)

    while sum(w * a.cost for w, a in zip(widths, activations, strict=True)) > budget:
        index = min(range(len(widths)), key=price)
        widths[index] -= widths[index] % STEP or STEP
    return widths


def prune(
    network: PanopticNetwork, images: Iterable[Tensor], share: float
) -> tuple[dict[str, Tensor], list[int]]:
    """Narrow the blocks of a network's backbone.

    Parameters
    ----------
    network
        A trained network; it is not changed.
    images
        Batches float [N, 3, H, W].
    share
        Share of the cost of all blocks that stays, 0..1.

    Returns the state of the narrower network, and the widths of its blocks.
    """
    layers = widened_layers(network)
    activations = measure_activations(network, layers, images)
    modules = dict(network.named_modules())
    weights, eliminations = [], []
    for layer, known in zip(layers, activations, strict=True):
        conv, norm = modules[layer.user]
        weight = conv.weight[:, :, 0, 0].detach().double().numpy()
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().double().numpy()
        weights.append(weight)
        eliminations.append(eliminate(known.covariance, weight * scale[:, None]))
    widths = choose_widths(eliminations, activations, share)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for layer, known, weight, elimination, width in zip(
        layers, activations, weights, eliminations, widths, strict=True
    ):
        kept = np.sort(elimination.order[len(elimination.order) - width :])
        for maker in layer.makers:
            for part in ('0.weight', '1.weight', '1.bias', '1.running_mean', '1.running_var'):
                state[f'{maker}.{part}'] = state[f'{maker}.{part}'][kept]
        fitted = refit(known.covariance, weight, kept)
        # The batch normalisation that follows compensates the change of the mean.
        shift = weight @ known.mean - fitted @ known.mean[kept]
        state[f'{layer.user}.0.weight'] = torch.from_numpy(fitted).float()[:, :, None, None]
        state[f'{layer.user}.1.running_mean'] -= torch.from_numpy(shift).float()
    return state, widths
