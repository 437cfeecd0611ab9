"""MaskFormer (Cheng et al., arXiv 2107.06278)."""

from torch import nn

from panoptic_ros.importing.checkpoint import Checkpoint
from panoptic_ros.importing.families.family import (
    DETR_RULE,
    PANOPTIC,
    SEMANTIC,
    Family,
    processor_size_wh,
)
from panoptic_ros.importing.families.mask2former import Queries
from panoptic_ros.importing.network import ClassMaps


def _adapt(network: nn.Module, checkpoint: Checkpoint, task: str) -> nn.Module:
    queries = Queries(network)
    return ClassMaps(queries) if task == SEMANTIC else queries


FAMILY = Family(
    name='MaskFormer',
    model_type='maskformer',
    network_class='MaskFormerForInstanceSegmentation',
    tasks=(PANOPTIC, SEMANTIC),
    rule=DETR_RULE,
    adapt=_adapt,
    default_size_wh=processor_size_wh,
)
