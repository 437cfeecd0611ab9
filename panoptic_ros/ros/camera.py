"""``ros2 run panoptic_ros camera``: a camera for machines without one.

Publishes the synthetic street, a video, a folder of pictures, one picture or a real camera as
``image`` (bgr8) and ``camera_info``. The street also publishes what is known about it:
``ground_truth/semantic`` (mono8), ``ground_truth/instance`` (16UC1), ``depth`` (32FC1, metres, NaN
where there is none) and ``depth/camera_info``. All messages of one frame have one header.

Messages are made ahead of time in a thread, so that a slow source does not shake the rate; a
timer gives them their stamp and publishes them.
"""

import queue
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from threading import Event, Thread
from time import monotonic
from typing import Generic, TypeVar

import cv2
import numpy as np
import rclpy
from geometry_msgs.msg import TransformStamped
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from panoptic_ros.datasets.street.scene import StreetFrame, SyntheticStreet
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.ros.arguments import MAX_FIELD_OF_VIEW_DEG
from panoptic_ros.ros.messages import image_message
from panoptic_ros.ros.messages.optional import TFMessage
from panoptic_ros.ros.parameters import ParameterError, Tuning
from panoptic_ros.ros.signals import StopSignal
from panoptic_ros.scene.geometry import GroundPlane, quaternion_xyzw
from panoptic_ros.scene.ground_view import CameraPose
from panoptic_ros.sources import open_pictures

OK, USER_ERROR = 0, 2
"""Exit codes of :func:`main`."""

GROUND_FRAME = 'base_footprint'
STREET = 'street'
STREET_SIZE_WH = (640, 320)
DEFAULT_RATE_HZ = 15.0

KNOWN_QOS = QoSProfile(depth=10)
"""Calibration and truth are reliable: comparisons need every frame."""

_TRUTH_TOPICS = ('ground_truth/semantic', 'ground_truth/instance')
_DEPTH_TOPIC = 'depth'


@dataclass(frozen=True)
class CameraSettings:
    """Parameters of the node, described in :data:`_DESCRIPTIONS`."""

    source: str = STREET
    rate_hz: float = 0.0
    loop: bool = False
    frames: int = 0
    frame_id: str = 'camera_optical_frame'
    width: int = 0
    height: int = 0
    horizontal_fov_deg: float = 0.0
    seed: int = 0
    camera_height_m: float = Tuning.camera_height_m
    camera_pitch_rad: float = Tuning.camera_pitch_rad
    wait_for_subscribers: int = 1
    prefetch: int = 30

    @property
    def size_wh(self) -> tuple[int, int] | None:
        """Requested size in pixels; None for that of the source."""
        return (self.width, self.height) if self.width and self.height else None


_DESCRIPTIONS = {
    'source': 'street (synthetic), a video, a folder of images, an image, a camera (number or '
    '/dev/video0) or a stream (rtsp://, http://)',
    'rate_hz': 'Frames per second; 0 for the stamps of a video, 15 for the rest [Hz]',
    'loop': 'Start again at the end of a video, folder or picture',
    'frames': 'Stop after so many frames; 0 for never',
    'frame_id': 'Frame of all headers; an optical one, z forward',
    'width': "Width of the images, 0 for the source's own (street: 640) [pixels]",
    'height': "Height of the images, 0 for the source's own (street: 320) [pixels]",
    'horizontal_fov_deg': 'Horizontal field of view assumed of sources without calibration, 0 '
    'leaves them without (the street has its own) [degrees]',
    'seed': 'Which street',
    'camera_height_m': 'Height of the camera above the street [m]',
    'camera_pitch_rad': 'Angle the camera looks down at the street [rad]',
    'wait_for_subscribers': 'Begin when so many subscribe to the image',
    'prefetch': 'Frames made ahead of time, also before the first is published',
}

_RANGES = {
    'rate_hz': (0.0, 1000.0),
    'frames': (0, 2**31),
    'width': (0, 16384),
    'height': (0, 16384),
    'horizontal_fov_deg': (0.0, MAX_FIELD_OF_VIEW_DEG),
    'seed': (0, 2**31),
    'camera_height_m': (0.3, 5.0),
    'camera_pitch_rad': (-0.5, 0.5),
    'wait_for_subscribers': (0, 100),
    'prefetch': (1, 10000),
}


