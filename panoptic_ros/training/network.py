"""The whole network: one shared backbone, one pyramid, a semantic and an instance head."""

from typing import NamedTuple

from torch import Tensor, nn

from panoptic_ros.training.backbones import Backbone
from panoptic_ros.training.heads import CentreHead, SemanticHead
from panoptic_ros.training.pyramid import FeaturePyramid


class Heads(NamedTuple):
    """What the network says about a batch."""

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
        Any :class:`~panoptic_ros.training.backbones.Backbone`.
    classes
        Number of classes, stuff and things.
    pyramid_channels, semantic_channels, centre_channels
        Widths of the pyramid and of the two heads.
    detail_channels
        Width of the semantic head's part at stride 2; 0 leaves it out.
    input_gamma
        Exponent above 0 that is applied to the image, scaled to 0..1, before the backbone. Below
        1 it spreads dark values apart, as in fluorescence images.
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
        finest, *coarser = backbone.channels
        self.pyramid = FeaturePyramid(coarser, pyramid_channels)
        self.semantic_head = SemanticHead(
            pyramid_channels, semantic_channels, classes, finest, detail_channels
        )
        self.centre_head = CentreHead(pyramid_channels, centre_channels)

    def forward(self, image: Tensor) -> Heads:
        """Return the :class:`Heads` of float [N, 3, H, W] RGB 0..255, H and W multiples of 32."""
        if self.input_gamma != 1:
            image = (image / 255).pow(self.input_gamma) * 255
        finest, *coarser = self.backbone(image)
        features = self.pyramid(coarser)
        centre, offset_xy = self.centre_head(features)
        return Heads(self.semantic_head(features, finest), centre, offset_xy)
