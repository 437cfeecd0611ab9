"""Tests of ONNX Runtime with CUDA: ``pytest -m gpu``. Skipped where the provider does not load."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest

from panoptic_ros.engines import onnxruntime as engine_module
from panoptic_ros.engines.tensorrt.cuda import CudaRuntime
from panoptic_ros.model import Model, list_models

pytest.importorskip('onnxruntime')
pytestmark = pytest.mark.gpu

BATCH = 4


@pytest.fixture(scope='module')
def model():
    """Return the shipped model."""
    if 'street-lite' not in list_models():
        pytest.skip('the model street-lite is not in models/')
    return Model.load('street-lite')


@pytest.fixture(scope='module')
def engine(model):
    """Return the engine as the node opens it, verified with the golden image."""
    with closing(engine_module.open(model)) as engine:
        if not engine.is_on_gpu:
            pytest.skip(f'it runs on {engine.description}')
        yield engine


@pytest.fixture(scope='module')
def images(model):
    """Return the golden image, the same mirrored, and black."""
    golden, _ = model.golden()
    return [golden, np.ascontiguousarray(golden[:, ::-1]), np.zeros_like(golden)]


def test_the_graph_is_captured(engine):
    assert engine.description.reason.endswith('CUDA graph'), engine.description.reason
    assert 'no CUDA graph' not in engine.description.reason


def test_outputs_are_equal_with_and_without_the_graph(engine, model, images):
    precision = engine.description.precision
    plain = engine_module.OnnxRuntimeEngine(
        model, precision=precision, use_cuda=True, use_graph=False
    )
    with closing(plain):
        for image in (*images, images[0]):
            expected = plain.infer(image)
            for name, array in engine.infer(image).items():
                np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_outputs_are_kept_when_the_next_image_is_computed(engine, images):
    first = engine.infer(images[0])
    copies = {name: array.copy() for name, array in first.items()}
    engine.infer(images[1])
    for name, array in first.items():
        np.testing.assert_array_equal(array, copies[name])


def test_another_thread_gets_the_same_outputs(engine, images):
    expected = engine.infer(images[1])
    with ThreadPoolExecutor(1) as executor:
        for image in (images[0], images[1]):
            found = executor.submit(engine.infer, image).result()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])


def test_rows_of_a_batch_are_those_of_single_images(engine, model, images):
    pytest.importorskip('onnx')
    with closing(engine_module.open(model, batch=BATCH)) as several:
        for image, outputs in zip(images, several.infer_batch(images), strict=True):
            single = engine.infer(image)
            agreement = (outputs['semantic'] == single['semantic']).mean()
            assert agreement > 0.99  # other kernels for another batch round differently


def test_device_memory_does_not_grow_over_a_thousand_frames(engine, images):
    cuda = CudaRuntime()
    for _ in range(100):
        engine.infer(images[0])
    free_before, _ = cuda.memory()
    for _ in range(1000):
        engine.infer(images[0])
    free_after, _ = cuda.memory()
    assert free_before - free_after <= 1 << 20
