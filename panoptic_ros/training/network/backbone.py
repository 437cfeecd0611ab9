"""The interface of a backbone."""

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """Feature maps of an image at strides 4, 8, 16 and 32, and at 2 if the backbone has one.

    ``forward`` takes float [N, 3, H, W], RGB 0..255, H and W multiples of 32, and returns maps
    [N, channels[i], H / strides[i], W / strides[i]]. It applies the ``mean`` and ``std`` (0..255)
    that its pretrained weights expect.
    """

    strides: tuple[int, ...] = (2, 4, 8, 16, 32)
    channels: tuple[int, ...]
    mean: Tensor
    std: Tensor
    input_size_wh: tuple[int, int] = (64, 64)
    """Size of the images to expect. It matters to transformers only."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        shape = (1, 3, 1, 1)
        self.register_buffer('mean', torch.tensor(mean).reshape(shape), persistent=False)
        self.register_buffer('std', torch.tensor(std).reshape(shape), persistent=False)
        self._frozen: list[nn.Module] = []

    def normalise(self, image: Tensor) -> Tensor:
        """Return the image as the weights expect it."""
        return (image - self.mean) / self.std

    def stages_from_the_image(self) -> list[list[nn.Module]]:
        """Return the modules of the stem, then those of each stage, in order of computation."""
        raise NotImplementedError

    def freeze(self, stages: int) -> None:
        """Freeze the stem and the first ``stages`` stages, with their batch statistics.

        0 freezes nothing, not even the stem.
        """
        held = self.stages_from_the_image()[: stages + 1] if stages else []
        self._frozen = [module for modules in held for module in modules]
        for module in self._frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> 'Backbone':
        """Set the training mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def set_input_size(self, size_wh: tuple[int, int]) -> None:
        """Prepare for images of another size; transformers resample their positions."""
        self.input_size_wh = size_wh
