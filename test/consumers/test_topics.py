"""What the README promises: its table of topics is what the node has, with these very types."""

import re

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from panoptic_ros.resources import resource
from panoptic_ros.ros import messages

OUT = '/robot/segment/'
NODE_ARGUMENTS = ('-p', 'depth:=true')
# Every node has these.
OF_ROS = {'/rosout', '/parameter_events', OUT + 'transition_event'}


def promised() -> dict[str, str]:
    """Return the types by topic that the README's table states; without vision_msgs, less."""
    readme = (resource() / 'README.md').read_text(encoding='utf-8')
    table = readme.partition('## Topics')[2].partition('## ')[0]
    rows = re.findall(r'^\| `(\S+)`(?:, `(\S+)`)? \| (\S+?)(?:,[^|]*)? \|', table, re.MULTILINE)
    types = {
        topic.replace('~/', OUT): row[2].rpartition('/')[2]
        for row in rows
        for topic in row[:2]
        if topic and (messages.vision_msgs is not None or not row[2].startswith('vision_msgs/'))
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
