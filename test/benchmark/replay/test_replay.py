"""``replay_benchmark``: what it refuses, what it publishes where, and whole runs."""

import ast
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')
pytest.importorskip('rosbags', reason='rosbags reads the recordings')

from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from panoptic_ros import cli
from panoptic_ros.benchmark.bags import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    BagReader,
    BagWriter,
    Message,
    Topic,
)
from panoptic_ros.benchmark.cdr import header_stamp_ns
from panoptic_ros.benchmark.client import Status
from panoptic_ros.benchmark.processes import NodeLostError
from panoptic_ros.benchmark.recording import sources as recording
from panoptic_ros.benchmark.replay import recording as replayed
from panoptic_ros.benchmark.replay.node import NodeUnderTest, find_node, find_outputs, find_targets
from panoptic_ros.benchmark.replay.recording import Recording
from panoptic_ros.benchmark.replay.run import run
from panoptic_ros.cli.replay_benchmark import own_arguments, parse
from panoptic_ros.datasets import Sample
from panoptic_ros.errors import BagError, PanopticRosError
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.resources import resource
from panoptic_ros.ros.messages import image_message
from panoptic_ros.ros.parameters import PARAMETERS

ROOT = Path(__file__).parents[3]
REPLAY = (sys.executable, '-m', 'panoptic_ros.cli.replay_benchmark')
LABELS = LabelSet.load('cityscapes')
STREET = ('street', '--size', '128x64', '--rate', '20')


@pytest.fixture(scope='module')
def street(tmp_path_factory):
    """Return a recording of 20 frames, with truth and depth, 1 s."""
    path = tmp_path_factory.mktemp('bags') / 'street'
    assert cli.main(['make-bag', *STREET, '--frames', '20', '--out', str(path)]) == 0
    return path


def arguments(bag, *more):
    return parse([str(bag), *map(str, more)])


def refused(bag, *more):
    """Return the sentence with which a run is refused before ROS is started."""
    with pytest.raises(BagError) as caught:
        run(arguments(bag, *more), Future())
    return str(caught.value)


# What is refused.


def test_recordings_that_are_none(tmp_path, street):
    assert 'does not exist' in refused(tmp_path / 'nothing')
    assert 'has no metadata.yaml' in refused(tmp_path)
    truncated = tmp_path / 'cut.mcap'
    truncated.write_bytes((street / 'street.mcap').read_bytes()[:100_000])
    assert 'damaged or was not ended' in refused(truncated)


def test_topics_that_are_not_there(street):
    assert 'has no topic /eye; it has ' in refused(street, '--topic', '/eye')
    assert '/camera_info of recording' in refused(street, '--topic', '/camera_info')
    assert '--remap: the recording has no topic /eye' in refused(street, '--remap', '/eye:=/x')


def test_offset_beyond_the_end(street):
    assert '--start-offset is 5 s; recording' in refused(street, '--start-offset', '5')


@pytest.mark.parametrize(
    ('given', 'match'),
    [
        (['--rate', 'fast'], "'fast' is not a number above 0"),
        (['--rate', '0'], "'0' is not a number above 0"),
        (['--topic', 'image'], "'image' is not a topic such as"),
        (['--remap', '/a:=b'], "'/a:=b' is not a topic such as"),
        (['--param', 'model'], "'model' is not a parameter such as"),
        (['--param', 'model:=[&a 1, *a]'], 'has a value that is not YAML'),
        (['--start-offset', '-1'], "'-1' is not a number"),
    ],
)
def test_arguments_that_make_no_sense(capsys, given, match):
    with pytest.raises(SystemExit) as caught:
        arguments('bag', *given)
    assert caught.value.code == 2
    assert match in capsys.readouterr().err


def test_arguments():
    given = arguments(
        *('bag', '--rate', 'recorded', '--topic', '/eye/image:=/image'),
        *('--param', 'overlay_opacity:=0.25', '--param', 'depth:=true', '--start-offset', '0'),
    )
    assert given.rate == 'recorded'
    assert given.topic == ('/eye/image', '/image')
    assert dict(given.param) == {'overlay_opacity': 0.25, 'depth': True}
    assert given.start_offset == 0
    assert arguments('bag', '--rate', '12.5').rate == 12.5
    assert arguments('bag').rate is None


def test_arguments_for_ros_are_left_out_and_no_others():
    assert own_arguments(
        ['bag', '--param', 'depth:=true', '--ros-args', '-r', '__node:=a', '--', '--loop']
    ) == ['bag', '--param', 'depth:=true', '--loop']
    assert own_arguments(['bag', '--ros-args', '-p', 'a:=1']) == ['bag']


