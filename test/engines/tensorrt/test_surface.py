"""Every name and signature the package uses exists in the real bindings of four versions.

Also here: the functions of the real CUDA runtimes 12 and 13.
"""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from panoptic_ros.engines import tensorrt
from panoptic_ros.engines.tensorrt import cuda
from panoptic_ros.errors import EngineError

pytestmark = pytest.mark.process  # pip downloads the bindings

HERE = Path(__file__).parent
SOURCES = sorted(Path(tensorrt.__file__).parent.glob('*.py'))

# Run in a process of its own, over the real bindings: their classes are derived from, made and
# called; only what needs TensorRT's own libraries stays out.
USE = """
import logging, sys, threading
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import tensorrt_bindings as trt
from panoptic_ros.engines.tensorrt.build import (
    BuildOptions, _monitor, _network_flags, _set_option, tensor_spec)
from panoptic_ros.engines.tensorrt.installation import logger_of, take_errors, version_of
from panoptic_ros.engines.tensorrt.runtime import _profiler
from panoptic_ros.errors import EngineError

assert version_of(trt.__version__) >= (10, 3)
logger = logger_of(trt)
assert isinstance(logger, trt.ILogger)
logger.log(trt.ILogger.Severity.ERROR, 'two\\nlines')
logger.log(trt.ILogger.Severity.VERBOSE, 'not kept')
assert take_errors(trt) == 'two lines'
cancelled, seen = threading.Event(), []
monitor = _monitor(trt, cancelled, lambda *step: seen.append(step))
assert isinstance(monitor, trt.IProgressMonitor)
monitor.phase_start('a', None, 2)
monitor.phase_start('b', 'a', 1)
assert monitor.step_complete('b', 0) is True
assert monitor.step_complete('a', 0) is True
cancelled.set()
assert monitor.step_complete('a', 1) is False
monitor.phase_finish('a')
assert seen == [('a', 0, 2), ('a', 1, 2), ('a', 2, 2), ('a', 2, 2)]
profiler = _profiler(trt)
assert isinstance(profiler, trt.IProfiler)
profiler.report_layer_time('x', 0.5)
assert profiler.milliseconds == {'x': 0.5}
assert str(tensor_spec(trt, trt.DataType.HALF, (1, -1))) == 'float16 [1, ?]'
flag = int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
assert _network_flags(trt) == 1 << flag
class Config:
    set_flag = print
try:
    _set_option(trt, Config(), 'flag', 'FP16')
    print('has FP16')
except EngineError as error:
    print(error)
"""


@pytest.fixture
def bindings(version, wheel_folder, load_helper, compile_c):
    """Return the folder of the real bindings of one version, with stubs for their libraries."""
    folder = wheel_folder(load_helper('surface').VERSIONS[version], version)
    library = folder / 'tensorrt_bindings' / 'tensorrt.so'
    stub_needed_libraries(library, compile_c)
    return folder


