"""Engines and code that fail or hang; each test has a node as a process of its own."""

import signal

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sensor_msgs.msg import Image
from support.node_calls import change_state, diagnostics, program

from panoptic_ros.ros import messages

IMAGE, OUT = '/own/image', '/own/segment/'
SIZE_WH = (128, 64)


HANGING_LOAD = """
    segmenter = node.load_segmenter(structure)
    def hang(*arguments):
        print('hangs', file=sys.stderr, flush=True)
        time.sleep(600)
    segmenter.engine.infer = hang
    return segmenter
node.STOP_TIMEOUT_S = 2.0
from panoptic_ros.ros import diagnostics
diagnostics.STUCK_NS = 1_000_000_000
"""


def hung_node(start_node, peer, tiny_model, scene_bgr):
    # In a namespace of its own: what dies without a word is known to others for some seconds yet.
    node = start_node(
        *('-r', '__ns:=/hung', '-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime'),
        program=program(HANGING_LOAD),
    )
    peer.subscribe(Image, '/hung/segment/semantic')

    def hangs() -> bool:
        peer.publish('/hung/image', messages.image_message(scene_bgr, peer.header()))
        return 'hangs' in node.log

    peer.wait_until(hangs, 'the engine to hang')
    return node


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_engine_that_hangs_is_said_and_left_behind(
    start_node, peer, tiny_model, scene_bgr, number: int
) -> None:
    node = hung_node(start_node, peer, tiny_model, scene_bgr)

    def is_reported() -> bool:
        found = diagnostics(peer)
        return (found['level'], found['message'][:31]) == (
            b'\x02',
            'the engine has not answered for',
        )

    peer.wait_until(is_reported, 'the error in the diagnostics')
    assert node.interrupt(number, number) == 3
    assert 'the engine has not answered for 2 s; the process ends' in node.log
    assert 'Traceback' not in node.log


def test_deactivating_with_an_engine_that_hangs_can_be_interrupted(
    start_node, peer, tiny_model, scene_bgr
) -> None:
    node = hung_node(start_node, peer, tiny_model, scene_bgr)
    client = peer.node.create_client(ChangeState, '/hung/segment/change_state')
    peer.wait_until(client.service_is_ready, 'the service')
    deactivate = Transition(id=Transition.TRANSITION_DEACTIVATE)
    client.call_async(ChangeState.Request(transition=deactivate))
    peer.wait_until(
        lambda: 'not answered' in diagnostics(peer)['message'], 'diagnostics while it waits'
    )
    assert node.interrupt() == 3
    assert 'Traceback' not in node.log


def test_a_programming_error_in_a_transition_leaves_nothing_behind(
    start_node, peer, tiny_model, scene_bgr
) -> None:
    load = """
    loads.append(1)
    if len(loads) == 1:
        raise ZeroDivisionError('on purpose')
    return node.load_segmenter(structure)
loads = []
"""
    node = start_node(
        *('-r', '__ns:=/own', '-p', 'autostart:=false', '-p', f'model:={tiny_model}'),
        program=program(load),
    )
    assert not change_state(peer, Transition.TRANSITION_CONFIGURE, OUT)
    node.wait_for_log('ZeroDivisionError: on purpose')
    peer.wait_until(
        lambda: peer.node.count_publishers(OUT + 'semantic') == 0, 'the publisher to go'
    )
    assert change_state(peer, Transition.TRANSITION_CONFIGURE, OUT)
    assert change_state(peer, Transition.TRANSITION_ACTIVATE, OUT)
    peer.subscribe(Image, OUT + 'semantic')
    peer.exchange(IMAGE, messages.image_message(scene_bgr, peer.header()), OUT + 'semantic')
    assert peer.node.count_publishers(OUT + 'semantic') == 1
    assert node.interrupt() == 0


FAILING_LOAD = """
    segmenter = node.load_segmenter(structure)
    stage, calls = segmenter.{stage}, []
    def sometimes(*arguments):
        calls.append(1)
        if len(calls) <= {failures}:
            raise {error}('on purpose')
        return stage(*arguments)
    segmenter.{stage} = sometimes
    return segmenter
"""


IN_EITHER_STAGE = pytest.mark.parametrize(
    ('stage', 'overlap'), [('infer_all', 'never'), ('infer_all', 'always'), ('fuse', 'always')]
)


@IN_EITHER_STAGE
def test_engine_that_fails_once_does_not_end_the_node(
    start_node, peer, tiny_model, scene_bgr, stage: str, overlap: str
) -> None:
    load = FAILING_LOAD.format(stage=stage, failures=1, error='EngineError')
    node = start_node(
        *('-r', '__ns:=/own', '-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime'),
        *('-p', f'overlap:={overlap}'),
        program=program(load),
    )
    peer.subscribe(Image, OUT + 'semantic')
    peer.exchange(IMAGE, messages.image_message(scene_bgr, peer.header()), OUT + 'semantic')
    found = diagnostics(peer)
    assert found['frames failed'] == '1'
    assert found['last trouble'] == 'on purpose'
    assert 'on purpose; this image is skipped' in node.log


LOST_LOAD = """
    segmenter = node.load_segmenter(structure)
    loads.append(1)
    if len(loads) == 1:
        def lost(*arguments):
            raise EngineError('the GPU is gone')
        segmenter.infer_all = lost
    return segmenter
loads = []
"""


def test_engine_that_is_lost_is_an_error_until_configured_again(
    start_node, peer, tiny_model, scene_bgr
) -> None:
    start_node(
        *('-r', '__ns:=/own', '-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime'),
        program=program(LOST_LOAD),
    )
    peer.subscribe(Image, OUT + 'semantic')

    def is_reported() -> bool:
        peer.publish(IMAGE, messages.image_message(scene_bgr, peer.header()))
        return diagnostics(peer)['message'] == 'the GPU is gone'

    peer.wait_until(is_reported, 'the error in the diagnostics')
    for transition in ('DEACTIVATE', 'CLEANUP', 'CONFIGURE', 'ACTIVATE'):
        assert change_state(peer, getattr(Transition, f'TRANSITION_{transition}'), OUT), transition
    peer.exchange(IMAGE, messages.image_message(scene_bgr, peer.header()), OUT + 'semantic')
    assert diagnostics(peer)['message'] != 'the GPU is gone'


@IN_EITHER_STAGE
def test_programming_error_ends_the_process_with_a_traceback(
    start_node, peer, tiny_model, scene_bgr, stage: str, overlap: str
) -> None:
    load = FAILING_LOAD.format(stage=stage, failures=1, error='ZeroDivisionError')
    node = start_node(
        *('-r', '__ns:=/own', '-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime'),
        *('-p', f'overlap:={overlap}'),
        program=program(load),
    )
    peer.subscribe(Image, OUT + 'semantic')

    def has_ended() -> bool:
        if peer.node.count_subscribers(IMAGE):
            peer.publish(IMAGE, messages.image_message(scene_bgr, peer.header()))
        return node.process.poll() is not None

    peer.wait_until(has_ended, 'the node to end')
    assert node.wait() == 1
    assert 'ZeroDivisionError: on purpose' in node.log


def test_programming_error_in_a_transition_is_logged(start_node) -> None:
    node = start_node(program=program("    raise ZeroDivisionError('on purpose')"))
    assert node.wait() == 2
    assert 'ZeroDivisionError: on purpose' in node.log
