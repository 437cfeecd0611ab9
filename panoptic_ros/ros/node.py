"""``ros2 run panoptic_ros segment``: panoptic segmentation of camera images, a lifecycle node.

The executor's thread receives messages, service calls and parameters. The inference thread opens
the engine and runs it; the publishing thread fuses and publishes (without overlap, see the
parameter of that name, the inference thread does so too). In front of the inference thread is one
slot for each camera: the newest image wins, and the image it replaces is counted as dropped.
"""

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, suppress
from functools import wraps
from time import monotonic, monotonic_ns, process_time
from typing import Any

import cv2
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future as RosFuture

from panoptic_ros.engines import open_engine
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.model import Model
from panoptic_ros.ros.diagnostics import FrameLog, Situation, diagnostics_message, resident_bytes
from panoptic_ros.ros.inputs.subscriptions import CameraTopics, Subscriptions
from panoptic_ros.ros.messages.optional import SetBool, Trigger
from panoptic_ros.ros.node_parameters import NodeParameters
from panoptic_ros.ros.parameters import ParameterError, Structure
from panoptic_ros.ros.session import CameraSession, Session
from panoptic_ros.ros.signals import StopSignal
from panoptic_ros.ros.worker import inference_thread
from panoptic_ros.segmenter import Segmenter, card_fusion

OK, USER_ERROR, ENGINE_HANGS = 0, 2, 3
"""Exit codes of :func:`main`; 1, with a traceback, is a programming error."""

STOP_TIMEOUT_S = 8.0
"""Time a stopping node waits for the frame in work; ``ros2 launch`` kills 10 s after Ctrl-C."""

DIAGNOSTICS_PERIOD_S = 1.0

_Transition = Callable[['SegmentNode', LifecycleState], TransitionCallbackReturn]


def load_segmenter(structure: Structure) -> Segmenter:
    """Load and verify a model, and open it in an engine.

    Raises ModelError, LabelSetError or EngineError.
    """
    model = Model.load(structure.model)
    fusion = card_fusion(model)
    engine = open_engine(
        model,
        structure.engine,
        structure.engine_threads,
        structure.engine_precision,
        structure.engine_cache,
        structure.engine_batch,
    )
    return Segmenter(model, engine, fusion, structure.fast_resize)


