"""Diagnostics of the node: counts of frames, stage times, ``/diagnostics`` and ``~/timing``."""

import math
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from enum import Enum
from pathlib import Path
from threading import Lock

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from panoptic_ros.ros.inputs.sync import DepthCounts

WINDOW = 512
"""Number of latest frames that percentiles are computed over."""

RATE_WINDOW_NS = 5_000_000_000
"""Frame rates are computed over this time."""

MAX_AGE_NS = 60_000_000_000
"""An older stamp is not of this machine's clock; the age of the image is unknown then."""

STUCK_NS = 8_000_000_000
"""A frame in one stage for longer than this is an error."""

PERCENTILES = (50, 95, 99)

CPU_KEY, MEMORY_KEY = 'cpu time (s)', 'resident memory (MB)'

TIMING_UNIT = ' (ms)'
"""Suffix of the keys of ``~/timing``, after the name of the stage."""


STAGES = {
    'wait': 'from the arrival of the image until the inference thread takes it',
    'decode': 'message to pixels',
    'preprocess': 'pixels to the input of the network',
    'inference': 'the network',
    'handover': 'from the end of the network until the publishing thread takes the image',
    'fusion': 'heads to panoptic map',
    'tracking': 'assigning track ids',
    'publish': 'objects in space, building and publishing all messages with subscribers',
    'total': 'from the arrival of the image to the end of the last publish',
    'age': 'from the stamp of the image to the end of the last publish; missing where the stamp '
    'is not of this clock',
}
"""Stages of a frame, the fields of :class:`FrameTimes`, in order."""


@dataclass(frozen=True)
class FrameTimes:
    """Times of the stages of one frame, nanoseconds; see :data:`STAGES`."""

    wait_ns: int
    decode_ns: int
    preprocess_ns: int
    inference_ns: int
    handover_ns: int
    fusion_ns: int
    tracking_ns: int
    publish_ns: int
    total_ns: int
    age_ns: int | None


class Work(Enum):
    """What is done with a frame, and the problem if it does not end."""

    ENGINE = 'the engine has not answered'
    PUBLISHING = 'publishing has not ended'


@dataclass
class Counts:
    """Counts of images since the node was configured.

    ``received`` is the sum of ``processed``, ``dropped`` (replaced by a newer one), ``unwatched``
    (no output had a subscriber), ``bad`` (could not be decoded), ``failed`` (the engine failed)
    and the at most three that are waiting or in work.
    """

    received: int = 0
    processed: int = 0
    dropped: int = 0
    unwatched: int = 0
    bad: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Proximity:
    """What is near the camera.

    Parameters
    ----------
    closest_obstacle_m
        Distance on the ground to the nearest obstacle of ``~/free_space``, infinite if there is
        none; None where the grid was not computed.
    time_to_collision_s
        Class and track id of each approaching object, and the seconds until it is within the
        collision radius if it keeps its velocity.
    """

    closest_obstacle_m: float | None
    time_to_collision_s: tuple[tuple[str, float], ...]

    def values(self) -> dict[str, str]:
        """Return the key-value pairs for ``/diagnostics``."""
        values = {}
        if self.closest_obstacle_m is not None:
            values['closest obstacle (m)'] = f'{self.closest_obstacle_m:.2f}'
        for name, seconds in self.time_to_collision_s:
            values[f'time to collision, {name} (s)'] = f'{seconds:.2f}'
        return values


@dataclass(frozen=True)
class Situation:
    """State of the node, for one camera, apart from its frames.

    Parameters
    ----------
    state
        Lifecycle state, for example ``active``.
    image_topic
        Resolved name of the image topic.
    image_timeout_s
        Seconds without an image until a warning.
    camera
        Name of the camera; empty for the only one.
    model, engine
        Descriptions, empty while no model is loaded.
    device
        Device of the engine, for example ``CPU``.
    problem
        Why the last transition failed, else empty.
    image_hint
        Why no image can come, else empty.
    depth
        Counts of depth images; None if the node takes none.
    proximity
        Obstacles and collision times; None if there is no recent frame.
    cpu_s
        CPU time of the process so far, seconds.
    resident_bytes
        Resident memory of the process; None where it is unknown.
    """

    state: str
    image_topic: str
    image_timeout_s: float
    camera: str = ''
    model: str = ''
    engine: str = ''
    device: str = ''
    problem: str = ''
    image_hint: str = ''
    depth: DepthCounts | None = None
    proximity: Proximity | None = None
    cpu_s: float = 0.0
    resident_bytes: int | None = None


