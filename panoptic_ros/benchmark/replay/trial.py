"""Figures of a node that was given images at some rate: latency, drops, stages, use of the CPU.

Names and definitions: *latency* is from just before an image is published to the receipt of an
output made from it; a frame is *dropped* if its first output never comes; *jitter* is the mean
difference between the latencies of consecutive answered frames (the measure of RFC 3550, 6.4.1,
without its smoothing); the *peak* is the highest rate at which less than 5 % are dropped.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from panoptic_ros.benchmark.figures import (
    P_COLUMNS,
    distribution,
    finite,
    mean_rate_hz,
    number,
    percentile_table,
)

MISSING = 0
"""Stands in ``received_ns`` where nothing came."""

MAX_DROPPED = 0.05
"""The peak is the highest rate at which less than this share is dropped."""

SUMS = ('total', 'age')
"""Entries of the node's times that include other stages."""

_COLUMNS = ('count', *P_COLUMNS, 'max')


@dataclass(frozen=True, eq=False)
class Trial:
    """Images that were published in one way, and what came of them.

    Parameters
    ----------
    name
        How they were published, for people.
    asked_hz
        The rate that was asked for; None where there was none.
    published_ns
        int64 [frames], when each image was published.
    topics
        The outputs that were listened to; the first one tells whether a frame was answered.
    received_ns
        int64 [frames, topics], when they were received, of the same clock; 0 where nothing came.
    stages
        Names of the node's own times.
    stage_ms
        float64 [frames, stages], NaN where they are not known.
    usage
        float64 [samples, 3], what the node's process used: seconds of a clock, seconds it has
        computed so far on all cores together, megabytes it held (NaN where not known).

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
        """How many images were published."""
        return len(self.published_ns)

    @property
    def is_answered(self) -> np.ndarray:
        """Bool [frames], whether the first output came."""
        return self.received_ns[:, 0] != MISSING

    @property
    def answered(self) -> int:
        """How many frames were answered."""
        return int(self.is_answered.sum())

    @property
    def dropped_fraction(self) -> float:
        """Share of the frames that were not answered; NaN if none was published."""
        return 1 - self.answered / self.published if self.published else math.nan

    @property
    def publish_rate_hz(self) -> float:
        """How fast the images really were published; NaN for less than two."""
        return mean_rate_hz(self.published_ns)

    @property
    def frame_rate_hz(self) -> float:
        """How fast the answers came; NaN for less than two."""
        return mean_rate_hz(np.sort(self.received_ns[self.is_answered, 0]))

    @property
    def reached_rate(self) -> bool:
        """Whether the images were published nearly as fast as was asked for."""
        return self.asked_hz is None or not self.publish_rate_hz < 0.97 * self.asked_hz

    def latency_ms(self, topic: int = 0) -> np.ndarray:
        """Return float64 [frames], the latency of one output, NaN where nothing came."""
        received_ns = self.received_ns[:, topic]
        latency_ms = (received_ns - self.published_ns) / 1e6
        return np.where(received_ns == MISSING, np.nan, latency_ms)

    def stage(self, name: str) -> np.ndarray:
        """Return float64 [frames], milliseconds of one of the node's stages."""
        return self.stage_ms[:, self.stages.index(name)]

    @property
    def cpu_percent(self) -> float:
        """Use of the CPU, 100 for one core; NaN where it was not told twice."""
        if len(self.usage) < 2 or self.usage[-1, 0] <= self.usage[0, 0]:
            return math.nan
        seconds, cpu_s, _ = self.usage[-1] - self.usage[0]
        return float(100 * cpu_s / seconds)

    def as_json(self) -> dict[str, Any]:
        """Return all figures as plain values, null where there are none."""
        memory_mb = self.usage[:, 2]
        return {
            'name': self.name,
            'asked_rate_hz': self.asked_hz,
            'publish_rate_hz': finite(self.publish_rate_hz),
            'frame_rate_hz': finite(self.frame_rate_hz),
            'frames_published': self.published,
            'frames_answered': self.answered,
            'frames_dropped': self.published - self.answered,
            'dropped_percent': finite(100 * self.dropped_fraction),
            'latency_ms': {
                topic: distribution(self.latency_ms(at)) for at, topic in enumerate(self.topics)
            },
            'stages_ms': {name: distribution(self.stage(name)) for name in self.stages},
            'cpu_percent': finite(self.cpu_percent),
            'resident_mb': {
                'start': finite(memory_mb[0]) if len(memory_mb) else None,
                'end': finite(memory_mb[-1]) if len(memory_mb) else None,
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
    """Find the highest rate that holds: steps from a guess until one does not, then halving.

    Parameters
    ----------
    holds
        Tries a rate.
    guess_hz
        Where to begin.
    step
        Factor between one rate and the next, above 1, until the peak is between two.
    precision
        Of the result, relative.
    max_trials
        How often ``holds`` is called at most.

    Returns
    -------
    The highest rate that was seen to hold, Hz; None if none was.
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
