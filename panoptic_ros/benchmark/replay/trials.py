"""Trials: frames published to the node at some pace, and the figures of what came back."""

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from time import monotonic, monotonic_ns, time_ns

import numpy as np
from tqdm import tqdm

from panoptic_ros.benchmark.cdr import FrameKey
from panoptic_ros.benchmark.client import Client
from panoptic_ros.benchmark.frames import FrameRecord, Frames
from panoptic_ros.benchmark.processes import NodeLostError
from panoptic_ros.benchmark.replay.node import Interrupted, NodeUnderTest
from panoptic_ros.benchmark.replay.player import (
    DEFAULT_PERIOD_NS,
    Player,
    ReplayFrame,
    Schedule,
    closed_loop,
    paced,
)
from panoptic_ros.benchmark.replay.trial import MISSING, Trial

WARM_UP_FRAMES = 10
WARM_UP_TIMEOUT_S = 0.5  # for the answer to one frame; then another one is sent
ANSWER_TIMEOUT_S = 2.0
"""A frame not answered in this time is dropped; a slow node gets five times its median latency."""

SILENCE_S = 8.0
"""A trial ends if no frame is answered for so much longer."""

IN_FLIGHT = 2
"""Frames in flight in the closed loop: one in work and one in the node's slot."""

GAP = 0.25
"""The second frame follows the first after this share of the latency, or it might replace it."""


def make_trial(
    frames: Frames, name: str, asked_hz: float | None, usage: list[tuple[float, float, float]]
) -> Trial:
    """Return the figures of all frames published since :meth:`Frames.forget`."""
    records = list(frames)
    stages = next((tuple(r.stages_ms) for r in records if r.stages_ms), ())

    def received_ns(record: FrameRecord) -> list[int]:
        return [record.received_ns.get(topic, [MISSING])[0] for topic in frames.outputs]

    shape = len(records), len(frames.outputs)
    return Trial(
        name=name,
        asked_hz=asked_hz,
        published_ns=np.array([r.published_ns for r in records], np.int64),
        topics=frames.outputs,
        received_ns=np.array([received_ns(r) for r in records], np.int64).reshape(shape),
        stages=stages,
        stage_ms=np.array(
            [[r.stages_ms.get(stage, np.nan) for stage in stages] for r in records], np.float64
        ).reshape(len(records), len(stages)),
        usage=np.array(usage, np.float64).reshape(-1, 3),
    )


