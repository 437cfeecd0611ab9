"""Record what the node makes of the images of a recording.

The node runs as a child process. An image is published when the outputs of the one before have
come, so that no output is lost, however slow the machine is.
"""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_path
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Header

from panoptic_ros.benchmark.bags import BEST_EFFORT_TOPICS, BagWriter, Message
from panoptic_ros.benchmark.cdr import FrameKey, frame_key, key_reader, type_name
from panoptic_ros.benchmark.client import OUTPUT_QOS, Client
from panoptic_ros.benchmark.frames import Frames
from panoptic_ros.benchmark.processes import NodeLostError, Processes, process_environment
from panoptic_ros.ros.camera import CameraFrame
from panoptic_ros.ros.messages.optional import vision_msgs
from panoptic_ros.ros.outputs import DIAGNOSTICS, LABEL_INFO, OUTPUTS, TIMING

START_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 120.0
REPEAT_S = 5.0
"""An image without an answer after this time is published again, because images are best effort.
An output that is still missing so long after ``~/timing``, the last one, does not come."""

WARM_UP_FRAMES, WARM_UP_S = 30, 0.5

INPUTS = ('camera_info', 'depth/camera_info', 'depth', 'image', 'image/compressed')
"""Topics of the camera that the node reads, in the order of publication."""

_LATCHED_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Recorder:
    """Records serialised messages of any topic.

    Parameters
    ----------
    bag
        Open for writing.
    latched
        Topics whose latest message a late subscriber needs.

    Attributes
    ----------
    skipped
        Topics that are not recorded, because the definition of their type is not known here.
    """

    def __init__(self, bag: BagWriter, latched: Collection[str] = ()) -> None:
        self.skipped: set[str] = set()
        self._bag = bag
        self._latched = latched
        self._topics: set[str] = set()
        self._latest_ns = 0

    def __call__(self, topic: str, message_class: type, time_ns: int, data: bytes) -> None:
        """Append a serialised message."""
        if topic not in self._topics | self.skipped:
            self._declare(topic, message_class)
        if topic in self._topics:
            # Two topics may be received in another order than they are reported.
            self._latest_ns = max(self._latest_ns, time_ns)
            self._bag.write(Message(topic, self._latest_ns, data))

    def _declare(self, topic: str, message_class: type) -> None:
        message_type = type_name(message_class)
        if not self._bag.knows(message_type):
            self._bag.define(installed_definitions(message_type))
        if not self._bag.knows(message_type):
            self.skipped.add(topic)
            return
        is_latched = topic in self._latched
        self._bag.add(
            topic,
            message_type,
            reliable=topic not in BEST_EFFORT_TOPICS,
            depth=1 if is_latched else 10,
            latched=is_latched,
        )
        self._topics.add(topic)


def installed_definitions(message_type: str) -> dict[str, str]:
    """Return the definitions (.msg) of an installed ``package/msg/Type``, by type.

    Those of its fields that are of the same package are included. Empty if it is not installed.
    """
    package = message_type.partition('/')[0]
    try:
        folder = get_package_share_path(package) / 'msg'
    except PackageNotFoundError:
        return {}
    found: dict[str, str] = {}
    names = {message_type.rpartition('/')[2]}
    while names:
        name = names.pop()
        path = folder / f'{name}.msg'
        if path.is_file():
            text = found[f'{package}/msg/{name}'] = path.read_text(encoding='utf-8')
            fields = re.findall(rf'^\s*(?:{package}/)?([A-Z]\w*)\b', text, re.MULTILINE)
            names |= {field for field in fields if f'{package}/msg/{field}' not in found}
    return found


def output_classes(parameters: Mapping[str, Any]) -> dict[str, type]:
    """Return the message classes of the outputs that every image has, by topic (``~/semantic``).

    Outputs whose package is not installed are left out, and those that these parameters of the
    node do not offer.
    """
    return {
        output.topic: output.message_type
        for output in OUTPUTS
        if output.message_type is not None
        and (not output.parameter or parameters.get(output.parameter))
    } | {TIMING: DiagnosticArray}


