"""Backbones of timm (https://github.com/huggingface/pytorch-image-models)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from panoptic_ros.errors import PanopticRosError
from panoptic_ros.training.network.backbone import Backbone

_STRIDES = (2, 4, 8, 16, 32)
_NEEDED = (4, 8, 16, 32)


class TimmBackbone(Backbone):
    """A timm model without its classifier, as a backbone.

    Convolutional and hierarchical models have maps at several strides. A plain vision transformer
    has one map at stride 16, from which :class:`SimplePyramid` computes four.

    Parameters
    ----------
    name
        The timm name, for example ``resnet50`` or ``swin_tiny_patch4_window7_224``.
    size_wh
        Width and height of the images in pixels. Transformers depend on it; see
        :meth:`set_input_size`.
    weights
        ``imagenet`` downloads the default weights of timm for this model, ``none`` leaves them
        random, anything else is the path of a file with weights.

    Raises PanopticRosError if timm or the weights are missing or do not fit, or the model has
    maps at other strides.
    """

    def __init__(self, name: str, size_wh: tuple[int, int], weights: str = 'imagenet') -> None:
        model = _create(name, size_wh, weights)
        config = model.pretrained_cfg
        super().__init__(
            mean=tuple(255.0 * value for value in config['mean']),
            std=tuple(255.0 * value for value in config['std']),
        )
        tap_of_stride = {
            info['reduction']: index
            for index, info in enumerate(model.feature_info)
            if info['reduction'] in _STRIDES
        }
        channels = [info['num_chs'] for info in model.feature_info]
        self.pyramid: SimplePyramid | None = None
        if set(_NEEDED) <= set(tap_of_stride):
            self.strides = tuple(s for s in _STRIDES if s in tap_of_stride)
            self._taps = [tap_of_stride[stride] for stride in self.strides]
            self.channels = tuple(channels[tap] for tap in self._taps)
        elif set(tap_of_stride) == {16}:
            self.strides = _NEEDED
            self._taps = [tap_of_stride[16]]
            self.pyramid = SimplePyramid(channels[self._taps[0]])
            self.channels = self.pyramid.channels
        else:
            strides = sorted({info['reduction'] for info in model.feature_info})
            raise PanopticRosError(
                f'backbone timm:{name} has maps at strides {strides}; expected {list(_NEEDED)}, '
                'or 16 alone'
            )
        model.prune_intermediate_layers(self._taps, prune_norm=True, prune_head=True)
        self.model = model
        self.input_size_wh = size_wh

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """See :class:`Backbone`."""
        maps = self.model.forward_intermediates(
            self.normalise(image), indices=self._taps, output_fmt='NCHW', intermediates_only=True
        )
        return tuple(maps) if self.pyramid is None else self.pyramid(maps[0])

    def stages_from_the_image(self) -> list[list[nn.Module]]:
        """See :class:`Backbone`; the stages are timm's coarse groups."""
        from timm.models import group_modules

        groups = group_modules(self.model, self.model.group_matcher(coarse=True))
        modules = dict(self.model.named_modules())
        # The first group also has the names of parents; only modules with weights are frozen.
        return [
            [modules[name] for name in groups[key] if name and not list(modules[name].children())]
            for key in sorted(groups)
        ]

    def set_input_size(self, size_wh: tuple[int, int]) -> None:
        """Fit position embeddings and window masks of a transformer to another image size."""
        if size_wh != self.input_size_wh and hasattr(self.model, 'set_input_size'):
            self.model.set_input_size(img_size=size_wh[::-1])
        super().set_input_size(size_wh)


class SimplePyramid(nn.Module):
    """Maps at strides 4, 8, 16 and 32 from one at 16 (ViTDet, arXiv 2203.16527)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.channels = (quarter, half, channels, channels)
        self.to_8 = nn.ConvTranspose2d(channels, half, 2, 2)
        self.to_4 = nn.Sequential(
            nn.ConvTranspose2d(channels, half, 2, 2),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2),
        )
        self.to_32 = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the four maps of [N, channels, H / 16, W / 16], the finest first."""
        return self.to_4(x), self.to_8(x), x, self.to_32(x)


def _create(name: str, size_wh: tuple[int, int], weights: str) -> Any:
    timm = _import_timm()
    if name not in timm.list_models():
        close = ', '.join(timm.list_models(f'{name[:6]}*')[:4])
        raise PanopticRosError(
            f'timm {timm.__version__} has no model {name!r}'
            + (f'; it has {close}' if close else '')
        )
    options: dict[str, Any] = {'num_classes': 0, 'pretrained': weights != 'none'}
    if weights not in ('imagenet', 'none'):
        if not Path(weights).is_file():
            raise PanopticRosError(f'the backbone weights {weights} do not exist; expected a file')
        options['pretrained_cfg_overlay'] = {'file': weights}
    with torch.device('meta'):
        depends_on_size = hasattr(timm.create_model(name), 'set_input_size')
    if depends_on_size:
        options['img_size'] = size_wh[::-1]
        if name.startswith('swin'):
            # Keeps the window size, and so the position biases, where a map is smaller.
            options['always_partition'] = True
    try:
        return timm.create_model(name, **options)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PanopticRosError(
            f'the weights {weights!r} of timm:{name} cannot be loaded: {first_line}; expected a '
            "network connection for 'imagenet', or the path of a file with weights of this model"
        ) from error


def _import_timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise PanopticRosError(
            f'a backbone of timm needs {error.name}, which is not installed: '
            "pip install 'panoptic_ros[backbones]'"
        ) from error
    except RuntimeError as error:
        if 'torchvision' not in str(error):
            raise
        raise PanopticRosError(
            f'the installed torchvision does not fit torch {torch.__version__} ({error}); install '
            'torch and torchvision from one index, both for the CPU or both for one CUDA version'
        ) from error
    return timm
