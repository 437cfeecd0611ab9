"""Choice of an engine, and what holds for every engine."""

import platform
import sys
import types
from dataclasses import replace

import numpy as np
import pytest

from panoptic_ros import engines
from panoptic_ros.engines import (
    EngineDescription,
    check_image,
    choose_engine,
    open_engine,
)
from panoptic_ros.engines.golden import compare_golden, compare_golden_queries
from panoptic_ros.errors import EngineError, FrameError, ModelError
from panoptic_ros.model import Model, _entry, list_models, write_model


@pytest.fixture(params=['onnxruntime', 'openvino'])
def engine_name(request):
    pytest.importorskip(request.param)
    return request.param


@pytest.fixture
def model(tiny_model):
    return Model.load(tiny_model)


@pytest.fixture
def engine(model, engine_name):
    engine = open_engine(model, engine_name)
    yield engine
    engine.close()


def test_outputs_are_those_of_the_picture(engine, tiny_scene):
    image = tiny_scene()
    outputs = engine.infer(image)
    assert {name: (a.dtype.name, a.shape) for name, a in outputs.items()} == {
        'semantic': ('uint8', (16, 32)),
        'confidence': ('uint8', (8, 16)),
        'centre_score': ('float32', (16,)),
        'centre_index': ('int32', (16,)),
        'offset_xy': ('float32', (2, 8, 16)),
    }
    np.testing.assert_array_equal(outputs['semantic'], image[::2, ::2, 0] // 13)
    np.testing.assert_array_equal(outputs['confidence'], 200)
    np.testing.assert_allclose(outputs['centre_score'][:3], [1, 0.8, 0], atol=0.01)
    assert outputs['centre_index'][:2].tolist() == [4 * 16 + 4, 4 * 16 + 12]


def test_outputs_stay_when_the_next_picture_comes(engine, tiny_scene):
    image = tiny_scene()
    first = engine.infer(image)
    kept = {name: array.copy() for name, array in first.items()}
    engine.infer(np.full_like(image, 77))
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])
        assert array.flags.writeable


def test_picture_may_go_after_the_call(engine, tiny_scene):
    image = tiny_scene()
    expected = engine.infer(image)['semantic']
    for _ in range(20):  # a fresh array each time, freed at once
        np.testing.assert_array_equal(engine.infer(image.copy())['semantic'], expected)


@pytest.mark.parametrize(
    'image',
    [
        np.zeros((32, 64, 3), np.uint16),
        np.zeros((64, 32, 3), np.uint8),
        np.zeros((1, 32, 64, 3), np.uint8),
        np.zeros((32, 64, 3), np.uint8)[..., ::-1],
        np.zeros((32, 64, 3), np.uint8, order='F'),
    ],
)
def test_picture_that_does_not_fit(engine, image):
    with pytest.raises(FrameError, match=r'expected uint8 \(32, 64, 3\) RGB, C-contiguous'):
        engine.infer(image)


def test_closing_twice_and_using_a_closed_engine(engine, tiny_scene):
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match='engine is closed'):
        engine.infer(tiny_scene())


def test_description(engine, engine_name):
    assert engine.description.name == engine_name
    assert engine.description.precision in ('float32', 'bf16')
    assert engine.description.version[0].isdigit()
    assert 'asked for' in str(engine.description)


@pytest.mark.parametrize('name', list_models())
@pytest.mark.parametrize('precision', ['float32', 'int8'])
def test_the_embedded_models_give_their_golden_outputs(name, precision, engine_name):
    if precision not in Model.load(name).card.files:
        pytest.skip(f'{name} has no {precision} file')
    # Opening refuses a model that does not.
    engine = open_engine(Model.load(name), engine_name, precision=precision)
    assert engine.description.precision == precision
    engine.close()


@pytest.mark.parametrize('threads', [1, 2])
def test_threads(model, engine_name, threads, tiny_scene):
    engine = open_engine(model, engine_name, threads)
    assert engine.infer(tiny_scene())['confidence'][0, 0] == 200
    engine.close()


def test_float32_can_be_asked_for(model, engine_name):
    engine = open_engine(model, engine_name, precision='float32')
    assert engine.description.precision == 'float32'
    engine.close()