class NodeOutputs:
    """Publishes frames to the node and records its outputs.

    Parameters
    ----------
    client
        Talks to the node.
    bag
        Open for writing.
    classes
        Message classes of the outputs of each image, see :func:`output_classes`.

    Attributes
    ----------
    incomplete
        Number of frames for which an output did not come.
    """

    def __init__(self, client: Client, bag: BagWriter, classes: Mapping[str, type]) -> None:
        self.incomplete = 0
        self._client = client
        self._expected = {self._full(topic) for topic in classes}
        self._readers = {self._full(topic): key_reader(c) for topic, c in classes.items()}
        self._recorder = Recorder(bag, latched={self._full(LABEL_INFO)})
        self._publishers: dict[str, Publisher] = {}
        self._key: FrameKey | None = None
        self._missing: set[str] = set()
        self._received: list[tuple[str, type, bytes]] = []
        client.record = self._take
        others: dict[str, type] = {DIAGNOSTICS: DiagnosticArray}
        if vision_msgs is not None:
            others[LABEL_INFO] = vision_msgs.LabelInfo
        for topic, message_class in {**classes, **others}.items():
            qos = _LATCHED_QOS if topic == LABEL_INFO else OUTPUT_QOS
            client.receive(self._full(topic), message_class, qos=qos, read_key=lambda _: None)

    def _full(self, topic: str) -> str:
        return topic.replace('~', self._client.target)

    def _take(self, topic: str, message_class: type, _: int, data: bytes) -> None:
        """Keep a message, unless it is of an earlier frame; called with the client's lock."""
        if topic in self._expected:
            if topic not in self._missing or self._readers[topic](data) not in (None, self._key):
                return
            self._missing.discard(topic)
        self._received.append((topic, message_class, data))

    @property
    def skipped(self) -> set[str]:
        """Topics that are not recorded, because the definition of their type is not known."""
        return self._recorder.skipped

    def record(self, frame: CameraFrame, time_ns: int) -> None:
        """Publish a stamped frame and record its outputs at a time.

        Raises NodeLostError if the node ends or does not answer.
        """
        if self._key is None:
            self._warm_up(frame)
        if not self._is_answered(frame, REPEAT_S):
            self.incomplete += 1
        for topic, message_class, data in self._taken():
            self._recorder(topic, message_class, time_ns, data)

    def _warm_up(self, frame: CameraFrame) -> None:
        """Publish a frame with earlier stamps until all its outputs come.

        Before the node has discovered all subscriptions it leaves outputs out.
        """
        header = next(iter(frame.by_topic.values())).header
        for number in range(WARM_UP_FRAMES):
            stamp = Time(sec=header.stamp.sec - WARM_UP_FRAMES + number)
            frame.stamp(Header(stamp=stamp, frame_id=header.frame_id))
            if self._is_answered(frame, WARM_UP_S):
                break
        frame.stamp(header)
        others = [taken for taken in self._taken() if taken[0] not in self._expected]
        with self._client.lock:
            self._received = others + self._received

    def _is_answered(self, frame: CameraFrame, patience_s: float) -> bool:
        """Publish a frame; return whether all outputs come, so long after the last one."""
        end_s = monotonic() + ANSWER_TIMEOUT_S
        with self._client.lock:
            self._key = frame_key(next(iter(frame.by_topic.values())).header)
            self._missing = set(self._expected)
        while self._missing == self._expected:
            if monotonic() > end_s:
                raise NodeLostError(
                    f'the node did not answer an image for {ANSWER_TIMEOUT_S:.0f} s; its '
                    f'diagnostics: {self._client.status.message!r}'
                )
            self._publish(frame)
            self._client.wait_until(lambda: self._missing != self._expected, REPEAT_S)
        timing = self._full(TIMING)
        self._client.wait_until(lambda: timing not in self._missing, end_s - monotonic())
        return self._client.wait_until(lambda: not self._missing, patience_s)

    def _taken(self) -> list[tuple[str, type, bytes]]:
        with self._client.lock:
            received, self._received = self._received, []
        return received

    def _publish(self, frame: CameraFrame) -> None:
        for topic in INPUTS:
            message = frame.by_topic.get(topic)
            if message is not None:
                if topic not in self._publishers:
                    self._publishers[topic] = self._client.publisher(type(message), f'/{topic}')
                self._publishers[topic].publish(message)


@contextmanager
def running_node(bag: BagWriter, parameters: Mapping[str, Any]) -> Iterator[NodeOutputs]:
    """Run the node until the end of the block; its outputs go to a recording.

    Raises NodeLostError if it does not become active.
    """
    os.environ.update(process_environment())  # before the first ROS context
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        processes = stack.enter_context(Processes(Path(folder)))
        client = stack.enter_context(Client(Frames()))
        outputs = NodeOutputs(client, bag, output_classes(parameters))
        node = processes.start('panoptic_ros.ros.node', parameters)
        client.processes = [node]
        if not client.wait_until(
            lambda: client.status.values.get('state') == 'active', START_TIMEOUT_S
        ):
            raise NodeLostError(
                f'the node did not become active within {START_TIMEOUT_S:.0f} s; the end of its '
                f'log:\n{node.tail()}'
            )
        yield outputs
