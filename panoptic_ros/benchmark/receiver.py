"""Listens to a camera and to the node, and checks every frame as it comes.

Callbacks only note the time and pass the message on; a thread puts together what has one header
and checks it when enough later frames have come that nothing of it can still be under way.
"""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Thread
from time import time_ns
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from panoptic_ros.benchmark.checks import (
    IMAGE_ENCODINGS,
    Checks,
    FrameAudit,
    FrameKey,
    frame_key,
    label_info_fault,
    pixels,
)
from panoptic_ros.evaluation.intersections import Intersections
from panoptic_ros.evaluation.overlap import ClassOverlap
from panoptic_ros.evaluation.quality import PanopticQuality
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.ros.messages.optional import OccupancyGrid, vision_msgs

OUTPUTS_UNDER_WAY = 8
"""A frame is checked when outputs of so many later ones have begun to arrive."""

IMAGES_KEPT = 48
"""Images and truth of so many frames are kept until the node has answered them."""

TRUTH_TOPICS = ('ground_truth/semantic', 'ground_truth/instance')

_OUTPUT_QOS = QoSProfile(depth=30)
_CAMERA_INFO_QOS = QoSProfile(depth=100)


@dataclass(frozen=True, eq=False)
class Sample:
    """One frame to look at: pictures uint8 [H, W, 3] BGR, and the map between them.

    ``occupancy`` is int8 [size y, size x] of ``~/free_space``, None where there is none.
    """

    image_bgr: np.ndarray
    panoptic: Panoptic
    overlay_bgr: np.ndarray
    occupancy: np.ndarray | None


class FrameBook:
    """Puts together the messages with one header, has them checked, and keeps the figures.

    Parameters
    ----------
    label_set
        The node's.
    sample_every
        One frame in so many is kept to look at.
    max_samples
        And no more than so many.

    Attributes
    ----------
    checks
        What was checked so far.
    received
        Messages of the node by topic, ``diagnostics`` among them.
    size_wh
        Of the newest camera image; (0, 0) before the first.
    latencies_ns
        From the stamp of each image to the receipt of its semantic map.
    semantic_times_ns
        When each semantic map was received, of the clock of the stamps.
    status
        The node's newest diagnostics.
    quality, overlap
        Against the ground truth, of the frames that have one.
    samples
        Frames to look at.
    """

    def __init__(self, label_set: LabelSet, sample_every: int = 50, max_samples: int = 4) -> None:
        self.label_set = label_set
        self.checks = Checks()
        self.received: Counter[str] = Counter()
        self.size_wh = (0, 0)
        self.latencies_ns: list[int] = []
        self.semantic_times_ns: list[int] = []
        self.status = DiagnosticStatus()
        self.quality = PanopticQuality(label_set)
        self.overlap = ClassOverlap(label_set)
        self.samples: list[Sample] = []
        self._sample_every = sample_every
        self._max_samples = max_samples
        self._audit = FrameAudit(label_set, self.checks)
        self._frames_checked = 0
        self._sent: dict[FrameKey, CameraInfo] = {}
        self._images: dict[FrameKey, dict[str, Image]] = {}
        self._outputs: dict[FrameKey, dict[str, Any]] = {}

    @property
    def frames_sent(self) -> int:
        """How many frames the camera said it sent."""
        return len(self._sent)

    def take_camera_info(self, message: CameraInfo, received_ns: int) -> None:
        """Note that the camera sent a frame."""
        self._sent[frame_key(message.header)] = message
        self.size_wh = (message.width, message.height)

    def take_image(self, topic: str, message: Image, received_ns: int) -> None:
        """Keep the camera's image, or the truth about it."""
        self._images.setdefault(frame_key(message.header), {})[topic] = message
        while len(self._images) > IMAGES_KEPT:
            del self._images[min(self._images)]

    def take_status(self, message: DiagnosticArray, received_ns: int, *, name: str) -> None:
        """Keep the newest diagnostics of one name."""
        for status in message.status:
            if status.name == name:
                self.received['diagnostics'] += 1
                self.status = status

    def take_label_info(self, message: Any, received_ns: int) -> None:
        """Check what the node says its class ids mean."""
        self.checks['label_info'].add(label_info_fault(message, self.label_set))

    def take_output(self, topic: str, message: Any, received_ns: int) -> None:
        """Take a message of the node, and check the frames that are complete with it."""
        self.received[topic] += 1
        if isinstance(message, MarkerArray):
            if not message.markers:
                return  # without a marker there is no header
            header = message.markers[0].header
        else:
            header = message.header
        if topic == 'semantic':
            stamp_ns = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
            self.latencies_ns.append(received_ns - stamp_ns)
            self.semantic_times_ns.append(received_ns)
        self._outputs.setdefault(frame_key(header), {})[topic] = message
        while len(self._outputs) > OUTPUTS_UNDER_WAY:
            self._check_oldest()

    def close(self) -> None:
        """Check the frames that are left."""
        while self._outputs:
            self._check_oldest()

    def _check_oldest(self) -> None:
        key = min(self._outputs)
        outputs, images = self._outputs.pop(key), self._images.pop(key, {})
        panoptic = self._audit.audit(self._sent.get(key), outputs)
        if panoptic is None:
            return
        if set(TRUTH_TOPICS) <= images.keys():
            semantic, instance = (pixels(images[topic]) for topic in TRUTH_TOPICS)
            joint = Intersections.of(
                panoptic, Panoptic.from_maps(semantic, instance, self.label_set)
            )
            self.quality.add(joint)
            self.overlap.add(joint)
        is_due = self._frames_checked >= len(self.samples) * self._sample_every
        self._frames_checked += 1
        is_complete = 'image' in images and 'overlay' in outputs
        if is_due and is_complete and len(self.samples) < self._max_samples:
            image_bgr, overlay_bgr = pixels(images['image']), pixels(outputs['overlay'])
            grid, occupancy = outputs.get('free_space'), None
            if grid is not None:
                shape = grid.info.height, grid.info.width
                occupancy = np.frombuffer(grid.data, np.int8).reshape(shape)
            self.samples.append(Sample(image_bgr, panoptic, overlay_bgr, occupancy))


