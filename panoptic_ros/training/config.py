"""The configuration of a training run."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from panoptic_ros.datasets.opening import DEFAULT_SPLITS
from panoptic_ros.training.augmentation import Augmentation
from panoptic_ros.training.head_kinds import HEAD_KINDS
from panoptic_ros.training.loss_weights import LossWeights
from panoptic_ros.training.network.backbone import Backbone
from panoptic_ros.training.network.centre_network import CentreNetwork
from panoptic_ros.training.network.efficientnet_lite import EfficientNetLite
from panoptic_ros.training.network.panoptic_network import PanopticNetwork
from panoptic_ros.training.network.query_network import QueryNetwork
from panoptic_ros.training.network.timm_backbone import TimmBackbone
from panoptic_ros.untrusted import read_yaml

HEAD_FIELDS = ('head', 'queries', 'query_channels', 'query_layers')
"""The fields of :class:`TrainingConfig` that determine the kind of heads, and the queries."""

NETWORK_FIELDS = (
    'backbone',
    'block_channels',
    'backbone_blocks',
    'pyramid_channels',
    'semantic_channels',
    'centre_channels',
    'detail_channels',
    'input_gamma',
    *HEAD_FIELDS,
)
"""The fields of :class:`TrainingConfig` that determine the network, apart from its classes."""

_TIMM = 'timm:'


@dataclass(frozen=True)
class TrainingConfig:
    """The configuration of a training run: everything but the images.

    Parameters
    ----------
    name
        Name of the run.
    dataset, label_set
        Kind of data set, and name or path of the label set. An empty label set stands for the
        classes of the data set.
    data_name, data_terms
        Name and terms of the data set for the model card; empty: as known for this kind.
    backbone
        ``efficientnet-lite0`` .. ``efficientnet-lite4``, or ``timm:`` and the name of a timm
        model.
    backbone_weights
        ``imagenet``, ``none`` or, for timm, the path of a file.
    block_channels
        Widths of the backbone's blocks after ``panoptic prune``; empty: as published. A pruned
        backbone has no ImageNet weights to start from.
    backbone_blocks
        Number of the backbone's blocks, from the image on; 0: as published.
    frozen_stages
        Number of backbone stages, from the image on, whose pretrained weights are held.
    trained_part
        The only part of the network that is trained, for example ``semantic_head.detail``;
        everything else keeps its weights and batch statistics. Empty: all of it.
    pyramid_channels, input_gamma
        See :class:`~panoptic_ros.training.network.panoptic_network.PanopticNetwork`.
    head
        Kind of the heads: ``centres`` or ``queries``.
    semantic_channels, centre_channels, detail_channels
        Of head kind ``centres``; see
        :class:`~panoptic_ros.training.network.centre_network.CentreNetwork`.
    queries, query_channels, query_layers
        Of head kind ``queries``; see
        :class:`~panoptic_ros.training.network.query_network.QueryHead`.
    images, batch
        Images seen in the whole run, and images per step.
    minutes
        Training time after which the run ends, even if fewer images were seen. The learning rate
        follows whichever of the two is nearer its end. 0: no limit.
    learning_rate, backbone_learning_rate, weight_decay
        AdamW (arXiv 1711.05101).
    warmup_images
        The learning rate rises linearly over these, then falls as (1 - progress) ** 0.9.
    ema_decay
        Decay per step of the moving average of the weights. The average is validated and
        exported.
    bfloat16
        Compute in bfloat16 where that is safe; weights stay float32.
    compile
        Compile the network on a GPU, which takes minutes at the start. CPUs never compile it.
    made_share, made_images
        Share 0..1 of synthetic streets mixed in, and how many different ones are rendered.
    repeat_rare, repeat_crowded, paste_share
        See :class:`~panoptic_ros.training.examples.TrainingExamples`.
    image_scale
        Network pixels per image pixel outside training; the exported model sees images at this
        scale, in windows. 0: it stretches every image to its input size.
    peaks
        Most object centres that the network reports for an image.
    validate_every, validate_on
        Images between validations (0: never), and validation images.
    patience
        The run ends after this many validations without a higher PQ, and the weights with the
        highest PQ are kept. 0: the run goes to its end and the last weights are kept.
    seed
        Seed of everything random.
    losses, augmentation
        See the classes.
    """

    name: str
    dataset: str = 'cityscapes'
    label_set: str = 'cityscapes'
    data_name: str = ''
    data_terms: str = ''
    backbone: str = 'efficientnet-lite0'
    backbone_weights: str = 'imagenet'
    block_channels: tuple[int, ...] = ()
    backbone_blocks: int = 0
    frozen_stages: int = 2
    trained_part: str = ''
    pyramid_channels: int = 96
    semantic_channels: int = 96
    centre_channels: int = 64
    detail_channels: int = 0
    head: str = 'centres'
    queries: int = 100
    query_channels: int = 128
    query_layers: int = 3
    input_gamma: float = 1.0
    images: int = 48000
    batch: int = 8
    minutes: float = 0.0
    learning_rate: float = 1.5e-3
    backbone_learning_rate: float = 7.5e-4
    weight_decay: float = 0.02
    warmup_images: int = 1600
    ema_decay: float = 0.998
    bfloat16: bool = True
    compile: bool = False
    made_share: float = 0.0
    made_images: int = 0
    repeat_rare: float = 0.0
    repeat_crowded: bool = False
    paste_share: float = 0.0
    image_scale: float = 0.0
    peaks: int = 128
    validate_every: int = 6000
    validate_on: int = 100
    patience: int = 0
    seed: int = 0
    losses: LossWeights = field(default_factory=LossWeights)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for name in (
            'images',
            'batch',
            'learning_rate',
            'backbone_learning_rate',
            'peaks',
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name} is {getattr(self, name)}; expected above 0')
        if self.dataset not in DEFAULT_SPLITS:
            raise ValueError(
                f'dataset is {self.dataset!r}; expected one of {", ".join(DEFAULT_SPLITS)}'
            )
        if self.head not in HEAD_KINDS:
            raise ValueError(f'head is {self.head!r}; expected one of {", ".join(HEAD_KINDS)}')
        if self.head == 'queries':
            self._check_queries()
        for name in ('image_scale', 'minutes', 'patience'):
            if getattr(self, name) < 0:
                raise ValueError(f'{name} is {getattr(self, name)}; expected 0 or more')
        for name in ('made_share', 'ema_decay'):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f'{name} is {getattr(self, name)}; expected 0..1, not 1')
        for name in ('repeat_rare', 'paste_share'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'{name} is {getattr(self, name)}; expected 0..1')
        if not re.fullmatch(r'efficientnet-lite[0-4]|timm:\w[\w.]*', self.backbone):
            raise ValueError(
                f'backbone is {self.backbone!r}; expected efficientnet-lite0 .. '
                'efficientnet-lite4, or timm: and the name of a timm model'
            )
        is_timm = self.backbone.startswith(_TIMM)
        if is_timm and (self.block_channels or self.backbone_blocks):
            raise ValueError(
                f'backbone {self.backbone!r} takes no block_channels and no backbone_blocks; '
                'expected both empty'
            )
        if not is_timm and self.backbone_weights not in ('imagenet', 'none'):
            raise ValueError(
                f'backbone_weights is {self.backbone_weights!r}; expected imagenet or none for '
                f'{self.backbone}'
            )

    def _check_queries(self) -> None:
        if not 1 <= self.queries <= 255:
            raise ValueError(f'queries is {self.queries}; expected 1..255')
        if self.query_channels < 4 or self.query_channels % 4:
            raise ValueError(
                f'query_channels is {self.query_channels}; expected a multiple of 4 above 0'
            )
        if self.query_layers < 0:
            raise ValueError(f'query_layers is {self.query_layers}; expected 0 or more')
        if self.image_scale:
            raise ValueError(
                f'image_scale is {self.image_scale} and head is queries; expected 0, because '
                'windows are merged for head kind centres only'
            )

    @classmethod
    def load(cls, path: str | Path, **changes: Any) -> 'TrainingConfig':
        """Read a YAML file, then apply ``changes``; raises ValueError naming a wrong key."""
        data = read_yaml(Path(path))
        if not isinstance(data, dict):
            raise ValueError(f'{path} is not a mapping of training options')
        data |= {key: value for key, value in changes.items() if value is not None}
        return cls.of(data, str(path))

    @classmethod
    def of(cls, data: dict[str, Any], source: str = 'the checkpoint') -> 'TrainingConfig':
        """Build from plain values; raises ValueError naming a key that ``source`` has wrong."""
        return cls(**_checked(cls, data, source))

    def build_network(self, classes: int, *, pretrained: bool = True) -> PanopticNetwork:
        """Return the network for a number of classes, its backbone pretrained and partly frozen.

        Raises ValueError for a ``trained_part`` that the network lacks.
        """
        backbone = self._build_backbone(pretrained=pretrained)
        backbone.freeze(self.frozen_stages)
        network: PanopticNetwork
        if self.head == 'queries':
            network = QueryNetwork(
                backbone,
                classes,
                pyramid_channels=self.pyramid_channels,
                queries=self.queries,
                query_channels=self.query_channels,
                query_layers=self.query_layers,
                input_gamma=self.input_gamma,
            )
        else:
            network = CentreNetwork(
                backbone,
                classes,
                pyramid_channels=self.pyramid_channels,
                semantic_channels=self.semantic_channels,
                centre_channels=self.centre_channels,
                detail_channels=self.detail_channels,
                input_gamma=self.input_gamma,
            )
        if self.trained_part:
            part = dict(network.named_modules()).get(self.trained_part)
            if part is None:
                raise ValueError(
                    f'trained_part is {self.trained_part!r}; expected a part that the network '
                    'has, like semantic_head.detail'
                )
            network.requires_grad_(False)
            part.requires_grad_(True)
        return network

    def _build_backbone(self, *, pretrained: bool) -> Backbone:
        weights = self.backbone_weights if pretrained else 'none'
        if self.backbone.startswith(_TIMM):
            return TimmBackbone(
                self.backbone.removeprefix(_TIMM), self.augmentation.crop_wh, weights
            )
        return EfficientNetLite(
            int(self.backbone[-1]),
            pretrained=weights != 'none' and not self.block_channels,
            block_channels=self.block_channels,
            blocks=self.backbone_blocks,
        )


def _checked(cls: type, data: dict[str, Any], source: str) -> dict[str, Any]:
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise ValueError(f'{source} has unknown keys {unknown}; expected some of {sorted(known)}')
    nested = {'losses': LossWeights, 'augmentation': Augmentation}
    return {
        key: nested[key](**_checked(nested[key], value, source))
        if key in nested and isinstance(value, dict)
        else tuple(value)
        if isinstance(value, list)
        else value
        for key, value in data.items()
    }