def stub_needed_libraries(library, compile_c):
    """Write the libnv* that a library needs beside it, with functions that return nothing."""
    dynamic = subprocess.run(
        ['readelf', '--dynamic', library], capture_output=True, text=True, check=True
    ).stdout
    needed = [
        line.split('[')[1].split(']')[0]
        for line in dynamic.splitlines()
        if '(NEEDED)' in line and '[libnv' in line
    ]
    symbols = subprocess.run(
        ['nm', '--dynamic', '--undefined-only', library],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = [line.split()[-1] for line in symbols.splitlines() if ' U ' in line]
    own = [n for n in names if '@' not in n and not n.startswith(('Py', '_Py', 'dl'))]
    assert needed
    assert own
    code = ''.join(f'void *{name}(void) {{ return 0; }}\n' for name in own)
    for name in needed:
        target = library.with_name(name)
        if not target.exists():
            draft = target.with_name(f'{name}.{os.getpid()}')
            compile_c(code, draft)
            draft.replace(target)


def run_python(*arguments):
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_record_is_that_of_the_real_bindings(bindings, version, surface_record):
    found = json.loads(run_python(HERE / 'surface.py', bindings))
    assert found == surface_record[version]


def test_all_that_is_used_is_there_or_guarded(version, load_helper, surface_record):
    surface = load_helper('surface')
    record = surface_record[version]
    absent = {
        f'{group}.{name}'
        for kind, used in (('enums', surface.ENUMS), ('classes', surface.CLASSES))
        for group, names in used.items()
        for name in names
        if name not in record[kind][group]
    }
    assert absent == {name for name, versions in surface.GUARDED.items() if version in versions}


def test_the_real_classes_can_be_derived_from_and_used(bindings, version):
    said = run_python('-c', USE, bindings, SOURCES[0].parents[3])
    if version.startswith('11'):
        assert 'has no builder option flag=FP16' in said
    else:
        assert 'has FP16' in said


def test_the_source_uses_nothing_else_of_the_module(load_helper):
    surface = load_helper('surface')
    known = {f'{enum}.{name}' for enum, names in surface.ENUMS.items() for name in names}
    known |= {'__version__', *surface.ENUMS, *surface.CLASSES}
    known |= {f'{name}.__init__' for name in surface.CLASSES}
    known.add('ComputeCapability.__members__')  # of TensorRT-RTX, which test_rtx.py runs
    used = set().union(*(module_names(ast.parse(path.read_text())) for path in SOURCES))
    assert len(used) > 20
    assert {name for name in used if name not in known} == set()


def module_names(tree):
    """Return the dotted names that follow ``trt.``, the longest of each."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    found = set()
    for node in ast.walk(tree):
        is_module = isinstance(node, ast.Name) and node.id == 'trt'
        is_module |= isinstance(node, ast.Attribute) and node.attr == 'trt'
        names = []
        while is_module and isinstance(parents.get(node), ast.Attribute):
            node = parents[node]
            names.append(node.attr)
        if names and names[-1] == '__name__':
            names.pop()
        if names:
            found.add('.'.join(names))
    return found


@pytest.mark.parametrize(
    ('name', 'version', 'library'),
    [
        ('nvidia-cuda-runtime-cu12', '12.6.77', 'nvidia/cuda_runtime/lib/libcudart.so.12'),
        ('nvidia-cuda-runtime', '13.0.48', 'nvidia/cu13/lib/libcudart.so.13'),
    ],
)
def test_the_real_cuda_runtime_has_all_functions(
    wheel_folder, monkeypatch, name, version, library
):
    path = wheel_folder(name, version) / library
    monkeypatch.setenv(cuda.LIBRARY_VARIABLE, str(path))
    runtime = cuda.CudaRuntime()  # looks up every function
    assert runtime.integer('cudaRuntimeGetVersion') // 1000 == int(version.split('.')[0])
    if runtime.integer('cudaDriverGetVersion') == 0:
        with pytest.raises(EngineError, match=r'cudaErrorInsufficientDriver \(35\)'):
            runtime.device()


@pytest.mark.parametrize(
    ('name', 'version', 'header'),
    [
        ('nvidia-cuda-runtime-cu12', '12.6.77', 'nvidia/cuda_runtime/include'),
        ('nvidia-cuda-runtime', '13.0.48', 'nvidia/cu13/include'),
    ],
)
def test_signatures_are_those_of_the_real_headers(wheel_folder, name, version, header):
    text = (wheel_folder(name, version) / header / 'cuda_runtime_api.h').read_text()
    for function, types in cuda.SIGNATURES.items():
        declared = declaration(text, function)
        assert [kind_of_c(argument) for argument in declared] == list(map(kind_of_ctypes, types))


def declaration(text, function):
    """Return the arguments of a function, as C declares them."""
    found = re.search(rf'\bextern [^;{{}}]*?\b{function}\((?P<arguments>[^;{{}}]*)\)\s*;', text)
    assert found, f'{function} is not declared'
    arguments = re.sub(r'__dv\(\w+\)', '', found['arguments'])
    return [argument.strip() for argument in arguments.split(',') if argument.strip() != 'void']


def kind_of_c(argument):
    stars = argument.count('*')
    words = argument.replace('*', ' ').split()
    is_handle = bool({'cudaStream_t', 'cudaGraph_t', 'cudaGraphExec_t'} & set(words))
    if is_handle or 'void' in words:
        return 'handle' if stars + is_handle == 1 else 'out handle'
    if 'cudaDeviceProp' in words:
        return 'handle'
    if {'size_t', 'long'} & set(words):  # all of eight bytes
        return 'out size' if stars else 'size'
    return 'out int' if stars else 'int'


def kind_of_ctypes(kind):
    return {
        'c_void_p': 'handle',
        'LP_c_void_p': 'out handle',
        'c_int': 'int',
        'c_uint': 'int',
        'LP_c_int': 'out int',
        'c_ulong': 'size',
        'LP_c_ulong': 'out size',
        'c_ulonglong': 'size',
    }[kind.__name__]
