"""Make rosbag2 recordings from the synthetic street, videos, pictures and data sets.

Topics have the names of ``ros2 run panoptic_ros camera``; all messages of a frame have one
header. Calibration and truth are recorded where they are known, and on request all outputs of the
node. Videos are recorded to their end
with the stamps of their container. The same file gives the same bytes.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header
from tqdm import tqdm

from panoptic_ros.benchmark.bags import BEST_EFFORT_TOPICS, TRUTH_TOPICS, BagWriter, Message
from panoptic_ros.benchmark.cdr import type_name
from panoptic_ros.benchmark.checks import pixels
from panoptic_ros.benchmark.recording.node_outputs import NodeOutputs, running_node
from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.opening import open_dataset
from panoptic_ros.datasets.street.scene import SyntheticStreet
from panoptic_ros.errors import SourceError
from panoptic_ros.labels import VOID
from panoptic_ros.model import Model
from panoptic_ros.panoptic import NO_INSTANCE
from panoptic_ros.ros.camera import (
    DEFAULT_RATE_HZ,
    STREET,
    STREET_SIZE_WH,
    CameraFrame,
    picture_frame,
    street_frame,
)
from panoptic_ros.ros.messages import image_message
from panoptic_ros.sources import open_pictures

FRAME_ID = 'camera_optical_frame'
FIRST_STAMP_NS = 1_700_000_000 * 1_000_000_000
"""In the past, so that it is not taken for a stamp of this machine's clock."""

DEFAULT_SECONDS = 10.0  # of sources without an end
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Options:
    """What is recorded; ``panoptic make-bag --help`` describes the options."""

    source: str
    out: Path
    dataset: str | None = None
    split: str | None = None
    storage: str = 'mcap'
    seconds: float | None = None
    frames: int | None = None
    rate: float | None = None
    size: tuple[int, int] | None = None
    seed: int = 0
    fov: float = 60.0
    compressed: bool = False
    with_outputs: bool = False
    model: str = 'street-lite'
    engine: str = 'auto'


@dataclass(frozen=True, eq=False)
class Source:
    """Frames to record.

    Parameters
    ----------
    frames
        Messages without a header, with the time since the first frame.
    rate_hz
        Typical number of frames per second.
    count
        Number of frames; an estimate, 0 where it is unknown.
    is_endless
        True for the street, cameras and live streams.
    notes
        Keys and values for ``custom_data`` of the recording.
    parameters
        Parameters of the node that fit the camera.
    """

    frames: Iterator[CameraFrame]
    rate_hz: float
    count: int
    is_endless: bool
    notes: tuple[tuple[str, str], ...]
    parameters: dict[str, Any] = field(default_factory=dict)


def record(options: Options) -> str:
    """Write a recording; an interrupted one keeps the frames until then. Return a summary.

    Raises SourceError, DatasetError or BagError for options that cannot be used.
    """
    if options.frames is not None and options.frames < 1:
        raise SourceError(f'--frames is {options.frames}; expected 1 or more')
    source = open_source(options)
    seconds = options.seconds
    if source.is_endless and options.frames is None:
        seconds = seconds or DEFAULT_SECONDS
    total = options.frames or round((seconds or 0) * source.rate_hz) or source.count or None
    frames: Iterator[CameraFrame] = islice(source.frames, options.frames)
    if seconds is not None:
        frames = takewhile(lambda frame: _time_s(frame) < seconds, frames)
    written, end_s, remarks = 0, 0.0, ''
    with ExitStack() as stack:
        bag = stack.enter_context(
            BagWriter(options.out, options.storage, source.notes, compress=options.with_outputs)
        )
        outputs = None
        if options.with_outputs:
            outputs = stack.enter_context(running_node(bag, node_parameters(options, source)))
        try:
            for frame in tqdm(frames, total=total, unit='frame', disable=None):
                recorded = compress(frame) if options.compressed else frame
                write_frame(bag, recorded, not written)
                if outputs is not None:
                    outputs.record(recorded, FIRST_STAMP_NS + (frame.stamp_ns or 0))
                written += 1
                end_s = _time_s(frame) + 1 / source.rate_hz
        except KeyboardInterrupt:
            print('make-bag: interrupted; the recording ends here', file=sys.stderr)
        if not written:
            raise SourceError(f'{options.source!r} gave no frame to record')
        if outputs is not None:
            remarks = _remarks(outputs)
    size = sum(path.stat().st_size for path in options.out.iterdir())
    return (
        f'{options.out}: {written} frames, {end_s:.1f} s at {written / end_s:.4g} Hz, '
        f'{size / 1e6:.1f} MB{remarks}'
    )


def node_parameters(options: Options, source: Source) -> dict[str, Any]:
    """Return the parameters of the node whose outputs are recorded.

    Raises ModelError if there is no such model.
    """
    Model.load(options.model)
    return {
        'model': options.model,
        'engine': options.engine,
        'image_transport': 'compressed' if options.compressed else 'raw',
        **source.parameters,
    }


