"""Read and write rosbag2 recordings, mcap or sqlite3, without ROS.

Messages stay serialised; :mod:`.cdr` reads and changes their headers in place.
"""

import shutil
import struct
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import apsw
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import (
    CompressionFormat,
    CompressionMode,
    Reader,
    ReaderError,
    StoragePlugin,
    Writer,
    WriterError,
)
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from panoptic_ros.benchmark.cdr import compressed_format, header_stamp_ns, image_encoding
from panoptic_ros.errors import BagError, one_line
from panoptic_ros.untrusted import file_sha256

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdError  # novm
else:
    from backports.zstd import ZstdError

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'

STORAGES = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
"""Names of ``ros2 bag record --storage``."""

TRUTH_TOPICS = ('/ground_truth/semantic', '/ground_truth/instance')
"""Topics of the ground truth, mono8 and 16UC1, with the headers of the images."""

BEST_EFFORT_TOPICS = ('/image', '/image/compressed', '/depth')
"""Topics that cameras publish best effort."""

# Read by Humble and later; version 9 needs Jazzy.
_FORMAT_VERSION: Literal[8] = 8

# Exceptions of the reader for files that are cut short or overwritten.
_DAMAGE = (
    *(ReaderError, OSError, apsw.Error, ZstdError, struct.error, EOFError),
    *(AssertionError, AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError),
)

_INFINITE = QosTime(9223372036, 854775807)


@dataclass(frozen=True)
class Topic:
    """One topic of a recording: name, ``package/msg/Type``, and number of messages."""

    name: str
    type: str
    count: int

    def __str__(self) -> str:
        return f'{self.name} ({self.type}, {self.count} messages)'


class Message(NamedTuple):
    """One recorded message: topic, time of recording (ns), and serialised data."""

    topic: str
    time_ns: int
    data: bytes


