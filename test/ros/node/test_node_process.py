"""Start, lifecycle and end of the node; each test has a node as a process of its own."""

import array
import os
import re
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from support.node_calls import change_state, diagnostics, program, state
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.benchmark.processes import own_domain
from panoptic_ros.engines import open_engine
from panoptic_ros.model import Model
from panoptic_ros.ros import messages
from panoptic_ros.segmenter import Segmenter

IMAGE, CAMERA_INFO = '/own/image', '/own/camera_info'
OUT = '/own/segment/'
SIZE_WH = (128, 64)


@pytest.fixture(scope='module')
def segmenter(tiny_model: Path) -> Segmenter:
    model = Model.load(tiny_model)
    return Segmenter(model, open_engine(model, 'onnxruntime'))


@pytest.fixture
def subscribed(peer):
    peer.subscribe(Image, OUT + 'semantic')
    return peer


def pixels(message: Image) -> np.ndarray:
    assert message.encoding == 'mono8'
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)


def test_lifecycle(start_node, tiny_model, subscribed, scene_bgr) -> None:
    node = start_node(
        *('-r', '__ns:=/own', '-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime')
    )
    peer = subscribed

    def serves() -> None:
        image = messages.image_message(scene_bgr, peer.header())
        peer.exchange(IMAGE, image, OUT + 'semantic')

    def camera_subscribers() -> int:
        return peer.node.count_subscribers(IMAGE) + peer.node.count_subscribers(CAMERA_INFO)

    serves()
    assert state(peer, OUT) == 'active'
    assert change_state(peer, Transition.TRANSITION_DEACTIVATE, OUT)
    assert state(peer, OUT) == 'inactive'
    peer.wait_until(lambda: camera_subscribers() == 0, 'the node to unsubscribe')
    assert diagnostics(peer)['message'] == 'the node is inactive'
    assert peer.set_parameter(OUT, 'engine_threads', 1).startswith(
        'parameter engine_threads is fixed'
    )
    assert change_state(peer, Transition.TRANSITION_ACTIVATE, OUT)
    serves()
    assert change_state(peer, Transition.TRANSITION_DEACTIVATE, OUT)
    assert change_state(peer, Transition.TRANSITION_CLEANUP, OUT)
    assert state(peer, OUT) == 'unconfigured'
    peer.wait_until(
        lambda: peer.node.count_publishers(OUT + 'semantic') == 0, 'the publisher to go'
    )

    assert peer.set_parameter(OUT, 'model', 'no-such-model') == ''
    assert not change_state(peer, Transition.TRANSITION_CONFIGURE, OUT)
    assert state(peer, OUT) == 'unconfigured'
    found = diagnostics(peer)
    assert found['level'] == b'\x02'
    assert "configure failed: no model is called 'no-such-model'" in found['message']

    assert peer.set_parameter(OUT, 'model', str(tiny_model)) == ''
    assert change_state(peer, Transition.TRANSITION_CONFIGURE, OUT)
    assert change_state(peer, Transition.TRANSITION_ACTIVATE, OUT)
    image = messages.image_message(scene_bgr, peer.header())
    peer.exchange(IMAGE, image, OUT + 'semantic')
    assert change_state(peer, Transition.TRANSITION_ACTIVE_SHUTDOWN, OUT)
    assert state(peer, OUT) == 'finalized'
    assert node.interrupt() == 0
    assert 'Traceback' not in node.log


@pytest.mark.parametrize(
    'signals',
    [(signal.SIGINT,), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM,), (signal.SIGTERM,) * 2],
    ids=['SIGINT', 'SIGINT twice', 'SIGTERM', 'SIGTERM twice'],
)
def test_signals_end_the_node_cleanly(start_node, tiny_model, signals: tuple[int, ...]) -> None:
    node = start_node('-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime')
    node.wait_for_log('waiting for images')
    assert node.interrupt(*signals) == 0
    assert 'Traceback' not in node.log
    assert 'rror' not in node.log


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_while_the_engine_loads(start_node, number: int) -> None:
    load = "    print('loading', file=sys.stderr, flush=True)\n    time.sleep(600)"
    node = start_node(program=program(load))
    node.wait_for_log('loading')
    assert node.interrupt(number, number) == 0
    assert 'Traceback' not in node.log


SLOW_LOAD = """
    print('loading', file=sys.stderr, flush=True)
    while not os.path.exists({path!r}):
        time.sleep(0.05)
    return node.load_segmenter(structure)
import os
"""


def test_diagnostics_while_the_engine_loads(start_node, peer, tiny_model, tmp_path) -> None:
    go = tmp_path / 'go'
    start_node(
        *('-r', '__ns:=/own', '-p', f'model:={tiny_model}'),
        program=program(SLOW_LOAD.format(path=str(go))),
    )
    assert diagnostics(peer)['message'] == 'the node is configuring'
    assert diagnostics(peer)['state'] == 'configuring'  # again and again
    go.touch()
    peer.wait_until(lambda: diagnostics(peer)['state'] == 'active', 'the node to be active')