def declare_settings(node: Node) -> CameraSettings:
    """Declare the parameters, read-only because the source is opened at start.

    Raises ParameterError if a value given at start has the wrong type or is out of range.
    """
    return CameraSettings(
        **{f.name: _declare(node, f.name, f.default) for f in fields(CameraSettings)}
    )


def _declare(node: Node, name: str, default: bool | int | float | str) -> bool | int | float | str:
    descriptor = ParameterDescriptor(description=_DESCRIPTIONS[name], read_only=True)
    expected = {bool: 'true or false', str: 'a text'}.get(type(default), '')
    if name in _RANGES:
        low, high = _RANGES[name]
        if isinstance(default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        else:
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
        kind = 'number with a decimal point' if isinstance(default, float) else 'whole number'
        expected = f'a {kind}, {low} to {high}'
    # The number of a camera looks like an integer to YAML.
    descriptor.dynamic_typing = name == 'source'
    try:
        value = node.declare_parameter(name, default, descriptor).value
    except ParameterException as error:
        raise ParameterError(
            f'parameter {name} is not usable ({error}); expected {expected}'
        ) from error
    return str(value) if isinstance(default, str) else value


@dataclass(frozen=True, eq=False)
class CameraFrame:
    """Messages of one frame by topic, without headers, in the order of publication.

    ``stamp_ns`` is the time since the first frame, None in sources without a clock.
    """

    by_topic: dict[str, CameraInfo | Image]
    stamp_ns: int | None = None

    def stamp(self, header: Header) -> None:
        """Give all messages the same header."""
        for message in self.by_topic.values():
            message.header = header


def open_source(settings: CameraSettings) -> tuple[float, Iterator[CameraFrame]]:
    """Open the source; returns the rate in Hz and the frames.

    Raises SourceError if it does not exist or cannot be read, DatasetError for a size that the
    street cannot be rendered at.
    """
    if settings.source == STREET:
        rate_hz = settings.rate_hz or DEFAULT_RATE_HZ
        street = SyntheticStreet(
            settings.seed,
            settings.size_wh or STREET_SIZE_WH,
            rate_hz,
            camera_height_m=settings.camera_height_m,
            camera_pitch_rad=settings.camera_pitch_rad,
        )
        return rate_hz, map(street_frame, street)
    pictures = open_pictures(settings.source)
    frames = (
        replace(
            picture_frame(picture.image_bgr, settings.size_wh, settings.horizontal_fov_deg),
            # With a rate of one's own, and from a camera, frames are published as they come.
            stamp_ns=None if settings.rate_hz or pictures.is_live else picture.stamp_ns,
        )
        for picture in (pictures.forever() if settings.loop else pictures)
    )
    return settings.rate_hz or pictures.rate_hz or DEFAULT_RATE_HZ, frames


def street_frame(frame: StreetFrame) -> CameraFrame:
    """Return the messages of a frame of the street."""
    header = Header()
    info = camera_info_message(frame.camera_matrix, frame.size_wh)
    image_bgr = cv2.cvtColor(frame.image_rgb, cv2.COLOR_RGB2BGR)
    semantic_topic, instance_topic = _TRUTH_TOPICS
    # image_message needs four bytes a pixel; the encoding gives their meaning.
    depth = image_message(frame.depth_m.view(np.int32), header)
    depth.encoding = '32FC1'
    return CameraFrame(
        {
            'camera_info': info,
            'image': image_message(image_bgr, header),
            semantic_topic: image_message(frame.truth.semantic, header),
            instance_topic: image_message(frame.truth.instance, header),
            f'{_DEPTH_TOPIC}/camera_info': info,
            _DEPTH_TOPIC: depth,
        }
    )


def picture_frame(
    image_bgr: np.ndarray, size_wh: tuple[int, int] | None, horizontal_fov_deg: float
) -> CameraFrame:
    """Return the messages of an image, uint8 [H, W, 3], resized to ``size_wh`` if that is given.

    Without a field of view the calibration is all zeros, as sensor_msgs/CameraInfo defines it.
    """
    if size_wh is not None and image_bgr.shape[1::-1] != size_wh:
        image_bgr = cv2.resize(image_bgr, size_wh, interpolation=cv2.INTER_AREA)
    height, width = image_bgr.shape[:2]
    matrix = np.zeros((3, 3))
    if horizontal_fov_deg > 0:
        focal = width / 2 / np.tan(np.radians(horizontal_fov_deg) / 2)
        matrix[:] = [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]]
    return CameraFrame(
        {
            'camera_info': camera_info_message(matrix, (width, height)),
            'image': image_message(image_bgr, Header()),
        }
    )


