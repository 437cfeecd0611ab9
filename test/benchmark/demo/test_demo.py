import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from panoptic_ros.benchmark.bags import BagReader
from panoptic_ros.benchmark.cdr import FrameKey
from panoptic_ros.benchmark.client import Status
from panoptic_ros.benchmark.demo.__main__ import make_parser
from panoptic_ros.benchmark.demo.observer import Observer
from panoptic_ros.benchmark.demo.plan import make_plan
from panoptic_ros.benchmark.demo.report import Report
from panoptic_ros.benchmark.frames import Frames
from panoptic_ros.benchmark.processes import process_environment
from panoptic_ros.errors import SourceError
from panoptic_ros.labels import LabelSet

ROOT = Path(__file__).parents[3]
DEMO = (sys.executable, '-m', 'panoptic_ros.benchmark.demo')


def plan(*arguments):
    return make_plan(make_parser().parse_args(arguments))


def test_plan_of_the_street_tells_the_node_how_the_camera_is_mounted():
    street = plan('street', '--seconds', '2', '--rate', '10')
    assert street.frames == 20
    assert street.camera['rate_hz'] == 10.0
    assert street.camera['prefetch'] == 20  # all of them: rendering disturbs no measurement
    assert street.node['camera_height_m'] > 0
    assert 'loop' not in street.camera


def test_plan_limits_the_prefetched_memory():
    street = plan('street', '--seconds', '1000', '--size', '1920x1080')
    assert street.camera['prefetch'] * 1920 * 1080 * 10 <= 512 << 20


def test_plan_of_a_video_ends_with_it(tmp_path):
    path = tmp_path / 'drive.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 12.0, (32, 16))
    for _ in range(6):
        writer.write(cv2.UMat(16, 32, cv2.CV_8UC3).get())
    writer.release()
    video = plan(str(path))
    assert (video.frames, video.rate_hz) == (6, 12.0)
    assert video.camera['rate_hz'] == 0  # with its own stamps
    assert plan(str(path), '--rate', '5').camera['rate_hz'] == 5
    assert plan(str(path), '--frames', '9').frames == 9


def test_plan_shows_a_picture_for_as_long_as_asked(tmp_path):
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), cv2.UMat(16, 32, cv2.CV_8UC3).get())
    picture = plan(str(path), '--seconds', '3', '--rate', '5')
    assert picture.frames == 15
    assert picture.camera['loop']


def test_plan_without_a_source():
    with pytest.raises(SourceError, match='does not exist'):
        plan('/nowhere')


