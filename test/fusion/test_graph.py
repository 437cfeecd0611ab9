"""Fusion in the graph: on ONNX Runtime it gives the map that the CPU gives, but for rounding."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from panoptic_ros.errors import ModelError
from panoptic_ros.fusion import (
    CentreFusion,
    CentreHeads,
    CentreMaps,
    QueryFusion,
    QueryHeads,
    QueryMaps,
)
from panoptic_ros.labels import LabelSet

onnx = pytest.importorskip('onnx', reason='onnx builds the graphs of this test')
ort = pytest.importorskip('onnxruntime', reason='onnxruntime runs the graphs of this test')

from onnx import TensorProto, helper  # noqa: E402
from support.graph_fusion import GraphFusion, differing_pixels, write_identity  # noqa: E402

from panoptic_ros.fusion.graph import enlarge_class_map, fuse_onnx  # noqa: E402

LABELS = LabelSet.load('cityscapes')
SIZE_WH = (96, 64)
QUERIES = 12
RULES = {
    'detr': QueryFusion(score_threshold=0.3, min_kept_fraction=0.3),
    'mask2former': QueryFusion(0.3, 0.5, 0.3, rule='mask2former', logit_grid=40),
    'eomt': QueryFusion(0.3, 0.5, 0.3, rule='eomt'),
    'rf_detr': QueryFusion(0.3, 0.5, 0.3, rule='rf_detr'),
    'semantic': QueryFusion(rule='semantic'),
    'mask_sum': QueryFusion(rule='mask_sum'),
}


def run_fused(
    folder: Path, fusion: CentreFusion | QueryFusion, outputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    return GraphFusion(folder, fusion, LABELS, outputs, SIZE_WH)(outputs)


def random_queries(seed: int, dtype: str, rule: str) -> dict[str, np.ndarray]:
    """Blobs of random class and place; class maps for the rules that have one row a class."""
    rng = np.random.default_rng(seed)
    count = len(LABELS) if rule in ('semantic', 'mask_sum') else QUERIES
    y, x = np.mgrid[:16, :24]
    middle, radius = rng.uniform(0, 24, (count, 2)), rng.uniform(3, 10, count)
    distance = np.hypot(x - middle[:, :1, None], y - middle[:, 1:, None] * 16 / 24)
    masks = (radius[:, None, None] - distance) * 1.5 + rng.normal(0, 1, (count, 16, 24))
    logits = rng.normal(0, 1, (count, len(LABELS) + 1))
    logits[np.arange(count), rng.integers(0, len(LABELS) + 1, count)] += 4
    if rule == 'mask_sum':
        masks = 1 / (1 + np.exp(-masks))
    return {'class_logits': logits.astype(dtype), 'mask_logits': masks.astype(dtype)}


@pytest.mark.parametrize('rule', RULES)
@pytest.mark.parametrize(('dtype', 'most_pixels'), [('float32', 2), ('float16', 30)])
def test_queries(tmp_path: Path, rule: str, dtype: str, most_pixels: int) -> None:
    # float32: pixels between two equal values. float16: those within its rounding. A segment
    # whose kept fraction is at the threshold may be there in one arithmetic only.
    fusion, things = RULES[rule], 0
    if dtype == 'float16':
        fusion = replace(fusion, min_kept_fraction=0.0)
    for seed in range(8):
        outputs = random_queries(seed, dtype, rule)
        maps = QueryMaps(**run_fused(tmp_path, fusion, outputs))
        expected = fusion(QueryHeads(**outputs), LABELS, SIZE_WH)
        found = fusion(maps, LABELS, SIZE_WH)
        assert differing_pixels(found.panoptic, expected.panoptic) <= most_pixels
        apart = abs(found.confidence.astype(int) - expected.confidence)
        assert apart.max() <= (1 if dtype == 'float32' else 4)
        things += len(found.panoptic.segments.things)
        if dtype == 'float32':
            a, b = found.panoptic.segments, expected.panoptic.segments
            assert a.class_id.tolist() == b.class_id.tolist()
            np.testing.assert_allclose(a.score, b.score, atol=1e-3 if a.is_thing.all() else 0.02)
    assert things > 8


def random_centres(seed: int, dtype: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    height, width = SIZE_WH[1] // 4, SIZE_WH[0] // 4
    blocks = rng.choice([0, 10, 11, 13, 13], (4, 6)).astype(np.uint8)
    score = np.sort(rng.uniform(0, 1, 20))[::-1].copy()
    score[15:] = 0
    return {
        'semantic': blocks.repeat(16, axis=0).repeat(16, axis=1),
        'confidence': rng.integers(0, 256, (height, width)).astype(np.uint8),
        'centre_score': score.astype(dtype),
        'centre_index': rng.choice(height * width, 20, replace=False).astype(np.int32),
        'offset_xy': rng.normal(0, 3, (2, height, width)).astype(dtype),
    }


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
@pytest.mark.parametrize('distance', [1.0, 0.1])
def test_centres(tmp_path: Path, dtype: str, distance: float) -> None:
    fusion, things = CentreFusion(0.2, distance, 0, 0.001, 0), 0
    for seed in range(8):
        outputs = random_centres(seed, dtype)
        maps = CentreMaps(**run_fused(tmp_path, fusion, outputs))
        found = fusion(maps, LABELS, SIZE_WH).panoptic
        expected = fusion(CentreHeads(**outputs), LABELS, SIZE_WH).panoptic
        np.testing.assert_array_equal(found.semantic, expected.semantic)
        np.testing.assert_array_equal(found.instance, expected.instance)
        things += len(found.segments.things)
    assert things > 40


def test_the_class_map_is_the_argmax_of_enlarged_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 1, (1, 5, 4, 6)).astype(np.float32)
    found = {side: _class_map(logits, enlarged=side) for side in (False, True)}
    assert found[False].shape == (1, 8, 12)
    enlarged = np.stack([cv2.resize(plane, (24, 16)) for plane in logits[0]])
    np.testing.assert_array_equal(found[True][0], enlarged.argmax(0))


def _class_map(logits: np.ndarray, *, enlarged: bool) -> np.ndarray:
    """Run a network that enlarges its logits to twice their size, or to four times."""
    info, node = helper.make_tensor_value_info, helper.make_node
    sizes = helper.make_tensor('sizes', TensorProto.INT64, [4], [1, 5, 8, 12])
    graph = helper.make_graph(
        [
            node('Resize', ['logits', '', '', 'sizes'], ['fine'], mode='linear'),
            node('ArgMax', ['fine'], ['index'], axis=1, keepdims=0),
            node('Cast', ['index'], ['number'], to=TensorProto.FLOAT),
            node('Cast', ['number'], ['semantic'], to=TensorProto.UINT8),
        ],
        'classes',
        [info('logits', TensorProto.FLOAT, list(logits.shape))],
        [info('semantic', TensorProto.UINT8, [1, 8, 12])],
        [sizes],
    )
    opset = helper.make_opsetid('', 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    if enlarged:
        assert enlarge_class_map(model, (16, 24))
        assert not enlarge_class_map(onnx.ModelProto(), (16, 24))
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    return session.run(['semantic'], {'logits': logits})[0]


def test_a_camera_of_another_size_gets_the_resized_map(tmp_path: Path) -> None:
    outputs = random_queries(0, 'float32', 'detr')
    maps = QueryMaps(**run_fused(tmp_path, RULES['detr'], outputs))
    fused = RULES['detr'](maps, LABELS, (200, 100))
    small = RULES['detr'](maps, LABELS, SIZE_WH)
    assert fused.panoptic.size_wh == (200, 100)
    assert fused.panoptic.segments.class_id.tolist() == small.panoptic.segments.class_id.tolist()
    assert fused.panoptic.segments.area.sum() <= 200 * 100
    padded = RULES['detr'](maps, LABELS, (96, 32), extent_wh=(1.0, 0.5))
    np.testing.assert_array_equal(padded.panoptic.size_wh, (96, 32))


def test_files_that_cannot_be_fused_are_refused(tmp_path: Path) -> None:
    outputs = random_queries(0, 'float32', 'detr')
    write_identity(tmp_path / 'a.onnx', outputs, SIZE_WH)
    with pytest.raises(ModelError, match=r"outputs \['class_logits', 'mask_logits'\]; expected"):
        fuse_onnx(tmp_path / 'a.onnx', tmp_path / 'b.onnx', CentreFusion(), LABELS)
    many = {name: array.repeat(22, axis=0) for name, array in outputs.items()}
    write_identity(tmp_path / 'a.onnx', many, SIZE_WH)
    with pytest.raises(ModelError, match='264 queries at width 96'):
        fuse_onnx(tmp_path / 'a.onnx', tmp_path / 'b.onnx', QueryFusion(), LABELS)


@pytest.mark.parametrize(
    ('column', 'value', 'message'),
    [
        ('owner', np.zeros((2, 2), np.int32), 'QueryMaps.owner is int32'),
        ('score', np.zeros(3, np.int32), 'QueryMaps.score is int32'),
        ('mask_area', np.zeros(2, np.int32), r'QueryMaps.mask_area is int32 \(2,\)'),
    ],
)
def test_maps_that_do_not_fit_are_refused(column: str, value: np.ndarray, message: str) -> None:
    column_of = np.zeros(3, np.int32)
    image = np.zeros((2, 2), np.uint8)
    score = np.zeros(3, np.float32)
    maps = QueryMaps(image, image, column_of, score, column_of, column_of)
    with pytest.raises(ValueError, match=message):
        replace(maps, **{column: value})
