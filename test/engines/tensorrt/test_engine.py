"""Build, cache, load, run and verify over the checked fake, and all that can go wrong."""

import os
import resource
import signal
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from panoptic_ros.engines import infer_images, open_engine, tensorrt
from panoptic_ros.engines.tensorrt import BuildOptions, EngineCache, build_engine, open_cached
from panoptic_ros.engines.tensorrt.build import _portable_gpus
from panoptic_ros.errors import EngineError, FrameError, ModelError
from panoptic_ros.model import Model, write_model
from panoptic_ros.segmenter import Segmenter

NOTHING = [0, 0, 0, 0, 0]


@pytest.fixture
def model(tiny_model):
    return Model.load(tiny_model)


def onnx_runtime_outputs(model, image):
    session = onnxruntime.InferenceSession(
        model.onnx_path('float16'), providers=['CPUExecutionProvider']
    )
    names = [output.name for output in session.get_outputs()]
    arrays = session.run(names, {'image': image[None]})
    return {name: array[0] for name, array in zip(names, arrays, strict=True)}


def test_end_to_end_is_bit_equal_to_onnx_runtime(
    install, version, model, world, cudart, live, tiny_scene
):
    install(version)
    launches = cudart.stub_launches()
    engine = open_engine(model, 'tensorrt')
    image = tiny_scene()
    for picture in (image, image[::-1].copy(), np.full_like(image, 77), image):
        outputs = engine.infer(picture)
        expected = onnx_runtime_outputs(model, picture)
        assert outputs.keys() == expected.keys()
        for name, array in outputs.items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name])
    assert cudart.stub_launches() - launches == 5  # the golden picture and these four
    assert str(engine.description) == (
        f'tensorrt {version}, float16, on Stub GPU (asked for; engine built now: there was none; '
        'CUDA graph)'
    )
    assert world.builds == 1
    engine.close()
    engine.close()
    assert live() == NOTHING


def test_second_time_it_comes_from_the_cache(install, version, model, world, tiny_scene):
    install(version)
    tensorrt.open(model).close()
    engine = tensorrt.open(model, reason='auto')
    assert world.builds == 1
    assert engine.description.reason == 'auto; CUDA graph'
    assert engine.infer(tiny_scene())['semantic'].shape == (16, 32)
    engine.close()


def test_a_robot_can_segment_with_it(install, model, tiny_scene):
    install()
    engine = tensorrt.open(model)
    result = Segmenter(model, engine).segment(tiny_scene((128, 64)), 'rgb8')
    assert sorted(result.panoptic.segments.class_id.tolist()) == [0, 10, 13, 13]
    engine.close()


def test_the_network_is_strongly_typed(install, version, model, world):
    fake = install(version)
    tensorrt.open(model).close()
    assert world.last_flags == 1 << int(fake.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert world.last_config._set == []


def test_outputs_are_the_callers_to_keep(install, model, tiny_scene):
    install()
    engine = tensorrt.open(model)
    first = engine.infer(tiny_scene())
    kept = {name: array.copy() for name, array in first.items()}
    engine.infer(np.full_like(tiny_scene(), 99))
    engine.close()
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])


def test_wrong_pictures_and_closed_engines_are_refused(install, model, tiny_scene):
    install()
    engine = tensorrt.open(model)
    with pytest.raises(FrameError, match='expected uint8'):
        engine.infer(tiny_scene()[::2])
    engine.close()
    with pytest.raises(EngineError, match='is closed; open another one'):
        engine.infer(tiny_scene())


@pytest.mark.parametrize('precision', ['bf16', 'float32'])
def test_other_precisions_are_refused(install, model, precision):
    install()
    with pytest.raises(EngineError, match=f'cannot compute in {precision}; expected auto'):
        tensorrt.open(model, precision=precision)


# What is missing.


def test_without_tensorrt(model):
    assert 'tensorrt cannot be imported' in tensorrt.unavailable()
    with pytest.raises(EngineError, match=r"pip install 'panoptic_ros\[tensorrt\]'"):
        tensorrt.open(model)


def test_old_tensorrt(install):
    install().__version__ = '8.6.1'
    assert tensorrt.unavailable().startswith('tensorrt 8.6.1 is installed, expected 10.3')


def test_no_cuda_runtime(install, monkeypatch, tmp_path):
    install()
    monkeypatch.setenv('PANOPTIC_CUDART', str(tmp_path / 'absent.so'))
    assert 'absent.so' in tensorrt.unavailable()
    assert 'cannot be loaded; expected the path of a libcudart' in tensorrt.unavailable()


