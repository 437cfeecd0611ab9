"""Foxglove with config/foxglove.json: its panels show topics that the node publishes.

Keys as in ``packages/studio-base`` of foxglove/studio 1.87 (MPL-2.0): ``configById`` has the
settings of each panel, ``layout`` a tree of the panels.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from panoptic_ros.resources import resource
from panoptic_ros.ros.outputs import OUTPUTS

TYPES = {output.topic.replace('~', '/segment'): output.type_name for output in OUTPUTS}


@pytest.fixture(scope='module')
def layout() -> dict[str, Any]:
    return json.loads(resource('config', 'foxglove.json').read_text(encoding='utf-8'))


def panels(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
        return
    assert tree['direction'] in ('row', 'column')
    assert 0 < tree['splitPercentage'] < 100
    for part in ('first', 'second'):
        yield from panels(tree[part])


def test_every_panel_has_its_place(layout: dict[str, Any]) -> None:
    placed = list(panels(layout['layout']))
    assert sorted(placed) == sorted(layout['configById'])


def test_images_are_topics_of_the_node(layout: dict[str, Any]) -> None:
    shown = {
        config['imageMode']['imageTopic']
        for name, config in layout['configById'].items()
        if name.startswith('Image!')
    }
    assert shown == {f'/segment/{n}' for n in ('overlay', 'semantic_color', 'instance_color')}
    assert {TYPES[topic] for topic in shown} == {'sensor_msgs/Image'}


def test_the_scene_shows_topics_of_the_node(layout: dict[str, Any]) -> None:
    topics = layout['configById']['3D!scene']['topics']
    assert topics.keys() <= TYPES.keys()
    visible = {topic for topic, settings in topics.items() if settings['visible']}
    assert visible == {'/segment/markers', '/segment/free_space', '/segment/points'}


def test_the_scene_is_seen_from_behind_and_above_the_camera(layout: dict[str, Any]) -> None:
    """The frame is optical, and Foxglove turns its camera about the z axis."""
    state = layout['configById']['3D!scene']['cameraState']
    phi, theta = np.radians([state['phi'], -state['thetaOffset']])
    away = np.array([np.sin(phi) * np.sin(theta), -np.sin(phi) * np.cos(theta), np.cos(phi)])
    x, y, z = state['targetOffset'] + state['distance'] * away
    assert abs(x) < 0.01
    assert y < -5  # y is down
    assert z < 0


def test_diagnostics_are_those_of_the_node(layout: dict[str, Any]) -> None:
    panel = layout['configById']['DiagnosticStatusPanel!node']
    assert panel['topicToRender'] == '/diagnostics'
    assert panel['selectedName'] == 'segment: segmentation'
