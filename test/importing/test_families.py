"""Every family from checkpoint to engine: export, float16, geometry and fusion."""

from collections.abc import Sequence
from contextlib import closing

import cv2
import numpy as np
import pytest
import torch
from importing.checkpoints import normalised, run_network, write_checkpoint
from importing.conftest import Imported, scenery
from importing.equality import DATA, compare_with_transformers, fuse, real_pictures
from importing.reference import PROCESSORS, processor_of, seen_by_network

from panoptic_ros.cli import main
from panoptic_ros.engines import open_engine
from panoptic_ros.engines.onnxruntime import OnnxRuntimeEngine
from panoptic_ros.importing.checkpoint import open_checkpoint
from panoptic_ros.importing.golden import MAX_BYTES
from panoptic_ros.importing.importer import build_network, find_family
from panoptic_ros.importing.labels import match_labels
from panoptic_ros.labels import VOID
from panoptic_ros.model import Model
from panoptic_ros.segmenter import Segmenter, card_fusion, prepare

pytestmark = pytest.mark.slow

LARGEST_FLOAT32_BYTES = 64 << 10


def deployed_outputs(imported: Imported, pictures: Sequence[np.ndarray]) -> list[dict]:
    checkpoint = open_checkpoint(str(imported.checkpoint))
    family = find_family(checkpoint)
    class_map = match_labels(checkpoint.id2label)
    network = build_network(family, checkpoint, class_map, family.tasks[0])
    results = []
    with torch.inference_mode():
        for picture in pictures:
            outputs = network(torch.from_numpy(picture.copy())[None])
            results.append(
                {'class_logits': outputs[0][0].numpy(), 'mask_logits': outputs[1][0].numpy()}
            )
    return results


def test_the_folder_is_a_model_with_both_precisions(imported):
    card = imported.model.card
    assert set(card.files) == {'float32', 'float16'}, imported.log
    assert card.golden.bytes <= MAX_BYTES
    assert card.provenance['family'] in imported.log[0]
    assert card.licence == 'made here'
    for precision in card.files:
        imported.model.onnx_path(precision)


@pytest.mark.parametrize('engine_name', ['onnxruntime', 'openvino'])
def test_engines_give_what_torch_gives(imported, engine_name):
    pytest.importorskip(engine_name)
    picture = np.ascontiguousarray(
        imported.model.card.resize.apply(scenery((320, 200), 5), imported.model.card.size_wh)
    )
    expected = deployed_outputs(imported, [picture])[0]
    with closing(open_engine(imported.model, engine_name, precision='float32')) as engine:
        found = engine.infer(picture)
    for name, values in expected.items():
        scale = np.abs(values[np.abs(values) < 1e4]).max()
        difference = np.abs(found[name] - values)
        # TopK puts equal scores in another order; most queries stay where they are.
        assert np.median(difference.max(axis=tuple(range(1, difference.ndim)))) < 2e-4 * scale


def test_the_network_sees_the_picture_that_the_processor_makes(imported):
    if imported.model_type not in PROCESSORS:
        pytest.skip("transformers' processor of this family needs torchvision or the hub")
    processor = processor_of(imported.model_type, str(imported.checkpoint))
    card = imported.model.card
    for size_wh in ((1280, 720), (301, 517), (96, 64)):
        picture = scenery(size_wh, 3)
        picture[::2] = picture[::2] // 2  # fine detail, which tells filters apart
        found = prepare(picture, 'rgb8', card.size_wh, card.resize)
        expected = seen_by_network(processor, picture)
        assert np.abs(found - expected).max() <= 1.01


@pytest.mark.parametrize('permissive', [False, True])
def test_no_pixel_differs_from_transformers(imported, permissive):
    pictures = real_pictures(3)
    if not pictures:
        pytest.skip(f'{DATA} has no pictures')
    found = compare_with_transformers(imported, pictures, permissive)
    assert found.differing == 0
    assert found.ties < 1e-4 * found.pixels
    assert found.segments > 0 or not permissive


def test_the_segmenter_draws_the_map_of_the_whole_pipeline(imported):
    """From the picture in memory to the map, against transformers from the same picture."""
    picture = scenery((320, 200), 5)
    card = imported.model.card
    with closing(open_engine(imported.model, 'onnxruntime')) as engine:
        found = Segmenter(imported.model, engine).segment(picture, 'rgb8').panoptic
    seen = prepare(picture, 'rgb8', card.size_wh, card.resize)
    outputs = run_network(imported.network, imported.model_type, normalised(seen))
    expected = fuse(imported, card_fusion(imported.model), outputs, (320, 200))
    assert (found.semantic != expected.semantic).mean() < 0.001
    assert found.semantic.min() < VOID or (expected.semantic == VOID).all()


@pytest.mark.process
def test_tensorrt_parses_and_builds_the_float16_file(imported, rtx):
    result = rtx(imported.model.onnx_path('float16'))
    assert result['parsed'], result['errors']
    assert result['plan_bytes'] > 1000, result['build_errors']
    wide = [
        name
        for name, dtype, shape in result['tensors']
        if dtype == 'FLOAT' and 4 * np.prod(shape) > LARGEST_FLOAT32_BYTES
    ]
    assert not wide


def test_the_command_puts_the_fusion_into_the_float16_file(tmp_path):
    pictures = scenery((160, 120))
    picture, checkpoint = tmp_path / 'picture.png', tmp_path / 'checkpoint'
    cv2.imwrite(str(picture), pictures)
    write_checkpoint('eomt', checkpoint, cv2.resize(pictures[..., ::-1], (128, 128)))
    command = [
        'import',
        str(checkpoint),
        '--out',
        str(tmp_path / 'model'),
        '--check',
        str(picture),
    ]
    assert main(command) == 0
    model = Model.load(tmp_path / 'model')
    assert model.card.fused == ('float16',)
    # The CPU has the masks of the float32 file, and both lead to the same map.
    maps = []
    for precision in ('float32', 'float16'):
        with closing(OnnxRuntimeEngine(model, precision=precision)) as engine:
            segmenter = Segmenter(model, engine)
            maps.append(segmenter.segment(scenery((128, 128)), 'bgr8').panoptic.semantic)
    assert (maps[0] == VOID).mean() < 1
    assert (maps[0] != maps[1]).mean() < 0.02