def test_no_gpu(install, cudart):
    install()
    cudart.stub_set_devices(0)
    assert 'cudaErrorNoDevice (100)' in tensorrt.unavailable()
    assert 'check nvidia-smi' in tensorrt.unavailable()


def test_driver_too_old(install, cudart):
    install()
    cudart.stub_fail(b'cudaGetDeviceCount', 0, 35, 0)
    assert 'driver is missing or older than this CUDA runtime' in tensorrt.unavailable()


def test_all_there(install, version):
    install(version)
    assert tensorrt.unavailable() == ''


# Parsing and building.


def test_parser_errors_are_told_node_by_node(install, version, model, world):
    install(version)
    world.parser_errors = [('/topk', 'TopK', 'K is\ntoo large'), ('', 'Foo', 'no such operator')]
    with pytest.raises(EngineError) as caught:
        tensorrt.open(model)
    assert 'node /topk (TopK): K is too large; node 7 (Foo): no such operator' in str(caught.value)


def test_a_build_that_fails_says_what_tensorrt_said(install, version, model, world, cache_folder):
    install(version)
    world.build_fails = True
    with pytest.raises(EngineError, match=r'cannot build .* any implementation for node'):
        tensorrt.open(model)
    assert not list(cache_folder.glob('*.engine'))


def float32_inside(path):
    """Put a float32 convolution into the tiny float16 network, inputs and outputs as they were."""
    onnx_model = onnx.load(path)
    graph = onnx_model.graph
    for node in graph.node:
        node.input[:] = ['heat_again' if name == 'heat' else name for name in node.input]
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), 'weight')
    graph.initializer.append(weight)
    at = next(i for i, node in enumerate(graph.node) if 'heat' in node.output) + 1
    for node in (
        helper.make_node('Cast', ['heat_after'], ['heat_again'], to=TensorProto.FLOAT16),
        helper.make_node('Conv', ['heat_wide', 'weight'], ['heat_after'], name='wide_conv'),
        helper.make_node('Cast', ['heat'], ['heat_wide'], to=TensorProto.FLOAT),
    ):
        graph.node.insert(at, node)
    onnx.save(onnx_model, path)


def rewrite(model, path):
    image, outputs = model.golden()
    write_model(
        model.folder,
        onnx_by_precision={'float16': path},
        label_set='cityscapes',
        size_wh=model.card.size_wh,
        golden_image=image,
        golden_outputs=outputs,
    )
    return Model.load(model.folder)


def test_float32_weights_are_refused(install, own_tiny_model, tmp_path):
    install()
    model = Model.load(own_tiny_model)
    path = tmp_path / 'wide.onnx'
    path.write_bytes(model.onnx_path('float16').read_bytes())
    float32_inside(path)
    with pytest.raises(EngineError, match='computes in float32 in 1 layers, first wide_conv'):
        tensorrt.open(rewrite(model, path))


def test_a_float32_file_in_the_place_of_the_float16_one(install, own_tiny_model):
    install()
    model = Model.load(own_tiny_model)
    with pytest.raises(ModelError, match=r"'centre_score' is float32 .* expected float16"):
        tensorrt.open(rewrite(model, model.onnx_path('float32')))


def test_a_model_without_float16_file(install, own_tiny_model):
    install()
    model = Model.load(own_tiny_model)
    files = {'float32': model.card.files['float32']}
    with pytest.raises(ModelError, match='has no float16 file'):
        tensorrt.open(replace(model, card=replace(model.card, files=files)))


def test_progress_of_the_outer_phase_is_told(install, model):
    install()
    seen = []
    tensorrt.open(model, on_progress=lambda *step: seen.append(step)).close()
    assert seen == [('Building', done, 2) for done in (0, 1, 2, 2)]


def test_a_build_can_be_cancelled(install, version, model, world, live, cache_folder):
    install(version)
    cancel = threading.Event()
    world.during_build = cancel.set
    with pytest.raises(KeyboardInterrupt):
        tensorrt.open(model, cancel=cancel)
    assert not list(cache_folder.glob('*.engine'))
    assert live() == NOTHING


def test_ctrl_c_cancels_without_an_exception_inside_tensorrt(install, model, world):
    install()
    survived = []

    def press():
        os.kill(os.getpid(), signal.SIGINT)
        survived.append(True)

    world.during_build = press
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        tensorrt.open(model)
    assert survived == [True]
    assert signal.getsignal(signal.SIGINT) is before


# Options.


def test_options_reach_the_builder(install, version, model, world):
    fake = install(version)
    options = BuildOptions((('builder_optimization_level', '5'), ('flag', 'GPU_FALLBACK')))
    opened = build_engine(model, options)
    assert 'builder_optimization_level=5, flag=GPU_FALLBACK' in opened.engine.description.reason
    config = world.last_config
    assert config._value_builder_optimization_level == 5
    assert config._set == [fake.BuilderFlag.GPU_FALLBACK]
    opened.engine.close()


