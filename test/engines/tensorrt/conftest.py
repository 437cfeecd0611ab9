"""TensorRT and CUDA for machines that have neither: a checked fake, and real wheels from pip."""

import ctypes
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from panoptic_ros.engines.tensorrt import cuda
from panoptic_ros.engines.tensorrt.installation import logger_of

HERE = Path(__file__).parent


def load_beside(name: str) -> ModuleType:
    """Import a module that lies beside this file; pytest's importlib mode has no other way."""
    full_name = f'panoptic_ros_test_{name}'
    if full_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(full_name, HERE / f'{name}.py')
        sys.modules[full_name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full_name])
    return sys.modules[full_name]


RECORD = json.loads((HERE / 'surface.json').read_text())


def compile_c(source: str | Path, target: Path) -> None:
    """Compile a shared library, or skip where there is no C compiler."""
    given = {'input': source} if isinstance(source, str) else {}
    name = '-' if isinstance(source, str) else str(source)
    command = ['cc', '-O1', '-shared', '-fPIC', '-x', 'c', '-o', str(target), name]
    try:
        subprocess.run(command, check=True, text=True, **given)
    except FileNotFoundError:
        pytest.skip('no C compiler (cc) to build the stub libraries with')


@pytest.fixture(scope='session')
def stub_library(tmp_path_factory):
    """Return the path of the stub libcudart."""
    path = tmp_path_factory.mktemp('cudart') / 'libcudart_stub.so'
    compile_c(HERE / 'stub_cudart.c', path)
    return path


@pytest.fixture
def cudart(stub_library, monkeypatch):
    """Return the stub libcudart, healthy, as the one that is found."""
    monkeypatch.setenv(cuda.LIBRARY_VARIABLE, str(stub_library))
    library = ctypes.CDLL(str(stub_library))
    library.stub_fail.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_int)
    library.stub_is_device.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    library.stub_enqueue.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    for name in ('stub_live', 'stub_launches', 'stub_resets'):
        getattr(library, name).restype = ctypes.c_long
    library.stub_heal()
    yield library
    library.stub_heal()


@pytest.fixture
def live(cudart):
    """Return a function: how many device and host blocks, streams, graphs, executables live."""
    before = [cudart.stub_live(kind) for kind in range(5)]
    return lambda: [cudart.stub_live(kind) - before[kind] for kind in range(5)]


@pytest.fixture(params=list(RECORD))
def version(request):
    """Return one of the versions of the record."""
    return request.param


@pytest.fixture
def world(cudart):
    """Return what a test can make go wrong in the fake."""
    return load_beside('fake_tensorrt').World(cudart)


@pytest.fixture
def install(world, monkeypatch):
    """Return a function: version -> a fake TensorRT, installed as ``tensorrt``."""
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')

    def install(version: str = '10.3.0') -> ModuleType:
        logger_of.cache_clear()
        fake = load_beside('fake_tensorrt').make_fake(version, RECORD[version], world)
        monkeypatch.setitem(sys.modules, 'tensorrt', fake)
        return fake

    return install


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """Return the folder of the engine cache, a fresh one for each test."""
    folder = tmp_path / 'engine_cache'
    monkeypatch.setenv('PANOPTIC_ENGINE_CACHE', str(folder))
    return folder


@pytest.fixture(scope='session')
def load_helper():
    """Return a function: name of a module beside this file -> the module."""
    return load_beside


@pytest.fixture(scope='session', name='compile_c')
def compile_c_fixture():
    """Return :func:`compile_c`."""
    return compile_c


@pytest.fixture(scope='session')
def surface_record():
    """Return what is recorded of the bindings, by version."""
    return RECORD
