"""A node in this process whose stages are held one by one: images that overlap, over DDS."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from sensor_msgs.msg import Image
from support.node_thread import NodeInThread
from support.ros import TIMEOUT_S, Peer

from panoptic_ros.engines import EngineDescription
from panoptic_ros.ros import messages
from panoptic_ros.ros.session import overlaps

IMAGE, SEMANTIC = '/overlap/image', '/overlap/segment/semantic'


@pytest.fixture
def node(tiny_model: Path) -> Iterator[NodeInThread]:
    node = NodeInThread(tiny_model, '/overlap', overlap='always')
    yield node
    node.close()


@pytest.fixture
def busy(node: NodeInThread, peer: Peer, tiny_scene) -> tuple[NodeInThread, list[Image]]:
    """Return a node with one image being published and one in the engine, and these images."""
    scene_bgr = np.ascontiguousarray(tiny_scene((128, 64))[..., ::-1])
    peer.subscribe(Image, SEMANTIC)
    peer.exchange(IMAGE, messages.image_message(scene_bgr, peer.header()), SEMANTIC)
    peer.received[SEMANTIC].clear()
    images = [messages.image_message(scene_bgr, peer.header()) for _ in range(4)]
    sent = iter(images)
    for stage in (node.fuse, node.infer):
        stage.hold()
        calls = stage.calls
        peer.publish(IMAGE, next(sent))
        peer.wait_until(lambda stage=stage, calls=calls: stage.calls > calls, 'the stage')
    return node, images


def test_the_engine_computes_an_image_while_the_one_before_is_published(
    busy: tuple[NodeInThread, list[Image]], peer: Peer
) -> None:
    node, images = busy
    before = node.counts()
    for image, key in zip(images[2:], ('received', 'dropped'), strict=True):
        peer.publish(IMAGE, image)
        peer.wait_until(lambda key=key: node.counts()[key] > before[key], f'{key} to rise')
    node.infer.release()
    node.fuse.release()
    answers = peer.received[SEMANTIC]
    peer.wait_until(lambda: len(answers) >= 3, 'the answers')
    # In the order of the images, the third of which was replaced by the fourth.
    assert [a.header for a in answers] == [images[n].header for n in (0, 1, 3)]
    peer.wait_until(lambda: node.counts()['processed'] == before['processed'] + 3, 'the counts')
    counts = node.counts()
    assert counts['received'] == counts['processed'] + counts['dropped'] + counts['unwatched']


def test_deactivate_finishes_both_images_and_the_node_can_load_another_engine(
    busy: tuple[NodeInThread, list[Image]], peer: Peer, tiny_scene
) -> None:
    node, images = busy
    engine = node.node._session.segmenter.engine
    node.stop_spinning()
    stopping = threading.Thread(
        target=lambda: (node.node.trigger_deactivate(), node.node.trigger_cleanup())
    )
    stopping.start()
    node.infer.release()
    node.fuse.release()
    stopping.join(TIMEOUT_S)
    assert not stopping.is_alive()
    answers = peer.received[SEMANTIC]
    peer.wait_until(lambda: len(answers) >= 2, 'the answers')
    assert [answer.header for answer in answers] == [image.header for image in images[:2]]
    assert not any(t.name.startswith(('inference', 'publishing')) for t in threading.enumerate())
    assert node.node.start()
    assert node.node._session.segmenter.engine is not engine


@pytest.mark.parametrize(
    ('choice', 'is_gpu', 'expected'),
    [
        ('auto', True, True),
        ('auto', False, False),
        ('always', False, True),
        ('never', True, False),
    ],
)
def test_auto_overlaps_on_gpus_only(choice: str, is_gpu: bool, expected: bool) -> None:
    engine = EngineDescription('fake', 'a device', 'float32', '1', '', is_gpu=is_gpu)
    assert overlaps(choice, engine) is expected
