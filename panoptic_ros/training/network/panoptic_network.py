"""Backbone, pyramid and heads together."""

from typing import NamedTuple

from torch import Tensor, nn

from panoptic_ros.training.network.backbone import Backbone
from panoptic_ros.training.network.heads import CentreHead, SemanticHead
from panoptic_ros.training.network.pyramid import FeaturePyramid


class Heads(NamedTuple):
    """Outputs of the network for a batch."""

    semantic: Tensor
    """float [N, classes, H / 2, W / 2], logits."""
    centre: Tensor
    """float [N, 1, H / 4, W / 4], 1 at an object's centre, 0 away from it; not clipped."""
    offset_xy: Tensor
    """float [N, 2, H / 4, W / 4], cells."""


class PanopticNetwork(nn.Module):
    """Image in, panoptic heads out.

    Parameters
    ----------
    backbone
        Any :class:`~panoptic_ros.training.network.backbone.Backbone`.
    classes
        Number of classes, stuff and things.
    pyramid_channels, semantic_channels, centre_channels
        Widths of the pyramid and of the two heads.
    detail_channels
        Width of the semantic head's part at stride 2; 0 leaves it out. It needs a backbone with
        a map at stride 2.
    input_gamma
        Exponent above 0 that is applied to the image, scaled to 0..1, before the backbone. Below
        1 it spreads dark values apart, as in fluorescence images.

    Raises ValueError for ``detail_channels`` with a backbone that has no map at stride 2.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        *,
        pyramid_channels: int = 96,
        semantic_channels: int = 96,
        centre_channels: int = 64,
        detail_channels: int = 0,
        input_gamma: float = 1.0,
    ) -> None:
        super().__init__()
        self.input_gamma = input_gamma
        self.backbone = backbone
        if detail_channels and backbone.strides[0] != 2:
            raise ValueError(
                f'detail_channels is {detail_channels}, but the backbone has no map at stride 2; '
                'expected 0'
            )
        self.pyramid = FeaturePyramid(backbone.channels[-4:], pyramid_channels)
        self.semantic_head = SemanticHead(
            pyramid_channels,
            semantic_channels,
            classes,
            backbone.channels[0],
            detail_channels,
        )
        self.centre_head = CentreHead(pyramid_channels, centre_channels)

    def forward(self, image: Tensor) -> Heads:
        """Return the :class:`Heads` of float [N, 3, H, W] RGB 0..255, H and W multiples of 32."""
        if self.input_gamma != 1:
            image = (image / 255).pow(self.input_gamma) * 255
        maps = self.backbone(image)
        features = self.pyramid(maps[-4:])
        centre, offset_xy = self.centre_head(features)
        return Heads(self.semantic_head(features, maps[0]), centre, offset_xy)
