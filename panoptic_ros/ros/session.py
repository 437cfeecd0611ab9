"""What exists from configure to cleanup: the engine, and each camera with inputs and outputs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from panoptic_ros.engines import EngineDescription
from panoptic_ros.ros.diagnostics import FrameLog, FrameTimes, timing_message
from panoptic_ros.ros.inputs.depth import DepthInput, depth_type
from panoptic_ros.ros.inputs.ground import GroundInput
from panoptic_ros.ros.inputs.subscriptions import (
    CameraTopics,
    Subscriptions,
    Take,
    require_other_publisher,
)
from panoptic_ros.ros.inputs.transforms import CameraPoses
from panoptic_ros.ros.messages.detections import label_info_message
from panoptic_ros.ros.messages.optional import OccupancyGrid, TFMessage, vision_msgs
from panoptic_ros.ros.node_parameters import QOS_OVERRIDES, NodeParameters, qos_errors
from panoptic_ros.ros.outputs import LABEL_INFO, TIMING, Output
from panoptic_ros.ros.parameters import ParameterError, Tuning
from panoptic_ros.ros.pipeline import (
    WARN_PERIOD_S,
    Arrival,
    Inferred,
    Pipeline,
    infer,
    publish,
)
from panoptic_ros.ros.publishing import FramePublisher
from panoptic_ros.ros.scene import SceneEstimator
from panoptic_ros.ros.worker import StagedWorker, WaitFor
from panoptic_ros.scene.ground_view import CameraPose
from panoptic_ros.scene.tracking import Tracker
from panoptic_ros.segmenter import Segmenter

TIMING_DEPTH = 100
"""Queue of ``~/timing``: measurements need all frames, and the messages are small."""


def overlaps(choice: str, engine: EngineDescription) -> bool:
    """Return whether an image is published while the engine computes the next one.

    ``choice`` is the parameter ``overlap``.
    """
    return engine.is_gpu if choice == 'auto' else choice == 'always'


class CameraSession:
    """One camera: inputs, pipeline and publishers.

    Parameters
    ----------
    node
        Creates the publishers; its lifecycle switches them on and off.
    name
        Name of the camera, which its topics begin with; empty for the only one.
    segmenter
        Shared by all cameras.
    worker
        Runs the stages of the pipelines, shared by all cameras.
    parameters
        Read for every frame.
    poses
        Finds the pose of the camera in the target frame; None without one.
    is_diagnosed
        Returns whether ``/diagnostics`` has a subscriber.

    Attributes
    ----------
    name
        As given.
    log
        Counts and times of the frames.
    topics
        Names of the inputs.
    depth, virtual_depth
        Inputs for depth images; None where the parameters switch them off.
    ground
        Receives static transforms.
    pipeline
        Processes the images.

    Raises ParameterError if a QoS override cannot be used.
    """

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        segmenter: Segmenter,
        worker: StagedWorker[Arrival, list[Inferred]],
        parameters: NodeParameters,
        poses: CameraPoses | None,
        is_diagnosed: Callable[[], bool],
    ) -> None:
        structure = parameters.structure
        self.name = name
        self.log = FrameLog()
        self.topics = CameraTopics(node, name, structure.image_transport)
        self._node = node
        self._label_set = segmenter.model.label_set
        self.depth = self._depth_input('depth') if structure.depth else None
        self.virtual_depth = (
            self._depth_input('virtual_depth', may_be_empty=True)
            if structure.virtual_depth
            else None
        )
        self.ground = GroundInput(structure.ground_frame, self._log_info)
        self._resources = ExitStack()
        with ExitStack() as undo:
            undo.callback(self._resources.close)
            publisher = FramePublisher(structure, self._advertise)
            self._label_info = None
            if vision_msgs is not None:
                self._label_info = self._publisher(
                    LABEL_INFO,
                    vision_msgs.LabelInfo,
                    durability=DurabilityPolicy.TRANSIENT_LOCAL,
                )
            self._timing = self._publisher(TIMING, DiagnosticArray, depth=TIMING_DEPTH)
            undo.pop_all()
        tracker = Tracker()
        estimator = SceneEstimator(
            self._label_set,
            tracker,
            find_depth=self.depth.find if self.depth else None,
            find_virtual_depth=self.virtual_depth.find if self.virtual_depth else None,
            find_pose=partial(_find_pose, poses) if poses else None,
            target_frame=structure.target_frame,
            warn=partial(_warn, node),
        )
        self.pipeline = Pipeline(
            node,
            segmenter,
            worker,
            tracker,
            estimator,
            publisher,
            partial(parameters.tuning_of, name),
            log=self.log,
            ground=self.ground,
            camera_info_topic=self.topics.resolve('camera_info'),
            depth_inputs=tuple(filter(None, (self.depth, self.virtual_depth))),
            is_diagnosed=is_diagnosed,
            publish_timing=self._publish_timing,
        )

    def subscribe(self, subscriptions: Subscriptions) -> None:
        """Subscribe to the topics of the camera, the images last.

        Raises ParameterError if the topic of the images or a QoS override cannot be used.
        """
        topic, message_type = self.topics.image
        require_other_publisher(self._node, topic)
        inputs: list[tuple[str, type, Take]] = []
        if self.virtual_depth is not None:
            virtual_type = depth_type(self.topics.resolve('virtual_depth'))
            inputs.append(('virtual_depth', virtual_type, self.virtual_depth.take))
        if self.depth is not None:
            inputs.append(('depth/camera_info', CameraInfo, self.depth.take_camera_info))
            inputs.append(('depth', depth_type(self.topics.resolve('depth')), self.depth.take))
        inputs.append(('camera_info', CameraInfo, self.pipeline.take_camera_info))
        for name, input_type, take in inputs:
            subscriptions.add(self.topics.resolve(name), input_type, take)
        subscriptions.add(topic, message_type, self.pipeline.take_image)
        self._log_info(f'waiting for images on {topic}')

    def find_latched_calibration(self, subscriptions: Subscriptions) -> None:
        """Subscribe to a calibration that was published once, before this node started."""
        topic = self.topics.resolve('camera_info')
        subscriptions.add_if_latched(topic, CameraInfo, self.pipeline.take_camera_info)

    def start(self) -> None:
        """Publish the label info, which is latched."""
        if self._label_info is not None:
            header = Header(stamp=self._node.get_clock().now().to_msg())
            self._label_info.publish(label_info_message(self._label_set, header))

    def close(self) -> None:
        """Destroy the publishers."""
        self._resources.close()

    def _log_info(self, text: str) -> None:
        self._node.get_logger().info(f'{self.name}: {text}' if self.name else text)

    def _depth_input(self, name: str, **options: Any) -> DepthInput:
        topic = self.topics.resolve(name)
        return DepthInput(self._node.get_logger(), self.log, topic, name, **options)

    def _advertise(self, output: Output) -> LifecyclePublisher:
        # Latched, so that a subscriber after segment_once receives the image; a volatile
        # subscriber receives only what comes.
        return self._publisher(
            output.topic, output.message_type, durability=DurabilityPolicy.TRANSIENT_LOCAL
        )

    def _publisher(self, topic: str, message_type: type, **policies: Any) -> LifecyclePublisher:
        topic = output_topic(topic, self.name)
        qos = QoSProfile(**{'depth': 1, 'reliability': ReliabilityPolicy.RELIABLE} | policies)
        with qos_errors(self._node.resolve_topic_name(topic)):
            publisher = self._node.create_lifecycle_publisher(
                message_type, topic, qos, qos_overriding_options=QOS_OVERRIDES
            )
        self._resources.callback(self._node.destroy_lifecycle_publisher, publisher)
        return publisher

    def _publish_timing(self, header: Header, times: FrameTimes) -> None:
        if self._timing.get_subscription_count():
            name = self._node.get_fully_qualified_name()
            self._timing.publish(timing_message(name, header, times))


def output_topic(topic: str, camera: str) -> str:
    """Return an output such as ``~/semantic`` for a camera, whose name may be empty."""
    return topic.replace('~/', f'~/{camera}/', 1) if camera else topic


def _find_pose(poses: CameraPoses, header: Header, tuning: Tuning) -> CameraPose:
    return poses.find(header, tuning.transform_wait_s, tuning.transform_max_age_s)


def _warn(node: LifecycleNode, text: str) -> None:
    node.get_logger().warning(text, throttle_duration_sec=WARN_PERIOD_S)


class Session:
    """The engine, and the cameras that share it.

    Parameters
    ----------
    node
        Creates the publishers; its lifecycle switches them on and off.
    segmenter
        Opened on the inference thread.
    inference
        That thread; used by nothing else from now on.
    parameters
        Read for every frame.
    is_diagnosed
        Returns whether ``/diagnostics`` has a subscriber.
    on_failure, wait_for
        See :class:`~panoptic_ros.ros.worker.StagedWorker`.

    Attributes
    ----------
    segmenter
        As given.
    cameras
        One for each name in the parameter ``cameras``, or one without a name.

    Raises ParameterError if a QoS override, the target frame or a class name cannot be used.
    """

    def __init__(
        self,
        node: LifecycleNode,
        segmenter: Segmenter,
        inference: ThreadPoolExecutor,
        parameters: NodeParameters,
        *,
        is_diagnosed: Callable[[], bool],
        on_failure: Callable[[BaseException], None],
        wait_for: WaitFor,
    ) -> None:
        structure = parameters.structure
        if error := parameters.tuning.unknown_class(segmenter.model.label_set):
            raise ParameterError(error)
        self.segmenter = segmenter
        self._node = node
        self._ground_frame = structure.ground_frame
        self._worker = StagedWorker(
            partial(infer, segmenter),
            publish,
            inference,
            batch=segmenter.engine.description.batch,
            overlap=overlaps(structure.overlap, segmenter.engine.description),
            on_failure=on_failure,
            wait_for=wait_for,
        )
        self._resources = ExitStack()
        self.cameras: list[CameraSession] = []
        with ExitStack() as undo:
            undo.callback(self._resources.close)
            poses = None
            if structure.target_frame:
                poses = CameraPoses(node, structure.target_frame, partial(_warn, node))
                self._resources.callback(poses.destroy)
            for name in structure.camera_names:
                self.cameras.append(
                    CameraSession(
                        node, name, segmenter, self._worker, parameters, poses, is_diagnosed
                    )
                )
                self._resources.callback(self.cameras[-1].close)
            undo.pop_all()

    @property
    def missing_outputs(self) -> list[str]:
        """What is not published because a package is not installed, a sentence each."""
        off = '{} off: {} is not installed (on Ubuntu it is the package ros-DISTRO-{})'
        missing = []
        if vision_msgs is None:
            topics = '~/detections and ~/label_info are'
            missing.append(off.format(topics, 'vision_msgs', 'vision-msgs'))
        if OccupancyGrid is None:
            missing.append(off.format('~/free_space is', 'nav_msgs', 'nav-msgs'))
        return missing

    def subscribe(self, subscriptions: Subscriptions) -> None:
        """Subscribe to the topics of all cameras; errors as in :class:`CameraSession`."""
        if TFMessage is not None and self._ground_frame:
            takes = [camera.ground.take for camera in self.cameras]
            subscriptions.add_latched('/tf_static', TFMessage, takes)
        for camera in self.cameras:
            camera.subscribe(subscriptions)

    def start(self) -> None:
        """Publish what is latched."""
        for camera in self.cameras:
            camera.start()

    def enable(self, is_enabled: bool) -> None:
        """Segment images, or ignore them."""
        for camera in self.cameras:
            camera.pipeline.is_enabled = is_enabled

    def segment_once(self) -> None:
        """Publish the next image of each camera on all topics."""
        for camera in self.cameras:
            camera.pipeline.segment_once()

    def halt(self) -> None:
        """Finish the frames in work, drop those that wait, forget tracks and delete markers."""
        for camera in self.cameras:
            camera.pipeline.halt()

    def close(self) -> None:
        """Close the engine, end the threads, destroy the publishers."""
        self._worker.stop(last=self.segmenter.engine.close)
        self._resources.close()
