"""``panoptic make-bag SOURCE --out DIR``: record a source as a rosbag2.

The source is the synthetic street, a video, a folder of images, a camera or a data set.
Calibration and truth are recorded where they are known, on the topics of
``ros2 run panoptic_ros camera``. All messages of a frame have one header. Videos are recorded to
their end with the stamps of their container. The same file gives the same bytes.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from pathlib import Path

import cv2
import numpy as np
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header
from tqdm import tqdm

from panoptic_ros.benchmark.bags import STORAGES, TRUTH_TOPICS, BagWriter, Message
from panoptic_ros.benchmark.checks import pixels
from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.opening import DEFAULT_SPLITS, open_dataset
from panoptic_ros.datasets.street.scene import SyntheticStreet
from panoptic_ros.errors import SourceError
from panoptic_ros.labels import VOID
from panoptic_ros.panoptic import NO_INSTANCE
from panoptic_ros.ros.arguments import positive_number, size_wh
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
"""In the past, so that it is not mistaken for a stamp of this machine's clock."""

DEFAULT_SECONDS = 10.0  # of sources without an end
JPEG_QUALITY = 95

_BEST_EFFORT = ('/image', '/image/compressed', '/depth')


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        'source',
        help='street (synthetic), a video, a folder of images, an image, a camera, a stream, or '
        'the folder of a data set',
    )
    parser.add_argument(
        '--dataset',
        choices=[name for name in DEFAULT_SPLITS if name != 'synthetic'],
        help='SOURCE is the folder of this data set; record its truth as well',
    )
    parser.add_argument('--split', help="part of the data set (its usual one, for example 'val')")
    parser.add_argument('--out', type=Path, required=True, help='folder to create')
    parser.add_argument('--storage', default='mcap', choices=tuple(STORAGES))
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        '--seconds', type=positive_number, help='(all; of a source without an end, 10 seconds)'
    )
    length.add_argument('--frames', type=int, help='instead of seconds')
    parser.add_argument(
        '--rate', type=positive_number, help='Hz (the stamps of a video; 15 for the rest)'
    )
    parser.add_argument('--size', type=size_wh, help='WIDTHxHEIGHT (that of the source)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the street (%(default)s)')
    parser.add_argument(
        '--fov',
        type=float,
        default=60.0,
        help='horizontal field of view assumed for videos and images, degrees (%(default)s)',
    )
    parser.add_argument(
        '--compressed', action='store_true', help='images as JPEG, on /image/compressed'
    )


