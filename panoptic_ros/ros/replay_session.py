"""One run of ``replay_benchmark``: the recording, the node, the trials, the report."""

import argparse
import importlib.util
import os
import platform
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from itertools import islice
from pathlib import Path
from time import monotonic, time_ns
from typing import Any

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from tqdm import tqdm

from panoptic_ros import __version__
from panoptic_ros.bags import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    TRUTH_TOPICS,
    BagReader,
    Frame,
    Topic,
    camera_info_topic,
    frames,
    header_stamp_ns,
    image_topic,
)
from panoptic_ros.errors import BagError, DatasetError, LabelSetError, ModelError, PanopticRosError
from panoptic_ros.evaluation.joint import JointAreas
from panoptic_ros.evaluation.latency import (
    MAX_DROPPED,
    Trial,
    find_peak,
    finite,
    output_table,
    rate_table,
    stage_table,
)
from panoptic_ros.evaluation.overlap import ClassOverlap
from panoptic_ros.evaluation.quality import PanopticQuality
from panoptic_ros.evaluation.report import as_json, summary_table, write_json
from panoptic_ros.evaluation.video import VideoQuality
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.ros.camera import Prefetch
from panoptic_ros.ros.checks import pixels
from panoptic_ros.ros.messages import ENCODINGS
from panoptic_ros.ros.playback import (
    DEFAULT_PERIOD_NS,
    Cue,
    Listener,
    Player,
    Records,
    Schedule,
    Spinner,
    SteadyClock,
    as_recorded,
    at_rate,
    begins_with_header,
    cues,
    in_step,
    listen_to_status,
    message_class,
    paced,
    stamp_reader,
)
from panoptic_ros.ros.processes import Process, large_image_environment, process_environment
from panoptic_ros.ros.replay import AS_FAST, OK, RECORDED, TRIAL_SECONDS

HELD_BYTES = 1 << 30
"""Recordings up to this size are read before it begins, larger ones from disk meanwhile."""

READ_AHEAD = 32  # frames, of larger ones
READ_TIMEOUT_S = 60.0

WARM_UP_FRAMES = 10
WARM_UP_PATIENCE_S = 0.5  # for the answer to one; it is given another then
ANSWER_TIMEOUT_S = 2.0
"""A frame that was not answered for so long will not be; slow nodes have five times as long as
they usually take."""

IN_FLIGHT = 2
"""As fast as it keeps up: one frame in work and one in the node's slot; none is overtaken."""

TRIES = 2
"""A rate is too high if it was twice: what else the machine does makes things worse only."""

GUESS_HZ = 10.0  # of the peak, for nodes too slow to answer twice in a trial

PARAMETER_TIMEOUT_S = 5.0

_PACKAGES = ('numpy', 'opencv-python-headless', 'onnxruntime', 'openvino', 'rosbags')


class NoAnswerError(PanopticRosError):
    """The node is not there, or does not answer."""


class _Stopped(Exception):  # noqa: N818, it is none
    """A signal came before there was anything to report."""


def run(args: argparse.Namespace, stop: Future[None]) -> int:
    """Measure and report; ``stop`` ends it early, with what there is.

    Raises BagError, ParameterError, SourceError and the like for what cannot be done as asked,
    NoAnswerError if the node is not there, ends or does not answer.
    """
    clock = SteadyClock()
    stop.add_done_callback(lambda _: clock.stopped.set())
    with ExitStack() as stack:
        bag = stack.enter_context(BagReader(args.bag))
        recording = Recording.of(bag, args)
        args.out.mkdir(parents=True, exist_ok=True)
        os.environ.update(_environment(args))
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        stack.callback(rclpy.try_shutdown)
        node = Node('replay_benchmark')
        stack.callback(node.destroy_node)
        records = Records(args.outputs)
        listen_to_status(node, _segment_name(args), records)
        process = _start(args, recording, stack) if args.node is None else None
        stack.callback(Spinner(node).close)
        try:
            segment = Segment.find(node, _segment_name(args), records, clock, process, args)
            session = Session(args, recording, node, segment, records, clock)
            session.measure()
        except _Stopped:
            print('replay_benchmark: interrupted before anything was measured', file=sys.stderr)
            return OK
        report = Report(args, recording, segment, session)
    write_json(args.out / 'replay.json', report.as_json())
    print(report.text())
    for path in report.write_plots():
        print(f'plot       {path}')
    print(f'result     {args.out / "replay.json"}')
    return OK


