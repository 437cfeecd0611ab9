"""The topics a segmented frame goes out on, each built only if somebody subscribed to it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.exceptions import ParameterException
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import (
    DurabilityPolicy,
    InvalidQoSProfileException,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import InvalidQosOverridesError, QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from panoptic_ros import packing, visualize
from panoptic_ros.depth import ObjectDepths, measure_objects
from panoptic_ros.geometry import CameraModel, GroundPlane, Placement, place_boxes
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import Panoptic, Segments
from panoptic_ros.ros import messages
from panoptic_ros.ros.cdr import MarkerRow, header_cdr, image_cdr
from panoptic_ros.ros.diagnostics import FrameTimes, timing_message
from panoptic_ros.ros.markers import MarkerBoard, object_markers
from panoptic_ros.ros.messages import Picture
from panoptic_ros.ros.parameters import ParameterError, Tuning
from panoptic_ros.ros.points import CloudBuilder
from panoptic_ros.segmenter import Segmentation

QOS_OVERRIDES = QoSOverridingOptions(
    [
        QoSPolicyKind.HISTORY,
        QoSPolicyKind.DEPTH,
        QoSPolicyKind.RELIABILITY,
        QoSPolicyKind.DURABILITY,
    ]
)
"""What ``qos_overrides.<topic>.<publisher or subscription>`` in a parameter file can set."""

TIMING_DEPTH = 100
"""Who measures wants the times of all frames, and they are small."""

Build = Callable[['Result'], Any]


def no_depth() -> None:
    """Find no depth: for frames that have none."""


@dataclass(frozen=True, eq=False)
class Result:
    """One segmented frame and what its messages are made from.

    Parameters
    ----------
    header
        The image's; all messages have it, bit for bit.
    picture
        The image.
    segmentation
        What it shows.
    label_set
        What its class ids mean.
    calibration
        The camera's, as it came; None where there is none that can be used.
    tuning
        The parameters this frame is published with.
    find_depth
        Returns what :attr:`depth_m` is. It may wait for depth that is on its way, so what does
        not need depth is published before.
    """

    header: Header
    picture: Picture
    segmentation: Segmentation
    label_set: LabelSet
    calibration: CameraInfo | None
    tuning: Tuning
    find_depth: Callable[[], np.ndarray | None] = no_depth

    @cached_property
    def header_cdr(self) -> bytes:
        """The header, serialised, as messages that are written directly begin with it."""
        return header_cdr(self.header)

    @property
    def panoptic(self) -> Panoptic:
        """The panoptic map."""
        return self.segmentation.panoptic

    @cached_property
    def things(self) -> Segments:
        """The objects."""
        return self.panoptic.segments.things

    @cached_property
    def camera_info(self) -> CameraInfo | None:
        """The calibration for the pixels of the maps."""
        if self.calibration is None:
            return None
        return messages.fit_camera_info(self.calibration, self.header, self.panoptic.size_wh)

    @cached_property
    def depth_m(self) -> np.ndarray | None:
        """Depth of the maps' pixels, float32 [H, W], metres along the optical axis.

        NaN where it is not known; None if this frame has no depth.
        """
        return self.find_depth()

    def image(self, array: np.ndarray) -> bytes:
        """Return a map or a picture as an Image message, serialised; see :func:`image_cdr`."""
        return image_cdr(self.header_cdr, array)

    @cached_property
    def camera(self) -> CameraModel | None:
        """The camera of the maps' pixels; None without calibration."""
        info = self.camera_info
        return None if info is None else CameraModel.from_k(info.k, (info.width, info.height))

    @cached_property
    def measured(self) -> ObjectDepths | None:
        """What depth says about the objects; None without depth or calibration."""
        if self.camera is None or self.depth_m is None:
            return None
        ground = self.ground if self.tuning.turn_boxes else None
        return measure_objects(self.panoptic, self.depth_m, self.camera, ground)

    @cached_property
    def placement(self) -> Placement | None:
        """Where the objects are: measured, or else assumed; None without calibration."""
        if self.camera is None:
            return None
        assumed = place_boxes(
            self.things.box_xyxy,
            self.camera,
            self.ground,
            self.label_set.heights_m[self.things.class_id],
        )
        return assumed if self.measured is None else self.measured.boxes.otherwise(assumed)

    @property
    def ground(self) -> GroundPlane:
        """Flat ground, where the parameters say it is."""
        return GroundPlane(
            self.tuning.camera_height_m, self.tuning.camera_pitch_rad, self.tuning.ground_range_m
        )


