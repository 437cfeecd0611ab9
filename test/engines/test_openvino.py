import pytest

from panoptic_ros.engines import openvino as engine_module
from panoptic_ros.errors import EngineError
from panoptic_ros.model import Model

pytest.importorskip('openvino')


@pytest.fixture
def model(tiny_model):
    return Model.load(tiny_model)


@pytest.fixture
def pretend_bf16(monkeypatch):
    return lambda has: monkeypatch.setattr(engine_module, '_has_bf16', lambda: has)


def test_auto_without_bf16_is_float32_and_says_so(model, pretend_bf16):
    pretend_bf16(False)
    description = engine_module.open(model, reason='asked for').description
    assert description.precision == 'float32'
    assert description.reason == 'asked for; the processor has no bf16'


def test_bf16_where_there_is_none_is_an_error(model, pretend_bf16):
    pretend_bf16(False)
    with pytest.raises(EngineError, match='does not compute in bf16; choose precision auto'):
        engine_module.open(model, precision='bf16')


def test_auto_falls_back_if_bf16_fails_the_golden_picture(model, pretend_bf16, monkeypatch):
    pretend_bf16(True)
    monkeypatch.setattr(engine_module, 'golden_fault', lambda engine, model: 'semantic is off')
    description = engine_module.open(model, reason='auto').description
    assert description.precision == 'float32'
    assert description.reason == 'auto; not bf16: semantic is off'


@pytest.mark.skipif(
    not engine_module.unavailable() and not engine_module._has_bf16(),
    reason='this processor does not compute in bf16',
)
def test_bf16_where_the_processor_has_it(model):
    for precision in ('auto', 'bf16'):
        assert engine_module.open(model, precision=precision).description.precision == 'bf16'


class FailingCore:
    """Fails to compile unless snippets are off, as OpenVINO does with Mask2Former."""

    def __init__(self, message):
        self.message = message
        self.options = []

    def compile_model(self, network, device, options):
        self.options.append(options)
        if 'SNIPPETS_MODE' not in options:
            raise RuntimeError(self.message)
        return 'compiled'


def test_networks_that_snippets_cannot_compile_are_compiled_without_them():
    core = FailingCore('Check failed: ReduceDecomposition: unsupported')
    assert engine_module._compile(core, None, {'A': 1}) == (
        'compiled',
        'compiled without snippets',
    )
    assert core.options == [{'A': 1}, {'A': 1, 'SNIPPETS_MODE': 'DISABLE'}]


def test_other_failures_to_compile_are_not_retried():
    core = FailingCore('out of memory')
    with pytest.raises(RuntimeError, match='out of memory'):
        engine_module._compile(core, None, {})
    assert len(core.options) == 1
