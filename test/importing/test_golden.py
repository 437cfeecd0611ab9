"""Golden files stay small and keep the queries that matter."""

import numpy as np
import pytest

from panoptic_ros.engines.golden import compare_golden_queries
from panoptic_ros.importing import golden as golden_module
from panoptic_ros.importing.golden import golden_queries

IMAGE = np.zeros((8, 8, 3), np.uint8)


def outputs(count: int, side: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        'class_logits': rng.normal(0, 4, (count, 6)).astype(np.float32),
        'mask_logits': rng.normal(0, 4, (count, side, side)).astype(np.float32),
    }


def test_a_small_set_is_kept_whole():
    found = golden_queries(IMAGE, outputs(5), 'detr')
    np.testing.assert_array_equal(found['class_logits'], outputs(5)['class_logits'])
    np.testing.assert_allclose(found['mask_logits'], outputs(5)['mask_logits'], rtol=1e-3)


@pytest.mark.parametrize('rule', ['detr', 'eomt', 'semantic'])
def test_a_large_set_is_cut_to_the_likeliest(rule, monkeypatch):
    monkeypatch.setattr(golden_module, 'MAX_BYTES', 20_000)
    whole = outputs(64, 32)
    if rule == 'semantic':
        whole['mask_logits'][7] += 30  # wins everywhere
    found = golden_queries(IMAGE, whole, rule)
    count = len(found['class_logits'])
    assert 2 <= count < 64
    assert golden_module._packed_bytes({'image': IMAGE, **found}) <= 20_000
    if rule == 'semantic':
        assert whole['class_logits'][7] in found['class_logits']
    else:
        likely = np.exp(whole['class_logits'])
        likely = (likely / likely.sum(1, keepdims=True))[:, :-1].max(1)
        best = np.sort(np.argsort(-likely)[:count])
        np.testing.assert_array_equal(found['class_logits'], whole['class_logits'][best])
        assert not compare_golden_queries(whole, found).exceeded()