# What is read.


@pytest.mark.parametrize('held_bytes', [1 << 30, 0])
def test_part_of_a_recording(street, monkeypatch, held_bytes):
    monkeypatch.setattr(replayed, 'HELD_BYTES', held_bytes)
    with BagReader(street) as bag:
        given = arguments(street, '--start-offset', '0.25', '--duration', '0.5')
        part = Recording.open(bag, given)
        read = part.reader(['/camera_info', '/depth'])
        for _ in range(2):  # again and again
            frames = list(read())
            assert len(frames) == 10
            since_ns = [f.stamp_ns - bag.start_ns for f in frames]
            assert since_ns[0] == 250_000_000
            assert since_ns[-1] == 700_000_000
            for frame in frames:
                assert {m.topic for m in frame.companions} == {'/camera_info', '/depth'}
                assert {header_stamp_ns(m.data) for m in frame.companions} == {frame.stamp_ns}
        assert part.has_truth
        assert part.mounting() == {'camera_height_m': 1.3, 'camera_pitch_rad': 0.035}


def test_depth_of_any_encoding_is_no_camera(tmp_path):
    path = tmp_path / 'bag'
    with BagWriter(path, 'mcap') as writer:
        for topic, dtype in (('/depth', np.uint16), ('/image', np.uint8)):
            message = image_message(np.zeros((2, 4), dtype), Header())
            assert message.encoding == {'/depth': '16UC1', '/image': 'mono8'}[topic]
            writer.add(topic, IMAGE, reliable=False, depth=5)
            writer.write(Message(topic, 1, serialize_message(message)))
    with BagReader(path) as bag:
        assert Recording.open(bag, arguments(path)).image.name == '/image'
        assert Recording.open(bag, arguments(path, '--topic', '/depth')).image.name == '/depth'


# Where it goes.


def node_with(*inputs, image_input='/image', outputs=(), parameters=None):
    topics = tuple(Topic(name, kind, 0) for name, kind in inputs)
    published = tuple(Topic(name, kind, 0) for name, kind in outputs)
    return NodeUnderTest('/segment', image_input, topics, published, None, parameters or {})


def targets(bag_topics, node, *more):
    topics = tuple(Topic(name, kind, 1) for name, kind in bag_topics)
    part = SimpleNamespace(
        bag=SimpleNamespace(topics=topics),
        image=topics[0],
        type_of=lambda name: next(t.type for t in topics if t.name == name),
    )
    return find_targets(part, node, arguments('bag', *more))


CAMERA = (('/eye/image_raw', IMAGE), ('/eye/camera_info', CAMERA_INFO))
NODE = (('/image', IMAGE), ('/camera_info', CAMERA_INFO))


def test_images_and_calibration_go_to_the_node_s_inputs():
    assert targets(CAMERA, node_with(*NODE)) == {
        '/eye/image_raw': ('/image', IMAGE),
        '/eye/camera_info': ('/camera_info', CAMERA_INFO),
    }


def test_depth_goes_where_the_node_takes_it():
    depth = (('/depth', IMAGE), ('/depth/camera_info', CAMERA_INFO))
    street = (('/image', IMAGE), ('/camera_info', CAMERA_INFO), *depth)
    truth = ('/ground_truth/semantic', IMAGE)
    found = targets((*street, truth), node_with(*NODE, *depth))
    assert found == {name: (name, kind) for name, kind in street}
    assert targets((*street, truth), node_with(*NODE)).keys() == {'/image', '/camera_info'}


def test_remapped_topics():
    twice = (*CAMERA, ('/chatter', 'std_msgs/msg/String'))
    found = targets(
        twice,
        node_with(*NODE),
        *('--topic', '/eye/image_raw:=/left', '--remap', '/chatter:=/said'),
        *('--remap', '/eye/camera_info:=/left_info'),
    )
    assert found == {
        '/eye/image_raw': ('/left', IMAGE),
        '/eye/camera_info': ('/left_info', CAMERA_INFO),
        '/chatter': ('/said', 'std_msgs/msg/String'),
    }


def test_raw_images_for_a_node_that_takes_compressed_ones_and_the_reverse():
    raw, compressed = node_with(*NODE), node_with(('/image', COMPRESSED_IMAGE))
    with pytest.raises(
        BagError, match=r'takes .*CompressedImage on /image; .*image_transport:=raw'
    ):
        targets(CAMERA, compressed)
    with pytest.raises(BagError, match='image_transport:=compressed'):
        targets([('/eye/compressed', COMPRESSED_IMAGE)], raw)


