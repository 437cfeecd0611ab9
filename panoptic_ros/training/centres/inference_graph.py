"""The graph of head kind ``centres`` that is exported: network, preprocessing, dense fusion."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_ros.training.network.centre_network import CentreNetwork
from panoptic_ros.training.network.heads import find_peaks


class CentreGraph(nn.Module):
    """A network with its preprocessing and the dense part of fusion, which is faster in the graph.

    ``forward`` takes uint8 [N, H, W, 3] RGB and returns the tensors named in ``outputs``, the
    fields of :class:`~panoptic_ros.fusion.CentreHeads`:
    class ids at ``semantic_stride`` (uint8, the argmax of the upsampled logits: an argmax before
    the upsampling loses a fifth of the PQ), confidence at stride 4 (uint8), the ``peaks`` best
    centres (score, flat int32 index) and the offsets at stride 4. With ``half`` the whole graph
    computes in float16, for TensorRT. No output is int64, which
    TensorRT refuses, or int16, which costs it a conversion.
    """

    head = 'centres'
    outputs = ('semantic', 'confidence', 'centre_score', 'centre_index', 'offset_xy')

    def __init__(
        self,
        network: CentreNetwork,
        *,
        peaks: int = 128,
        semantic_stride: int = 2,
        half: bool = False,
    ) -> None:
        super().__init__()
        self.dtype = torch.float16 if half else torch.float32
        self.network = network.to(self.dtype).requires_grad_(False)
        self.eval()
        self.peaks = peaks
        self.semantic_stride = semantic_stride

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        heads = self.network(image.to(self.dtype).permute(0, 3, 1, 2))
        grid = (image.shape[1] // self.semantic_stride, image.shape[2] // self.semantic_stride)
        logits = heads.semantic
        if logits.shape[2:] != grid:
            logits = F.interpolate(logits, size=grid, mode='bilinear', align_corners=False)
        semantic = logits.argmax(1)
        # The highest softmax probability, 1 / sum(exp(logit - highest)): the exponents are at
        # most 0, so float16 does not overflow. Written with max and mean because the exporter
        # widens amax and sum to float32, which costs TensorRT two copies of all logits.
        logits = F.avg_pool2d(heads.semantic, 2)
        highest = logits.max(1, keepdim=True).values
        spread = (logits - highest).exp().mean(1)
        confidence = 1 / (spread * logits.shape[1])
        score, index = find_peaks(heads.centre, self.peaks)
        # TensorRT converts only floating point to uint8.
        return (
            semantic.to(self.dtype).to(torch.uint8),
            (confidence * 255).to(torch.uint8),
            score.clamp(0, 1),
            index.to(torch.int32),
            heads.offset_xy,
        )
