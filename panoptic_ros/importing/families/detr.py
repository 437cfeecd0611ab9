"""DETR with its panoptic head (Carion et al., arXiv 2005.12872)."""

import torch
from torch import Tensor, nn

from panoptic_ros.importing.checkpoint import Checkpoint
from panoptic_ros.importing.families.family import DETR_RULE, PANOPTIC, Family, processor_size_wh


class DetrQueries(nn.Module):
    """Class and mask logits; serves Conditional DETR too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`~panoptic_ros.importing.families.family.Family`."""
        # All pixels show the picture: there is no padding.
        pixel_mask = torch.ones(pixels.shape[0], *pixels.shape[2:], dtype=torch.int64)
        outputs = self.network(pixel_values=pixels, pixel_mask=pixel_mask)
        return outputs.logits, outputs.pred_masks


def adapt_detr(network: nn.Module, checkpoint: Checkpoint, task: str) -> nn.Module:
    """See :class:`~panoptic_ros.importing.families.family.Family`."""
    return DetrQueries(network)


FAMILY = Family(
    name='DETR',
    model_type='detr',
    network_class='DetrForSegmentation',
    tasks=(PANOPTIC,),
    rule=DETR_RULE,
    adapt=adapt_detr,
    default_size_wh=processor_size_wh,
)
