"""The files a user starts from: launch file, parameters, rviz view, Fast DDS profile."""

import ast
import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

import rclpy
from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import Image

from panoptic_ros.resources import resource
from panoptic_ros.ros import messages
from panoptic_ros.ros.node_parameters import NodeParameters
from panoptic_ros.ros.parameters import PARAMETERS as PARAMETERS_OF_NODE
from panoptic_ros.ros.parameters import Structure, Tuning

LAUNCH_FILE = resource('launch', 'segment.launch.py')
REPLAY_LAUNCH_FILE = resource('launch', 'replay_benchmark.launch.py')
PARAMETERS = resource('config', 'segment.yaml')
RVIZ_VIEWS = ('segment_optical.rviz', 'segment_forward.rviz')
PROFILE = resource('config', 'fastdds.xml')


@pytest.fixture(scope='module')
def context() -> Iterator[Context]:
    context = Context()
    rclpy.init(context=context)
    yield context
    rclpy.shutdown(context=context)


def test_parameter_file_is_one_that_ros_reads(context: Context, tmp_path: Path) -> None:
    changed = tmp_path / 'changed.yaml'
    text = PARAMETERS.read_text()
    changed.write_text(text.replace('camera_height_m: 1.5', 'camera_height_m: 0.25'))
    for path, tuning in ((PARAMETERS, Tuning()), (changed, Tuning(camera_height_m=0.25))):
        arguments = ['--ros-args', '--params-file', str(path)]
        node = Node('segment', context=context, cli_args=arguments, enable_rosout=False)
        settings = NodeParameters(node)
        assert settings.structure == Structure()
        assert settings.tuning == tuning
        assert settings.unknown == []
        node.destroy_node()


LAUNCH_STUB = Path(__file__).parents[1] / 'support' / 'launch_stub'
"""Stands in for ``launch`` and ``launch_ros`` where ROS is not installed."""


