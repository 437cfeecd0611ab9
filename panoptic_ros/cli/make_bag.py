"""``panoptic make-bag SOURCE --out DIR``: a rosbag2 recording from what is no camera.

From the synthetic street, a video, a folder of pictures or a data set; with calibration and
truth as far as they are known, under the names that ``ros2 run panoptic_ros camera`` uses, all
messages of a frame with one header. The same source gives the same bytes.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
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
"""In the past, so that nobody takes it for a stamp of this machine's clock."""

DEFAULT_SECONDS = 10.0  # of sources without an end
JPEG_QUALITY = 95

_BEST_EFFORT = ('/image', '/image/compressed', '/depth')


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        'source', help='street (synthetic), a video, a folder of pictures, a picture, or ROOT'
    )
    parser.add_argument(
        '--dataset',
        choices=[name for name in DEFAULT_SPLITS if name != 'synthetic'],
        help='SOURCE is the folder of this data set, and its truth is recorded too',
    )
    parser.add_argument('--split', help="part of the data set (its usual one, for example 'val')")
    parser.add_argument('--out', type=Path, required=True, help='folder to make')
    parser.add_argument('--storage', default='mcap', choices=tuple(STORAGES))
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        '--seconds', type=positive_number, help='(all; of what has no end, 10 seconds)'
    )
    length.add_argument('--frames', type=int, help='instead of seconds')
    parser.add_argument('--rate', type=positive_number, help="Hz (a video's own, else 15)")
    parser.add_argument('--size', type=size_wh, help="WIDTHxHEIGHT (the source's own)")
    parser.add_argument('--seed', type=int, default=0, help='which street (%(default)s)')
    parser.add_argument(
        '--fov',
        type=float,
        default=60.0,
        help='degrees, the field of view assumed of videos and pictures (%(default)s)',
    )
    parser.add_argument(
        '--compressed', action='store_true', help='images as JPEG, on /image/compressed'
    )


def run(args: argparse.Namespace) -> int:
    """Write the recording; interrupted, it holds what there was until then."""
    if args.frames is not None and args.frames < 1:
        raise SourceError(f'--frames is {args.frames}; expected 1 or more')
    source = open_source(args)
    count = args.frames or (args.seconds and max(1, round(args.seconds * source.rate_hz)))
    count = count or source.count or round(DEFAULT_SECONDS * source.rate_hz)
    written = 0
    with BagWriter(args.out, args.storage, source.notes) as bag:
        frames = islice(source.frames, count)
        try:
            for frame in tqdm(frames, total=count, unit='frame', disable=None):
                if args.compressed:
                    frame = compress(frame)
                write_frame(bag, frame, written, source.rate_hz)
                written += 1
        except KeyboardInterrupt:
            print('make-bag: interrupted; the recording ends here', file=sys.stderr)
        if not written:
            raise SourceError(f'{args.source!r} gave no frame to record')
    size = sum(path.stat().st_size for path in args.out.iterdir())
    print(
        f'{args.out}: {written} frames, {written / source.rate_hz:.1f} s at '
        f'{source.rate_hz:.4g} Hz, {size / 1e6:.1f} MB'
    )
    return 0


@dataclass(frozen=True, eq=False)
class Source:
    """Frames to record.

    Parameters
    ----------
    frames
        Messages without a header.
    rate_hz
        How fast they come.
    count
        How many there are; 0 where there is no end, or it is not known.
    notes
        What is known besides, for ``custom_data``.
    """

    frames: Iterator[CameraFrame]
    rate_hz: float
    count: int
    notes: tuple[tuple[str, str], ...]


def open_source(args: argparse.Namespace) -> Source:
    """Open what the arguments name; raises SourceError or DatasetError if it is no good."""
    notes = (('source', Path(args.source).name),)
    if args.dataset is not None:
        samples, label_set = open_dataset(args.dataset, args.source, args.split)
        notes += (('label_set', label_set.name), ('is_video', 'false'))
        made = (sample_frame(sample, args.size, args.fov) for sample in samples)
        return Source(made, args.rate or DEFAULT_RATE_HZ, len(samples), notes)
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
        return Source(map(street_frame, street), rate_hz, 0, notes)
    pictures = open_pictures(args.source)
    rate_hz = args.rate or pictures.rate_hz or DEFAULT_RATE_HZ
    made = (picture_frame(picture.image_bgr, args.size, args.fov) for picture in pictures)
    return Source(made, rate_hz, pictures.count, notes)


def sample_frame(
    sample: Sample, size_wh: tuple[int, int] | None, horizontal_fov_deg: float
) -> CameraFrame:
    """Make the messages of a labelled image.

    Groups of objects that nobody separated become void: for a consumer of maps they are no object.
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
    return CameraFrame({'image/compressed': message} | others)


def write_frame(bag: BagWriter, frame: CameraFrame, index: int, rate_hz: float) -> None:
    """Append a frame, stamped and recorded at its time."""
    stamp_ns = FIRST_STAMP_NS + round(index * 1e9 / rate_hz)
    header = Header(frame_id=FRAME_ID)
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    frame.stamp(header)
    for name, message in frame.by_topic.items():
        topic = f'/{name}'
        if not index:
            package, kind = type(message).__module__.split('.')[0], type(message).__name__
            is_reliable = topic not in _BEST_EFFORT
            depth = 10 if is_reliable else 5
            bag.add(topic, f'{package}/msg/{kind}', reliable=is_reliable, depth=depth)
        bag.write(Message(topic, stamp_ns, serialize_message(message)))
