"""Recorded frames out at some pace, and what comes back of them: the parts of ``replay``.

Messages are published and received as the bytes they are: nothing is converted, and of what comes
back only the stamp is read, so that the measuring costs the measured little.
"""

import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from threading import Condition, Event, Thread
from time import monotonic_ns, time_ns
from typing import Any, Protocol

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from visualization_msgs.msg import MarkerArray

from panoptic_ros.benchmark.bags import Frame, Message, header_stamp_ns, with_header_stamp
from panoptic_ros.benchmark.latency import MISSING, Trial
from panoptic_ros.errors import BagError
from panoptic_ros.ros.diagnostics import CPU_KEY, MEMORY_KEY, stage_times_ms

FRAMES_KEPT = 100_000
"""Of an endless replay, only so many of the latest frames are remembered."""

DEFAULT_PERIOD_NS = 66_666_667
"""Between the end of a recording and its next beginning, where one image tells no period."""

_PUBLISHER_QOS = QoSProfile(depth=10)  # reliable: no subscriber refuses that
_OUTPUT_QOS = QoSProfile(depth=100)

_HEADER = 'std_msgs/Header'


@dataclass(frozen=True, eq=False)
class Cue:
    """A frame and its place in the replay: its stamp, and its time in the recording, ns."""

    frame: Frame
    stamp_ns: int
    time_ns: int


def cues(
    read: Callable[[], Iterable[Frame]], *, loop: bool, after_ns: int | None = None
) -> Iterator[Cue]:
    """Go through a recording, once or for ever, so that no lap has the stamps of another.

    The first lap has the stamps that were recorded; each further one is moved on as a whole, by
    the time from its first stamp to its last and a frame's period.

    Parameters
    ----------
    read
        Starts reading from the beginning.
    after_ns
        The latest stamp that was used before; the first lap is moved on too.

    Raises BagError if the recording has no image.
    """
    shift_ns = None if after_ns is not None else 0
    time_shift_ns = 0
    while True:
        stamps_ns: list[int] = []
        times_ns: list[int] = []
        for frame in read():
            stamp_ns, recorded_ns = frame.stamp_ns, frame.image.time_ns
            if shift_ns is None:
                shift_ns = after_ns + DEFAULT_PERIOD_NS - stamp_ns
            stamps_ns.append(stamp_ns)
            times_ns.append(recorded_ns)
            yield Cue(frame, stamp_ns + shift_ns, recorded_ns + time_shift_ns)
        if not stamps_ns:
            raise BagError(
                'there is no image in this part of the recording; change --start-offset or '
                '--duration'
            )
        if not loop:
            return
        shift_ns += _lap_ns(stamps_ns)
        time_shift_ns += _lap_ns(times_ns)