def resident_bytes() -> int | None:
    """Return the resident memory of this process; None where there is no ``/proc``."""
    try:
        pages = Path('/proc/self/statm').read_text().split()[1]
    except OSError:
        return None
    return int(pages) * os.sysconf('SC_PAGE_SIZE')


def percentiles_ms(durations_ns: np.ndarray) -> tuple[float, ...]:
    """Return :data:`PERCENTILES` of durations in milliseconds; NaN where there are none."""
    if not len(durations_ns):
        return (float('nan'),) * len(PERCENTILES)
    return tuple((np.percentile(durations_ns, PERCENTILES) / 1e6).tolist())


class FrameLog:
    """Counts and times of frames; thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts = Counts()
        self._arrivals_ns: deque[int] = deque(maxlen=WINDOW)
        self._finishes_ns: deque[int] = deque(maxlen=WINDOW)
        self._times: deque[FrameTimes] = deque(maxlen=WINDOW)
        self._last_trouble = ''
        self._trouble_ns: int | None = None
        self._engine_is_failing = False
        self._is_unwatched = False
        self._begun_ns: dict[Work, int] = {}

    @property
    def has_received(self) -> bool:
        """Whether any image has arrived."""
        with self._lock:
            return self._counts.received > 0

    def count_received(self, now_ns: int) -> None:
        """Count an image that arrived; ``now_ns`` is of a steady clock, as in all methods."""
        with self._lock:
            self._counts.received += 1
            self._arrivals_ns.append(now_ns)

    def count_dropped(self) -> None:
        """Count an image that was replaced by a newer one."""
        with self._lock:
            self._counts.dropped += 1

    def count_unwatched(self) -> None:
        """Count an image that arrived while no output had a subscriber."""
        with self._lock:
            self._counts.unwatched += 1
            self._is_unwatched = True

    @contextmanager
    def at_work(self, work: Work, now_ns: int) -> Iterator[None]:
        """Note that an image is in work, one at a time of each kind."""
        with self._lock:
            self._begun_ns[work] = now_ns
        try:
            yield
        finally:
            with self._lock:
                del self._begun_ns[work]

    def count_bad(self, now_ns: int, why: str) -> None:
        """Count an image that could not be decoded."""
        with self._lock:
            self._counts.bad += 1
            self._last_trouble, self._trouble_ns = why, now_ns

    def count_failed(self, now_ns: int, why: str) -> None:
        """Count an image on which the engine failed."""
        with self._lock:
            self._counts.failed += 1
            self._last_trouble, self._trouble_ns = why, now_ns
            self._engine_is_failing = True

    def note_trouble(self, now_ns: int, why: str) -> None:
        """Remember a problem with an image whose masks were published nevertheless."""
        with self._lock:
            self._last_trouble, self._trouble_ns = why, now_ns

    def count_processed(self, now_ns: int, times: FrameTimes) -> None:
        """Count an image whose results were published."""
        with self._lock:
            self._counts.processed += 1
            self._is_unwatched = False
            self._finishes_ns.append(now_ns)
            self._times.append(times)
            self._engine_is_failing = False

    def values(self, now_ns: int) -> dict[str, str]:
        """Return counts, rates and percentiles as key-value pairs."""
        with self._lock:
            counts, times = asdict(self._counts), list(self._times)
            rates = {
                'rate in (1/s)': _rate(self._arrivals_ns, now_ns),
                'rate out (1/s)': _rate(self._finishes_ns, now_ns),
            }
            trouble = self._last_trouble
        values = {f'frames {name}': str(count) for name, count in counts.items()}
        values |= {name: f'{rate:.1f}' for name, rate in rates.items()}
        for field in fields(FrameTimes):
            column = [getattr(t, field.name) for t in times]
            column = np.array([value for value in column if value is not None], np.float64)
            for percentile, value in zip(PERCENTILES, percentiles_ms(column), strict=True):
                values[f'{field.name.removesuffix("_ns")} p{percentile} (ms)'] = f'{value:.3f}'
        values['last trouble'] = trouble
        return values

    def camera_state(self, now_ns: int, timeout_s: float) -> tuple[bytes, str]:
        """Return the level and the message of the diagnostics."""
        with self._lock:
            silent_s = (now_ns - self._arrivals_ns[-1]) / 1e9 if self._arrivals_ns else None
            recent = self._trouble_ns is not None and now_ns - self._trouble_ns < RATE_WINDOW_NS
            for work, begun_ns in self._begun_ns.items():
                if now_ns - begun_ns > STUCK_NS:
                    stuck_s = (now_ns - begun_ns) / 1e9
                    return DiagnosticStatus.ERROR, f'{work.value} for {stuck_s:.1f} s'
            if self._engine_is_failing:
                return DiagnosticStatus.ERROR, self._last_trouble
            if silent_s is None:
                return DiagnosticStatus.WARN, 'waiting for the first image'
            if silent_s > timeout_s:
                return DiagnosticStatus.WARN, f'no image for {silent_s:.1f} s'
            if recent:
                return DiagnosticStatus.WARN, self._last_trouble
            if self._is_unwatched:
                return DiagnosticStatus.OK, 'no subscribers, nothing to do'
        return DiagnosticStatus.OK, 'segmenting'


def _rate(times_ns: deque[int], now_ns: int) -> float:
    recent = [t for t in times_ns if now_ns - t < RATE_WINDOW_NS]
    span_ns = recent[-1] - recent[0] if recent else 0
    return (len(recent) - 1) * 1e9 / span_ns if span_ns else 0.0


def diagnostics_message(
    node_name: str, stamp: Time, now_ns: int, cameras: Sequence[tuple[Situation, FrameLog]]
) -> DiagnosticArray:
    """Return the message for ``/diagnostics``, with one status for each camera.

    Parameters
    ----------
    node_name
        Fully qualified; the name of a status is ``<node_name>: segmentation``, followed by the
        name of the camera if it has one.
    stamp
        Current time of the node's clock.
    now_ns
        Current time of the steady clock used for the logs.
    """
    name = f'{node_name.removeprefix("/")}: segmentation'
    return DiagnosticArray(
        header=Header(stamp=stamp),
        status=[_status(name, now_ns, situation, log) for situation, log in cameras],
    )


def _status(name: str, now_ns: int, situation: Situation, log: FrameLog) -> DiagnosticStatus:
    level, text = log.camera_state(now_ns, situation.image_timeout_s)
    if situation.image_hint and not log.has_received:
        text = f'{text}; {situation.image_hint}'
    if situation.problem:
        level, text = DiagnosticStatus.ERROR, situation.problem
    elif situation.state != 'active':
        level, text = DiagnosticStatus.OK, f'the node is {situation.state}'
    values = {
        'state': situation.state,
        'image topic': situation.image_topic,
        'model': situation.model,
        'engine': situation.engine,
        'device': situation.device,
        CPU_KEY: f'{situation.cpu_s:.3f}',
        MEMORY_KEY: f'{(situation.resident_bytes or math.nan) / 1e6:.1f}',
    } | log.values(now_ns)
    if situation.depth is not None:
        counts = asdict(situation.depth)
        values |= {f'depth {name}': str(count) for name, count in counts.items()}
    if situation.proximity is not None:
        values |= situation.proximity.values()
    return DiagnosticStatus(
        level=level,
        name=f'{name} {situation.camera}'.rstrip(),
        message=text,
        hardware_id=situation.device or 'none',
        values=_key_values(values),
    )


def timing_message(node_name: str, header: Header, times: FrameTimes) -> DiagnosticArray:
    """Return the message for ``~/timing``: milliseconds of each stage of one frame.

    ``header`` is that of the image; unknown times (None) are left out.
    """
    values = {
        f'{field.name.removesuffix("_ns")}{TIMING_UNIT}': f'{duration_ns / 1e6:.6f}'
        for field in fields(times)
        if (duration_ns := getattr(times, field.name)) is not None
    }
    status = DiagnosticStatus(
        level=DiagnosticStatus.OK,
        name=f'{node_name.removeprefix("/")}: timing',
        values=_key_values(values),
    )
    return DiagnosticArray(header=header, status=[status])


def stage_times_ms(message: DiagnosticArray) -> dict[str, float]:
    """Return milliseconds by stage, in order, from a message of :func:`timing_message`."""
    return {
        item.key.removesuffix(TIMING_UNIT): float(item.value)
        for status in message.status
        for item in status.values
        if item.key.endswith(TIMING_UNIT)
    }


def _key_values(values: Mapping[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=value) for key, value in values.items()]
