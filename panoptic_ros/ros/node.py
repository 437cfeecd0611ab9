"""``ros2 run panoptic_ros segment``: camera images in, panoptic maps out, as a lifecycle node.

Two threads: the executor's takes messages, service calls and parameters; the inference thread
opens the engine, decodes, segments and publishes. Between them is one slot: the newest image
wins, the one it overtakes is counted.
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial, wraps
from time import monotonic_ns, process_time
from typing import Any

import cv2
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rclpy.task import Future as RosFuture
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from panoptic_ros.engines import open_engine
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.model import Model
from panoptic_ros.ros import messages
from panoptic_ros.ros.diagnostics import (
    FrameLog,
    Situation,
    diagnostics_message,
    resident_bytes,
)
from panoptic_ros.ros.outputs import QOS_OVERRIDES, Outputs, qos_faults
from panoptic_ros.ros.parameters import NodeParameters, ParameterError, Structure
from panoptic_ros.ros.pipeline import Pipeline
from panoptic_ros.ros.signals import StopSignal
from panoptic_ros.ros.worker import NewestWorker
from panoptic_ros.segmenter import Segmenter, card_fusion

OK, USER_ERROR = 0, 2
"""Exit codes of :func:`main`."""

_Transition = Callable[['SegmentNode', LifecycleState], TransitionCallbackReturn]


def load_segmenter(structure: Structure) -> Segmenter:
    """Load and verify a model, and open it in an engine.

    Raises ModelError, LabelSetError or EngineError with one sentence that says what is wrong.
    """
    model = Model.load(structure.model)
    fusion = card_fusion(model)
    engine = open_engine(
        model,
        structure.engine,
        structure.engine_threads,
        structure.engine_precision,
        structure.engine_cache,
    )
    return Segmenter(model, engine, fusion)


def _reported(transition: _Transition) -> _Transition:
    """Log what escapes from a lifecycle callback: rclpy swallows it without a word."""

    @wraps(transition)
    def run(node: 'SegmentNode', state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception:
            node.get_logger().fatal(traceback.format_exc())
            raise

    return run


class SegmentNode(LifecycleNode):
    """The node; its parameters are in ``parameters.py``, its topics in ``outputs.py``.

    Parameters
    ----------
    load
        Makes the segmenter, on the inference thread.
    **node_arguments
        For :class:`rclpy.node.Node`.

    Attributes
    ----------
    stopped
        Completed by :meth:`stop`.
    is_loading
        Whether the inference thread loads the model, perhaps for minutes.
    failure
        The programming error that ended the inference thread's work, if one did.

    Raises ParameterError if a parameter given at start cannot be used.
    """

    def __init__(
        self, load: Callable[[Structure], Segmenter] = load_segmenter, **node_arguments: Any
    ) -> None:
        super().__init__('segment', **node_arguments)
        self.stopped = RosFuture()
        self.is_loading = False
        self.failure: BaseException | None = None
        self._load = load
        self._settings = NodeParameters(self)
        self._pipeline: Pipeline | None = None
        self._subscribed: list[Subscription] = []
        self._present_state = 'unconfigured'
        self._problem = ''
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, '/diagnostics', 1)
        # A steady clock: a paused simulation does not silence the diagnostics.
        self.create_timer(
            1.0, self._publish_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        for name in self._settings.unknown:
            self.get_logger().warning(f'parameter {name} is not known and has no effect')

    @property
    def autostart(self) -> bool:
        """Whether the parameters ask for :meth:`start`."""
        return self._settings.structure.autostart

    def start(self) -> bool:
        """Configure and activate; False, with the reason in the log, if one of them fails."""
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    def stop(self) -> None:
        """Ask the node to end; whoever spins it waits for :attr:`stopped`. From any thread."""
        self.stopped.set_result(None)

    def finish(self) -> None:
        """Go to the lifecycle's end, from wherever the node is."""
        if self._present_state != 'finalized':
            self.trigger_shutdown()

    @_reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Advertise the outputs and load the model into its engine."""
        try:
            outputs = Outputs(self)
        except ParameterError as error:
            return self._refuse('configure', error)
        worker = NewestWorker(self._give_up)
        loading = worker.call(partial(self._load, self._settings.structure))
        try:
            segmenter = self._wait_for(loading)
        except PanopticRosError as error:
            worker.stop()
            outputs.destroy()
            return self._refuse('configure', error)
        self._pipeline = Pipeline(self, segmenter, worker, outputs, self._settings)
        self._settings.is_structure_fixed = True
        self.get_logger().info(
            f'model {segmenter.model.card.name!r} runs on {segmenter.engine.description}'
        )
        if messages.vision_msgs is None:
            self.get_logger().info(
                '~/detections and ~/label_info are off: vision_msgs is not installed (on Ubuntu '
                'it is the package ros-DISTRO-vision-msgs)'
            )
        return self._enter('inactive')

    @_reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the camera."""
        try:
            self._subscribe()
        except ParameterError as error:
            self._unsubscribe()
            return self._refuse('activate', error)
        super().on_activate(state)
        self._pipeline.start()
        return self._enter('active')

    @_reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe from the camera, after the frame in work."""
        self._unsubscribe()
        self._pipeline.halt()
        super().on_deactivate(state)
        return self._enter('inactive')

    @_reported
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the engine and take the outputs back."""
        self.free()
        return self._enter('unconfigured')

    @_reported
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Do what deactivate and cleanup do, from any state."""
        if self._pipeline is not None:
            self.on_deactivate(state)
        self.free()
        return self._enter('finalized')

    @_reported
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to the beginning after a programming error in another transition."""
        self.free()
        return self._enter('unconfigured')

    def free(self) -> None:
        """Let go of camera, engine and outputs, whatever there is of them."""
        self._unsubscribe()
        self._settings.is_structure_fixed = False
        pipeline, self._pipeline = self._pipeline, None
        if pipeline is not None:
            pipeline.close()

    def _enter(self, state: str) -> TransitionCallbackReturn:
        self._present_state, self._problem = state, ''
        return TransitionCallbackReturn.SUCCESS

    def _refuse(self, transition: str, error: PanopticRosError) -> TransitionCallbackReturn:
        self._problem = f'{transition} failed: {error}'
        self.get_logger().error(self._problem)
        return TransitionCallbackReturn.FAILURE

    def _wait_for(self, loading: Future[Segmenter]) -> Segmenter:
        self.is_loading = True
        while not wait([loading], timeout=0.1).done:
            if self.stopped.done():
                # Not an Exception: rclpy takes those for a failed transition and goes on.
                raise KeyboardInterrupt
        self.is_loading = False
        return loading.result()

    def _image_topic(self) -> tuple[str, type]:
        topic = self.resolve_topic_name('image')
        if self._settings.structure.image_transport == 'compressed':
            return f'{topic}/compressed', CompressedImage  # as image_transport names it
        return topic, Image

    def _subscribe(self) -> None:
        image_topic, image_type = self._image_topic()
        camera_info_topic = self.resolve_topic_name('camera_info')
        inputs = [
            (camera_info_topic, CameraInfo, self._pipeline.take_camera_info),
            (image_topic, image_type, self._pipeline.take_image),
        ]
        depth = self._pipeline.depth
        if depth is not None:
            depth_topic = self.resolve_topic_name('depth')
            depth_info_topic = self.resolve_topic_name('depth/camera_info')
            inputs[:0] = [
                (depth_info_topic, CameraInfo, depth.take_camera_info),
                (depth_topic, Image, depth.take),
            ]
        for topic, message_type, take in inputs:
            qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            with qos_faults(topic):
                self._subscribed.append(
                    self.create_subscription(
                        message_type,
                        topic,
                        partial(take, topic),
                        qos,
                        qos_overriding_options=QOS_OVERRIDES,
                    )
                )
        self.get_logger().info(f'waiting for images on {image_topic}')

    def _unsubscribe(self) -> None:
        while self._subscribed:
            self.destroy_subscription(self._subscribed.pop())

    def _publish_diagnostics(self) -> None:
        pipeline = self._pipeline
        engine = pipeline.segmenter.engine.description if pipeline else None
        situation = Situation(
            state=self._present_state,
            image_topic=self._image_topic()[0],
            image_timeout_s=self._settings.tuning.image_timeout_s,
            model=pipeline.segmenter.model.card.name if pipeline else '',
            engine=str(engine) if engine else '',
            device=engine.device if engine else '',
            problem=self._problem,
            depth=pipeline.depth.counts if pipeline and pipeline.depth else None,
            cpu_s=process_time(),
            resident_bytes=resident_bytes(),
        )
        log = pipeline.log if pipeline else FrameLog()
        stamp = self.get_clock().now().to_msg()
        self._diagnostics_publisher.publish(
            diagnostics_message(
                self.get_fully_qualified_name(), stamp, monotonic_ns(), situation, log
            )
        )

    def _give_up(self, error: BaseException) -> None:
        self.failure = error
        self.stop()


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; returns the process's exit code."""
    cv2.setNumThreads(1)  # its threads and the engine's would fight for the same cores
    with StopSignal() as stop:
        try:
            rclpy.init(
                args=None if args is None else list(args),
                signal_handler_options=SignalHandlerOptions.NO,
            )
            node = SegmentNode()
        except (ParameterError, RuntimeError) as error:  # RuntimeError: unusable ROS arguments
            print(f'segment: {error}', file=sys.stderr)
            rclpy.try_shutdown()
            return USER_ERROR
        stop.came.add_done_callback(lambda _: node.stop())
        return run(node)


def run(node: SegmentNode) -> int:
    """Spin a node until it is stopped, and take it down; returns the process's exit code.

    Raises what ended the inference thread's work, if anything did.
    """
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    try:
        if node.autostart and not node.start():
            return USER_ERROR
        while not node.stopped.done():
            try:
                executor.spin_until_future_complete(node.stopped)
            except rclpy_implementation.RCLError as error:
                # Up to Jazzy this is how rclpy takes a lifecycle transition that is not possible.
                node.get_logger().error(str(error))
    except KeyboardInterrupt:
        pass  # stopped while loading
    finally:
        if not node.is_loading:
            node.finish()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=node.context)
    if node.is_loading:
        # A runtime that compiles a network cannot be interrupted, and its thread would keep the
        # process alive until it is done. Nothing is lost by leaving now.
        os._exit(OK)
    if node.failure is not None:
        raise node.failure
    return OK


if __name__ == '__main__':
    sys.exit(main())