class TrialRunner:
    """Publishes frames at some pace and evaluates the answers.

    Parameters
    ----------
    client
        Talks to the node.
    node
        The node under test.
    targets
        See :class:`Player`.
    outputs
        Message classes of the outputs that are received.
    restamp
        Whether messages get the time of their publication as stamp.

    Attributes
    ----------
    latest_ns
        The latest stamp published; None before the first.
    notes
        Remarks about the figures.
    """

    def __init__(
        self,
        client: Client,
        node: NodeUnderTest,
        targets: Mapping[str, tuple[str, str]],
        outputs: Mapping[str, type],
        restamp: bool,
    ) -> None:
        self.latest_ns: int | None = None
        self.notes: list[str] = []
        self._client = client
        self._frames = client.frames
        self._node = node
        self._restamp = restamp
        self._in_flight: deque[FrameKey] = deque(maxlen=IN_FLIGHT)
        self._max_in_flight = 1
        self._gap_ns = 0
        self._answer_timeout_s = ANSWER_TIMEOUT_S
        self._player = Player(client, targets)
        client.receive_outputs(outputs)
        client.receive_timing()

    @property
    def is_interrupted(self) -> bool:
        """Whether a signal has come."""
        return self._client.stopped.is_set()

    def warm_up(self, first: ReplayFrame, timeout_s: float) -> None:
        """Publish one frame, with stamps before its own, until it was answered several times.

        Raises NodeLostError if it never is, Interrupted if stopped.
        """
        stamp_ns = first.stamp_ns - 1000 * DEFAULT_PERIOD_NS
        end_s = monotonic() + timeout_s
        while (answered := self._frames.answered) < WARM_UP_FRAMES:
            if monotonic() > end_s:
                if not answered:
                    raise NodeLostError(self._silence(timeout_s))
                break
            stamp_ns += DEFAULT_PERIOD_NS
            self._wait_for(self._send(replace(first, stamp_ns=stamp_ns)), WARM_UP_TIMEOUT_S)
            if self.is_interrupted:
                raise Interrupted
        latency_ms = self._trial('', None, []).latency_ms()
        self._answer_timeout_s = max(ANSWER_TIMEOUT_S, 5 * np.nanmedian(latency_ms) / 1e3)
        self._gap_ns = round(GAP * np.nanmin(latency_ms) * 1e6)
        self.latest_ns = None

    def _silence(self, timeout_s: float) -> str:
        name, status, image_input = self._node.name, self._client.status, self._node.image_input
        what = (
            f'{name} did not answer images on {image_input} with {name}/'
            f'{self._frames.outputs[0]} for {timeout_s:.0f} s'
        )
        if not status.count('received'):
            return (
                f'{what}, and received none; check that it subscribes to {image_input} (ros2 '
                'topic info -v) and, for images above 512 KiB, that this process has the DDS '
                'profile config/fastdds.xml (README)'
            )
        return (
            f'{what}, though it received some; it reports: '
            f'{status.values.get("last trouble") or status.message}'
        )

    def measure(
        self,
        name: str,
        asked_hz: float | None,
        source: Iterator[ReplayFrame],
        schedule: Schedule | None,
        seconds: float | None,
    ) -> Trial:
        """Publish frames and return the figures.

        Parameters
        ----------
        schedule
            None for as fast as the node answers.
        seconds
            None for to the end.

        The trial ends early if the node ends or is silent; see :meth:`check`.
        """
        with self._client.lock:
            self._frames.forget()
        first_report = len(self._client.usage)
        if schedule is None:
            pace = self.closed_loop(source, seconds, IN_FLIGHT)
        else:
            pace = paced(source, schedule, self._client.sleep_until, seconds)
        began_ns = monotonic_ns()
        with suppress(NodeLostError):  # check() raises it again
            for frame in tqdm(pace, desc=name, unit='frame', disable=None, leave=False):
                self._send(frame)
                if self._is_lost(began_ns):
                    break
        usage = self._client.usage[first_report:]
        with suppress(NodeLostError):
            if self._in_flight:
                self._wait_for(self._in_flight[-1])
        trial = self._trial(name, asked_hz, usage)
        if not trial.reached_rate:
            self.notes.append(
                f'{name}: this process could publish only {trial.publish_rate_hz:.1f} images/s'
            )
        print(
            f'{name}: {trial.published} frames, {100 * trial.dropped_fraction:.1f} % dropped',
            flush=True,
        )
        return trial

    def _trial(self, name: str, asked_hz: float | None, usage: list) -> Trial:
        with self._client.lock:
            return make_trial(self._frames, name, asked_hz, usage)

    def _is_lost(self, began_ns: int) -> bool:
        process = self._node.process
        has_ended = process is not None and process.exit_code is not None
        silent_ns = monotonic_ns() - max(began_ns, self._frames.last_answer_ns)
        return has_ended or silent_ns > (SILENCE_S + self._answer_timeout_s) * 1e9

    def check(self, trial: Trial) -> None:
        """Raise NodeLostError if the node has ended, or did not answer towards the end."""
        if self._node.process is not None:
            self._node.process.require_running()
        is_silent = trial.published > 1 and self._is_lost(0)
        if (is_silent or not trial.answered) and not self.is_interrupted:
            raise NodeLostError(
                f'{self._node.name} stopped answering; trial {trial.name!r} ended there; its last '
                f'diagnostics: {self._client.status.message!r}'
            )

    def closed_loop(
        self, source: Iterator[ReplayFrame], seconds: float | None = None, in_flight: int = 1
    ) -> Iterator[ReplayFrame]:
        """Yield frames as fast as they are answered, so many in flight."""
        self._in_flight.clear()
        self._max_in_flight = in_flight
        return closed_loop(source, self._wait_for_answer, seconds)

    def ask(self, frame: ReplayFrame) -> dict[str, bytes]:
        """Publish a frame, wait for its answer, and return the messages that are kept."""
        key = self._send(frame)
        self._wait_for(key)
        with self._client.lock:
            record = self._frames[key]
            messages, record.messages = record.messages, {}
        return messages

    def _send(self, frame: ReplayFrame) -> FrameKey:
        stamp_ns = time_ns() if self._restamp else frame.stamp_ns
        self.latest_ns = max(stamp_ns, self.latest_ns or stamp_ns)
        key = self._player.publish(frame.frame, stamp_ns)
        self._in_flight.append(key)
        return key

    def _wait_for_answer(self) -> bool:
        while len(self._in_flight) >= self._max_in_flight:
            self._wait_for(self._in_flight.popleft())
        if self._in_flight:
            self._client.sleep_until(monotonic_ns() + self._gap_ns)
        return not self.is_interrupted

    def _wait_for(self, key: FrameKey, timeout_s: float | None = None) -> None:
        self._client.wait_until(
            lambda: self._frames.is_settled(key),
            self._answer_timeout_s if timeout_s is None else timeout_s,
        )
