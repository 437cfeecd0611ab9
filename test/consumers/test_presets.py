"""The parameter files for consumers, loaded by the real node, and the tables that go with them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python

from panoptic_ros import cli
from panoptic_ros.resources import resource

PRESETS = sorted(resource('config', 'consumers').glob('*.yaml'))
OUT = '/segment/'


def content(preset: Path) -> dict[str, Any]:
    (parameters,) = (
        node['ros__parameters'] for node in yaml.safe_load(preset.read_text()).values()
    )
    return parameters


def test_there_is_one_for_every_consumer() -> None:
    assert {preset.stem for preset in PRESETS} == {
        *('nav2', 'nav2_free_space', 'nvblox', 'hydra', 'panoptic_mapping', 'octomap'),
    }


@pytest.mark.parametrize('preset', PRESETS, ids=lambda path: path.stem)
def test_the_node_takes_it_without_a_warning(
    start_node, peer, tiny_model, camera_in_odom, preset: Path
) -> None:
    node = start_node(
        *('--params-file', str(preset), '-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime')
    )
    node.wait_for_log('waiting for images')
    # Unknown names, and QoS overrides of topics that the node does not have, are warned of.
    assert '[WARN]' not in node.log
    names = list(flat(content(preset)))
    request = GetParameters.Request(names=names)
    answer = peer.ask(GetParameters, OUT + 'get_parameters', request)
    values = map(parameter_value_to_python, answer.values)
    assert dict(zip(names, values, strict=True)) == flat(content(preset))


def flat(parameters: dict[str, Any], prefix: str = '') -> dict[str, Any]:
    """Return the parameters by their full names."""
    values = {}
    for name, value in parameters.items():
        if isinstance(value, dict):
            values |= flat(value, f'{prefix}{name}.')
        else:
            values[prefix + name] = value
    return values


@pytest.mark.parametrize('preset', PRESETS, ids=lambda path: path.stem)
def test_its_comment_names_what_exists(preset: Path, capsys) -> None:
    text = preset.read_text()
    (path,) = re.findall(r'share/panoptic_ros/(\S+\.yaml)', text)
    assert resource(*Path(path).parts) == preset
    for arguments in re.findall(r'^# +panoptic (.*) >', text, re.MULTILINE):
        assert cli.main(arguments.split()) == 0
        assert capsys.readouterr().out.count('\n') > 10
