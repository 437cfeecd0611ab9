"""What the tests of the ROS side share: a domain of their own, a peer node, the node's process."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before anything imports rclpy: no other process on this machine or network takes part.
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
os.environ.setdefault('AMENT_PREFIX_PATH', sys.prefix)
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
        return self.wait()

    def kill(self) -> None:
        self.process.kill()
        self.wait()


@pytest.fixture
def start_node() -> Iterator[Callable[..., NodeProcess]]:
    """Return a function that starts the node's process; it ends with the test."""
    started: list[NodeProcess] = []

    def start(*arguments: str, **options: Any) -> NodeProcess:
        started.append(NodeProcess(*arguments, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
