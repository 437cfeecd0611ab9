"""The soak of the real node, and its command line."""

import json
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from panoptic_ros import cli
from panoptic_ros.benchmark.soak.phases import PHASES, Limits
from panoptic_ros.benchmark.soak.run import Options, log_fault, run, text
from panoptic_ros.cli import soak as command


@pytest.mark.process
@pytest.mark.slow
def test_the_node_passes(tmp_path: Path, tiny_model: Path) -> None:
    limits = Limits(warm_ups=1, warm_up_cycles=0, min_cycles=2)
    report = run(Options(tmp_path, 0.1, str(tiny_model), 'onnxruntime', limits=limits))
    printed = text(report)
    # In a run this short allocators have not settled: of memory, 10 minutes decide.
    broken = {check['name'] for check in report['checks'] if not check['passed']}
    assert broken <= {'memory grows by 1 % at most'}, printed
    assert report['passed'] == (not broken)
    assert all(check['looked'] for check in report['checks'])
    assert {row['phase'] for row in report['phases']} == {'start', *PHASES}
    assert report['engine'].startswith('onnxruntime')
    assert len(report['lives'][0]) >= 2
    for phase in PHASES:
        assert f'\n{phase}' in printed
    json.dumps(report)


@pytest.mark.parametrize(
    ('written', 'fault'),
    [
        ('[INFO] fine\n[WARN] hm\n', ''),
        ('[INFO] fine\n[ERROR] broken\n', '[ERROR] broken'),
        ('Traceback (most recent call last):\n', 'Traceback'),
    ],
)
def test_errors_in_logs_are_found(tmp_path: Path, written: str, fault: str) -> None:
    log = tmp_path / 'node.log'
    log.write_text(written)
    found = log_fault(log)
    assert fault in found
    assert bool(found) == bool(fault)


@pytest.mark.parametrize(('passed', 'code'), [(True, 0), (False, 1)])
def test_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    passed: bool,
    code: int,
) -> None:
    given = []
    report = {'model': 'm', 'engine': 'e', 'phases': [], 'lives': [], 'checks': []}

    def run_soak(options: Options) -> dict:
        given.append(options)
        return report | {'passed': passed}

    monkeypatch.setattr(command, 'run_soak', run_soak)
    path = tmp_path / 'soak.json'
    arguments = ['--minutes', '3', '--phases', 'bad,pause', '--out', str(tmp_path)]
    assert cli.main(['soak', *arguments, '--json', str(path)]) == code
    (options,) = given
    assert (options.minutes, options.phases, options.out) == (3, ('bad', 'pause'), tmp_path)
    assert json.loads(path.read_text())['passed'] is passed
    assert ('every check passed' in capsys.readouterr().out) == passed


def test_unknown_phase(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(['soak', '--phases', 'bad,worse'])
    assert "'worse' is not a phase; expected some of steady, burst" in capsys.readouterr().err
