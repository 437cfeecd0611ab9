"""The node under test: wait for it, and connect the topics of a recording with its topics."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from panoptic_ros.benchmark.bags import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    Topic,
    camera_info_topic,
)
from panoptic_ros.benchmark.cdr import key_reader, message_class
from panoptic_ros.benchmark.client import Client
from panoptic_ros.benchmark.processes import NodeLostError, Process
from panoptic_ros.benchmark.replay.options import Options
from panoptic_ros.benchmark.replay.recording import Recording
from panoptic_ros.errors import BagError


class Interrupted(Exception):  # noqa: N818, a signal is no error
    """A signal came before anything was measured."""


@dataclass(frozen=True, eq=False)
class NodeUnderTest:
    """The node that is measured.

    Parameters
    ----------
    name
        Fully qualified.
    image_input
        Topic on which it expects images.
    inputs, outputs
        Its subscriptions and publications.
    process
        The process, if this program started it.
    parameters
        By name; empty if the node does not answer.
    """

    name: str
    image_input: str
    inputs: tuple[Topic, ...]
    outputs: tuple[Topic, ...]
    process: Process | None
    parameters: Mapping[str, Any]


def find_node(client: Client, process: Process | None, timeout_s: float) -> NodeUnderTest:
    """Wait until the node is active, discovered, and the only one with its name.

    Raises NodeLostError after the timeout or if the process ends, Interrupted if stopped.
    """
    space, _, base = client.target.rpartition('/')
    address = base, space or '/'
    inputs: tuple[Topic, ...] = ()
    outputs: tuple[Topic, ...] = ()
    namesakes = 0

    def is_ready() -> bool:
        nonlocal inputs, outputs, namesakes
        namesakes = client.node.get_node_names_and_namespaces().count(address)
        if namesakes != 1:
            return False
        inputs = _topics(client.node.get_subscriber_names_and_types_by_node(*address))
        outputs = _topics(client.node.get_publisher_names_and_types_by_node(*address))
        values = client.status.values
        is_seen = values.get('image topic') in {topic.name for topic in inputs}
        is_timed = f'{client.target}/timing' in {topic.name for topic in outputs}
        return values.get('state') == 'active' and is_seen and is_timed

    if not client.wait_until(is_ready, timeout_s):
        if client.stopped.is_set():
            raise Interrupted
        raise NodeLostError(_absence(client, timeout_s, namesakes))
    image_input = client.status.values['image topic']
    parameters = client.parameters()
    if client.stopped.is_set():
        raise Interrupted
    return NodeUnderTest(client.target, image_input, inputs, outputs, process, parameters)


def _topics(names_and_types: Iterable[tuple[str, list[str]]]) -> tuple[Topic, ...]:
    return tuple(Topic(name, types[0], 0) for name, types in names_and_types)


def _absence(client: Client, timeout_s: float, namesakes: int) -> str:
    domain = os.environ.get('ROS_DOMAIN_ID', '0')
    name, status = client.target, client.status
    state = status.values.get('state')
    waited = f'the node {name} did not become active within {timeout_s:.0f} s'
    if namesakes > 1:
        return (
            f'{waited}: {namesakes} nodes in ROS_DOMAIN_ID {domain} have this name; end the '
            'others or choose another domain'
        )
    if not state:
        return (
            f'{waited}: nothing came from it on /diagnostics; check that it runs under this name '
            f'(ros2 node list) and with ROS_DOMAIN_ID {domain}, like this process'
        )
    if state != 'active':
        return (
            f'{waited}: it is {state} ({status.message}); try ros2 lifecycle set {name} activate'
        )
    return f'{waited}: it is active but its topics are not discovered; try a longer --timeout'


def find_targets(
    recording: Recording, node: NodeUnderTest, options: Options
) -> dict[str, tuple[str, str]]:
    """Return where the topics of a recording are published: name and type by recorded topic.

    Images go to the node's input and their calibration to the one beside it; other topics go to
    inputs of the same name and type, and where ``--remap`` says.

    Raises BagError if the node expects another type of image.
    """
    image = recording.image
    target = (options.topic[1] if options.topic else '') or node.image_input
    expected = next((t.type for t in node.inputs if t.name == target), image.type)
    if expected != image.type:
        transport = 'compressed' if image.type == COMPRESSED_IMAGE else 'raw'
        raise BagError(
            f'{image.name} of the recording is {image.type}, but {node.name} takes {expected} on '
            f'{target}; start it with image_transport:={transport}'
        )
    found = {image.name: (target, image.type)}
    info = camera_info_topic(recording.bag.topics, image.name)
    info_input = camera_info_topic(node.inputs, target)
    if info is not None and info_input is not None:
        found[info.name] = (info_input.name, CAMERA_INFO)
    inputs = {(topic.name, topic.type) for topic in node.inputs}
    for topic in recording.bag.topics:
        if (topic.name, topic.type) in inputs:
            found.setdefault(topic.name, (topic.name, topic.type))
    return found | {name: (to or name, recording.type_of(name)) for name, to in options.remap}


def find_outputs(node: NodeUnderTest, names: Iterable[str]) -> dict[str, type]:
    """Return the message classes of outputs, by their names relative to the node.

    Raises BagError if the node has no output of a name, or its messages have no header.
    """
    prefix = f'{node.name}/'
    types = {t.name.removeprefix(prefix): t.type for t in node.outputs}
    classes = {}
    for name in names:
        if name not in types:
            there = ', '.join(sorted(t for t in types if not t.startswith('/')))
            raise BagError(f'--outputs: {node.name} has no output {name!r}; it has {there}')
        classes[name] = message_class(types[name])
        key_reader(classes[name])
    return classes