def test_signals_while_the_node_works(start_node, peer, tiny_model, scene_bgr) -> None:
    node = start_node('-r', '__ns:=/own', '-p', f'model:={tiny_model}')
    peer.subscribe(Image, OUT + 'overlay')
    image = messages.image_message(scene_bgr, peer.header())
    peer.exchange(IMAGE, image, OUT + 'overlay')
    markers = peer.subscribe(MarkerArray, OUT + 'markers')
    peer.exchange(IMAGE, messages.image_message(scene_bgr, peer.header()), OUT + 'overlay')
    for _ in range(30):
        peer.publish(IMAGE, messages.image_message(scene_bgr, peer.header()))
    assert node.interrupt(signal.SIGINT, signal.SIGINT) == 0
    assert 'Traceback' not in node.log
    peer.wait_until(
        lambda: markers and [m.action for m in markers[-1].markers] == [Marker.DELETEALL],
        'the markers to be taken back',
    )


def one_sentence(node, words: list[str]) -> None:
    assert 'Traceback' not in node.log
    for word in words:
        assert word in node.log


def test_unknown_model_ends_the_process(start_node) -> None:
    node = start_node('-p', 'model:=no-such-model')
    assert node.wait() == 2
    one_sentence(node, ["configure failed: no model is called 'no-such-model'"])
    assert len(node.lines) == 1


def test_damaged_model_ends_the_process(start_node, own_tiny_model) -> None:
    path = own_tiny_model / 'model.onnx'
    path.write_bytes(path.read_bytes()[:-1] + b'x')
    node = start_node('-p', f'model:={own_tiny_model}')
    assert node.wait() == 2
    one_sentence(node, ['configure failed:', 'model.onnx'])


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (('-p', 'engine:=abacus'), ["parameter engine is 'abacus'", 'openvino']),
        (('-p', 'camera_height_m:=-1.0'), ['camera_height_m is -1.0', '0.05 to 100.0 m']),
        (('-p', 'image_transport:=5'), ['image_transport is 5', 'raw, compressed']),
        (('--params-file', '/no/such/file.yaml'), ['/no/such/file.yaml']),
    ],
)
def test_unusable_arguments_end_the_process(
    start_node, arguments: tuple[str, ...], words: list[str]
) -> None:
    node = start_node(*arguments)
    assert node.wait() == 2
    one_sentence(node, words)


def test_a_log_folder_that_cannot_be_made_ends_the_process(
    start_node, tmp_path, monkeypatch
) -> None:
    (tmp_path / 'file').touch()
    monkeypatch.setenv('ROS_LOG_DIR', str(tmp_path / 'file' / 'log'))
    node = start_node()
    assert node.wait() == 2
    one_sentence(node, ['log directory', 'ROS_LOG_DIR names another'])


def test_its_own_output_is_not_taken_for_a_camera(start_node, tiny_model) -> None:
    node = start_node('-p', f'model:={tiny_model}', '-r', 'image:=/segment/overlay')
    assert node.wait() == 2
    one_sentence(node, ["the image topic /segment/overlay is one of this node's own"])


def test_unknown_parameter_is_named(start_node, tiny_model) -> None:
    node = start_node('-p', f'model:={tiny_model}', '-p', 'modle:=x')
    node.wait_for_log('parameter modle is not known and has no effect')
    node.wait_for_log('waiting for images')


def test_without_autostart_it_waits_to_be_configured(start_node, peer, tiny_model) -> None:
    node = start_node(
        *('-r', '__ns:=/own', '-p', 'autostart:=false', '-p', f'model:={tiny_model}')
    )
    assert state(peer, OUT) == 'unconfigured'
    assert diagnostics(peer)['message'] == 'the node is unconfigured'
    assert change_state(peer, Transition.TRANSITION_CONFIGURE, OUT)
    # Not possible now; up to Jazzy rclpy then sends no answer.
    impossible = Transition(id=Transition.TRANSITION_DEACTIVATE)
    client = peer.node.create_client(ChangeState, OUT + 'change_state')
    peer.wait_until(client.service_is_ready, 'the service')
    client.call_async(ChangeState.Request(transition=impossible))
    assert state(peer, OUT) == 'inactive'
    node.wait_for_log('ransition')
    assert change_state(peer, Transition.TRANSITION_INACTIVE_SHUTDOWN, OUT)
    assert state(peer, OUT) == 'finalized'
    assert node.interrupt() == 0


@pytest.mark.parametrize('extension', ['.jpg', '.png'])
def test_compressed_images(
    start_node, peer, segmenter, tiny_model, scene_bgr, extension: str
) -> None:
    start_node(
        *('-r', '__ns:=/own', '-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime'),
        *('-p', 'image_transport:=compressed'),
    )
    peer.subscribe(Image, OUT + 'semantic')
    _, data = cv2.imencode(extension, scene_bgr)
    image = CompressedImage(
        header=peer.header(), format=extension[1:], data=array.array('B', data.tobytes())
    )
    (answer,) = peer.exchange(f'{IMAGE}/compressed', image, OUT + 'semantic')
    picture = messages.decode_compressed_image(image)
    assert np.array_equal(pixels(answer), segmenter.segment(picture.pixels).panoptic.semantic)
    assert serialize_message(answer.header) == serialize_message(image.header)
    bad = CompressedImage(header=peer.header(), format='jpeg', data=array.array('B', b'nonsense'))

    def is_counted() -> bool:
        peer.publish(f'{IMAGE}/compressed', bad)
        return int(diagnostics(peer)['frames bad']) > 0

    peer.wait_until(is_counted, 'the bad image to be counted')


