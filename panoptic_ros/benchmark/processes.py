"""Child processes of a benchmark: the node under test and the camera, in a private DDS domain."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from panoptic_ros.errors import PanopticRosError
from panoptic_ros.resources import resource

DOMAINS = range(1, 102)
"""Domain ids whose UDP ports (250 per domain, from 7400) lie below Linux's ephemeral ports.

Domain 0 is excluded: it is the default of every ROS process.
"""

_claims: list[socket.socket] = []
"""Sockets that hold this process's claims until it ends."""


class NodeLostError(PanopticRosError):
    """The node under test, or the camera, has ended or does not answer."""


@cache
def own_domain() -> int:
    """Return a DDS domain id that no other process of this machine uses.

    The id is reserved until this process ends; every call returns the same one. Raises
    PanopticRosError if all domains are in use.
    """
    for domain in random.SystemRandom().sample(DOMAINS, len(DOMAINS)):
        # An abstract socket address is a lock without a file. Like the DDS ports it belongs to
        # the network namespace, whatever the container and the user.
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
    """Return whether any DDS participant of this machine has bound the domain's first port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(('', 7410 + 250 * domain))
        except OSError:
            return True
    return False


def large_image_environment() -> dict[str, str]:
    """Return the environment variables that a process needs to exchange large images.

    These are the DDS profile (``config/fastdds.xml``) and malloc settings: buffers of the size of
    an image are kept instead of mapped anew for each image, and all threads share one heap, so
    that memory of a closed engine is reused by the next one.
    """
    # Jazzy and older read only the old name; later releases warn about it.
    prefix = 'FASTRTPS' if os.environ.get('ROS_DISTRO') in ('humble', 'jazzy') else 'FASTDDS'
    return {
        f'{prefix}_DEFAULT_PROFILES_FILE': str(resource('config', 'fastdds.xml')),
        'MALLOC_MMAP_THRESHOLD_': str(32 << 20),
        'MALLOC_TRIM_THRESHOLD_': str(256 << 20),
        'MALLOC_ARENA_MAX': '1',
    }


def process_environment() -> dict[str, str]:
    """Return the environment of a ROS process in this process's private domain."""
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
    """Defer SIGINT and SIGTERM until the end of the block; main thread only.

    Used where an exception raised by a handler would leave a child process without an owner.
    """
    pending: list[int] = []
    handlers = {
        number: signal.signal(number, lambda came, _: pending.append(came))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for came in pending:
            signal.raise_signal(came)


class Process:
    """A Python module that runs with ROS parameters as a child process, its output in a file.

    Parameters
    ----------
    module
        Name for ``python -m``.
    parameters
        ROS parameters by name.
    log
        File for stdout and stderr.
    arguments
        Command line arguments before ``--ros-args``.
    """

    def __init__(
        self,
        module: str,
        parameters: Mapping[str, Any],
        log: Path,
        arguments: Sequence[str] = (),
    ) -> None:
        # JSON is YAML: a quoted string stays a string, whatever it looks like.
        values = [f'{name}:={json.dumps(value)}' for name, value in parameters.items()]
        options = [part for value in values for part in ('-p', value)]
        self.log = log
        with log.open('wb') as output:
            self._process = subprocess.Popen(
                [sys.executable, '-m', module, *arguments, '--ros-args', *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only the parent, which ends its children
            )

    @property
    def exit_code(self) -> int | None:
        """Exit code; None while the process runs."""
        return self._process.poll()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL and wait."""
        self._process.kill()
        self._process.wait()

    def interrupt(self, timeout_s: float = 20.0) -> int:
        """Send SIGINT, wait, and return the exit code; kill the process after the timeout."""
        if self.exit_code is None:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()

    def require_running(self) -> None:
        """Raise NodeLostError, with the end of the log, if the process has ended."""
        if self.exit_code is not None:
            raise NodeLostError(
                f'{self.log.stem} ended with exit code {self.exit_code}; the end of {self.log}:\n'
                f'{self.tail()}'
            )

    def tail(self, lines: int = 20) -> str:
        """Return the last lines of the log."""
        text = self.log.read_text(encoding='utf-8', errors='replace')
        return '\n'.join(text.splitlines()[-lines:])


class Processes:
    """Starts child processes; leaving the context ends those that still run.

    Parameters
    ----------
    folder
        Where the logs go; it is created.

    Attributes
    ----------
    logs
        Log files of all processes started, in order.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PanopticRosError(
                f'cannot make the folder {folder} ({error.strerror}); choose another with --out'
            ) from error
        self.logs: list[Path] = []
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> 'Processes':
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(
        self,
        module: str,
        parameters: Mapping[str, Any],
        arguments: Sequence[str] = (),
        log: str = '',
    ) -> Process:
        """Start ``python -m module``; the log is named after the module unless named here."""
        path = self._folder / f'{log or module.rpartition(".")[2]}.log'
        with signals_held_back():
            process = Process(module, parameters, path, arguments)
            self._stack.callback(process.interrupt)
        self.logs.append(path)
        return process
