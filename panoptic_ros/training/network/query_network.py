"""The network of head kind ``queries``: a fixed number of queries, each with a class and a mask.

Mask classification (MaskFormer, arXiv 2107.06278) with masked attention (Mask2Former, arXiv
2112.01527). A query is one segment, thing or stuff, or "no object".
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_ros.training.network.backbone import Backbone
from panoptic_ros.training.network.layers import separable_conv
from panoptic_ros.training.network.panoptic_network import PanopticNetwork

_TOKEN_CELLS = 4  # cells of the mask per side of a token: tokens have stride 16
_HEADS = 4  # of the attention
# Added to the attention scores of tokens outside a query's mask: e^-30 is nothing. It is finite,
# so that a query with an empty mask attends to all tokens, and float16 still resolves the scores.
_OUTSIDE = -30.0


class Queries(NamedTuple):
    """Queries for a batch."""

    class_logits: Tensor
    """float [N, Q, classes + 1], "no object" last."""
    mask_logits: Tensor
    """float [N, Q, H / 4, W / 4]."""


class QueryNetwork(PanopticNetwork):
    """Image in, :class:`Queries` out.

    Parameters
    ----------
    backbone, pyramid_channels, input_gamma
        See :class:`PanopticNetwork`.
    classes
        Number of classes, stuff and things.
    queries, query_channels, query_layers
        See :class:`QueryHead`.
    """

    head = 'queries'

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        *,
        pyramid_channels: int = 96,
        queries: int = 100,
        query_channels: int = 128,
        query_layers: int = 3,
        input_gamma: float = 1.0,
    ) -> None:
        super().__init__(backbone, pyramid_channels=pyramid_channels, input_gamma=input_gamma)
        self.query_head = QueryHead(
            pyramid_channels, query_channels, classes, queries=queries, layers=query_layers
        )

    def forward(self, image: Tensor) -> tuple[Queries, ...]:
        """Return the queries before the first decoder layer and after each, the result last.

        ``image`` is float [N, 3, H, W] RGB 0..255, H and W multiples of 32.
        """
        return self.query_head(self.features(image)[0])


class QueryHead(nn.Module):
    """Queries that attend to the features, and the mask of each by its product with every cell.

    Parameters
    ----------
    c_in, channels
        Channels of the features, and width of the decoder, a multiple of 4.
    classes
        Number of classes without "no object".
    queries, layers
        Number of queries, and of decoder layers.
    """

    def __init__(
        self, c_in: int, channels: int, classes: int, *, queries: int = 100, layers: int = 3
    ) -> None:
        super().__init__()
        self.cells = nn.Sequential(
            separable_conv(c_in, channels, 5), nn.Conv2d(channels, channels, 1)
        )
        self.tokens = nn.Conv2d(c_in, channels, 1)
        self.query = nn.Parameter(torch.randn(1, queries, channels))
        self.query_position = nn.Parameter(torch.randn(1, queries, channels))
        self.layers = nn.ModuleList(DecoderLayer(channels) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.classes = nn.Linear(channels, classes + 1)
        self.mask = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels)
        )

    def forward(self, features: Tensor) -> tuple[Queries, ...]:
        """Return the queries before the first layer and after each, of float [N, c_in, h, w]."""
        cells = self.cells(features)
        tokens = self.tokens(F.avg_pool2d(features, _TOKEN_CELLS))
        position = position_encoding(tokens.shape[2], tokens.shape[3], tokens.shape[1]).to(tokens)
        tokens = tokens.flatten(2).transpose(1, 2)
        x = self.query.expand(len(tokens), -1, -1)
        found = [self._queries(x, cells)]
        for layer in self.layers:
            in_token = F.avg_pool2d(found[-1].mask_logits.detach(), _TOKEN_CELLS).flatten(2)
            # The sign is -1 or 1. A comparison would do, but the exporter widens its operands to
            # float32.
            bias = (1 - torch.sign(in_token)) * (_OUTSIDE / 2)
            x = layer(x, self.query_position, tokens, position, bias)
            found.append(self._queries(x, cells))
        return tuple(found)

    def _queries(self, x: Tensor, cells: Tensor) -> Queries:
        x = self.norm(x)
        mask = self.mask(x)
        mask_logits = (mask @ cells.flatten(2)).unflatten(2, cells.shape[2:])
        return Queries(self.classes(x), mask_logits)


class DecoderLayer(nn.Module):
    """Attention to the tokens, attention among the queries, and a perceptron, each residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_tokens = Attention(channels)
        self.to_queries = Attention(channels)
        self.perceptron = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.ReLU(), nn.Linear(4 * channels, channels)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(3))

    def forward(
        self, x: Tensor, query_position: Tensor, tokens: Tensor, position: Tensor, bias: Tensor
    ) -> Tensor:
        """Return the queries [N, Q, D].

        ``x`` is [N, Q, D], ``query_position`` [1, Q, D], ``tokens`` [N, T, D], ``position``
        [T, D], and ``bias`` [N, Q, T] is added to the scores of the tokens.
        """
        attended = self.to_tokens(x + query_position, tokens + position, tokens, bias)
        x = self.norms[0](x + attended)
        placed = x + query_position
        x = self.norms[1](x + self.to_queries(placed, placed, x))
        return self.norms[2](x + self.perceptron(x))


class Attention(nn.Module):
    """Multi-head attention (arXiv 1706.03762)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Return [N, Q, D] of query [N, Q, D], key and value [N, T, D]; bias is [N, Q, T]."""
        query, key, value = (
            layer(x).unflatten(2, (_HEADS, -1)).transpose(1, 2)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        score = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
        if bias is not None:
            score = score + bias[:, None]
        return self.out((score.softmax(-1) @ value).transpose(1, 2).flatten(2))


def position_encoding(height: int, width: int, channels: int) -> Tensor:
    """Return sines and cosines of row and column, float32 [height * width, channels].

    A quarter of the channels each; coordinates run from 0 to 2 pi over the image, so that they
    mean the same at every input size (DETR, arXiv 2005.12872).
    """
    quarter = channels // 4
    frequency = 1e4 ** (-torch.arange(quarter) / quarter) * 2 * math.pi
    parts = []
    for count, shape in ((height, (height, 1, quarter)), (width, (1, width, quarter))):
        angle = ((torch.arange(count) + 0.5) / count)[:, None] * frequency
        angle = angle.reshape(shape).expand(height, width, quarter)
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, 2).flatten(0, 1)
