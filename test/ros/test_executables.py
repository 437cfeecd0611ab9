"""Ctrl-C while Python still imports what a node needs: the executables end in order."""

import signal
import subprocess
import sys

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

PROGRAM = """
import os, sys

class Interrupted:
    '''Sends the signal twice when rclpy is about to be imported.'''
    def find_spec(self, name, path=None, target=None):
        if name == 'rclpy':
            for _ in range(2):
                os.kill(os.getpid(), {number})

from panoptic_ros.ros import executables
assert 'rclpy' not in sys.modules
sys.meta_path.insert(0, Interrupted())
sys.exit(executables.{name}())
"""


@pytest.mark.process
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('name', ['segment', 'camera'])
def test_signals_while_it_is_imported(name: str, number: signal.Signals) -> None:
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM.format(name=name, number=int(number))],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert 'Traceback' not in done.stderr


def test_executables_are_what_is_installed(pytestconfig: pytest.Config) -> None:
    setup = (pytestconfig.rootpath / 'setup.py').read_text()
    for name in ('segment', 'camera'):
        assert f"'{name} = panoptic_ros.ros.executables:{name}'" in setup