def _lap_ns(times_ns: Sequence[int]) -> int:
    span_ns = max(times_ns) - min(times_ns)
    return span_ns + (span_ns // (len(times_ns) - 1) if span_ns else DEFAULT_PERIOD_NS)


class Clock(Protocol):
    """A steady clock that can be waited for."""

    def now_ns(self) -> int:
        """Return the time, nanoseconds."""

    def wait_until(self, time_ns: int) -> bool:
        """Return True at a time, or at once if it is over; False as soon as all is to end."""


class SteadyClock:
    """The machine's own; :attr:`stopped` ends all waiting."""

    def __init__(self) -> None:
        self.stopped = Event()

    def now_ns(self) -> int:
        """Return the time, nanoseconds."""
        return monotonic_ns()

    def wait_until(self, time_ns: int) -> bool:
        """Return True at a time, or at once if it is over; False as soon as all is to end."""
        return not self.stopped.wait(max(0, time_ns - monotonic_ns()) / 1e9)


Schedule = Callable[[int, Cue], int]
"""When a cue is due, ns after the first one, from its number and itself."""


def at_rate(rate_hz: float) -> Schedule:
    """Return the schedule of a fixed rate."""
    return lambda number, cue: round(number * 1e9 / rate_hz)


def as_recorded() -> Schedule:
    """Return the schedule of the recording; use it once."""
    first_ns: list[int] = []

    def due_ns(number: int, cue: Cue) -> int:
        if not first_ns:
            first_ns.append(cue.time_ns)
        return cue.time_ns - first_ns[0]

    return due_ns


def paced(
    source: Iterator[Cue], schedule: Schedule, clock: Clock, seconds: float | None
) -> Iterator[Cue]:
    """Yield cues when they are due, those that are late at once, for so long (None: to the end).

    The time that counts is the schedule's: the number of frames does not depend on the machine.
    """
    start_ns = clock.now_ns()
    for number, cue in enumerate(source):
        due_ns = schedule(number, cue)
        if seconds is not None and due_ns >= seconds * 1e9:
            return
        if not clock.wait_until(start_ns + due_ns):
            return
        yield cue


def in_step(
    source: Iterator[Cue], wait_for_room: Callable[[], bool], clock: Clock, seconds: float | None
) -> Iterator[Cue]:
    """Yield cues as fast as they are answered, for so long (None: to the end).

    Parameters
    ----------
    wait_for_room
        Waits until one more frame may be under way; False if all is to end.
    """
    start_ns = clock.now_ns()
    while wait_for_room():
        if seconds is not None and clock.now_ns() - start_ns >= seconds * 1e9:
            return
        cue = next(source, None)
        if cue is None:
            return
        yield cue


def message_class(message_type: str) -> type:
    """Return the class of ``package/msg/Type``; raises BagError if it is not installed."""
    package, _, name = message_type.partition('/msg/')
    try:
        return getattr(import_module(f'{package}.msg'), name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise BagError(
            f'message type {message_type} is not installed; install the ROS package {package}'
        ) from error


def begins_with_header(kind: type) -> bool:
    """Whether the messages of a class begin with a std_msgs/Header."""
    return next(iter(kind.get_fields_and_field_types().values()), '') == _HEADER


def stamp_reader(kind: type) -> Callable[[bytes], int | None]:
    """Return what reads the stamp in a serialised message of a class.

    It gives None for a message without one, which an empty MarkerArray is. Raises BagError for
    a class that has no header.
    """
    if begins_with_header(kind):
        return header_stamp_ns
    if kind is MarkerArray:
        return _first_marker_stamp_ns
    raise BagError(f'messages of {kind.__name__} have no header, so none can be told from others')


def _first_marker_stamp_ns(data: bytes) -> int | None:
    (count,) = struct.unpack_from('<I' if data[1] & 1 else '>I', data, 4)
    # The sequence's length takes four bytes, then the first marker begins with its header.
    return header_stamp_ns(data[:4] + data[8:16]) if count else None


class Player:
    """Publishes frames of a recording.

    Parameters
    ----------
    node
        Has the publishers.
    targets
        By topic of the recording: the name to publish under, and ``package/msg/Type``. Messages
        of other topics are not published.
    """

    def __init__(self, node: Node, targets: Mapping[str, tuple[str, str]]) -> None:
        self._publishers = {}
        self._stamped = set()
        for topic, (name, message_type) in targets.items():
            kind = message_class(message_type)
            self._publishers[topic] = node.create_publisher(kind, name, _PUBLISHER_QOS)
            if begins_with_header(kind):
                self._stamped.add(topic)

    @property
    def stamped(self) -> frozenset[str]:
        """Topics of the recording whose messages begin with a header."""
        return frozenset(self._stamped)

    def publish(self, frame: Frame, stamp_ns: int) -> int:
        """Publish a frame, the image last; returns when that was, of ``time_ns``.

        With its own stamp it is published byte for byte; with another one, all stamps in it are
        moved as far.
        """
        shift_ns = stamp_ns - frame.stamp_ns
        moved = [self._moved(message, shift_ns) for message in frame.companions]
        image = self._moved(frame.image, shift_ns)
        for message in moved:
            if message.topic in self._publishers:
                self._publishers[message.topic].publish(message.data)
        published_ns = time_ns()
        self._publishers[image.topic].publish(image.data)
        return published_ns

    def _moved(self, message: Message, shift_ns: int) -> Message:
        if not shift_ns or message.topic not in self._stamped:
            return message
        stamp_ns = header_stamp_ns(message.data) + shift_ns
        return message._replace(data=with_header_stamp(message.data, stamp_ns))


@dataclass
class Record:
    """What is known of one frame: when it went out, when what came back, and the node's times.

    Frames are numbered in the order of their publication.
    """

    number: int
    published_ns: int
    received_ns: list[int]
    stages_ms: dict[str, float] = field(default_factory=dict)
    kept: dict[str, bytes] = field(default_factory=dict)


class Records:
    """Frames by their stamps; written by the thread that receives and by the one that publishes.

    Parameters
    ----------
    topics
        Of the outputs, the first one tells whether a frame was answered.

    Attributes
    ----------
    keep
        Messages of these outputs are kept until :meth:`take`.
    usage
        Rows of what the node's process used: see :class:`Trial`.
    status
        The newest diagnostics of the node.
    answered_ns
        When a frame was answered last, of the steady clock; 0 if none was.
    doubled
        How many frames had a stamp that one before had: the later ones are not measured.
    """

    def __init__(self, topics: Sequence[str]) -> None:
        self.topics = tuple(topics)
        self.keep: Collection[str] = ()
        self.usage: list[tuple[float, float, float]] = []
        self.status = DiagnosticStatus()
        self.doubled = 0
        self._changed = Condition()
        self._by_stamp: dict[int, Record] = {}
        self.answered_ns = 0
        self._sent = 0
        self._newest_answered = 0

    def sent(self, stamp_ns: int) -> None:
        """Expect what comes back of a frame that is about to be published."""
        with self._changed:
            if stamp_ns in self._by_stamp:
                self.doubled += 1
                return
            self._sent += 1
            self._by_stamp[stamp_ns] = Record(self._sent, 0, [MISSING] * len(self.topics))
            if len(self._by_stamp) > FRAMES_KEPT:
                del self._by_stamp[next(iter(self._by_stamp))]

    def published(self, stamp_ns: int, published_ns: int) -> None:
        """Note when a frame was published."""
        with self._changed:
            record = self._by_stamp[stamp_ns]
            record.published_ns = record.published_ns or published_ns

    def received(self, at: int, stamp_ns: int | None, received_ns: int, data: bytes) -> None:
        """Note that an output came; only the first one for each frame counts."""
        with self._changed:
            record = self._by_stamp.get(stamp_ns)
            if record is None or record.received_ns[at] != MISSING:
                return
            record.received_ns[at] = received_ns
            if self.topics[at] in self.keep:
                record.kept[self.topics[at]] = data
            self._settle(record)

    def timed(self, stamp_ns: int, stages_ms: dict[str, float]) -> None:
        """Note the node's own times of a frame, which it publishes when all else is out."""
        with self._changed:
            record = self._by_stamp.get(stamp_ns)
            if record is not None:
                record.stages_ms = stages_ms
                self._settle(record)

    def _settle(self, record: Record) -> None:
        if self._is_complete(record):
            self._newest_answered = max(self._newest_answered, record.number)
            self.answered_ns = monotonic_ns()
        self._changed.notify_all()

    def _is_complete(self, record: Record) -> bool:
        return (
            record.received_ns[0] != MISSING
            and bool(record.stages_ms)
            and len(record.kept) == len(self.keep)
        )

    def reported(self, status: DiagnosticStatus, stamp_ns: int) -> None:
        """Note the node's diagnostics."""
        values = {item.key: item.value for item in status.values}
        with self._changed:
            self.status = status
            if CPU_KEY in values and MEMORY_KEY in values:
                row = (stamp_ns / 1e9, float(values[CPU_KEY]), float(values[MEMORY_KEY]))
                self.usage.append(row)
            self._changed.notify_all()

    def value(self, key: str) -> str:
        """Return a value of the newest diagnostics; empty if it has none of that name."""
        return next((item.value for item in self.status.values if item.key == key), '')

    def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until something is true that :meth:`received` and the like can make true."""
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)

    def is_settled(self, stamp_ns: int) -> bool:
        """Whether a frame was answered, or a later one: the node never goes back.

        An answer is the first output, what is to be kept, and the node's times.
        """
        record = self._by_stamp.get(stamp_ns)
        return record is not None and record.number <= self._newest_answered

    @property
    def answered(self) -> int:
        """How many frames were answered since :meth:`forget`."""
        with self._changed:
            return sum(map(self._is_complete, self._by_stamp.values()))

    def take(self, stamp_ns: int) -> dict[str, bytes]:
        """Return the messages kept of a frame, and keep them no longer."""
        with self._changed:
            record = self._by_stamp[stamp_ns]
            kept, record.kept = record.kept, {}
            return kept

    def forget(self) -> None:
        """Forget all frames; what still comes of them does not count."""
        with self._changed:
            self._by_stamp.clear()
            self.usage = []

    def trial(self, name: str, asked_hz: float | None, usage: Sequence[Any]) -> Trial:
        """Return what is known of all frames since :meth:`forget`."""
        with self._changed:
            records = list(self._by_stamp.values())
            stages = next((tuple(r.stages_ms) for r in records if r.stages_ms), ())
            # An age is not known of every frame.
            known = [[r.stages_ms.get(stage, np.nan) for stage in stages] for r in records]
            return Trial(
                name=name,
                asked_hz=asked_hz,
                published_ns=np.array([r.published_ns for r in records], np.int64),
                topics=self.topics,
                received_ns=np.array([r.received_ns for r in records], np.int64).reshape(
                    len(records), len(self.topics)
                ),
                stages=stages,
                stage_ms=np.array(known, np.float64).reshape(len(records), len(stages)),
                usage=np.array(usage, np.float64).reshape(-1, 3),
            )


class Listener:
    """Subscribes to a node's outputs, times and diagnostics, from construction to :meth:`close`.

    Receipt is when DDS had the message, as it says itself: that this process is a Python program
    which takes it later does not count.

    Parameters
    ----------
    node
        Of this process; is spun by a thread of this object, and not destroyed.
    segment_name
        Fully qualified name of the node that is listened to.
    kinds
        Message class of each output, named relative to the node, in the order of the records.
    """

    def __init__(
        self, node: Node, segment_name: str, kinds: Mapping[str, type], records: Records
    ) -> None:
        self._node = node
        self._subscriptions = []
        for at, (topic, kind) in enumerate(kinds.items()):
            self._listen(records, at, f'{segment_name}/{topic}', kind)
        self._subscriptions.append(
            node.create_subscription(
                DiagnosticArray,
                f'{segment_name}/timing',
                lambda message: records.timed(_stamp_ns(message), stage_times_ms(message)),
                _OUTPUT_QOS,
            )
        )

    def _listen(self, records: Records, at: int, topic: str, kind: type) -> None:
        read = stamp_reader(kind)

        def arrive(data: bytes, info: Mapping[str, Any]) -> None:
            received_ns = info['received_timestamp'] or time_ns()
            records.received(at, read(data), received_ns, data)

        self._subscriptions.append(
            self._node.create_subscription(kind, topic, arrive, _OUTPUT_QOS, raw=True)
        )

    def close(self) -> None:
        """Subscribe to nothing any more."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())


class Spinner:
    """Spins a node in a thread, from construction to :meth:`close`."""

    def __init__(self, node: Node) -> None:
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._thread = Thread(target=self._spin, name='spinner')
        self._thread.start()

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown()
        self._thread.join()


def listen_to_status(node: Node, segment_name: str, records: Records) -> None:
    """Have a node's diagnostics noted."""
    name = f'{segment_name.removeprefix("/")}: segmentation'

    def arrive(message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == name:
                records.reported(status, _stamp_ns(message))

    node.create_subscription(DiagnosticArray, '/diagnostics', arrive, 10)


def _stamp_ns(message: DiagnosticArray) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