def test_quality_of_service_can_be_overridden(start_node, peer, tiny_model) -> None:
    start_node(
        *('-r', '__ns:=/own', '-p', f'model:={tiny_model}'),
        *('-p', f'qos_overrides.{IMAGE}.subscription.reliability:=reliable'),
        *('-p', f'qos_overrides.{IMAGE}.subscription.depth:=3'),
        *('-p', f'qos_overrides.{OUT}overlay.publisher.reliability:=best_effort'),
    )

    node = peer.node
    for topic, find, expected in (
        (IMAGE, node.get_subscriptions_info_by_topic, ReliabilityPolicy.RELIABLE),
        (CAMERA_INFO, node.get_subscriptions_info_by_topic, ReliabilityPolicy.BEST_EFFORT),
        (OUT + 'overlay', node.get_publishers_info_by_topic, ReliabilityPolicy.BEST_EFFORT),
        (OUT + 'semantic', node.get_publishers_info_by_topic, ReliabilityPolicy.RELIABLE),
    ):
        peer.wait_until(
            lambda find=find, topic=topic, expected=expected: (
                [info.qos_profile.reliability for info in find(topic)] == [expected]
            ),
            f'{topic} to be {expected.name}',
        )


def test_quality_of_service_of_no_topic_is_named(start_node, tiny_model) -> None:
    node = start_node(
        *('-r', '__ns:=/own', '-p', f'model:={tiny_model}'),
        *('-p', 'qos_overrides./segment/overlay.publisher.depth:=3'),  # without the namespace
        *('-p', f'qos_overrides.{OUT}overlay.publisher.depth:=3'),
    )
    node.wait_for_log('waiting for images')
    node.wait_for_log('has no effect')
    (warning,) = [line for line in node.lines if '[WARN]' in line]
    assert 'qos_overrides./segment/overlay.publisher.depth has no effect' in warning


@pytest.mark.parametrize(
    'override',
    [
        'qos_overrides./image.subscription.reliability:=perhaps',
        'qos_overrides./segment/semantic.publisher.history:=all',
        'qos_overrides./segment/semantic.publisher.depth:=deep',
    ],
)
def test_unusable_quality_of_service(start_node, tiny_model, override: str) -> None:
    node = start_node('-p', f'model:={tiny_model}', '-p', override)
    assert node.wait() == 2
    topic = re.search(r'qos_overrides(.[\w/]+)', override)[1]
    one_sentence(node, [f'qos_overrides{topic}', 'cannot be used', 'keep_last'])


def test_domain_is_ours() -> None:
    assert os.environ['ROS_DOMAIN_ID'] == str(own_domain())
    assert os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'


def test_a_latched_calibration_from_before_the_start(
    start_node, peer, tiny_model, scene_bgr
) -> None:
    latched = QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )
    publisher = peer.node.create_publisher(CameraInfo, '/latched/camera_info', latched)
    publisher.publish(
        CameraInfo(width=128, height=64, k=[64.0, 0, 63.5, 0, 64.0, 31.5, 0, 0, 1.0])
    )
    node = start_node(
        *('-r', '__ns:=/latched', '-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime')
    )
    peer.subscribe(CameraInfo, '/latched/segment/camera_info')
    image = messages.image_message(scene_bgr, peer.header())
    (answer,) = peer.exchange('/latched/image', image, '/latched/segment/camera_info')
    assert answer.k[0] == 64.0
    assert 'incompatible' not in node.log
    peer.node.destroy_publisher(publisher)


def test_the_suffix_of_compressed_images_is_understood(
    start_node, peer, tiny_model, scene_bgr
) -> None:
    start_node(
        *('-r', '__ns:=/suffix', '-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime'),
        *('-r', 'image:=/eye/image_raw/compressed'),
    )
    peer.subscribe(Image, '/suffix/segment/semantic')
    png = cv2.imencode('.png', scene_bgr)[1].tobytes()
    image = CompressedImage(
        header=peer.header(), format='bgr8; png compressed bgr8', data=array.array('B', png)
    )
    peer.exchange('/eye/image_raw/compressed', image, '/suffix/segment/semantic')


def test_images_of_the_other_type_are_named(start_node, peer, tiny_model) -> None:
    publisher = peer.node.create_publisher(CompressedImage, '/other/image/compressed', 1)
    start_node(*('-r', '__ns:=/other', '-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime'))

    def is_named() -> bool:
        message = diagnostics(peer)['message']
        return '/other/image/compressed has a publisher of sensor_msgs/msg/Comp' in message

    peer.wait_until(is_named, 'the hint')
    peer.node.destroy_publisher(publisher)