@pytest.fixture
def launch_file(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Return the names that the launch file defines, on the stand-in."""
    monkeypatch.syspath_prepend(LAUNCH_STUB)
    for name in [n for n in sys.modules if n.partition('.')[0] in ('launch', 'launch_ros')]:
        monkeypatch.delitem(sys.modules, name)
    yield runpy.run_path(str(LAUNCH_FILE))
    for name in [n for n in sys.modules if n.partition('.')[0] in ('launch', 'launch_ros')]:
        del sys.modules[name]


def start(launch_file: dict[str, Any], **given: str) -> tuple[Any, Any]:
    """Return the nodes that the launch file starts with these arguments: rviz and the node."""
    *declared, opaque = launch_file['generate_launch_description']().entities
    values = {argument.name: argument.default_value for argument in declared} | given
    context = SimpleNamespace(
        launch_configurations=values, argv=[f'{name}:={value}' for name, value in given.items()]
    )
    rviz, node = opaque.function(context)
    return rviz, node


def test_every_parameter_is_an_argument_of_the_launch_file(launch_file: dict[str, Any]) -> None:
    *declared, _ = launch_file['generate_launch_description']().entities
    names = [argument.name for argument in declared]
    assert len(names) == len(set(names))
    assert set(names) >= set(PARAMETERS_OF_NODE) | {'use_sim_time'}
    assert all(len(argument.description) > 10 for argument in declared)


def test_arguments_become_parameters_with_their_type(launch_file: dict[str, Any]) -> None:
    _, node = start(launch_file, model='1.0', camera_height_m='2', use_sim_time='true')
    params_file, given = node.parameters
    assert params_file == str(PARAMETERS)
    types = {name: value.value_type for name, value in given.items()}
    assert types == {'model': str, 'camera_height_m': float, 'use_sim_time': bool}


def test_without_arguments_the_parameters_are_those_of_the_file(
    launch_file: dict[str, Any],
) -> None:
    rviz, node = start(launch_file)
    assert node.parameters == [str(PARAMETERS), {}]
    assert rviz.condition.predicate == 'false'


def test_an_unknown_argument_is_refused(
    launch_file: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'argv', ['ros2', 'launch', 'panoptic_ros', 'segment.launch.py'])
    start(launch_file, camera_height_m='2.0')
    with pytest.raises(RuntimeError, match="argument 'camera_height', did you mean camera_height"):
        start(launch_file, camera_height='2.0')
    # In a launch file that includes this one, arguments of others are none of its business.
    monkeypatch.setattr(sys, 'argv', ['ros2', 'launch', 'mine', 'robot.launch.py'])
    start(launch_file, robot='7')


def test_a_parameter_file_that_does_not_exist_is_refused(launch_file: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match=r"params_file is '/none\.yaml'; expected an existing"):
        start(launch_file, params_file='/none.yaml')


def test_topics_are_remapped(launch_file: dict[str, Any]) -> None:
    _, node = start(launch_file, image_topic='/eye/image', depth_topic='/eye/depth')
    assert dict(node.remappings) == {
        'image': '/eye/image',
        'camera_info': 'camera_info',
        'depth': '/eye/depth',
        'depth/camera_info': 'depth/camera_info',
        'virtual_depth': 'virtual_depth',
    }


def test_topics_of_several_cameras_are_remapped_below_each(launch_file: dict[str, Any]) -> None:
    rviz, node = start(
        launch_file, cameras='front, left', image_topic='image_raw', namespace='robot', rviz='true'
    )
    remapped = dict(node.remappings)
    assert remapped['front/image'] == 'front/image_raw'
    assert remapped['left/image'] == 'left/image_raw'
    assert remapped['left/depth/camera_info'] == 'left/depth/camera_info'
    assert len(remapped) == 10
    assert shlex.split(rviz.prefix)[4:] == ['--topic', '/robot/segment/front/overlay', '--']
    assert ('/segment/points', '/robot/segment/front/points') in rviz.remappings
    with pytest.raises(RuntimeError, match="image_topic is '/eye'; expected a name without"):
        start(launch_file, cameras='front', image_topic='/eye')


def launch_constant(name: str, path: Path = LAUNCH_FILE) -> ast.expr:
    """Return what a launch file, which imports what is not here, assigns to a name."""
    module = ast.parse(path.read_text())
    (value,) = (
        statement.value
        for statement in module.body
        if isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Name)
        and statement.targets[0].id == name
    )
    return value


# Keys that rviz2 reads, by class of the display; it ignores others silently.
DISPLAY = {'Class', 'Name', 'Enabled', 'Value'}
RVIZ_KEYS = {
    'rviz_default_plugins/Image': DISPLAY
    | {'Topic', 'Normalize Range', 'Min Value', 'Max Value', 'Median window'},
    'rviz_default_plugins/MarkerArray': DISPLAY | {'Topic', 'Namespaces'},
    'rviz_default_plugins/Map': DISPLAY | {'Topic', 'Alpha', 'Color Scheme', 'Draw Behind'},
    'rviz_default_plugins/Axes': DISPLAY | {'Reference Frame', 'Length', 'Radius'},
    'rviz_default_plugins/PointCloud2': DISPLAY
    | {'Topic', 'Style', 'Size (Pixels)', 'Size (m)', 'Alpha', 'Decay Time', 'Selectable'}
    | {'Position Transformer', 'Color Transformer'},
}
TOPIC = {
    # The launch file gives these the node's namespace.
    'Value': {f'/segment/{name}' for name in ast.literal_eval(launch_constant('SHOWN'))},
    'Depth': {1},
    'History Policy': {'Keep Last'},
    'Reliability Policy': {'Reliable'},
    'Durability Policy': {'Volatile'},
}


@pytest.fixture(params=RVIZ_VIEWS)
def rviz(request: pytest.FixtureRequest) -> dict[str, Any]:
    return yaml.safe_load(resource('config', request.param).read_text())


def test_rviz_displays_have_only_keys_that_rviz_reads(rviz: dict[str, Any]) -> None:
    displays = rviz['Visualization Manager']['Displays']
    for display in displays:
        assert display.keys() <= RVIZ_KEYS[display['Class']], display['Name']
    topics = [display['Topic'] for display in displays if 'Topic' in display]
    for topic in topics:
        assert topic.keys() == TOPIC.keys()
        assert all(value in TOPIC[key] for key, value in topic.items())
    assert sorted(topic['Value'] for topic in topics) == sorted(TOPIC['Value'])


def test_rviz_manager(rviz: dict[str, Any]) -> None:
    assert rviz.keys() == {'Panels', 'Visualization Manager', 'Window Geometry'}
    manager = rviz['Visualization Manager']
    assert manager.keys() == {
        *('Class', 'Displays', 'Enabled', 'Global Options', 'Name', 'Tools', 'Transformation'),
        *('Value', 'Views'),
    }
    assert manager['Views']['Current']['Class'] == 'rviz_default_plugins/Orbit'


def test_rviz_views_differ_in_frame_and_view_only() -> None:
    optical, forward = (
        yaml.safe_load(resource('config', name).read_text())['Visualization Manager']
        for name in RVIZ_VIEWS
    )
    assert optical['Displays'] == forward['Displays']
    frames = [view['Global Options'].pop('Fixed Frame') for view in (optical, forward)]
    assert frames == ['camera_optical_frame', 'base_link']
    assert optical['Global Options'] == forward['Global Options']


def orbit_camera(view: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return position and direction of the view, as orbit_view_controller.cpp places it."""
    orbit = view['Visualization Manager']['Views']['Current']
    yaw, pitch = orbit['Yaw'], orbit['Pitch']
    focus = np.array([orbit['Focal Point'][axis] for axis in 'XYZ'], float)
    away = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)])
    return focus + orbit['Distance'] * away, -away


