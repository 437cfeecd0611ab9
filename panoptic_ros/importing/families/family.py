"""What has to be known of a model family to import its checkpoints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import nn

from panoptic_ros.errors import ModelError
from panoptic_ros.importing.checkpoint import Checkpoint
from panoptic_ros.importing.network import Normalisation
from panoptic_ros.model.resize import LETTERBOX, STRETCH, Resize

PANOPTIC, SEMANTIC, INSTANCE = 'panoptic', 'semantic', 'instance'
_BILINEAR = 2  # Pillow's number, which transformers uses

Size = tuple[int, int]

DETR_RULE: Mapping[str, float | str] = MappingProxyType(
    {'rule': 'detr', 'score_threshold': 0.5, 'mask_threshold': 0.5, 'min_kept_fraction': 0.8}
)
EOMT_RULE: Mapping[str, float | str] = MappingProxyType(
    {'rule': 'eomt', 'score_threshold': 0.8, 'mask_threshold': 0.5, 'min_kept_fraction': 0.8}
)


@dataclass(frozen=True)
class Family:
    """One architecture, as transformers implements it.

    Parameters
    ----------
    name
        As its authors call it.
    model_type
        As ``config.json`` calls it.
    network_class
        Class of transformers.
    tasks
        What its checkpoints can be trained for, the usual one first.
    rule
        The published fusion rule and transformers' thresholds, for the card.
    adapt
        Make a module that maps normalised pixels to class and mask logits, or to class maps where
        the task is semantic; gets the loaded network, the checkpoint and the task.
    default_size_wh
        Input size where the user names none.
    divisor
        Width and height must be multiples of this; gets the checkpoint.
    fixed_size
        Whether the network takes the default size only.
    has_sigmoid_scores
        As in :class:`~panoptic_ros.importing.network.Deployed`.
    antialias
        Whether its image processor filters when it reduces a picture.
    masks_at_input_size
        Whether mask logits are enlarged to the size of the input, which is square, before they are
        enlarged to the picture's.
    environment
        Environment variables that its code needs when it is traced.
    """

    name: str
    model_type: str
    network_class: str
    tasks: tuple[str, ...]
    rule: Mapping[str, float | str]
    adapt: Callable[[nn.Module, Checkpoint, str], nn.Module]
    default_size_wh: Callable[[Checkpoint], Size]
    divisor: Callable[[Checkpoint], int] = lambda checkpoint: 32
    fixed_size: bool = False
    has_sigmoid_scores: bool = False
    antialias: bool = True
    masks_at_input_size: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    def size_wh(self, checkpoint: Checkpoint, wanted: Size | None) -> Size:
        """Return the input size; raises ModelError if the network cannot take the wanted one."""
        usual, divisor = self.default_size_wh(checkpoint), self.divisor(checkpoint)
        size = usual if wanted is None else wanted
        if self.fixed_size and size != usual:
            raise ModelError(
                f'{self.name} checkpoint {checkpoint.source} takes {usual[0]}x{usual[1]} only, '
                f'not {size[0]}x{size[1]}: its position embeddings are for that size; leave '
                '--size out'
            )
        if any(side <= 0 or side % divisor for side in size):
            raise ModelError(
                f'{self.name} cannot take {size[0]}x{size[1]}; expected width and height in '
                f'multiples of {divisor} with --size, for example '
                f'{_round_up(size[0], divisor)}x{_round_up(size[1], divisor)}'
            )
        return size

    def fusion(self, task: str, size_wh: Size) -> dict[str, float | str]:
        """Return the rule and thresholds for the card."""
        if task == SEMANTIC:
            return {'rule': 'semantic'}
        if self.masks_at_input_size:
            return {**self.rule, 'logit_grid': size_wh[0]}
        return dict(self.rule)

    def resize(self, checkpoint: Checkpoint) -> Resize:
        """Return how pictures are brought to the input size."""
        pads = self.fixed_size and bool(checkpoint.processor.get('do_pad'))
        return Resize(LETTERBOX if pads else STRETCH, self.antialias)


def normalisation(checkpoint: Checkpoint) -> Normalisation:
    """Return what the image processor does to pixel values; raises ModelError if unknown."""
    processor = checkpoint.processor
    scale = processor.get('rescale_factor', 1 / 255) if processor.get('do_rescale', True) else 1.0
    if not processor.get('do_normalize', True):
        return Normalisation(scale, (0.0,) * 3, (1.0,) * 3)
    mean, std = processor.get('image_mean'), processor.get('image_std')
    for name, value in (('image_mean', mean), ('image_std', std)):
        if not isinstance(value, list) or len(value) != 3:
            raise ModelError(
                f'the image processor of {checkpoint.source} has {name} {value!r}; expected three '
                'numbers: correct preprocessor_config.json'
            )
    return Normalisation(scale, tuple(mean), tuple(std))


def processor_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return what the image processor does that the node does otherwise."""
    resample = checkpoint.processor.get('resample', _BILINEAR)
    if resample == _BILINEAR:
        return ()
    return (f'the image processor resamples with filter {resample}, the node bilinearly (2)',)


def processor_size_wh(checkpoint: Checkpoint, divisor: int = 32) -> Size:
    """Return the input size that the image processor names.

    A processor that names the shortest edge only keeps the picture's aspect ratio; then the size
    is that of a 4:3 picture.
    """
    size = checkpoint.processor.get('size')
    if isinstance(size, int):
        size = {'height': size, 'width': size}
    if isinstance(size, Mapping) and size.get('height') and size.get('width'):
        return int(size['width']), int(size['height'])
    if isinstance(size, Mapping) and size.get('shortest_edge'):
        short = int(size['shortest_edge'])
        long = min(short * 4 / 3, size.get('longest_edge') or short * 4 / 3)
        return _round_up(long, divisor), _round_up(min(short, long), divisor)
    raise ModelError(
        f'the image processor of {checkpoint.source} has size {size!r}; expected height and '
        'width, or shortest_edge: correct preprocessor_config.json, or name the size with --size'
    )


def image_size_wh(checkpoint: Checkpoint) -> Size:
    """Return the input size of a network whose position embeddings fix it."""
    size: Any = checkpoint.config.get('image_size', 640)
    height, width = (size, size) if isinstance(size, int) else size
    return int(width), int(height)


def _round_up(value: float, divisor: int) -> int:
    return max(1, -int(-value // divisor)) * divisor
