"""NVIDIA's own parser and builder take the float16 ONNX: TensorRT-RTX builds without a GPU."""

import json
import subprocess
import sys

import pytest

from panoptic_ros.model import Model, list_models

pytestmark = pytest.mark.process

RTX_VERSION = '1.7.1.116'
LARGEST_FLOAT32_BYTES = 64 << 10
# Tensors of the network that may be float32 and larger, each with the reason: there are none.
ALLOWED_FLOAT32: dict[str, str] = {}

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


@pytest.fixture(scope='module')
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


@pytest.fixture(scope='module', params=['shipped', 'untrained', 'tiny'])
def model(request, tmp_path_factory):
    """Return every model the package ships, an export of today's code, and the tests' own."""
    if request.param == 'tiny':
        return Model.load(request.getfixturevalue('tiny_model'))
    if request.param == 'shipped':
        if 'street-lite' not in list_models():
            pytest.skip('the model street-lite is not in models/')
        return Model.load('street-lite')
    torch = pytest.importorskip('torch', reason='torch exports the model of this test')
    pytest.importorskip('onnxscript', reason='onnxscript exports the model of this test')
    from panoptic_ros.training.backbones import EfficientNetLite
    from panoptic_ros.training.export import export_model
    from panoptic_ros.training.network import PanopticNetwork

    torch.manual_seed(0)
    network = PanopticNetwork(EfficientNetLite(0, pretrained=False), 19)
    folder = tmp_path_factory.mktemp('models') / 'untrained'
    return export_model(network, folder, size_wh=(640, 320), label_set='cityscapes')


@pytest.mark.slow
def test_it_parses_and_builds_in_float16(rtx, model):
    result = rtx(model.onnx_path('float16'))
    assert result['parsed'], result['errors']
    assert result['errors'] == []
    names = {'HALF': 'float16', 'FLOAT': 'float32', 'INT32': 'int32', 'UINT8': 'uint8'}
    expected = model.card.inputs() | model.card.outputs('float16')
    assert result['io'].keys() == expected.keys()
    for name, (dtype, shape) in result['io'].items():
        assert names[dtype] == expected[name].dtype
        for size, wanted in zip(shape, expected[name].shape, strict=True):
            assert size == wanted or isinstance(wanted, str)  # a free size
    # A strongly typed network computes in the types it is written in.
    wide = {
        name: shape
        for name, dtype, shape in result['tensors']
        if dtype == 'FLOAT' and 4 * volume(shape) > LARGEST_FLOAT32_BYTES
    }
    assert {name for name in wide if name not in ALLOWED_FLOAT32} == set()
    assert result['plan_bytes'] > 1000, result['build_errors']


@pytest.mark.slow
def test_the_check_for_float32_can_fail(rtx, tiny_model, tmp_path):
    onnx = pytest.importorskip('onnx')
    network = onnx.load(Model.load(tiny_model).onnx_path('float32'))
    path = tmp_path / 'wide.onnx'
    onnx.save(network, path)
    kinds = {dtype for _, dtype, _ in rtx(path)['tensors']}
    assert 'FLOAT' in kinds


@pytest.mark.slow
def test_what_is_no_onnx_is_refused_with_a_reason(rtx, tmp_path):
    path = tmp_path / 'no.onnx'
    path.write_bytes(b'not an ONNX file')
    result = rtx(path)
    assert not result['parsed']
    assert result['errors']


def volume(shape):
    """Return the number of elements."""
    product = 1
    for size in shape:
        product *= size
    return product
