"""Depth over DDS: what it gives, and that bad depth never stops the masks."""

import math
import re

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.engines import open_engine
from panoptic_ros.model import Model
from panoptic_ros.ros import messages
from panoptic_ros.ros.messages.points import POINT
from panoptic_ros.segmenter import Segmenter

NODE_ARGUMENTS = ('-p', 'depth:=true', '-p', 'tracking:=false')
IMAGE, CAMERA_INFO = '/robot/image', '/robot/camera_info'
DEPTH, DEPTH_INFO = '/robot/depth', '/robot/depth/camera_info'
OUT = '/robot/segment/'
SIZE_WH = (128, 64)
CARS_M, REST_M = 4.0, 20.0
COUNTS = ('received', 'matched', 'bad', 'missed', 'late')


@pytest.fixture
def scene_bgr(tiny_scene) -> np.ndarray:
    return np.ascontiguousarray(tiny_scene(SIZE_WH)[..., ::-1])


def camera_info(size_wh: tuple[int, int] = SIZE_WH, cx: float | None = None) -> CameraInfo:
    width, height = size_wh
    k = [width, 0.0, width / 2 - 0.5 if cx is None else cx, 0.0, width, height / 2 - 0.5]
    return CameraInfo(
        width=width,
        height=height,
        k=[*map(float, k), 0.0, 0.0, 1.0],
        r=np.eye(3).reshape(-1),
        p=np.eye(3, 4).reshape(-1),
    )


@pytest.fixture(scope='module')
def instance(tiny_model, tiny_scene) -> np.ndarray:
    model = Model.load(tiny_model)
    segmenter = Segmenter(model, open_engine(model, 'onnxruntime'))
    return segmenter.segment(np.ascontiguousarray(tiny_scene(SIZE_WH)), 'rgb8').panoptic.instance


@pytest.fixture
def depth_m(instance) -> np.ndarray:
    """The cars of the tiny scene, a little way off, before everything else."""
    return np.where(instance > 0, CARS_M, REST_M).astype(np.float32)


def depth_message(depth_m: np.ndarray, header: Header, encoding: str = '32FC1') -> Image:
    if encoding == '16UC1':
        return messages.image_message((depth_m * 1000).astype(np.uint16), header)
    message = messages.image_message(np.ascontiguousarray(depth_m).view(np.int32), header)
    message.encoding = encoding
    return message


def moved(header: Header, by_s: float) -> Header:
    stamp_ns = messages.stamp_ns(header) + round(by_s * 1e9)
    other = Header(frame_id=header.frame_id)
    other.stamp.sec, other.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    return other


def diagnostics(peer) -> dict[str, str]:
    received = peer.received['/diagnostics'] or peer.subscribe(DiagnosticArray, '/diagnostics')
    seen = len(received)
    peer.wait_until(lambda: len(received) > seen, 'diagnostics')
    (status,) = received[-1].status
    return {entry.key: entry.value for entry in status.values} | {'level': status.level}


@pytest.fixture
def exchange(module_node, peer, scene_bgr):
    """Return a function: (depth, outputs) -> the outputs' answers to an image.

    ``depth`` makes the depth image for the image's header, or is None. Depth and its calibration
    come before the image.
    """
    peer.subscribe(CameraInfo, OUT + 'camera_info')
    image = messages.image_message(scene_bgr, peer.header())
    peer.exchange(IMAGE, image, OUT + 'camera_info', before=(CAMERA_INFO, camera_info()))

    def run(depth, *outputs, info: CameraInfo | None = None):
        image = messages.image_message(scene_bgr, peer.header())
        peer.publish(DEPTH_INFO, camera_info() if info is None else info)
        before = None if depth is None else (DEPTH, depth(image.header))
        topics = [OUT + output for output in outputs]
        answers = peer.exchange(IMAGE, image, *topics, before=before)
        for answer in answers:
            header = answer.markers[0].header if hasattr(answer, 'markers') else answer.header
            assert serialize_message(header) == serialize_message(image.header)
        return answers

    return run


def texts(answer: MarkerArray) -> list[str]:
    return sorted(m.text for m in answer.markers if m.text and m.action == Marker.ADD)


SPEED = re.compile(r', measured\n(\S+) m/s$')
ARE_MEASURED = ['car 1\n4.0 m, measured', 'car 2\n4.0 m, measured']