def damage(model, data):
    (model / 'model.onnx').write_bytes(data)
    entry = _entry(model / 'model.onnx')
    card = (model / 'card.yaml').read_text()
    old = Model.load(model).card.files['float32'].sha256
    (model / 'card.yaml').write_text(card.replace(old, entry.sha256))


@pytest.mark.parametrize('data', [b'', b'not an ONNX file'])
def test_file_that_is_no_network(own_tiny_model, engine_name, data):
    damage(own_tiny_model, data)
    with pytest.raises(ModelError, match=r'model\.onnx|does not fit') as caught:
        open_engine(Model.load(own_tiny_model), engine_name)
    assert '\n' not in str(caught.value)


def test_file_that_was_changed(own_tiny_model, engine_name):
    (own_tiny_model / 'model.onnx').write_bytes(b'something else')
    with pytest.raises(ModelError, match='SHA-256'):
        open_engine(Model.load(own_tiny_model), engine_name)


def rewrite(folder, **fields):
    model = Model.load(folder)
    image, outputs = model.golden()
    write_model(
        folder,
        **{
            'onnx_by_precision': {'float32': folder / 'model.onnx'},
            'label_set': 'cityscapes',
            'size_wh': (64, 32),
            'golden_image': image,
            'golden_outputs': outputs,
            'fusion': model.card.fusion,
        }
        | fields,
    )
    return Model.load(folder)


def test_network_of_another_size(own_tiny_model, engine_name):
    golden = {
        'semantic': np.zeros((16, 16), np.uint8),
        'confidence': np.zeros((8, 8), np.uint8),
        'centre_score': np.zeros(16, np.float32),
        'centre_index': np.zeros(16, np.int32),
        'offset_xy': np.zeros((2, 8, 8), np.float32),
    }
    model = rewrite(
        own_tiny_model,
        size_wh=(32, 32),
        golden_image=np.zeros((32, 32, 3), np.uint8),
        golden_outputs=golden,
    )
    with pytest.raises(ModelError, match=r"input 'image' is uint8 \[1, 32, 64, 3\], expected"):
        open_engine(model, engine_name)


def test_float16_network_in_the_float32_file(own_tiny_model, engine_name):
    half = own_tiny_model / 'half.onnx'
    (own_tiny_model / 'model.float16.onnx').rename(half)
    model = rewrite(own_tiny_model, onnx_by_precision={'float32': half})
    with pytest.raises(ModelError, match="output 'centre_score' is float16"):
        open_engine(model, engine_name)


def test_golden_outputs_that_do_not_come_out(own_tiny_model, engine_name):
    _, outputs = Model.load(own_tiny_model).golden()
    outputs['semantic'][:, :8] = 3
    outputs['confidence'] //= 2
    model = rewrite(own_tiny_model, golden_outputs=outputs)
    with pytest.raises(EngineError, match=r'wrong results .* semantic differs by 0\.25'):
        open_engine(model, engine_name)


@pytest.mark.parametrize(
    ('arguments', 'match'),
    [
        ({'name': 'caffe'}, "unknown engine 'caffe'; expected auto or one of tensorrt"),
        ({'threads': -1}, 'threads is -1'),
        ({'precision': 'int4'}, "unknown precision 'int4'"),
    ],
)
def test_arguments_that_make_no_sense(model, arguments, match):
    with pytest.raises(EngineError, match=match):
        open_engine(model, **arguments)


def install_engines(monkeypatch, machine, **why_not):
    monkeypatch.setattr(engines.platform, 'machine', lambda: machine)
    monkeypatch.setattr(engines, '_unavailable', lambda name: why_not.get(name, ''))


def test_auto_takes_the_fastest_and_says_why(monkeypatch):
    install_engines(monkeypatch, 'x86_64', tensorrt='no GPU', tensorrt_rtx='no RTX')
    assert choose_engine() == (
        'openvino',
        'auto: fastest usable on x86_64; tensorrt: no GPU; tensorrt_rtx: no RTX',
    )


def test_auto_takes_tensorrt_where_it_runs(monkeypatch):
    install_engines(monkeypatch, 'aarch64')
    assert choose_engine()[0] == 'tensorrt'


