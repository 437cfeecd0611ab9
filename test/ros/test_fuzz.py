"""Anything may come as an image or a calibration: it is segmented, or counted as bad.

The environment variable PANOPTIC_FUZZ_MESSAGES is the number of messages. Before a release that
is 100000; without it there are as many as take about half a minute.
"""

import array
import ctypes
import math
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rclpy.context import Context
from rclpy.lifecycle import LifecyclePublisher
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, RegionOfInterest
from std_msgs.msg import Header

from panoptic_ros.ros import messages
from panoptic_ros.ros.node import SegmentNode

MESSAGES = int(os.environ.get('PANOPTIC_FUZZ_MESSAGES', '3000'))
OVER_DDS = 1500
MAX_GROWTH_MIB = 300
"""More than any message here is worth: the largest of a few kB may declare 8 million pixels, which
with all outputs take 230 MiB."""
MAX_KEPT_MIB = 100
"""More than the outputs of one such picture."""

pytestmark = pytest.mark.slow


class MallInfo(ctypes.Structure):
    """Of glibc: bytes in use are ``hblkhd`` and ``uordblks``."""

    _names = 'arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost'
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


@contextmanager
def little_memory() -> Iterator[None]:
    """Fail if the process becomes much larger meanwhile, if only for a moment."""
    status = Path('/proc/self/status')

    def mib(name: str) -> int:
        (line,) = (x for x in status.read_text().splitlines() if x.startswith(name))
        return int(line.split()[1]) >> 10

    Path('/proc/self/clear_refs').write_text('5')  # forgets the peak
    before = mib('VmRSS')
    yield
    assert mib('VmHWM') - before < MAX_GROWTH_MIB


