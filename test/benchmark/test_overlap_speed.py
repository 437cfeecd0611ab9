import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from panoptic_ros.benchmark.overlap_speed import Figures, summary


def test_the_bound_is_that_of_the_slower_one_of_engine_and_processor() -> None:
    off = [Figures(8.0, 3.0, 11.0, 12.0, 80.0, 20.0, 24.0)]
    on = [Figures(8.0, 3.1, 11.0, 15.0, 112.5, 16.0, 24.0)]
    found = summary(off, on)
    assert found['busy_ms'] == pytest.approx(4.5)  # 12.5 ms between two images
    assert found['rate_ratio'] == pytest.approx(112.5 / 80)
    assert found['share_of_bound'] == pytest.approx(0.9)  # of 125 Hz
    assert (found['calm_ratio'], found['calm_p95_ratio']) == (1.0, 1.25)
    assert (found['full_ratio'], found['full_p95_ratio']) == (0.8, 1.0)
    # With an engine of 2 ms the processor is the slower one.
    off = [Figures(2.0, 3.0, 5.0, 6.0, 100.0, 20.0, 24.0)]
    assert summary(off, on)['share_of_bound'] == pytest.approx(112.5 * 8.0 / 1e3)


@pytest.mark.process
def test_one_case_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / 'overlap.json'
    command = [
        *(sys.executable, '-m', 'panoptic_ros.benchmark.overlap_speed', '--engine-ms', '20'),
        *('--subscribe', 'maps', '--size', '64x48', '--seconds', '1', '--runs', '1'),
        *('--json', str(path)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(path.read_text())['cases']
    assert case['engine_ms'] >= 20
    assert min(case['off'][0].values()) > 0
    assert min(case['on'][0].values()) > 0
