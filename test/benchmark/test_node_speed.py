import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from panoptic_ros.benchmark.node_speed import BESIDE_NETWORK, percentiles
from panoptic_ros.benchmark.recorded_node import record
from panoptic_ros.engines import open_engine
from panoptic_ros.model import Model
from panoptic_ros.segmenter import Segmenter


def test_a_recorded_segmenter_answers_as_the_real_one_in_turn(tiny_model: Path) -> None:
    model = Model.load(tiny_model)
    width, height = model.card.size_wh
    images = np.random.default_rng(7).integers(0, 256, (2, height, width, 3), np.uint8)
    real = Segmenter(model, open_engine(model, 'onnxruntime'))
    expected = [real.engine.infer(image) for image in images]
    recorded = record(real, list(images)).engine
    for number in (0, 1, 0):
        answer = recorded.infer(images[0])
        assert answer.keys() == expected[number].keys()
        for name, output in answer.items():
            assert np.array_equal(output, expected[number][name])
            output.fill(0)  # the caller may change it


def test_percentiles_are_by_name_of_the_rows_that_have_it() -> None:
    rows = [{'a': 1.0, 'b': 5.0}, {'a': 2.0}, {'a': 9.0}]
    assert percentiles(rows) == {
        'a': {'p50': 2.0, 'p95': pytest.approx(8.3), 'p99': pytest.approx(8.86)},
        'b': {'p50': 5.0, 'p95': 5.0, 'p99': 5.0},
    }


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, '-m', 'panoptic_ros.benchmark.node_speed', *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.process
def test_bench_measures_every_stage_and_topic(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / 'bench.json'
    done = bench(
        *('--model', str(tiny_model), '--engine', 'onnxruntime', '--sizes', '64x48'),
        *('--frames', '3', '--json', str(path)),
    )
    assert done.returncode == 0, done.stderr
    cases = json.loads(path.read_text())['cases']
    assert [(case['network'], case['subscribed']) for case in cases] == [
        ('recorded', 'maps'),
        ('recorded', 'all'),
        ('real', 'maps'),
        ('real', 'all'),
    ]
    for case in cases:
        measured = case['milliseconds']
        topics = ['semantic', 'instance']
        topics += ['markers', 'overlay'] if case['subscribed'] == 'all' else []
        assert [name for name in measured if name.startswith('end')] == [
            f'end to end: {topic}' for topic in topics
        ]
        for name in ('decode', 'inference', 'publish', 'total', BESIDE_NETWORK):
            assert 0 < measured[name]['p50'] <= measured[name]['p99']
        assert measured[BESIDE_NETWORK]['p50'] < measured['total']['p99']
    assert done.stdout.count('64x48, subscribed: semantic, instance') == 4


@pytest.mark.process
def test_bench_says_when_the_node_does_not_start(tmp_path: Path) -> None:
    done = bench('--model', str(tmp_path / 'nothing'), '--sizes', '64x48', '--frames', '1')
    assert done.returncode == 1
    assert 'node ended with exit code 2' in done.stderr
    assert str(tmp_path / 'nothing') in done.stderr
