"""Three cameras of different sizes and rates share an engine, over DDS."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image
from support.node_thread import NodeInThread
from support.ros import NodeProcess, Peer

from panoptic_ros.engines import open_engine
from panoptic_ros.model import Model
from panoptic_ros.ros import messages
from panoptic_ros.segmenter import Segmenter

SIZES_WH = {'front': (128, 64), 'left': (64, 32), 'rear': (192, 96)}
RATES_HZ = {'front': 30.0, 'left': 10.0, 'rear': 5.0}
CAMERAS = tuple(SIZES_WH)
NODE_ARGUMENTS = ('-p', 'cameras:=front, left, rear', '-p', 'image_timeout_s:=1.0')


def semantic(camera: str, namespace: str = 'robot') -> str:
    return f'/{namespace}/segment/{camera}/semantic'


@pytest.fixture
def scene(tiny_scene: Callable[..., np.ndarray]) -> Callable[[str], np.ndarray]:
    def bgr(camera: str) -> np.ndarray:
        return np.ascontiguousarray(tiny_scene(SIZES_WH[camera])[..., ::-1])

    return bgr


class Rig:
    """The cameras: each publishes at its rate while it is on."""

    def __init__(self, peer: Peer, scene: Callable[[str], np.ndarray]) -> None:
        self._peer, self._scene = peer, scene
        self.sent: dict[str, list[bytes]] = {camera: [] for camera in CAMERAS}
        self._next_s = dict.fromkeys(CAMERAS, 0.0)

    def run(self, cameras: tuple[str, ...], is_done: Callable[[], bool]) -> None:
        """Publish until the condition is true."""

        def step() -> bool:
            for camera in cameras:
                if time.monotonic() >= self._next_s[camera]:
                    self._next_s[camera] = time.monotonic() + 1.0 / RATES_HZ[camera]
                    image = messages.image_message(self._scene(camera), self._peer.header())
                    self.sent[camera].append(serialize_message(image.header))
                    self._peer.publish(f'/robot/{camera}/image', image)
            return is_done()

        self._peer.wait_until(step, 'the cameras')


def statuses(peer: Peer) -> dict[str, dict[str, str]]:
    """Return message and values of the newest status of each camera."""
    received = peer.received['/diagnostics'] or peer.subscribe(DiagnosticArray, '/diagnostics')
    if not received:
        return {}
    return {
        status.name.rpartition(' ')[2]: {entry.key: entry.value for entry in status.values}
        | {'message': status.message}
        for status in received[-1].status
    }


def test_each_camera_has_its_outputs_and_one_that_stops_does_not_slow_the_others(
    module_node: NodeProcess, peer: Peer, scene: Callable[[str], np.ndarray], tiny_model: Path
) -> None:
    model = Model.load(tiny_model)
    segmenter = Segmenter(model, open_engine(model, 'onnxruntime'))
    rig = Rig(peer, scene)
    answers = {camera: peer.subscribe(Image, semantic(camera)) for camera in CAMERAS}
    rig.run(CAMERAS, lambda: all(len(found) >= 5 for found in answers.values()))
    for camera, found in answers.items():
        expected = segmenter.segment(scene(camera)).panoptic.semantic
        for message in found:
            assert serialize_message(message.header) in rig.sent[camera]
            maps = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)
            assert np.array_equal(maps, expected)
        stamps = [messages.stamp_ns(message.header) for message in found]
        assert stamps == sorted(set(stamps))
    before = {camera: len(found) for camera, found in answers.items()}
    rest = ('front', 'rear')
    rig.run(rest, lambda: all(len(answers[camera]) >= before[camera] + 10 for camera in rest))
    rig.run(rest, lambda: 'no image for' in statuses(peer).get('left', {}).get('message', ''))
    found = statuses(peer)
    assert list(found) == list(CAMERAS)
    assert not any('no image for' in found[camera]['message'] for camera in rest)
    assert found['left']['image topic'] == '/robot/left/image'
    for camera in CAMERAS:
        assert int(found[camera]['frames processed']) <= len(rig.sent[camera])
    # The camera comes back.
    rig.run(CAMERAS, lambda: len(answers['left']) > before['left'])


def test_only_cameras_with_a_subscriber_are_segmented(
    module_node: NodeProcess, peer: Peer, scene: Callable[[str], np.ndarray]
) -> None:
    rig = Rig(peer, scene)
    peer.wait_until(lambda: statuses(peer), 'diagnostics')
    rear = peer.subscribe(Image, semantic('rear'))
    before = statuses(peer)
    rig.run(CAMERAS, lambda: len(rear) >= 3)

    def unwatched(camera: str) -> int:
        after = int(statuses(peer)[camera]['frames unwatched'])
        return after - int(before[camera]['frames unwatched'])

    rig.run(CAMERAS, lambda: unwatched('front') > 0 and unwatched('left') > 0)
    peer.forget()


def test_calibration_and_parameters_are_those_of_the_camera(
    module_node: NodeProcess, peer: Peer, scene: Callable[[str], np.ndarray]
) -> None:
    for camera in ('front', 'rear'):
        width, height = SIZES_WH[camera]
        info = CameraInfo(width=width, height=height)
        info.k = [width / 2, 0.0, width / 2, 0.0, width / 2, height / 2, 0.0, 0.0, 1.0]
        out = f'/robot/segment/{camera}/camera_info'
        peer.subscribe(CameraInfo, out)
        image = messages.image_message(scene(camera), peer.header())
        (found,) = peer.exchange(
            f'/robot/{camera}/image', image, out, before=(f'/robot/{camera}/camera_info', info)
        )
        assert (found.width, found.k[0]) == (width, width / 2)
    assert not peer.set_parameter('/robot/segment/', 'front.roi', '0, 0, 64, 64')
    for camera, is_cut in (('front', True), ('rear', False)):
        peer.subscribe(Image, semantic(camera))
        image = messages.image_message(scene(camera), peer.header())
        (found,) = peer.exchange(f'/robot/{camera}/image', image, semantic(camera))
        maps = np.frombuffer(found.data, np.uint8).reshape(found.height, found.width)
        assert (maps[:, 64:] == 255).all() == is_cut
    assert not peer.set_parameter('/robot/segment/', 'front.roi', '')


def test_an_engine_for_several_images_computes_those_of_different_cameras_at_once(
    peer: Peer, scene: Callable[[str], np.ndarray], tiny_model: Path
) -> None:
    node = NodeInThread(tiny_model, '/batch', cameras=', '.join(CAMERAS), engine_batch=3)
    try:
        answers = {c: peer.subscribe(Image, semantic(c, 'batch')) for c in CAMERAS}
        alone = {}
        for camera in CAMERAS:
            image = messages.image_message(scene(camera), peer.header())
            (answer,) = peer.exchange(f'/batch/{camera}/image', image, semantic(camera, 'batch'))
            alone[camera] = bytes(answer.data)
        sizes: list[int] = []
        engine = node.node._session.segmenter.engine
        assert engine.description.batch == 3
        infer_batch = engine.infer_batch
        engine.infer_batch = lambda images: sizes.append(len(images)) or infer_batch(images)
        node.infer.hold()
        calls = node.infer.calls
        sent = {}
        for camera in ('front', *CAMERAS):  # the first one is in the engine, the others wait
            index = CAMERAS.index(camera)
            received = node.counts(index)['received']
            sent[camera] = messages.image_message(scene(camera), peer.header())
            peer.publish(f'/batch/{camera}/image', sent[camera])
            peer.wait_until(
                lambda r=received, i=index: node.counts(i)['received'] > r, 'the image'
            )
            peer.wait_until(lambda: node.infer.calls > calls, 'the engine')
        node.infer.release()
        for camera in CAMERAS:
            found, header = answers[camera], sent[camera].header
            peer.wait_until(
                lambda found=found, header=header: found[-1].header == header, 'the answers'
            )
            assert bytes(found[-1].data) == alone[camera]
        assert sizes == [1, 3]
    finally:
        node.close()


def test_cameras_take_turns_while_the_engine_is_busy(
    peer: Peer, scene: Callable[[str], np.ndarray], tiny_model: Path
) -> None:
    node = NodeInThread(tiny_model, '/turns', cameras=', '.join(CAMERAS))
    try:
        answers = {c: peer.subscribe(Image, semantic(c, 'turns')) for c in CAMERAS}

        def publish(camera: str) -> Image:
            image = messages.image_message(scene(camera), peer.header())
            peer.publish(f'/turns/{camera}/image', image)
            return image

        for camera in CAMERAS:
            image = messages.image_message(scene(camera), peer.header())
            peer.exchange(f'/turns/{camera}/image', image, semantic(camera, 'turns'))
        order: list[str] = []
        for number, camera in enumerate(CAMERAS):
            pipeline = node.node._session.cameras[number].pipeline

            def prepare(arrival, camera=camera, prepare=pipeline.prepare):
                order.append(camera)
                return prepare(arrival)

            pipeline.prepare = prepare
        node.infer.hold()
        publish('front')
        peer.wait_until(lambda: order, 'the engine')
        newest = {}
        for number in (1, 2):
            # The fast camera sends two images before the slow ones send their first.
            for _ in range(2):
                received = node.counts()['received']
                newest['front'] = publish('front')
                peer.wait_until(
                    lambda received=received: node.counts()['received'] > received, 'the image'
                )
            if number == 1:
                for index in (1, 2):
                    camera = CAMERAS[index]
                    received = node.counts(index)['received']
                    newest[camera] = publish(camera)
                    peer.wait_until(
                        lambda r=received, i=index: node.counts(i)['received'] > r, 'the image'
                    )
        node.infer.release()
        for camera in CAMERAS:
            found, header = answers[camera], newest[camera].header
            peer.wait_until(
                lambda found=found, header=header: found[-1].header == header, 'the answers'
            )
        assert order == ['front', 'front', 'left', 'rear']
    finally:
        node.close()
