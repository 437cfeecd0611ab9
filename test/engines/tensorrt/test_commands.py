"""The commands build-engine, verify-engine, inspect-engine and benchmark-engine."""

import json

import pytest

from panoptic_ros import cli
from panoptic_ros.cli.engine import benchmark as benchmark_engine

COMMANDS = ('build-engine', 'verify-engine', 'inspect-engine', 'benchmark-engine')


@pytest.mark.parametrize('command', COMMANDS)
def test_without_tensorrt_it_says_what_is_missing(command, tiny_model, capsys):
    assert cli.main([command, str(tiny_model)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith('panoptic: tensorrt cannot be imported')
    assert said.err.count('\n') == 1
    assert said.out == ''


def test_build_then_verify_inspect_and_measure(
    install, version, tiny_model, tmp_path, capsys, live
):
    install(version)
    model = str(tiny_model)
    assert (
        cli.main(['build-engine', model, '--builder-option', 'builder_optimization_level=1']) == 0
    )
    said = capsys.readouterr().out
    assert f'tensorrt {version}, float16, on Stub GPU' in said
    assert 'built in 0 s with builder_optimization_level=1' in said
    assert 'semantic agreement 100.00%, instance IoU 1.000' in said

    assert cli.main(['verify-engine', model]) == 0
    assert 'semantic agreement 100.00%' in capsys.readouterr().out

    assert cli.main(['inspect-engine', model, '--runs', '3']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ['first', 'Convolution', '0.2500', 'Half', '[1,', '8]']
    assert lines[2].split() == ['second', '0.5000']
    assert lines[3].startswith('2 layers, 0.750 ms')
    assert cli.main(['inspect-engine', model, '--runs', '0', '--json']) == 0
    assert json.loads(capsys.readouterr().out)[0]['name'] == 'first'

    out = tmp_path / 'deep' / 'result.json'
    assert cli.main(['benchmark-engine', model, '--runs', '7', '--out', str(out)]) == 0
    result = json.loads(out.read_text())
    assert result['runs'] == 7
    assert 0 < result['engine_ms']['p50'] <= result['engine_ms']['p99']
    assert result['gpu']['name'] == 'Stub GPU'
    assert result['device_memory_growth_bytes'] == 0
    assert result['cuda_graph'] is True
    assert result['versions']['tensorrt'] == version
    assert result['options'] == 'builder_optimization_level=1'
    assert live() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize('command', COMMANDS[1:])
def test_without_an_engine_it_says_how_to_build_one(install, command, tiny_model, capsys):
    install()
    assert cli.main([command, str(tiny_model)]) == 2
    assert 'run: panoptic build-engine tiny' in capsys.readouterr().err


def test_wrong_results_are_refused(install, world, tiny_model, capsys, live):
    install()
    world.spoil = True
    model = str(tiny_model)
    assert cli.main(['build-engine', model]) == 2
    assert 'gives wrong results for the golden picture' in capsys.readouterr().err
    assert cli.main(['verify-engine', model]) == 2
    assert cli.main(['benchmark-engine', model, '--runs', '1']) == 2
    assert cli.main(['inspect-engine', model]) == 0  # to find out why
    assert live() == [0, 0, 0, 0, 0]


def test_a_cancelled_build_is_status_130(install, world, tiny_model, capsys):
    install()

    def stop():
        import os
        import signal

        os.kill(os.getpid(), signal.SIGINT)

    world.during_build = stop
    assert cli.main(['build-engine', str(tiny_model)]) == 130
    assert 'interrupted' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['build-engine', '--builder-option', 'x'], 'expected NAME=VALUE'),
        (['build-engine', '--builder-option', 'x=1'], 'no builder option x=1'),
        (['benchmark-engine', '--runs', '0'], 'runs is 0'),
    ],
)
def test_bad_options(install, tiny_model, capsys, arguments, message):
    install()
    assert cli.main([*arguments, str(tiny_model)]) == 2
    assert message in capsys.readouterr().err


def test_a_result_that_cannot_be_written(install, tiny_model, tmp_path, capsys):
    install()
    cli.main(['build-engine', str(tiny_model)])
    (tmp_path / 'file').write_text('')
    out = tmp_path / 'file' / 'result.json'
    assert cli.main(['benchmark-engine', str(tiny_model), '--runs', '1', '--out', str(out)]) == 2
    assert 'choose another file with --out' in capsys.readouterr().err


def test_gpu_state_and_power_mode(monkeypatch):
    answers = {
        'nvidia-smi': 'Orin, 560.1, 1300 MHz, 3199 MHz, 1300 MHz, 14.1 W, [N/A], 51\n',
        'nvpmodel': 'NV Power Mode: MAXN\n0\n',
    }
    monkeypatch.setattr(benchmark_engine, '_output', lambda program, *_: answers[program])
    assert benchmark_engine.gpu_state()['clocks.sm'] == '1300 MHz'
    assert benchmark_engine.power_mode() == 'NV Power Mode: MAXN 0'
    monkeypatch.setattr(benchmark_engine, '_output', lambda *_: '')
    assert benchmark_engine.gpu_state() == {}
