"""Checks every image and every output of a run while it goes on, and measures the quality."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from visualization_msgs.msg import MarkerArray

from panoptic_ros.benchmark.bags import BagWriter
from panoptic_ros.benchmark.cdr import FrameKey
from panoptic_ros.benchmark.checks import (
    IMAGE_ENCODINGS,
    Checks,
    FrameAudit,
    free_road_fault,
    label_info_fault,
    pixels,
)
from panoptic_ros.benchmark.client import Client
from panoptic_ros.benchmark.frames import FrameRecord, Frames
from panoptic_ros.benchmark.recording.node_outputs import Recorder
from panoptic_ros.evaluation.intersections import Intersections
from panoptic_ros.evaluation.overlap import ClassOverlap
from panoptic_ros.evaluation.quality import PanopticQuality
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.ros.messages.optional import OccupancyGrid, vision_msgs

OUTPUTS_IN_TRANSIT = 8
"""An image is checked when outputs for so many later images have begun to arrive."""

SENT_INFO, SENT_IMAGE = '/camera_info', '/image'
TRUTH_TOPICS = ('/ground_truth/semantic', '/ground_truth/instance')
_CAMERA_TOPICS = (SENT_INFO, SENT_IMAGE, *TRUTH_TOPICS)

OUTPUTS: dict[str, Any] = {
    **dict.fromkeys(IMAGE_ENCODINGS, Image),
    'camera_info': CameraInfo,
    'markers': MarkerArray,
}
if OccupancyGrid is not None:
    OUTPUTS['free_space'] = OccupancyGrid
if vision_msgs is not None:
    OUTPUTS['detections'] = vision_msgs.Detection2DArray
_CLASSES = OUTPUTS | {'points': PointCloud2, SENT_INFO: CameraInfo}


@dataclass(frozen=True, eq=False)
class Sample:
    """One image for the report's pictures.

    Parameters
    ----------
    image_bgr, overlay_bgr
        uint8 [H, W, 3].
    panoptic
        The node's map.
    occupancy
        int8 [size y, size x] of ``~/free_space``; None if it did not come.
    """

    image_bgr: np.ndarray
    panoptic: Panoptic
    overlay_bgr: np.ndarray
    occupancy: np.ndarray | None


class Observer:
    """Audits the records of :class:`.frames.Frames`.

    Parameters
    ----------
    label_set
        Label set of the node's model.
    sample_every, max_samples
        Which images are kept as samples: one in so many, and how many at most.

    Attributes
    ----------
    checks
        Results so far.
    size_wh
        Size of the newest image checked; (0, 0) before the first.
    quality, overlap
        Against the ground truth, over the images that have one.
    samples
        Images for the report.
    """

    def __init__(self, label_set: LabelSet, sample_every: int = 50, max_samples: int = 4) -> None:
        self.label_set = label_set
        # The truth of the synthetic street has the classes of Cityscapes.
        self._is_scored = label_set.names == LabelSet.load('cityscapes').names
        self.checks = Checks()
        self.size_wh = (0, 0)
        self.quality = PanopticQuality(label_set)
        self.overlap = ClassOverlap(label_set)
        self.samples: list[Sample] = []
        self._sample_every = sample_every
        self._max_samples = max_samples
        self._audit = FrameAudit(label_set, self.checks)
        self._checked = 0

    def subscribe(self, client: Client, *, with_points: bool) -> tuple[str, ...]:
        """Subscribe to the camera and to all outputs; returns the outputs expected per image."""
        outputs = OUTPUTS | ({'points': PointCloud2} if with_points else {})
        client.frames.keep = frozenset((*outputs, *_CAMERA_TOPICS))
        client.receive(SENT_INFO, CameraInfo, publishes=True)
        client.receive(SENT_IMAGE, Image, qos=qos_profile_sensor_data)
        for topic in TRUTH_TOPICS:
            client.receive(topic, Image)
        client.receive_outputs(outputs)
        if OccupancyGrid is None:
            self.checks['free_space'].skipped = 'nav_msgs is not installed'
        if vision_msgs is None:
            for topic in ('detections', 'label_info'):
                self.checks[topic].skipped = 'vision_msgs is not installed'
        else:
            client.node.create_subscription(
                vision_msgs.LabelInfo,
                f'{client.target}/label_info',
                self._check_label_info,
                QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL),
            )
        return tuple(outputs)

    def _check_label_info(self, message: Any) -> None:
        self.checks['label_info'].add(label_info_fault(message, self.label_set))

    def take(
        self, frames: Frames, in_transit: int = OUTPUTS_IN_TRANSIT
    ) -> list[tuple[FrameKey, dict[str, bytes]]]:
        """Take the messages that are due for :meth:`check` out of the records, oldest first.

        Parameters
        ----------
        in_transit
            Number of answered images that are left, because outputs may still arrive.
        """
        answered = sorted(item for item in frames.items() if _outputs(item[1]))
        due = []
        for key, record in answered[: max(0, len(answered) - in_transit)]:
            due.append((key, record.messages))
            # The calibration stays: an output that comes even later is checked on its own.
            record.messages = {t: m for t, m in record.messages.items() if t == SENT_INFO}
        return due

    def check(self, serialized: dict[str, bytes]) -> None:
        """Check the messages with one header."""
        messages = {
            topic: deserialize_message(data, _CLASSES.get(topic, Image))
            for topic, data in serialized.items()
        }
        sent = messages.get(SENT_INFO)
        if sent is not None:
            self.size_wh = sent.width, sent.height
        outputs = {t: m for t, m in messages.items() if t not in _CAMERA_TOPICS}
        panoptic = self._audit.audit(sent, outputs)
        if panoptic is None:
            return
        if self._is_scored and messages.keys() >= set(TRUTH_TOPICS):
            semantic, instance = (pixels(messages[topic]) for topic in TRUTH_TOPICS)
            joint = Intersections.of(
                panoptic, Panoptic.from_maps(semantic, instance, self.label_set)
            )
            self.quality.add(joint)
            self.overlap.add(joint)
            if 'free_space' in outputs:
                self.checks['free_space: some of the road is free'].add(
                    free_road_fault(
                        outputs['free_space'], panoptic.semantic, semantic, self.label_set
                    )
                )
        is_due = self._checked >= len(self.samples) * self._sample_every
        self._checked += 1
        is_complete = messages.keys() >= {SENT_IMAGE, 'overlay'}
        if is_due and is_complete and len(self.samples) < self._max_samples:
            grid, occupancy = outputs.get('free_space'), None
            if grid is not None:
                shape = grid.info.height, grid.info.width
                occupancy = np.frombuffer(grid.data, np.int8).reshape(shape)
            image_bgr, overlay_bgr = pixels(messages[SENT_IMAGE]), pixels(outputs['overlay'])
            self.samples.append(Sample(image_bgr, panoptic, overlay_bgr, occupancy))


def _outputs(record: FrameRecord) -> bool:
    return any(topic not in _CAMERA_TOPICS for topic in record.messages)


def record(client: Client, bag: BagWriter) -> None:
    """Record all messages that the client receives, and what viewers show besides."""
    client.record = Recorder(bag)
    client.receive('/depth', Image, qos=qos_profile_sensor_data)
    client.receive('/depth/camera_info', CameraInfo)
    client.receive('/diagnostics', DiagnosticArray)
    client.receive(f'{client.target}/timing', DiagnosticArray)
