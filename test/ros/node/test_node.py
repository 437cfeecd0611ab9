"""The node as a process of its own, over DDS."""

import array
import math
import time
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import DurabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from support.node_calls import diagnostics
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros import packing, visualize
from panoptic_ros.engines import open_engine
from panoptic_ros.model import Model
from panoptic_ros.ros import messages
from panoptic_ros.ros.diagnostics import FrameTimes, stage_times_ms
from panoptic_ros.segmenter import Segmentation, Segmenter

IMAGE, CAMERA_INFO = '/robot/image', '/robot/camera_info'
OUT = '/robot/segment/'
MAPS = {
    'semantic': 'mono8',
    'instance': '16UC1',
    'confidence': 'mono8',
    'panoptic': '32SC1',
    'mask': 'mono8',
}
DTYPE = {'mono8': np.uint8, '16UC1': np.uint16, '32SC1': np.int32, 'bgr8': np.uint8}
SIZE_WH = (128, 64)
NODE_ARGUMENTS = ('-p', 'tracking:=false')  # each frame is compared with what it would be alone


@pytest.fixture(scope='module')
def segmenter(tiny_model: Path) -> Segmenter:
    model = Model.load(tiny_model)
    return Segmenter(model, open_engine(model, 'onnxruntime'))


@pytest.fixture
def subscribed(peer):
    peer.subscribe(Image, OUT + 'semantic')
    return peer


