"""Layers that several parts of the network share."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _DepthwiseConvolution(torch.autograd.Function):
    """Depthwise convolution whose gradients are fast on a CPU.

    oneDNN computes the weight gradient of 5x5 and both gradients of strided depthwise
    convolutions 10 to 40 times slower than those of the plain 3x3 one. So the strided one is
    taken as a plain one with zeros between the gradients, the input gradient as a convolution
    with the mirrored kernel, and the 5x5 weight gradient as four overlapping 3x3 ones.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
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


def separable_conv(channels: int, c_out: int, kernel: int) -> nn.Sequential:
    """Depthwise convolution, then pointwise, each with batch normalisation and ReLU6."""
    return nn.Sequential(
        conv_bn(channels, channels, kernel, groups=channels), conv_bn(channels, c_out, 1)
    )


def double_size(x: Tensor) -> Tensor:
    """Return [N, C, 2 h, 2 w], bilinear between the middles of cells."""
    return F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)