def test_outputs():
    published = (
        ('/segment/semantic', IMAGE),
        ('/segment/markers', 'visualization_msgs/msg/MarkerArray'),
        ('/segment/said', 'std_msgs/msg/String'),
        ('/diagnostics', 'diagnostic_msgs/msg/DiagnosticArray'),
    )
    node = node_with(*NODE, outputs=published)
    assert find_outputs(node, ['semantic', 'markers']) == {
        'semantic': Image,
        'markers': MarkerArray,
    }
    with pytest.raises(BagError, match="no output 'sematic'; it has markers, said, semantic"):
        find_outputs(node, ['sematic'])
    with pytest.raises(BagError, match='no header'):
        find_outputs(node, ['said'])


def test_two_nodes_with_one_name():
    client = SimpleNamespace(
        target='/segment',
        node=SimpleNamespace(get_node_names_and_namespaces=lambda: [('segment', '/')] * 2),
        status=Status(values={'state': 'active', 'image topic': '/image'}),
        stopped=threading.Event(),
        wait_until=lambda condition, timeout_s: condition(),
    )
    with pytest.raises(NodeLostError, match=r'/segment did not .* 2 nodes in .* have this name'):
        find_node(client, None, 0.1)


# The files a user starts from.


def test_launch_file_hands_on_what_the_node_s_launch_file_takes():
    def names(path, variable):
        for statement in ast.parse(path.read_text()).body:
            if isinstance(statement, ast.Assign) and statement.targets[0].id == variable:
                elements = statement.value.elts
                return [getattr(e, 'elts', [e])[0].value for e in elements]
        return []

    launch = resource('launch', 'replay_benchmark.launch.py')
    handed_on = names(launch, 'OF_SEGMENT')
    assert set(handed_on) <= set(names(launch, 'ARGUMENTS'))
    taken = names(resource('launch', 'segment.launch.py'), 'ARGUMENTS')
    assert set(handed_on) <= {*taken, *PARAMETERS}
    assert {'bag', 'out', 'rate'} <= set(names(launch, 'ARGUMENTS'))


def test_folder_that_cannot_be_made(tmp_path, street):
    (tmp_path / 'file').write_text('')
    with pytest.raises(PanopticRosError, match=r'cannot make the folder .*; choose another'):
        run(arguments(street, '--out', tmp_path / 'file' / 'out'), Future())


