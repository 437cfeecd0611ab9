"""The marker ``process``: tests that start the node or another Python program.

``make check`` leaves these tests out. A test gets the marker from a fixture that starts a process,
or carries it itself. A test without the marker that starts an interpreter or forks fails.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

STARTING_FIXTURES = {'start_node', 'module_node', 'workspace'}
INTERPRETERS = ('python', 'bash', 'sh', 'unshare', 'ros2')
# Compilers, git and readelf are no programs under test: tests may start them anywhere.

_current: list[pytest.Item] = []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if STARTING_FIXTURES & set(getattr(item, 'fixturenames', ())):
            item.add_marker('process')


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    _current[:] = [item]
    try:
        return (yield)
    finally:
        _current.clear()


def is_unmarked_start(event: str, arguments: tuple[Any, ...], markers: set[str]) -> bool:
    """Return whether an audit event starts a program that the test's markers do not declare."""
    if 'process' in markers:
        return False
    if event == 'os.fork':
        return True
    if event != 'subprocess.Popen':
        return False
    return Path(os.fsdecode(arguments[0])).name.startswith(INTERPRETERS)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ('subprocess.Popen', 'os.fork') and _current:
        item = _current[0]
        if is_unmarked_start(event, arguments, {mark.name for mark in item.iter_markers()}):
            raise RuntimeError(
                f'{item.nodeid} starts a process ({event}) without the marker "process"; add '
                '@pytest.mark.process'
            )


sys.addaudithook(_audit)
