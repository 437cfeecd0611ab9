import argparse
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from panoptic_ros import __version__, cli
from panoptic_ros.errors import ModelError


@pytest.fixture
def install(monkeypatch):
    """Return a function that puts a fake command in the place of ``segment``."""

    def install(run, extra=''):
        module = types.ModuleType('fake_command')
        module.configure = lambda parser: parser.add_argument('--value', type=int, default=0)
        module.run = run
        monkeypatch.setitem(sys.modules, 'fake_command', module)
        monkeypatch.setattr(
            cli, 'COMMANDS', (cli.Command('fake', 'fake_command', 'do nothing', extra),)
        )

    return install


def raising(error):
    def run(args):
        raise error

    return run


def test_arguments_reach_the_command_and_its_status_comes_back(install):
    install(lambda args: args.value)
    assert cli.main(['fake', '--value', '7']) == 7


def test_an_argument_may_have_any_name(monkeypatch):
    module = types.ModuleType('fake_command')
    module.configure = lambda parser: [parser.add_argument(n) for n in ('run', 'module')]
    module.run = lambda args: int(args.run) + int(args.module)
    monkeypatch.setitem(sys.modules, 'fake_command', module)
    monkeypatch.setattr(cli, 'COMMANDS', (cli.Command('fake', 'fake_command', 'do nothing'),))
    assert cli.main(['fake', '3', '4']) == 7


def test_user_error_is_one_sentence_and_status_2(install, capsys):
    install(raising(ModelError('no model is called x')))
    assert cli.main(['fake']) == 2
    captured = capsys.readouterr()
    assert captured.err == 'panoptic: no model is called x\n'
    assert captured.out == ''


def test_ctrl_c_is_status_130(install, capsys):
    install(raising(KeyboardInterrupt()))
    assert cli.main(['fake']) == 130
    assert capsys.readouterr().err == 'panoptic: interrupted\n'


def test_missing_package_names_the_extra(install, capsys):
    install(raising(ModuleNotFoundError('No module', name='torch')), extra='train')
    assert cli.main(['fake']) == 2
    assert capsys.readouterr().err == (
        'panoptic: the command fake needs torch, which is not installed: '
        "pip install 'panoptic_ros[train]'\n"
    )


def test_missing_package_without_an_extra(install, capsys):
    install(raising(ModuleNotFoundError('No module', name='psutil')))
    assert cli.main(['fake']) == 2
    assert capsys.readouterr().err.endswith('not installed: pip install psutil\n')


def test_missing_package_at_the_import_of_the_command(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'torch_like', None)
    monkeypatch.setattr(cli, 'COMMANDS', (cli.Command('fake', 'torch_like', 'x', 'train'),))
    assert cli.main(['fake']) == 2
    assert "needs torch_like, which is not installed: pip install 'pano" in capsys.readouterr().err


def test_own_module_that_is_missing_is_a_bug_and_shows_as_one(monkeypatch):
    command = cli.Command('fake', 'panoptic_ros.no_such_module', 'x', 'train')
    monkeypatch.setattr(cli, 'COMMANDS', (command,))
    with pytest.raises(ModuleNotFoundError, match='no_such_module'):
        cli.main(['fake'])


def test_other_errors_are_not_hidden(install):
    install(raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(['fake'])


@pytest.mark.parametrize('arguments', [[], ['nonsense'], ['fake', '--nonsense']])
def test_wrong_usage_is_status_2(install, arguments):
    install(lambda args: 0)
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


@pytest.mark.process
def test_help_names_every_command_and_imports_none():
    code = (
        'import sys; from panoptic_ros import cli\n'
        'try: cli.main(["--help"])\n'
        'except SystemExit as end: print(end.code)\n'
        'print([m for m in ("numpy", "cv2", "torch", "openvino") if m in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith('0\n[]\n')
    for command in cli.COMMANDS:
        assert f'    {command.name}' in done.stdout


@pytest.mark.process
def test_python_dash_m_is_the_same_command():
    done = subprocess.run(
        [sys.executable, '-m', 'panoptic_ros', '--version'],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {'PYTHONPATH': os.pathsep.join(p for p in sys.path if p)},
    )
    assert done.stdout == f'panoptic_ros {__version__}\n'


@pytest.mark.parametrize('command', cli.COMMANDS, ids=lambda command: command.name)
def test_every_command_has_its_module(command):
    # Not imported, for it may need an extra: the file must be there.
    package = Path(cli.__file__).parents[1]
    assert package.parent.joinpath(*command.module.split('.')).with_suffix('.py').is_file()


@pytest.mark.parametrize('name', ['segment', 'models'])
def test_commands_of_the_runtime_configure(name):
    module = __import__(f'panoptic_ros.cli.{name}', fromlist=['configure'])
    parser = argparse.ArgumentParser()
    module.configure(parser)
    assert parser.format_help()
