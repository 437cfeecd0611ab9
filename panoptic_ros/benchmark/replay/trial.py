"""Figures of one trial: rates, latency, drops, stages of the node, use of the CPU.

*Latency* is from just before an image is published to the receipt of an output for it. A frame is
*dropped* if its first output never comes. The *peak* is the highest rate at which less than 5 %
are dropped.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from panoptic_ros.benchmark.figures import (
    P_COLUMNS,
    distribution,
    mean_rate_hz,
    number,
    percentile_table,
)
from panoptic_ros.evaluation.report import finite_or_none

MISSING = 0
"""Value in ``received_ns`` of an output that did not come."""

MAX_DROPPED = 0.05
"""Share of dropped frames below which a rate counts as reached."""

SUMS = ('total', 'age')
"""Entries of the node's times that include other stages."""

_COLUMNS = ('count', *P_COLUMNS, 'max')


@dataclass(frozen=True, eq=False)
class Trial:
    """The measurements of one trial.

    Parameters
    ----------
    name
        Description of the rate.
    asked_hz
        Intended publish rate; None if there is none.
    published_ns
        int64 [frames], times of publication.
    topics
        Outputs; the first one decides whether a frame was answered.
    received_ns
        int64 [frames, topics], times of receipt of the same clock; 0 where an output did not come.
    stages
        Names of the node's stages.
    stage_ms
        float64 [frames, stages], NaN where not known.
    usage
        float64 [samples, 3] of the node's process: time (s), CPU time of all threads (s), resident
        memory (MB, NaN where not known).

    Raises ValueError if the shapes do not fit.
    """

    name: str
    asked_hz: float | None
    published_ns: np.ndarray
    topics: tuple[str, ...]
    received_ns: np.ndarray
    stages: tuple[str, ...]
    stage_ms: np.ndarray
    usage: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.published_ns)
        for name, width in (('received_ns', len(self.topics)), ('stage_ms', len(self.stages))):
            shape = getattr(self, name).shape
            if shape != (count, width):
                raise ValueError(f'{name} is {shape}; expected {(count, width)}')
        if self.usage.shape[1:] != (3,):
            raise ValueError(f'usage is {self.usage.shape}; expected [samples, 3]')

    @property
    def published(self) -> int:
        """Number of images published."""
        return len(self.published_ns)

    @property
    def is_answered(self) -> np.ndarray:
        """Whether the first output came, bool [frames]."""
        return self.received_ns[:, 0] != MISSING

    @property
    def answered(self) -> int:
        """Number of frames answered."""
        return int(self.is_answered.sum())

    @property
    def dropped_fraction(self) -> float:
        """Share of frames not answered; NaN if none was published."""
        return 1 - self.answered / self.published if self.published else math.nan

    @property
    def publish_rate_hz(self) -> float:
        """Actual publish rate; NaN for less than two images."""
        return mean_rate_hz(self.published_ns)

    @property
    def frame_rate_hz(self) -> float:
        """Rate of the answers; NaN for less than two."""
        return mean_rate_hz(np.sort(self.received_ns[self.is_answered, 0]))

    @property
    def reached_rate(self) -> bool:
        """Whether the publish rate reached 97 % of the intended one."""
        return self.asked_hz is None or not self.publish_rate_hz < 0.97 * self.asked_hz

    def latency_ms(self, topic: int = 0) -> np.ndarray:
        """Return the latency of one output, float64 [frames], NaN where it did not come."""
        received_ns = self.received_ns[:, topic]
        latency_ms = (received_ns - self.published_ns) / 1e6
        return np.where(received_ns == MISSING, np.nan, latency_ms)

    def stage(self, name: str) -> np.ndarray:
        """Return the times of one stage, float64 [frames], milliseconds."""
        return self.stage_ms[:, self.stages.index(name)]

    @property
    def cpu_percent(self) -> float:
        """CPU usage, 100 for one core; NaN with less than two samples."""
        if len(self.usage) < 2 or self.usage[-1, 0] <= self.usage[0, 0]:
            return math.nan
        seconds, cpu_s, _ = self.usage[-1] - self.usage[0]
        return float(100 * cpu_s / seconds)

    def as_json(self) -> dict[str, Any]:
        """Return all figures as plain values, None where there are none."""
        memory_mb = self.usage[:, 2]
        return {
            'name': self.name,
            'asked_rate_hz': self.asked_hz,
            'publish_rate_hz': finite_or_none(self.publish_rate_hz),
            'frame_rate_hz': finite_or_none(self.frame_rate_hz),
            'frames_published': self.published,
            'frames_answered': self.answered,
            'frames_dropped': self.published - self.answered,
            'dropped_percent': finite_or_none(100 * self.dropped_fraction),
            'latency_ms': {
                topic: distribution(self.latency_ms(at)) for at, topic in enumerate(self.topics)
            },
            'stages_ms': {name: distribution(self.stage(name)) for name in self.stages},
            'cpu_percent': finite_or_none(self.cpu_percent),
            'resident_mb': {
                'start': finite_or_none(memory_mb[0]) if len(memory_mb) else None,
                'end': finite_or_none(memory_mb[-1]) if len(memory_mb) else None,
            },
        }


