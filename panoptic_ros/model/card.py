"""The model card, ``card.yaml``, as data classes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from panoptic_ros.errors import ModelError
from panoptic_ros.model.resize import LETTERBOX, Resize

FILE_NAMES = {
    'float32': 'model.onnx',
    'float16': 'model.float16.onnx',
    'int8': 'model.int8.onnx',
}
"""Name of the ONNX file by precision."""

HEADS = ('centres', 'masks', 'queries')
"""Kinds of network output that this package can fuse.

``centres``: semantic map, object centres and offsets (Panoptic-DeepLab), the fields of
:class:`fusion.CentreHeads`. ``masks``: semantic map and instance masks (Panoptic FPN),
:class:`fusion.MaskHeads`. ``queries``: class and mask logits (DETR, Mask2Former),
:class:`fusion.QueryHeads`.
"""


@dataclass(frozen=True)
class TensorSpec:
    """Data type and shape of one input or output of a network.

    Parameters
    ----------
    dtype
        Name of the numpy dtype.
    shape
        With the batch axis. A string names a size that is not fixed; equal names are equal sizes.
    """

    dtype: str
    shape: tuple[int | str, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of a tensor without free sizes. Raises ValueError if there are any."""
        return tuple(int(size) for size in self.shape)

    def with_batch(self, batch: int) -> 'TensorSpec':
        """Return the same for another number of images at once."""
        return TensorSpec(self.dtype, (batch, *self.shape[1:]))

    def __str__(self) -> str:
        return f'{self.dtype} [{", ".join(map(str, self.shape))}]'


