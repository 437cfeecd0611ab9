"""Networks for several images at once give what they give for one."""

import numpy as np
import pytest

from panoptic_ros.engines import EngineDescription, infer_images, open_engine
from panoptic_ros.engines.batching import with_batch
from panoptic_ros.engines.golden import golden_fault
from panoptic_ros.errors import EngineError, FrameError
from panoptic_ros.model import Model
from panoptic_ros.segmenter import Segmenter

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')


@pytest.fixture(scope='module')
def model(tiny_model) -> Model:
    return Model.load(tiny_model)


@pytest.fixture(scope='module')
def one(model):
    return open_engine(model, 'onnxruntime')


@pytest.fixture(scope='module')
def three(model):
    return open_engine(model, 'onnxruntime', batch=3)


def pictures(model: Model, count: int) -> list[np.ndarray]:
    width, height = model.card.size_wh
    random = np.random.default_rng(5)
    return list(random.integers(0, 256, (count, height, width, 3), np.uint8))


@pytest.mark.parametrize('count', [1, 2, 3, 7])
def test_each_picture_has_the_outputs_it_has_alone(model, one, three, count: int) -> None:
    images = pictures(model, count)
    found = infer_images(three, images)
    assert len(found) == count
    for outputs, image in zip(found, images, strict=True):
        expected = one.infer(image)
        assert outputs.keys() == expected.keys()
        for name, array in outputs.items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5)


def test_one_picture_is_one_of_the_batch(model, one, three) -> None:
    image, _ = model.golden()
    assert three.description.batch == 3
    assert '3 images at once' in str(three.description)
    np.testing.assert_array_equal(three.infer(image)['semantic'], one.infer(image)['semantic'])


def test_frames_of_different_sizes_are_inferred_together(model, one, three, tiny_scene) -> None:
    frames = [tiny_scene(size_wh) for size_wh in ((128, 64), (64, 32), (192, 96), (64, 32))]
    together, alone = Segmenter(model, three), Segmenter(model, one)
    inferences = together.infer_all([together.prepare(frame, 'rgb8') for frame in frames])
    assert len({inference.inference_ns for inference in inferences}) == 1
    for inference, frame in zip(inferences, frames, strict=True):
        found, expected = together.fuse(inference), alone.segment(frame, 'rgb8')
        np.testing.assert_array_equal(found.panoptic.semantic, expected.panoptic.semantic)
        np.testing.assert_array_equal(found.panoptic.instance, expected.panoptic.instance)


def test_pictures_that_do_not_fit_are_refused(model, three) -> None:
    images = pictures(model, 2)
    with pytest.raises(FrameError, match='the engine was given uint8'):
        three.infer_batch([images[0], images[1][:8]])


def test_the_embedded_model_computes_several_images() -> None:
    embedded = Model.load('street-lite')
    engine = open_engine(embedded, 'onnxruntime', batch=2)  # proved with the golden picture
    assert engine.description.batch == 2
    engine.close()


class Mixing:
    """An engine whose second picture has the outputs of the first one."""

    description = EngineDescription('fake', 'none', 'float32', '0', '', batch=2)

    def __init__(self, engine) -> None:
        self._engine = engine

    def infer_batch(self, images):
        return [self._engine.infer(images[0])] * len(images)


def test_pictures_that_mix_are_found(model, one) -> None:
    assert golden_fault(one, model) == ''
    assert 'semantic differs' in golden_fault(Mixing(one), model)


def test_a_network_with_the_size_1_in_its_middle_is_refused(tmp_path) -> None:
    """A learned query is joined to the features of one image."""
    helper, tensor = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node('Reshape', ['image', 'shape'], ['flat']),
        helper.make_node('Concat', ['flat', 'query'], ['joined'], axis=1),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.array([1, 12]), 'shape'),
        onnx.numpy_helper.from_array(np.zeros((1, 4), np.float32), 'query'),
    ]
    graph = helper.make_graph(
        nodes,
        'g',
        [helper.make_tensor_value_info('image', tensor.FLOAT, [1, 2, 2, 3])],
        [helper.make_tensor_value_info('joined', tensor.FLOAT, [1, 16])],
        constants,
    )
    path = tmp_path / 'model.onnx'
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)]), path)
    with pytest.raises(EngineError, match='cannot compute 2 images at once'):
        with_batch(path, 2)


@pytest.mark.parametrize('batch', [0, 33])
def test_batches_out_of_range_are_refused(model, batch: int) -> None:
    with pytest.raises(EngineError, match=f'batch is {batch}; expected 1 to 32'):
        open_engine(model, 'onnxruntime', batch=batch)


def test_other_engines_compute_one_after_the_other(model) -> None:
    pytest.importorskip('openvino')
    engine = open_engine(model, 'openvino', batch=3)
    assert engine.description.batch == 1
    assert len(infer_images(engine, pictures(model, 2))) == 2
    engine.close()
