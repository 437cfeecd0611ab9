"""The topics a segmented frame goes out on, each built only if somebody subscribed to it."""

from collections.abc import Callable, Iterator, Sequence
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
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import Panoptic, Segments
from panoptic_ros.ros import messages
from panoptic_ros.ros.callbacks import UnhurriedGroup
from panoptic_ros.ros.diagnostics import FrameTimes, Surroundings, timing_message
from panoptic_ros.ros.messages import Picture
from panoptic_ros.ros.messages.cdr import MarkerRow, header_cdr, image_cdr
from panoptic_ros.ros.messages.markers import MarkerBoard, object_markers, surface_markers
from panoptic_ros.ros.messages.points import CloudBuilder
from panoptic_ros.ros.parameters import ParameterError, Structure, Tuning, listed
from panoptic_ros.ros.surroundings import OccupancyGrid, SurroundingsBuilder
from panoptic_ros.scene.depth import ObjectDepths, measure_objects
from panoptic_ros.scene.geometry import CameraModel, GroundPlane, PlacedBy, Placement, place_boxes
from panoptic_ros.scene.occlusion import occlusion_mask, scene_depth, support_planes
from panoptic_ros.scene.supports import NONE, Supports, find_supports, with_roles
from panoptic_ros.scene.tracking import Tracker
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

POSITION_NOISE = 0.02
"""Standard deviation of the middle of a measured box, as a share of its depth."""

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
    find_virtual_depth
        The same for depth of virtual things.
    tracker
        Gave the objects their ids; None if these mean nothing beyond the frame.
    """

    header: Header
    picture: Picture
    segmentation: Segmentation
    label_set: LabelSet
    calibration: CameraInfo | None
    tuning: Tuning
    find_depth: Callable[[], np.ndarray | None] = no_depth
    find_virtual_depth: Callable[[], np.ndarray | None] = no_depth
    tracker: Tracker | None = None

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
        if self.calibration is None:
            return None
        return messages.fit_camera(self.calibration, self.panoptic.size_wh)

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
        if self.measured is not None and (self.measured.boxes.method == PlacedBy.DEPTH).all():
            return self.measured.boxes
        assumed = place_boxes(
            self.things.box_xyxy,
            self.camera,
            self.ground,
            self.label_set.heights_m[self.things.class_id],
        )
        return assumed if self.measured is None else self.measured.boxes.otherwise(assumed)

    @cached_property
    def supports(self) -> Supports:
        """What carries each segment."""
        return find_supports(self.panoptic, self.label_set, self.depth_m)

    @cached_property
    def velocity_m_s(self) -> np.ndarray:
        """How the objects move relative to the camera, float32 [n, 3]; NaN where not known."""
        if self.measured is None or self.tracker is None:
            return np.full((len(self.things), 3), np.nan, np.float32)
        noise_m = POSITION_NOISE * self.measured.depth_m
        self.tracker.locate(self.measured.boxes.position_m, noise_m)
        return self.tracker.tracks.velocity_m_s

    @cached_property
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
    structure
        Says what is offered, besides what can always be made.

    Attributes
    ----------
    events
        Of the publishers.

    Raises ParameterError if a QoS override or the target frame cannot be used.
    """

    def __init__(self, node: LifecycleNode, structure: Structure) -> None:
        self.events = UnhurriedGroup()
        self._node = node
        self._structure = structure
        self._board = MarkerBoard()
        self._objects_board = MarkerBoard()
        self._surfaces_board = MarkerBoard()
        self._surroundings = SurroundingsBuilder(node, structure.target_frame)
        self._clouds = CloudBuilder()
        self._label_info: LifecyclePublisher | None = None
        self._timing: LifecyclePublisher | None = None
        self._publishers: dict[LifecyclePublisher, Build] = {}
        self._without_ids: tuple[LifecyclePublisher, ...] = ()
        try:
            self._create()
        except ParameterError:
            self.destroy()
            raise

    def _create(self) -> None:
        # In the order of their haste: planners first, pictures for people last.
        self._add('~/semantic', Image, _semantic)
        self._add('~/confidence', Image, _confidence)
        self._add('~/mask', Image, _mask)
        self._without_ids = tuple(self._publishers)
        self._add('~/instance', Image, _instance)
        self._add('~/panoptic', Image, _panoptic)
        self._add('~/camera_info', CameraInfo, _camera_info)
        if messages.vision_msgs is not None:
            self._add('~/detections', messages.vision_msgs.Detection2DArray, _detections)
            self._label_info = self._publisher(
                '~/label_info',
                messages.vision_msgs.LabelInfo,
                durability=DurabilityPolicy.TRANSIENT_LOCAL,
            )
        # What may wait for depth comes after all that does not.
        if self._structure.depth:
            self._add('~/points', PointCloud2, self._build_points)
            if messages.vision_msgs is not None:
                message_type = messages.vision_msgs.Detection3DArray
                self._add('~/detections_3d', message_type, _detections_3d)
        if OccupancyGrid is not None:
            self._add('~/free_space', OccupancyGrid, self._surroundings.build)
        if self._structure.virtual_depth:
            self._add('~/occlusion', Image, _occlusion)
        if messages.vision_msgs is not None:
            message_type = messages.vision_msgs.Detection2DArray
            self._add('~/object_detections', message_type, _object_detections)
        self._boards = {
            self._add(topic, MarkerArray, build): board
            for topic, build, board in (
                ('~/markers', self._build_markers, self._board),
                ('~/objects', self._build_objects, self._objects_board),
                ('~/support_surfaces', self._build_surfaces, self._surfaces_board),
            )
        }
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
                message_type,
                topic,
                qos,
                callback_group=self.events,
                qos_overriding_options=QOS_OVERRIDES,
            )

    @property
    def surroundings(self) -> Surroundings | None:
        """What was around lately; None where nobody subscribes to ``~/free_space``."""
        return self._surroundings.latest

    @property
    def is_wanted(self) -> bool:
        """Whether anybody subscribes to anything that is made from frames."""
        return any(publisher.get_subscription_count() for publisher in self._publishers)

    def publish_label_info(self, label_set: LabelSet, header: Header) -> None:
        """Say what the class ids mean, once: late subscribers get it too."""
        if self._label_info is not None:
            self._label_info.publish(messages.label_info_message(label_set, header))

    def publish_classes(self, result: Result) -> None:
        """Publish what of a frame has no ids in it, if somebody subscribes to it."""
        self._publish(result, self._without_ids)

    def publish(self, result: Result) -> None:
        """Publish the rest of a frame on every topic that somebody subscribes to."""
        self._publish(result, [p for p in self._publishers if p not in self._without_ids])

    def _publish(self, result: Result, publishers: Sequence[LifecyclePublisher]) -> None:
        for publisher in publishers:
            if publisher.get_subscription_count():
                message = self._publishers[publisher](result)
                if message is not None:
                    publisher.publish(message)

    def publish_timing(self, header: Header, times: FrameTimes) -> None:
        """Say what a frame took, once it is published, if somebody subscribed to that."""
        if self._timing.get_subscription_count():
            name = self._node.get_fully_qualified_name()
            self._timing.publish(timing_message(name, header, times))

    def clear_markers(self, header: Header) -> None:
        """Delete all markers, because what they showed is over."""
        for publisher, board in self._boards.items():
            publisher.publish(board.clear(header))

    def destroy(self) -> None:
        """Destroy the publishers, and stop listening to transforms."""
        self._surroundings.destroy()
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

    def _build_objects(self, result: Result) -> bytes:
        chosen = _chosen_objects(result)
        markers = []
        if result.placement is not None:
            markers = object_markers(
                result.things.where(chosen),
                result.placement.where(chosen),
                result.ground,
                result.label_set,
                result.velocity_m_s[chosen],
                _carried_by(result, chosen),
            )
        return self._objects_board.show(
            markers, result.header_cdr, result.tuning.marker_lifetime_s
        )

    def _build_surfaces(self, result: Result) -> bytes:
        markers = []
        if result.camera is not None:
            planes = support_planes(
                result.panoptic, result.label_set, result.camera, result.ground, result.depth_m
            )
            segments = result.panoptic.segments.where(planes.row)
            markers = surface_markers(planes, segments, result.label_set)
        return self._surfaces_board.show(
            markers, result.header_cdr, result.tuning.marker_lifetime_s
        )


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


