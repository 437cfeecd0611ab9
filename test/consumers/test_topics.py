"""What the README promises: its table of topics is what the node has, with these very types."""

import importlib.util
import re

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from panoptic_ros.resources import resource

OUT = '/robot/segment/'
NODE_ARGUMENTS = ('-p', 'depth:=true', '-p', 'virtual_depth:=true')
# Every node has these.
OF_ROS = {'/rosout', '/parameter_events', OUT + 'transition_event'}


def is_installed(message_type: str) -> bool:
    package, slash, _ = message_type.partition('/')
    return not slash or importlib.util.find_spec(package) is not None


def promised() -> dict[str, str]:
    """Return the types by topic that the README's table states, of packages that are here."""
    readme = (resource() / 'README.md').read_text(encoding='utf-8')
    table = readme.partition('## Topics')[2].partition('## ')[0]
    rows = re.findall(r'^\| `(\S+)`(?:, `(\S+)`)? \| (\S+?)(?:,[^|]*)? \|', table, re.MULTILINE)
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
