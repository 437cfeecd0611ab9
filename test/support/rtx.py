"""NVIDIA's own parser and builder for ONNX files: TensorRT-RTX builds without a GPU."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

RTX_VERSION = '1.7.1.116'

# In a process of its own: the libraries take 250 MB, and a fault of theirs ends it.
BUILD = """
import ctypes, json, sys
from pathlib import Path
folder, onnx = map(Path, sys.argv[1:])
sys.path.insert(0, str(folder))
import tensorrt_rtx_bindings as trt

class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.errors = []
    def log(self, severity, msg):
        if severity <= trt.ILogger.Severity.ERROR:
            self.errors.append(msg)

logger = Logger()
builder = trt.Builder(logger)
network = builder.create_network(0)
parser = trt.OnnxParser(network, logger)
parsed = parser.parse(onnx.read_bytes())
errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
result = {'parsed': parsed, 'errors': errors}
if parsed:
    result['io'] = {
        t.name: [t.dtype.name, list(t.shape)]
        for t in [network.get_input(i) for i in range(network.num_inputs)]
        + [network.get_output(i) for i in range(network.num_outputs)]
    }
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    result['tensors'] = [
        [t.name, t.dtype.name, list(t.shape)]
        for layer in layers
        for t in map(layer.get_output, range(layer.num_outputs))
    ]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    plan = builder.build_serialized_network(network, config)
    result['plan_bytes'] = 0 if plan is None else plan.nbytes
    result['build_errors'] = list(logger.errors)
    if plan is not None:
        engine = trt.Runtime(logger).deserialize_cuda_engine(bytes(plan))
        result['loaded'] = engine is not None
print(json.dumps(result))
"""


@pytest.fixture(scope='session')
def wheel_folder():
    """Return a function: wheel name, version -> the folder it is unpacked in."""
    root = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'panoptic_ros', 'test_wheels')
    root = root.expanduser()

    def fetch(name: str, version: str) -> Path:
        python = f'cp{sys.version_info.major}{sys.version_info.minor}'
        folder = root / f'{name}-{version}-{python}'
        if folder.is_dir():
            return folder
        scratch = folder.with_name(f'{folder.name}.{os.getpid()}')
        scratch.mkdir(parents=True)
        done = subprocess.run(
            [
                sys.executable,
                '-m',
                'pip',
                '--disable-pip-version-check',
                'download',
                '--quiet',
                '--no-deps',
                '--only-binary=:all:',
                '--dest',
                str(scratch),
                f'{name}=={version}',
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            scratch.rmdir()
            last = (done.stderr.strip().splitlines() or ['?'])[-1]
            pytest.skip(f'{name} {version} for {python} cannot be fetched with pip: {last}')
        for wheel in scratch.glob('*.whl'):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(scratch)
            wheel.unlink()
        try:
            scratch.rename(folder)
        except OSError:  # another process was faster
            assert folder.is_dir()
        return folder

    return fetch


@pytest.fixture(scope='session')
def rtx(wheel_folder):
    """Return a function: ONNX file -> what the real parser and builder made of it."""
    # The bindings look for the libraries' folder beside their own.
    libraries = wheel_folder('tensorrt-rtx-cu13-libs', RTX_VERSION)
    bindings = wheel_folder('tensorrt-rtx-cu13-bindings', RTX_VERSION)
    link = bindings / 'tensorrt_rtx_libs'
    if not link.exists():
        link.symlink_to(libraries / 'tensorrt_rtx_libs')

    def build(onnx):
        done = subprocess.run(
            [sys.executable, '-c', BUILD, bindings, onnx], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return build