def run(args: argparse.Namespace) -> int:
    """Write the recording; an interrupted one keeps the frames until then."""
    if args.frames is not None and args.frames < 1:
        raise SourceError(f'--frames is {args.frames}; expected 1 or more')
    source = open_source(args)
    seconds = args.seconds
    if source.is_endless and args.frames is None:
        seconds = seconds or DEFAULT_SECONDS
    total = args.frames or round((seconds or 0) * source.rate_hz) or source.count or None
    frames = islice(source.frames, args.frames)
    if seconds is not None:
        frames = takewhile(lambda frame: frame.stamp_ns < seconds * 1e9, frames)
    written, end_s = 0, 0.0
    with BagWriter(args.out, args.storage, source.notes) as bag:
        try:
            for frame in tqdm(frames, total=total, unit='frame', disable=None):
                write_frame(bag, compress(frame) if args.compressed else frame, not written)
                written += 1
                end_s = frame.stamp_ns / 1e9 + 1 / source.rate_hz
        except KeyboardInterrupt:
            print('make-bag: interrupted; the recording ends here', file=sys.stderr)
        if not written:
            raise SourceError(f'{args.source!r} gave no frame to record')
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(
        f'{args.out}: {written} frames, {end_s:.1f} s at {written / end_s:.4g} Hz, '
        f'{size / 1e6:.1f} MB'
    )
    return 0


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
        Further facts for ``custom_data``.
    """

    frames: Iterator[CameraFrame]
    rate_hz: float
    count: int
    is_endless: bool
    notes: tuple[tuple[str, str], ...]


def open_source(args: argparse.Namespace) -> Source:
    """Open the source of the arguments; raises SourceError or DatasetError if it is unusable."""
    name = Path(args.source).name.encode('utf-8', 'backslashreplace').decode()
    notes = (('source', name),)
    if args.dataset is not None:
        samples, label_set = open_dataset(args.dataset, args.source, args.split)
        notes += (('label_set', label_set.name), ('is_video', 'false'))
        rate_hz = args.rate or DEFAULT_RATE_HZ
        made = (sample_frame(sample, args.size, args.fov) for sample in samples)
        return Source(at_rate(made, rate_hz), rate_hz, len(samples), False, notes)
    if args.source == STREET:
        rate_hz = args.rate or DEFAULT_RATE_HZ
        street = SyntheticStreet(args.seed, args.size or STREET_SIZE_WH, rate_hz)
        first = street.frame(0)
        notes += (
            ('seed', str(args.seed)),
            ('label_set', 'cityscapes'),
            ('is_video', 'true'),
            ('camera_height_m', repr(first.camera_height_m)),
            ('camera_pitch_rad', repr(first.camera_pitch_rad)),
        )
        return Source(at_rate(map(street_frame, street), rate_hz), rate_hz, 0, True, notes)
    pictures = open_pictures(args.source)
    rate_hz = args.rate or pictures.rate_hz or DEFAULT_RATE_HZ
    made = (
        replace(picture_frame(p.image_bgr, args.size, args.fov), stamp_ns=p.stamp_ns)
        for p in pictures
    )
    if args.rate or not pictures.is_video:
        made = at_rate(made, rate_hz)
    return Source(made, rate_hz, pictures.count, pictures.is_live, notes)


def at_rate(frames: Iterator[CameraFrame], rate_hz: float) -> Iterator[CameraFrame]:
    """Give frames the stamps of a constant rate."""
    for index, frame in enumerate(frames):
        yield replace(frame, stamp_ns=round(index * 1e9 / rate_hz))


def sample_frame(
    sample: Sample, size_wh: tuple[int, int] | None, horizontal_fov_deg: float
) -> CameraFrame:
    """Make the messages of a labelled image.

    Groups of objects (``iscrowd``) become void, because to a consumer they are not one object.
    """
    image_bgr = cv2.cvtColor(sample.image_rgb, cv2.COLOR_RGB2BGR)
    frame = picture_frame(image_bgr, size_wh, horizontal_fov_deg)
    is_crowd = np.isin(sample.truth.instance, sample.crowd_ids)
    maps = (
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
    """Return the frame with its image as JPEG, named and described as image_transport does."""
    _, jpeg = cv2.imencode(
        '.jpg', pixels(frame.by_topic['image']), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    message = CompressedImage(format='bgr8; jpeg compressed bgr8')
    message.data.frombytes(jpeg.data)
    others = {topic: other for topic, other in frame.by_topic.items() if topic != 'image'}
    return CameraFrame({'image/compressed': message} | others, frame.stamp_ns)


def write_frame(bag: BagWriter, frame: CameraFrame, is_first: bool) -> None:
    """Append a frame, stamped and recorded at its time; the first one declares the topics."""
    stamp_ns = FIRST_STAMP_NS + frame.stamp_ns
    header = Header(frame_id=FRAME_ID)
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    frame.stamp(header)
    for name, message in frame.by_topic.items():
        topic = f'/{name}'
        if is_first:
            package, kind = type(message).__module__.split('.')[0], type(message).__name__
            is_reliable = topic not in _BEST_EFFORT
            depth = 10 if is_reliable else 5
            bag.add(topic, f'{package}/msg/{kind}', reliable=is_reliable, depth=depth)
        bag.write(Message(topic, stamp_ns, serialize_message(message)))