def find_peak(
    holds: Callable[[float], bool],
    guess_hz: float,
    *,
    step: float = 1.25,
    precision: float = 0.05,
    max_trials: int = 8,
) -> float | None:
    """Search the highest rate that holds: steps from a guess to a bracket, then bisection.

    Parameters
    ----------
    holds
        Tries a rate.
    guess_hz
        First rate.
    step
        Factor between rates, above 1, until the peak is bracketed.
    precision
        Relative precision of the result.
    max_trials
        Maximum number of calls of ``holds``.

    Returns
    -------
    The highest rate that held, Hz; None if none did.
    """
    low: float | None = None
    high: float | None = None
    rate_hz = guess_hz
    for _ in range(max_trials):
        if holds(rate_hz):
            low = rate_hz
        else:
            high = rate_hz
        if high is None:
            rate_hz *= step
        elif low is None:
            rate_hz /= step
        elif high / low <= 1 + precision:
            break
        else:
            rate_hz = math.sqrt(low * high)
    return low


def rate_table(trials: Sequence[Trial]) -> str:
    """Return one line for each trial: rates, drops, latency of the first output, CPU."""
    width = max((len(t.name) for t in trials), default=0) + 1
    names = (*P_COLUMNS, 'max', 'jitter')
    lines = [
        f'{"":{width}}{"sent":>8}{"answered":>10}{"dropped":>9}'
        + ''.join(f'{name:>8}' for name in names)
        + f'{"CPU":>7}',
        f'{"":{width}}{"Hz":>8}{"Hz":>10}{"%":>9}' + f'{"ms":>8}' * len(names) + f'{"%":>7}',
    ]
    for trial in trials:
        latency = distribution(trial.latency_ms())
        lines.append(
            f'{trial.name:{width}}'
            + number(trial.publish_rate_hz, 8)
            + number(trial.frame_rate_hz, 10)
            + number(100 * trial.dropped_fraction, 9)
            + ''.join(number(latency[name], 8) for name in names)
            + number(trial.cpu_percent, 7, 0)
        )
    return '\n'.join(lines)


def output_table(trial: Trial) -> str:
    """Return one line for each output of a trial: how often it came, and its latency."""
    rows = {t: distribution(trial.latency_ms(at)) for at, t in enumerate(trial.topics)}
    return percentile_table('output, ms', rows, _COLUMNS)


def stage_table(trial: Trial) -> str:
    """Return one line for each stage of the node."""
    rows = {stage: distribution(trial.stage(stage)) for stage in trial.stages}
    return percentile_table('stage, ms', rows, _COLUMNS)
