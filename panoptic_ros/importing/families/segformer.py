"""SegFormer (Xie et al., arXiv 2105.15203): classes without instances."""

from torch import Tensor, nn

from panoptic_ros.importing.checkpoint import Checkpoint
from panoptic_ros.importing.families.family import SEMANTIC, Family, processor_size_wh


class SegformerMaps(nn.Module):
    """Class logits on a quarter of the input's grid."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        """Return [1, C, h, w]."""
        return self.network(pixel_values=pixels).logits


def _adapt(network: nn.Module, checkpoint: Checkpoint, task: str) -> nn.Module:
    return SegformerMaps(network)


FAMILY = Family(
    name='SegFormer',
    model_type='segformer',
    network_class='SegformerForSemanticSegmentation',
    tasks=(SEMANTIC,),
    rule={'rule': 'semantic'},
    adapt=_adapt,
    default_size_wh=processor_size_wh,
)