class BagReader:
    """An open recording: a folder with ``metadata.yaml``, an .mcap file or a .db3 file.

    Use it as a context manager.

    Attributes
    ----------
    path
        The path given.
    topics
        Topics with messages, by name.
    start_ns, end_ns
        Times of the first and the last message.
    notes
        Keys and values of ``custom_data``.

    Raises BagError if there is no recording, or it is empty or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._check_kind()
        with self._damage():
            self._reader = Reader(self.path)
            self._reader.open()
        try:
            with self._damage():
                found = self._reader.topics.items()
                self.topics = tuple(
                    Topic(name, info.msgtype or 'several types', info.msgcount)
                    for name, info in found
                    if info.msgcount
                )
                self.start_ns = self._reader.start_time
                self.end_ns = self._reader.end_time - 1
                self.notes = tuple((self._reader.storage.metadata.custom or {}).items())
            if not self.topics:
                raise BagError(f'recording {str(self.path)!r} is empty; record it again')
        except BagError:
            self.close()
            raise

    def _check_kind(self) -> None:
        text, path = str(self.path), self.path
        if not path.exists():
            raise BagError(
                f'recording {text!r} does not exist; expected a folder made by ros2 bag record, '
                'an .mcap file or a .db3 file'
            )
        if path.suffix == '.bag':
            raise BagError(
                f'{text!r} is a recording of ROS 1; convert it: rosbags-convert --src '
                f'{text} --dst {path.with_suffix("")}'
            )
        if path.is_dir() and not (path / 'metadata.yaml').is_file():
            raise BagError(
                f'folder {text!r} has no metadata.yaml: it is not a recording, or was not closed '
                'properly; name its .mcap or .db3 file, or run ros2 bag reindex'
            )
        if path.is_file() and path.suffix not in ('.mcap', '.db3'):
            raise BagError(
                f'{text!r} is not a recording; expected a folder that ros2 bag record made, an '
                '.mcap file or a .db3 file'
            )

    @contextmanager
    def _damage(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            why = one_line(error)
            raise BagError(
                f'recording {str(self.path)!r} cannot be read, it is damaged or was not ended '
                f'({why}); try ros2 bag reindex, or record it again'
            ) from error

    def __enter__(self) -> 'BagReader':
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def note(self, key: str) -> str:
        """Return the value of a key of ``custom_data``; empty if there is none."""
        return dict(self.notes).get(key, '')

    def read(
        self, topics: Collection[str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[Message]:
        """Read the messages of some topics in the order of their recording.

        Parameters
        ----------
        start_ns, stop_ns
            Only messages recorded at or after the first time and before the second.

        Raises BagError where the recording is damaged, which may be in the middle.
        """
        connections = [c for c in self._reader.connections if c.topic in topics]
        if not connections:
            return
        with self._damage():
            for connection, time_ns, data in self._reader.messages(connections, start_ns, stop_ns):
                yield Message(connection.topic, time_ns, data)

    def first(self, topic: str) -> Message:
        """Return the first message of a topic; raises BagError if it cannot be read."""
        message = next(self.read([topic]), None)
        if message is None:
            raise BagError(f'recording {str(self.path)!r} has lost the messages of {topic}')
        return message

    def sha256(self) -> dict[str, str]:
        """Return the SHA-256 of each file of the recording by its name."""
        files = sorted(self.path.iterdir()) if self.path.is_dir() else [self.path]
        return {path.name: file_sha256(path) for path in files if path.is_file()}


def image_topic(bag: BagReader, encodings: Collection[str], name: str | None = None) -> Topic:
    """Return the topic with the camera's images.

    Parameters
    ----------
    encodings
        Encodings of colour and grey images, in any case; images with others are depth, for
        example.
    name
        Name of the topic; None if the recording must have exactly one camera.

    Raises BagError, with the topics of the recording, if there is no such topic or no single one.
    """
    listed = '; '.join(map(str, bag.topics))
    if name is not None:
        topic = next((t for t in bag.topics if t.name == name), None)
        if topic is None:
            raise BagError(f'recording {str(bag.path)!r} has no topic {name}; it has {listed}')
        if topic.type not in (IMAGE, COMPRESSED_IMAGE):
            raise BagError(
                f'topic {name} of recording {str(bag.path)!r} is {topic.type}; expected {IMAGE} '
                f'or {COMPRESSED_IMAGE}; it has {listed}'
            )
        return topic
    found = [t for t in bag.topics if _is_camera(bag, t, encodings)]
    if len(found) != 1:
        what = 'several camera image topics' if found else 'no camera image topic'
        raise BagError(
            f'recording {str(bag.path)!r} has {what}; name one with --topic; it has {listed}'
        )
    return found[0]


def _is_camera(bag: BagReader, topic: Topic, encodings: Collection[str]) -> bool:
    accepted = {name.lower() for name in encodings}
    if topic.type == COMPRESSED_IMAGE and not topic.name.endswith('compressedDepth'):
        # 'ORIGINAL; CODEC compressed': depth as a plain PNG is a CompressedImage too.
        original, codec, _ = compressed_format(bag.first(topic.name).data).partition(';')
        return not codec or original.strip().lower() in accepted
    if topic.type != IMAGE or topic.name in TRUTH_TOPICS:
        return False
    return image_encoding(bag.first(topic.name).data).strip().lower() in accepted


def camera_info_topic(topics: Iterable[Topic], image: str) -> Topic | None:
    """Return the calibration that belongs to a topic of images; None if there is none.

    This is the one beside it by image_transport's rule (``/eye/image_raw`` and
    ``/eye/camera_info``), otherwise the only one.
    """
    found = [t for t in topics if t.type == CAMERA_INFO]
    beside = camera_info_name(image)
    return next((t for t in found if t.name == beside), found[0] if len(found) == 1 else None)


def camera_info_name(image: str) -> str:
    """Return the calibration topic of an image topic by image_transport's rule."""
    return f'{image.removesuffix("/compressed").rpartition("/")[0]}/camera_info'