@pytest.mark.parametrize('option', [('no_such_option', '1'), ('flag', 'NO_SUCH_FLAG')])
def test_unknown_builder_options_are_refused(install, model, option):
    install()
    with pytest.raises(EngineError, match=f'no builder option {option[0]}={option[1]}'):
        build_engine(model, BuildOptions(builder_options=(option,)))


@pytest.mark.parametrize(
    ('compute_capability', 'expected'),
    [
        ('', ['SM80', 'SM89']),
        ('8.9', ['SM80', 'SM89']),
        ('7.5', ['CURRENT']),
        ('9.0', ['CURRENT']),
    ],
)
def test_a_portable_plan_is_for_known_gpus_or_the_one_here(compute_capability, expected):
    members = dict.fromkeys(('NONE', 'CURRENT', 'SM75', 'SM80', 'SM89'))
    trt = SimpleNamespace(ComputeCapability=SimpleNamespace(__members__=members))
    assert _portable_gpus(trt, compute_capability) == expected


def test_what_was_built_last_is_what_runs(install, model, world):
    install()
    build_engine(model, BuildOptions()).engine.close()
    build_engine(model, BuildOptions((('builder_optimization_level', '5'),))).engine.close()
    engine = tensorrt.open(model, reason='auto')
    assert engine.description.reason == 'auto; built with builder_optimization_level=5; CUDA graph'
    engine.close()
    build_engine(model, BuildOptions()).engine.close()  # there already
    engine = tensorrt.open(model, reason='auto')
    assert engine.description.reason == 'auto; CUDA graph'
    engine.close()
    assert world.builds == 2


def test_a_plan_for_several_images_gives_what_one_for_one_image_gives(
    install, version, model, world, tiny_scene, live
):
    install(version)
    build_engine(model, BuildOptions(batch=3)).serve().close()
    engine = open_engine(model, 'tensorrt', batch=3)
    assert world.builds == 1
    assert engine.description.batch == 3
    assert str(engine.description).endswith(', 3 images at once (asked for; CUDA graph)')
    image = tiny_scene()
    images = [image, image[::-1].copy(), np.full_like(image, 77), image, image[:, ::-1].copy()]
    for outputs, picture in zip(infer_images(engine, images), images, strict=True):
        for name, expected in onnx_runtime_outputs(model, picture).items():
            np.testing.assert_allclose(outputs[name], expected, rtol=1e-2, atol=1e-2)
    engine.close()
    engine = open_engine(model, 'tensorrt')
    assert world.builds == 2  # plans for another number of images are not taken
    assert engine.description.batch == 1
    engine.close()
    assert live() == NOTHING


@pytest.mark.parametrize('batch', [0, 33])
def test_batches_out_of_range(batch):
    with pytest.raises(EngineError, match=f'batch is {batch}; expected 1 to 32'):
        BuildOptions(batch=batch)


def test_timing_cache_is_kept_and_used(install, model, world, cache_folder):
    install()
    build_engine(model, BuildOptions()).engine.close()
    (path,) = cache_folder.glob('timing-*.cache')
    assert path.read_bytes() == b'+'
    build_engine(model, BuildOptions(), force=True).engine.close()
    assert path.read_bytes() == b'++'
    world.timing_cache_fits = False
    build_engine(model, BuildOptions(), force=True).engine.close()
    assert path.read_bytes() == b'+'  # begun anew


# Verification.


def test_wrong_results_are_refused(install, version, model, world, live):
    install(version)
    world.spoil = True
    with pytest.raises(EngineError) as caught:
        tensorrt.open(model)
    assert 'semantic differs by 1 (at most 0.05), instances differs by 1' in str(caught.value)
    assert live() == NOTHING
    with pytest.raises(EngineError):  # also from the cache
        tensorrt.open(model)
    assert world.builds == 1
    opened = open_cached(model)
    assert opened.fault
    opened.engine.close()


def test_right_results_measure_so(install, model):
    install()
    opened = build_engine(model, BuildOptions())
    assert opened.verification.semantic_agreement == 1
    assert opened.verification.instance_iou == 1
    assert opened.fault == ''
    assert EngineCache().entries()[0].verification == opened.verification
    opened.engine.close()


# CUDA failing.


