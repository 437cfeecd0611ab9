"""The two ends of a replay: what is replayed, and the node it goes to."""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from time import monotonic
from typing import Any

from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient

from panoptic_ros.benchmark.bags import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    TRUTH_TOPICS,
    BagReader,
    Frame,
    Topic,
    camera_info_topic,
    frames,
    image_topic,
)
from panoptic_ros.benchmark.processes import Process
from panoptic_ros.benchmark.replay.playback import (
    Records,
    SteadyClock,
    begins_with_header,
    message_class,
    stamp_reader,
)
from panoptic_ros.errors import BagError, PanopticRosError
from panoptic_ros.ros.camera import Prefetch
from panoptic_ros.ros.messages import ENCODINGS

HELD_BYTES = 1 << 30
"""Recordings up to this size are read before it begins, larger ones from disk meanwhile."""

READ_AHEAD = 32  # frames, of larger ones
READ_TIMEOUT_S = 60.0
PARAMETER_TIMEOUT_S = 5.0


class NoAnswerError(PanopticRosError):
    """The node is not there, or does not answer."""


class Stopped(Exception):  # noqa: N818, it is none
    """A signal came before there was anything to report."""


def segment_name(args: argparse.Namespace) -> str:
    """Return the fully qualified name of the node that is measured."""
    return '/segment' if args.node is None else f'/{args.node.strip("/")}'


@dataclass(frozen=True, eq=False)
class Recording:
    """The part of a recording that is replayed.

    Parameters
    ----------
    bag
        Open.
    image
        The camera's images.
    start_ns, stop_ns
        Of the part, of the recording's clock; the end is not in it.
    """

    bag: BagReader
    image: Topic
    start_ns: int
    stop_ns: int

    @classmethod
    def of(cls, bag: BagReader, args: argparse.Namespace) -> 'Recording':
        """Take what the arguments ask for; raises BagError if it is not there."""
        image = image_topic(bag, ENCODINGS, args.topic[0] if args.topic else None)
        start_ns = bag.start_ns + round(args.start_offset * 1e9)
        if start_ns > bag.end_ns:
            seconds = (bag.end_ns - bag.start_ns) / 1e9
            raise BagError(
                f'--start-offset is {args.start_offset:g} s; recording {str(bag.path)!r} is '
                f'{seconds:.1f} s long'
            )
        stop_ns = bag.end_ns + 1
        if args.duration is not None:
            stop_ns = min(stop_ns, start_ns + round(args.duration * 1e9))
        for name, _ in args.remap:
            if name not in {topic.name for topic in bag.topics}:
                listed = '; '.join(map(str, bag.topics))
                raise BagError(f'--remap: the recording has no topic {name}; it has {listed}')
        return cls(bag, image, start_ns, stop_ns)

    def type_of(self, topic: str) -> str:
        """Return the type of a topic."""
        return next(t.type for t in self.bag.topics if t.name == topic)

    @property
    def has_truth(self) -> bool:
        """Whether the panoptic truth is recorded too."""
        return {topic.name for topic in self.bag.topics} >= set(TRUTH_TOPICS)

    def mounting(self) -> dict[str, float]:
        """Return parameters of the node that tell how the camera is mounted, if that is known."""
        names = ('camera_height_m', 'camera_pitch_rad')
        return {name: float(self.bag.note(name)) for name in names if self.bag.note(name)}

    def reader(self, topics: Iterable[str]) -> Callable[[], Iterable[Frame]]:
        """Return what reads the frames of the part from its beginning, again and again."""
        wanted = {self.image.name, *topics}
        stamped = {t for t in wanted if begins_with_header(message_class(self.type_of(t)))}

        def read(bag: BagReader) -> Iterator[Frame]:
            messages = bag.read(wanted, self.start_ns, self.stop_ns)
            return frames(messages, self.image.name, stamped)

        def stream() -> Iterator[Frame]:
            with BagReader(self.bag.path) as own:  # another thread's
                yield from read(own)

        if self._bytes_of(wanted) > HELD_BYTES:
            return lambda: _ahead(stream())
        held = list(read(self.bag))
        return lambda: held

    def _bytes_of(self, topics: Iterable[str]) -> int:
        part = (self.stop_ns - self.start_ns) / (self.bag.end_ns + 1 - self.bag.start_ns)
        found = [topic for topic in self.bag.topics if topic.name in topics]
        return round(part * sum(t.count * len(self.bag.first(t.name).data) for t in found))


def _ahead(items: Iterator[Frame]) -> Iterator[Frame]:
    prefetch = Prefetch(items, READ_AHEAD)
    try:
        while (item := prefetch.get(READ_TIMEOUT_S)) is not None:
            yield item
    finally:
        prefetch.close()


@dataclass(frozen=True, eq=False)
class Segment:
    """The node that is measured.

    Parameters
    ----------
    name
        Fully qualified.
    image_input
        Where it expects images.
    inputs, outputs
        What it subscribes to, and what it publishes.
    process
        None if it was running already.
    parameters
        By name; empty if the node does not tell.
    """

    name: str
    image_input: str
    inputs: tuple[Topic, ...]
    outputs: tuple[Topic, ...]
    process: Process | None
    parameters: Mapping[str, Any]

    @classmethod
    def find(
        cls,
        node: Node,
        name: str,
        records: Records,
        clock: SteadyClock,
        process: Process | None,
        args: argparse.Namespace,
    ) -> 'Segment':
        """Wait until the node is active and seen by DDS; raises NoAnswerError if it never is.

        Neither is it as long as another node has its name: DDS tells of either.
        """
        space, _, base = name.rpartition('/')
        end_s = monotonic() + args.timeout
        while True:
            inputs = outputs = ()
            namesakes = node.get_node_names_and_namespaces().count((base, space or '/'))
            if namesakes == 1:
                inputs = _topics(node.get_subscriber_names_and_types_by_node(base, space or '/'))
                outputs = _topics(node.get_publisher_names_and_types_by_node(base, space or '/'))
            image_input = records.value('image topic')
            is_seen = image_input in {t.name for t in inputs}
            is_timed = f'{name}/timing' in {t.name for t in outputs}
            if records.value('state') == 'active' and is_seen and is_timed:
                break
            check_process(process)
            if monotonic() > end_s:
                raise NoAnswerError(_absence(name, records, args.timeout, namesakes))
            if not clock.wait_until(clock.now_ns() + 50_000_000):
                raise Stopped
        return cls(name, image_input, inputs, outputs, process, _parameters(node, name, clock))


