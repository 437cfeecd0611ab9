"""RF-DETR with its segmentation head (Roboflow): things without stuff."""

from torch import Tensor, nn

from panoptic_ros.importing.checkpoint import Checkpoint
from panoptic_ros.importing.families.family import INSTANCE, Family, processor_size_wh


class RfDetrQueries(nn.Module):
    """Class and mask logits of the last decoder layer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`~panoptic_ros.importing.families.family.Family`."""
        outputs = self.network(pixel_values=pixels)
        return outputs.logits, outputs.pred_masks


def _adapt(network: nn.Module, checkpoint: Checkpoint, task: str) -> nn.Module:
    return RfDetrQueries(network)


def _divisor(checkpoint: Checkpoint) -> int:
    backbone = checkpoint.config.get('backbone_config') or {}
    # The backbone attends within windows of patches.
    return int(backbone.get('patch_size', 14)) * int(backbone.get('num_windows', 4))


FAMILY = Family(
    name='RF-DETR',
    model_type='rf_detr',
    network_class='RfDetrForInstanceSegmentation',
    tasks=(INSTANCE,),
    rule={'rule': 'rf_detr', 'score_threshold': 0.5, 'mask_threshold': 0.5},
    adapt=_adapt,
    default_size_wh=lambda checkpoint: processor_size_wh(checkpoint, _divisor(checkpoint)),
    divisor=_divisor,
    has_sigmoid_scores=True,
    antialias=False,
)
