"""Reference pages and parameter file agree with the code, and the code with the node's topics."""

from dataclasses import fields

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from support.reference import FILES, ROOT, sections

from panoptic_ros.ros.diagnostics import STAGES, FrameTimes
from panoptic_ros.ros.inputs import INPUTS
from panoptic_ros.ros.messages.optional import OccupancyGrid, TFMessage, vision_msgs
from panoptic_ros.ros.outputs import LABEL_INFO, OTHER_OUTPUTS, OUTPUTS
from panoptic_ros.ros.parameters import PARAMETERS

OUT = '/robot/segment/'
NODE_ARGUMENTS = ('-p', 'depth:=true', '-p', 'virtual_depth:=true')
OF_ROS = {'/rosout', '/parameter_events', OUT + 'transition_event'}


@pytest.mark.parametrize('path', FILES)
def test_written_files_are_up_to_date(path: str) -> None:
    expected = FILES[path]()
    assert (ROOT / path).read_text(encoding='utf-8') == expected, (
        f'run "python test/support/reference.py": {path} is out of date'
    )


def test_every_parameter_is_in_one_section() -> None:
    assert [name for _, names in sections() for name in names] == list(PARAMETERS)


def test_stages_are_the_fields_of_the_times() -> None:
    assert [f'{stage}_ns' for stage in STAGES] == [f.name for f in fields(FrameTimes)]


def test_outputs_name_the_type_they_have() -> None:
    for output in OUTPUTS:
        if output.message_type is not None:
            assert output.type_name.rpartition('/')[2] == output.message_type.__name__


def test_the_node_has_the_topics_of_the_tables(module_node, peer) -> None:
    tables = {o.topic: o.type_name for o in OUTPUTS if o.message_type is not None}
    tables |= {topic: type_name for topic, (type_name, _) in OTHER_OUTPUTS.items()}
    if vision_msgs is None:
        del tables[LABEL_INFO]
    published = {topic.replace('~/', OUT): name for topic, name in tables.items()}
    subscribed = {
        f'/robot/{given.topic}': given.type_name
        for given in INPUTS
        if given.parameter != 'image_transport: compressed' and given.topic != '/tf_static'
    }
    if TFMessage is not None:
        subscribed['/tf_static'] = 'tf2_msgs/TFMessage'

    def found(function) -> dict[str, str]:
        if ('segment', '/robot') not in peer.node.get_node_names_and_namespaces():
            return {}
        return {
            topic: types[0].replace('/msg/', '/')
            for topic, types in function('segment', '/robot')
            if topic not in OF_ROS
        }

    publishers = peer.node.get_publisher_names_and_types_by_node
    subscriptions = peer.node.get_subscriber_names_and_types_by_node
    # Discovery takes one topic after the other.
    peer.wait_until(lambda: found(publishers).keys() >= published.keys(), 'the publishers')
    assert found(publishers) == published
    peer.wait_until(lambda: found(subscriptions).keys() >= subscribed.keys(), 'the subscriptions')
    assert found(subscriptions) == subscribed
    assert ('~/free_space' in tables) == (OccupancyGrid is not None)
