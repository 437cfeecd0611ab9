"""Percentiles of durations, their tables, and the facts about a machine that belong to them."""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from panoptic_ros import __version__
from panoptic_ros.ros.diagnostics import PERCENTILES

P_COLUMNS = tuple(f'p{p}' for p in PERCENTILES)
_FIGURES = ('mean', 'min', *P_COLUMNS, 'max', 'jitter')

Distribution = dict[str, float | int | None]
"""Figures by name: count, mean, min, p50, p95, p99, max, jitter; None where there is no value."""


def distribution(values: Sequence[float] | np.ndarray) -> Distribution:
    """Return the figures of a series in the order of the frames; NaN values do not count.

    ``jitter`` is the mean difference between consecutive values (RFC 3550, 6.4.1, without
    smoothing).
    """
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    figures: Distribution = {'count': len(known)}
    if not len(known):
        return figures | dict.fromkeys(_FIGURES)
    percentiles = np.percentile(known, PERCENTILES).tolist()
    return figures | {
        'mean': float(known.mean()),
        'min': float(known.min()),
        **dict(zip(P_COLUMNS, percentiles, strict=True)),
        'max': float(known.max()),
        'jitter': float(np.abs(np.diff(known)).mean()) if len(known) > 1 else None,
    }


def percentile_table(
    title: str, rows: Mapping[str, Mapping[str, Any]], columns: Sequence[str] = P_COLUMNS
) -> str:
    """Return a table with one line for each row and the named figures as columns."""
    width = max(map(len, (title, *rows))) + 2
    lines = [f'{title:<{width}}' + ''.join(f'{column:>9}' for column in columns)]
    for name, figures in rows.items():
        cells = ''.join(
            f'{figures[column]:>9}' if column == 'count' else number(figures[column], 9, 2)
            for column in columns
        )
        lines.append(f'{name:<{width}}{cells}')
    return '\n'.join(lines)


def number(value: float | None, width: int, digits: int = 1) -> str:
    """Return a number as a right-aligned cell; ``-`` where there is none."""
    if value is None or not math.isfinite(value):
        return f'{"-":>{width}}'
    return f'{value:>{width}.{digits}f}'


def mean_rate_hz(times_ns: Sequence[int] | np.ndarray) -> float:
    """Return the mean rate of events at ascending times; NaN for less than two."""
    if len(times_ns) < 2 or times_ns[-1] <= times_ns[0]:
        return math.nan
    return float((len(times_ns) - 1) * 1e9 / (times_ns[-1] - times_ns[0]))


def machine() -> dict[str, Any]:
    """Return the version of this package, the platform and its number of processors."""
    return {
        'version': __version__,
        'platform': platform.platform(),
        'processors': os.cpu_count(),
    }
