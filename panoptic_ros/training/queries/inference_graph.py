"""The graph of head kind ``queries`` that is exported: the network with its preprocessing."""

import torch
from torch import Tensor, nn

from panoptic_ros.training.network.query_network import QueryNetwork


class QueryGraph(nn.Module):
    """A network with its preprocessing.

    ``forward`` takes uint8 [N, H, W, 3] RGB and returns the tensors named in ``outputs``; see
    :class:`~panoptic_ros.fusion.QueryHeads`. With ``half`` the whole graph computes in float16.
    """

    head = 'queries'
    outputs = ('class_logits', 'mask_logits')

    def __init__(self, network: QueryNetwork, *, half: bool = False) -> None:
        super().__init__()
        self.dtype = torch.float16 if half else torch.float32
        self.network = network.to(self.dtype).requires_grad_(False)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        queries = self.network(image.to(self.dtype).permute(0, 3, 1, 2))[-1]
        return queries.class_logits, queries.mask_logits
