import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panoptic_ros.evaluation.overlap import ClassOverlap
from panoptic_ros.labels import VOID, LabelClass, LabelSet
from panoptic_ros.panoptic import Panoptic

LABELS = LabelSet(
    'toy',
    (
        LabelClass('road', False, (1, 2, 3), 7),
        LabelClass('sky', False, (4, 5, 6), 23),
        LabelClass('car', True, (7, 8, 9), 26),
    ),
)
CLASSES = st.sampled_from([0, 1, 2, VOID])
MAPS = hnp.arrays(np.uint8, (3, 5), elements=CLASSES)


def panoptic(semantic: list | np.ndarray) -> Panoptic:
    semantic = np.array(semantic, np.uint8)
    instance = (LABELS.is_thing[semantic] * 4).astype(np.uint16)
    return Panoptic.from_maps(semantic, instance, LABELS)


def test_literal_figures() -> None:
    overlap = ClassOverlap(LABELS)
    overlap.update(panoptic([[0, 0, 2, VOID, 0]]), panoptic([[0, 0, 0, 2, VOID]]))
    result = overlap.result()
    np.testing.assert_allclose(result.iou, [200 / 3, math.nan, 0])
    assert result.mean_iou == pytest.approx(100 / 3)
    assert result.pixel_accuracy == pytest.approx(50)
    np.testing.assert_array_equal(
        result.confusion, [[2, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]
    )
    assert result.confused_with(0) == [(2, pytest.approx(100 / 3))]
    assert result.confused_with(2) == [(VOID, 100)]
    assert result.confused_with(1) == []


def test_confusions_come_largest_first() -> None:
    overlap = ClassOverlap(LABELS)
    overlap.update(panoptic([[1, VOID, VOID, 2, 2, 2]]), panoptic([[0] * 6]))
    assert [c for c, _ in overlap.result().confused_with(0)] == [2, VOID, 1]
    assert [c for c, _ in overlap.result().confused_with(0, 1)] == [2]


def test_nothing_at_all_is_not_a_number() -> None:
    result = ClassOverlap(LABELS).result()
    assert math.isnan(result.mean_iou)
    assert math.isnan(result.pixel_accuracy)


@given(st.lists(st.tuples(MAPS, MAPS), min_size=1, max_size=4))
def test_equals_the_plain_definition(pairs: list) -> None:
    measure = ClassOverlap(LABELS)
    for prediction, truth in pairs:
        measure.update(panoptic(prediction), panoptic(truth))
    result = measure.result()
    ious = []
    for c in range(3):
        both = sum(int(((p == c) & (t == c)).sum()) for p, t in pairs)
        either = sum(int((((p == c) | (t == c)) & (t != VOID)).sum()) for p, t in pairs)
        if either:
            ious.append(100 * both / either)
            assert result.iou[c] == pytest.approx(ious[-1])
        else:
            assert math.isnan(result.iou[c])
    if ious:
        assert result.mean_iou == pytest.approx(sum(ious) / len(ious))