def wait_for_measured(peer, exchange, depth, **arguments) -> MarkerArray:
    """Best effort may lose the depth image: try until the markers say they are measured."""
    peer.subscribe(MarkerArray, OUT + 'markers')
    found = []

    def is_measured() -> bool:
        found[:] = exchange(depth, 'markers', **arguments)
        return texts(found[0]) == ARE_MEASURED

    peer.wait_until(is_measured, 'measured markers')
    return found[0]


@pytest.mark.parametrize('encoding', ['32FC1', '16UC1'])
def test_markers_are_measured(peer, exchange, depth_m, encoding: str) -> None:
    answer = wait_for_measured(peer, exchange, lambda h: depth_message(depth_m, h, encoding))
    left, right = sorted(
        (m for m in answer.markers if m.ns == 'car'), key=lambda m: m.pose.position.x
    )
    for box, x in ((left, -1.0), (right, 1.0)):
        assert box.pose.position.z == pytest.approx(CARS_M)
        assert box.pose.position.x == pytest.approx(x, abs=0.1)
        assert box.pose.orientation.w == 1.0
        assert box.scale.x == pytest.approx(1.0, abs=0.15)  # 32 of 128 pixels at 4 m
        assert box.scale.z == pytest.approx(0.0, abs=0.01)


def test_the_cloud_of_a_frame(peer, exchange, depth_m, instance, scene_bgr) -> None:
    peer.subscribe(PointCloud2, OUT + 'points')
    depth_m[0, 0] = math.nan
    (cloud,) = exchange(lambda h: depth_message(depth_m, h), 'points')
    assert (cloud.width, cloud.height, cloud.point_step) == (*SIZE_WH, POINT.itemsize)
    points = np.frombuffer(cloud.data, POINT).reshape(SIZE_WH[::-1])
    assert np.array_equal(points['z'], depth_m, equal_nan=True)
    assert np.array_equal(points['instance'], instance)
    assert points['x'][3, -1] == pytest.approx(REST_M * 63.5 / 128)
    assert np.array_equal(points['rgb'] & 0xFF, scene_bgr[..., 0])


def test_stamps_may_differ_within_the_tolerance(peer, exchange, depth_m) -> None:
    assert peer.set_parameter(OUT, 'depth_tolerance_s', 0.004) == ''
    wait_for_measured(peer, exchange, lambda h: depth_message(depth_m, moved(h, 0.003)))
    assert peer.set_parameter(OUT, 'depth_tolerance_s', 0.02) == ''


def test_depth_that_comes_after_its_image(peer, exchange, depth_m, scene_bgr) -> None:
    """Its picture is in work or waits; the masks are out meanwhile."""
    assert peer.set_parameter(OUT, 'depth_wait_s', 1.0) == ''
    semantic = peer.subscribe(Image, OUT + 'semantic')
    markers = peer.subscribe(MarkerArray, OUT + 'markers')
    # Some depth must have come at all, else nobody waits.
    wait_for_measured(peer, exchange, lambda h: depth_message(depth_m, h))

    def is_measured() -> bool:
        image = messages.image_message(scene_bgr, peer.header())
        peer.publish(IMAGE, image)
        peer.wait_until(lambda: semantic[-1].header == image.header, 'the mask')
        assert markers[-1].markers[0].header != image.header
        peer.publish(DEPTH, depth_message(depth_m, image.header))
        peer.wait_until(lambda: markers[-1].markers[0].header == image.header, 'the markers')
        return texts(markers[-1]) == ARE_MEASURED

    peer.wait_until(is_measured, 'depth that was waited for')
    assert peer.set_parameter(OUT, 'depth_wait_s', 0.02) == ''


def test_depth_of_another_size_is_resized(peer, exchange, depth_m) -> None:
    half = np.ascontiguousarray(depth_m[::2, ::2])
    wait_for_measured(peer, exchange, lambda h: depth_message(half, h), info=camera_info((64, 32)))


def nan_like(depth_m: np.ndarray) -> np.ndarray:
    return np.full_like(depth_m, math.nan)


BAD = {
    'another shape': (lambda d, h: depth_message(d[:32], h), 'depth is 128x32, the image 128x64'),
    'all NaN': (lambda d, h: depth_message(nan_like(d), h), 'no pixel with a depth'),
    'wrong encoding': (lambda d, h: depth_message(d, h, '8UC4'), "'8UC4' is not a depth encoding"),
    'cut off': (lambda d, h: cut_off(depth_message(d, h)), 'bytes of data; expected'),
}


