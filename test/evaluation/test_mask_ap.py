import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panoptic_ros.errors import DatasetError
from panoptic_ros.evaluation.mask_ap import THRESHOLDS, MaskAP, MaskAPResult
from panoptic_ros.labels import VOID, LabelClass, LabelSet
from panoptic_ros.panoptic import Panoptic

ROAD, PERSON, CAR = range(3)
LABELS = LabelSet(
    'toy',
    (
        LabelClass('road', False, (1, 2, 3), 7),
        LabelClass('person', True, (7, 8, 9), 24),
        LabelClass('car', True, (10, 11, 12), 26),
    ),
)
SHAPE = (3, 8)


def cars(instance: list | np.ndarray, scores: dict[int, float] | None = None) -> Panoptic:
    """Cars with the given ids on road."""
    instance = np.array(instance, np.uint16)
    score_by_id = np.ones(int(instance.max()) + 1, np.float32)
    for number, score in (scores or {}).items():
        score_by_id[number] = score
    semantic = np.where(instance > 0, CAR, ROAD).astype(np.uint8)
    return Panoptic.from_maps(semantic, instance, LABELS, score_by_id)


def precision(prediction: Panoptic, truth: Panoptic, crowd_ids: tuple = ()) -> MaskAPResult:
    measure = MaskAP(LABELS)
    measure.update(prediction, truth, crowd_ids)
    return measure.result()


def test_a_map_against_itself_is_perfect() -> None:
    truth = cars([[1, 1, 0, 2, 2, 3]])
    result = precision(truth, truth)
    assert result.AP == result.AP50 == result.AP75 == 100
    car = result.per_class[CAR]
    assert (car.name, car.AP, car.instances) == ('car', 100, 3)
    assert math.isnan(result.per_class[PERSON].AP)


def test_the_overlap_decides_at_which_thresholds_a_mask_is_right() -> None:
    """IoU 4/6 passes 0.50, 0.55, 0.60 and 0.65 of the ten thresholds."""
    result = precision(cars([[7, 7, 7, 7, 7, 0]]), cars([[0, 1, 1, 1, 1, 1]]))
    assert pytest.approx(40) == result.AP
    assert result.AP50 == 100
    assert result.AP75 == 0


def test_the_order_by_score_decides() -> None:
    """One right, one wrong. Wrong first: precision one half at every recall."""
    truth = cars([[1, 1, 0, 0]])
    right_first = cars([[5, 5, 0, 6]], {5: 0.9, 6: 0.2})
    wrong_first = cars([[5, 5, 0, 6]], {5: 0.2, 6: 0.9})
    assert precision(right_first, truth).AP == 100
    assert pytest.approx(50) == precision(wrong_first, truth).AP


def test_a_missed_instance_ends_the_curve() -> None:
    """One of two found: precision 1 up to recall 0.50, which is 51 of 101 points."""
    result = precision(cars([[5, 5, 0, 0]]), cars([[1, 1, 0, 2]]))
    assert pytest.approx(100 * 51 / 101) == result.AP


def test_two_halves_of_one_instance_the_better_score_has_it() -> None:
    halves = cars([[5, 5, 6, 6, 0]], {5: 0.4, 6: 0.8})
    result = precision(halves, cars([[1, 1, 1, 1, 0]]))
    assert result.AP50 == 100  # the right one comes first
    assert pytest.approx(10) == result.AP
    # With another instance that is missed: one of two, although both halves reach one half.
    assert pytest.approx(100 * 51 / 101) == precision(halves, cars([[1, 1, 1, 1, 2]])).AP50


def test_a_detection_in_a_group_does_not_count() -> None:
    truth = cars([[1, 1, 0, 2, 2, 2]])
    prediction = cars([[5, 5, 0, 6, 6, 7]], {5: 0.5, 6: 0.9, 7: 0.8})
    assert precision(prediction, truth, (2,)).AP == 100
    assert precision(prediction, truth, (2,)).per_class[CAR].instances == 1
    assert precision(prediction, truth).AP < 100


def test_another_class_is_no_match() -> None:
    truth = cars([[1, 1, 0, 0]])
    semantic = np.array([[PERSON, PERSON, ROAD, ROAD]], np.uint8)
    people = Panoptic.from_maps(semantic, truth.instance, LABELS)
    assert precision(people, truth).AP == 0


