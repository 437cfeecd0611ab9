"""VidEoMT, EoMT for video, one frame at a time: each frame starts from the learned queries."""

from torch import Tensor, nn

from panoptic_ros.importing.checkpoint import Checkpoint
from panoptic_ros.importing.families.family import (
    EOMT_RULE,
    INSTANCE,
    PANOPTIC,
    SEMANTIC,
    Family,
    image_size_wh,
)
from panoptic_ros.importing.network import ClassMaps


class FrameQueries(nn.Module):
    """Class and mask logits of a video of one frame."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`~panoptic_ros.importing.families.family.Family`."""
        outputs = self.network(pixel_values_videos=pixels[:, None])
        return outputs.class_queries_logits, outputs.masks_queries_logits


def _adapt(network: nn.Module, checkpoint: Checkpoint, task: str) -> nn.Module:
    queries = FrameQueries(network)
    return ClassMaps(queries) if task == SEMANTIC else queries


FAMILY = Family(
    name='VidEoMT',
    model_type='videomt',
    network_class='VideomtForUniversalSegmentation',
    tasks=(PANOPTIC, INSTANCE, SEMANTIC),
    rule=EOMT_RULE,
    adapt=_adapt,
    default_size_wh=image_size_wh,
    divisor=lambda checkpoint: int(checkpoint.config.get('patch_size', 16)),
    fixed_size=True,
)
