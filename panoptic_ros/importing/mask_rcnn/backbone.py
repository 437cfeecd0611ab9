"""ResNet with a feature pyramid and the heads on it, under torchvision's names of weights.

Sizes follow from the shapes of the weights.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

Weights = Mapping[str, Tensor]
LEVELS = 4
"""Levels P2..P5 of the pyramid; regions are taken from these."""


def conv_of(weights: Weights, name: str, stride: int = 1) -> nn.Conv2d:
    """Return an unloaded convolution that fits the weight of that name, padded to keep sizes."""
    outputs, inputs, side, _ = weights[f'{name}.weight'].shape
    has_bias = f'{name}.bias' in weights
    return nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=has_bias)


def linear_of(weights: Weights, name: str) -> nn.Linear:
    """Return an unloaded linear layer that fits the weight of that name."""
    outputs, inputs = weights[f'{name}.weight'].shape
    return nn.Linear(inputs, outputs)


class Bottleneck(nn.Module):
    """A residual block of ResNet-50, -101 or -152 (v1.5: the stride is at the 3x3)."""

    def __init__(self, weights: Weights, name: str, stride: int) -> None:
        super().__init__()
        for number in (1, 2, 3):
            conv = conv_of(weights, f'{name}.conv{number}', stride if number == 2 else 1)
            self.add_module(f'conv{number}', conv)
            self.add_module(f'bn{number}', nn.BatchNorm2d(conv.out_channels))
        self.downsample: nn.Module = nn.Identity()
        if f'{name}.downsample.0.weight' in weights:
            conv = conv_of(weights, f'{name}.downsample.0', stride)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return [1, C, h, w] or half of it."""
        hidden = functional.relu(self.bn1(self.conv1(x)))
        hidden = functional.relu(self.bn2(self.conv2(hidden)))
        return functional.relu(self.bn3(self.conv3(hidden)) + self.downsample(x))


class ResNet(nn.Module):
    """The residual network without its classifier."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        prefix = 'backbone.body'
        self.conv1 = conv_of(weights, f'{prefix}.conv1', stride=2)
        self.bn1 = nn.BatchNorm2d(self.conv1.out_channels)
        for level in range(1, LEVELS + 1):
            name = f'{prefix}.layer{level}'
            count = len({key.split('.')[3] for key in weights if key.startswith(f'{name}.')})
            strides = [1 if level == 1 else 2, *[1] * (count - 1)]
            blocks = [Bottleneck(weights, f'{name}.{i}', s) for i, s in enumerate(strides)]
            self.add_module(f'layer{level}', nn.Sequential(*blocks))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the maps of strides 4, 8, 16 and 32."""
        hidden = functional.relu(self.bn1(self.conv1(pixels)))
        hidden = functional.max_pool2d(hidden, 3, 2, 1)
        maps = []
        for level in range(1, LEVELS + 1):
            hidden = self.get_submodule(f'layer{level}')(hidden)
            maps.append(hidden)
        return maps


class Pyramid(nn.Module):
    """Feature pyramid (Lin et al., arXiv 1612.03144)."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        for part in ('inner_blocks', 'layer_blocks'):
            convs = [conv_of(weights, f'backbone.fpn.{part}.{i}.0') for i in range(LEVELS)]
            self.add_module(part, nn.ModuleList(nn.Sequential(conv) for conv in convs))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return P2..P5 and P6, which is every other cell of P5."""
        last = self.inner_blocks[-1](maps[-1])
        results = [self.layer_blocks[-1](last)]
        for level in range(LEVELS - 2, -1, -1):
            last = functional.interpolate(last, size=maps[level].shape[-2:], mode='nearest')
            last = last + self.inner_blocks[level](maps[level])
            results.insert(0, self.layer_blocks[level](last))
        return [*results, results[-1][:, :, ::2, ::2]]


class SemanticBranch(nn.Module):
    """Panoptic FPN's semantic branch (Kirillov et al., arXiv 1901.02446).

    Each level is brought to stride 4 by convolutions, each followed by group normalisation, ReLU
    and a doubling; their sum is classified. The names of weights are those of detectron2:
    ``sem_seg_head.p3.0.weight``, ``sem_seg_head.p3.0.norm.weight``, ``sem_seg_head.predictor``.
    """

    GROUPS = 32

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        prefix = 'sem_seg_head'
        for level in range(LEVELS):
            # P2 has one convolution and no doubling; after that a doubling follows each.
            steps: list[nn.Module] = []
            for step in range(max(1, level)):
                name = f'{prefix}.p{level + 2}.{2 * step}'
                conv = conv_of(weights, name)
                conv.add_module('norm', nn.GroupNorm(self.GROUPS, conv.out_channels))
                steps.append(conv)
                if level:
                    steps.append(nn.Upsample(scale_factor=2, mode='bilinear', align_corners=False))
            self.add_module(f'p{level + 2}', nn.Sequential(*steps))
        self.predictor = conv_of(weights, f'{prefix}.predictor')

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """Return class logits at stride 4."""
        total = torch.zeros(())
        for level, features in enumerate(pyramid[:LEVELS]):
            for step in self.get_submodule(f'p{level + 2}'):
                features = step(features)
                if isinstance(step, nn.Conv2d):
                    features = functional.relu(step.norm(features))
            total = features if level == 0 else total + features
        return self.predictor(total)
