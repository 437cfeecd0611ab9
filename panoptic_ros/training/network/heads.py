"""The heads on the pyramid: dense classes, and object centres with offsets."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_ros.training.network.layers import conv_bn, double_size, separable_conv


class Detail(nn.Module):
    """A correction of the class logits at stride 2, for poles, lights and distant people.

    Its inputs are the features of the semantic head and the backbone's map at stride 2. Its last
    convolution is initialised with zeros, so that it first changes nothing in a trained network.
    """

    def __init__(self, c_coarse: int, c_fine: int, channels: int, classes: int) -> None:
        super().__init__()
        self.coarse = conv_bn(c_coarse, channels, 1, act=False)
        self.fine = conv_bn(c_fine, channels, 1, act=False)
        self.mix = separable_conv(channels, channels, 5)
        self.classes = nn.Conv2d(channels, classes, 1)
        nn.init.zeros_(self.classes.weight)
        nn.init.zeros_(self.classes.bias)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return logits [N, classes, 2 h, 2 w] of maps of [h, w] and [2 h, 2 w] cells."""
        x = double_size(self.coarse(coarse)) + self.fine(fine)
        return self.classes(self.mix(F.relu(x)))


class SemanticHead(nn.Module):
    """Class logits for every second pixel, stuff and things alike.

    Parameters
    ----------
    c_in, c_fine
        Channels of the pyramid's map at stride 4 and of the backbone's at stride 2.
    channels, classes
        Width, and number of classes.
    detail_channels
        Width of :class:`Detail`; 0 leaves it out, and the logits are those of stride 4, smoothed.

    ``forward`` takes the two maps and returns [N, classes, H / 2, W / 2].
    """

    def __init__(
        self, c_in: int, channels: int, classes: int, c_fine: int, detail_channels: int = 0
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            separable_conv(c_in, channels, 5), nn.Conv2d(channels, classes, 1)
        )
        self.detail = (
            Detail(channels, c_fine, detail_channels, classes) if detail_channels else None
        )

    def forward(self, x: Tensor, fine: Tensor) -> Tensor:
        """See the class."""
        mixed = self.layers[0](x)
        logits = double_size(self.layers[1](mixed))
        return logits if self.detail is None else logits + self.detail(mixed, fine)


class CentreHead(nn.Module):
    """Object centres and offsets to them (Panoptic-DeepLab, arXiv 1911.10194).

    ``forward`` returns the centre heatmap [N, 1, h, w], trained towards 1 at a centre and 0 away
    from it, and the offsets (dx, dy) from each cell to the centre of its object, in cells,
    [N, 2, h, w].
    """

    # The convolution predicts offsets in units of this many cells, so that they are of order one.
    OFFSET_UNIT_CELLS = 16.0

    def __init__(self, c_in: int, channels: int) -> None:
        super().__init__()
        self.shared = nn.Sequential(
            separable_conv(c_in, channels, 5), separable_conv(channels, channels, 5)
        )
        self.centre = nn.Conv2d(channels, 1, 1)
        self.offset = nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        x = self.shared(x)
        return self.centre(x), self.offset(x) * self.OFFSET_UNIT_CELLS


def find_peaks(heatmap: Tensor, count: int, kernel: int = 5) -> tuple[Tensor, Tensor]:
    """Find the ``count`` highest local maxima of [N, 1, h, w] by max-pooling.

    Returns the values [N, count], falling, and the flat indices [N, count] (int64). Fixed shapes
    and no NonZero, so that it exports to TensorRT; where there are fewer peaks the rest have
    value 0.
    """
    local_max = F.max_pool2d(heatmap, kernel, stride=1, padding=kernel // 2)
    # The sign is 0 at a peak and -1 elsewhere. A comparison would do, but the exporter widens its
    # operands to float32.
    peaks = heatmap * (1 + torch.sign(heatmap - local_max))
    return torch.topk(peaks.flatten(1), count)