def camera_info(size_wh: tuple[int, int] = SIZE_WH) -> CameraInfo:
    width, height = size_wh
    focal, cx, cy = width / 2, width / 2 - 0.5, height / 2 - 0.5
    return CameraInfo(
        width=width,
        height=height,
        distortion_model='plumb_bob',
        d=[0.0] * 5,
        k=[focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[focal, 0.0, cx, 0.0, 0.0, focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def pixels(message: Image) -> np.ndarray:
    dtype = DTYPE[message.encoding]
    shape = (message.height, message.width) + ((3,) if message.encoding == 'bgr8' else ())
    assert message.step == message.width * np.dtype(dtype).itemsize * (3 if len(shape) == 3 else 1)
    return np.frombuffer(message.data, dtype).reshape(shape)


def test_every_topic_of_one_frame(module_node, peer, segmenter, scene_bgr) -> None:
    pictures = ('overlay', 'semantic_color', 'instance_color')
    for name in (*MAPS, *pictures):
        peer.subscribe(Image, OUT + name)
    peer.subscribe(CameraInfo, OUT + 'camera_info')
    peer.subscribe(MarkerArray, OUT + 'markers')
    image = messages.image_message(scene_bgr, peer.header())
    names = [*MAPS, *pictures, 'camera_info', 'markers']
    topics = [OUT + name for name in names]
    found = peer.exchange(IMAGE, image, *topics, before=(CAMERA_INFO, camera_info()))
    answers = dict(zip(names, found, strict=True))

    expected: Segmentation = segmenter.segment(scene_bgr)
    panoptic = expected.panoptic
    assert panoptic.segments.things.id.tolist() == [1, 2]  # the scene is worth looking at
    for name, encoding in MAPS.items():
        message = answers[name]
        assert message.encoding == encoding
        assert (message.width, message.height) == SIZE_WH
        assert serialize_message(message.header) == serialize_message(image.header)
    assert np.array_equal(pixels(answers['semantic']), panoptic.semantic)
    assert np.array_equal(pixels(answers['instance']), panoptic.instance)
    assert np.array_equal(pixels(answers['confidence']), expected.confidence)
    assert np.array_equal(pixels(answers['panoptic']), packing.to_class_instance(panoptic))
    cars = panoptic.semantic == segmenter.model.label_set.class_id('car')
    assert np.array_equal(pixels(answers['mask']), np.where(cars, 255, 0))

    label_set = segmenter.model.label_set
    drawn = {
        'overlay': visualize.overlay(scene_bgr, panoptic, label_set, 0.5),
        'semantic_color': visualize.semantic_color(panoptic.semantic, label_set),
        'instance_color': visualize.instance_color(panoptic, label_set),
    }
    for name, picture in drawn.items():
        assert answers[name].encoding == 'bgr8'
        assert serialize_message(answers[name].header) == serialize_message(image.header)
        assert np.array_equal(pixels(answers[name]), picture)

    info = answers['camera_info']
    assert serialize_message(info.header) == serialize_message(image.header)
    assert info.k.tolist() == camera_info().k.tolist()

    markers = answers['markers'].markers
    assert {(m.ns, m.id) for m in markers} == {('car', 1), ('car', 2), ('text', 1), ('text', 2)}
    assert all(serialize_message(m.header) == serialize_message(image.header) for m in markers)
    left, right = sorted(m.pose.position.x for m in markers if m.ns == 'car')
    assert left < 0 < right


def encoded(encoding: str, image_bgr: np.ndarray) -> np.ndarray:
    codes = {
        'rgb8': cv2.COLOR_BGR2RGB,
        'bgra8': cv2.COLOR_BGR2BGRA,
        'rgba8': cv2.COLOR_BGR2RGBA,
        'mono8': cv2.COLOR_BGR2GRAY,
        'yuv422': cv2.COLOR_BGR2YUV_UYVY,
        'yuv422_yuy2': cv2.COLOR_BGR2YUV_YUY2,
    }
    if encoding in codes:
        return cv2.cvtColor(image_bgr, codes[encoding])
    mosaic = np.empty(image_bgr.shape[:2], np.uint8)
    for i, letter in enumerate(encoding.removeprefix('bayer_').removesuffix('8')):
        y, x = divmod(i, 2)
        mosaic[y::2, x::2] = image_bgr[y::2, x::2, 'bgr'.index(letter)]
    return mosaic


def is_8_bits(encoding: str) -> bool:
    return '16' not in encoding and not encoding.startswith(('nv', 'yuv420'))


@pytest.mark.parametrize(
    'encoding', [e for e in messages.ENCODINGS if e[0].islower() and is_8_bits(e)]
)
def test_every_encoding(module_node, subscribed, segmenter, scene_bgr, encoding: str) -> None:
    encoding_in_cv2 = {'uyvy': 'yuv422', 'yuyv': 'yuv422_yuy2'}.get(encoding, encoding)
    data = scene_bgr if encoding == 'bgr8' else encoded(encoding_in_cv2, scene_bgr)
    padding = np.full((SIZE_WH[1], 5), 255, np.uint8)
    rows = np.hstack([data.reshape(SIZE_WH[1], -1), padding])
    image = Image(
        header=subscribed.header(),
        width=SIZE_WH[0],
        height=SIZE_WH[1],
        encoding=encoding,
        step=rows.shape[1],
        data=array.array('B', rows.tobytes()),
    )
    (answer,) = subscribed.exchange(IMAGE, image, OUT + 'semantic')
    picture = messages.decode_image(image)
    expected = segmenter.segment(picture.pixels, picture.encoding).panoptic.semantic
    assert np.array_equal(pixels(answer), expected)
    if encoding != 'mono8':  # colours lost by the encoding hardly matter to this scene
        of_bgr = segmenter.segment(scene_bgr).panoptic.semantic
        assert (pixels(answer) == of_bgr).mean() > 0.75


def bad_images() -> dict[str, tuple[Image, list[str]]]:
    def image(
        encoding: str = 'bgr8', width: int = 4, height: int = 2, step: int = 12, n: int = 24
    ):
        return Image(
            encoding=encoding,
            width=width,
            height=height,
            step=step,
            data=array.array('B', bytes(n)),
        )

    return {
        'unknown encoding': (image('bgr9'), ["'bgr9'", 'accepted are bgr8, rgb8']),
        'depth': (image('32FC1', step=16, n=32), ["'32FC1'", 'accepted']),
        'step': (image(step=7), ['step 7', '12 bytes a row']),
        'too little data': (image(n=23), ['23 bytes', 'expected 24']),
        'too much data': (image(n=25), ['25 bytes', 'expected 24']),
        'no data': (image(n=0), ['no data']),
        'no width': (image(width=0), ['0x2', 'no pixels']),
        'no height': (image(height=0), ['4x0', 'no pixels']),
    }


@pytest.mark.parametrize('kind', bad_images())
def test_bad_image_is_named_and_the_next_good_one_served(
    module_node, subscribed, scene_bgr, kind: str
) -> None:
    bad, words = bad_images()[kind]
    bad.header = subscribed.header()
    before = diagnostics(subscribed)
    subscribed.publish(IMAGE, bad)
    good = messages.image_message(scene_bgr, subscribed.header())
    found = {}

    def is_counted() -> bool:
        subscribed.publish(IMAGE, bad)
        found.update(diagnostics(subscribed))
        return int(found['frames bad']) > int(before['frames bad'])

    subscribed.wait_until(is_counted, 'the bad image to be counted')
    assert found['last trouble'].startswith(f'{IMAGE}: ')
    for word in words:
        assert word in found['last trouble']
    assert found['level'] == b'\x01'
    assert f'{IMAGE}: ' in module_node.log
    assert 'this image is skipped' in module_node.log
    subscribed.exchange(IMAGE, good, OUT + 'semantic')
    assert not [m for m in subscribed.received[OUT + 'semantic'] if m.header == bad.header]


def test_another_size_every_frame(module_node, subscribed, segmenter) -> None:
    names = ('semantic', 'instance', 'confidence', 'panoptic', 'overlay')
    topics = [OUT + name for name in names]
    for topic in topics[1:]:
        subscribed.subscribe(Image, topic)
    subscribed.subscribe(MarkerArray, OUT + 'markers')
    calibration = (CAMERA_INFO, camera_info())
    for width, height in ((64, 32), (640, 480), (33, 17), (1, 1), (1280, 720), (31, 200)):
        picture = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
        image = messages.image_message(picture, subscribed.header())
        answers = subscribed.exchange(IMAGE, image, *topics, before=calibration)
        assert {(a.width, a.height) for a in answers} == {(width, height)}
        expected = segmenter.segment(picture).panoptic.semantic
        assert np.array_equal(pixels(answers[0]), expected)


def test_markers_go_with_their_objects_and_when_time_jumps_back(
    module_node, peer, tiny_scene
) -> None:
    peer.subscribe(MarkerArray, OUT + 'markers')
    both = np.ascontiguousarray(tiny_scene(SIZE_WH)[..., ::-1])
    one = both.copy()
    one[:, SIZE_WH[0] // 2 :] = one[:, -1:]  # sky and road where the second car was

    def actions(picture: np.ndarray) -> set[tuple[str, int, int]]:
        image = messages.image_message(picture, peer.header())
        calibration = (CAMERA_INFO, camera_info())
        (answer,) = peer.exchange(IMAGE, image, OUT + 'markers', before=calibration)
        return {(m.ns, m.id, m.action) for m in answer.markers}

    first, second = ({(ns, i, Marker.ADD) for ns in ('car', 'text')} for i in (1, 2))
    # The first calibration may arrive after the first image.
    peer.wait_until(lambda: actions(both) == first | second, 'markers of both cars')
    early = peer.header()
    early.stamp.sec -= 100
    gone = {(ns, 2, Marker.DELETE) for ns in ('car', 'text')}
    found = actions(one)
    assert found == first | gone
    assert actions(one) == first

    # A recording starts over: everything is deleted before anything is shown.
    received = peer.received[OUT + 'markers']
    start = len(received)
    assert 'stamps jumped back' not in module_node.log
    image = messages.image_message(both, early)
    (answer,) = peer.exchange(IMAGE, image, OUT + 'markers')
    assert [m.action for m in answer.markers] == [Marker.DELETEALL]
    peer.wait_until(lambda: len(received) >= start + 2, 'markers after the jump')
    assert {m.action for m in received[start + 1].markers} == {Marker.ADD}
    assert f'{IMAGE}: stamps jumped back by 10' in module_node.log
    deletions = len([m for m in received if m.markers[0].action == Marker.DELETEALL])
    actions(both)  # forward again: nothing special
    assert deletions == len([m for m in received if m.markers[0].action == Marker.DELETEALL])


def test_camera_info_of_another_size_is_scaled(module_node, peer, scene_bgr) -> None:
    peer.subscribe(CameraInfo, OUT + 'camera_info')
    calibration = (CAMERA_INFO, camera_info((256, 64)))

    def focal_lengths() -> tuple[float, float]:
        image = messages.image_message(scene_bgr, peer.header())
        (info,) = peer.exchange(IMAGE, image, OUT + 'camera_info', before=calibration)
        assert (info.width, info.height) == SIZE_WH
        return info.k[0], info.k[4]

    peer.wait_until(lambda: focal_lengths() == (64.0, 128.0), 'the new calibration')


@pytest.mark.parametrize(
    ('name', 'value', 'words'),
    [('k', [math.nan] * 9, 'camera_info.k'), ('k', [0.0] * 9, 'focal lengths 0.0')],
)
def test_unusable_camera_info_counts_as_none(
    module_node, peer, scene_bgr, name: str, value: list[float], words: str
) -> None:
    peer.subscribe(CameraInfo, OUT + 'camera_info')
    peer.subscribe(MarkerArray, OUT + 'markers')
    peer.subscribe(Image, OUT + 'overlay')
    image = messages.image_message(scene_bgr, peer.header())
    topics = (OUT + 'camera_info', OUT + 'markers')
    peer.exchange(IMAGE, image, *topics, before=(CAMERA_INFO, camera_info()))
    bad = camera_info()
    bad.p = [0.0] * 12
    setattr(bad, name, value)

    def answers_without() -> bool:
        images = [messages.image_message(scene_bgr, peer.header()) for _ in range(4)]
        for image in images:  # the overlay is published last
            peer.exchange(IMAGE, image, OUT + 'overlay', before=(CAMERA_INFO, bad))
        with_markers = [m for m in peer.received[OUT + 'markers'] if m.markers]
        headers = [m.header for m in peer.received[OUT + 'camera_info']]
        headers += [m.markers[0].header for m in with_markers if m.markers[0].action == Marker.ADD]
        return not any(image.header in headers for image in images)

    peer.wait_until(answers_without, 'the calibration to be dropped')
    assert f'{CAMERA_INFO}: camera_info.k' in module_node.log


def test_tuning_over_the_parameter_service(module_node, peer, segmenter, scene_bgr) -> None:
    peer.subscribe(Image, OUT + 'overlay')
    assert peer.set_parameter(OUT, 'overlay_opacity', 0.25) == ''
    image = messages.image_message(scene_bgr, peer.header())
    (answer,) = peer.exchange(IMAGE, image, OUT + 'overlay')
    panoptic = segmenter.segment(scene_bgr).panoptic
    label_set = segmenter.model.label_set
    assert np.array_equal(pixels(answer), visualize.overlay(scene_bgr, panoptic, label_set, 0.25))
    assert peer.set_parameter(OUT, 'overlay_opacity', 0.5) == ''
    assert 'overlay_opacity' in peer.set_parameter(OUT, 'overlay_opacity', 1.5)


def test_a_threshold_counts_from_the_next_frame(module_node, peer, scene_bgr) -> None:
    peer.subscribe(Image, OUT + 'instance')

    def ids() -> list[int]:
        image = messages.image_message(scene_bgr, peer.header())
        (answer,) = peer.exchange(IMAGE, image, OUT + 'instance')
        return np.unique(pixels(answer)).tolist()

    assert ids() == [0, 1, 2]
    # The second car's centre scores 0.8; every thing pixel then belongs to the first.
    assert peer.set_parameter(OUT, 'centre_threshold', 0.9) == ''
    assert ids() == [0, 1]
    assert peer.set_parameter(OUT, 'centre_threshold', -1.0) == ''
    assert ids() == [0, 1, 2]


def test_structure_cannot_change_while_configured(module_node, peer) -> None:
    reason = peer.set_parameter(OUT, 'model', 'another')
    assert reason.startswith('parameter model is fixed while the node is configured')


def test_nobody_subscribes_nothing_is_done(module_node, peer, scene_bgr) -> None:
    before = diagnostics(peer)
    found = {}

    def is_noticed() -> bool:
        for _ in range(5):
            peer.publish(IMAGE, messages.image_message(scene_bgr, peer.header()))
        found.update(diagnostics(peer))
        return int(found['frames unwatched']) > int(before['frames unwatched'])

    peer.wait_until(is_noticed, 'unwatched frames')
    found = diagnostics(peer)
    assert found['frames processed'] == diagnostics(peer)['frames processed']


def test_every_frame_is_accounted_for(module_node, subscribed, scene_bgr) -> None:
    for _ in range(60):  # faster than it can keep up with
        subscribed.publish(IMAGE, messages.image_message(scene_bgr, subscribed.header()))
    kinds = ('processed', 'dropped', 'unwatched', 'bad', 'failed')

    def is_settled() -> bool:
        found = diagnostics(subscribed)
        sum_of_kinds = sum(int(found[f'frames {kind}']) for kind in kinds)
        return sum_of_kinds == int(found['frames received']) > 0

    subscribed.wait_until(is_settled, 'the counts to add up')


def test_diagnostics_name_model_engine_and_times(module_node, subscribed, scene_bgr) -> None:
    image = messages.image_message(scene_bgr, subscribed.header())
    subscribed.exchange(IMAGE, image, OUT + 'semantic')
    found = diagnostics(subscribed)
    assert found['name'] == 'robot/segment: segmentation'
    assert found['state'] == 'active'
    assert found['image topic'] == IMAGE
    assert found['model'] == 'tiny'
    assert found['engine'].startswith('onnxruntime ')
    assert found['device']
    for stage in ('decode', 'preprocess', 'inference', 'fusion', 'publish', 'total'):
        low, middle, high = (float(found[f'{stage} p{p} (ms)']) for p in (50, 95, 99))
        assert 0 <= low <= middle <= high
    assert float(found['total p50 (ms)']) > float(found['inference p50 (ms)']) > 0


def test_timing_of_each_frame(module_node, subscribed, scene_bgr) -> None:
    timings = subscribed.subscribe(DiagnosticArray, OUT + 'timing')
    for _ in range(3):
        header = subscribed.header()
        # The peer's stamps run ahead of the clock or stay behind it, and age is told from that.
        header.stamp.sec, header.stamp.nanosec = divmod(time.time_ns(), 1_000_000_000)
        image = messages.image_message(scene_bgr, header)
        _, timing = subscribed.exchange(IMAGE, image, OUT + 'semantic', OUT + 'timing')
        stages = stage_times_ms(timing)
        assert list(stages) == [field.name.removesuffix('_ns') for field in fields(FrameTimes)]
        assert 0 < stages['inference'] < stages['total']
        assert stages['age'] > 0  # the stamp is this machine's
    assert len(timings) >= 3


def test_timing_alone_makes_no_frame_wanted(module_node, peer, scene_bgr) -> None:
    peer.subscribe(DiagnosticArray, OUT + 'timing')
    before = diagnostics(peer)
    peer.publish(IMAGE, messages.image_message(scene_bgr, peer.header()))
    peer.wait_until(
        lambda: int(diagnostics(peer)['frames unwatched']) > int(before['frames unwatched']),
        'the image to be passed over',
    )
    assert diagnostics(peer)['frames processed'] == before['frames processed']


def test_label_info_and_detections(module_node, peer, segmenter, scene_bgr) -> None:
    vision_msgs = pytest.importorskip('vision_msgs.msg', reason='vision_msgs is not installed')
    labels = peer.subscribe(
        vision_msgs.LabelInfo, OUT + 'label_info', durability=DurabilityPolicy.TRANSIENT_LOCAL
    )
    peer.wait_until(lambda: labels, 'label_info, published before we came')
    assert len(labels[0].class_map) == 20
    peer.subscribe(vision_msgs.Detection2DArray, OUT + 'detections')
    image = messages.image_message(scene_bgr, peer.header())
    (answer,) = peer.exchange(IMAGE, image, OUT + 'detections')
    things = segmenter.segment(scene_bgr).panoptic.segments.things
    assert [d.id for d in answer.detections] == [str(i) for i in things.track_id]
    assert serialize_message(answer.header) == serialize_message(image.header)


def test_without_vision_msgs_the_log_says_what_is_off(module_node) -> None:
    if messages.vision_msgs is not None:
        pytest.skip('vision_msgs is installed')
    assert '~/detections and ~/label_info are off: vision_msgs is not installed' in module_node.log


@pytest.mark.parametrize('sec', [0, -1, -(2**31), 2**31 - 1])
def test_any_stamp_is_kept(module_node, subscribed, scene_bgr, sec: int) -> None:
    image = messages.image_message(scene_bgr, Header(frame_id='camera'))
    image.header.stamp.sec = sec
    (answer,) = subscribed.exchange(IMAGE, image, OUT + 'semantic')
    assert serialize_message(answer.header) == serialize_message(image.header)


def test_services_enable_and_segment_once(module_node, peer, scene_bgr) -> None:
    srv = pytest.importorskip('std_srvs.srv', reason='std_srvs is not installed')
    peer.subscribe(Image, OUT + 'semantic')
    image = messages.image_message(scene_bgr, peer.header())
    peer.exchange(IMAGE, image, OUT + 'semantic')

    answer = peer.ask(srv.SetBool, OUT + 'enable', srv.SetBool.Request(data=False))
    assert (answer.success, answer.message) == (True, 'images are ignored')
    ignored = messages.image_message(scene_bgr, peer.header())
    before = int(diagnostics(peer)['frames unwatched'])
    peer.publish(IMAGE, ignored)
    peer.wait_until(
        lambda: int(diagnostics(peer)['frames unwatched']) > before, 'an image to be ignored'
    )

    answer = peer.call(srv.Trigger, OUT + 'segment_once', srv.Trigger.Request())
    assert answer.success
    once = messages.image_message(scene_bgr, peer.header())
    peer.exchange(IMAGE, once, OUT + 'semantic')
    # Latched, also on topics that nobody subscribed to before.
    latched = peer.subscribe(Image, OUT + 'instance', durability=DurabilityPolicy.TRANSIENT_LOCAL)
    peer.wait_until(lambda: latched, 'the latched image')
    assert latched[0].header == once.header

    answer = peer.ask(srv.SetBool, OUT + 'enable', srv.SetBool.Request(data=True))
    assert answer.message == 'images are segmented'
    last = messages.image_message(scene_bgr, peer.header())
    peer.exchange(IMAGE, last, OUT + 'semantic')
    assert ignored.header not in [m.header for m in peer.received[OUT + 'semantic']]