def _topics(names_and_types: Iterable[tuple[str, list[str]]]) -> tuple[Topic, ...]:
    return tuple(Topic(name, types[0], 0) for name, types in names_and_types)


def check_process(process: Process | None) -> None:
    """Raise NoAnswerError, with what it said last, if a process that was started has ended."""
    if process is not None and process.exit_code is not None:
        raise NoAnswerError(
            f'the node ended with exit code {process.exit_code}; the end of {process.log}:\n'
            f'{process.tail()}'
        )


def _absence(name: str, records: Records, timeout_s: float, namesakes: int) -> str:
    domain = os.environ.get('ROS_DOMAIN_ID', '0')
    state = records.value('state')
    waited = f'waited {timeout_s:.0f} s in vain for the node {name} to be active'
    if namesakes > 1:
        return (
            f'{waited}: {namesakes} nodes in ROS_DOMAIN_ID {domain} are called so; end the others '
            'or choose another domain'
        )
    if not state:
        return (
            f'{waited}: nothing came from it on /diagnostics; check that it runs, is called so '
            f'(ros2 node list) and has ROS_DOMAIN_ID {domain}, like this process'
        )
    if state != 'active':
        why = records.status.message
        return f'{waited}: it is {state} ({why}); try ros2 lifecycle set {name} activate'
    return f'{waited}: it is active but its topics are not seen; try a longer --timeout'


def _parameters(node: Node, name: str, clock: SteadyClock) -> dict[str, Any]:
    client = AsyncParameterClient(node, name)
    if not client.wait_for_services(PARAMETER_TIMEOUT_S):
        return {}
    names = _answer(client.list_parameters(), clock)
    if names is None:
        return {}
    values = _answer(client.get_parameters(sorted(names.result.names)), clock)
    if values is None:
        return {}
    return {
        name: parameter_value_to_python(value)
        for name, value in zip(sorted(names.result.names), values.values, strict=True)
    }


def _answer(future: Any, clock: SteadyClock) -> Any:
    end_s = monotonic() + PARAMETER_TIMEOUT_S
    while not future.done() and monotonic() < end_s:
        if not clock.wait_until(clock.now_ns() + 10_000_000):
            raise Stopped
    return future.result() if future.done() else None


def find_targets(
    recording: Recording, segment: Segment, args: argparse.Namespace
) -> dict[str, tuple[str, str]]:
    """Say where the topics of a recording are published: by topic, name and type.

    Images go to the node's input and their calibration to the one beside it; other topics to
    inputs of the same name and type, and where ``--remap`` says.

    Raises BagError if the node takes another type of image.
    """
    image = recording.image
    target = (args.topic[1] if args.topic else '') or segment.image_input
    taken = next((t.type for t in segment.inputs if t.name == target), image.type)
    if taken != image.type:
        wanted = 'compressed' if image.type == COMPRESSED_IMAGE else 'raw'
        raise BagError(
            f'{image.name} of the recording is {image.type}, but {segment.name} takes {taken} on '
            f'{target}; start it with image_transport:={wanted}'
        )
    found = {image.name: (target, image.type)}
    info = camera_info_topic(recording.bag.topics, image.name)
    info_input = camera_info_topic(segment.inputs, target)
    if info is not None and info_input is not None:
        found[info.name] = (info_input.name, CAMERA_INFO)
    inputs = {(topic.name, topic.type) for topic in segment.inputs}
    for topic in recording.bag.topics:
        if (topic.name, topic.type) in inputs:
            found.setdefault(topic.name, (topic.name, topic.type))
    return found | {name: (to or name, recording.type_of(name)) for name, to in args.remap}


def find_outputs(segment: Segment, names: Iterable[str]) -> dict[str, type]:
    """Return the message classes of outputs by their names relative to the node.

    Raises BagError if the node has no such output, or its messages have no header.
    """
    prefix = f'{segment.name}/'
    types = {t.name.removeprefix(prefix): t.type for t in segment.outputs}
    kinds = {}
    for name in names:
        if name not in types:
            there = ', '.join(sorted(t for t in types if not t.startswith('/')))
            raise BagError(f'--outputs: {segment.name} has no output {name!r}; it has {there}')
        kinds[name] = message_class(types[name])
        stamp_reader(kinds[name])
    return kinds


def start_node(args: argparse.Namespace, recording: Recording, stack: ExitStack) -> Process:
    """Start the node that is measured; the stack ends it."""
    is_compressed = recording.image.type == COMPRESSED_IMAGE
    parameters = {
        'model': args.model,
        'engine': args.engine,
        'image_transport': 'compressed' if is_compressed else 'raw',
        **recording.mounting(),
        **dict(args.param),
    }
    print(f'starting the node with model {args.model} ...', flush=True)
    process = Process('panoptic_ros.ros.node', parameters, dict(os.environ), args.out / 'node.log')
    stack.callback(process.interrupt)
    return process
