"""What the tests of the ROS side share: a domain of their own, a peer node, the node's process."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from panoptic_ros.benchmark.processes import own_domain

if TYPE_CHECKING:
    from rclpy.context import Context
    from std_msgs.msg import Header

# Before anything imports rclpy: no other process on this machine or network takes part.
os.environ['ROS_DOMAIN_ID'] = str(own_domain())
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)
# Large images do not arrive without it. Jazzy and older read only the second variable, which newer
# ones warn about.
PROFILE = str(Path(__file__).parents[2] / 'config' / 'fastdds.xml')
os.environ['FASTDDS_DEFAULT_PROFILES_FILE'] = PROFILE
if os.environ.get('ROS_DISTRO') in ('humble', 'jazzy'):
    os.environ['FASTRTPS_DEFAULT_PROFILES_FILE'] = PROFILE
os.environ['RCUTILS_LOGGING_USE_STDOUT'] = '0'
os.environ['RCUTILS_COLORIZED_OUTPUT'] = '0'

TIMEOUT_S = 60.0
"""Generous: a machine that tests may be slow, and what is waited for comes at once."""


def wait_until(
    condition: Callable[[], Any], what: str, step: Callable[[], Any] | None = None
) -> Any:
    """Return the condition's value as soon as it is true; fail after TIMEOUT_S."""
    end = time.monotonic() + TIMEOUT_S
    while not (value := condition()):
        if time.monotonic() > end:
            pytest.fail(f'waited {TIMEOUT_S:.0f} s in vain for {what}')
        step() if step else time.sleep(0.01)
    return value


