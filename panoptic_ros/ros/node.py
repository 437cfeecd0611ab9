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
from contextlib import ExitStack, suppress
from functools import partial, wraps
from time import monotonic, monotonic_ns, process_time
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
from panoptic_ros.ros.surroundings import OccupancyGrid
from panoptic_ros.ros.worker import NewestWorker
from panoptic_ros.segmenter import Segmenter, card_fusion

OK, USER_ERROR, ENGINE_HANGS = 0, 2, 3
"""Exit codes of :func:`main`; 1, with a traceback, is a programming error."""

PATIENCE_S = 8.0
"""Once the node is to stop, the frame in work is waited for so long; ``ros2 launch`` kills 10 s
after its Ctrl-C."""

DIAGNOSTICS_PERIOD_S = 1.0

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
    abandoned
        Exit code of a process that has to end without waiting for the inference thread; None
        while there is no such need.
    failure
        The programming error that ended the inference thread's work, if one did.

    Raises ParameterError if a parameter given at start cannot be used.
    """

    def __init__(
        self, load: Callable[[Structure], Segmenter] = load_segmenter, **node_arguments: Any
    ) -> None:
        super().__init__('segment', **node_arguments)
        self.stopped = RosFuture()
        self.abandoned: int | None = None
        self.failure: BaseException | None = None
        self._load = load
        self._settings = NodeParameters(self)
        self._pipeline: Pipeline | None = None
        self._subscribed: list[Subscription] = []
        self._present_state = 'unconfigured'
        self._stopped_s = 0.0
        self._problem = ''
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, '/diagnostics', 1)
        # A steady clock: a paused simulation does not silence the diagnostics.
        self.create_timer(
            DIAGNOSTICS_PERIOD_S,
            self._publish_diagnostics,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
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
        self._stopped_s = monotonic()
        self.stopped.set_result(None)

    def finish(self) -> None:
        """Go to the lifecycle's end, from wherever the node is."""
        if self._present_state != 'finalized':
            self.trigger_shutdown()

    @_reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Advertise the outputs and load the model into its engine."""
        self._present_state, self._problem = 'configuring', ''
        with ExitStack() as undo:
            try:
                outputs = Outputs(self, self._settings.structure)
                undo.callback(outputs.destroy)
                worker = NewestWorker(self._give_up, self._wait_for)
                undo.callback(worker.stop)
                loading = worker.call(partial(self._load, self._settings.structure))
                self._wait_for(loading)
                segmenter = loading.result()
            except PanopticRosError as error:
                return self._refuse('configure', error)
            undo.pop_all()
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
        if OccupancyGrid is None:
            self.get_logger().info(
                '~/free_space is off: nav_msgs is not installed (on Ubuntu it is the package '
                'ros-DISTRO-nav-msgs)'
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
        for name in self._settings.unused_qos_overrides:
            self.get_logger().warning(
                f'parameter {name} has no effect: there is no such topic or policy here'
            )
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
        self._present_state = {'configure': 'unconfigured', 'activate': 'inactive'}[transition]
        self._problem = f'{transition} failed: {error}'
        self.get_logger().error(self._problem)
        return TransitionCallbackReturn.FAILURE

    def _wait_for(self, future: Future[Any]) -> None:
        """Wait for the inference thread and tell how it goes, meanwhile nobody else can.

        Raises KeyboardInterrupt, and sets :attr:`abandoned`, if the node is to stop and the
        thread does not come to an end. (Not an Exception: rclpy takes those for a failed
        transition and goes on.)
        """
        next_report_s = monotonic()
        while not wait([future], timeout=0.1).done:
            if monotonic() >= next_report_s:
                self._publish_diagnostics()
                next_report_s += DIAGNOSTICS_PERIOD_S
            if not self.stopped.done():
                continue
            if self._present_state == 'configuring':
                # A runtime that compiles a network cannot be interrupted. Nothing is lost by
                # leaving now: what it keeps on disk is written whole or not at all.
                self.abandoned = OK
            elif monotonic() - self._stopped_s > PATIENCE_S:
                self.get_logger().fatal(
                    f'the engine has not answered for {PATIENCE_S:.0f} s; the process ends '
                    f'without it, with exit code {ENGINE_HANGS}'
                )
                self.abandoned = ENGINE_HANGS
            if self.abandoned is not None:
                raise KeyboardInterrupt

    def _image_topic(self) -> tuple[str, type]:
        topic = self.resolve_topic_name('image')
        if self._settings.structure.image_transport == 'compressed':
            return f'{topic}/compressed', CompressedImage  # as image_transport names it
        return topic, Image

    def _subscribe(self) -> None:
        image_topic, image_type = self._image_topic()
        if any(publisher.topic_name == image_topic for publisher in self.publishers):
            raise ParameterError(
                f"the image topic {image_topic} is one of this node's own; remap image to a "
                "camera's"
            )
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
        virtual_depth = self._pipeline.virtual_depth
        if virtual_depth is not None:
            topic = self.resolve_topic_name('virtual_depth')
            inputs.insert(0, (topic, Image, virtual_depth.take))
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
        if pipeline:
            pipeline.look_after_events()
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
            surroundings=pipeline.surroundings if pipeline else None,
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
    with StopSignal() as stop:
        return serve(stop, args)


def serve(stop: StopSignal, args: Sequence[str] | None = None) -> int:
    """Run the node until a signal, which may have come already; returns the exit code."""
    cv2.setNumThreads(1)  # its threads and the engine's would fight for the same cores
    try:
        rclpy.init(
            args=None if args is None else list(args),
            signal_handler_options=SignalHandlerOptions.NO,
        )
        node = SegmentNode()
    except (ParameterError, RuntimeError) as error:  # RuntimeError: unusable ROS arguments
        hint = '; ROS_LOG_DIR names another' if 'log directory' in str(error) else ''
        print(f'segment: {error}{hint}', file=sys.stderr)
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
        pass  # the inference thread is not waited for
    finally:
        if node.abandoned is None:
            with suppress(KeyboardInterrupt):
                node.finish()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=node.context)
    if node.abandoned is not None:
        # The interpreter's own end would wait for the inference thread.
        os._exit(node.abandoned)
    if node.failure is not None:
        raise node.failure
    return OK


if __name__ == '__main__':
    sys.exit(main())