def test_environment_is_heard_on_this_machine_only():
    environment = process_environment()
    assert environment['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
    assert 1 <= int(environment['ROS_DOMAIN_ID']) <= 101
    assert Path(environment['FASTDDS_DEFAULT_PROFILES_FILE']).is_file()


def run_demo(*arguments, **options):
    return subprocess.run(
        [*DEMO, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        **options,
    )


@pytest.mark.process
@pytest.mark.slow
def test_demo_checks_every_topic(tmp_path, tiny_model, tiny_scene):
    picture = tmp_path / 'scene.png'
    cv2.imwrite(str(picture), tiny_scene((640, 320))[..., ::-1])
    out = tmp_path / 'out'
    arguments = ('--model', tiny_model, '--frames', 40, '--rate', 10, '--out', out)
    demo = run_demo(picture, *arguments, '--record')
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert 'every check passed' in demo.stdout
    report = json.loads((out / 'report.json').read_text())
    assert report['passed']
    assert report['frames']['sent'] == 40
    assert report['size_wh'] == [640, 320]
    assert report['milliseconds']['end to end']['p50'] > 0
    assert report['milliseconds']['tracking']['p50'] > 0
    assert report['quality'] is None  # a picture has no truth
    looked = {check['name']: check['looked'] for check in report['checks']}
    for topic in ('semantic', 'instance', 'confidence', 'overlay', 'camera_info', 'markers'):
        assert looked[f'{topic}: header is that of a frame sent'] > 0, topic
    assert report['pictures']
    picture = cv2.imread(str(out / report['pictures'][0]))
    assert picture.shape[1] == 2 * 640
    for log in ('camera.log', 'node.log'):
        assert (out / log).stat().st_size > 0
    with BagReader(out / 'recording') as bag:
        counts = {topic.name: topic.count for topic in bag.topics}
    for topic in ('semantic', 'markers', 'overlay'):
        assert counts[f'/segment/{topic}'] == report['received'][topic]
    assert {'/image', '/camera_info', '/diagnostics', '/segment/timing'} <= counts.keys()


@pytest.mark.process
@pytest.mark.slow
def test_demo_measures_quality_where_the_truth_is_known(tmp_path, tiny_model):
    arguments = ('--model', tiny_model, '--frames', 20, '--size', '128x64', '--out', tmp_path)
    demo = run_demo('street', *arguments)
    assert demo.returncode == 0, demo.stdout + demo.stderr
    report = json.loads((tmp_path / 'report.json').read_text())
    assert report['quality']['images'] > 0
    assert 0 <= report['quality']['PQ'] <= 100


@pytest.mark.process
@pytest.mark.slow
def test_demo_fails_below_the_least_quality(tmp_path, tiny_model):
    arguments = ('--model', tiny_model, '--frames', 20, '--size', '128x64', '--out', tmp_path)
    demo = run_demo('street', *arguments, '--min-pq', '90')
    assert demo.returncode == 1
    report = json.loads((tmp_path / 'report.json').read_text())
    failed = [check['name'] for check in report['checks'] if not check['passed']]
    assert failed == ['quality: PQ is at least 90']


def demo_report(tmp_path, *arguments, **counts):
    """Return the report of a run without outputs, with these counters of the node."""
    args = make_parser().parse_args([*arguments, '--frames', '20', '--out', str(tmp_path)])
    frames = Frames()
    for second in range(20):
        frames.publish(FrameKey(second, 0, 'eye'))
    values = {f'frames {name}': str(count) for name, count in counts.items()}
    observer = Observer(LabelSet.load('cityscapes'))
    codes = {'camera': 0, 'node': 0}
    Report(args, make_plan(args), observer, frames, Status(values=values), (), codes, ())
    return {check.name: check for check in observer.checks}


@pytest.mark.parametrize(('received', 'passes'), [(20, True), (16, True), (15, False), (0, False)])
def test_report_wants_most_images_received(tmp_path, received, passes):
    checks = demo_report(tmp_path, 'street', received=received)
    assert checks['node: receives what is sent'].passed is passes
    assert checks['camera: all frames are sent'].passed


def test_report_wants_a_quality_of_embedded_models_on_the_street(tmp_path):
    checks = demo_report(tmp_path, 'street', received=20)
    (name,) = [name for name in checks if 'PQ' in name]
    assert float(name.split()[-1]) >= 20
    assert not checks[name].passed  # no image was evaluated
    checks = demo_report(tmp_path, 'street', '--model', 'my/own', received=20)
    assert not any('PQ' in name for name in checks)


@pytest.mark.process
@pytest.mark.slow
def test_demo_shows_why_the_node_ended(tmp_path, own_tiny_model):
    # The card is in order, which is all that the demo itself reads; the network is not.
    model = tmp_path / 'model'
    own_tiny_model.rename(model)
    onnx = model / 'model.onnx'
    onnx.write_bytes(onnx.read_bytes()[:-9])
    demo = run_demo('street', '--model', model, '--out', tmp_path / 'out')
    assert demo.returncode == 1
    assert 'node ended with exit code 2' in demo.stderr
    assert str(onnx) in demo.stderr  # from the node's log
    assert 'Traceback' not in demo.stderr


@pytest.mark.process
def test_demo_without_a_model_is_one_sentence(tmp_path):
    demo = run_demo('--model', tmp_path / 'none', '--out', tmp_path)
    assert demo.returncode == 2
    assert len(demo.stderr.splitlines()) == 1


def command_lines():
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            yield path.read_bytes()
        except OSError:
            continue  # ended meanwhile


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self').exists(), reason='needs /proc to find processes')
def test_demo_takes_its_processes_with_it(tmp_path, own_tiny_model):
    model = tmp_path / 'model-of-this-test-alone'
    own_tiny_model.rename(model)
    demo = subprocess.Popen(
        [*DEMO, 'street', '--model', model, '--seconds', '60', '--out', tmp_path / 'out'],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def running():
        return sum(os.fsencode(model) in line for line in command_lines())

    try:
        end = time.monotonic() + 60
        while running() < 2 and demo.poll() is None:
            assert time.monotonic() < end, 'the node did not start'
            time.sleep(0.1)
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(60) == 128 + signal.SIGTERM
        assert running() == 0
    finally:
        demo.kill()
