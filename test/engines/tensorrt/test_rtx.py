"""NVIDIA's own parser and builder take the float16 ONNX: TensorRT-RTX builds without a GPU."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from support.rtx import RTX_VERSION

from panoptic_ros.engines.batching import with_batch
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model, list_models

pytestmark = pytest.mark.process

LARGEST_FLOAT32_BYTES = 64 << 10
# Tensors of the network that may be float32 and larger, each with the reason: there are none.
ALLOWED_FLOAT32: dict[str, str] = {}


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
    from panoptic_ros.training.export import export_model
    from panoptic_ros.training.golden_image import golden_image
    from panoptic_ros.training.network.centre_network import CentreNetwork
    from panoptic_ros.training.network.efficientnet_lite import EfficientNetLite

    torch.manual_seed(0)
    network = CentreNetwork(EfficientNetLite(0, pretrained=False), 19)
    folder = tmp_path_factory.mktemp('models') / 'untrained'
    image = golden_image('cityscapes', (640, 320))
    return export_model(network, folder, golden_image=image, label_set='cityscapes')


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
def test_it_builds_for_several_images(rtx, model, tmp_path):
    pytest.importorskip('onnx')
    path = tmp_path / 'batch.onnx'
    path.write_bytes(with_batch(model.onnx_path('float16'), 3))
    result = rtx(path)
    assert result['errors'] == []
    assert {shape[0] for _, shape in result['io'].values()} == {3}
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


@pytest.mark.slow
def test_the_engine_is_built_without_a_gpu(wheel_folder, rtx, tiny_model, tmp_path):
    bindings = wheel_folder('tensorrt-rtx-cu13-bindings', RTX_VERSION)
    package = tmp_path / 'site' / 'tensorrt_rtx'
    package.mkdir(parents=True)
    (package / '__init__.py').write_text(
        'from tensorrt_rtx_bindings import *\nfrom tensorrt_rtx_bindings import __version__\n'
    )
    command = [sys.executable, '-m', 'panoptic_ros', 'build-engine', str(tiny_model)]
    command += ['--engine', 'tensorrt_rtx', '--cache', str(tmp_path / 'cache')]
    command += ['--builder-option', 'hardware_compatibility_level=NONE']
    command += ['--builder-option', 'max_aux_streams=0']
    command += ['--builder-option', 'compute_capability=SM86+SM89']
    paths = [str(tmp_path / 'site'), str(bindings), *sys.path]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, paths))},
    )
    assert done.returncode == 0, done.stderr
    assert 'no GPU here' in done.stdout
    (sidecar,) = (tmp_path / 'cache').glob('*.json')
    identity = json.loads(sidecar.read_text())['identity']
    assert (identity['library'], identity['gpu']) == ('tensorrt_rtx', 'any')
    assert identity['tensorrt'] == RTX_VERSION
    assert identity['options']['builder_options'][1] == ['max_aux_streams', '0']
    assert sidecar.with_suffix('.engine').stat().st_size > 1000


def write_query_network(path, queries=100, size_wh=(640, 480), classes=19):
    """Write a float16 network with 100 queries: one convolution gives the masks."""
    onnx = pytest.importorskip('onnx')
    from onnx import TensorProto, helper, numpy_helper

    width, height = size_wh
    rng = np.random.default_rng(0)
    constants = {
        'filters': rng.normal(0, 0.02, (queries, 3, 4, 4)).astype(np.float16),
        'to_classes': rng.normal(0, 0.1, (1, classes + 1)).astype(np.float16),
        'columns': np.array([1, queries, 1], np.int64),
    }
    node = helper.make_node
    nodes = [
        node('Cast', ['image'], ['pixels'], to=TensorProto.FLOAT16),
        node('Transpose', ['pixels'], ['planes'], perm=[0, 3, 1, 2]),
        node('Conv', ['planes', 'filters'], ['mask_logits'], strides=[4, 4]),
        node('GlobalAveragePool', ['mask_logits'], ['mean']),
        node('Reshape', ['mean', 'columns'], ['mean_column']),
        node('MatMul', ['mean_column', 'to_classes'], ['class_logits']),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        'queries',
        [value('image', TensorProto.UINT8, [1, height, width, 3])],
        [
            value('class_logits', TensorProto.FLOAT16, [1, queries, classes + 1]),
            value('mask_logits', TensorProto.FLOAT16, [1, queries, height // 4, width // 4]),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=10)
    onnx.save(model, path)


@pytest.mark.slow
@pytest.mark.parametrize('rule', ['detr', 'mask2former', 'eomt', 'rf_detr', 'semantic', 'centres'])
def test_the_fusion_at_the_end_of_a_file_builds(rtx, tmp_path, rule):
    from panoptic_ros.fusion import CentreFusion, QueryFusion
    from panoptic_ros.fusion.graph import fuse_onnx

    labels = LabelSet.load('cityscapes')
    source = tmp_path / 'heads.onnx'
    if rule == 'centres':
        if 'street-lite' not in list_models():
            pytest.skip('the model street-lite is not in models/')
        source = Model.load('street-lite').onnx_path('float16')
        fusion = CentreFusion()
    else:
        write_query_network(source, 19 if rule == 'semantic' else 100)
        fusion = QueryFusion(rule=rule)
    fuse_onnx(source, tmp_path / 'fused.onnx', fusion, labels)
    result = rtx(tmp_path / 'fused.onnx')
    assert result['parsed'], result['errors']
    assert result['plan_bytes'] > 1000, result['build_errors']
    expected = {'image', 'owner', 'confidence'} | (
        {'semantic', 'centre_score'}
        if rule == 'centres'
        else {'class_id', 'score', 'owned_area', 'mask_area'}
    )
    assert set(result['io']) == expected
    wide = {
        name: volume(shape)
        for name, dtype, shape in result['tensors']
        if dtype == 'FLOAT' and 4 * volume(shape) > LARGEST_FLOAT32_BYTES
    }
    assert all(name.startswith('fusion/') for name in wide), wide
    if rule != 'centres':
        # Pixels of each row of each mask: float16 counts to 2048 only.
        assert all(elements <= 100 * 480 for elements in wide.values()), wide


def volume(shape):
    """Return the number of elements."""
    product = 1
    for size in shape:
        product *= size
    return product
