import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')


@pytest.mark.process
def test_two_cameras_take_longer_than_one(tmp_path: Path) -> None:
    path = tmp_path / 'cameras.json'
    command = [
        *(sys.executable, '-m', 'panoptic_ros.benchmark.cameras_speed', '--engine-ms', '50'),
        *('--cameras', '1', '2', '--overlap', 'never', '--size', '64x48', '--rounds', '3'),
        *('--json', str(path)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    one, two = json.loads(path.read_text())['cases']
    assert (one['cameras'], two['cameras']) == (1, 2)
    assert one['round_ms'] >= 50
    assert two['round_ms'] >= 100
