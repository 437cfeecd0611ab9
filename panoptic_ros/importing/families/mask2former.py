"""Mask2Former (Cheng et al., arXiv 2112.01527)."""

from torch import Tensor, nn

from panoptic_ros.importing.checkpoint import Checkpoint
from panoptic_ros.importing.families.family import (
    DETR_RULE,
    INSTANCE,
    PANOPTIC,
    SEMANTIC,
    Family,
    processor_size_wh,
)
from panoptic_ros.importing.network import ClassMaps

_GRID = 384
"""transformers enlarges the masks to a square of this side before the sigmoid, whatever the size
of the input."""


class Queries(nn.Module):
    """Class and mask logits of the last decoder layer; serves MaskFormer too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`~panoptic_ros.importing.families.family.Family`."""
        outputs = self.network(pixel_values=pixels)
        return outputs.class_queries_logits, outputs.masks_queries_logits


def _adapt(network: nn.Module, checkpoint: Checkpoint, task: str) -> nn.Module:
    queries = Queries(network)
    return ClassMaps(queries, (_GRID, _GRID)) if task == SEMANTIC else queries


FAMILY = Family(
    name='Mask2Former',
    model_type='mask2former',
    network_class='Mask2FormerForUniversalSegmentation',
    tasks=(PANOPTIC, INSTANCE, SEMANTIC),
    rule={**DETR_RULE, 'rule': 'mask2former', 'logit_grid': _GRID},
    adapt=_adapt,
    default_size_wh=processor_size_wh,
)
