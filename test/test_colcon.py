"""The package in a ROS workspace: colcon builds it, and what it installs runs."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from panoptic_ros.benchmark.processes import own_domain

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def environment(**extra):
    kept = {k: v for k, v in os.environ.items() if k not in ('AMENT_PREFIX_PATH', 'PYTHONPATH')}
    return {**kept, **extra}


def run(*command, cwd, **extra):
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def workspace(tmp_path_factory):
    """Return a workspace in which colcon has built the package."""
    for module in ('colcon_core', 'colcon_ros'):
        pytest.importorskip(module, reason='colcon is not installed')
    workspace = tmp_path_factory.mktemp('workspace')
    skip = shutil.ignore_patterns(
        '.*', '__pycache__', 'out', 'build', 'install', 'log', '*.egg-info'
    )
    shutil.copytree(ROOT, workspace / 'src' / 'panoptic_ros', ignore=skip)
    colcon = (sys.executable, '-m', 'colcon', '--log-base', workspace / 'log')
    listed = run(*colcon, 'list', cwd=workspace)
    assert listed.split() == ['panoptic_ros', 'src/panoptic_ros', '(ros.ament_python)']
    run(*colcon, 'build', cwd=workspace)
    return workspace


@pytest.fixture
def prefix(workspace):
    return workspace / 'install' / 'panoptic_ros'


def test_share_is_complete(prefix):
    share = prefix / 'share' / 'panoptic_ros'
    for folder in ('launch', 'config', 'models'):
        for path in (ROOT / folder).rglob('*'):
            if path.is_file() and '__pycache__' not in path.parts:
                copy = share / path.relative_to(ROOT)
                assert copy.read_bytes() == path.read_bytes(), copy
    assert (share / 'package.xml').is_file()
    assert (prefix / 'share/ament_index/resource_index/packages/panoptic_ros').is_file()
    assert not list(share.rglob('__pycache__'))


def test_executables_are_where_ros2_run_looks(prefix):
    folder = prefix / 'lib' / 'panoptic_ros'
    expected = {'segment', 'camera', 'replay_benchmark', 'panoptic'}
    assert {path.name for path in folder.iterdir()} == expected
    for path in folder.iterdir():
        assert os.access(path, os.X_OK), path


def sourced(workspace, command):
    """Return the shell command that runs something in the workspace, as its users do."""
    return ['bash', '-c', f'. install/setup.bash && exec {command}']


def test_resources_are_found_in_the_installed_package(workspace, prefix):
    code = (
        'import panoptic_ros; from panoptic_ros.resources import share_dir; '
        'print(panoptic_ros.__file__); print(share_dir())'
    )
    command = sourced(workspace, f'{sys.executable} -c "{code}"')
    package, share = run(*command, cwd=workspace).splitlines()[-2:]
    assert Path(package).is_relative_to(prefix)
    assert Path(share) == prefix / 'share' / 'panoptic_ros'


def test_node_runs_from_the_workspace(workspace, tiny_model):
    pytest.importorskip('rclpy', reason='ROS 2 is not installed')
    command = f'install/panoptic_ros/lib/panoptic_ros/segment --ros-args -p model:={tiny_model}'
    log = workspace / 'segment.log'
    with log.open('wb') as output:
        node = subprocess.Popen(
            sourced(workspace, command),
            cwd=workspace,
            env=environment(
                AMENT_PREFIX_PATH=sys.prefix,
                ROS_DOMAIN_ID=str(own_domain()),
                ROS_AUTOMATIC_DISCOVERY_RANGE='LOCALHOST',
            ),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + 60
        while 'waiting for images' not in log.read_text():
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        node.send_signal(signal.SIGINT)
        assert node.wait(30) == 0, log.read_text()
    finally:
        node.kill()


def test_camera_runs_from_the_workspace(workspace):
    pytest.importorskip('rclpy', reason='ROS 2 is not installed')
    command = (
        'install/panoptic_ros/lib/panoptic_ros/camera --ros-args -p wait_for_subscribers:=0 '
        '-p frames:=2 -p width:=64 -p height:=32'
    )
    run(*sourced(workspace, command), cwd=workspace, AMENT_PREFIX_PATH=sys.prefix)
