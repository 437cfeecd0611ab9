"""The heads on the pyramid: dense classes, and object centres with offsets."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_ros.nn.pyramid import separable_conv


class SemanticHead(nn.Module):
    """Class logits for every cell, stuff and things alike: [N, classes, h, w]."""

    def __init__(self, c_in: int, channels: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            separable_conv(c_in, channels, 5), nn.Conv2d(channels, classes, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.layers(x)


class CentreHead(nn.Module):
    """Object centres and offsets to them (Panoptic-DeepLab, arXiv 1911.10194).

    ``forward`` returns the centre heatmap [N, 1, h, w], trained towards 1 at a centre and 0 away
    from it, and the offsets (dx, dy) from each cell to the centre of its object, in cells,
    [N, 2, h, w].
    """

    # Offsets leave the convolution in units of this many cells, to be of order one.
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
