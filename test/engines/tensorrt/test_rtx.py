"""NVIDIA's own parser and builder take the float16 ONNX: TensorRT-RTX builds without a GPU."""

import pytest

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
    from panoptic_ros.training.network.efficientnet_lite import EfficientNetLite
    from panoptic_ros.training.network.panoptic_network import PanopticNetwork

    torch.manual_seed(0)
    network = PanopticNetwork(EfficientNetLite(0, pretrained=False), 19)
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
