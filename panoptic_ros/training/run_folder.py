"""The folder of a training run: checkpoint, label set, log and curve."""

import csv
from pathlib import Path
from typing import Any

import torch
import yaml

from panoptic_ros.errors import PanopticRosError
from panoptic_ros.labels import LabelSet
from panoptic_ros.training.config import TrainingConfig

CHECKPOINT = 'checkpoint.pt'
LABELS = 'labels.yaml'
LOSSES, VALIDATION, CURVE = 'losses.csv', 'validation.csv', 'curve.png'


def open_run(folder: str | Path) -> tuple[TrainingConfig, dict[str, Any]]:
    """Return the configuration of a training run and everything in its checkpoint.

    The state has ``average``, the averaged weights of the end of the run, and with early stopping
    ``best_average``; see :func:`final_weights`.

    Raises PanopticRosError if the folder has no checkpoint.
    """
    checkpoint = Path(folder) / CHECKPOINT
    if not checkpoint.is_file():
        raise PanopticRosError(f'{folder} has no {CHECKPOINT}; expected a training run')
    state = torch.load(checkpoint, weights_only=True)
    return TrainingConfig.of(state['config']), state


def final_weights(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the weights to use of a checkpoint: the best validated ones, otherwise the last."""
    return state.get('best_average') or state['average']


def run_labels(folder: str | Path, config: TrainingConfig) -> LabelSet:
    """Return the label set of a training run."""
    return LabelSet.load(config.label_set or Path(folder) / LABELS)


def write_labels(folder: Path, label_set: LabelSet) -> None:
    """Write a label set as the file that :meth:`LabelSet.load` reads."""
    classes = [
        {
            'name': c.name,
            'category_id': c.category_id,
            'thing': c.is_thing,
            'color': list(c.color_rgb),
            **({'roles': sorted(c.roles)} if c.roles else {}),
            **({'height_m': c.height_m} if c.height_m else {}),
        }
        for c in label_set.classes
    ]
    text = yaml.safe_dump(
        {'name': label_set.name, 'classes': classes},
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
    )
    (folder / LABELS).write_text(text, encoding='utf-8')


def append_row(path: Path, row: dict[str, float]) -> None:
    """Append a row to a CSV file; the first one writes the header."""
    is_new = not path.exists()
    with path.open('a', newline='', encoding='utf-8') as stream:
        writer = csv.DictWriter(stream, row.keys())
        if is_new:
            writer.writeheader()
        writer.writerow(row)


def plot_curve(folder: str | Path) -> None:
    """Draw the losses and the PQ over the images seen into ``curve.png``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder = Path(folder)
    figure = Figure(figsize=(9, 4), layout='constrained')
    FigureCanvasAgg(figure)
    loss_axes, quality_axes = figure.subplots(1, 2)
    for axes, file, title in (
        (loss_axes, LOSSES, 'losses (before weighting)'),
        (quality_axes, VALIDATION, 'validation (%)'),
    ):
        axes.set(title=title, xlabel='images seen')
        axes.grid(alpha=0.3)
        if (folder / file).is_file():
            rows = _read_csv(folder / file)
            for key in rows[0]:
                if key not in ('images', 'seconds', 'validation_images', 'learning_rate'):
                    axes.plot([r['images'] for r in rows], [r[key] for r in rows], label=key)
            axes.legend()
    figure.savefig(folder / CURVE, dpi=110)


def _read_csv(path: Path) -> list[dict[str, float]]:
    with path.open(encoding='utf-8') as stream:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]
