import numpy as np
import pytest

onnx = pytest.importorskip('onnx')
ort = pytest.importorskip('onnxruntime')

from panoptic_ros.engines.grid_samples import widen_grid_samples  # noqa: E402

PICTURE = np.arange(12, dtype=np.float16).reshape(1, 1, 3, 4)
PLACES = np.array([[[[-1, -1], [1, 1], [0, 0]]]], np.float16)  # two corners and the middle


def network(dtype):
    """Return two samplings, one after the other, as an ONNX file of one type."""
    nodes = [
        onnx.helper.make_node('GridSample', ['x', 'grid'], ['between'], align_corners=1),
        onnx.helper.make_node('GridSample', ['between', 'grid'], ['y'], align_corners=1),
    ]
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = onnx.helper.make_graph(
        nodes,
        'sampling',
        [onnx.helper.make_tensor_value_info('x', element, PICTURE.shape)],
        [onnx.helper.make_tensor_value_info('y', element, [1, 1, 1, 3])],
        [onnx.numpy_helper.from_array(PLACES.astype(dtype), 'grid')],
    )
    opsets = [onnx.helper.make_opsetid('', 18)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize('is_file', [True, False])
def test_float16_samples_are_taken_in_float32(is_file, tmp_path):
    plain = network(np.float16)
    path = tmp_path / 'network.onnx'
    onnx.save(plain, path)
    widened = widen_grid_samples(path if is_file else plain.SerializeToString())
    inferred = onnx.shape_inference.infer_shapes(
        onnx.load_from_string(widened), check_type=True, strict_mode=True
    ).graph
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.value_info}
    samples = [node for node in inferred.node if node.op_type == 'GridSample']
    assert len(samples) == 2
    for node in samples:
        names = (*node.input, *node.output)
        assert {types[name] for name in names} == {onnx.TensorProto.FLOAT}
    session = ort.InferenceSession(widened, providers=['CPUExecutionProvider'])
    (found,) = session.run(['y'], {'x': PICTURE})
    assert found.dtype == np.float16
    # 0, 11 and 5.5 after the first sampling; its own corners and middle after the second.
    np.testing.assert_array_equal(found.ravel(), [0, 5.5, 11])


def test_a_file_without_float16_samples_stays_as_it_is(tmp_path):
    assert widen_grid_samples(network(np.float32).SerializeToString()) is None