def _remarks(outputs: NodeOutputs) -> str:
    remarks = ''
    if outputs.incomplete:
        remarks += f'; {outputs.incomplete} frames without some of the outputs'
    if outputs.skipped:
        remarks += f'; not recorded, type unknown: {", ".join(sorted(outputs.skipped))}'
    return remarks


def _time_s(frame: CameraFrame) -> float:
    return (frame.stamp_ns or 0) / 1e9


def open_source(options: Options) -> Source:
    """Open what is to be recorded; raises SourceError or DatasetError if that fails."""
    name = Path(options.source).name.encode('utf-8', 'backslashreplace').decode()
    notes: tuple[tuple[str, str], ...] = (('source', name),)
    frames: Iterator[CameraFrame]
    if options.dataset is not None:
        samples, label_set = open_dataset(options.dataset, options.source, options.split)
        notes += (('label_set', label_set.name), ('is_video', 'false'))
        rate_hz = options.rate or DEFAULT_RATE_HZ
        frames = (sample_frame(sample, options.size, options.fov) for sample in samples)
        return Source(at_rate(frames, rate_hz), rate_hz, len(samples), False, notes)
    if options.source == STREET:
        rate_hz = options.rate or DEFAULT_RATE_HZ
        street = SyntheticStreet(options.seed, options.size or STREET_SIZE_WH, rate_hz)
        first = street.frame(0)
        notes += (
            ('seed', str(options.seed)),
            ('label_set', 'cityscapes'),
            ('is_video', 'true'),
            ('camera_height_m', repr(first.camera_height_m)),
            ('camera_pitch_rad', repr(first.camera_pitch_rad)),
        )
        parameters = {
            'depth': True,
            'turn_boxes': True,
            'camera_height_m': first.camera_height_m,
            'camera_pitch_rad': first.camera_pitch_rad,
        }
        frames = at_rate(map(street_frame, street), rate_hz)
        return Source(frames, rate_hz, 0, True, notes, parameters)
    pictures = open_pictures(options.source)
    rate_hz = options.rate or pictures.rate_hz or DEFAULT_RATE_HZ
    frames = (
        replace(picture_frame(p.image_bgr, options.size, options.fov), stamp_ns=p.stamp_ns)
        for p in pictures
    )
    if options.rate or not pictures.is_video:
        frames = at_rate(frames, rate_hz)
    return Source(frames, rate_hz, pictures.count, pictures.is_live, notes)


def at_rate(frames: Iterator[CameraFrame], rate_hz: float) -> Iterator[CameraFrame]:
    """Give frames the stamps of a constant rate."""
    for index, frame in enumerate(frames):
        yield replace(frame, stamp_ns=round(index * 1e9 / rate_hz))


def sample_frame(
    sample: Sample, size_wh: tuple[int, int] | None, horizontal_fov_deg: float
) -> CameraFrame:
    """Return the messages of a labelled image.

    Crowd regions become void, because a panoptic map cannot hold objects without a mask each.
    """
    image_bgr = cv2.cvtColor(sample.image_rgb, cv2.COLOR_RGB2BGR)
    frame = picture_frame(image_bgr, size_wh, horizontal_fov_deg)
    is_crowd = np.isin(sample.truth.instance, sample.crowd_ids)
    maps: tuple[np.ndarray, ...] = (
        np.where(is_crowd, VOID, sample.truth.semantic).astype(np.uint8),
        np.where(is_crowd, NO_INSTANCE, sample.truth.instance).astype(np.uint16),
    )
    if size_wh is not None:
        maps = tuple(cv2.resize(m, size_wh, interpolation=cv2.INTER_NEAREST) for m in maps)
    truth = {
        topic.removeprefix('/'): image_message(array, Header())
        for topic, array in zip(TRUTH_TOPICS, maps, strict=True)
    }
    return CameraFrame(frame.by_topic | truth)


def compress(frame: CameraFrame) -> CameraFrame:
    """Return the frame with its image as JPEG, with image_transport's topic and format."""
    _, jpeg = cv2.imencode(
        '.jpg', pixels(frame.by_topic['image']), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    message = CompressedImage(format='bgr8; jpeg compressed bgr8')
    message.data.frombytes(jpeg.data)
    others = {topic: other for topic, other in frame.by_topic.items() if topic != 'image'}
    return CameraFrame({'image/compressed': message} | others, frame.stamp_ns)


def write_frame(bag: BagWriter, frame: CameraFrame, is_first: bool) -> None:
    """Append a frame, stamped and recorded at its time; the first one declares the topics."""
    stamp_ns = FIRST_STAMP_NS + (frame.stamp_ns or 0)
    header = Header(frame_id=FRAME_ID)
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    frame.stamp(header)
    for name, message in frame.by_topic.items():
        topic = f'/{name}'
        if is_first:
            is_reliable = topic not in BEST_EFFORT_TOPICS
            depth = 10 if is_reliable else 5
            bag.add(topic, type_name(type(message)), reliable=is_reliable, depth=depth)
        bag.write(Message(topic, stamp_ns, serialize_message(message)))