def test_auto_takes_onnxruntime_before_openvino_where_it_has_cuda(monkeypatch):
    install_engines(monkeypatch, 'x86_64', tensorrt='no GPU', tensorrt_rtx='no RTX')
    monkeypatch.setattr('panoptic_ros.engines.onnxruntime.has_cuda', lambda: True)
    assert choose_engine()[0] == 'onnxruntime'


def test_auto_off_x86_is_onnxruntime(monkeypatch):
    install_engines(monkeypatch, 'aarch64', tensorrt='no GPU', tensorrt_rtx='no GPU')
    assert choose_engine()[0] == 'onnxruntime'


def test_auto_takes_what_is_left(monkeypatch):
    install_engines(
        monkeypatch, 'aarch64', tensorrt='a', tensorrt_rtx='b', onnxruntime='not installed'
    )
    assert choose_engine()[0] == 'openvino'


def test_auto_with_nothing_installed_names_all(monkeypatch, model):
    install_engines(
        monkeypatch, 'x86_64', tensorrt='a', tensorrt_rtx='d', openvino='b', onnxruntime='c'
    )
    expected = 'tensorrt: a; tensorrt_rtx: d; openvino: b; onnxruntime: c'
    with pytest.raises(EngineError, match=expected):
        open_engine(model)


def test_engine_whose_runtime_is_not_installed(monkeypatch, model, engine_name):
    monkeypatch.setitem(sys.modules, engine_name, None)  # makes its import fail
    with pytest.raises(EngineError, match=f'engine {engine_name} cannot run here: {engine_name}'):
        open_engine(model, engine_name)


def test_engine_module_that_is_not_there(monkeypatch, model):
    monkeypatch.setattr(engines, 'ENGINES', (*engines.ENGINES, 'abacus'))
    with pytest.raises(EngineError, match='abacus cannot run here: not part of this version'):
        open_engine(model, 'abacus')


def test_arguments_reach_the_engine_module(monkeypatch, model):
    fake = types.ModuleType('panoptic_ros.engines.fake')
    fake.unavailable = lambda: ''
    fake.open = lambda model, **given: given
    monkeypatch.setitem(sys.modules, 'panoptic_ros.engines.fake', fake)
    monkeypatch.setattr(engines, 'ENGINES', ('fake',))
    assert open_engine(model, 'fake', 3, 'bf16') == {
        'threads': 3,
        'precision': 'bf16',
        'reason': 'asked for',
    }


def test_check_image_accepts_what_fits():
    check_image(np.zeros((2, 4, 3), np.uint8), (4, 2))


ALL_THINGS = np.ones(256, bool)


def golden_pair():
    golden = {
        'semantic': np.zeros((4, 4), np.uint8),
        'confidence': np.full((2, 2), 100, np.uint8),
        'centre_score': np.array([0.9, 0.5, 0.01], np.float32),
        'centre_index': np.array([0, 3, 1], np.int32),
        'offset_xy': np.zeros((2, 2, 2), np.float32),
    }
    return {name: array.copy() for name, array in golden.items()}, golden


def test_equal_outputs_do_not_differ():
    difference = compare_golden(*golden_pair(), 0.1, ALL_THINGS)
    assert set(vars(difference).values()) == {0.0}
    assert difference.exceeded() == ''


def test_differences_are_measured():
    outputs, golden = golden_pair()
    outputs['semantic'][0] = 5
    outputs['confidence'][0, 0] = 60
    outputs['offset_xy'][0], outputs['offset_xy'][1] = 3, 4
    difference = compare_golden(outputs, golden, 0.1, ALL_THINGS)
    assert vars(difference) == {'semantic': 0.25, 'confidence': 10.0, 'centres': 0, 'offset': 5}
    assert 'offset differs by 5 (at most 0.5)' in difference.exceeded()
    assert 'confidence differs by 10 (at most 8)' in difference.exceeded()
    # In integers twice as much is allowed.
    assert difference.exceeded(2.0) == (
        'semantic differs by 0.25 (at most 0.1), offset differs by 5 (at most 1)'
    )