class Receiver:
    """Subscribes to everything and writes it into a book, from construction to :meth:`close`.

    Parameters
    ----------
    book
        Is written by a thread of this object until :meth:`close` has returned.
    takes_points
        Whether to subscribe to the clouds, which the node has with depth only.
    node_name
        Of the node that is listened to.

    Attributes
    ----------
    topics
        Of the node, those that are subscribed to and published for every frame.
    """

    def __init__(
        self, book: FrameBook, takes_points: bool = False, node_name: str = 'segment'
    ) -> None:
        self.topics: list[str] = []
        self._book = book
        self._arrivals: SimpleQueue[tuple[Any, Any, int] | None] = SimpleQueue()
        self._node = Node('receiver')
        self._subscribe_camera()
        self._subscribe_node(node_name, takes_points)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._threads = [Thread(target=self._spin), Thread(target=self._write)]
        for thread in self._threads:
            thread.start()

    def _subscribe_camera(self) -> None:
        book = self._book
        self._listen('camera_info', CameraInfo, _CAMERA_INFO_QOS, book.take_camera_info)
        for topic, qos in [
            ('image', qos_profile_sensor_data),
            *((topic, _OUTPUT_QOS) for topic in TRUTH_TOPICS),
        ]:
            self._listen(topic, Image, qos, partial(book.take_image, topic))

    def _subscribe_node(self, name: str, takes_points: bool) -> None:
        book = self._book
        outputs = [(topic, Image) for topic in IMAGE_ENCODINGS]
        outputs += [('camera_info', CameraInfo), ('markers', MarkerArray)]
        if takes_points:
            outputs.append(('points', PointCloud2))
        if OccupancyGrid is None:
            book.checks['free_space'].skipped = 'nav_msgs is not installed'
        else:
            outputs.append(('free_space', OccupancyGrid))
        if vision_msgs is None:
            for topic in ('detections', 'label_info'):
                book.checks[topic].skipped = 'vision_msgs is not installed'
        else:
            outputs.append(('detections', vision_msgs.Detection2DArray))
            latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            take = book.take_label_info
            self._listen(f'{name}/label_info', vision_msgs.LabelInfo, latched, take)
        for topic, message_type in outputs:
            take = partial(book.take_output, topic)
            self._listen(f'{name}/{topic}', message_type, _OUTPUT_QOS, take)
            self.topics.append(topic)
        take = partial(book.take_status, name=f'{name}: segmentation')
        self._listen('/diagnostics', DiagnosticArray, _OUTPUT_QOS, take)

    def _listen(self, topic: str, message_type: type, qos: QoSProfile, take: Any) -> None:
        def arrive(message: Any) -> None:
            self._arrivals.put((take, message, time_ns()))

        self._node.create_subscription(message_type, topic, arrive, qos)

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def _write(self) -> None:
        while (arrival := self._arrivals.get()) is not None:
            take, message, received_ns = arrival
            take(message, received_ns)
        self._book.close()

    def close(self) -> None:
        """Stop listening, and check what is still waiting to be."""
        self._executor.shutdown()
        self._arrivals.put(None)
        for thread in self._threads:
            thread.join()
        self._node.destroy_node()
