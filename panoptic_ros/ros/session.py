"""Everything that exists from configure to cleanup: inputs, pipeline, publishers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Header

from panoptic_ros.engines import EngineDescription
from panoptic_ros.ros.diagnostics import FrameLog, FrameTimes, timing_message
from panoptic_ros.ros.inputs.depth import DepthInput
from panoptic_ros.ros.inputs.ground import GroundInput
from panoptic_ros.ros.inputs.transforms import CameraPoses
from panoptic_ros.ros.messages.detections import label_info_message
from panoptic_ros.ros.messages.optional import OccupancyGrid, vision_msgs
from panoptic_ros.ros.node_parameters import QOS_OVERRIDES, NodeParameters, qos_errors
from panoptic_ros.ros.outputs import Output
from panoptic_ros.ros.parameters import ParameterError, Tuning
from panoptic_ros.ros.pipeline import WARN_PERIOD_S, Pipeline, infer, publish
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
    return engine.is_gpu if choice == 'auto' else choice == 'on'


class Session:
    """Connects a node to a pipeline.

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
    log
        Counts and times of the frames.
    depth, virtual_depth
        Inputs for depth images; None where the parameters switch them off.
    ground
        Receives static transforms.
    pipeline
        Processes the images.

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
        self.log = FrameLog()
        self.depth = self._depth_input(node, 'depth') if structure.depth else None
        self.virtual_depth = (
            self._depth_input(node, 'virtual_depth', may_be_empty=True)
            if structure.virtual_depth
            else None
        )
        self.ground = GroundInput(structure.ground_frame, node.get_logger().info)
        self._node = node
        self._resources = ExitStack()
        with ExitStack() as undo:
            undo.callback(self._resources.close)
            publisher = FramePublisher(structure, self._advertise)
            self._label_info = None
            if vision_msgs is not None:
                self._label_info = self._publisher(
                    '~/label_info',
                    vision_msgs.LabelInfo,
                    durability=DurabilityPolicy.TRANSIENT_LOCAL,
                )
            self._timing = self._publisher('~/timing', DiagnosticArray, depth=TIMING_DEPTH)
            self._poses = None
            if structure.target_frame:
                self._poses = CameraPoses(node, structure.target_frame, self._warn)
                self._resources.callback(self._poses.destroy)
            undo.pop_all()
        self._worker = StagedWorker(
            partial(infer, segmenter),
            publish,
            inference,
            overlap=overlaps(structure.overlap, segmenter.engine.description),
            on_failure=on_failure,
            wait_for=wait_for,
        )
        tracker = Tracker()
        estimator = SceneEstimator(
            segmenter.model.label_set,
            tracker,
            find_depth=self.depth.find if self.depth else None,
            find_virtual_depth=self.virtual_depth.find if self.virtual_depth else None,
            find_pose=self._find_pose if self._poses else None,
            target_frame=structure.target_frame,
            warn=self._warn,
        )
        self.pipeline = Pipeline(
            node,
            segmenter,
            self._worker,
            tracker,
            estimator,
            publisher,
            lambda: parameters.tuning,
            log=self.log,
            ground=self.ground,
            camera_info_topic=node.resolve_topic_name('camera_info'),
            depth_inputs=tuple(filter(None, (self.depth, self.virtual_depth))),
            is_diagnosed=is_diagnosed,
            publish_timing=self._publish_timing,
        )

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

    def start(self) -> None:
        """Publish the label info, which is latched."""
        if self._label_info is not None:
            header = Header(stamp=self._node.get_clock().now().to_msg())
            label_set = self.segmenter.model.label_set
            self._label_info.publish(label_info_message(label_set, header))

    def close(self) -> None:
        """Close the engine, end the threads, destroy the publishers."""
        self._worker.stop(last=self.segmenter.engine.close)
        self._resources.close()

    def _depth_input(self, node: LifecycleNode, name: str, **options: Any) -> DepthInput:
        topic = node.resolve_topic_name(name)
        return DepthInput(node.get_logger(), self.log, topic, name, **options)

    def _advertise(self, output: Output) -> LifecyclePublisher:
        # Latched, so that a subscriber after segment_once receives the image; a volatile
        # subscriber receives only what comes.
        return self._publisher(
            output.topic, output.message_type, durability=DurabilityPolicy.TRANSIENT_LOCAL
        )

    def _publisher(self, topic: str, message_type: type, **policies: Any) -> LifecyclePublisher:
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

    def _find_pose(self, header: Header, tuning: Tuning) -> CameraPose:
        return self._poses.find(header, tuning.transform_wait_s, tuning.transform_max_age_s)

    def _warn(self, text: str) -> None:
        self._node.get_logger().warning(text, throttle_duration_sec=WARN_PERIOD_S)
