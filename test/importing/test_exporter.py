"""A float16 file that engines cannot load is mended or left out, with the reason."""

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason='extra import')
pytest.importorskip('onnxscript', reason='extra import')

import onnx  # noqa: E402
from torch import nn  # noqa: E402

from panoptic_ros.fusion import QueryFusion  # noqa: E402
from panoptic_ros.importing import exporter as exporter_module  # noqa: E402
from panoptic_ros.importing.agreement import Judged, OnnxFile  # noqa: E402
from panoptic_ros.importing.exporter import Exporter  # noqa: E402
from panoptic_ros.importing.half import mixing_module  # noqa: E402
from panoptic_ros.importing.network import Deployed, Normalisation  # noqa: E402
from panoptic_ros.labels import LabelSet  # noqa: E402

SIZE_WH = (32, 16)
QUERIES = 3


class Attention(nn.Module):
    """Attention whose mask is float32, whatever the type of the network."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(20, 20)

    def forward(self, rows):
        scores = self.query(rows) @ rows.transpose(-1, -2)
        mask = torch.zeros(QUERIES, QUERIES)
        mask[0, 1] = -100
        return (scores + mask).softmax(-1) @ rows


class Network(nn.Module):
    """Classes from attention between rows of the picture, masks from its channels."""

    def __init__(self):
        super().__init__()
        self.attention = Attention()

    def forward(self, pixels):
        rows = pixels.flatten(2)[..., :20]
        return self.attention(rows) * 9, pixels * 20 - 10


@pytest.fixture
def said():
    return []


@pytest.fixture
def exporter(said):
    torch.manual_seed(0)
    network = Deployed(Network(), Normalisation(1 / 255, (0.0,) * 3, (1.0,) * 3)).eval()
    judged = Judged('queries', QueryFusion(), LabelSet.load('cityscapes'), SIZE_WH)
    image = np.random.default_rng(0).integers(0, 256, (*SIZE_WH[::-1], 3), np.uint8)
    return Exporter('Test', network, judged, [image], said.append)


def test_a_module_that_mixes_types_stays_in_float32(exporter, said, tmp_path):
    files, notes = exporter.export(tmp_path)
    assert 'mixes float16 and float32: network.attention' in said
    assert notes['float16'].endswith('network.attention stays in float32')
    OnnxFile(files['float16'])  # it loads
    outputs = onnx.load(files['float16']).graph.output
    assert {tensor.type.tensor_type.elem_type for tensor in outputs} == {onnx.TensorProto.FLOAT16}


def test_a_file_that_does_not_load_is_left_out(exporter, said, tmp_path, monkeypatch):
    def break_types(path, kept):
        model = onnx.load(path)
        for node in model.graph.node:
            if node.op_type == 'MatMul':
                cast = onnx.helper.make_node('Cast', [node.input[1]], ['wide'], to=1)
                half = onnx.helper.make_node('Cast', [node.input[0]], ['narrow'], to=10)
                node.input[:] = ['narrow', 'wide']
                at = list(model.graph.node).index(node)
                model.graph.node.insert(at, cast)
                model.graph.node.insert(at, half)
                break
        onnx.save(model, path)

    monkeypatch.setattr(exporter_module, 'narrow_sums', break_types)
    files, notes = exporter.export(tmp_path)
    assert set(files) == {'float32'}
    assert notes['float16'].startswith('left out: ONNX Runtime cannot load traced.float16.onnx')
    assert 'MatMul' in notes['float16']
    assert said[-1] == f'float16 file {notes["float16"]}'


class Counting(nn.Module):
    """A module whose shapes depend on the value of a tensor, in one type."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, image):
        rows = image[:, :QUERIES, :20, 0].half()
        length = torch.tensor([16, 16]).sum().item()
        return self.attention(rows[..., :length])


def test_values_of_tensors_may_decide_about_shapes():
    size_wh = (64, 32)
    linear = nn.Linear(20, 20).half()
    assert mixing_module(Counting(linear), size_wh) is None
    assert mixing_module(Counting(Attention().half()), size_wh) == 'attention'