def _environment(args: argparse.Namespace) -> dict[str, str]:
    if args.node is None:
        return process_environment()
    # Who runs a node already has chosen domain and profile.
    return {k: v for k, v in large_image_environment().items() if k not in os.environ}


def _segment_name(args: argparse.Namespace) -> str:
    return '/segment' if args.node is None else f'/{args.node.strip("/")}'


def _start(args: argparse.Namespace, recording: 'Recording', stack: ExitStack) -> Process:
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
        """Wait until the node is active and seen by DDS; raises NoAnswerError if it never is."""
        space, _, base = name.rpartition('/')
        end_s = monotonic() + args.timeout
        while True:
            inputs = outputs = ()
            if (base, space or '/') in node.get_node_names_and_namespaces():
                inputs = _topics(node.get_subscriber_names_and_types_by_node(base, space or '/'))
                outputs = _topics(node.get_publisher_names_and_types_by_node(base, space or '/'))
            image_input = records.value('image topic')
            is_seen = image_input in {t.name for t in inputs}
            is_timed = f'{name}/timing' in {t.name for t in outputs}
            if records.value('state') == 'active' and is_seen and is_timed:
                break
            _check_process(process)
            if monotonic() > end_s:
                raise NoAnswerError(_absence(name, records, args.timeout))
            if not clock.wait_until(clock.now_ns() + 50_000_000):
                raise _Stopped
        return cls(name, image_input, inputs, outputs, process, _parameters(node, name, clock))


def _topics(names_and_types: Iterable[tuple[str, list[str]]]) -> tuple[Topic, ...]:
    return tuple(Topic(name, types[0], 0) for name, types in names_and_types)


def _check_process(process: Process | None) -> None:
    if process is not None and process.exit_code is not None:
        raise NoAnswerError(
            f'the node ended with exit code {process.exit_code}; the end of {process.log}:\n'
            f'{process.tail()}'
        )


def _absence(name: str, records: Records, timeout_s: float) -> str:
    domain = os.environ.get('ROS_DOMAIN_ID', '0')
    state = records.value('state')
    waited = f'waited {timeout_s:.0f} s in vain for the node {name} to be active'
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
            raise _Stopped
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


