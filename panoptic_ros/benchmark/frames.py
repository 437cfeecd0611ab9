"""What a benchmark knows about each image: when it was published, and what came back for it."""

from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic_ns

from panoptic_ros.benchmark.cdr import FrameKey

FRAMES_KEPT = 100_000
"""Records of so many of the latest images are kept; older ones are forgotten."""

IMAGES_KEPT = 48
"""Messages above :data:`LARGE_BYTES` are kept for so many of the latest images."""

LARGE_BYTES = 4096


@dataclass
class FrameRecord:
    """One image and the messages with its header.

    Parameters
    ----------
    number
        Position in the order of publication, from 1; 0 for a header that nobody published.
    published_ns
        Time of publication, of ``time_ns``; 0 if not known.
    received_ns
        Times of receipt by topic, of ``time_ns``; several if a message came several times.
    messages
        Serialised messages by topic, of the topics that are kept.
    stages_ms
        The node's own times, from ``~/timing``; empty if not known.
    """

    number: int = 0
    published_ns: int = 0
    received_ns: dict[str, list[int]] = field(default_factory=dict)
    messages: dict[str, bytes] = field(default_factory=dict)
    stages_ms: dict[str, float] = field(default_factory=dict)


class Frames:
    """Records by header. Not thread-safe: :class:`.client.Client` holds a lock around each call.

    Parameters
    ----------
    outputs
        Topics of the node under test; the first one decides whether an image was answered.
    keep
        Topics whose messages are kept; for an answer all of them have to come.

    Attributes
    ----------
    received
        Number of messages by topic.
    duplicates
        Number of images published with the header of an earlier one; they are not measured.
    last_answer_ns
        Time of the latest complete answer, of the steady clock; 0 if there is none.
    """

    def __init__(self, outputs: Sequence[str] = (), keep: Collection[str] = ()) -> None:
        self.outputs = tuple(outputs)
        self.keep = frozenset(keep)
        self.received: Counter[str] = Counter()
        self.duplicates = 0
        self.last_answer_ns = 0
        self.published = 0
        self._records: dict[FrameKey, FrameRecord] = {}
        self._with_images: deque[FrameRecord] = deque()
        self._published_before: set[FrameKey] = set()
        self._newest_answered = 0

    def __iter__(self) -> Iterator[FrameRecord]:
        """Iterate over the records of published images in the order of publication."""
        return iter(sorted(filter(_number, self._records.values()), key=_number))

    def __getitem__(self, key: FrameKey) -> FrameRecord:
        return self._records[key]

    def items(self) -> list[tuple[FrameKey, FrameRecord]]:
        """Return all headers and their records, also of headers that nobody published."""
        return list(self._records.items())

    def publish(self, key: FrameKey, published_ns: int = 0) -> None:
        """Note an image that is about to be published, or was published by somebody else."""
        record = self._record(key)
        if record.number:
            self.duplicates += 1
            return
        self.published += 1
        record.number = self.published
        record.published_ns = published_ns

    def receive(self, topic: str, key: FrameKey | None, received_ns: int, data: bytes) -> None:
        """Note a message; without a header (an empty MarkerArray) it is only counted."""
        self.received[topic] += 1
        if key is None:
            return
        record = self._record(key)
        record.received_ns.setdefault(topic, []).append(received_ns)
        if topic in self.keep:
            record.messages[topic] = data
        self._note_answer(record)

    def time(self, key: FrameKey, stages_ms: dict[str, float]) -> None:
        """Note the node's own times of an image, which it publishes after all outputs."""
        record = self._record(key)
        record.stages_ms = stages_ms
        self._note_answer(record)

    def _record(self, key: FrameKey) -> FrameRecord:
        record = self._records.get(key)
        if record is None:
            record = self._records[key] = FrameRecord()
            self._with_images.append(record)
            if len(self._with_images) > IMAGES_KEPT:
                old = self._with_images.popleft()
                old.messages = {t: m for t, m in old.messages.items() if len(m) <= LARGE_BYTES}
            if len(self._records) > FRAMES_KEPT:
                del self._records[next(iter(self._records))]
        return record

    def _note_answer(self, record: FrameRecord) -> None:
        if self.is_complete(record):
            self._newest_answered = max(self._newest_answered, record.number)
            self.last_answer_ns = monotonic_ns()

    def is_complete(self, record: FrameRecord) -> bool:
        """Return whether the first output, all kept messages and the node's times have come."""
        came = record.received_ns
        return bool(record.stages_ms) and came.keys() >= {*self.outputs[:1], *self.keep}

    def is_settled(self, key: FrameKey) -> bool:
        """Return whether an image, or one published later, was answered.

        The node never goes back to an older image.
        """
        record = self._records.get(key)
        return record is not None and 0 < record.number <= self._newest_answered

    @property
    def answered(self) -> int:
        """Number of images with a complete answer."""
        return sum(record.number > 0 for record in filter(self.is_complete, self))

    def unpublished(self, topic: str) -> set[FrameKey]:
        """Return the headers that came on a topic and that nobody published."""
        return {
            key
            for key, record in self._records.items()
            if topic in record.received_ns
            and not record.number
            and key not in self._published_before
        }

    def repeated(self, topic: str) -> set[FrameKey]:
        """Return the headers that came on a topic more than once."""
        return {
            key
            for key, record in self._records.items()
            if len(record.received_ns.get(topic, ())) > 1
        }

    def forget(self) -> None:
        """Forget all records.

        Headers published since the previous call still count as published in
        :meth:`unpublished`.
        """
        self._published_before = {key for key, record in self._records.items() if record.number}
        self._records.clear()
        self._with_images.clear()
        self._newest_answered = self.published


def _number(record: FrameRecord) -> int:
    return record.number
