"""A checkpoint's network with the inputs and outputs of head kind ``queries``."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from panoptic_ros.importing.labels import ClassMap

OUTPUTS = ('class_logits', 'mask_logits')
_IMPOSSIBLE = -30000.0  # a logit of probability 0 that float16 holds


@dataclass(frozen=True)
class Normalisation:
    """``(pixel * scale - mean) / std``, channel by channel."""

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Normalised(nn.Module):
    """Picture to what a network takes: uint8 [1, H, W, 3] to normalised float [1, 3, H, W].

    Parameters
    ----------
    normalisation
        As the checkpoint's image processor does it.
    """

    def __init__(self, normalisation: Normalisation) -> None:
        super().__init__()
        # In grey levels, so that the pixels need no scaling of their own.
        for name in ('mean', 'std'):
            value = torch.tensor(getattr(normalisation, name)) / normalisation.scale
            self.register_buffer(name, value.view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> Any:
        """Return the normalised pixels."""
        # TensorRT takes uint8 only where it is cast first.
        pixels = image.to(self.mean.dtype).permute(0, 3, 1, 2)
        return (pixels - self.mean) / self.std


class Deployed(Normalised):
    """Picture in, class and mask logits out: uint8 [1, H, W, 3] to [1, Q, C + 1] and [1, Q, h, w].

    Parameters
    ----------
    network
        Gives the outputs of normalised pixels, float [1, 3, H, W].
    normalisation
        As the checkpoint's image processor does it.
    """

    def __init__(self, network: nn.Module, normalisation: Normalisation) -> None:
        super().__init__(normalisation)
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return class logits in the order of the label set, "no object" last, and mask logits."""
        outputs: tuple[Tensor, ...] = self.network(super().forward(image))
        return outputs


class QueryRows(nn.Module):
    """Bring the class logits of queries to the order of a label set.

    Parameters
    ----------
    queries
        Gives class and mask logits; with sigmoid scores the class logits are [1, Q, classes], else
        [1, Q, classes + 1] with "no object" last.
    class_map
        Which columns become which classes.
    has_sigmoid_scores
        Whether each class has a probability independent of the others.
    """

    def __init__(self, queries: nn.Module, class_map: ClassMap, has_sigmoid_scores: bool) -> None:
        super().__init__()
        self.queries = queries
        self.has_sigmoid_scores = has_sigmoid_scores
        columns = torch.tensor(class_map.columns)
        self.register_buffer('columns', columns.clamp(min=0))
        self.register_buffer('known', columns >= 0)
        self.unused = list(class_map.unused)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits, [1, Q, C + 1], and mask logits, [1, Q, h, w]."""
        class_logits, mask_logits = self.queries(*inputs)
        chosen = class_logits.index_select(-1, self.columns)
        chosen = torch.where(self.known, chosen, torch.full_like(chosen, _IMPOSSIBLE))
        if self.has_sigmoid_scores:
            return sigmoid_as_softmax(chosen), mask_logits
        nothing = class_logits[..., -1:]
        if self.unused:
            # Probabilities add up where logits go through logsumexp.
            unused = class_logits[..., [*self.unused, class_logits.shape[-1] - 1]]
            nothing = unused.logsumexp(-1, keepdim=True)
        return torch.cat([chosen, nothing], -1), mask_logits


def sigmoid_as_softmax(class_logits: Tensor) -> Tensor:
    """Return logits whose softmax gives the best class its sigmoid, "no object" the rest.

    ``class_logits`` is [..., C]; the result [..., C + 1]. With 0 for "no object" and one class
    left, the softmax of two is the sigmoid of one.
    """
    best = class_logits.amax(-1, keepdim=True)
    # The first of equals, as argmax has it.
    index = class_logits.argmax(-1, keepdim=True)
    is_best = torch.arange(class_logits.shape[-1], device=class_logits.device) == index
    kept = torch.where(is_best, best, torch.full_like(class_logits, _IMPOSSIBLE))
    return torch.cat([kept, torch.zeros_like(best)], -1)


class SemanticRows(nn.Module):
    """Turn class maps into queries: one a class, whose mask logits are the class's map.

    Parameters
    ----------
    class_maps
        Gives [1, C, h, w] of normalised pixels: the more, the likelier is the class.
    class_map
        Which map becomes which class.
    """

    def __init__(self, class_maps: nn.Module, class_map: ClassMap) -> None:
        super().__init__()
        self.class_maps = class_maps
        columns = torch.tensor(class_map.columns)
        count = len(columns)
        self.register_buffer('columns', columns.clamp(min=0))
        self.register_buffer('known', (columns >= 0).view(1, count, 1, 1))
        class_logits = torch.zeros(1, count, count + 1)
        class_logits[0, range(count), range(count)] = 30.0
        self.register_buffer('class_logits', class_logits)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits that say each row's class, and the maps in the label set's order."""
        maps = self.class_maps(pixels).index_select(1, self.columns)
        maps = torch.where(self.known, maps, torch.full_like(maps, _IMPOSSIBLE))
        # Engines drop outputs that do not depend on the input.
        nought = maps[:, :1, 0, :1] * 0
        return self.class_logits + nought, maps


class ClassMaps(nn.Module):
    """Class maps of queries: the sum of their masks, weighted with their class probabilities.

    Parameters
    ----------
    queries
        Gives class logits with "no object" last and mask logits.
    grid_hw
        Masks are enlarged to this size before the sigmoid; None leaves them as they are.
    """

    def __init__(self, queries: nn.Module, grid_hw: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.queries = queries
        self.grid_hw = grid_hw

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the maps, [1, C, h, w]."""
        class_logits, mask_logits = self.queries(pixels)
        if self.grid_hw is not None:
            mask_logits = nn.functional.interpolate(
                mask_logits, size=self.grid_hw, mode='bilinear', align_corners=False
            )
        probability = class_logits.softmax(-1)[..., :-1]
        return torch.einsum('bqc,bqhw->bchw', probability, mask_logits.sigmoid())