def in_use_mib() -> int:
    """Memory in use; malloc holds back more for later, up to 350 MiB after some large pictures."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = MallInfo
    info = mallinfo2()
    return (info.hblkhd + info.uordblks) >> 20


class Fuzzed:
    """A real node in this process that is given messages where its subscriptions give them."""

    def __init__(self, node: SegmentNode, good: Image) -> None:
        self.node = node
        self.pipeline = node._session.cameras[0].pipeline
        self.good = good
        self.given = 0

    def counts(self) -> dict[str, int]:
        values = self.pipeline.log.values(0)
        kinds = ('received', 'processed', 'bad', 'dropped', 'unwatched', 'failed')
        return {kind: int(values[f'frames {kind}']) for kind in kinds}

    def give(self, image: Image | CompressedImage) -> str:
        """Have an image processed; returns what it was counted as."""
        before, self.node.failure = self.counts(), None
        with little_memory():
            self.pipeline.take_image('/image', image)
            self.pipeline._worker.drain(None)
        assert self.node.failure is None, self.node.failure
        after = self.counts()
        grown = {kind: after[kind] - before[kind] for kind in after if after[kind] != before[kind]}
        assert grown.pop('received') == 1
        ((kind, times),) = grown.items()
        assert times == 1
        assert kind in ('processed', 'bad')
        if kind == 'bad':
            trouble = self.pipeline.log.values(0)['last trouble']
            assert trouble.startswith('/image: ')
            assert len(trouble) > 20
            assert '\n' not in trouble
        self.given += 1
        if self.given % 25 == 0 and image is not self.good:
            assert self.give(self.good) == 'processed'
        return kind


@pytest.fixture(scope='module')
def fuzzed(tiny_model: Path, tiny_scene) -> Iterator[Fuzzed]:
    context = Context()
    rclpy.init(context=context)
    given = {'model': str(tiny_model), 'engine': 'onnxruntime', 'engine_threads': 1}
    # Of a test that fails, pytest keeps everything to the end, the node's name among it: in a
    # namespace it is nobody else's.
    node = SegmentNode(
        context=context,
        namespace='/fuzz',
        parameter_overrides=[Parameter(name, value=value) for name, value in given.items()],
        enable_rosout=False,
    )
    assert node.start()
    good = messages.image_message(tiny_scene((128, 64)), Header(frame_id='camera'))
    with pytest.MonkeyPatch.context() as patch:
        # Every output is built for every frame.
        patch.setattr(LifecyclePublisher, 'get_subscription_count', lambda self: 1)
        yield Fuzzed(node, good)
    node.finish()
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def nothing_kept() -> Iterator[None]:
    """Fail if much more memory is in use afterwards."""
    before = in_use_mib()
    yield
    assert in_use_mib() - before < MAX_KEPT_MIB


def lasting(share: float) -> settings:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=max(1, round(MESSAGES * share)),
        deadline=None,
        database=None,
        suppress_health_check=checks,
    )


TEXTS = st.one_of(
    st.sampled_from(['', 'camera', 'a' * 300, 'bgr8\n', '../../etc', '%s%n{0}', 'caméra 相机']),
    st.text(max_size=12).filter(lambda text: '\0' not in text),
)
EDGES_U32 = [0, 1, 2, 3, 255, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1]
SIZES = st.one_of(st.integers(0, 40), st.sampled_from(EDGES_U32), st.integers(0, 2**32 - 1))


@st.composite
def headers(draw) -> Header:
    return Header(
        stamp=Time(
            sec=draw(st.integers(-(2**31), 2**31 - 1)), nanosec=draw(st.integers(0, 2**32 - 1))
        ),
        frame_id=draw(TEXTS),
    )


@st.composite
def images(draw) -> Image:
    """Half of them with a step and data that fit."""
    encodings = [*messages.ENCODINGS, 'mono16', '32FC1', 'bgr16', 'BGR8', 'nv12', 'jpeg']
    encoding = draw(st.one_of(st.sampled_from(encodings), TEXTS))
    height, width = draw(SIZES), draw(SIZES)
    step = width * draw(st.integers(1, 4)) + draw(st.integers(0, 7))
    length = step * height
    if length > 50_000 or draw(st.booleans()):
        step, length = draw(st.one_of(st.just(step % 2**32), SIZES)), draw(st.integers(0, 3000))
    seed = draw(st.integers(0, 99))
    return Image(
        header=draw(headers()),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=draw(st.integers(0, 255)),
        step=step,
        data=array.array('B', np.random.default_rng(seed).bytes(length)),
    )


NUMBERS = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 500.0, math.nan, math.inf, -math.inf, 1e308, 1e-320, 1e9]),
    st.floats(),
)


def matrices(size: int, usual: list[float]) -> st.SearchStrategy[list[float]]:
    return st.one_of(st.just(usual), st.lists(NUMBERS, min_size=size, max_size=size))


@st.composite
def camera_infos(draw) -> CameraInfo:
    k = [50.0, 0.0, 31.5, 0.0, 50.0, 15.5, 0.0, 0.0, 1.0]
    return CameraInfo(
        header=draw(headers()),
        height=draw(SIZES),
        width=draw(SIZES),
        distortion_model=draw(TEXTS),
        d=draw(st.lists(NUMBERS, max_size=14)),
        k=draw(matrices(9, k)),
        r=draw(matrices(9, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0])),
        p=draw(matrices(12, [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0])),
        binning_x=draw(SIZES),
        binning_y=draw(SIZES),
        roi=RegionOfInterest(
            x_offset=draw(SIZES), y_offset=draw(SIZES), height=draw(SIZES), width=draw(SIZES)
        ),
    )


def encoded(extension: str, image: np.ndarray, *flags: int) -> bytes:
    return cv2.imencode(extension, image, flags)[1].tobytes()


NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
PICTURES = [
    encoded('.jpg', NOISE),
    encoded('.jpg', NOISE[..., 0], cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    encoded('.jpg', NOISE, cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
    encoded('.png', NOISE),
    encoded('.png', NOISE[..., 0] // 128 * 255, cv2.IMWRITE_PNG_BILEVEL, 1),
    encoded('.png', NOISE.astype(np.uint16)),
    encoded('.png', np.dstack([NOISE, NOISE[..., 0]])),
    encoded('.bmp', NOISE),
    encoded('.webp', NOISE),
]


def declare(data: bytearray, width: int, height: int) -> None:
    """Write another size into a PNG's or JPEG's header."""
    if data[:4] == b'\x89PNG':
        struct.pack_into('>II', data, 16, width, height)
        return
    for marker in (b'\xff\xc0', b'\xff\xc2'):
        at = data.find(marker)
        if at >= 0:
            struct.pack_into('>HH', data, at + 5, height & 0xFFFF, width & 0xFFFF)


@st.composite
def compressed_images(draw) -> CompressedImage:
    """Pictures with bytes changed, another size declared, cut short or pasted together."""
    data = bytearray(draw(st.sampled_from([*PICTURES, b'', b'\xff\xd8\xff'])))
    if draw(st.booleans()):
        declare(data, draw(SIZES), draw(SIZES))
    for _ in range(draw(st.integers(0, 4))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    data += draw(st.sampled_from([b'', b'', b'\xff\xd9', b'\xff\xda' * 70, PICTURES[0]]))
    return CompressedImage(header=draw(headers()), format=draw(TEXTS), data=array.array('B', data))


def test_images(fuzzed: Fuzzed, nothing_kept: None) -> None:
    kinds = set()

    @lasting(0.75)
    @given(images())
    def run(image: Image) -> None:
        kinds.add(fuzzed.give(image))

    run()
    assert kinds == {'processed', 'bad'} or MESSAGES < 1000
    assert fuzzed.give(fuzzed.good) == 'processed'


def test_calibrations(fuzzed: Fuzzed, nothing_kept: None) -> None:
    """Each is followed by a frame whose markers and camera_info are made with it."""
    kinds = set()

    @lasting(0.1)
    @given(camera_infos())
    def run(info: CameraInfo) -> None:
        with little_memory():
            fuzzed.pipeline.take_camera_info('/camera_info', info)
        kinds.add(fuzzed.pipeline._calibration.info is info)
        assert fuzzed.give(fuzzed.good) == 'processed'

    run()
    assert kinds == {True, False} or MESSAGES < 1000


def test_compressed_images(fuzzed: Fuzzed, nothing_kept: None) -> None:
    kinds = set()

    @lasting(0.15)
    @given(compressed_images())
    def run(image: CompressedImage) -> None:
        kinds.add(fuzzed.give(image))

    run()
    assert kinds == {'processed', 'bad'} or MESSAGES < 1000
    assert fuzzed.give(fuzzed.good) == 'processed'


def test_over_dds(start_node, peer, tiny_model, tiny_scene) -> None:
    node = start_node(
        *('-r', '__ns:=/robot', '-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime'),
        *('-p', 'qos_overrides./robot/image.subscription.reliability:=reliable'),
        *('-p', 'qos_overrides./robot/image.subscription.depth:=100'),
    )
    answers = peer.subscribe(Image, '/robot/segment/overlay')
    reports = peer.subscribe(DiagnosticArray, '/diagnostics')
    good = messages.image_message(tiny_scene((128, 64)), peer.header())
    peer.publish('/robot/image', good, depth=100)
    peer.exchange('/robot/image', good, '/robot/segment/overlay')
    sent = 0

    @settings(max_examples=OVER_DDS // 2, deadline=None, database=None)
    @given(images(), camera_infos())
    def run(image: Image, info: CameraInfo) -> None:
        nonlocal sent
        peer.publish('/robot/camera_info', info)
        peer.publish('/robot/image', image)
        sent += 1
        if sent % 50 == 0:  # before anything falls out of a queue, the node catches up
            good.header = peer.header()
            peer.exchange('/robot/image', good, '/robot/segment/overlay')
        del answers[:-1], reports[:-1]
        time.sleep(0.002)

    run()
    good.header = peer.header()
    peer.exchange('/robot/image', good, '/robot/segment/overlay')
    seen = len(reports)
    peer.wait_until(lambda: len(reports) > seen, 'diagnostics')
    values = {
        entry.key: int(entry.value)
        for entry in reports[-1].status[0].values
        if entry.key.startswith('frames ')
    }
    assert values['frames received'] >= sent > OVER_DDS / 3
    assert values['frames bad'] > 50
    assert node.interrupt() == 0
    assert 'Traceback' not in node.log


def test_growth_is_seen() -> None:
    """The check of the memory itself: what is taken and given back shows, what is kept shows."""
    before = in_use_mib()
    with pytest.raises(AssertionError), little_memory():
        assert np.ones((MAX_GROWTH_MIB + 20) << 20, np.uint8).all()
    kept = np.ones(MAX_KEPT_MIB << 20, np.uint8)
    assert in_use_mib() - before >= len(kept) >> 20