def _logged(transition: _Transition) -> _Transition:
    """Log exceptions of a lifecycle callback, which rclpy swallows."""

    @wraps(transition)
    def run(node: 'SegmentNode', state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception:
            node.get_logger().fatal(traceback.format_exc())
            raise

    return run


class SegmentNode(LifecycleNode):
    """The node. Parameters are in ``parameters.py``, topics in ``outputs.py``.

    Parameters
    ----------
    load
        Creates the segmenter, on the inference thread.
    **node_arguments
        For :class:`rclpy.node.Node`.

    Attributes
    ----------
    stopped
        Completed by :meth:`stop`.
    abandoned
        Exit code of a process that has to end without waiting for its threads, or None.
    failure
        The unexpected exception that ended a thread, or None.

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
        try:
            self._parameters_of_node = NodeParameters(self)
        except ParameterError:
            self.destroy_node()  # before the context ends, or the process may crash
            raise
        self._session: Session | None = None
        self._is_enabled = True
        if SetBool is not None:
            self.create_service(SetBool, '~/enable', self._enable)
            self.create_service(Trigger, '~/segment_once', self._segment_once)
        self._inputs = Subscriptions(self)
        self._state = 'unconfigured'
        self._stopped_s = 0.0
        self._problem = ''
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 1)
        # A steady clock: diagnostics go on while a simulation is paused.
        self.create_timer(
            DIAGNOSTICS_PERIOD_S,
            self._publish_diagnostics,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        for name in self._parameters_of_node.unknown:
            self.get_logger().warning(f'parameter {name} is not known and has no effect')

    @property
    def autostart(self) -> bool:
        """Whether the parameters ask for :meth:`start`."""
        return self._parameters_of_node.structure.autostart

    def start(self) -> bool:
        """Configure and activate; False, with the reason in the log, if one of them fails."""
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    def stop(self) -> None:
        """Complete :attr:`stopped`, from any thread."""
        self._stopped_s = monotonic()
        self.stopped.set_result(None)

    def finish(self) -> None:
        """Shut down, from any lifecycle state."""
        if self._state != 'finalized':
            self.trigger_shutdown()

    @_logged
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model into its engine and advertise the outputs."""
        self._state, self._problem = 'configuring', ''
        structure = self._parameters_of_node.structure
        with ExitStack() as undo:
            try:
                inference = inference_thread()
                undo.callback(inference.shutdown, wait=False)
                loading = inference.submit(self._load, structure)
                self._wait_for(loading)
                segmenter = loading.result()
                undo.callback(inference.submit, segmenter.engine.close)
                self._session = Session(
                    self,
                    segmenter,
                    inference,
                    self._parameters_of_node,
                    is_diagnosed=lambda: self._diagnostics.get_subscription_count() > 0,
                    on_failure=self._fail,
                    wait_for=self._wait_for,
                )
            except PanopticRosError as error:
                return self._refuse('configure', error)
            undo.pop_all()
        self._parameters_of_node.is_structure_fixed = True
        self._parameters_of_node.label_set = segmenter.model.label_set
        self.get_logger().info(
            f'model {segmenter.model.card.name!r} runs on {segmenter.engine.description}'
        )
        self._session.enable(self._is_enabled)
        for hint in self._session.missing_outputs:
            self.get_logger().info(hint)
        return self._enter('inactive')

    @_logged
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras."""
        try:
            self._session.subscribe(self._inputs)
        except ParameterError as error:
            self._inputs.destroy()
            return self._refuse('activate', error)
        for name in self._parameters_of_node.unused_qos_overrides:
            self.get_logger().warning(
                f'parameter {name} has no effect: there is no such topic or policy here'
            )
        super().on_activate(state)
        self._session.start()
        return self._enter('active')

    @_logged
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe from the cameras and finish the frames in work."""
        self._inputs.destroy()
        self._session.halt()
        super().on_deactivate(state)
        return self._enter('inactive')

    @_logged
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the engine and withdraw the outputs."""
        self.free()
        return self._enter('unconfigured')

    @_logged
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Deactivate and clean up, from any state."""
        if self._session is not None:
            self.on_deactivate(state)
        self.free()
        return self._enter('finalized')

    @_logged
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Return to unconfigured after an unexpected exception in another transition."""
        self.free()
        return self._enter('unconfigured')

    def free(self) -> None:
        """Release subscriptions, engine and outputs, as far as there are any."""
        self._inputs.destroy()
        self._parameters_of_node.is_structure_fixed = False
        self._parameters_of_node.label_set = None
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _enter(self, state: str) -> TransitionCallbackReturn:
        self._state, self._problem = state, ''
        return TransitionCallbackReturn.SUCCESS

    def _refuse(self, transition: str, error: PanopticRosError) -> TransitionCallbackReturn:
        self._state = {'configure': 'unconfigured', 'activate': 'inactive'}[transition]
        self._problem = f'{transition} failed: {error}'
        self.get_logger().error(self._problem)
        return TransitionCallbackReturn.FAILURE

    def _wait_for(self, future: Future[Any]) -> None:
        """Wait for a thread of the frames, publishing diagnostics meanwhile.

        Raises KeyboardInterrupt, and sets :attr:`abandoned`, if the node is to stop and the
        thread does not finish. (Not an Exception: rclpy takes those for a failed transition and
        goes on.)
        """
        next_report_s = monotonic()
        while not wait([future], timeout=0.1).done:
            if monotonic() >= next_report_s:
                self._publish_diagnostics()
                next_report_s += DIAGNOSTICS_PERIOD_S
            if not self.stopped.done():
                continue
            if self._state == 'configuring':
                # A runtime that compiles a network cannot be interrupted. Leaving loses nothing:
                # files of the engine cache are written atomically.
                self.abandoned = OK
            elif monotonic() - self._stopped_s > STOP_TIMEOUT_S:
                self.get_logger().fatal(
                    f'the engine has not answered for {STOP_TIMEOUT_S:.0f} s; the process ends '
                    f'without it, with exit code {ENGINE_HANGS}'
                )
                self.abandoned = ENGINE_HANGS
            if self.abandoned is not None:
                raise KeyboardInterrupt

    def _enable(self, request: Any, response: Any) -> Any:
        self._is_enabled = request.data
        if self._session is not None:
            self._session.enable(request.data)
        response.success = True
        response.message = 'images are segmented' if request.data else 'images are ignored'
        return response

    def _segment_once(self, request: Any, response: Any) -> Any:
        response.success = self._state == 'active'
        response.message = f'the node is {self._state}'
        if response.success:
            self._session.segment_once()
            response.message = 'the next image is published on all topics'
        return response

    def _publish_diagnostics(self) -> None:
        session = self._session
        structure = self._parameters_of_node.structure
        cameras: list[tuple[Situation, FrameLog]]
        if session is None:
            cameras = [
                (
                    self._situation(name, CameraTopics(self, name, structure.image_transport)),
                    FrameLog(),
                )
                for name in structure.camera_names
            ]
        else:
            cameras = [
                (self._situation(camera.name, camera.topics, camera), camera.log)
                for camera in session.cameras
            ]
        if self._state == 'active' and session is not None:
            for camera in session.cameras:
                camera.find_latched_calibration(self._inputs)
        self._diagnostics.publish(
            diagnostics_message(
                self.get_fully_qualified_name(),
                self.get_clock().now().to_msg(),
                monotonic_ns(),
                cameras,
            )
        )

    def _situation(
        self, name: str, topics: CameraTopics, camera: CameraSession | None = None
    ) -> Situation:
        segmenter = self._session.segmenter if self._session else None
        engine = segmenter.engine.description if segmenter else None
        return Situation(
            state=self._state,
            image_topic=topics.image[0],
            image_timeout_s=self._parameters_of_node.tuning.image_timeout_s,
            camera=name,
            model=segmenter.model.card.name if segmenter else '',
            engine=str(engine) if engine else '',
            device=engine.device if engine else '',
            problem=self._problem,
            image_hint=topics.hint if camera and not camera.log.has_received else '',
            depth=camera.depth.counts if camera and camera.depth else None,
            proximity=camera.pipeline.proximity if camera else None,
            cpu_s=process_time(),
            resident_bytes=resident_bytes(),
        )

    def _fail(self, error: BaseException) -> None:
        self.failure = error
        self.stop()


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit code."""
    with StopSignal() as stop:
        return serve(stop, args)


def serve(stop: StopSignal, args: Sequence[str] | None = None) -> int:
    """Run the node until a signal, which may have come already; returns the exit code."""
    cv2.setNumThreads(1)  # OpenCV's threads would compete with the engine's for the cores
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
    """Spin a node until it is stopped, and shut it down; returns the exit code.

    Raises the exception that ended a thread, if any did.
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
                # Up to Jazzy, rclpy raises this for a lifecycle transition that is not possible.
                node.get_logger().error(str(error))
    except KeyboardInterrupt:
        pass  # without waiting for the threads
    finally:
        if node.abandoned is None:
            with suppress(KeyboardInterrupt):
                node.finish()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=node.context)
    if node.abandoned is not None:
        # The interpreter would wait for the threads at exit.
        os._exit(node.abandoned)
    if node.failure is not None:
        raise node.failure
    return OK


if __name__ == '__main__':
    sys.exit(main())
