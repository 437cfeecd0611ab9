"""What the README promises: its tables of topics and parameters are the node's."""

import importlib.util
import re
from dataclasses import asdict

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from panoptic_ros.resources import resource
from panoptic_ros.ros.parameters import Structure, Tuning

OUT = '/robot/segment/'
NODE_ARGUMENTS = ('-p', 'depth:=true', '-p', 'virtual_depth:=true')
# Every node has these.
OF_ROS = {'/rosout', '/parameter_events', OUT + 'transition_event'}


def is_installed(message_type: str) -> bool:
    package, slash, _ = message_type.partition('/')
    return not slash or importlib.util.find_spec(package) is not None


def chapter(title: str) -> str:
    """Return a chapter of the README."""
    readme = (resource() / 'README.md').read_text(encoding='utf-8')
    return readme.partition(f'\n## {title}\n')[2].partition('\n## ')[0]


def promised() -> dict[str, str]:
    """Return the types by topic that the README's table states, of packages that are here."""
    row = re.compile(r'^\| `(\S+)`(?:, `(\S+)`)? \| (\S+?)(?:,[^|]*)? \|', re.MULTILINE)
    rows = row.findall(chapter('Topics'))
    types = {
        topic.replace('~/', OUT): row[2].rpartition('/')[2]
        for row in rows
        for topic in row[:2]
        if topic and is_installed(row[2])
    }
    assert len(types) > 8
    return types


def test_the_readme_lists_the_node_s_topics(module_node, peer) -> None:
    def advertised() -> dict[str, str]:
        if ('segment', '/robot') not in peer.node.get_node_names_and_namespaces():
            return {}
        found = peer.node.get_publisher_names_and_types_by_node('segment', '/robot')
        return {t: types[0].rpartition('/')[2] for t, types in found if t not in OF_ROS}

    # Discovery brings one topic after the other.
    peer.wait_until(lambda: advertised().keys() >= promised().keys(), f'{sorted(promised())}')
    assert advertised() == promised()


def test_the_readme_lists_the_node_s_parameters() -> None:
    rows = re.findall(r'^\| (`.*?) \| (.*?) \| .* \|$', chapter('Parameters'), re.MULTILINE)
    stated = {}
    for names, defaults in rows:
        values = defaults.replace('`', '').replace('empty', '').split(', ')
        own = re.findall(r'`(\w+)`', names)
        # Neighbours may share a default too.
        stated |= dict(zip(own, values * (len(own) if len(values) == 1 else 1), strict=True))
    defaults = asdict(Structure()) | asdict(Tuning())
    as_yaml = {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in defaults.items()
    }
    assert stated == as_yaml
