"""The statements of doc/security.md, read off the source and tried out."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [*(ROOT / 'panoptic_ros').rglob('*.py'), *(ROOT / 'launch').glob('*.py')]

FORBIDDEN = {
    'eval',
    'exec',
    'pickle.load',
    'pickle.loads',
    'marshal.loads',
    'os.system',
    'os.popen',
    'yaml.unsafe_load',
    'yaml.full_load',
    'torch.hub.load',
    'PythonExpression',
}
NEEDS = {
    'torch.load': ('weights_only', True),
    'np.load': ('allow_pickle', False),
    'subprocess.run': ('shell', None),
    'subprocess.Popen': ('shell', None),
}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def fault(name: str, call: ast.Call) -> str:
    """Say what is dangerous about a call, or nothing."""
    if name in FORBIDDEN:
        return f'{name} runs what it is given'
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name == 'yaml.load' and [ast.unparse(a) for a in call.args[1:]] != ['_PlainLoader']:
        return 'yaml.load without the plain loader'
    argument, value = NEEDS.get(name, ('', None))
    wanted = None if value is None else str(value)
    return f'{name} with {argument}={given.get(argument)}' if given.get(argument) != wanted else ''


def test_no_call_runs_what_it_reads() -> None:
    faults = [
        f'{path.relative_to(ROOT)}:{call.lineno}: {found}'
        for path in SOURCES
        for name, call in calls(path)
        if (found := fault(name, call))
    ]
    assert not faults
    assert len(SOURCES) > 50


@pytest.mark.parametrize(
    'code',
    [
        'eval(x)',
        'torch.load(path)',
        'torch.load(path, weights_only=False)',
        'np.load(path)',
        'np.load(path, allow_pickle=True)',
        'yaml.load(data, yaml.Loader)',
        'yaml.load(data)',
        'subprocess.run(line, shell=True)',
        'pickle.load(file)',
    ],
)
def test_dangerous_calls_are_seen(code: str) -> None:
    call = ast.parse(code).body[0].value
    assert fault(ast.unparse(call.func), call)


AUDITED = """
import sys
log = open(sys.argv[1], 'a', buffering=1)  # also of processes that are forked
def hook(event, arguments):
    if event.startswith('socket.') or event in ('urllib.Request', 'http.client.connect'):
        print(event, file=log)
sys.addaudithook(hook)
{first}
from panoptic_ros.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / 'a.png'
    cv2.imwrite(str(path), np.zeros((40, 60, 3), np.uint8))
    return path


def audited(tmp_path: Path, picture: Path, engine: str, first: str = '') -> str:
    """Segment a picture; returns what had to do with sockets."""
    log = tmp_path / 'events'
    command = ('segment', str(picture), '--engine', engine, '--out', str(tmp_path / 'out'))
    program = AUDITED.format(first=first)
    subprocess.run([sys.executable, '-c', program, str(log), *command], cwd=ROOT, check=True)
    return log.read_text()


@pytest.mark.process
@pytest.mark.parametrize('engine', ['onnxruntime', 'openvino'])
def test_no_socket_is_made(tmp_path: Path, picture: Path, engine: str) -> None:
    pytest.importorskip(engine)
    assert audited(tmp_path, picture, engine) == ''


@pytest.mark.process
def test_sockets_are_seen_also_in_processes_that_are_forked(tmp_path: Path, picture: Path) -> None:
    first = 'import os, socket; os.fork() or (socket.socket(), os._exit(0))'
    assert 'socket.__new__' in audited(tmp_path, picture, 'onnxruntime', first)


@pytest.mark.process
def test_a_machine_without_any_network_is_enough(tmp_path: Path, picture: Path) -> None:
    try:
        subprocess.run(['unshare', '-rn', 'true'], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip('unshare cannot make a network namespace here')
    command = ('-m', 'panoptic_ros', 'segment', str(picture), '--out', str(tmp_path / 'out'))
    subprocess.run(['unshare', '-rn', sys.executable, *command], cwd=ROOT, check=True)
    assert (tmp_path / 'out' / 'panoptic.json').is_file()