@dataclass(frozen=True, eq=False)
class Frame:
    """An image and the messages that belong to it (calibration, depth, truth)."""

    image: Message
    companions: tuple[Message, ...]

    @property
    def stamp_ns(self) -> int:
        """The image's stamp."""
        return header_stamp_ns(self.image.data)


def frames(
    messages: Iterable[Message], image: str, stamped: Collection[str] = ()
) -> Iterator[Frame]:
    """Group recorded messages into frames, one for each image.

    A message belongs to the next image. If it has a header (topics in ``stamped``) and is not
    newer than the previous image, it belongs to that one: depth is often recorded after its
    image. Messages after the last image are dropped.
    """
    current: Message | None = None
    companions: list[Message] = []
    waiting: list[Message] = []
    for message in messages:
        if message.topic == image:
            if current is not None:
                yield Frame(current, tuple(companions))
            current, companions, waiting = message, waiting, []
        elif (
            current is not None
            and message.topic in stamped
            and header_stamp_ns(message.data) <= header_stamp_ns(current.data)
        ):
            companions.append(message)
        else:
            waiting.append(message)
    if current is not None:
        yield Frame(current, tuple(companions))


class BagWriter:
    """Writes a new recording, a folder for ``ros2 bag play``.

    Use it as a context manager. After an exception the folder is removed.

    Parameters
    ----------
    path
        Folder to create; it must not exist.
    storage
        One of :data:`STORAGES`.
    notes
        Keys and values for ``custom_data``.
    compress
        Whether an mcap file is compressed with zstd.

    Raises BagError if the folder exists or cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        storage: str,
        notes: Sequence[tuple[str, str]] = (),
        *,
        compress: bool = False,
    ) -> None:
        self.path = Path(path)
        if self.path.exists():
            raise BagError(f'{str(self.path)!r} exists; remove it, or choose another with --out')
        self._typestore = get_typestore(Stores.LATEST)
        self._writer = Writer(self.path, version=_FORMAT_VERSION, storage_plugin=STORAGES[storage])
        if compress and storage == 'mcap':
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        for key, value in notes:
            self._writer.set_custom_data(key, value)
        self._connections: dict[str, Any] = {}
        with self._faults():
            self._writer.open()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except (OSError, WriterError, apsw.Error) as error:
            raise BagError(
                f'cannot write {str(self.path)!r} ({error}); choose another folder with --out'
            ) from error

    def __enter__(self) -> 'BagWriter':
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._writer.abort()
            shutil.rmtree(self.path, ignore_errors=True)
            return
        with self._faults():
            self._writer.close()

    def add(
        self, topic: str, message_type: str, *, reliable: bool, depth: int, latched: bool = False
    ) -> None:
        """Declare a topic and the quality of service with which ``ros2 bag play`` publishes it."""
        qos = Qos(
            QosHistory.KEEP_LAST,
            depth,
            QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
            QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
            _INFINITE,
            _INFINITE,
            QosLiveliness.AUTOMATIC,
            _INFINITE,
            False,
        )
        with self._faults():
            self._connections[topic] = self._writer.add_connection(
                topic, message_type, typestore=self._typestore, offered_qos_profiles=[qos]
            )

    def knows(self, message_type: str) -> bool:
        """Return whether the definition of ``package/msg/Type`` is known, as mcap needs it."""
        return message_type in self._typestore.fielddefs

    def define(self, definitions: Mapping[str, str]) -> None:
        """Add definitions, the text of ``.msg`` files by ``package/msg/Type``."""
        for name, text in definitions.items():
            if not self.knows(name):
                self._typestore.register(get_types_from_msg(text, name))

    def write(self, message: Message) -> None:
        """Append a message of a declared topic, in the order of time."""
        with self._faults():
            self._writer.write(self._connections[message.topic], message.time_ns, message.data)
