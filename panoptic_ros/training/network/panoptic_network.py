"""Backbone and feature pyramid, which every kind of head shares."""

from typing import ClassVar

from torch import Tensor, nn

from panoptic_ros.training.network.backbone import Backbone
from panoptic_ros.training.network.pyramid import FeaturePyramid


class PanopticNetwork(nn.Module):
    """The base of the networks: image in, features out. Subclasses add the heads.

    Parameters
    ----------
    backbone
        Any :class:`~panoptic_ros.training.network.backbone.Backbone`.
    pyramid_channels
        Width of the pyramid.
    input_gamma
        Exponent above 0 that is applied to the image, scaled to 0..1, before the backbone. Below
        1 it spreads dark values apart, as in fluorescence images.
    """

    head: ClassVar[str]
    """Head kind, a key of :data:`panoptic_ros.fusion.HEAD_KINDS`."""

    def __init__(
        self, backbone: Backbone, *, pyramid_channels: int = 96, input_gamma: float = 1.0
    ) -> None:
        super().__init__()
        self.input_gamma = input_gamma
        self.backbone = backbone
        self.pyramid = FeaturePyramid(backbone.channels[-4:], pyramid_channels)

    def features(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pyramid's map at stride 4 and the backbone's finest map.

        ``image`` is float [N, 3, H, W] RGB 0..255, H and W multiples of 32.
        """
        if self.input_gamma != 1:
            image = (image / 255).pow(self.input_gamma) * 255
        maps = self.backbone(image)
        return self.pyramid(maps[-4:]), maps[0]