def _chosen_objects(result: Result) -> np.ndarray:
    """Return which things are wanted on ``~/objects``, intp [n]."""
    roles = listed(result.tuning.object_roles)
    return np.flatnonzero(with_roles(result.things, result.label_set, roles))


def _carried_by(result: Result, chosen: np.ndarray) -> list[str]:
    """Return class and track id of what carries each of some things; '' where nothing does."""
    segments, names = result.panoptic.segments, result.label_set.names
    rows = result.supports.row[segments.is_thing][chosen]
    return [
        names[segments.class_id[row]] + f' {segments.track_id[row]}' * bool(segments.is_thing[row])
        if row != NONE
        else ''
        for row in rows.tolist()
    ]


def _object_detections(result: Result) -> Any:
    chosen = _chosen_objects(result)
    return messages.detections_message(
        result.things.where(chosen),
        result.label_set.names,
        result.header,
        _carried_by(result, chosen),
    )


def _occlusion(result: Result) -> bytes | None:
    virtual_depth_m = result.find_virtual_depth()
    if virtual_depth_m is None or (result.depth_m is None and result.placement is None):
        return None
    real_depth_m = result.depth_m
    if real_depth_m is None:
        real_depth_m = scene_depth(
            result.panoptic,
            result.label_set,
            result.camera,
            result.ground,
            result.placement.base_m[:, 2],
        )
    return result.image(occlusion_mask(virtual_depth_m, real_depth_m) * np.uint8(255))


def _object_markers(result: Result) -> list[MarkerRow]:
    if result.placement is None:
        return []
    return object_markers(
        result.things, result.placement, result.ground, result.label_set, result.velocity_m_s
    )


def _overlay(result: Result) -> bytes:
    picture = visualize.overlay(
        result.picture.bgr(), result.panoptic, result.label_set, result.tuning.overlay_opacity
    )
    return result.image(picture)
