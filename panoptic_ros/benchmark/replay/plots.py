"""Plots of trials; needs matplotlib (extra ``bench``)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from panoptic_ros.benchmark.replay.trial import SUMS, Trial

_DPI = 110
_COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#999999', '#000000')
_PANEL_HEIGHT = 1.9  # inches
_WIDTH = 9.0


def write_plots(folder: Path, trials: Sequence[Trial], title: str) -> list[Path]:
    """Write ``latency.png``, ``histogram.png`` and ``stages.png``; returns their paths.

    Parameters
    ----------
    trials
        At least one with an answered frame.
    title
        Title of each plot.
    """
    shown = [trial for trial in trials if trial.answered]
    plots = {
        'latency.png': latency_over_time(shown),
        'histogram.png': latency_histogram(shown),
        'stages.png': stage_breakdown(shown),
    }
    for name, figure in plots.items():
        figure.suptitle(title, x=0.01, ha='left', fontsize=9)
        figure.savefig(folder / name, dpi=_DPI)
    return [folder / name for name in plots]


def latency_over_time(trials: Sequence[Trial]) -> Figure:
    """Plot the latency of each frame over its time of publication, one panel per trial."""
    figure, panels = _panels(trials)
    highest_ms = max(
        np.nanmax(trial.latency_ms(at), initial=0.0)
        for trial in trials
        for at in range(len(trial.topics))
    )
    longest_s = max(np.ptp(trial.published_ns) for trial in trials) / 1e9
    for axes, trial in zip(panels, trials, strict=True):
        seconds = (trial.published_ns - trial.published_ns[0]) / 1e9
        for at, topic in enumerate(trial.topics):
            axes.plot(
                seconds,
                trial.latency_ms(at),
                '.-',
                color=_color(at),
                linewidth=0.6,
                markersize=2.5,
                label=topic,
            )
        lost = seconds[~trial.is_answered]
        if len(lost):
            axes.plot(lost, np.zeros(len(lost)), '|', color='red', label='dropped', clip_on=False)
        axes.set_ylim(0, 1.05 * highest_ms)
        axes.set_xlim(0, 1.01 * longest_s)
        axes.set_ylabel('latency, ms')
        _entitle(axes, trial)
    panels[-1].set_xlabel('time of publication, s')
    _legend(figure, panels)
    return figure


def latency_histogram(trials: Sequence[Trial]) -> Figure:
    """Plot the histogram of the first output's latency, one panel per trial."""
    figure, panels = _panels(trials)
    known = [trial.latency_ms()[trial.is_answered] for trial in trials]
    # The last bin collects the slowest frames, which would compress the rest.
    end_ms = max(np.percentile(values, 99) for values in known) * 1.1
    edges = np.linspace(0, end_ms, 61)
    for axes, trial, values in zip(panels, trials, known, strict=True):
        axes.hist(np.minimum(values, edges[-1]), edges.tolist(), color=_COLORS[0])
        for percentile, style in ((50, '-'), (95, '--'), (99, ':')):
            at = min(np.percentile(values, percentile), edges[-1])
            label = f'p{percentile}'
            axes.axvline(at, color=_COLORS[1], linestyle=style, linewidth=1.2, label=label)
        axes.set_xlim(0, edges[-1])
        axes.set_ylabel('frames')
        _entitle(axes, trial)
    panels[-1].set_xlabel(f'latency of {trials[0].topics[0]}, ms (the last bin has all above)')
    _legend(figure, panels)
    return figure


def stage_breakdown(trials: Sequence[Trial]) -> Figure:
    """Plot the medians of the node's stages as a stacked bar per trial."""
    figure = Figure(figsize=(_WIDTH, 1.6 + 0.45 * len(trials)), layout='constrained')
    axes = figure.add_subplot()
    names = [trial.name for trial in trials]
    stages = [name for name in trials[0].stages if name not in SUMS]
    left = np.zeros(len(trials))
    for number, stage in enumerate(stages):
        median_ms = np.array([_median(trial.stage(stage)) for trial in trials])
        axes.barh(names, median_ms, left=left, color=_color(number), label=stage, height=0.65)
        left += median_ms
    latency_ms = [_median(trial.latency_ms()) for trial in trials]
    axes.plot(latency_ms, names, 'k|', markersize=16, label=f'latency of {trials[0].topics[0]}')
    axes.set_xlim(0, 1.08 * max(*left, *latency_ms))
    axes.invert_yaxis()
    axes.set_xlabel('median, ms')
    _plain(axes)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        [*handles[1:], handles[0]],  # in the order of the bars, the line last
        [*labels[1:], labels[0]],
        loc='outside lower center',
        ncols=min(len(labels), 8),
        frameon=False,
        fontsize=8,
    )
    return figure


def _panels(trials: Sequence[Trial]) -> tuple[Figure, list[Axes]]:
    count = len(trials)
    figure = Figure(figsize=(_WIDTH, 1.1 + _PANEL_HEIGHT * count), layout='constrained')
    grid = figure.subplots(count, 1, squeeze=False)
    return figure, list(grid[:, 0])


def _entitle(axes: Axes, trial: Trial) -> None:
    dropped = 100 * trial.dropped_fraction
    axes.set_title(
        f'{trial.name}: {trial.published} frames, {dropped:.1f} % dropped', fontsize=9, loc='left'
    )
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    entries: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.legend(
        list(entries.values()),
        list(entries),
        loc='outside lower center',
        ncols=6,
        frameon=False,
        fontsize=8,
    )


def _color(number: int) -> str:
    return _COLORS[number % len(_COLORS)]


def _median(values_ms: np.ndarray) -> float:
    known = values_ms[~np.isnan(values_ms)]
    return float(np.median(known)) if len(known) else 0.0
