"""The soak's own ROS node: plays the camera, hears everything, asks the node for changes."""

import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.benchmark.checks import FrameKey, frame_key

DEPTH = 100
"""Queues so long that nothing is lost between the processes: all losses are the node's."""

OUTPUTS = {
    'semantic': Image,
    'instance': Image,
    'overlay': Image,
    'camera_info': CameraInfo,
    'markers': MarkerArray,
}
"""Topics of the node that are listened to; the images come for each frame."""


NODE_QOS: dict[str, Any] = {
    'qos_overrides./image.subscription.reliability': 'reliable',
    'qos_overrides./image.subscription.depth': DEPTH,
} | {f'qos_overrides./segment/{topic}.publisher.depth': DEPTH for topic in OUTPUTS}
"""Parameters of the node that make both ways reliable."""

CAMERA_QOS: dict[str, Any] = {
    'qos_overrides./image.publisher.reliability': 'reliable',
    'qos_overrides./image.publisher.depth': DEPTH,
}

CAMERA_FRAME_ID = 'camera_optical_frame'
"""What the other camera calls its frame; the driver never does."""


class Driver:
    """Publishes and listens from construction to :meth:`close`.

    Parameters
    ----------
    timeout_s
        How long the node may take to answer a service call.

    Attributes
    ----------
    sent
        Headers of the good images of :meth:`send` and of those another camera told of.
    heard
        How often each header came back, by topic.
    values, message
        The node's newest diagnostics.
    reports
        How many diagnostics came.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.sent: set[FrameKey] = set()
        self._sent_before: set[FrameKey] = set()
        self.heard: dict[str, Counter[FrameKey]] = {topic: Counter() for topic in OUTPUTS}
        self.values: dict[str, str] = {}
        self.message = ''
        self.reports = 0
        self._cameras_ns: list[tuple[float, float]] = []
        self._node = Node('soak')
        qos = QoSProfile(depth=DEPTH)
        self._image = self._node.create_publisher(Image, 'image', qos)
        self._camera_info = self._node.create_publisher(CameraInfo, 'camera_info', qos)
        for topic, message_type in OUTPUTS.items():
            heard = self.heard[topic]
            self._listen(message_type, f'segment/{topic}', lambda m, h=heard: _note(m, h))
        self._listen(CameraInfo, 'camera_info', self._take_camera_info)
        self._listen(DiagnosticArray, '/diagnostics', self._take_diagnostics)
        self._change_state = self._node.create_client(ChangeState, 'segment/change_state')
        self._set_parameters = self._node.create_client(SetParameters, 'segment/set_parameters')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = Thread(target=self._spin)
        self._thread.start()

    def _listen(self, message_type: type, topic: str, take: Callable[[Any], None]) -> None:
        self._node.create_subscription(message_type, topic, take, QoSProfile(depth=DEPTH))

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def begin_camera(self) -> None:
        """Say that another camera is about to start.

        Its first frames, before it knew of this listener, and its last one, if it was killed on
        the way, may have reached the node alone.
        """
        self._cameras_ns.append((time.time_ns(), math.inf))

    def end_camera(self) -> None:
        """Say that the camera is gone."""
        self._cameras_ns[-1] = (self._cameras_ns[-1][0], time.time_ns())

    def _take_camera_info(self, message: CameraInfo) -> None:
        self.sent.add(frame_key(message.header))

    def _may_be_unheard(self, key: FrameKey) -> bool:
        at_ns = key[0] * 1_000_000_000 + key[1]
        return key[2] == CAMERA_FRAME_ID and any(a < at_ns < b for a, b in self._cameras_ns)

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == 'segment: segmentation':
                self.values = {entry.key: entry.value for entry in status.values}
                self.message = status.message
                self.reports += 1

    def send(
        self, image: Image, calibration: CameraInfo | None = None, *, is_good: bool = True
    ) -> None:
        """Publish an image, after its calibration; of one that is not good no answer is due."""
        if calibration is not None:
            calibration.header = image.header
            self._camera_info.publish(calibration)
        if is_good:
            self.sent.add(frame_key(image.header))
        self._image.publish(image)

    def strangers(self, topic: str) -> set[FrameKey]:
        """Return the headers of a topic that nobody sent."""
        strange = set(self.heard[topic]) - self.sent - self._sent_before
        return {key for key in strange if not self._may_be_unheard(key)}

    def forget(self) -> None:
        """Forget what was heard, and what was sent before the last time."""
        self._sent_before, self.sent = self.sent, set()
        for heard in self.heard.values():
            heard.clear()

    def change_state(self, name: str) -> bool:
        """Ask for a transition such as ``activate``; False if it is refused or fails."""
        transition = Transition(id=getattr(Transition, f'TRANSITION_{name.upper()}'))
        return self._call(self._change_state, ChangeState.Request(transition=transition)).success

    def set_parameters(self, **values: Any) -> bool:
        """Set parameters; False if any is refused."""
        parameters = [Parameter(n, value=v).to_parameter_msg() for n, v in values.items()]
        response = self._call(self._set_parameters, SetParameters.Request(parameters=parameters))
        return all(result.successful for result in response.results)

    def _call(self, client: Any, request: Any) -> Any:
        answered = Event()
        if not client.wait_for_service(self._timeout_s):
            raise TimeoutError(f'{client.srv_name} is not there')
        future = client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(self._timeout_s):
            raise TimeoutError(f'{client.srv_name} did not answer')
        return future.result()

    def close(self) -> None:
        """Stop listening."""
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()


def _note(message: Any, heard: Counter[FrameKey]) -> None:
    if isinstance(message, MarkerArray):
        shown = [m for m in message.markers if m.action == Marker.ADD]
        heard.update({frame_key(m.header) for m in shown})
    else:
        heard[frame_key(message.header)] += 1


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Return True as soon as the condition holds, False if it does not in time."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True