class NodeProcess:
    """The node as a process of its own."""

    def __init__(self, *arguments: str, program: tuple[str, ...] = ()) -> None:
        program = program or ('-m', 'panoptic_ros.ros.node')
        self.process = subprocess.Popen(
            [sys.executable, *program, '--ros-args', *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        self.lines.extend(iter(self.process.stderr.readline, ''))
        self.process.stderr.close()

    @property
    def log(self) -> str:
        return ''.join(self.lines)

    def wait_for_log(self, text: str) -> None:
        wait_until(
            lambda: text in self.log or self.process.poll() is not None, f'{text!r} in the log'
        )
        assert text in self.log, f'the node ended with {self.process.returncode}:\n{self.log}'

    def wait(self) -> int:
        code = self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        return code

    def interrupt(self, *signals: int) -> int:
        for number in signals or (signal.SIGINT,):
            self.process.send_signal(number)
        code = self.wait()
        if code:
            print(self.log)  # pytest shows it with the failure
        return code

    def end(self) -> None:
        """End the process, by force if it does not end by itself."""
        self.process.terminate()
        try:
            self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.wait()
            raise


class Peer:
    """A ROS node in the test's process: plays the camera, and everybody who subscribes."""

    def __init__(self, context: 'Context') -> None:
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node

        self.node = Node('peer', context=context, enable_rosout=False)
        self.received: dict[str, list[Any]] = defaultdict(list)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.node)
        self._publishers: dict[str, Any] = {}
        self._stamp_ns = time.time_ns()

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()

    def forget(self) -> None:
        """Drop all subscriptions. Publishers stay: once discovered, they lose nothing."""
        for subscription in list(self.node.subscriptions):
            self.node.destroy_subscription(subscription)
        self.received.clear()

    def wait_until(self, condition: Callable[[], Any], what: str) -> Any:
        """Spin until the condition is true and return its value."""
        return wait_until(condition, what, lambda: self._executor.spin_once(timeout_sec=0.02))

    def subscribe(self, message_type: type, topic: str, **policies: Any) -> list[Any]:
        """Return the list that the topic's messages will be appended to."""
        from rclpy.qos import QoSProfile

        messages = self.received[topic]
        qos = QoSProfile(depth=20, **policies)
        self.node.create_subscription(message_type, topic, messages.append, qos)
        return messages

    def subscribe_raw(self, message_type: type, topic: str) -> list[bytes]:
        """Return the list that the topic's messages will be appended to as they are sent."""
        messages = self.received[topic]
        self.node.create_subscription(message_type, topic, messages.append, 20, raw=True)
        return messages

    def spin(self, seconds: float) -> None:
        """Take what comes in so many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.02)

    def publish(self, topic: str, message: Any, depth: int = 5) -> None:
        """Publish once the topic has a subscriber; the first message's depth counts."""
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(type(message), topic, depth)
        publisher = self._publishers[topic]
        self.wait_until(publisher.get_subscription_count, f'a subscriber of {topic}')
        publisher.publish(message)

    def header(self, ahead_s: float = 0.0) -> 'Header':
        """Return a header later than all before, with odd nanoseconds to be kept."""
        from std_msgs.msg import Header

        self._stamp_ns += 10_000_001 + int(ahead_s * 1e9)
        header = Header(frame_id='camera_optical_frame')
        header.stamp.sec, header.stamp.nanosec = divmod(self._stamp_ns, 1_000_000_000)
        return header

    def exchange(
        self, topic: str, message: Any, *outputs: str, before: tuple[str, Any] | None = None
    ) -> list[Any]:
        """Publish an image until each output topic has answered it; return the answers.

        Best effort may lose a message, and who has just been discovered often does. ``before``
        is a topic and a message to publish before the image.
        """
        start = {output: len(self.received[output]) for output in outputs}

        def answers() -> list[Any]:
            found = []
            for output in outputs:
                new = self.received[output][start[output] :]
                found += [m for m in new if header_of(m) == message.header][:1]
            return found if len(found) == len(outputs) else []

        def send_and_spin() -> None:
            if before is not None:
                self.publish(*before)
            self.publish(topic, message)
            end = time.monotonic() + 0.5
            while time.monotonic() < end and not answers():
                self._executor.spin_once(timeout_sec=0.02)

        return wait_until(answers, f'answers on {", ".join(outputs)}', send_and_spin)

    def ask(self, service_type: type, name: str, request: Any) -> Any:
        """Call a service that may be called twice, again every 5 s until it answers.

        A service may take a request before it has found out where answers to it go; they are lost.
        """
        client = self.node.create_client(service_type, name)
        self.wait_until(client.service_is_ready, f'the service {name}')
        futures: list[Any] = []
        asked_at = 0.0

        def answer() -> Any:
            nonlocal asked_at
            if time.monotonic() - asked_at > 5.0:
                asked_at = time.monotonic()
                futures.append(client.call_async(request))
            return next((future for future in futures if future.done()), None)

        response = self.wait_until(answer, f'an answer of {name}').result()
        self.node.destroy_client(client)
        return response

    def set_parameter(self, out: str, name: str, value: object) -> str:
        """Set a parameter of the node whose topics begin so; return why it was refused, or ''."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        (result,) = self.ask(SetParameters, out + 'set_parameters', request).results
        assert result.successful == (not result.reason)
        return result.reason

    def call(self, service_type: type, name: str, request: Any) -> Any:
        """Call a service once and return its response."""
        client = self.node.create_client(service_type, name)
        self.wait_until(client.service_is_ready, f'the service {name}')
        # It should know where its answer goes by now (see ask), but nobody can tell.
        end = time.monotonic() + 0.3
        self.wait_until(lambda: time.monotonic() > end, 'the time')
        future = client.call_async(request)
        self.wait_until(future.done, f'an answer of {name}')
        self.node.destroy_client(client)
        return future.result()


def header_of(message: Any) -> Any:
    """Return a message's header; that of the first element if it is a MarkerArray."""
    if hasattr(message, 'markers'):
        return message.markers[0].header if message.markers else None
    return message.header


@pytest.fixture(scope='session')
def peer_of_all() -> Iterator[Peer]:
    import rclpy
    from rclpy.context import Context

    context = Context()
    rclpy.init(context=context)
    peer = Peer(context)
    yield peer
    peer.close()
    rclpy.shutdown(context=context)


@pytest.fixture
def peer(peer_of_all: Peer) -> Iterator[Peer]:
    """Return a node of this process to talk to the node of the other."""
    yield peer_of_all
    peer_of_all.forget()


@pytest.fixture(scope='module')
def module_node(tiny_model: Path, request: pytest.FixtureRequest) -> Iterator[NodeProcess]:
    """Return the node's process, shared by the tests of a module; its namespace is /robot."""
    arguments = getattr(request.module, 'NODE_ARGUMENTS', ())
    process = NodeProcess(
        *('-r', '__ns:=/robot', '-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime'),
        *arguments,
    )
    process.wait_for_log('waiting for images')
    yield process
    process.end()


@pytest.fixture
def start_node() -> Iterator[Callable[..., NodeProcess]]:
    """Return a function that starts the node's process; it ends with the test."""
    started: list[NodeProcess] = []

    def start(*arguments: str, **options: Any) -> NodeProcess:
        started.append(NodeProcess(*arguments, **options))
        return started[-1]

    yield start
    for process in started:
        process.end()