@pytest.mark.process
def test_without_rosbags():
    code = (
        'import sys; sys.modules["rosbags"] = None\n'
        'from panoptic_ros.cli.replay_benchmark import main; sys.exit(main(["bag"]))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert 'rosbags is not installed' in line
    assert 'pip install rosbags' in line


# Whole runs.


def run_replay(*more, **options):
    return subprocess.run(
        [*REPLAY, *map(str, more)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


@pytest.mark.process
def test_a_missing_node_is_reported_with_what_to_check(tmp_path, street):
    run = run_replay(street, '--node', '/nobody', '--timeout', '1', '--out', tmp_path)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert 'the node /nobody did not become active within 1 s' in line
    assert f'ROS_DOMAIN_ID {os.environ["ROS_DOMAIN_ID"]}' in line


@pytest.mark.process
@pytest.mark.slow
def test_benchmark_of_a_node_that_it_starts(tmp_path, street, tiny_model):
    run = run_replay(
        *(street, '--model', tiny_model, '--engine', 'onnxruntime', '--out', tmp_path),
        *('--seconds', '1', '--rates', '5', '10'),
    )
    assert run.returncode == 0, run.stderr
    content = json.loads((tmp_path / 'replay.json').read_text())
    assert content['bag']['sha256'].keys() == {'metadata.yaml', 'street.mcap'}
    assert content['bag']['size_wh'] == [128, 64]
    assert len(content['model']['sha256']['model.onnx']) == 64
    assert content['node']['engine'].startswith('onnxruntime')
    assert content['node']['device']
    assert content['node']['parameters']['camera_height_m'] == 1.3  # as recorded
    assert content['versions']['python']
    assert not content['interrupted']
    assert content['peak_search']
    names = [trial['name'] for trial in content['trials']]
    assert names[0] == 'as fast as it keeps up'
    assert names[-2:] == ['5 Hz', '10 Hz']
    five = content['trials'][-2]
    assert five['frames_published'] == 20  # slow rates are tried for longer
    assert five['frames_answered'] == 20 - five['frames_dropped']
    assert five['latency_ms']['semantic']['p50'] > 0
    assert five['latency_ms'].keys() == {'semantic', 'instance', 'markers', 'overlay'}
    assert {'decode', 'inference', 'fusion', 'publish'} <= five['stages_ms'].keys()
    assert five['resident_mb'].keys() == {'start', 'end'}
    assert 0 <= content['quality']['PQ'] <= 100
    assert content['quality']['images'] + content['quality']['unanswered'] == 20
    assert 0 <= content['quality']['video']['VPQ'] <= 100
    for name in ('latency.png', 'histogram.png', 'stages.png'):
        assert cv2.imread(str(tmp_path / name)) is not None, name
    assert 'peak' in run.stdout
    assert 'VPQ' in run.stdout
    assert 'Traceback' not in (tmp_path / 'node.log').read_text()


@pytest.mark.process
@pytest.mark.slow
def test_node_that_cannot_start_says_why(tmp_path, street, own_tiny_model):
    (own_tiny_model / 'model.onnx').write_bytes(b'')
    run = run_replay(street, '--model', own_tiny_model, '--out', tmp_path)
    assert run.returncode == 1
    assert 'node ended with exit code 2' in run.stderr
    assert 'SHA-256' in run.stderr  # from the node's log
    assert 'Traceback' not in run.stderr


@pytest.fixture
def picture_bag(tmp_path, tiny_scene):
    """Return a function that records the tiny scene, 12 frames at 10 Hz."""

    def make(*more):
        cv2.imwrite(
            str(tmp_path / 'a.png'), np.ascontiguousarray(tiny_scene((128, 64))[..., ::-1])
        )
        folder = tmp_path / 'pictures'
        folder.mkdir()
        for number in range(12):
            (folder / f'{number:02}.png').symlink_to(tmp_path / 'a.png')
        path = tmp_path / 'bag'
        assert cli.main(['make-bag', str(folder), '--rate', '10', '--out', str(path), *more]) == 0
        return path

    return make


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['raw', 'compressed'])
def test_recorded_rate_to_a_node_that_runs_already(
    tmp_path, picture_bag, start_node, tiny_model, kind
):
    path = picture_bag('--storage', 'sqlite3', *(['--compressed'] if kind == 'compressed' else []))
    start_node(
        *('-r', '__ns:=/robot', '-r', 'image:=/eye/picture', '-r', 'camera_info:=/eye/info'),
        *('-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime'),
        *('-p', f'image_transport:={kind}'),
    ).wait_for_log('waiting for images')
    topic = {'raw': '/image', 'compressed': '/image/compressed:=/eye/picture/compressed'}
    run = run_replay(
        *(path, '--node', '/robot/segment', '--rate', 'recorded', '--out', tmp_path / 'out'),
        *('--outputs', 'instance', 'markers', 'camera_info'),
        *('--topic', topic[kind]),
        *('--ros-args', '-r', '__node:=replay_benchmark'),
    )
    assert run.returncode == 0, run.stderr
    content = json.loads((tmp_path / 'out' / 'replay.json').read_text())
    (trial,) = content['trials']
    assert trial['frames_published'] == 12
    assert trial['publish_rate_hz'] > 0
    assert trial['frames_answered'] > 0
    # The tiny scene has cars and the calibration came, or there were neither.
    assert trial['latency_ms']['markers']['count'] > 0
    assert trial['latency_ms']['camera_info']['count'] > 0
    image = '/eye/picture' + ('/compressed' if kind == 'compressed' else '')
    assert sorted(content['published'].values()) == sorted([image, '/eye/info'])
    assert content['quality'] is None
    assert 'ground_truth' in content['quality_reason']
    assert content['node']['started_here'] is False


def painted(tiny_scene):
    """Return the tiny scene as a labelled image: what the tiny model makes of it is the truth."""
    semantic = np.zeros((32, 64), np.uint8)
    semantic[:12] = LABELS.class_id('sky')
    semantic[12:] = LABELS.class_id('road')
    instance = np.zeros((32, 64), np.uint16)
    for number, columns in enumerate((slice(8, 24), slice(40, 56)), start=1):
        semantic[8:24, columns] = LABELS.class_id('car')
        instance[8:24, columns] = number
    truth = Panoptic.from_maps(semantic, instance, LABELS)
    return Sample('painted', tiny_scene((64, 32)), truth, np.zeros(0, np.uint16))


@pytest.mark.slow
@pytest.mark.parametrize('label_set', ['cityscapes', 'coco'])
def test_quality_against_the_truth_of_a_data_set(
    tmp_path, start_node, tiny_model, tiny_scene, monkeypatch, label_set
):
    samples = [painted(tiny_scene)] * 5
    known = LabelSet.load(label_set)
    monkeypatch.setattr(recording, 'open_dataset', lambda *_: (samples, known))
    path = tmp_path / 'bag'
    assert cli.main(['make-bag', 'ROOT', '--dataset', 'coco', '--out', str(path)]) == 0
    start_node('-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime').wait_for_log(
        'waiting for images'
    )
    run = run_replay(
        *(path, '--node', '/segment', '--rate', 'max', '--stamps', 'now'),
        *('--out', tmp_path / 'out', '--outputs', 'semantic', 'instance'),
    )
    assert run.returncode == 0, run.stderr
    content = json.loads((tmp_path / 'out' / 'replay.json').read_text())
    assert content['trials'][0]['stages_ms']['age']['count'] > 0  # the stamps are of this clock
    if label_set == 'coco':
        assert content['quality'] is None
        assert content['quality_reason'] == (
            "the recording's truth has label set 'coco', the model 'cityscapes'"
        )
        assert content['quality_reason'] in run.stdout
    else:
        assert content['quality']['images'] > 0
        assert content['quality']['PQ'] == 100
        assert 'video' not in content['quality']  # its images do not follow each other


@pytest.mark.slow
def test_loop_until_ctrl_c_gives_the_results_so_far(
    tmp_path, picture_bag, start_node, tiny_model, peer
):
    path = picture_bag()
    start_node('-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime').wait_for_log(
        'waiting for images'
    )
    seen = peer.subscribe(Image, '/image')
    process = subprocess.Popen(
        [
            *(*REPLAY, str(path), '--node', 'segment', '--rate', '40', '--loop'),
            *('--out', str(tmp_path / 'out')),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        peer.wait_until(lambda: len(seen) > 60, 'a few laps')
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert 'interrupted: these are the results until then' in output
    content = json.loads((tmp_path / 'out' / 'replay.json').read_text())
    assert content['interrupted']
    assert content['trials'][0]['frames_published'] > 24  # more than two laps
    stamps = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in seen]
    assert len(set(stamps)) == len(stamps)
    assert stamps == sorted(stamps)


@pytest.mark.slow
def test_node_that_ends_meanwhile_leaves_the_results_so_far(
    tmp_path, picture_bag, start_node, tiny_model, peer
):
    path = picture_bag()
    node = start_node('-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime')
    node.wait_for_log('waiting for images')
    seen = peer.subscribe(Image, '/segment/semantic')
    process = subprocess.Popen(
        [
            *(*REPLAY, str(path), '--node', 'segment', '--rate', '10', '--loop'),
            *('--out', str(tmp_path / 'out')),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        peer.wait_until(lambda: len(seen) > 40, 'a lap')
        node.interrupt()
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 1, output
    assert '/segment stopped answering' in output
    content = json.loads((tmp_path / 'out' / 'replay.json').read_text())
    assert content['trials'][0]['frames_answered'] > 0
    assert content['trials'][0]['frames_dropped'] > 0
    assert '/segment stopped answering' in content['notes'][0]


@pytest.mark.slow
def test_node_that_is_not_active(tmp_path, picture_bag, start_node, tiny_model):
    path = picture_bag()
    start_node('-p', f'model:={tiny_model}', '-p', 'autostart:=false')
    time.sleep(0.1)
    run = run_replay(path, '--node', '/segment', '--timeout', '12', '--out', tmp_path / 'out')
    assert run.returncode == 1
    assert 'unconfigured' in run.stderr
    assert 'ros2 lifecycle set /segment activate' in run.stderr


@pytest.mark.slow
def test_images_that_the_node_cannot_use(tmp_path, start_node, tiny_model, picture_bag):
    with BagReader(picture_bag()) as bag:
        good = bag.first('/image')
    path = tmp_path / 'bad'
    with BagWriter(path, 'mcap') as writer:
        writer.add('/image', IMAGE, reliable=True, depth=5)
        writer.write(Message('/image', 1, good.data[:-40] + bytes(4)))
    start_node('-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime').wait_for_log(
        'waiting for images'
    )
    run = run_replay(path, '--node', '/segment', '--timeout', '8', '--out', tmp_path / 'out')
    assert run.returncode == 1
    assert '/segment did not answer images on /image' in run.stderr
    assert 'Traceback' not in run.stderr