class Outputs:
    """The publishers of a node, all reliable with depth 1 unless overridden.

    Parameters
    ----------
    node
        Its lifecycle switches the publishers on and off.
    has_depth
        Whether to offer what cannot be made without depth.

    Raises ParameterError if a QoS override cannot be used.
    """

    def __init__(self, node: LifecycleNode, has_depth: bool = False) -> None:
        self._node = node
        self._has_depth = has_depth
        self._board = MarkerBoard()
        self._clouds = CloudBuilder()
        self._label_info: LifecyclePublisher | None = None
        self._timing: LifecyclePublisher | None = None
        self._publishers: dict[LifecyclePublisher, Build] = {}
        try:
            self._create()
        except ParameterError:
            self.destroy()
            raise

    def _create(self) -> None:
        # In the order of their haste: planners first, pictures for people last.
        self._add('~/semantic', Image, _semantic)
        self._add('~/instance', Image, _instance)
        self._add('~/confidence', Image, _confidence)
        self._add('~/panoptic', Image, _panoptic)
        self._add('~/mask', Image, _mask)
        self._add('~/camera_info', CameraInfo, _camera_info)
        if messages.vision_msgs is not None:
            self._add('~/detections', messages.vision_msgs.Detection2DArray, _detections)
            self._label_info = self._publisher(
                '~/label_info',
                messages.vision_msgs.LabelInfo,
                durability=DurabilityPolicy.TRANSIENT_LOCAL,
            )
        # What may wait for depth comes after all that does not.
        if self._has_depth:
            self._add('~/points', PointCloud2, self._build_points)
            if messages.vision_msgs is not None:
                message_type = messages.vision_msgs.Detection3DArray
                self._add('~/detections_3d', message_type, _detections_3d)
        self._markers = self._add('~/markers', MarkerArray, self._build_markers)
        self._add('~/overlay', Image, _overlay)
        # Not one of those that make a frame wanted: a measurement does not change what is done.
        self._timing = self._publisher('~/timing', DiagnosticArray, depth=TIMING_DEPTH)

    def _add(self, topic: str, message_type: type, build: Build) -> LifecyclePublisher:
        publisher = self._publisher(topic, message_type)
        self._publishers[publisher] = build
        return publisher

    def _publisher(self, topic: str, message_type: type, **policies: Any) -> LifecyclePublisher:
        policies = {'depth': 1, 'reliability': ReliabilityPolicy.RELIABLE} | policies
        qos = QoSProfile(**policies)
        with qos_faults(self._node.resolve_topic_name(topic)):
            return self._node.create_lifecycle_publisher(
                message_type, topic, qos, qos_overriding_options=QOS_OVERRIDES
            )

    @property
    def is_wanted(self) -> bool:
        """Whether anybody subscribes to anything that is made from frames."""
        return any(publisher.get_subscription_count() for publisher in self._publishers)

    def publish_label_info(self, label_set: LabelSet, header: Header) -> None:
        """Say what the class ids mean, once: late subscribers get it too."""
        if self._label_info is not None:
            self._label_info.publish(messages.label_info_message(label_set, header))

    def publish(self, result: Result) -> None:
        """Publish a frame on every topic that somebody subscribes to."""
        for publisher, build in self._publishers.items():
            if publisher.get_subscription_count():
                message = build(result)
                if message is not None:
                    publisher.publish(message)

    def publish_timing(self, header: Header, times: FrameTimes) -> None:
        """Say what a frame took, once it is published, if somebody subscribed to that."""
        if self._timing.get_subscription_count():
            name = self._node.get_fully_qualified_name()
            self._timing.publish(timing_message(name, header, times))

    def clear_markers(self, header: Header) -> None:
        """Delete all markers, because what they showed is over."""
        self._markers.publish(self._board.clear(header))

    def destroy(self) -> None:
        """Destroy the publishers."""
        for publisher in [*self._publishers, *filter(None, [self._label_info, self._timing])]:
            self._node.destroy_lifecycle_publisher(publisher)

    def _build_points(self, result: Result) -> bytes | None:
        if result.camera is None or result.depth_m is None:
            return None
        return self._clouds.build(
            result.header_cdr, result.camera, result.depth_m, result.panoptic, result.picture
        )

    def _build_markers(self, result: Result) -> bytes:
        lifetime_s = result.tuning.marker_lifetime_s
        return self._board.show(_object_markers(result), result.header_cdr, lifetime_s)


@contextmanager
def qos_faults(topic: str) -> Iterator[None]:
    """Turn what rclpy raises on an unusable QoS override of a topic into a ParameterError."""
    try:
        yield
    except (
        RuntimeError,  # no policy has that name
        ParameterException,
        InvalidQosOverridesError,
        InvalidQoSProfileException,
    ) as error:
        raise ParameterError(
            f'the parameters qos_overrides.{topic} cannot be used: {error}; expected history '
            'keep_last or keep_all, depth a whole number, reliability reliable or best_effort, '
            'durability volatile or transient_local'
        ) from error


def _semantic(result: Result) -> bytes:
    return result.image(result.panoptic.semantic)


def _instance(result: Result) -> bytes:
    return result.image(result.panoptic.instance)


def _confidence(result: Result) -> bytes:
    # However sure the network was there, nobody is to prefer a pixel without a class.
    # (Not cv2.compare, which takes a map of one pixel for a number.)
    has_class = cv2.inRange(result.panoptic.semantic, 0, VOID - 1)
    confidence = cv2.bitwise_and(result.segmentation.confidence, has_class)
    return result.image(confidence)


def _panoptic(result: Result) -> bytes:
    pack = packing.PANOPTIC_PACKINGS[result.tuning.panoptic_packing]
    return result.image(pack(result.panoptic))


def _mask(result: Result) -> bytes:
    value_of_class = result.label_set.with_role(result.tuning.mask_role) * np.uint8(255)
    mask = cv2.LUT(result.panoptic.semantic, value_of_class)
    return result.image(mask)


def _camera_info(result: Result) -> CameraInfo | None:
    return result.camera_info


def _detections(result: Result) -> Any:
    return messages.detections_message(result.things, result.label_set.names, result.header)


def _detections_3d(result: Result) -> Any:
    if result.measured is None:
        return None
    return messages.detections_3d_message(
        result.things, result.measured.boxes, result.label_set.names, result.header
    )


def _object_markers(result: Result) -> list[MarkerRow]:
    if result.placement is None:
        return []
    return object_markers(result.things, result.placement, result.ground, result.label_set)


def _overlay(result: Result) -> bytes:
    picture = visualize.overlay(
        result.picture.bgr(), result.panoptic, result.label_set, result.tuning.overlay_opacity
    )
    return result.image(picture)