class Session:
    """The trials of one run.

    Attributes
    ----------
    trials
        To be reported, in order.
    tried
        All rates on the way to the peak.
    peak_hz
        The highest rate with less than 5 % dropped; None if it was not looked for, or not found.
    quality
        Figures for the JSON file; None where there are none, and ``quality_reason`` says why.
    targets
        Where the topics of the recording are published.
    is_interrupted
        Whether it ended early.
    notes
        Sentences about what the reader of the figures should know.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        recording: Recording,
        node: Node,
        segment: Segment,
        records: Records,
        clock: SteadyClock,
    ) -> None:
        self.trials: list[Trial] = []
        self.tried: list[Trial] = []
        self.peak_hz: float | None = None
        self.quality: dict[str, Any] | None = None
        self.quality_table = ''
        self.quality_reason = ''
        self.notes: list[str] = []
        self.targets = find_targets(recording, segment, args)
        self._args = args
        self._recording = recording
        self._segment = segment
        self._records = records
        self._clock = clock
        self._under_way: deque[int] = deque()
        self._in_flight = 1
        self._latest_ns: int | None = None
        self._patience_s = ANSWER_TIMEOUT_S
        self._player = Player(node, self.targets)
        self._read = recording.reader(self.targets)
        self._listener = Listener(node, segment.name, find_outputs(segment, args.outputs), records)

    @property
    def is_interrupted(self) -> bool:
        """Whether it ended early."""
        return self._clock.stopped.is_set()

    def measure(self) -> None:
        """Run all trials that were asked for, and then, where there is truth, for quality."""
        self._warm_up()
        if self._args.rate is None:
            self._find_peak_and_report()
        else:
            self._measure_one(self._args.rate)
        if self._records.doubled:
            self.notes.append(
                f'{self._records.doubled} frames had the stamp of an earlier one; they were '
                'published, but are not in the figures'
            )
        if not self.is_interrupted:
            self._measure_quality()

    def _find_peak_and_report(self) -> None:
        seconds = self._args.seconds or TRIAL_SECONDS
        source = cues(self._read, loop=True)
        fastest = self._trial('as fast as it keeps up', None, source, None, seconds, IN_FLIGHT)
        self.trials.append(fastest)
        if self.is_interrupted:
            return

        def measured(rate_hz: float) -> Trial:
            return self._trial(f'{rate_hz:.4g} Hz', rate_hz, source, at_rate(rate_hz), seconds)

        def holds(rate_hz: float) -> bool:
            for _ in range(TRIES):
                if self.is_interrupted:
                    return False
                trial = measured(rate_hz)
                self.tried.append(trial)
                if trial.dropped_fraction < MAX_DROPPED and trial.reached_rate:
                    return True
            return False

        guess_hz = 0.9 * fastest.frame_rate_hz
        self.peak_hz = find_peak(holds, finite(guess_hz) or GUESS_HZ)
        if self.is_interrupted:
            self.peak_hz = None
            return
        if self.peak_hz is not None:
            best = [t for t in self.tried if t.asked_hz == self.peak_hz][-1]
            self.trials.append(replace(best, name=f'peak, {self.peak_hz:.3g} Hz'))
        for rate_hz in self._args.rates:
            if self.is_interrupted:
                return
            self.trials.append(measured(rate_hz))

    def _measure_one(self, rate: float | str) -> None:
        source = cues(self._read, loop=self._args.loop)
        seconds = self._args.seconds
        if rate == AS_FAST:
            trial = self._trial('as fast as it keeps up', None, source, None, seconds, IN_FLIGHT)
        elif rate == RECORDED:
            trial = self._trial('as recorded', None, source, as_recorded(), seconds)
        else:
            trial = self._trial(f'{rate:.4g} Hz', rate, source, at_rate(rate), seconds)
        self.trials.append(trial)

    def _trial(
        self,
        name: str,
        asked_hz: float | None,
        source: Iterator[Cue],
        schedule: Schedule | None,
        seconds: float | None,
        in_flight: int = 1,
    ) -> Trial:
        self._records.forget()
        for cue in self._pace(source, schedule, seconds, in_flight):
            self._send(cue)
        usage = self._records.usage
        if self._under_way:
            self._wait_for(self._under_way[-1])
        trial = self._records.trial(name, asked_hz, usage)
        _check_process(self._segment.process)
        if not trial.answered and not self.is_interrupted:
            raise NoAnswerError(
                f'{self._segment.name} answered none of the {trial.published} images of trial '
                f'{name!r}, after it had answered before; its diagnostics say: '
                f'{self._records.status.message}'
            )
        if not trial.reached_rate:
            self.notes.append(
                f'{name}: this process could publish only {trial.publish_rate_hz:.1f} images a '
                'second'
            )
        print(
            f'{name}: {trial.published} frames, {100 * trial.dropped_fraction:.1f} % dropped',
            flush=True,
        )
        return trial

    def _pace(
        self,
        source: Iterator[Cue],
        schedule: Schedule | None,
        seconds: float | None,
        in_flight: int = 1,
    ) -> Iterator[Cue]:
        self._under_way.clear()
        if schedule is not None:
            return paced(source, schedule, self._clock, seconds)
        self._in_flight = in_flight
        return in_step(source, self._wait_for_room, self._clock, seconds)

    def _send(self, cue: Cue) -> int:
        stamp_ns = time_ns() if self._args.stamps == 'now' else cue.stamp_ns
        self._latest_ns = max(stamp_ns, self._latest_ns or stamp_ns)
        self._records.sent(stamp_ns)
        published_ns = self._player.publish(cue.frame, stamp_ns)
        self._records.published(stamp_ns, published_ns)
        while len(self._under_way) >= IN_FLIGHT:
            self._under_way.popleft()
        self._under_way.append(stamp_ns)
        return stamp_ns

    def _wait_for_room(self) -> bool:
        while len(self._under_way) >= self._in_flight:
            self._wait_for(self._under_way.popleft())
        return not self.is_interrupted

    def _wait_for(self, stamp_ns: int, timeout_s: float | None = None) -> None:
        self._records.wait_for(
            lambda: self._records.is_settled(stamp_ns) or self.is_interrupted,
            self._patience_s if timeout_s is None else timeout_s,
        )

    def _warm_up(self) -> None:
        """Publish the first frame, with stamps before its own, until some were answered."""
        first = next(iter(cues(self._read, loop=False)))
        stamp_ns = first.stamp_ns - 1000 * DEFAULT_PERIOD_NS
        end_s = monotonic() + self._args.timeout
        while (answered := self._records.answered) < WARM_UP_FRAMES:
            _check_process(self._segment.process)
            if monotonic() > end_s:
                if not answered:
                    raise NoAnswerError(self._silence())
                break
            stamp_ns += DEFAULT_PERIOD_NS
            self._wait_for(self._send(replace(first, stamp_ns=stamp_ns)), WARM_UP_PATIENCE_S)
            if self.is_interrupted:
                raise _Stopped
        latency_ms = self._records.trial('', None, ()).latency_ms()
        self._patience_s = max(ANSWER_TIMEOUT_S, 5 * np.nanmedian(latency_ms) / 1e3)
        self._latest_ns = None

    def _silence(self) -> str:
        segment, records = self._segment, self._records
        target, _ = self.targets[self._recording.image.name]
        what = (
            f'{segment.name} did not answer images on {target} with {segment.name}/'
            f'{records.topics[0]} for {self._args.timeout:.0f} s'
        )
        if records.value('frames received') in ('', '0'):
            return (
                f'{what}, and received none; check that it listens to {target} (ros2 topic info '
                '-v) and, for images above 512 KiB, that this process has the DDS profile '
                'config/fastdds.xml (README)'
            )
        trouble = records.value('last trouble')
        return f'{what}, though it received some; it says: {trouble or records.status.message}'

    def _measure_quality(self) -> None:
        count = self._args.quality_frames
        if count < 1:
            self.quality_reason = 'not asked for'
            return
        if not self._recording.has_truth:
            self.quality_reason = f'the recording has no {" and ".join(TRUTH_TOPICS)}'
            return
        if not {'semantic', 'instance'} <= set(self._records.topics):
            self.quality_reason = 'it needs the outputs semantic and instance'
            return
        try:
            label_set = self._label_set()
            self._score(label_set, count)
        except (ModelError, LabelSetError, DatasetError) as error:
            self.quality_reason = str(error)

    def _label_set(self) -> LabelSet:
        label_set = Model.load(str(self._segment.parameters.get('model', ''))).label_set
        known = self._recording.bag.note('label_set')
        if known and known != label_set.name:
            raise LabelSetError(
                f"the recording's truth has label set {known!r}, the model {label_set.name!r}"
            )
        return label_set

    def _score(self, label_set: LabelSet, count: int) -> None:
        quality, overlap = PanopticQuality(label_set), ClassOverlap(label_set)
        video = VideoQuality(label_set)
        unanswered = 0

        def pairs() -> Iterator[tuple[Panoptic, Panoptic, tuple[()]]]:
            nonlocal unanswered
            read = self._recording.reader((*self.targets, *TRUTH_TOPICS))
            after_ns = self._latest_ns
            source = islice(cues(read, loop=False, after_ns=after_ns), count)
            for cue in tqdm(self._pace(source, None, None), unit='frame', disable=None):
                pair = self._pair(cue, label_set)
                if pair is None:
                    unanswered += 1
                    continue
                prediction, truth = pair
                joint = JointAreas.of(prediction, truth)
                quality.add(joint)
                overlap.add(joint)
                yield prediction, truth, ()

        self._records.forget()
        self._records.keep = ('semantic', 'instance')
        video.update_video(pairs())
        if not quality.images:
            self.quality_reason = 'no frame was both answered and in the truth'
            return
        result, video_result = quality.result(), video.result()
        self.quality = as_json(result, overlap.result()) | {'unanswered': unanswered}
        self.quality_table = summary_table(result)
        if self._recording.bag.note('is_video') != 'false':
            names = ('VPQ', 'VPQ_things', 'VPQ_stuff', 'STQ', 'SQ', 'AQ')
            figures = {name: finite(getattr(video_result, name)) for name in names}
            # SQ is also what PQ is made of.
            figures['STQ_SQ'] = figures.pop('SQ')
            self.quality['video'] = figures
            self.quality_table += '\n' + '  '.join(
                f'{name} {value:.1f}' for name, value in figures.items() if value is not None
            )

    def _pair(self, cue: Cue, label_set: LabelSet) -> tuple[Panoptic, Panoptic] | None:
        truth = {
            message.topic: message.data
            for message in cue.frame.companions
            if message.topic in TRUTH_TOPICS
            and header_stamp_ns(message.data) == cue.frame.stamp_ns
        }
        stamp_ns = self._send(cue)
        self._wait_for(stamp_ns)
        maps = self._records.take(stamp_ns)
        if len(maps) < 2 or len(truth) < 2:
            return None
        semantic, instance = (_map(maps[name]) for name in ('semantic', 'instance'))
        true_semantic, true_instance = (_map(truth[topic]) for topic in TRUTH_TOPICS)
        try:
            return (
                Panoptic.from_maps(semantic, instance, label_set),
                Panoptic.from_maps(true_semantic, true_instance, label_set),
            )
        except ValueError as error:
            raise DatasetError(f'truth or result is no panoptic map: {error}') from error


def _map(data: bytes) -> np.ndarray:
    return pixels(deserialize_message(data, Image))


class Report:
    """What came of a run: the tables, the plots, the JSON."""

    def __init__(
        self, args: argparse.Namespace, recording: Recording, segment: Segment, session: Session
    ) -> None:
        self._args = args
        self._recording = recording
        self._segment = segment
        self._session = session
        self._records = session._records
        self._bag_sha256 = recording.bag.sha256()
        self._bag_notes = recording.bag.notes
        first = recording.bag.first(recording.image.name).data
        self._encoding, self._size_wh = _describe(first, recording.image.type)
        self._model_sha256, self._model_reason = _model_sha256(segment)

    @property
    def _title(self) -> str:
        width, height = self._size_wh
        return (
            f'{Path(self._args.bag).name}, {width}x{height} {self._encoding}; '
            f'{self._records.value("model")} on '
            f'{self._records.value("engine").partition(" (")[0]}'
        )

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        args, session, recording = self._args, self._session, self._recording
        usage = self._records.value
        return {
            'version': __version__,
            'date': datetime.now(UTC).isoformat(timespec='seconds'),
            'arguments': {
                name: str(value) if isinstance(value, Path) else value
                for name, value in vars(args).items()
            },
            'interrupted': session.is_interrupted,
            'platform': {
                'system': platform.platform(),
                'machine': platform.machine(),
                'processor': _processor(),
                'processors': os.cpu_count(),
            },
            'versions': _versions(),
            'bag': {
                'name': Path(args.bag).name,
                'sha256': self._bag_sha256,
                'notes': dict(self._bag_notes),
                'image_topic': recording.image.name,
                'image_type': recording.image.type,
                'encoding': self._encoding,
                'size_wh': list(self._size_wh),
                'seconds': (recording.stop_ns - recording.start_ns) / 1e9,
            },
            'node': {
                'name': self._segment.name,
                'started_here': self._segment.process is not None,
                'engine': usage('engine'),
                'device': usage('device'),
                'parameters': dict(self._segment.parameters),
            },
            'model': {
                'name': usage('model'),
                'sha256': self._model_sha256,
                'sha256_reason': self._model_reason,
            },
            'published': {name: target for name, (target, _) in session.targets.items()},
            'outputs': list(self._records.topics),
            'peak_rate_hz': session.peak_hz,
            'peak_max_dropped_percent': 100 * MAX_DROPPED,
            'peak_search': [
                {'rate_hz': t.asked_hz, 'dropped_percent': finite(100 * t.dropped_fraction)}
                for t in session.tried
            ],
            'trials': [trial.as_json() for trial in session.trials],
            'quality': session.quality,
            'quality_reason': session.quality_reason,
            'notes': session.notes,
        }

    def text(self) -> str:
        """Return the tables that end the run."""
        session, shown = self._session, self._detailed
        lines = ['', self._title]
        if session.trials:
            lines += ['', rate_table(session.trials)]
            lines.append(
                f'latency of ~/{self._records.topics[0]}, publication to receipt; dropped: none '
                'came; CPU: the node, 100 is one core'
            )
        if shown is not None:
            lines += ['', f'{shown.name}:', output_table(shown), '', stage_table(shown)]
        if session.quality is not None:
            images = session.quality['images']
            lines += ['', f'quality on {images} frames, each answered', session.quality_table]
        elif self._recording.has_truth and session.quality_reason:
            lines += ['', f'no quality: {session.quality_reason}']
        lines += ['', *session.notes]
        if session.is_interrupted:
            lines.append('interrupted: these are the results until then')
        return '\n'.join(lines)

    @property
    def _detailed(self) -> Trial | None:
        """The trial whose outputs and stages are shown: 30 Hz, or else the last."""
        trials = [trial for trial in self._session.trials if trial.answered]
        at_30 = [trial for trial in trials if trial.asked_hz == 30.0 and 'peak' not in trial.name]
        return (at_30 or trials or [None])[-1]

    def write_plots(self) -> list[Path]:
        """Write the plots, where matplotlib is installed, and return their paths."""
        if not any(trial.answered for trial in self._session.trials):
            return []
        if importlib.util.find_spec('matplotlib') is None:
            print('no plots: matplotlib is not installed (pip install matplotlib)')
            return []
        from panoptic_ros.evaluation.latency_plots import write_plots

        return write_plots(self._args.out, self._session.trials, self._title)


def _describe(data: bytes, message_type: str) -> tuple[str, tuple[int, int]]:
    message = deserialize_message(data, message_class(message_type))
    if message_type == IMAGE:
        return message.encoding, (message.width, message.height)
    from panoptic_ros.ros.messages import decode_compressed_image

    return message.format, decode_compressed_image(message).size_wh


def _model_sha256(segment: Segment) -> tuple[dict[str, str], str]:
    try:
        card = Model.load(str(segment.parameters.get('model', ''))).card
    except ModelError as error:
        return {}, str(error)
    return {entry.path: entry.sha256 for entry in card.files.values()}, ''


def _versions() -> dict[str, str]:
    found = {'python': platform.python_version(), 'ros_distro': os.environ.get('ROS_DISTRO', '')}
    found['rmw'] = rclpy.get_rmw_implementation_identifier()
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()
