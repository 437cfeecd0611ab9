"""Overflows of float16 are found, named by module, and stay in float32."""

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='extra import')
pytest.importorskip('onnxscript', reason='extra import')

import onnx  # noqa: E402
from torch import nn  # noqa: E402

from panoptic_ros.importing.agreement import OnnxFile  # noqa: E402
from panoptic_ros.importing.export import (  # noqa: E402
    export_onnx,
    large_float32,
    publish_onnx,
    to_float16,
)
from panoptic_ros.importing.half import (  # noqa: E402
    LARGEST,
    find_overflows,
    is_kept,
    modules_to_keep,
    narrow_sums,
)
from panoptic_ros.importing.network import Deployed, Normalisation  # noqa: E402

SIZE_WH = (16, 8)
WIDE = Normalisation(1.0, (0.0,) * 3, (1.0,) * 3)


class Block(nn.Module):
    """Widens values by a factor, and narrows them by the same."""

    def __init__(self, factor):
        super().__init__()
        self.widen, self.narrow = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        with torch.no_grad():
            for layer, scale in ((self.widen, factor), (self.narrow, 1 / factor)):
                layer.weight.copy_(torch.eye(3)[..., None, None] * scale)
                layer.bias.zero_()

    def forward(self, pixels):
        return self.narrow(torch.relu(self.widen(pixels)))


class Network(nn.Module):
    """Two blocks, of which the second may leave the range of float16."""

    def __init__(self, factor):
        super().__init__()
        self.blocks = nn.ModuleList([Block(2.0), Block(factor)])

    def forward(self, pixels):
        for block in self.blocks:
            pixels = block(pixels)
        return pixels.mean((2, 3))[:, None] / 100, pixels / 100


@pytest.fixture(scope='module')
def picture():
    return np.random.default_rng(0).integers(100, 256, (*SIZE_WH[::-1], 3), np.uint8)


@pytest.fixture(scope='module')
def overflowing(tmp_path_factory):
    network = Deployed(Network(4000.0), WIDE).eval()
    path = tmp_path_factory.mktemp('half') / 'float32.onnx'
    export_onnx(network, SIZE_WH, path)
    return network, path


def test_an_overflow_is_named_by_its_module(overflowing, picture):
    _, path = overflowing
    overflows = find_overflows(path, [picture])
    assert {overflow.module for overflow in overflows} == {
        'network.blocks.1.widen',
        'network.blocks.1',
    }
    assert max(o.largest for o in overflows) == pytest.approx(4000 * int(picture.max()), rel=1e-3)
    assert 'network.blocks.1.widen reaches 1.02e+06' in map(str, overflows)


def test_what_fits_has_no_overflow(picture, tmp_path):
    export_onnx(Deployed(Network(8.0), WIDE).eval(), SIZE_WH, tmp_path / 'n.onnx')
    assert find_overflows(tmp_path / 'n.onnx', [picture]) == []


def test_the_module_around_an_overflow_stays_in_float32(overflowing, picture, tmp_path):
    network, path = overflowing
    kept = modules_to_keep(path, find_overflows(path, [picture]), network)
    assert kept == {'network.blocks.1'}
    assert is_kept('network.blocks.1.narrow', kept)
    assert not is_kept('network.blocks.10', kept)
    expected = OnnxFile(path).infer(picture)
    for keep, is_right in (((), False), (kept, True)):
        mended = tmp_path / f'{len(keep)}.onnx'
        export_onnx(to_float16(network, keep), SIZE_WH, mended)
        # A GPU rounds every value to float16; so does torch, layer by layer.
        with torch.inference_mode():
            found = to_float16(network, keep)(torch.from_numpy(picture)[None])[1]
        assert bool(torch.isfinite(found).all()) == is_right
        if is_right:
            masks = OnnxFile(mended).infer(picture)['mask_logits']
            np.testing.assert_allclose(masks, expected['mask_logits'], rtol=2e-3)


def test_a_network_whose_outputs_overflow_stays_whole(picture, tmp_path):
    class Loud(nn.Module):
        def forward(self, pixels):
            return pixels.mean((2, 3))[:, None], pixels * LARGEST

    network = Deployed(Loud(), WIDE).eval()
    export_onnx(network, SIZE_WH, tmp_path / 'n.onnx')
    overflows = find_overflows(tmp_path / 'n.onnx', [picture])
    assert modules_to_keep(tmp_path / 'n.onnx', overflows, network) == {''}


def test_minus_infinity_of_attention_masks_is_no_overflow(picture, tmp_path):
    class Masked(nn.Module):
        def forward(self, pixels):
            hidden = torch.where(pixels > 128, torch.finfo(pixels.dtype).min, pixels / 300)
            return hidden.flatten(2).softmax(-1)[..., :4], pixels / 300

    network = Deployed(Masked(), WIDE).eval()
    export_onnx(network, SIZE_WH, tmp_path / 'n.onnx')
    assert find_overflows(tmp_path / 'n.onnx', [picture]) == []


def test_large_float32_tensors_of_a_float16_file_are_found(tmp_path):
    class Wide(nn.Module):
        def forward(self, pixels):
            return pixels.mean((2, 3))[:, None], pixels.float().exp().to(pixels.dtype)

    path = tmp_path / 'n.onnx'
    export_onnx(to_float16(Deployed(Wide(), WIDE).eval()), (128, 96), path)
    assert large_float32(path) == {'network': 3 * 128 * 96 * 4}


@pytest.mark.parametrize(
    ('summed', 'keep', 'operators'),
    [
        (12, (), ['ReduceSum']),
        (12, ('',), ['Cast', 'ReduceSum', 'Cast']),
        (96, (), ['Cast', 'ReduceSum', 'Cast']),
    ],
)
def test_sums_of_few_values_stay_in_float16(summed, keep, operators, tmp_path):
    float16, float32 = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    nodes = [
        onnx.helper.make_node('Identity', ['x'], ['half']),
        onnx.helper.make_node('Cast', ['half'], ['wide'], to=float32),
        onnx.helper.make_node('ReduceSum', ['wide', 'axes'], ['sum'], keepdims=0),
        onnx.helper.make_node('Cast', ['sum'], ['y'], to=float16),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        'sum',
        [onnx.helper.make_tensor_value_info('x', float16, [4, summed])],
        [onnx.helper.make_tensor_value_info('y', float16, [4])],
        [onnx.numpy_helper.from_array(np.array([1]), 'axes')],
    )
    path = tmp_path / 'n.onnx'
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 18)]), path
    )
    narrow_sums(path, keep)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node[1:]] == operators


def test_a_published_file_says_nothing_of_where_it_was_made(overflowing, tmp_path):
    _, path = overflowing
    publish_onnx(path, tmp_path / 'published.onnx')
    content = (tmp_path / 'published.onnx').read_bytes()
    assert b'.py' not in content
    assert b'name_scopes' not in content
