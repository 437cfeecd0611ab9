"""Every family from checkpoint to engine: export, float16, geometry and fusion."""

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from importing.checkpoints import normalised, run_network
from importing.conftest import Imported, scenery
from importing.reference import PROCESSORS, processor_of, reference_maps, seen_by_network
from scipy.special import softmax

from panoptic_ros.engines import open_engine
from panoptic_ros.fusion import QueryHeads
from panoptic_ros.importing.checkpoint import open_checkpoint
from panoptic_ros.importing.golden import MAX_BYTES
from panoptic_ros.importing.importer import build_network, find_family
from panoptic_ros.importing.labels import match_labels
from panoptic_ros.importing.network import sigmoid_as_softmax
from panoptic_ros.labels import VOID
from panoptic_ros.segmenter import Segmenter, card_fusion, prepare

pytestmark = pytest.mark.slow

PICTURES = 20
DATA = Path(os.environ.get('PANOPTIC_DATA') or Path(__file__).parents[3] / 'shared' / 'data')
LARGEST_FLOAT32_BYTES = 64 << 10


def real_pictures() -> list[np.ndarray]:
    """Return pictures of several sizes and subjects, uint8 RGB."""
    folders = (
        'coco_panoptic_sample/input_images',
        'driving_video',
        'cityscapes640/leftImg8bit/val',
    )
    paths: list[Path] = []
    for folder in folders:
        paths += sorted((DATA / folder).rglob('*.jpg'))[: PICTURES - len(paths)]
    if len(paths) < PICTURES:
        pytest.skip(f'{DATA} has not the {PICTURES} pictures of this test')
    return [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]


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
def test_no_pixel_differs_from_transformers(imported, permissive, record_property):
    """The maps of torch's outputs are those of transformers, at the picture's own size.

    PyTorch multiplies and adds in one rounding where it can, numpy in two. So the last bit of an
    enlarged value may differ, and it decides where two masks are equal or one meets the threshold.
    Those pixels are counted; any other difference fails.
    """
    pictures = real_pictures()
    model_type, card = imported.model_type, imported.model.card
    processor = processor_of(model_type, str(imported.checkpoint))
    fusion = card_fusion(imported.model)
    if permissive:  # more segments than random weights give otherwise
        fusion = replace(fusion, min_kept_fraction=0.05, score_threshold=0.5)
    thresholds = {
        'threshold': fusion.score_threshold,
        'mask_threshold': fusion.mask_threshold,
        'overlap_mask_area_threshold': fusion.min_kept_fraction,
    }
    if card.resize.mode == 'letterbox':
        thresholds['size'] = processor.size
    label_set = imported.model.label_set
    ties = segments = 0
    for picture in pictures:
        size_wh = picture.shape[1::-1]
        seen = prepare(picture, 'rgb8', card.size_wh, card.resize)
        outputs = run_network(imported.network, model_type, normalised(seen))
        ours = fuse(imported, fusion, outputs, size_wh)
        if model_type == 'conditional_detr':  # which takes the last class for "no object"
            outputs.logits = sigmoid_as_softmax(outputs.logits)
        classes, ids = reference_maps(model_type, processor, outputs, size_wh, **thresholds)
        differs = ours.semantic != classes
        is_thing = label_set.is_thing[ours.semantic] & ~differs
        if model_type != 'segformer':  # whose instances are patches
            pairs = np.stack([ids[is_thing], ours.instance[is_thing]])
            kinds, count = np.unique(pairs, axis=1, return_counts=True)
            main = {o: t for t, o in kinds[:, np.argsort(count)].T.tolist()}
            of_main = np.vectorize(main.get, otypes=[int])(pairs[1]) if pairs.size else pairs[0]
            differs[is_thing] |= of_main != pairs[0]
            assert len(set(main.values())) == len(main)
        segments += len(ours.segments)
        if differs.any():
            margin = decision_margin(imported, fusion, outputs, size_wh)[differs]
            assert margin.max() < 3e-6, f'{(margin >= 3e-6).sum()} pixels differ'
            ties += int(differs.sum())
    record_property('segments', segments)
    record_property('ties', ties)
    print(f'{model_type}: {segments} segments, {ties} pixels decided by rounding')
    assert ties < 1e-4 * sum(picture[..., 0].size for picture in pictures)
    assert segments > 0 or not permissive


def decision_margin(imported: Imported, fusion, outputs, size_wh) -> np.ndarray:
    """Return how narrowly each pixel is decided, relative, float64 [H, W]."""
    heads = heads_of(imported, outputs)
    score = softmax(heads.class_logits.astype(float), axis=1)
    best = score.argmax(axis=1)
    score = score.max(axis=1)
    kept = (best < heads.class_logits.shape[1] - 1) & (score > fusion.score_threshold)
    value = torch.from_numpy(heads.mask_logits[kept].astype(float))[None]
    weight = score[kept][:, None, None]

    def enlarge(planes, to_wh):
        return torch.nn.functional.interpolate(planes, size=to_wh[::-1], mode='bilinear')

    grid = int(fusion.logit_grid) or (384 if fusion.rule == 'mask2former' else 0)
    if grid:
        value = enlarge(value, (grid, grid))
    extent_wh = imported.model.card.resize.extent_wh(size_wh, imported.model.card.size_wh)
    height, width = (
        round(side * part) for side, part in zip(value.shape[2:], extent_wh[::-1], strict=True)
    )
    value = value[..., :height, :width]
    if fusion.rule in ('detr', 'mask2former'):
        compared = enlarge(value.sigmoid(), size_wh)[0].numpy() * weight
        threshold = compared
    elif fusion.rule == 'semantic':
        compared = threshold = enlarge(value, size_wh)[0].numpy()
    else:
        threshold = enlarge(value, size_wh).sigmoid()[0].numpy()
        compared = threshold * weight
    ordered = np.sort(compared, axis=0)
    between = (ordered[-1] - ordered[-2]) / np.abs(ordered[-1])
    return np.minimum(between, np.abs(threshold - fusion.mask_threshold).min(axis=0))


def heads_of(imported: Imported, outputs) -> QueryHeads:
    """Return transformers' outputs as queries."""
    if imported.model_type == 'segformer':
        count = outputs.logits.shape[1]
        class_logits = np.eye(count, count + 1, dtype=np.float32)
        masks = outputs.logits
    elif 'class_queries_logits' in outputs:
        class_logits = outputs.class_queries_logits[0].numpy()
        masks = outputs.masks_queries_logits
    else:
        logits, masks = outputs.logits, outputs.pred_masks
        if imported.model_type in ('rf_detr', 'conditional_detr') and logits.shape[-1] == len(
            imported.model.label_set
        ):
            logits = sigmoid_as_softmax(logits)
        class_logits = logits[0].numpy()
    return QueryHeads(class_logits, masks[0].numpy())


def fuse(imported: Imported, fusion, outputs, size_wh):
    """Return our map of transformers' outputs."""
    card, heads = imported.model.card, heads_of(imported, outputs)
    extent_wh = card.resize.extent_wh(size_wh, card.size_wh)
    return fusion(heads, imported.model.label_set, size_wh, extent_wh).panoptic


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
    assert len(wide) <= MOST_WIDE.get(imported.model_type, 0), wide


# The attention of the pixel decoder computes its sampling places in float32.
MOST_WIDE: dict[str, int] = {}
