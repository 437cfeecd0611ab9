"""Frames to the node, answers from it: the trials that a session of ``replay`` consists of."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from time import monotonic, monotonic_ns, time_ns

import numpy as np
from rclpy.node import Node
from tqdm import tqdm

from panoptic_ros.benchmark.latency import Trial
from panoptic_ros.benchmark.replay.ends import NoAnswerError, Segment, Stopped, check_process
from panoptic_ros.benchmark.replay.playback import (
    DEFAULT_PERIOD_NS,
    Cue,
    Listener,
    Player,
    Records,
    Schedule,
    SteadyClock,
    in_step,
    paced,
)

WARM_UP_FRAMES = 10
WARM_UP_PATIENCE_S = 0.5  # for the answer to one; it is given another then
ANSWER_TIMEOUT_S = 2.0
"""A frame that was not answered for so long will not be; slow nodes have five times as long as
they usually take."""

SILENCE_S = 8.0
"""After so much longer without an answer to any frame a trial ends."""

IN_FLIGHT = 2
"""As fast as it keeps up: one frame in work and one in the node's slot."""

GAP = 0.25
"""The second of them follows the first after this share of a frame's latency: sooner, it might
overtake it in the slot."""


class Trials:
    """Publishes frames at some pace, and puts together what comes back.

    Parameters
    ----------
    node
        Of this process, spun by somebody.
    segment
        The node that is measured.
    targets, kinds
        See :class:`Player` and :class:`Listener`.
    image_target
        Where images are published.
    records
        Of the topics in ``kinds``.
    restamp
        Whether messages get the stamp of their publication.

    Attributes
    ----------
    latest_ns
        The latest stamp so far; None before the first.
    notes
        Sentences about what the reader of the figures should know.
    """

    def __init__(
        self,
        node: Node,
        segment: Segment,
        targets: Mapping[str, tuple[str, str]],
        kinds: Mapping[str, type],
        image_target: str,
        records: Records,
        clock: SteadyClock,
        restamp: bool,
    ) -> None:
        self.latest_ns: int | None = None
        self.notes: list[str] = []
        self._segment = segment
        self._image_target = image_target
        self._records = records
        self._clock = clock
        self._restamp = restamp
        self._under_way: deque[int] = deque(maxlen=IN_FLIGHT)
        self._in_flight = 1
        self._gap_ns = 0
        self._patience_s = ANSWER_TIMEOUT_S
        self._player = Player(node, targets)
        self._listener = Listener(node, segment.name, kinds, records)

    @property
    def is_interrupted(self) -> bool:
        """Whether all is to end."""
        return self._clock.stopped.is_set()

    def warm_up(self, first: Cue, timeout_s: float) -> None:
        """Publish a frame, with stamps before its own, until it was answered some times.

        Raises NoAnswerError if it never is.
        """
        stamp_ns = first.stamp_ns - 1000 * DEFAULT_PERIOD_NS
        end_s = monotonic() + timeout_s
        while (answered := self._records.answered) < WARM_UP_FRAMES:
            check_process(self._segment.process)
            if monotonic() > end_s:
                if not answered:
                    raise NoAnswerError(self._silence(timeout_s))
                break
            stamp_ns += DEFAULT_PERIOD_NS
            self._wait_for(self._send(replace(first, stamp_ns=stamp_ns)), WARM_UP_PATIENCE_S)
            if self.is_interrupted:
                raise Stopped
        latency_ms = self._records.trial('', None, ()).latency_ms()
        self._patience_s = max(ANSWER_TIMEOUT_S, 5 * np.nanmedian(latency_ms) / 1e3)
        self._gap_ns = round(GAP * np.nanmin(latency_ms) * 1e6)
        self.latest_ns = None

    def _silence(self, timeout_s: float) -> str:
        name, records = self._segment.name, self._records
        what = (
            f'{name} did not answer images on {self._image_target} with {name}/'
            f'{records.topics[0]} for {timeout_s:.0f} s'
        )
        if records.value('frames received') in ('', '0'):
            return (
                f'{what}, and received none; check that it listens to {self._image_target} (ros2 '
                'topic info -v) and, for images above 512 KiB, that this process has the DDS '
                'profile config/fastdds.xml (README)'
            )
        trouble = records.value('last trouble')
        return f'{what}, though it received some; it says: {trouble or records.status.message}'

    def measure(
        self,
        name: str,
        asked_hz: float | None,
        source: Iterator[Cue],
        schedule: Schedule | None,
        seconds: float | None,
    ) -> Trial:
        """Publish frames and return what came of them.

        Parameters
        ----------
        schedule
            None for as fast as the node keeps up.
        seconds
            None for to the end.

        It ends early if the node does, or falls silent: see :meth:`check`.
        """
        self._records.forget()
        if schedule is None:
            pace = self.in_step(source, seconds, IN_FLIGHT)
        else:
            pace = paced(source, schedule, self._clock, seconds)
        began_ns = monotonic_ns()
        for cue in tqdm(pace, desc=name, unit='frame', disable=None, leave=False):
            self._send(cue)
            if self._is_lost(began_ns):
                break
        usage = self._records.usage
        if self._under_way:
            self._wait_for(self._under_way[-1])
        trial = self._records.trial(name, asked_hz, usage)
        if not trial.reached_rate:
            self.notes.append(
                f'{name}: this process could publish only {trial.publish_rate_hz:.1f} images a '
                'second'
            )
        print(
            f'{name}: {trial.published} frames, {100 * trial.dropped_fraction:.1f} % dropped',
            flush=True,
        )
        return trial

    def _is_lost(self, began_ns: int) -> bool:
        process = self._segment.process
        has_ended = process is not None and process.exit_code is not None
        silent_ns = monotonic_ns() - max(began_ns, self._records.answered_ns)
        return has_ended or silent_ns > (SILENCE_S + self._patience_s) * 1e9

    def check(self, trial: Trial) -> None:
        """Raise NoAnswerError if the node has ended, or answered no more towards the end."""
        check_process(self._segment.process)
        is_silent = trial.published > 1 and self._is_lost(0)
        if (is_silent or not trial.answered) and not self.is_interrupted:
            raise NoAnswerError(
                f'{self._segment.name} answers no more, after it had answered before; trial '
                f'{trial.name!r} ended there; its last diagnostics say: '
                f'{self._records.status.message!r}'
            )

    def in_step(
        self, source: Iterator[Cue], seconds: float | None = None, in_flight: int = 1
    ) -> Iterator[Cue]:
        """Yield cues as fast as they are answered, so many at a time; see :meth:`ask`."""
        self._under_way.clear()
        self._in_flight = in_flight
        return in_step(source, self._wait_for_room, self._clock, seconds)

    def ask(self, cue: Cue) -> dict[str, bytes]:
        """Publish a frame, wait for the answer, and return the outputs that are kept."""
        stamp_ns = self._send(cue)
        self._wait_for(stamp_ns)
        return self._records.take(stamp_ns)

    def _send(self, cue: Cue) -> int:
        stamp_ns = time_ns() if self._restamp else cue.stamp_ns
        self.latest_ns = max(stamp_ns, self.latest_ns or stamp_ns)
        self._records.sent(stamp_ns)
        published_ns = self._player.publish(cue.frame, stamp_ns)
        self._records.published(stamp_ns, published_ns)
        self._under_way.append(stamp_ns)
        return stamp_ns

    def _wait_for_room(self) -> bool:
        while len(self._under_way) >= self._in_flight:
            self._wait_for(self._under_way.popleft())
        if self._under_way:
            self._clock.wait_until(self._clock.now_ns() + self._gap_ns)
        return not self.is_interrupted

    def _wait_for(self, stamp_ns: int, timeout_s: float | None = None) -> None:
        self._records.wait_for(
            lambda: self._records.is_settled(stamp_ns) or self.is_interrupted,
            self._patience_s if timeout_s is None else timeout_s,
        )