def test_offsets_count_where_things_are():
    outputs, golden = golden_pair()
    golden['semantic'][:2, :2] = 13  # one of the four coarser cells
    outputs['offset_xy'][:] = 9
    outputs['offset_xy'][:, 0, 0] = 3, 4
    is_thing = np.arange(256) == 13
    assert compare_golden(outputs, golden, 0.1, is_thing).offset == 5
    assert compare_golden(outputs, golden, 0.1, ~ALL_THINGS).offset == 0


def test_nan_is_too_much():
    outputs, golden = golden_pair()
    outputs['offset_xy'][:] = np.nan
    assert 'offset differs by nan' in compare_golden(outputs, golden, 0.1, ALL_THINGS).exceeded()


def test_centre_may_move_one_cell_and_no_farther():
    # A grid of 2 rows and 10 columns; the golden centre is in row 0, column 4.
    def centres(found):
        outputs, golden = golden_pair()
        for arrays, at in ((outputs, found), (golden, 4)):
            arrays['confidence'] = np.zeros((2, 10), np.uint8)
            arrays['offset_xy'] = np.zeros((2, 2, 10), np.float32)
            arrays['centre_score'] = np.array([0.9], np.float32)
            arrays['centre_index'] = np.array([at], np.int32)
        return compare_golden(outputs, golden, 0.1, ALL_THINGS).centres

    assert [centres(at) for at in (4, 5, 3, 14, 15)] == [0, 0, 0, 0, 0]
    assert [centres(at) for at in (6, 2, 16)] == [1, 1, 1]


def test_centres_below_the_threshold_do_not_count():
    outputs, golden = golden_pair()
    golden['centre_score'][:] = 0.05
    assert compare_golden(outputs, golden, 0.1, ALL_THINGS).centres == 0
    golden['centre_score'][:] = 0.2
    outputs['centre_score'][:] = 0.06  # above half the threshold: still found
    assert compare_golden(outputs, golden, 0.1, ALL_THINGS).centres == 0
    outputs['centre_score'][:] = 0.01
    assert compare_golden(outputs, golden, 0.1, ALL_THINGS).centres == 1


def test_queries_are_compared_by_their_probabilities():
    golden = {
        'class_logits': np.zeros((2, 3), np.float32),
        'mask_logits': np.zeros((2, 4, 4), np.float32),
    }
    assert not compare_golden_queries(golden, golden).exceeded()
    certain = golden['class_logits'] + np.float32([0, 0, 20])
    found = compare_golden_queries(golden | {'class_logits': certain}, golden)
    assert found.classes == pytest.approx(2 / 3)
    assert found.exceeded() == 'classes differs by 0.667 (at most 0.05)'
    masks = golden['mask_logits'].copy()
    masks[0] = np.nan
    assert 'masks' in compare_golden_queries(golden | {'mask_logits': masks}, golden).exceeded()


def test_an_engine_with_wrong_queries_is_refused(own_tiny_query_model, engine_name):
    folder = own_tiny_query_model
    model = Model.load(folder)
    image, outputs = model.golden()
    wrong = outputs | {'mask_logits': -outputs['mask_logits']}
    model = write_model(
        folder,
        onnx_by_precision={'float32': folder / 'model.onnx'},
        head='queries',
        label_set='cityscapes',
        size_wh=(64, 32),
        golden_image=image,
        golden_outputs=wrong,
    )
    with pytest.raises(EngineError, match=r'wrong results .*masks differs by'):
        open_engine(model, engine_name)


def test_description_in_words():
    description = EngineDescription('openvino', 'a CPU', 'bf16', '2026.1', 'auto')
    assert str(description) == 'openvino 2026.1, bf16, on a CPU (auto)'
    assert str(replace(description, reason='')) == 'openvino 2026.1, bf16, on a CPU'


def test_auto_goes_on_when_an_engine_fails(tiny_model, monkeypatch):
    from panoptic_ros.engines import openvino

    def fail(*args, **kwargs):
        raise EngineError('it cannot compile this')

    monkeypatch.setattr(openvino, 'open', fail)
    monkeypatch.setattr(platform, 'machine', lambda: 'x86_64')
    engine = open_engine(Model.load(tiny_model))
    engine.close()
    assert engine.description.name == 'onnxruntime'
    assert 'openvino: it cannot compile this' in engine.description.reason
    with pytest.raises(EngineError, match='it cannot compile this'):
        open_engine(Model.load(tiny_model), 'openvino')
