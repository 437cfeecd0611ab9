"""The network of head kind ``centres``: dense classes, object centres and offsets."""

from typing import NamedTuple

from torch import Tensor

from panoptic_ros.training.network.backbone import Backbone
from panoptic_ros.training.network.heads import CentreHead, SemanticHead
from panoptic_ros.training.network.panoptic_network import PanopticNetwork


class Heads(NamedTuple):
    """Outputs of the network for a batch."""

    semantic: Tensor
    """float [N, classes, H / 2, W / 2], logits."""
    centre: Tensor
    """float [N, 1, H / 4, W / 4], 1 at an object's centre, 0 away from it; not clipped."""
    offset_xy: Tensor
    """float [N, 2, H / 4, W / 4], cells."""


class CentreNetwork(PanopticNetwork):
    """Image in, :class:`Heads` out (Panoptic-DeepLab, arXiv 1911.10194).

    Parameters
    ----------
    backbone, pyramid_channels, input_gamma
        See :class:`PanopticNetwork`.
    classes
        Number of classes, stuff and things.
    semantic_channels, centre_channels
        Widths of the two heads.
    detail_channels
        Width of the semantic head's part at stride 2; 0 leaves it out. It needs a backbone with
        a map at stride 2.

    Raises ValueError for ``detail_channels`` with a backbone that has no map at stride 2.
    """

    head = 'centres'

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
        super().__init__(backbone, pyramid_channels=pyramid_channels, input_gamma=input_gamma)
        if detail_channels and backbone.strides[0] != 2:
            raise ValueError(
                f'detail_channels is {detail_channels}, but the backbone has no map at stride 2; '
                'expected 0'
            )
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
        features, fine = self.features(image)
        centre, offset_xy = self.centre_head(features)
        return Heads(self.semantic_head(features, fine), centre, offset_xy)
