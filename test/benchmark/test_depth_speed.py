import json
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')
pytest.importorskip('nav_msgs', reason='nav_msgs is not installed')

from panoptic_ros.benchmark import depth_speed as bench_depth


def test_the_table_has_every_stage_and_the_sum(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / 'depth.json'
    arguments = ['--size', '64x48', '--frames', '2', '--json', str(path)]
    assert bench_depth.main(arguments) == 0
    printed = capsys.readouterr().out
    figures = json.loads(path.read_text())['p50_p95_ms']
    stages = [
        bench_depth.TRACKING,
        bench_depth.DECODING,
        bench_depth.MEASURING,
        bench_depth.FREE_SPACE,
    ]
    assert list(figures) == [*stages, bench_depth.ADDED, bench_depth.POINTS, bench_depth.FLAT]
    assert all(0 < p50 <= p95 for p50, p95 in figures.values())
    assert all(name in printed for name in figures)
    assert figures[bench_depth.ADDED][0] >= max(figures[name][0] for name in stages)


def test_no_frames_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench_depth.main(['--frames', '0'])
    assert '--frames is 0; expected 1 or more' in capsys.readouterr().err
