"""One run of a replay benchmark: which trials are made, and the search for the peak rate."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from panoptic_ros.benchmark.client import Client
from panoptic_ros.benchmark.processes import NodeLostError
from panoptic_ros.benchmark.replay.node import NodeUnderTest, find_outputs, find_targets
from panoptic_ros.benchmark.replay.options import AS_FAST, RECORDED, TRIAL_SECONDS, Options
from panoptic_ros.benchmark.replay.player import (
    ReplayFrame,
    Schedule,
    as_recorded,
    at_rate,
    replay_frames,
)
from panoptic_ros.benchmark.replay.quality import Quality, measure_quality
from panoptic_ros.benchmark.replay.recording import Recording
from panoptic_ros.benchmark.replay.trial import MAX_DROPPED, Trial, find_peak
from panoptic_ros.benchmark.replay.trials import TrialRunner
from panoptic_ros.errors import BagError
from panoptic_ros.evaluation.report import finite_or_none

TRIES = 2
"""A rate is too high if it fails so often: other load on the machine only makes it worse."""

HOPELESS = 0.3
"""One trial is enough if it drops more than this share."""

TRIAL_FRAMES = 20
LONGEST_TRIAL_S = 30.0
"""Slow rates are tried until so many frames are published, but not longer than this."""

GUESS_HZ = 10.0  # first rate of the search, if the node answers less than twice in a trial

FASTEST = 'as fast as it keeps up'


class Session:
    """The trials of one run.

    Attributes
    ----------
    trials
        Trials to be reported, in order.
    tried
        All trials of the search for the peak.
    peak_hz
        Highest rate with less than 5 % dropped; None if it was not searched or not found.
    quality
        Against the ground truth.
    targets
        Where the recorded topics are published.
    failure
        Why the node stopped answering; empty if it did not.
    """

    def __init__(
        self, options: Options, recording: Recording, client: Client, node: NodeUnderTest
    ) -> None:
        self.trials: list[Trial] = []
        self.tried: list[Trial] = []
        self.peak_hz: float | None = None
        self.quality = Quality(reason='not measured')
        self.targets = find_targets(recording, node, options)
        self.failure = ''
        self._options = options
        self._recording = recording
        self._client = client
        self._node = node
        self._read = recording.reader(self.targets)
        outputs = find_outputs(node, options.outputs)
        restamp = options.stamps == 'now'
        self._runner = TrialRunner(client, node, self.targets, outputs, restamp)

    @property
    def is_interrupted(self) -> bool:
        """Whether a signal ended the run early."""
        return self._runner.is_interrupted

    @property
    def notes(self) -> list[str]:
        """Remarks about the figures."""
        notes = [*self._runner.notes, *filter(None, [self.failure])]
        if self._client.frames.duplicates:
            notes.append(
                f'{self._client.frames.duplicates} frames had the stamp of an earlier one; they '
                'were published, but are not in the figures (--stamps now gives each its own)'
            )
        return notes

    def measure(self) -> None:
        """Make all trials, then measure the quality.

        Raises NodeLostError if the node never answers. If it stops answering later, the results
        so far are kept and :attr:`failure` says why.
        """
        first = next(iter(replay_frames(self._read, loop=False)))
        self._runner.warm_up(first, self._options.timeout)
        try:
            if self._options.rate is None:
                self._find_peak_and_report()
            else:
                self._measure_one(self._options.rate)
            if not self.is_interrupted:
                self.quality = measure_quality(
                    self._runner,
                    self._client,
                    self._recording,
                    tuple(self.targets),
                    str(self._node.parameters.get('model', '')),
                    self._options.quality_frames,
                )
        except NodeLostError as error:
            if not self.trials:
                raise
            self.failure = str(error)

    def _find_peak_and_report(self) -> None:
        source = replay_frames(self._read, loop=True)
        seconds = self._options.seconds or TRIAL_SECONDS
        fastest = self._try(self.trials, FASTEST, None, source, None, seconds)

        def try_rate(to: list[Trial], rate_hz: float) -> Trial:
            long_s = max(seconds, min(TRIAL_FRAMES / rate_hz, LONGEST_TRIAL_S))
            return self._try(to, f'{rate_hz:.4g} Hz', rate_hz, source, at_rate(rate_hz), long_s)

        def holds(rate_hz: float) -> bool:
            for _ in range(TRIES):
                if self.is_interrupted:
                    return False
                trial = try_rate(self.tried, rate_hz)
                if trial.dropped_fraction < MAX_DROPPED and trial.reached_rate:
                    return True
                if trial.dropped_fraction > HOPELESS:
                    return False
            return False

        guess_hz = 0.9 * fastest.frame_rate_hz
        peak_hz = find_peak(holds, finite_or_none(guess_hz) or GUESS_HZ)
        if self.is_interrupted:
            return
        if peak_hz is not None:
            self.peak_hz = peak_hz
            best = [trial for trial in self.tried if trial.asked_hz == peak_hz][-1]
            self.trials.append(replace(best, name=f'peak, {peak_hz:.3g} Hz'))
        for rate_hz in self._options.rates:
            if self.is_interrupted:
                return
            try_rate(self.trials, rate_hz)

    def _measure_one(self, rate: float | str) -> None:
        source: Iterator[ReplayFrame] = replay_frames(self._read, loop=self._options.loop)
        asked_hz: float | None
        schedule: Schedule | None
        if rate == AS_FAST:
            name, asked_hz, schedule = FASTEST, None, None
        elif rate == RECORDED:
            name, asked_hz, schedule = 'as recorded', None, as_recorded()
        elif isinstance(rate, str):
            raise BagError(f'rate {rate!r} is not known; expected {RECORDED}, {AS_FAST} or Hz')
        else:
            name, asked_hz, schedule = f'{rate:.4g} Hz', rate, at_rate(rate)
        self._try(self.trials, name, asked_hz, source, schedule, self._options.seconds)

    def _try(self, to: list[Trial], *how: Any) -> Trial:
        trial = self._runner.measure(*how)
        to.append(trial)
        self._runner.check(trial)
        return trial
