"""Narrower layers from a trained network: ``panoptic prune RUN --data ROOT --share 0.85``.

Most of a light backbone's time goes into the widened middle of its blocks. Channels there are
taken out one by one, each time the one that what follows misses least, and the convolution that
follows is refitted to the rest: the optimal brain surgeon (Hassibi and Stork, 1992) for a linear
layer under squared error, on the activations of real images. What is lost is then mostly won back
by training on.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from panoptic_ros.datasets.opening import open_dataset
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.training.network import PanopticNetwork
from panoptic_ros.training.training import CHECKPOINT, evenly_spread, open_run

STEP = 16
"""Channels are taken out in groups of so many: narrower remainders save no time."""

# Writing one value of a map takes as long as so many multiplications (measured on AVX2).
_WRITE_COST = 14
_CELLS = 600  # looked at in each map of each image


@dataclass(frozen=True)
class Widened:
    """The middle of a block: the layers that make its channels, and the one that uses them up.

    Parameters
    ----------
    makers
        Names of the convolutions with batch normalisation whose outputs are these channels; the
        first alone sees other channels, the others are depthwise.
    user
        Name of the pointwise convolution with batch normalisation behind them.
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
            else:  # the first block works on what the stem makes
                found.append(Widened(('backbone.stem', names[0]), names[1]))
    return found


@dataclass(frozen=True, eq=False)
class Elimination:
    """In which order channels are best taken out, and what each costs.

    Parameters
    ----------
    order
        int64 [C], channels, the first to go first.
    loss
        float64 [C], squared error per sample summed over the outputs, once the channels up to and
        with this one are gone and the rest is refitted.
    """

    order: np.ndarray
    loss: np.ndarray


def eliminate(covariance: np.ndarray, weight: np.ndarray) -> Elimination:
    """Order the inputs of a linear layer by how little their going changes its output.

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
        # Taking out a channel and refitting the others raises the squared error by this.
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
    """Return the weights float64 [outputs, kept] that come closest to the output of all inputs."""
    regular = _regular(covariance)
    return np.linalg.solve(regular[np.ix_(kept, kept)], regular[kept] @ weight.T).T


def _regular(covariance: np.ndarray) -> np.ndarray:
    """Add what keeps a channel that never varies from making the matrix singular."""
    scale = np.trace(covariance) / len(covariance)
    return covariance + 1e-5 * max(scale, 1e-12) * np.eye(len(covariance))


@dataclass(frozen=True, eq=False)
class Activations:
    """What is known of the channels before a pointwise convolution.

    Parameters
    ----------
    mean
        float64 [C].
    covariance
        float64 [C, C].
    output_variance
        Variance of the block's output, summed over its channels.
    cost
        Multiplications that one of these channels costs, counted for one image.
    """

    mean: np.ndarray
    covariance: np.ndarray
    output_variance: float
    cost: float


def measure_activations(
    network: PanopticNetwork, layers: Sequence[Widened], images: Iterable[Tensor]
) -> list[Activations]:
    """Run batches float [N, 3, H, W] and return what arrives before each ``user``."""
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

        def before(_, x, user=layer.user):
            inputs[user].append(sample(x[0]))

        def behind(_, x, y, user=layer.user):
            outputs[user].append(sample(y))

        hooks += [
            modules[layer.user].register_forward_pre_hook(before),
            block.register_forward_hook(behind),
        ]
        for name in (*layer.makers, layer.user):

            def count(_, x, y, name=name):
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
    """Return how many channels of each layer stay so that ``share`` of the cost does.

    Greedy: again and again the group of :data:`STEP` channels goes whose going adds least error,
    relative to the variance of its block's output, for the cost that it saves.
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


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "Narrow the blocks of a trained network's backbone to make it faster; go on training "
        'with the configuration that it prints and --init OUT.'
    )
    parser.add_argument('run', help='folder of the training run')
    parser.add_argument('--data', required=True, help='root folder of the data set')
    parser.add_argument('--split', default='train', help='split to look at (default: train)')
    parser.add_argument('--out', required=True, help='folder for the narrower weights')
    parser.add_argument(
        '--share',
        type=float,
        default=0.8,
        help="how much of the blocks' computation stays, 0..1 (default: %(default)s)",
    )
    parser.add_argument(
        '--without-detail', action='store_true', help='leave out the detail at stride 2 too'
    )
    parser.add_argument(
        '--images', type=int, default=64, help='images to measure on (default: %(default)s)'
    )


def run(args: argparse.Namespace) -> int:
    """Prune; returns the exit code."""
    if not 0 < args.share < 1:
        raise PanopticRosError(f'--share is {args.share:g}; expected between 0 and 1')
    if args.images < 1:
        raise PanopticRosError(f'--images is {args.images}; expected 1 or more')
    config, state = open_run(args.run)
    target = Path(args.out) / CHECKPOINT
    if target.exists():
        raise PanopticRosError(f'{target} exists; name another folder with --out')
    weights = state['average']
    if args.without_detail:
        config = replace(config, detail_channels=0, trained_part='')
        weights = {k: v for k, v in weights.items() if not k.startswith('semantic_head.detail.')}
    network = config.build_network(pretrained=False)
    network.load_state_dict(weights)
    samples, _ = open_dataset(config.dataset, args.data, args.split)
    picked = evenly_spread(len(samples), args.images)
    images = (_batch_of(samples[i].image_rgb) for i in tqdm(picked, unit='image'))
    pruned, widths = prune(network, images, args.share)
    target.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            'average': pruned,
            'config': asdict(replace(config, block_channels=tuple(widths))),
            'images_seen': state['images_seen'],
            'seconds': state['seconds'],
            'initial_weights': state.get('initial_weights', 'not known'),
        },
        target,
    )
    print(f'{target}\nblock_channels: {widths}')
    return 0


def _batch_of(image_rgb: np.ndarray) -> Tensor:
    """Return float [1, 3, H, W], cut to multiples of 32."""
    height, width = (side // 32 * 32 for side in image_rgb.shape[:2])
    return torch.from_numpy(image_rgb[None, :height, :width]).permute(0, 3, 1, 2).float()


def prune(
    network: PanopticNetwork, images: Iterable[Tensor], share: float
) -> tuple[dict[str, Tensor], list[int]]:
    """Narrow the blocks of a network's backbone.

    Parameters
    ----------
    network
        Trained; it stays as it is.
    images
        Batches float [N, 3, H, W].
    share
        How much of the cost of all blocks stays, 0..1.

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
        # The batch normalisation behind takes in what the fitted weights lack on average.
        shift = weight @ known.mean - fitted @ known.mean[kept]
        state[f'{layer.user}.0.weight'] = torch.from_numpy(fitted).float()[:, :, None, None]
        state[f'{layer.user}.1.running_mean'] -= torch.from_numpy(shift).float()
    return state, widths