@dataclass(frozen=True)
class FileEntry:
    """One file of a model: path relative to the folder, SHA-256 in hex, size in bytes."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class TrainingData:
    """A data set the weights were trained on, and its terms of use."""

    name: str
    terms: str


@dataclass(frozen=True)
class Metric:
    """A measured value: its name, the data it was measured on, and how to reproduce it."""

    name: str
    value: float
    data: str
    how: str


@dataclass(frozen=True)
class ModelCard:
    """The fields of ``card.yaml``.

    Parameters
    ----------
    name
        Name of the model, usually that of its folder.
    head
        Kind of the outputs, one of :data:`HEADS`.
    label_set
        Name of a label set in ``config/labels``, or a ``.yaml`` file in the model folder.
    classes
        Class names in the order of the ids the network gives; the label set must agree.
    size_wh
        Width and height of the network input, pixels, multiples of 4.
    files
        ONNX files by precision: one or more of ``float32``, ``float16`` and ``int8``.
    golden
        The ``.npz`` file with an image and its reference outputs.
    scale
        Network pixels per pixel of a picture. Pictures are resized by it and, if they are larger
        than ``size_wh``, cut into windows. None: the whole picture is stretched to ``size_wh``.
    fusion
        Keyword arguments of the head kind's fusion, for example ``centre_threshold``.
    fused
        Precisions whose ONNX file ends in the fusion (:mod:`fusion.graph`): its outputs are the
        fields of :class:`fusion.CentreMaps` or :class:`fusion.QueryMaps`.
    resize
        How pictures are resized to ``size_wh``.
    provenance
        Where the weights come from: commit, command, date, initial weights, images seen.
    licence
        Licence of the weights.
    data
        The training data, with its terms of use.
    metrics
        Measured values.
    """

    name: str
    head: str
    label_set: str
    classes: tuple[str, ...]
    size_wh: tuple[int, int]
    files: Mapping[str, FileEntry]
    golden: FileEntry
    scale: float | None = None
    fusion: Mapping[str, float | str] = field(default_factory=dict)
    fused: tuple[str, ...] = ()
    resize: Resize = field(default_factory=Resize)
    provenance: Mapping[str, str] = field(default_factory=dict)
    licence: str = 'unknown'
    data: tuple[TrainingData, ...] = ()
    metrics: tuple[Metric, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r'[^\x00-\x1f/\\]{1,100}', self.name):
            raise ModelError(
                f'a model is called {self.name[:120]!r}; expected a name of 1 to 100 characters, '
                'no slash among them: files are named after it'
            )
        if self.head not in HEADS:
            raise ModelError(
                f'model {self.name!r} has head kind {self.head!r}; this version knows '
                f'{", ".join(HEADS)}: update panoptic_ros or take another model'
            )
        if any(side <= 0 or side % 4 for side in self.size_wh):
            raise ModelError(
                f'model {self.name!r} has size_wh {list(self.size_wh)}; expected width and '
                'height in pixels, multiples of 4 above 0'
            )
        if self.scale is not None and not (self.head == 'centres' and 0 < self.scale <= 64):
            raise ModelError(
                f'model {self.name!r} has scale {self.scale} and head kind {self.head!r}; '
                'expected a scale above 0, at most 64, for head kind centres'
            )
        if self.resize.mode == LETTERBOX and self.head != 'queries':
            raise ModelError(
                f'model {self.name!r} has resize mode {LETTERBOX} and head kind {self.head!r}; '
                'expected head kind queries, or mode stretch'
            )
        if not set(self.fused) <= set(self.files) or (
            self.fused and (self.head == 'masks' or self.scale is not None)
        ):
            raise ModelError(
                f'model {self.name!r} has fused files for {", ".join(self.fused)}; expected '
                'precisions it has files for, head kind centres or queries, and no scale'
            )
        unknown = sorted(set(self.files) - set(FILE_NAMES))
        if unknown or not self.files:
            raise ModelError(
                f'model {self.name!r} has files for {unknown or "no precision"}; expected '
                f'one or more of {", ".join(FILE_NAMES)}'
            )

    def inputs(self) -> dict[str, TensorSpec]:
        """Return the input of the network: one RGB picture, rows from top to bottom."""
        width, height = self.size_wh
        return {'image': TensorSpec('uint8', (1, height, width, 3))}

    def outputs(self, precision: str) -> dict[str, TensorSpec]:
        """Return the outputs of the network: the fields of the class of its head kind.

        An int8 network has float32 outputs. The sizes of the class map and of the masks are not
        fixed by the card.
        """
        dtype = 'float32' if precision == 'int8' else precision
        width, height = self.size_wh
        if self.head == 'queries':
            if precision in self.fused:
                return {
                    'owner': TensorSpec('uint8', (1, height, width)),
                    'confidence': TensorSpec('uint8', (1, 'rows', 'columns')),
                    'class_id': TensorSpec('int32', (1, 'Q')),
                    'score': TensorSpec('float32', (1, 'Q')),
                    'owned_area': TensorSpec('int32', (1, 'Q')),
                    'mask_area': TensorSpec('int32', (1, 'Q')),
                }
            return {
                'class_logits': TensorSpec(dtype, (1, 'Q', len(self.classes) + 1)),
                'mask_logits': TensorSpec(dtype, (1, 'Q', 'rows', 'columns')),
            }
        semantic = {'semantic': TensorSpec('uint8', (1, 'rows', 'columns'))}
        if self.head == 'masks':
            return semantic | {
                'confidence': TensorSpec('uint8', (1, 'confidence rows', 'confidence columns')),
                'mask': TensorSpec('uint8', (1, 'N', 'rows', 'columns')),
                'class_id': TensorSpec('int32', (1, 'N')),
                'score': TensorSpec(dtype, (1, 'N')),
            }
        grid = (height // 4, width // 4)
        common = semantic | {
            'confidence': TensorSpec('uint8', (1, *grid)),
            'centre_score': TensorSpec(dtype, (1, 'K')),
        }
        if precision in self.fused:
            return common | {'owner': TensorSpec('uint8', (1, 'rows', 'columns'))}
        return common | {
            'centre_index': TensorSpec('int32', (1, 'K')),
            'offset_xy': TensorSpec(dtype, (1, 2, *grid)),
        }