def camera_info_message(camera_matrix: np.ndarray, size_wh: tuple[int, int]) -> CameraInfo:
    """Return the calibration of a camera without distortion, ``camera_matrix`` float64 [3, 3]."""
    info = CameraInfo(width=size_wh[0], height=size_wh[1], distortion_model='plumb_bob')
    if camera_matrix.any():
        info.d = [0.0] * 5
        info.k = camera_matrix.reshape(-1)
        info.r = np.eye(3).reshape(-1)
        info.p = np.hstack([camera_matrix, np.zeros((3, 1))]).reshape(-1)
    return info


Item = TypeVar('Item')


class Prefetch(Generic[Item]):
    """Reads an iterator in a thread, up to ``ahead`` items before :meth:`get` needs them."""

    def __init__(self, items: Iterable[Item], ahead: int) -> None:
        self._queue: queue.Queue[Item | None] = queue.Queue(ahead)
        self._stopped = Event()
        self._ended = Event()
        self._error: PanopticRosError | cv2.error | None = None
        self._thread = Thread(target=self._run, args=(items,), daemon=True)
        self._thread.start()

    def _run(self, items: Iterable[Item]) -> None:
        try:
            for item in items:
                self._put(item)
                if self._stopped.is_set():
                    return
        except (PanopticRosError, cv2.error) as error:
            self._error = error
        self._ended.set()
        self._put(None)

    def _put(self, item: Item | None) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    @property
    def is_ready(self) -> bool:
        """Whether the queue is full or the iterator has ended."""
        return self._queue.full() or self._ended.is_set()

    def get(self, timeout_s: float) -> Item | None:
        """Return the next item, or None at the end.

        Raises queue.Empty on timeout, and at the end an error of the iterator.
        """
        item = self._queue.get(timeout=timeout_s)
        if item is None and self._error is not None:
            raise self._error
        return item

    def close(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()


class CameraNode(Node):
    """Publishes the frames of a source. The parameters are in :class:`CameraSettings`.

    Attributes
    ----------
    done
        Is set when the last frame is out.

    Raises
    ------
    ParameterError, SourceError, DatasetError
        If a parameter cannot be used, or the source cannot be opened.
    """

    def __init__(self) -> None:
        super().__init__('camera')
        self._prefetch: Prefetch | None = None
        try:
            self.settings = declare_settings(self)
            rate_hz, frames = open_source(self.settings)
        except PanopticRosError:
            self.destroy_node()  # before the context ends, or the process may not
            raise
        self.done = Future()
        self._outputs = {
            topic: self._publisher(message_type, topic, qos)
            for topic, message_type, qos in self._topics()
        }
        self._published = 0
        self._began_s = 0.0
        self._early: CameraFrame | None = None
        self._interval_s = 1 / rate_hz
        self._prefetch = Prefetch(
            islice(frames, self.settings.frames or None), self.settings.prefetch
        )
        self._publish_pose()
        self.create_timer(1 / rate_hz, self._publish_next)
        self.get_logger().info(
            f'{self.settings.source} at {rate_hz:.4g} Hz; waiting for '
            f'{self.settings.wait_for_subscribers} subscriber(s) of '
            f'{self.resolve_topic_name("image")}'
        )

    def _topics(self) -> list[tuple[str, type, QoSProfile]]:
        topics = [
            ('camera_info', CameraInfo, KNOWN_QOS),
            ('image', Image, qos_profile_sensor_data),
        ]
        if self.settings.source == STREET:
            topics += [(topic, Image, KNOWN_QOS) for topic in _TRUTH_TOPICS]
            topics += [
                (f'{_DEPTH_TOPIC}/camera_info', CameraInfo, KNOWN_QOS),
                (_DEPTH_TOPIC, Image, qos_profile_sensor_data),
            ]
        return topics

    def _publish_pose(self) -> None:
        """Publish the pose of the street's camera in ``base_footprint``, latched."""
        if self.settings.source != STREET or TFMessage is None:
            return
        ground = GroundPlane(self.settings.camera_height_m, self.settings.camera_pitch_rad)
        pose = CameraPose.over(ground)
        transform = TransformStamped(child_frame_id=self.settings.frame_id)
        transform.header.frame_id = GROUND_FRAME
        shift, turn = transform.transform.translation, transform.transform.rotation
        shift.x, shift.y, shift.z = pose.position_m
        # The rows of the transposed matrix are the optical axes in the ground frame.
        turn.x, turn.y, turn.z, turn.w = quaternion_xyzw(pose.matrix.T)
        qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._pose = self.create_publisher(TFMessage, '/tf_static', qos)
        self._pose.publish(TFMessage(transforms=[transform]))

    def _publisher(self, message_type: type, topic: str, qos: QoSProfile) -> Publisher:
        overrides = QoSOverridingOptions.with_default_policies()
        return self.create_publisher(message_type, topic, qos, qos_overriding_options=overrides)

    def _publish_next(self) -> None:
        if not self._published:
            subscribers = self._outputs['image'].get_subscription_count()
            if subscribers < self.settings.wait_for_subscribers or not self._prefetch.is_ready:
                return
            self._began_s = monotonic()
        try:
            frame = self._early or self._prefetch.get(timeout_s=0.5)
        except queue.Empty:
            self.get_logger().warning(
                f'{self.settings.source} is slower than the rate', throttle_duration_sec=5
            )
            return
        except (PanopticRosError, cv2.error) as error:
            self.done.set_exception(error)
            return
        if frame is None:
            self._finish()
            return
        self._early = None
        # Half an interval of tolerance, because the timer ticks at the typical rate.
        due_s = self._began_s + (frame.stamp_ns or 0) / 1e9 - self._interval_s / 2
        if monotonic() < due_s:
            self._early = frame
            return
        frame.stamp(Header(stamp=self.get_clock().now().to_msg(), frame_id=self.settings.frame_id))
        for topic, message in frame.by_topic.items():
            self._outputs[topic].publish(message)
        self._published += 1

    def _finish(self) -> None:
        if self.done.done():
            return
        seconds = monotonic() - self._began_s
        for publisher in self._outputs.values():
            publisher.wait_for_all_acked(Duration(seconds=1))
        self.get_logger().info(f'published {self._published} frames in {seconds:.1f} s')
        self.done.set_result(None)

    def stop(self) -> None:
        """Complete :attr:`done`, from any thread."""
        if not self.done.done():
            self.done.set_result(None)

    def destroy_node(self) -> None:
        """Stop the prefetch, then destroy the node."""
        if self._prefetch is not None:
            self._prefetch.close()
        super().destroy_node()


def main(args: Sequence[str] | None = None) -> int:
    """Publish until the source ends, SIGINT or SIGTERM; returns the exit code."""
    with StopSignal() as stop:
        return serve(stop, args)


def serve(stop: StopSignal, args: Sequence[str] | None = None) -> int:
    """Publish until the source ends or a signal comes; returns the exit code."""
    cv2.setNumThreads(1)  # leaves the cores to the segmentation
    try:
        rclpy.init(
            args=None if args is None else list(args),
            signal_handler_options=SignalHandlerOptions.NO,
        )
        node = CameraNode()
    except (PanopticRosError, RuntimeError) as error:  # RuntimeError: unusable ROS arguments
        print(f'camera: {error}', file=sys.stderr)
        rclpy.try_shutdown()
        return USER_ERROR
    stop.came.add_done_callback(lambda _: node.stop())
    try:
        rclpy.spin_until_future_complete(node, node.done)
        node.done.result()
    except (PanopticRosError, cv2.error) as error:
        print(f'camera: {error}', file=sys.stderr)
        return USER_ERROR
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return OK


if __name__ == '__main__':
    sys.exit(main())
