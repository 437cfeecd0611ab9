"""The feature pyramid: four backbone maps in, one map at stride 4 of all scales out."""

from collections.abc import Sequence

from torch import Tensor, nn

from panoptic_ros.training.network.layers import conv_bn, double_size, separable_conv


class GlobalContext(nn.Module):
    """Add the mean of the whole image, and features of the cells within 9 cells, to every cell."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pooled = nn.Conv2d(channels, channels, 1)
        self.near = nn.Sequential(
            separable_conv(channels, channels, 5), separable_conv(channels, channels, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        return x + self.near(x) + self.pooled(x.mean((2, 3), keepdim=True))


class FeaturePyramid(nn.Module):
    """Top-down feature pyramid (FPN, arXiv 1612.03144) of light separable convolutions.

    Parameters
    ----------
    in_channels
        Channels of the backbone's maps at strides 4, 8, 16 and 32.
    channels
        Channels of every pyramid level.

    ``forward`` returns [N, channels, H / 4, W / 4].
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(conv_bn(c, channels, 1, act=False) for c in in_channels)
        self.context = GlobalContext(channels)
        self.smooth = nn.ModuleList(separable_conv(channels, channels, 5) for _ in in_channels[1:])

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """See the class."""
        x = self.context(self.lateral[-1](features[-1]))
        for level in reversed(range(len(features) - 1)):
            x = self.smooth[level](double_size(x) + self.lateral[level](features[level]))
        return x
