import numpy as np
import pytest

from panoptic_ros.engines import onnxruntime as engine_module
from panoptic_ros.errors import EngineError
from panoptic_ros.model import Model

ort = pytest.importorskip('onnxruntime')


def test_bf16_is_refused(tiny_model):
    with pytest.raises(EngineError, match='onnxruntime cannot compute in bf16; expected auto'):
        engine_module.open(Model.load(tiny_model), precision='bf16')


def test_a_failing_run_is_an_engine_error(tiny_model, tiny_scene):
    engine = engine_module.open(Model.load(tiny_model))
    engine._run = lambda image: engine._session.run(['no_such_output'], {'image': image})
    with pytest.raises(EngineError, match='ONNX Runtime failed') as caught:
        engine.infer(tiny_scene())
    assert '\n' not in str(caught.value)


def test_bound_outputs_are_those_of_a_plain_run(tiny_model, tiny_scene):
    model = Model.load(tiny_model)
    session = ort.InferenceSession(model.onnx_path(), providers=[engine_module.CPU])
    names = [output.name for output in session.get_outputs()]
    image = tiny_scene()[None]
    bound = engine_module.run_bound(session, names, image)
    for array, expected in zip(bound, session.run(names, {'image': image}), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_fixed_buffers_give_the_outputs_of_plain_runs(tiny_model, tiny_scene):
    engine = engine_module.OnnxRuntimeEngine(Model.load(tiny_model))
    session = engine._session
    inputs, outputs = (
        engine_module._specs(nodes) for nodes in (session.get_inputs(), session.get_outputs())
    )
    run = engine_module.FixedBuffers(session, inputs, outputs, 'cpu')
    for image in (tiny_scene()[None], np.zeros_like(tiny_scene())[None], tiny_scene()[None]):
        expected = session.run(list(outputs), {'image': image})
        for array, plain in zip(run(image), expected, strict=True):
            np.testing.assert_array_equal(array, plain)


def test_cuda_that_does_not_load_leaves_the_cpu(tiny_model, monkeypatch):
    monkeypatch.setattr(engine_module, 'has_cuda', lambda: True)
    engine = engine_module.open(Model.load(tiny_model), reason='asked for')
    assert not engine.is_on_gpu
    assert engine.description.precision == 'float32'
    assert 'the CUDA provider does not load' in engine.description.reason
    engine.close()


def test_the_cuda_provider_computes_float32_without_tf32(tiny_model, monkeypatch):
    """With a CUDA graph, and without one where the provider cannot run all nodes."""
    asked = []
    load = ort.InferenceSession

    def record(network, options, providers):
        (name, settings), *others = providers
        asked.append((name, dict(settings), others))
        if 'enable_cuda_graph' in settings:
            raise engine_module.runtime_errors()[0]('not all nodes')
        return load(network, options, others)

    monkeypatch.setattr(ort, 'InferenceSession', record)
    engine_module.OnnxRuntimeEngine(Model.load(tiny_model), use_cuda=True).close()
    cuda, cpu = 'CUDAExecutionProvider', ['CPUExecutionProvider']
    assert asked == [
        (cuda, {'use_tf32': '0', 'enable_cuda_graph': '1'}, cpu),
        (cuda, {'use_tf32': '0'}, cpu),
    ]


def test_float16_samples_are_widened_where_they_keep_a_cuda_graph_from_being_made(
    tiny_model, monkeypatch
):
    tried = []
    load = ort.InferenceSession
    path = Model.load(tiny_model).onnx_path()

    def refuse_the_file(network, options, providers):
        tried.append(network)
        if network == path:
            raise engine_module.runtime_errors()[0]('not all nodes')
        return load(path, options, providers[1:])

    monkeypatch.setattr(ort, 'InferenceSession', refuse_the_file)
    monkeypatch.setattr(engine_module, 'widen_grid_samples', lambda network: b'widened')
    engine_module.OnnxRuntimeEngine(Model.load(tiny_model), use_cuda=True).close()
    assert tried == [path, b'widened']