def cut_off(message: Image) -> Image:
    del message.data[-4:]
    return message


@pytest.mark.parametrize('kind', BAD)
def test_bad_depth_never_stops_the_masks(module_node, peer, exchange, depth_m, kind: str) -> None:
    make, words = BAD[kind]
    peer.subscribe(Image, OUT + 'semantic')
    peer.subscribe(MarkerArray, OUT + 'markers')
    before = diagnostics(peer)
    found = {}

    def is_counted() -> bool:
        _, markers = exchange(lambda h: make(depth_m, h), 'semantic', 'markers')
        assert 'measured' not in str(texts(markers))
        assert len(texts(markers)) == 2  # placed without depth
        found.update(diagnostics(peer))
        return int(found['depth bad']) > int(before['depth bad'])

    peer.wait_until(is_counted, 'the bad depth to be counted')
    assert found['last trouble'].startswith(f'{DEPTH}: ')
    assert words in found['last trouble']
    assert found['level'] == b'\x01'
    assert found['frames bad'] == before['frames bad']
    assert found['frames failed'] == before['frames failed']
    wait_for_measured(peer, exchange, lambda h: depth_message(depth_m, h))  # and the next is good


def test_depth_that_is_not_aligned(peer, exchange, depth_m) -> None:
    before = diagnostics(peer)
    peer.subscribe(MarkerArray, OUT + 'markers')

    def is_counted() -> bool:
        exchange(lambda h: depth_message(depth_m, h), 'markers', info=camera_info(cx=40.0))
        return int(diagnostics(peer)['depth bad']) > int(before['depth bad'])

    peer.wait_until(is_counted, 'the depth to be refused')
    assert 'aligned to the image' in diagnostics(peer)['last trouble']


@pytest.mark.parametrize(
    ('by_s', 'words'), [(None, 'older'), (-0.5, 'older'), (0.5, '0.500 s newer')]
)
def test_depth_that_is_missing_early_or_late(
    peer, exchange, depth_m, by_s: float | None, words: str
) -> None:
    peer.subscribe(Image, OUT + 'semantic')
    peer.subscribe(MarkerArray, OUT + 'markers')
    wait_for_measured(peer, exchange, lambda h: depth_message(depth_m, h))
    peer.header(ahead_s=2.0)  # whatever came before is far away
    before = diagnostics(peer)
    depth = None if by_s is None else lambda h: depth_message(depth_m, moved(h, by_s))
    for _ in range(3):
        _, markers = exchange(depth, 'semantic', 'markers')
        assert 'measured' not in str(texts(markers))
        peer.header(ahead_s=2.0)
    found = diagnostics(peer)
    assert int(found['depth missed']) >= int(before['depth missed']) + 3
    assert found['depth matched'] == before['depth matched']
    assert f'{DEPTH}: no depth within 0.02 s of the image' in found['last trouble']
    assert words in found['last trouble']


def test_late_depth_is_counted(module_node, peer, exchange, depth_m, scene_bgr) -> None:
    markers = peer.subscribe(MarkerArray, OUT + 'markers')
    peer.header(ahead_s=5.0)
    before = diagnostics(peer)

    def is_counted() -> bool:
        image = messages.image_message(scene_bgr, peer.header(ahead_s=5.0))
        peer.publish(IMAGE, image)
        peer.wait_until(
            lambda: markers and markers[-1].markers[0].header == image.header, 'markers'
        )
        peer.publish(DEPTH, depth_message(depth_m, image.header))
        return int(diagnostics(peer)['depth late']) > int(before['depth late'])

    peer.wait_until(is_counted, 'the late depth to be counted')
    assert 'this image goes without depth' in module_node.log


def test_time_that_starts_over(peer, exchange, depth_m) -> None:
    wait_for_measured(peer, exchange, lambda h: depth_message(depth_m, h))
    peer._stamp_ns -= 1000 * 1_000_000_000
    wait_for_measured(peer, exchange, lambda h: depth_message(depth_m, h))


