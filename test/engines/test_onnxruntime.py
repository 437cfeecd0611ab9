import pytest

from panoptic_ros.engines import onnxruntime as engine_module
from panoptic_ros.errors import EngineError
from panoptic_ros.model import Model

pytest.importorskip('onnxruntime')


def test_bf16_is_refused(tiny_model):
    with pytest.raises(EngineError, match='onnxruntime cannot compute in bf16; expected auto'):
        engine_module.open(Model.load(tiny_model), precision='bf16')


def test_a_failing_run_is_an_engine_error(tiny_model, tiny_scene):
    engine = engine_module.open(Model.load(tiny_model))
    engine._outputs = ['no_such_output']
    with pytest.raises(EngineError, match='ONNX Runtime failed') as caught:
        engine.infer(tiny_scene())
    assert '\n' not in str(caught.value)
