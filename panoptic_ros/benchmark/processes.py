"""ROS processes that a program starts for itself, in a DDS domain that nobody else hears."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from panoptic_ros.errors import PanopticRosError
from panoptic_ros.resources import resource

DOMAINS = range(1, 102)
"""DDS domains whose ports, 250 each from 7400, end before those that Linux gives to anybody.

0 is left out: it is everybody's who does not choose.
"""

_claims: list[socket.socket] = []
"""They last as long as the process."""


@cache
def own_domain() -> int:
    """Return a DDS domain in which nobody else of this machine is; the same one every time.

    It stays this process's until it ends, however it ends: others who ask here get another.
    Raises PanopticRosError if none is left.
    """
    for domain in random.SystemRandom().sample(DOMAINS, len(DOMAINS)):
        # An abstract address is a lock without a file. It counts where DDS's ports count: in the
        # network namespace, whatever container and user the process is in.
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f'\0panoptic_ros/domain/{domain}')
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        if not is_inhabited(domain):
            return domain
    raise PanopticRosError(
        f'each DDS domain from {DOMAINS[0]} to {DOMAINS[-1]} is in use on this machine; end some '
        'of the ROS processes'
    )


def is_inhabited(domain: int) -> bool:
    """Whether a DDS participant, whoever started it, has the domain's first port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(('', 7410 + 250 * domain))
        except OSError:
            return True
    return False


def large_image_environment() -> dict[str, str]:
    """Return what a process needs in its environment before it starts, to exchange large images.

    That is the DDS profile (see ``config/fastdds.xml``), and that malloc keeps buffers as large
    as images instead of mapping them anew for each, in one heap: else threads have their own, and
    of an engine that is closed much stays in the one, while the next is opened in another.
    """
    # Jazzy and older know only the old name, later ones complain of it.
    prefix = 'FASTRTPS' if os.environ.get('ROS_DISTRO') in ('humble', 'jazzy') else 'FASTDDS'
    return {
        f'{prefix}_DEFAULT_PROFILES_FILE': str(resource('config', 'fastdds.xml')),
        'MALLOC_MMAP_THRESHOLD_': str(32 << 20),
        'MALLOC_TRIM_THRESHOLD_': str(256 << 20),
        'MALLOC_ARENA_MAX': '1',
    }


def process_environment() -> dict[str, str]:
    """Return the environment of a ROS process of this machine that nobody else hears."""
    return {
        'AMENT_PREFIX_PATH': sys.prefix,
        **os.environ,
        **large_image_environment(),
        'ROS_DOMAIN_ID': str(own_domain()),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'RCUTILS_COLORIZED_OUTPUT': '0',
        'PYTHONUNBUFFERED': '1',
    }


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Let SIGINT and SIGTERM take effect after the block only; for the main thread.

    What a handler raises between the start of a process and the note of who ends it would leave
    the process behind.
    """
    came: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


class Process:
    """A Python module that runs as a process of its own, its output in a file."""

    def __init__(
        self, module: str, parameters: dict[str, Any], environment: dict[str, str], log: Path
    ) -> None:
        # A string between quotes stays one in YAML, whatever it looks like.
        values = [f'{name}:={json.dumps(value)}' for name, value in parameters.items()]
        arguments = [part for value in values for part in ('-p', value)]
        self.log = log
        with log.open('wb') as output:
            self._process = subprocess.Popen(
                [sys.executable, '-m', module, '--ros-args', *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C is for who started it, and ends it in order
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it without its doing."""
        self._process.kill()
        self._process.wait()

    def interrupt(self, timeout_s: float = 20.0) -> int:
        """Send SIGINT, wait, and return the exit code; kill it if it does not end in time."""
        if self.exit_code is None:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()

    def tail(self, lines: int = 20) -> str:
        """Return the end of what it wrote."""
        text = self.log.read_text(encoding='utf-8', errors='replace')
        return '\n'.join(text.splitlines()[-lines:])