@pytest.mark.parametrize(
    ('name', 'forward', 'up'),
    [
        ('segment_optical.rviz', (0, 0, 1), (0, -1, 0)),
        ('segment_forward.rviz', (1, 0, 0), (0, 0, 1)),
    ],
)
def test_rviz_looks_forward_from_behind_and_above(name: str, forward: tuple, up: tuple) -> None:
    position, direction = orbit_camera(yaml.safe_load(resource('config', name).read_text()))
    assert np.dot(direction, forward) > 0.5
    assert np.dot(position, up) > 5
    assert np.dot(position, forward) < 0


def test_rviz_window_has_the_docks_of_its_displays(rviz: dict[str, Any]) -> None:
    # QMainWindow::saveState() names the docks in UTF-16.
    state = bytes.fromhex(rviz['Window Geometry']['QMainWindow State'])
    assert state.startswith(b'\0\0\0\xff')
    shown = {
        display['Name']
        for display in rviz['Visualization Manager']['Displays']
        if display['Class'] == 'rviz_default_plugins/Image' and display['Enabled']
    }
    assert shown == {'Overlay', 'Classes'}
    for name in (*shown, 'Displays'):
        assert name.encode('utf-16-be') in state


def test_launch_starts_rviz_in_the_frame_of_the_images(launch_file: dict[str, Any]) -> None:
    rviz, _ = start(launch_file, rviz='true', namespace='robot')
    command = shlex.split(rviz.prefix)
    assert command[1:4] == ['-m', 'panoptic_ros', 'rviz']
    assert command[4:] == ['--topic', '/robot/segment/overlay', '--']
    assert ('/segment/overlay', '/robot/segment/overlay') in rviz.remappings
    rviz, _ = start(launch_file, rviz='true', rviz_fixed_frame='odom', rviz_config='my.rviz')
    assert shlex.split(rviz.prefix)[4:] == [
        *('--topic', '/segment/overlay', '--frame', 'odom', '--config', 'my.rviz', '--'),
    ]