@pytest.mark.parametrize(
    ('function', 'skip'),
    [
        (b'cudaSetDevice', 0),
        (b'cudaStreamCreateWithFlags', 0),
        (b'cudaMalloc', 0),
        (b'cudaMalloc', 1),
        (b'cudaHostAlloc', 0),
        (b'cudaHostAlloc', 1),
        (b'cudaMemcpyAsync', 0),
        (b'cudaMemcpyAsync', 1),
        (b'cudaStreamSynchronize', 0),
        (b'cudaGraphLaunch', 0),
    ],
)
def test_whatever_fails_when_opening_nothing_is_left(install, model, cudart, live, function, skip):
    install()
    tensorrt.open(model).close()
    cudart.stub_fail(function, skip, 2, 0)
    with pytest.raises(EngineError) as caught:
        tensorrt.open(model)
    message = str(caught.value)
    assert message.startswith(f'{function.decode()} failed with cudaErrorMemoryAllocation (2)')
    assert 'close other programs' in message
    assert live() == NOTHING
    tensorrt.open(model).close()  # the fault was passing


@pytest.mark.parametrize(
    ('function', 'skip'),
    [
        (b'cudaStreamBeginCapture', 0),
        (b'cudaMemcpyAsync', 2),
        (b'cudaMemcpyAsync', 3),
        (b'cudaStreamEndCapture', 0),
        (b'cudaGraphInstantiateWithFlags', 0),
    ],
)
def test_a_failing_capture_leaves_the_plain_way(
    install, version, model, cudart, live, tiny_scene, function, skip
):
    install(version)
    tensorrt.open(model).close()
    launches = cudart.stub_launches()
    cudart.stub_fail(function, skip, 901, 0)
    engine = tensorrt.open(model, reason='auto')
    assert 'no CUDA graph: ' + function.decode() in engine.description.reason
    expected = onnx_runtime_outputs(model, tiny_scene())
    for name, array in engine.infer(tiny_scene()).items():
        np.testing.assert_array_equal(array, expected[name])
    assert cudart.stub_launches() == launches
    engine.close()
    assert live() == NOTHING


def test_execution_that_fails_while_captured(install, model, world, live):
    install()
    tensorrt.open(model).close()
    world.runs_before_failure = 1
    with pytest.raises(EngineError, match='TensorRT cannot run the engine'):
        tensorrt.open(model)  # the plain way fails too
    assert live() == NOTHING


def test_no_execution_context(install, model, world, live):
    install()
    tensorrt.open(model).close()
    world.context_fails = True
    with pytest.raises(EngineError, match='cannot create an execution context'):
        tensorrt.open(model)
    assert live() == NOTHING


def test_one_failing_frame_is_one_failing_frame(install, model, cudart, tiny_scene):
    install()
    engine = tensorrt.open(model)
    cudart.stub_fail(b'cudaStreamSynchronize', 0, 2, 0)
    with pytest.raises(EngineError, match='cudaStreamSynchronize failed'):
        engine.infer(tiny_scene())
    np.testing.assert_array_equal(
        engine.infer(tiny_scene())['semantic'],
        onnx_runtime_outputs(model, tiny_scene())['semantic'],
    )
    engine.close()


def test_a_lost_device_can_be_configured_again(install, model, cudart, live, tiny_scene, caplog):
    install()
    engine = tensorrt.open(model)
    resets = cudart.stub_resets()
    cudart.stub_fail(b'cudaStreamSynchronize', 0, 700, 1)
    for _ in range(2):
        with pytest.raises(EngineError, match=r'cudaErrorIllegalAddress .* cleanup, then'):
            engine.infer(tiny_scene())
    engine.close()  # every call fails now; this does not raise
    assert 'cudaErrorIllegalAddress' in caplog.text
    assert cudart.stub_resets() == resets + 1
    assert live() == NOTHING
    engine = tensorrt.open(model)
    assert engine.infer(tiny_scene())['semantic'].shape == (16, 32)
    engine.close()
    assert cudart.stub_resets() == resets + 1


@pytest.mark.slow
def test_ten_thousand_cycles_leave_nothing(install, model, live):
    install()
    tensorrt.open(model).close()
    cache = EngineCache()
    (entry,) = cache.entries()
    plan, here = cache.load(entry), tensorrt.Installation.find()
    for cycle in range(10_000):
        tensorrt.TensorRtEngine(here, plan, model).close()
        if cycle == 1_000:
            before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert live() == NOTHING
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    assert grown_kib < 4096  # 9,000 objects of half a kilobyte


def test_the_plan_lies_in_the_folder_that_was_asked_for(install, version, model, tmp_path):
    install(version)
    folder = tmp_path / 'engines'
    open_engine(model, 'tensorrt', cache_folder=str(folder)).close()
    assert [path for path in folder.rglob('*') if path.is_file()]