def test_only_the_best_hundred_of_an_image_count() -> None:
    """101 detections; the one that is right has the lowest score."""
    instance = np.arange(1, 102)[None, :]
    prediction = cars(instance, {101: 0.1})
    truth = cars(np.where(instance == 101, 1, 0))
    assert precision(prediction, truth).AP == 0
    assert precision(cars(instance, {1: 0.1}), truth).AP > 0


def test_nothing_at_all_is_not_a_number() -> None:
    assert math.isnan(MaskAP(LABELS).result().AP)
    assert math.isnan(precision(cars([[1]]), cars([[0]])).AP)


def test_no_detections_is_zero() -> None:
    assert precision(cars([[0, 0]]), cars([[1, 1]])).AP == 0


def test_sizes_must_agree() -> None:
    with pytest.raises(DatasetError, match='prediction is 1x1, the truth is 2x1'):
        precision(cars([[1]]), cars([[1, 1]]))


# --- against the greedy search of COCO's code, slow and plain -----------------------------------


def plain_average_precision(
    images: list[tuple[Panoptic, Panoptic, tuple[int, ...]]], class_id: int
) -> float:
    aps = []
    for threshold in THRESHOLDS:
        outcomes, instances = [], 0
        for prediction, truth, crowd_ids in images:
            masks = [
                (truth.instance == s, s in crowd_ids)
                for s in np.unique(truth.instance[truth.semantic == class_id]).tolist()
            ]
            masks.sort(key=lambda m: m[1])  # groups last
            instances += sum(not crowd for _, crowd in masks)
            found = prediction.segments.where(prediction.segments.class_id == class_id)
            taken: set[int] = set()
            for row in np.argsort(-found.score, kind='stable'):
                detection = prediction.instance == found.id[row]
                best, best_iou = -1, threshold
                for number, (mask, crowd) in enumerate(masks):
                    if number in taken and not crowd:
                        continue
                    if best >= 0 and not masks[best][1] and crowd:
                        break
                    both = (detection & mask).sum()
                    iou = both / (detection.sum() if crowd else (detection | mask).sum())
                    if iou >= best_iou:
                        best, best_iou = number, iou
                if best >= 0 and masks[best][1]:
                    continue  # in a group: does not count
                taken.add(best)
                outcomes.append((found.score[row], best >= 0))
        if not instances:
            return math.nan
        outcomes.sort(key=lambda o: -o[0])
        curve, right = [], 0
        for number, (_, is_right) in enumerate(outcomes, 1):
            right += is_right
            curve.append((right / instances, right / number))
        for recall in np.linspace(0, 1, 101):
            aps.append(max((p for r, p in curve if r >= recall), default=0.0))
    return 100 * float(np.mean(aps))


@st.composite
def similar_images(draw: st.DrawFn) -> tuple[Panoptic, Panoptic, tuple[int, ...]]:
    indices = hnp.arrays(np.int64, SHAPE, elements=st.integers(0, 6))
    rows, other = np.sort(draw(indices).ravel()).reshape(SHAPE), draw(indices)
    changed = draw(hnp.arrays(np.int64, SHAPE, elements=st.integers(0, 4))) == 4
    classes = np.array([*draw(st.lists(st.integers(0, 2), min_size=6, max_size=6)), VOID])
    scores = np.array(
        [0, *draw(st.lists(st.sampled_from([0.2, 0.5, 0.9]), min_size=7, max_size=7))]
    )

    def painted(rows: np.ndarray) -> Panoptic:
        semantic = classes[rows].astype(np.uint8)
        instance = np.where(LABELS.is_thing[semantic], rows + 1, 0).astype(np.uint16)
        return Panoptic.from_maps(semantic, instance, LABELS, scores)

    truth = painted(rows)
    ids = truth.segments.things.id.tolist()
    crowd_ids = tuple(draw(st.sets(st.sampled_from(ids), max_size=1))) if ids else ()
    return painted(np.where(changed, other, rows)), truth, crowd_ids


@given(st.lists(similar_images(), min_size=1, max_size=3))
def test_equals_the_plain_definition_however_it_is_shared_out(images: list) -> None:
    measure = MaskAP(LABELS)
    for image in images:
        measure.update(*image)
    result = measure.result()
    expected = [plain_average_precision(images, c) for c in (PERSON, CAR)]
    np.testing.assert_allclose(
        [result.per_class[c].AP for c in (PERSON, CAR)], expected, rtol=0, atol=1e-9
    )
    occurring = [ap for ap in expected if not math.isnan(ap)]
    if occurring:
        assert pytest.approx(np.mean(occurring)) == result.AP
