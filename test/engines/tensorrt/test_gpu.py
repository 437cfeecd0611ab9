"""Tests that need a GPU: ``pytest -m gpu``. Each library that finds none is skipped by name."""

import os
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from panoptic_ros.cli.engine.benchmark import measure
from panoptic_ros.datasets.cityscapes import CityscapesPanoptic
from panoptic_ros.engines import tensorrt
from panoptic_ros.engines.onnxruntime import OnnxRuntimeEngine
from panoptic_ros.evaluation.quality import PanopticQuality
from panoptic_ros.model import Model, list_models
from panoptic_ros.segmenter import Segmenter

DATA = Path(os.environ.get('PANOPTIC_DATA', Path(__file__).parents[4] / 'shared' / 'data'))
IMAGES = 50

pytestmark = pytest.mark.gpu


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Return the cache folder of this module."""
    return tmp_path_factory.mktemp('engines')


@pytest.fixture(scope='module', params=tensorrt.LIBRARIES)
def library(request):
    """Return each library that finds a GPU here."""
    library = tensorrt.LIBRARIES[request.param]
    missing = tensorrt.unavailable(library)
    if missing:
        pytest.skip(missing)
    return library


@pytest.fixture(scope='module')
def here(library):
    """Return the library, CUDA and the GPU."""
    return tensorrt.Installation.find(library)


@pytest.fixture(scope='module')
def opened(folder, library):
    """Return the engine of the shipped model, built here, with its verification."""
    if 'street-lite' not in list_models():
        pytest.skip('the model street-lite is not in models/')
    opened = tensorrt.build_engine(
        Model.load('street-lite'),
        tensorrt.BuildOptions(),
        cache_folder=folder,
        library=library,
    )
    with closing(opened.engine):
        yield opened


@pytest.fixture
def model(opened):
    """Return the shipped model, where there is a GPU for it."""
    return Model.load('street-lite')


def test_the_golden_image_is_right(opened):
    assert opened.fault == '', str(opened.verification)


def test_the_graph_is_captured(opened):
    assert opened.engine.graph_fault == ''


def test_outputs_are_equal_with_and_without_the_graph(opened, model, folder, here):
    image, _ = model.golden()
    plan = tensorrt.EngineCache(folder).load(opened.entry)
    with closing(tensorrt.TensorRtEngine(here, plan, model, use_graph=False)) as plain:
        expected = plain.infer(image)
    for name, array in opened.engine.infer(image).items():
        np.testing.assert_array_equal(array, expected[name])


def test_quality_is_that_of_onnx_runtime(opened, model):
    if not (DATA / 'cityscapes640').is_dir():
        pytest.skip(f'{DATA} has no cityscapes640 to measure on')
    samples = CityscapesPanoptic(DATA / 'cityscapes640', 'val')
    with closing(OnnxRuntimeEngine(model, precision='float32')) as reference:
        found = [quality(model, engine, samples) for engine in (opened.engine, reference)]
    assert abs(found[0] - found[1]) < 0.2


def quality(model, engine, samples):
    """Return the PQ of an engine, percent."""
    segmenter, total = Segmenter(model, engine), PanopticQuality(model.label_set)
    for sample in islice(samples, IMAGES):
        found = segmenter.segment(sample.image_rgb, 'rgb8').panoptic
        total.update(found, sample.truth, sample.crowd_ids)
    return total.result().PQ


def test_device_memory_does_not_grow_over_a_thousand_frames(opened, model, here):
    image, _ = model.golden()
    cuda = here.cuda
    measure(lambda: opened.engine.infer(image), 100)
    free_before, _ = cuda.memory()
    latency_ms = measure(lambda: opened.engine.infer(image), 1000)
    free_after, _ = cuda.memory()
    print(f'p50 {np.median(latency_ms):.3f} ms, p99 {np.percentile(latency_ms, 99):.3f} ms')
    assert free_before - free_after <= 1 << 20


def test_device_memory_does_not_grow_over_opened_and_closed_engines(opened, model, folder, here):
    plan = tensorrt.EngineCache(folder).load(opened.entry)
    for cycle in range(20):
        tensorrt.TensorRtEngine(here, plan, model).close()
        if cycle == 4:
            free_before, _ = here.cuda.memory()
    free_after, _ = here.cuda.memory()
    assert free_before - free_after <= 1 << 20
