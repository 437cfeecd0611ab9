"""Listens to a camera and to the node, and checks every frame as it comes.

Callbacks only note the time and pass the message on; a thread puts together what has one header
and checks it when enough later frames have come that nothing of it can still be under way.
"""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from queue import SimpleQueue
from threading import Thread
from time import time_ns
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import MarkerArray

from panoptic_ros.evaluation.joint import JointAreas
from panoptic_ros.evaluation.overlap import ClassOverlap
from panoptic_ros.evaluation.quality import PanopticQuality
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.ros.checks import (
    Checks,
    FrameAudit,
    FrameKey,
    frame_key,
    label_info_fault,
    pixels,
)
from panoptic_ros.ros.messages import vision_msgs

FRAMES_UNDER_WAY = 16
"""A frame is checked when so many later ones have begun to arrive."""

_OUTPUT_QOS = QoSProfile(depth=30)
_CAMERA_INFO_QOS = QoSProfile(depth=100)
_TRUTH_QOS = QoSProfile(depth=30)

TRUTH_TOPICS = ('ground_truth/semantic', 'ground_truth/instance')


@dataclass(eq=False)
class Frame:
    """The messages with one header, by topic."""

    camera: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Sample:
    """One frame to look at: pictures uint8 [H, W, 3] BGR, and the map between them."""

    image_bgr: np.ndarray
    panoptic: Panoptic
    overlay_bgr: np.ndarray


class Receiver:
    """Subscribes to everything, from construction to :meth:`close`.

    Parameters
    ----------
    label_set
        The node's.
    node_name
        Of the node that is listened to.
    sample_every
        One frame in so many is kept to look at.
    max_samples
        And no more than so many.

    Attributes
    ----------
    checks
        What was checked so far; complete after :meth:`close`.
    received
        Messages by topic.
    latencies_ns
        From the stamp of each image to the receipt of its semantic map.
    status
        The node's newest diagnostics.
    label_set
        As given.
    topics
        Of the node, those that are subscribed to and always published.
    size_wh
        Of the newest camera image; (0, 0) before the first.
    semantic_times_ns
        When each semantic map was received, of the clock of the stamps.
    quality, overlap
        Against the ground truth, of the frames that have one.
    samples
        Frames to look at.
    """

    def __init__(
        self,
        label_set: LabelSet,
        node_name: str = 'segment',
        sample_every: int = 50,
        max_samples: int = 4,
    ) -> None:
        self.checks = Checks()
        self.received: Counter[str] = Counter()
        self.latencies_ns: list[int] = []
        self.semantic_times_ns: list[int] = []
        self.status = DiagnosticStatus()
        self.quality = PanopticQuality(label_set)
        self.overlap = ClassOverlap(label_set)
        self.samples: list[Sample] = []
        self.label_set = label_set
        self.topics: list[str] = []
        self.size_wh = (0, 0)
        self._sample_every = sample_every
        self._max_samples = max_samples
        self._audited = count()
        self._audit = FrameAudit(label_set, self.checks)
        self._frames: dict[FrameKey, Frame] = {}
        self._arrivals: SimpleQueue[tuple[str, str, Any, int] | None] = SimpleQueue()
        self._node = Node('receiver')
        self._subscribe(node_name)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._threads = [Thread(target=self._spin), Thread(target=self._work)]
        for thread in self._threads:
            thread.start()

    def _subscribe(self, node_name: str) -> None:
        camera = [
            ('camera_info', CameraInfo, _CAMERA_INFO_QOS),
            ('image', Image, qos_profile_sensor_data),
            *((topic, Image, _TRUTH_QOS) for topic in TRUTH_TOPICS),
        ]
        images = ('semantic', 'instance', 'confidence', 'overlay', 'panoptic')
        outputs = [(topic, Image) for topic in images]
        outputs += [('camera_info', CameraInfo), ('markers', MarkerArray)]
        for topic, message_type, qos in camera:
            self._listen('camera', topic, topic, message_type, qos)
        if vision_msgs is None:
            for topic in ('detections', 'label_info'):
                self.checks[topic].skipped = 'vision_msgs is not installed'
        else:
            outputs.append(('detections', vision_msgs.Detection2DArray))
            latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            name = f'{node_name}/label_info'
            self._listen('label_info', 'label_info', name, vision_msgs.LabelInfo, latched)
        for topic, message_type in outputs:
            name = f'{node_name}/{topic}'
            self._listen('outputs', topic, name, message_type, _OUTPUT_QOS)
            self.topics.append(topic)
        self._listen('diagnostics', '', '/diagnostics', DiagnosticArray, _OUTPUT_QOS)
        self._status_name = f'{node_name}: segmentation'

    def _listen(
        self, group: str, topic: str, name: str, message_type: type, qos: QoSProfile
    ) -> None:
        callback = partial(self._arrive, group, topic)
        self._node.create_subscription(message_type, name, callback, qos)

    def _arrive(self, group: str, topic: str, message: Any) -> None:
        self._arrivals.put((group, topic, message, time_ns()))

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def close(self) -> None:
        """Stop listening and check what is still waiting to be."""
        self._executor.shutdown()
        self._arrivals.put(None)
        for thread in self._threads:
            thread.join()
        self._node.destroy_node()

    # On the thread that checks.

    def _work(self) -> None:
        while (arrival := self._arrivals.get()) is not None:
            self._take(*arrival)
        while self._frames:
            self._finish_oldest()

    def _take(self, group: str, topic: str, message: Any, received_ns: int) -> None:
        if group == 'diagnostics':
            self.received['diagnostics'] += 1
            for status in message.status:
                if status.name == self._status_name:
                    self.status = status
            return
        if group == 'label_info':
            self.checks['label_info'].add(label_info_fault(message, self.label_set))
            return
        if group == 'outputs':
            self.received[topic] += 1
        if topic == 'semantic':
            stamp = message.header.stamp
            self.latencies_ns.append(received_ns - stamp.sec * 10**9 - stamp.nanosec)
            self.semantic_times_ns.append(received_ns)
        if isinstance(message, MarkerArray):
            if not message.markers:
                return  # without a marker there is no header
            header = message.markers[0].header
        else:
            header = message.header
        frame = self._frames.setdefault(frame_key(header), Frame())
        getattr(frame, group)[topic] = message
        if group == 'camera' and topic == 'camera_info':
            self.received['frames sent'] += 1
            self.size_wh = (message.width, message.height)
        while len(self._frames) > FRAMES_UNDER_WAY:
            self._finish_oldest()

    def _finish_oldest(self) -> None:
        frame = self._frames.pop(min(self._frames))
        panoptic = self._audit.audit(frame.camera.get('camera_info'), frame.outputs)
        if panoptic is None:
            return
        if set(TRUTH_TOPICS) <= frame.camera.keys():
            semantic, instance = (pixels(frame.camera[topic]) for topic in TRUTH_TOPICS)
            truth = Panoptic.from_maps(semantic, instance, self.label_set)
            joint = JointAreas.of(panoptic, truth)
            self.quality.add(joint)
            self.overlap.add(joint)
        self._sample(frame, panoptic)

    def _sample(self, frame: Frame, panoptic: Panoptic) -> None:
        due = next(self._audited) >= len(self.samples) * self._sample_every
        complete = 'image' in frame.camera and 'overlay' in frame.outputs
        if due and complete and len(self.samples) < self._max_samples:
            image, overlay = pixels(frame.camera['image']), pixels(frame.outputs['overlay'])
            self.samples.append(Sample(image, panoptic, overlay))
