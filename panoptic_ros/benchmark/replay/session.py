"""One run of ``replay_benchmark``: which trials there are, and what they say about the node."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image
from tqdm import tqdm

from panoptic_ros.benchmark.bags import TRUTH_TOPICS, header_stamp_ns
from panoptic_ros.benchmark.checks import pixels
from panoptic_ros.benchmark.latency import MAX_DROPPED, Trial, find_peak, finite
from panoptic_ros.benchmark.replay.command import AS_FAST, RECORDED, TRIAL_SECONDS
from panoptic_ros.benchmark.replay.ends import (
    NoAnswerError,
    Recording,
    Segment,
    find_outputs,
    find_targets,
)
from panoptic_ros.benchmark.replay.playback import (
    Cue,
    Records,
    SteadyClock,
    as_recorded,
    at_rate,
    cues,
)
from panoptic_ros.benchmark.replay.trials import Trials
from panoptic_ros.errors import DatasetError, LabelSetError, ModelError
from panoptic_ros.evaluation.intersections import Intersections
from panoptic_ros.evaluation.overlap import ClassOverlap
from panoptic_ros.evaluation.quality import PanopticQuality
from panoptic_ros.evaluation.report import as_json, summary_table
from panoptic_ros.evaluation.video import VideoQuality
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.panoptic import Panoptic

TRIES = 2
"""A rate is too high if it was twice: what else the machine does makes things worse only."""

HOPELESS = 0.3
"""Or if it was once, by so much: this share was dropped."""

TRIAL_FRAMES = 20
LONGEST_TRIAL_S = 30.0
"""Slow rates are tried for longer, until so many frames are out, but no longer than this."""

GUESS_HZ = 10.0  # of the peak, for nodes too slow to answer twice in a trial

MAPS = ('semantic', 'instance')
"""The outputs that quality is measured on."""

FASTEST = 'as fast as it keeps up'


@dataclass(frozen=True)
class Quality:
    """How good the maps were: figures for a JSON file, and a table for people.

    Where there are none, the figures are None and ``reason`` says why.
    """

    figures: dict[str, Any] | None = None
    table: str = ''
    reason: str = ''


class Session:
    """The trials of one run.

    Attributes
    ----------
    trials
        To be reported, in order.
    tried
        All trials on the way to the peak.
    peak_hz
        The highest rate with less than 5 % dropped; None if it was not looked for, or not found.
    quality
        Against the truth.
    targets
        Where the topics of the recording are published.
    failure
        Why the node answered no more, once it had; empty if it did.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        recording: Recording,
        node: Node,
        segment: Segment,
        records: Records,
        clock: SteadyClock,
    ) -> None:
        self.trials: list[Trial] = []
        self.tried: list[Trial] = []
        self.peak_hz: float | None = None
        self.quality = Quality(reason='not measured')
        self.targets = find_targets(recording, segment, args)
        self.failure = ''
        self._args = args
        self._recording = recording
        self._segment = segment
        self._records = records
        self._read = recording.reader(self.targets)
        self._replay = Trials(
            node,
            segment,
            self.targets,
            find_outputs(segment, args.outputs),
            self.targets[recording.image.name][0],
            records,
            clock,
            restamp=args.stamps == 'now',
        )

    @property
    def is_interrupted(self) -> bool:
        """Whether it ended early."""
        return self._replay.is_interrupted

    @property
    def notes(self) -> list[str]:
        """Sentences about what the reader of the figures should know."""
        notes = [*self._replay.notes, *filter(None, [self.failure])]
        if self._records.doubled:
            notes.append(
                f'{self._records.doubled} frames had the stamp of an earlier one; they were '
                'published, but are not in the figures (--stamps now gives each its own)'
            )
        return notes

    def measure(self) -> None:
        """Run all trials that were asked for, and then, where there is truth, for quality.

        Raises NoAnswerError if the node never answers; if it does so no more, later, what there
        is is kept, and :attr:`failure` says it.
        """
        first = next(iter(cues(self._read, loop=False)))
        self._replay.warm_up(first, self._args.timeout)
        try:
            if self._args.rate is None:
                self._find_peak_and_report()
            else:
                self._measure_one(self._args.rate)
            if not self.is_interrupted:
                self.quality = self._measure_quality()
        except NoAnswerError as error:
            if not self.trials:
                raise
            self.failure = str(error)

    def _find_peak_and_report(self) -> None:
        source = cues(self._read, loop=True)
        seconds = self._args.seconds or TRIAL_SECONDS
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
        peak_hz = find_peak(holds, finite(guess_hz) or GUESS_HZ)
        if self.is_interrupted:
            return
        if peak_hz is not None:
            self.peak_hz = peak_hz
            best = [trial for trial in self.tried if trial.asked_hz == peak_hz][-1]
            self.trials.append(replace(best, name=f'peak, {peak_hz:.3g} Hz'))
        for rate_hz in self._args.rates:
            if self.is_interrupted:
                return
            try_rate(self.trials, rate_hz)

    def _measure_one(self, rate: float | str) -> None:
        source = cues(self._read, loop=self._args.loop)
        if rate == AS_FAST:
            name, asked_hz, schedule = FASTEST, None, None
        elif rate == RECORDED:
            name, asked_hz, schedule = 'as recorded', None, as_recorded()
        else:
            name, asked_hz, schedule = f'{rate:.4g} Hz', rate, at_rate(rate)
        self._try(self.trials, name, asked_hz, source, schedule, self._args.seconds)

    def _try(self, to: list[Trial], *how: Any) -> Trial:
        trial = self._replay.measure(*how)
        to.append(trial)
        self._replay.check(trial)
        return trial

    def _measure_quality(self) -> Quality:
        count = self._args.quality_frames
        if count < 1:
            return Quality(reason='not asked for')
        if not self._recording.has_truth:
            return Quality(reason=f'the recording has no {" and ".join(TRUTH_TOPICS)}')
        if not set(MAPS) <= set(self._records.topics):
            return Quality(reason=f'it needs the outputs {" and ".join(MAPS)}')
        try:
            return self._score(self._label_set(), count)
        except (ModelError, LabelSetError, DatasetError) as error:
            return Quality(reason=str(error))

    def _label_set(self) -> LabelSet:
        label_set = Model.load(str(self._segment.parameters.get('model', ''))).label_set
        known = self._recording.bag.note('label_set')
        if known and known != label_set.name:
            raise LabelSetError(
                f"the recording's truth has label set {known!r}, the model {label_set.name!r}"
            )
        return label_set

    def _score(self, label_set: LabelSet, count: int) -> Quality:
        quality, overlap = PanopticQuality(label_set), ClassOverlap(label_set)
        video = VideoQuality(label_set)
        unanswered = 0

        def pairs() -> Iterator[tuple[Panoptic, Panoptic, tuple[()]]]:
            nonlocal unanswered
            read = self._recording.reader((*self.targets, *TRUTH_TOPICS))
            source = islice(cues(read, loop=False, after_ns=self._replay.latest_ns), count)
            for cue in tqdm(self._replay.in_step(source), unit='frame', disable=None):
                maps, truth = self._replay.ask(cue), _truth(cue)
                if len(maps) < len(MAPS) or len(truth) < len(TRUTH_TOPICS):
                    unanswered += 1
                    continue
                prediction = _panoptic([maps[name] for name in MAPS], label_set)
                true = _panoptic([truth[topic] for topic in TRUTH_TOPICS], label_set)
                joint = Intersections.of(prediction, true)
                quality.add(joint)
                overlap.add(joint)
                yield prediction, true, ()

        self._records.forget()
        self._records.keep = MAPS
        video.update_video(pairs())
        if not quality.images:
            return Quality(reason='no frame was both answered and in the truth')
        result = quality.result()
        figures = as_json(result, overlap.result()) | {'unanswered': unanswered}
        table = summary_table(result)
        if self._recording.bag.note('is_video') != 'false':
            of_video = video.result()
            names = ('VPQ', 'VPQ_things', 'VPQ_stuff', 'STQ', 'AQ')
            figures['video'] = {name: finite(getattr(of_video, name)) for name in names}
            table += '\n' + '  '.join(f'{name} {getattr(of_video, name):.1f}' for name in names)
        return Quality(figures, table)


def _truth(cue: Cue) -> dict[str, bytes]:
    return {
        topic: data
        for topic, _, data in cue.frame.companions
        if topic in TRUTH_TOPICS and header_stamp_ns(data) == cue.frame.stamp_ns
    }


def _panoptic(data: list[bytes], label_set: LabelSet) -> Panoptic:
    semantic, instance = (_map(message) for message in data)
    try:
        return Panoptic.from_maps(semantic, instance, label_set)
    except (ValueError, KeyError) as error:
        raise DatasetError(f'truth or result is no panoptic map: {error}') from error


def _map(data: bytes) -> np.ndarray:
    return pixels(deserialize_message(data, Image))
