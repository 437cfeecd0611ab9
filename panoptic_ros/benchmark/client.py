"""The ROS node of a benchmark: publishes images, receives outputs, calls the node under test.

A thread spins the node. Callbacks keep messages serialised and note the time of receipt that DDS
reports, so that the load of this process does not count. Everything that changes is guarded by
one condition; :meth:`Client.wait_until` waits for it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Condition, Event, Thread
from time import monotonic, monotonic_ns, time_ns
from typing import Any, TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import GetParameters, ListParameters, SetParameters
from rclpy import subscription
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions

from panoptic_ros.benchmark.cdr import FrameKey, frame_key, key_reader
from panoptic_ros.benchmark.frames import Frames
from panoptic_ros.benchmark.processes import Process
from panoptic_ros.ros.diagnostics import CPU_KEY, MEMORY_KEY, PERCENTILES, stage_times_ms

OUTPUT_QOS = QoSProfile(depth=100)
"""Reliable, with a queue in which no message is lost while this process is busy."""

DISCOVERY_NS = 300_000_000

_STAGE_KEY = re.compile(rf'(.+) p{PERCENTILES[0]} \(ms\)')


@dataclass(frozen=True)
class Status:
    """One report of the node on ``/diagnostics``."""

    level: bytes = DiagnosticStatus.STALE
    message: str = ''
    values: Mapping[str, str] = field(default_factory=dict)

    def count(self, what: str) -> int:
        """Return the number of frames received, processed, dropped and so on; 0 if not known."""
        return int(self.values.get(f'frames {what}', 0))

    def stages_ms(self) -> dict[str, dict[str, float]]:
        """Return p50, p95 and p99 by stage, milliseconds, for every stage that is reported."""
        stages = [match[1] for match in map(_STAGE_KEY.fullmatch, self.values) if match]
        return {
            stage: {f'p{p}': float(self.values[f'{stage} p{p} (ms)']) for p in PERCENTILES}
            for stage in stages
        }


AnyClient = TypeVar('AnyClient', bound='Client')


class Client:
    """Talks to one node under test, from construction to :meth:`close`.

    Use it as a context manager.

    Parameters
    ----------
    frames
        Where images and outputs are recorded.
    target
        Fully qualified name of the node under test.
    name
        Name of this node.

    Attributes
    ----------
    status
        The newest report of the node.
    active_status
        The newest report from the active state. After a deactivation the counters start again.
    reports
        Number of reports.
    usage
        Rows of stamp (s), CPU time (s) and resident memory (MB), one for each report.
    processes
        Processes that :meth:`wait_until` requires to run.
    lock
        Is held while messages are recorded; hold it to read :attr:`frames`.
    record
        Called with each message received: topic, message class, time of receipt (ns) and the
        serialised message; None for no recording.
    stopped
        Ends all waiting when set, by :meth:`stop`.
    """

    def __init__(
        self, frames: Frames, target: str = '/segment', name: str = 'benchmark_client'
    ) -> None:
        self.frames = frames
        self.target = target
        self.status = Status()
        self.active_status = Status()
        self.reports = 0
        self.usage: list[tuple[float, float, float]] = []
        self.processes: list[Process] = []
        self.record: Callable[[str, type, int, bytes], None] | None = None
        self.stopped = Event()
        self.lock = Condition()
        self._service_clients: dict[str, Any] = {}
        self._context = Context()
        rclpy.init(context=self._context, args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node(name, context=self._context)
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._report, OUTPUT_QOS)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = Thread(target=self._spin, name='client')
        self._thread.start()

    def __enter__(self: AnyClient) -> AnyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def close(self) -> None:
        """Stop spinning and destroy the node."""
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    # Publish and receive.

    def publisher(
        self, message_class: type, topic: str, qos: QoSProfile | int = OUTPUT_QOS
    ) -> Publisher:
        """Create a publisher."""
        return self.node.create_publisher(message_class, topic, qos)

    def receive(
        self,
        topic: str,
        message_class: type,
        *,
        label: str = '',
        qos: QoSProfile = OUTPUT_QOS,
        publishes: bool = False,
        read_key: Callable[[bytes], FrameKey | None] | None = None,
    ) -> None:
        """Record the messages of a topic in :attr:`frames`.

        Parameters
        ----------
        topic
            Fully qualified name.
        label
            Name of the topic in the records; the topic's own name unless given.
        publishes
            Whether each message tells of an image that somebody publishes.
        read_key
            Reads the header of a serialised message; by default that of the message class.
        """
        read_key = read_key or key_reader(message_class)
        label = label or topic

        def take(data: bytes, received_ns: int) -> None:
            with self.lock:
                key = read_key(data)
                if publishes and key is not None:
                    self.frames.publish(key)
                self.frames.receive(label, key, received_ns, data)
                if self.record is not None:
                    self.record(topic, message_class, received_ns, data)
                self.lock.notify_all()

        def take_with_info(data: bytes, info: Mapping[str, Any]) -> None:
            take(data, info['received_timestamp'] or time_ns())

        def take_alone(data: bytes) -> None:
            take(data, time_ns())

        # rclpy of Humble does not tell the time of receipt.
        callback = take_with_info if hasattr(subscription, 'MessageInfo') else take_alone
        self.node.create_subscription(message_class, topic, callback, qos, raw=True)

    def receive_outputs(self, message_classes: Mapping[str, type]) -> None:
        """Record outputs of the node under test, named relative to it."""
        for topic, message_class in message_classes.items():
            self.receive(f'{self.target}/{topic}', message_class, label=topic)

    def receive_timing(self) -> None:
        """Record the node's own times of each image."""
        topic = f'{self.target}/timing'
        self.node.create_subscription(DiagnosticArray, topic, self._time, OUTPUT_QOS)

    def _time(self, message: DiagnosticArray) -> None:
        with self.lock:
            self.frames.time(frame_key(message.header), stage_times_ms(message))
            self.lock.notify_all()

    def _report(self, message: DiagnosticArray) -> None:
        name = f'{self.target.removeprefix("/")}: segmentation'
        stamp_s = frame_key(message.header).stamp_ns / 1e9
        for status in message.status:
            if status.name == name:
                values = {entry.key: entry.value for entry in status.values}
                with self.lock:
                    self._take_status(Status(status.level, status.message, values), stamp_s)
                    self.lock.notify_all()

    def _take_status(self, status: Status, stamp_s: float) -> None:
        self.status = status
        self.reports += 1
        if status.values.get('state') == 'active':
            self.active_status = status
        if CPU_KEY in status.values and MEMORY_KEY in status.values:
            cpu_s, memory_mb = (float(status.values[key]) for key in (CPU_KEY, MEMORY_KEY))
            self.usage.append((stamp_s, cpu_s, memory_mb))

    def publish(self, key: FrameKey, send: Callable[[], int | None]) -> None:
        """Record an image and publish it; ``send`` returns the time, if it is to be recorded."""
        with self.lock:
            self.frames.publish(key)
        published_ns = send()
        with self.lock:
            record = self.frames[key]
            record.published_ns = record.published_ns or published_ns or 0

    # Wait.

    def wait_until(self, condition: Callable[[], Any], timeout_s: float) -> bool:
        """Wait for a condition that messages make true; False after the timeout or a stop.

        Raises NodeLostError if one of :attr:`processes` has ended.
        """
        end_s = monotonic() + timeout_s
        with self.lock:
            while not condition():
                for process in self.processes:
                    process.require_running()
                left_s = end_s - monotonic()
                if left_s <= 0 or self.stopped.is_set():
                    return False
                self.lock.wait(min(left_s, 0.1))
            return True

    def wait_for_reports(self, count: int, timeout_s: float) -> bool:
        """Wait for so many further reports of the node."""
        target = self.reports + count
        return self.wait_until(lambda: self.reports >= target, timeout_s)

    def sleep_until(self, time_ns: int) -> bool:
        """Sleep until a time of the steady clock; False if stopped."""
        return not self.stopped.wait(max(0, time_ns - monotonic_ns()) / 1e9)

    def stop(self) -> None:
        """End all waiting; from any thread."""
        self.stopped.set()
        with self.lock:
            self.lock.notify_all()

    # Services of the node under test.

    def change_state(self, transition: str, timeout_s: float = 60.0) -> bool:
        """Request a transition such as ``activate``; False if it is refused or fails."""
        number = getattr(Transition, f'TRANSITION_{transition.upper()}')
        request = ChangeState.Request(transition=Transition(id=number))
        return self._call(ChangeState, 'change_state', request, timeout_s).success

    def set_parameters(self, timeout_s: float = 60.0, **values: Any) -> bool:
        """Set parameters; False if one of them is refused."""
        parameters = [Parameter(name, value=v).to_parameter_msg() for name, v in values.items()]
        request = SetParameters.Request(parameters=parameters)
        response = self._call(SetParameters, 'set_parameters', request, timeout_s)
        return all(result.successful for result in response.results)

    def parameters(self, timeout_s: float = 5.0) -> dict[str, Any]:
        """Return all parameters by name; empty if the node does not answer."""
        try:
            request = ListParameters.Request()
            listed = self._call(ListParameters, 'list_parameters', request, timeout_s)
            names: Sequence[str] = sorted(listed.result.names)
            request = GetParameters.Request(names=names)
            found = self._call(GetParameters, 'get_parameters', request, timeout_s)
        except TimeoutError:
            return {}
        return dict(zip(names, map(parameter_value_to_python, found.values), strict=True))

    def _call(self, service_type: type, name: str, request: Any, timeout_s: float) -> Any:
        client = self._service_clients.get(name)
        if client is None:
            client = self.node.create_client(service_type, f'{self.target}/{name}')
            self._service_clients[name] = client
            if not client.wait_for_service(timeout_s):
                raise TimeoutError(f'the service {client.srv_name} is not there')
            # A server that has not yet discovered this client loses its answers.
            self.sleep_until(monotonic_ns() + DISCOVERY_NS)
        future = client.call_async(request)
        future.add_done_callback(self._notify)
        if not self.wait_until(future.done, timeout_s):
            raise TimeoutError(f'the service {client.srv_name} did not answer')
        return future.result()

    def _notify(self, _: Any) -> None:
        with self.lock:
            self.lock.notify_all()
