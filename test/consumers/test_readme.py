"""The README's tables of topics and parameters are those of the node."""

import importlib.util
import re
from dataclasses import asdict

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from panoptic_ros.resources import resource
from panoptic_ros.ros.parameters import Structure, Tuning

OUT = '/robot/segment/'
NODE_ARGUMENTS = ('-p', 'depth:=true', '-p', 'virtual_depth:=true')


def rows(title: str) -> list[list[str]]:
    """Return the cells of the table in a chapter of the README, without its head."""
    readme = (resource() / 'README.md').read_text(encoding='utf-8')
    chapter = readme.partition(f'\n## {title}\n')[2].partition('\n## ')[0]
    lines = [line for line in chapter.splitlines() if line.startswith('| `')]
    return [[cell.strip(' `') for cell in line.strip('|').split('|')] for line in lines]


def is_installed(message_type: str) -> bool:
    package, slash, _ = message_type.partition('/')
    return not slash or importlib.util.find_spec(package) is not None


def test_the_node_has_the_main_topics_of_the_readme(module_node, peer) -> None:
    types = {
        topic.replace('~/', OUT): kind.partition(',')[0].rpartition('/')[2]
        for topic, kind, _ in rows('Main topics')
        if is_installed(kind)
    }
    assert len(types) > 8

    def advertised() -> dict[str, str]:
        if ('segment', '/robot') not in peer.node.get_node_names_and_namespaces():
            return {}
        found = peer.node.get_publisher_names_and_types_by_node('segment', '/robot')
        return {topic: kinds[0].rpartition('/')[2] for topic, kinds in found if topic in types}

    # Discovery brings one topic after the other.
    peer.wait_until(lambda: advertised().keys() >= types.keys(), f'{sorted(types)}')
    assert advertised() == types


def test_parameters_and_defaults_of_the_readme_are_those_of_the_node() -> None:
    defaults = asdict(Structure()) | asdict(Tuning())
    stated = {name: re.sub('^empty$', '', default) for name, default, _ in rows('Parameters')}
    assert len(stated) == 10
    as_yaml = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in defaults.items()
    }
    assert stated == {name: as_yaml[name] for name in stated}
