import shutil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from panoptic_ros.cli import main
from panoptic_ros.datasets.street.scene import synthetic_samples
from panoptic_ros.engines import open_engine
from panoptic_ros.errors import EngineError, ModelError, PanopticRosError
from panoptic_ros.model import Model, write_model
from panoptic_ros.training.quantize import FLOAT_CONVOLUTIONS, float_nodes, quantize

IMAGES = [sample.image_rgb for sample in synthetic_samples(5, 3, (160, 96))]


def copied(model: Model, folder: Path) -> Model:
    return Model.load(shutil.copytree(model.folder, folder / model.folder.name))


@pytest.fixture(scope='module')
def quantized(exported: Model, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return quantize(copied(exported, tmp_path_factory.mktemp('int8')), IMAGES, 'how it was done')


@pytest.mark.slow
def test_the_card_has_one_more_file_and_all_it_had(exported: Model, quantized: Model) -> None:
    assert set(quantized.card.files) == {'float32', 'float16', 'int8'}
    assert quantized.card.provenance == {**exported.card.provenance, 'int8': 'how it was done'}
    for name in ('size_wh', 'golden', 'fusion', 'classes', 'metrics'):
        assert getattr(quantized.card, name) == getattr(exported.card, name)
    sizes = {name: entry.bytes for name, entry in quantized.card.files.items()}
    assert sizes['int8'] < 0.7 * sizes['float16']


@pytest.mark.slow
@pytest.mark.parametrize('name', ['onnxruntime', 'openvino'])
def test_both_engines_give_nearly_what_float32_gives(quantized: Model, name: str) -> None:
    image, golden = quantized.golden()
    engine = open_engine(quantized, name, precision='int8')
    assert engine.description.precision == 'int8'
    outputs = engine.infer(image)
    engine.close()
    assert {k: v.dtype for k, v in outputs.items()} == {k: v.dtype for k, v in golden.items()}
    assert (outputs['semantic'] == golden['semantic']).mean() > 0.95
    assert any((outputs[k] != golden[k]).any() for k in golden)  # it is another arithmetic
    assert open_engine(quantized, name).description.precision != 'int8'


@pytest.mark.slow
def test_all_but_the_ends_computes_in_integers(quantized: Model) -> None:
    graph = onnx.load(quantized.onnx_path('int8')).graph
    made_by = {value: node.op_type for node in graph.node for value in node.output}
    is_integer = [
        {made_by.get(value) for value in node.input[:2]} == {'DequantizeLinear'}
        for node in graph.node
        if node.op_type == 'Conv'
    ]
    heads = 3  # classes, centres, offsets
    assert is_integer[:FLOAT_CONVOLUTIONS] == [False] * FLOAT_CONVOLUTIONS
    assert is_integer.count(False) == FLOAT_CONVOLUTIONS + heads
    assert len(is_integer) > 50
    assert {opset.domain for opset in onnx.load(quantized.onnx_path('int8')).opset_import} == {''}
    assert all(node.doc_string == '' and not node.metadata_props for node in graph.node)


def test_float_nodes_are_the_ends() -> None:
    def node(kind: str, name: str, inputs: list[str]) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [f'{name} out'], name=name)

    # Five convolutions in a row; from the fourth a branch that ends in a sixth.
    nodes = [node('Relu', 'first', ['image'])]
    for number in range(1, 6):
        nodes.append(node('Conv', f'c{number}', [nodes[-1].output[0], 'w']))
    nodes += [
        node('Relu', 'inside', ['c4 out']),
        node('Conv', 'c6', ['inside out', 'w']),
        node('Relu', 'end', ['c5 out']),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, 'g', [value('image', TensorProto.FLOAT, [1])], [value('end out', 1, [1])]
    )
    assert sorted(float_nodes(graph)) == ['c1', 'c2', 'c3', 'c5', 'c6', 'end']


@pytest.mark.slow
def test_wrong_results_leave_the_model_as_it_was(exported: Model, tmp_path: Path) -> None:
    folder = tmp_path / 'model'
    golden_image, golden = exported.golden()
    model = write_model(
        folder,
        onnx_by_precision={'float32': exported.onnx_path('float32')},
        label_set='cityscapes',
        size_wh=exported.card.size_wh,
        golden_image=golden_image,
        golden_outputs={**golden, 'semantic': 18 - golden['semantic']},
    )
    before = (folder / 'card.yaml').read_bytes()
    with pytest.raises(EngineError, match=r'int8.*wrong results for the golden picture'):
        quantize(model, IMAGES)
    assert (folder / 'card.yaml').read_bytes() == before
    assert not (folder / 'model.int8.onnx').exists()


def test_no_images(tiny_model: Path) -> None:
    with pytest.raises(PanopticRosError, match='no images to calibrate on'):
        quantize(Model.load(tiny_model), [])


def test_a_model_without_the_file_says_how_to_make_it(tiny_model: Path) -> None:
    model = Model.load(tiny_model)
    for name in ('onnxruntime', 'openvino'):
        with pytest.raises(ModelError, match=r'has no int8 file; .*panoptic quantize makes one'):
            open_engine(model, name, precision='int8')


@pytest.mark.slow
def test_the_command(exported: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(exported, tmp_path).folder
    arguments = ['quantize', str(folder), 'synthetic', '--images', '2']
    assert main(arguments) == 0
    assert 'model.int8.onnx  int8' in capsys.readouterr().out
    how = Model.load(folder).card.provenance['int8']
    assert how == 'panoptic quantize random synthetic ROOT --split train --images 2'
    assert main([*arguments[:2], 'no-such-data']) == 2
