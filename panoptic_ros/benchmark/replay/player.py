"""Recorded frames in the order, at the times and with the stamps of a replay."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic_ns, time_ns

from panoptic_ros.benchmark.bags import Frame, Message
from panoptic_ros.benchmark.cdr import (
    FrameKey,
    begins_with_header,
    header_key,
    header_stamp_ns,
    message_class,
    with_header_stamp,
)
from panoptic_ros.benchmark.client import Client
from panoptic_ros.errors import BagError

DEFAULT_PERIOD_NS = 66_666_667
"""Between two laps of a recording with one image, which has no period of its own."""


@dataclass(frozen=True, eq=False)
class ReplayFrame:
    """A recorded frame, the stamp it gets, and its time in the recording, nanoseconds."""

    frame: Frame
    stamp_ns: int
    time_ns: int


def replay_frames(
    read: Callable[[], Iterable[Frame]], *, loop: bool, after_ns: int | None = None
) -> Iterator[ReplayFrame]:
    """Yield the frames of a recording, once or in an endless loop, no stamp twice.

    The first lap has the recorded stamps; each further lap is shifted by the span of the stamps
    and one period. A stamp of 0, which some cameras always send, and one that came before are
    replaced by the time of recording.

    Parameters
    ----------
    read
        Starts reading from the beginning.
    after_ns
        Latest stamp used before; the first lap is shifted behind it.

    Raises BagError if there is no image.
    """
    shift_ns: int | None = None if after_ns is not None else 0
    time_shift_ns = 0
    while True:
        stamps_ns: list[int] = []
        used_ns: set[int] = set()
        times_ns: list[int] = []
        for frame in read():
            stamp_ns, recorded_ns = frame.stamp_ns, frame.image.time_ns
            if not stamp_ns or stamp_ns in used_ns:
                stamp_ns = recorded_ns
            used_ns.add(stamp_ns)
            if shift_ns is None:
                shift_ns = (after_ns or 0) + DEFAULT_PERIOD_NS - stamp_ns
            stamps_ns.append(stamp_ns)
            times_ns.append(recorded_ns)
            yield ReplayFrame(frame, stamp_ns + shift_ns, recorded_ns + time_shift_ns)
        if not stamps_ns:
            raise BagError(
                'there is no image in this part of the recording; change --start-offset or '
                '--duration'
            )
        if not loop:
            return
        shift_ns = (shift_ns or 0) + _lap_ns(stamps_ns)
        time_shift_ns += _lap_ns(times_ns)


def _lap_ns(times_ns: Sequence[int]) -> int:
    span_ns = max(times_ns) - min(times_ns)
    return span_ns + (span_ns // (len(times_ns) - 1) if span_ns else DEFAULT_PERIOD_NS)


Schedule = Callable[[int, ReplayFrame], int]
"""Returns when a frame is due, ns after the first one, from its number and itself."""


def at_rate(rate_hz: float) -> Schedule:
    """Return the schedule of a fixed rate."""
    return lambda number, frame: round(number * 1e9 / rate_hz)


def as_recorded() -> Schedule:
    """Return the schedule of the recording; for one use."""
    first_ns: list[int] = []

    def due_ns(number: int, frame: ReplayFrame) -> int:
        if not first_ns:
            first_ns.append(frame.time_ns)
        return frame.time_ns - first_ns[0]

    return due_ns


def paced(
    source: Iterator[ReplayFrame],
    schedule: Schedule,
    sleep_until: Callable[[int], bool],
    seconds: float | None,
    now_ns: Callable[[], int] = monotonic_ns,
) -> Iterator[ReplayFrame]:
    """Yield frames when they are due, late ones at once.

    Parameters
    ----------
    sleep_until
        Sleeps until a time of ``now_ns``; False to end.
    seconds
        Length by the schedule, so that the number of frames does not depend on the machine; None
        for all frames.
    """
    start_ns = now_ns()
    for number, frame in enumerate(source):
        due_ns = schedule(number, frame)
        if seconds is not None and due_ns >= seconds * 1e9:
            return
        if not sleep_until(start_ns + due_ns):
            return
        yield frame


def closed_loop(
    source: Iterator[ReplayFrame],
    wait_for_answer: Callable[[], bool],
    seconds: float | None,
    now_ns: Callable[[], int] = monotonic_ns,
) -> Iterator[ReplayFrame]:
    """Yield frames as fast as they are answered, for some time or to the end.

    Parameters
    ----------
    wait_for_answer
        Waits until one more frame may be in flight; False to end.
    """
    start_ns = now_ns()
    while wait_for_answer():
        if seconds is not None and now_ns() - start_ns >= seconds * 1e9:
            return
        frame = next(source, None)
        if frame is None:
            return
        yield frame


class Player:
    """Publishes recorded frames, byte for byte but for their stamps.

    Parameters
    ----------
    client
        Has the publishers.
    targets
        Name and type under which each recorded topic is published; others are not.
    """

    def __init__(self, client: Client, targets: Mapping[str, tuple[str, str]]) -> None:
        self._client = client
        self._publishers = {}
        self._stamped = set()
        for topic, (name, message_type) in targets.items():
            published = message_class(message_type)
            # Reliable, which every subscriber accepts.
            self._publishers[topic] = client.publisher(published, name, 10)
            if begins_with_header(published):
                self._stamped.add(topic)

    def publish(self, frame: Frame, stamp_ns: int) -> FrameKey:
        """Publish a frame, the image last, and record it; returns the image's header.

        All stamps of the frame are shifted by as much as the image's.
        """
        shift_ns = stamp_ns - frame.stamp_ns
        messages = [self._shifted(message, shift_ns) for message in frame.companions]
        image = self._shifted(frame.image, shift_ns)

        def send() -> int:
            for message in messages:
                if message.topic in self._publishers:
                    self._publishers[message.topic].publish(message.data)
            published_ns = time_ns()
            self._publishers[image.topic].publish(image.data)
            return published_ns

        key = header_key(image.data)
        self._client.publish(key, send)
        return key

    def _shifted(self, message: Message, shift_ns: int) -> Message:
        if not shift_ns or message.topic not in self._stamped:
            return message
        stamp_ns = header_stamp_ns(message.data) + shift_ns
        return message._replace(data=with_header_stamp(message.data, stamp_ns))