def test_fast_dds_profile() -> None:
    root = ElementTree.parse(PROFILE).getroot()
    space = root.tag.removesuffix('dds')
    transports = {
        transport.findtext(f'{space}transport_id'): transport
        for transport in root.iter(f'{space}transport_descriptor')
    }
    (participant,) = root.iter(f'{space}participant')
    assert participant.get('is_default_profile') == 'true'
    used = [e.text for e in participant.find(f'{space}rtps/{space}userTransports')]
    assert sorted(used) == sorted(transports)
    assert participant.findtext(f'{space}rtps/{space}useBuiltinTransports') == 'false'
    by_type = {t.findtext(f'{space}type'): t for t in transports.values()}
    assert by_type.keys() == {'SHM', 'UDPv4'}
    colour_1080p = 1920 * 1080 * 3
    assert int(by_type['SHM'].findtext(f'{space}segment_size')) >= 10 * colour_1080p


def launch_arguments(path: Path = LAUNCH_FILE) -> set[str]:
    names = [element.elts[0].value for element in launch_constant('ARGUMENTS', path).elts]
    assert len(names) == len(set(names))
    return set(names)


@pytest.fixture
def ros2() -> str:
    pytest.importorskip('launch_ros', reason='launch_ros is not installed')
    pytest.importorskip('ros2launch', reason='ros2 launch is not installed')
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        prefix = Path(get_package_prefix('panoptic_ros'))
    except PackageNotFoundError:
        pytest.skip('panoptic_ros is not built in a sourced workspace')
    if not (prefix / 'lib' / 'panoptic_ros' / 'segment').exists():
        pytest.skip('panoptic_ros is not built in a sourced workspace')
    command = shutil.which('ros2')
    assert command
    return command


@pytest.mark.parametrize('path', [LAUNCH_FILE, REPLAY_LAUNCH_FILE], ids=lambda p: p.name)
def test_ros2_launch_shows_its_arguments(ros2: str, path: Path) -> None:
    shown = subprocess.run(
        [ros2, 'launch', str(path), '--show-args'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in launch_arguments(path):
        assert f"'{name}':" in shown


def environment_of(pid: int) -> dict[str, str]:
    text = Path(f'/proc/{pid}/environ').read_text()
    return dict(entry.partition('=')[::2] for entry in text.split('\0') if entry)


@pytest.mark.parametrize('profile', [True, False])
def test_ros2_launch_runs_the_node(
    ros2: str, peer, tiny_model, tiny_scene: Callable[..., np.ndarray], tmp_path, profile: bool
) -> None:
    parameters = tmp_path / 'mine.yaml'
    parameters.write_text('/**: {ros__parameters: {engine: onnxruntime, overlay_opacity: 0.0}}')
    environment = {k: v for k, v in os.environ.items() if 'PROFILES_FILE' not in k}
    process = subprocess.Popen(
        [
            *(ros2, 'launch', str(LAUNCH_FILE), 'namespace:=launched', f'model:={tiny_model}'),
            *('image_topic:=/eye/picture', f'params_file:={parameters}', 'autostart:=true'),
            *([] if profile else ['fast_dds_profile:=none']),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        overlay = '/launched/segment/overlay'
        peer.subscribe(Image, overlay)
        picture = tiny_scene((64, 32))
        image = messages.image_message(picture, peer.header())
        (answer,) = peer.exchange('/eye/picture', image, overlay)
        # Opacity 0 leaves the picture as it is but for the white edges: the file was read.
        same = np.frombuffer(answer.data, np.uint8).reshape(picture.shape) == picture
        assert same.mean() > 0.5
        children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
        found = [environment_of(int(pid)) for pid in children]
        assert [e.get('FASTDDS_DEFAULT_PROFILES_FILE') for e in found] == (
            [str(PROFILE)] if profile else [None]
        )
    finally:
        process.send_signal(signal.SIGINT)
        log, _ = process.communicate(timeout=60)
    assert 'process has finished cleanly' in log
    assert 'Traceback' not in log
