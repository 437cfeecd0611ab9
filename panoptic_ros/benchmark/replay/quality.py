"""PQ and VPQ of the node's maps against the ground truth in a recording."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image
from tqdm import tqdm

from panoptic_ros.benchmark.bags import TRUTH_TOPICS
from panoptic_ros.benchmark.cdr import header_stamp_ns
from panoptic_ros.benchmark.checks import pixels
from panoptic_ros.benchmark.client import Client
from panoptic_ros.benchmark.replay.player import ReplayFrame, replay_frames
from panoptic_ros.benchmark.replay.recording import Recording
from panoptic_ros.benchmark.replay.trials import TrialRunner
from panoptic_ros.errors import DatasetError, LabelSetError, ModelError
from panoptic_ros.evaluation.intersections import Intersections
from panoptic_ros.evaluation.overlap import ClassOverlap
from panoptic_ros.evaluation.quality import PanopticQuality
from panoptic_ros.evaluation.report import as_json, finite_or_none, summary_table
from panoptic_ros.evaluation.video import VideoQuality
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.panoptic import Panoptic

MAPS = ('semantic', 'instance')
"""Outputs that are evaluated."""

VIDEO_FIGURES = ('VPQ', 'VPQ_things', 'VPQ_stuff', 'STQ', 'AQ')


@dataclass(frozen=True)
class Quality:
    """Figures for JSON and a table; where there are none, the reason."""

    figures: dict[str, Any] | None = None
    table: str = ''
    reason: str = ''


def measure_quality(
    runner: TrialRunner,
    client: Client,
    recording: Recording,
    topics: tuple[str, ...],
    model: str,
    max_frames: int,
) -> Quality:
    """Publish frames one by one and evaluate the maps.

    Parameters
    ----------
    topics
        Recorded topics that are published.
    model
        The node's model, whose label set the truth has to have.
    """
    if max_frames < 1:
        return Quality(reason='not asked for')
    if not recording.has_truth:
        return Quality(reason=f'the recording has no {" and ".join(TRUTH_TOPICS)}')
    if not set(MAPS) <= set(client.frames.outputs):
        return Quality(reason=f'it needs the outputs {" and ".join(MAPS)}')
    try:
        label_set = _label_set(model, recording.bag.note('label_set'))
        return _measure(runner, client, recording, topics, label_set, max_frames)
    except (ModelError, LabelSetError, DatasetError) as error:
        return Quality(reason=str(error))


def _label_set(model: str, recorded: str) -> LabelSet:
    label_set = Model.load(model).label_set
    if recorded and recorded != label_set.name:
        raise LabelSetError(
            f"the recording's truth has label set {recorded!r}, the model {label_set.name!r}"
        )
    return label_set


def _measure(
    runner: TrialRunner,
    client: Client,
    recording: Recording,
    topics: tuple[str, ...],
    label_set: LabelSet,
    max_frames: int,
) -> Quality:
    quality, overlap = PanopticQuality(label_set), ClassOverlap(label_set)
    video = VideoQuality(label_set)
    unanswered = 0

    def pairs() -> Iterator[tuple[Panoptic, Panoptic, tuple[()]]]:
        nonlocal unanswered
        read = recording.reader((*topics, *TRUTH_TOPICS))
        frames = replay_frames(read, loop=False, after_ns=runner.latest_ns)
        source = runner.closed_loop(islice(frames, max_frames))
        for frame in tqdm(source, unit='frame', disable=None):
            maps, truth = runner.ask(frame), _truth(frame)
            if len(maps) < len(MAPS) or len(truth) < len(TRUTH_TOPICS):
                unanswered += 1
                continue
            prediction = _panoptic([maps[name] for name in MAPS], label_set)
            true = _panoptic([truth[topic] for topic in TRUTH_TOPICS], label_set)
            joint = Intersections.of(prediction, true)
            quality.add(joint)
            overlap.add(joint)
            yield prediction, true, ()

    with client.lock:
        client.frames.forget()
        client.frames.keep = frozenset(MAPS)
    video.update_video(pairs())
    if not quality.images:
        return Quality(reason='no frame was both answered and in the truth')
    result = quality.result()
    figures = as_json(result, overlap.result()) | {'unanswered': unanswered}
    table = summary_table(result)
    if recording.bag.note('is_video') != 'false':
        of_video = video.result()
        figures['video'] = {
            name: finite_or_none(getattr(of_video, name)) for name in VIDEO_FIGURES
        }
        table += '\n' + '  '.join(f'{n} {getattr(of_video, n):.1f}' for n in VIDEO_FIGURES)
    return Quality(figures, table)


def _truth(frame: ReplayFrame) -> dict[str, bytes]:
    return {
        topic: data
        for topic, _, data in frame.frame.companions
        if topic in TRUTH_TOPICS and header_stamp_ns(data) == frame.frame.stamp_ns
    }


def _panoptic(data: list[bytes], label_set: LabelSet) -> Panoptic:
    semantic, instance = (_map(message) for message in data)
    try:
        return Panoptic.from_maps(semantic, instance, label_set)
    except (ValueError, KeyError) as error:
        raise DatasetError(f'truth or output is not a panoptic map: {error}') from error


def _map(data: bytes) -> np.ndarray:
    return pixels(deserialize_message(data, Image))
