"""The part of a recording that is replayed."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from panoptic_ros.benchmark.bags import (
    TRUTH_TOPICS,
    BagReader,
    Frame,
    Topic,
    frames,
    image_topic,
)
from panoptic_ros.benchmark.cdr import begins_with_header, message_class
from panoptic_ros.benchmark.replay.options import Options
from panoptic_ros.errors import BagError
from panoptic_ros.ros.camera import Prefetch
from panoptic_ros.ros.messages import DEPTH_ENCODINGS, ENCODING_NAMES

CAMERA_ENCODINGS = ENCODING_NAMES - {name.lower() for name in DEPTH_ENCODINGS}
"""Encodings by which the camera's topic is found; a thermal camera has to be named."""

HELD_BYTES = 1 << 30
"""Recordings up to this size are read into memory; larger ones are read ahead from disk."""

READ_AHEAD = 32  # frames
READ_TIMEOUT_S = 60.0


@dataclass(frozen=True, eq=False)
class Recording:
    """A part of an open recording.

    Parameters
    ----------
    bag
        The recording.
    image
        Topic of the camera's images.
    start_ns, stop_ns
        First time of the part, and the time after its end, of the recording's clock.
    """

    bag: BagReader
    image: Topic
    start_ns: int
    stop_ns: int

    @classmethod
    def open(cls, bag: BagReader, options: Options) -> 'Recording':
        """Select the part; raises BagError if a topic or the offset is not in the recording."""
        image = image_topic(bag, CAMERA_ENCODINGS, options.topic[0] if options.topic else None)
        start_ns = bag.start_ns + round(options.start_offset * 1e9)
        if start_ns > bag.end_ns:
            seconds = (bag.end_ns - bag.start_ns) / 1e9
            raise BagError(
                f'--start-offset is {options.start_offset:g} s; recording {str(bag.path)!r} is '
                f'{seconds:.1f} s long'
            )
        stop_ns = bag.end_ns + 1
        if options.duration is not None:
            stop_ns = min(stop_ns, start_ns + round(options.duration * 1e9))
        for name, _ in options.remap:
            if name not in {topic.name for topic in bag.topics}:
                listed = '; '.join(map(str, bag.topics))
                raise BagError(f'--remap: the recording has no topic {name}; it has {listed}')
        return cls(bag, image, start_ns, stop_ns)

    def type_of(self, topic: str) -> str:
        """Return the type of a topic."""
        return next(t.type for t in self.bag.topics if t.name == topic)

    @property
    def has_truth(self) -> bool:
        """Whether the panoptic ground truth is recorded."""
        return {topic.name for topic in self.bag.topics} >= set(TRUTH_TOPICS)

    def mounting(self) -> dict[str, float]:
        """Return the recorded camera pose as parameters of the node; empty if not recorded."""
        names = ('camera_height_m', 'camera_pitch_rad')
        return {name: float(self.bag.note(name)) for name in names if self.bag.note(name)}

    def reader(self, topics: Iterable[str]) -> Callable[[], Iterable[Frame]]:
        """Return a function that reads the frames of the part from its beginning."""
        wanted = {self.image.name, *topics}
        stamped = {t for t in wanted if begins_with_header(message_class(self.type_of(t)))}

        def read(bag: BagReader) -> Iterator[Frame]:
            messages = bag.read(wanted, self.start_ns, self.stop_ns)
            return frames(messages, self.image.name, stamped)

        def stream() -> Iterator[Frame]:
            with BagReader(self.bag.path) as own:  # used by the thread that reads ahead
                yield from read(own)

        if self._bytes_of(wanted) > HELD_BYTES:
            return lambda: _read_ahead(stream())
        held = list(read(self.bag))
        return lambda: held

    def _bytes_of(self, topics: Iterable[str]) -> int:
        part = (self.stop_ns - self.start_ns) / (self.bag.end_ns + 1 - self.bag.start_ns)
        found = [topic for topic in self.bag.topics if topic.name in topics]
        return round(part * sum(t.count * len(self.bag.first(t.name).data) for t in found))


def _read_ahead(frames: Iterator[Frame]) -> Iterator[Frame]:
    prefetch = Prefetch(frames, READ_AHEAD)
    try:
        while (frame := prefetch.get(READ_TIMEOUT_S)) is not None:
            yield frame
    finally:
        prefetch.close()