def test_boxes_can_be_turned(peer, exchange, depth_m) -> None:
    assert peer.set_parameter(OUT, 'turn_boxes', True) == ''
    assert peer.set_parameter(OUT, 'camera_pitch_rad', 0.5) == ''

    def is_tilted() -> bool:
        answer = wait_for_measured(peer, exchange, lambda h: depth_message(depth_m, h))
        boxes = [m for m in answer.markers if m.ns == 'car']
        return all(abs(m.pose.orientation.w) < 0.99 for m in boxes)

    peer.wait_until(is_tilted, 'upright boxes')
    assert peer.set_parameter(OUT, 'turn_boxes', False) == ''
    assert peer.set_parameter(OUT, 'camera_pitch_rad', 0.0) == ''


def test_speeds_of_objects_that_are_tracked(peer, exchange, depth_m, instance) -> None:
    assert peer.set_parameter(OUT, 'tracking', True) == ''
    peer.subscribe(MarkerArray, OUT + 'markers')
    start = peer.header(ahead_s=10.0)
    speeds = []

    def receding(header: Header) -> Image:
        passed_s = (messages.stamp_ns(header) - messages.stamp_ns(start)) / 1e9
        depth_m[instance > 0] = CARS_M + 2.0 * passed_s
        return depth_message(depth_m, header)

    def are_known() -> bool:
        peer.header(ahead_s=0.1)
        (answer,) = exchange(receding, 'markers')
        speeds[:] = [float(m.group(1)) for t in texts(answer) if (m := SPEED.search(t))]
        return len(speeds) == 2 and all(abs(speed - 2.0) <= 0.2 for speed in speeds)

    peer.wait_until(are_known, 'the speeds')
    assert peer.set_parameter(OUT, 'tracking', False) == ''


def test_without_anybody_who_wants_depth_it_is_not_looked_for(peer, exchange, depth_m) -> None:
    peer.subscribe(Image, OUT + 'semantic')
    exchange(lambda h: depth_message(depth_m, h), 'semantic')
    before = diagnostics(peer)
    exchange(lambda h: depth_message(depth_m, h), 'semantic')
    found = diagnostics(peer)
    assert int(found['depth received']) > int(before['depth received'])
    for name in ('matched', 'bad', 'missed'):
        assert found[f'depth {name}'] == before[f'depth {name}']


def test_unusable_calibration_of_depth_counts_as_none(
    module_node, peer, exchange, depth_m
) -> None:
    bad = camera_info()
    bad.k = [math.nan] * 9
    wait_for_measured(peer, exchange, lambda h: depth_message(depth_m, h), info=bad)
    assert f'{DEPTH_INFO}: camera_info.k' in module_node.log


def test_depth_is_off_unless_asked_for(start_node, peer, tiny_model, scene_bgr) -> None:
    node = start_node(
        *('-r', '__ns:=/plain', '-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime')
    )
    node.wait_for_log('waiting for images')
    peer.subscribe(Image, '/plain/segment/semantic')
    image = messages.image_message(scene_bgr, peer.header())
    peer.exchange('/plain/image', image, '/plain/segment/semantic')
    assert peer.node.count_subscribers('/plain/depth') == 0
    assert peer.node.count_publishers('/plain/segment/points') == 0
    assert node.interrupt() == 0


def test_compressed_depth_by_the_end_of_its_topic(
    start_node, peer, tiny_model, scene_bgr, depth_m
) -> None:
    node = start_node(
        *('-r', '__ns:=/packed', '-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime'),
        *('-p', 'depth:=true', '-r', 'depth:=cam/depth/compressedDepth'),
    )
    node.wait_for_log('waiting for images')
    peer.subscribe(MarkerArray, '/packed/segment/markers')
    peer.subscribe(CameraInfo, '/packed/segment/camera_info')
    # Best effort may lose the calibration, without which there are no markers: repeat it.
    calibration = ('/packed/camera_info', camera_info())
    image = messages.image_message(scene_bgr, peer.header())
    peer.exchange('/packed/image', image, '/packed/segment/camera_info', before=calibration)
    png = cv2.imencode('.png', (depth_m * 1000).astype(np.uint16))[1].tobytes()
    found = []

    def is_measured() -> bool:
        image = messages.image_message(scene_bgr, peer.header())
        depth = CompressedImage(header=image.header, format='16UC1; compressedDepth png')
        depth.data.frombytes(bytes(12) + png)
        before = ('/packed/cam/depth/compressedDepth', depth)
        found[:] = peer.exchange('/packed/image', image, '/packed/segment/markers', before=before)
        return texts(found[0]) == ARE_MEASURED

    peer.wait_until(is_measured, 'measured markers')
    assert node.interrupt() == 0
