import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panoptic_ros.errors import DatasetError
from panoptic_ros.evaluation.intersections import Intersections, SegmentTable
from panoptic_ros.evaluation.quality import PanopticQuality, QualityResult
from panoptic_ros.labels import VOID, LabelClass, LabelSet
from panoptic_ros.panoptic import Panoptic

ROAD, SKY, PERSON, CAR = range(4)
LABELS = LabelSet(
    'toy',
    (
        LabelClass('road', False, (1, 2, 3), 7),
        LabelClass('sky', False, (4, 5, 6), 23),
        LabelClass('person', True, (7, 8, 9), 24),
        LabelClass('car', True, (10, 11, 12), 26),
    ),
)
V = VOID


def maps(semantic: list, instance: list) -> Panoptic:
    return Panoptic.from_maps(np.array(semantic, np.uint8), np.array(instance, np.uint16), LABELS)


def score(prediction: Panoptic, truth: Panoptic, crowd_ids: tuple = ()) -> QualityResult:
    quality = PanopticQuality(LABELS)
    quality.update(prediction, truth, crowd_ids)
    return quality.result()


def counts(result: QualityResult, class_id: int) -> tuple[int, int, int]:
    c = result.per_class[class_id]
    return c.tp, c.fp, c.fn


# --- the definition, word for word, slow and plain ----------------------------------------------


class PlainSegment:
    def __init__(self, category: int, mask: np.ndarray, is_crowd: bool = False) -> None:
        self.category, self.mask, self.is_crowd = category, mask, is_crowd


class PlainQuality:
    """Panoptic Quality as the paper and the COCO panoptic tools define it."""

    def __init__(self) -> None:
        self.ious: dict[int, list[float]] = {c: [] for c in range(4)}
        self.false_positives = [0] * 4
        self.false_negatives = [0] * 4

    def update(
        self, predicted: list[PlainSegment], true: list[PlainSegment], void: np.ndarray
    ) -> None:
        """``void`` is bool [H, W]: where the truth has no segment."""
        matched: set[int] = set()
        for truth in true:
            if truth.is_crowd:
                continue
            found = False
            for p, prediction in enumerate(predicted):
                if truth.category != prediction.category:
                    continue
                both = (truth.mask & prediction.mask).sum()
                either = (truth.mask | (prediction.mask & ~void)).sum()
                if both > 0 and both / either > 0.5:
                    self.ious[truth.category].append(both / either)
                    matched.add(p)
                    found = True
            self.false_negatives[truth.category] += not found
        for p, prediction in enumerate(predicted):
            if p in matched:
                continue
            excused = void.copy()
            groups = [s for s in true if s.is_crowd and s.category == prediction.category]
            if groups:
                excused |= groups[-1].mask
            if (prediction.mask & excused).sum() / prediction.mask.sum() <= 0.5:
                self.false_positives[prediction.category] += 1

    def result(self, categories: tuple[int, ...]) -> tuple[float, ...]:
        """Return PQ, SQ, RQ in percent over the categories that occur; NaN if none does."""
        rows = []
        for c in categories:
            ious = self.ious[c]
            weight = len(ious) + self.false_positives[c] / 2 + self.false_negatives[c] / 2
            if weight:
                sq = sum(ious) / len(ious) if ious else 0.0
                rows.append((100 * sum(ious) / weight, 100 * sq, 100 * len(ious) / weight))
        if not rows:
            return (math.nan,) * 3
        return tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))


def plain_segments(panoptic: Panoptic, crowd_ids: tuple = ()) -> list[PlainSegment]:
    found = []
    for class_id in range(4):
        of_class = panoptic.semantic == class_id
        for number in np.unique(panoptic.instance[of_class]).tolist():
            mask = of_class & (panoptic.instance == number)
            found.append(PlainSegment(class_id, mask, number in crowd_ids))
    return found


SHAPE = (3, 8)
INDICES = hnp.arrays(np.int64, SHAPE, elements=st.integers(0, 6))


@st.composite
def similar_indices(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two maps of segment numbers 0..6 that agree on many pixels, so that segments do match."""
    first, second = draw(INDICES), draw(INDICES)
    first = np.sort(first.ravel()).reshape(SHAPE)
    changed = draw(hnp.arrays(np.int64, SHAPE, elements=st.integers(0, 4))) == 4
    return np.where(changed, second, first), first


@st.composite
def similar_maps(draw: st.DrawFn) -> tuple[Panoptic, Panoptic]:
    """A prediction and a truth, both with void; few classes are wrong."""
    classes = np.array([*draw(st.lists(st.integers(0, 3), min_size=6, max_size=6)), VOID])
    predicted_classes = classes.copy()
    predicted_classes[draw(st.integers(0, 6))] = draw(st.integers(0, 3))

    def painted(rows: np.ndarray, class_of_row: np.ndarray) -> Panoptic:
        semantic = class_of_row[rows].astype(np.uint8)
        instance = np.where(LABELS.is_thing[semantic], rows + 1, 0).astype(np.uint16)
        return Panoptic.from_maps(semantic, instance, LABELS)

    predicted_rows, true_rows = draw(similar_indices())
    return painted(predicted_rows, predicted_classes), painted(true_rows, classes)


def assert_equal_to_plain(result: QualityResult, plain: PlainQuality) -> None:
    for suffix, categories in (('', (0, 1, 2, 3)), ('_things', (2, 3)), ('_stuff', (0, 1))):
        ours = [getattr(result, name + suffix) for name in ('PQ', 'SQ', 'RQ')]
        np.testing.assert_allclose(ours, plain.result(categories), rtol=0, atol=1e-12)
    for c in range(4):
        assert counts(result, c) == (
            len(plain.ious[c]),
            plain.false_positives[c],
            plain.false_negatives[c],
        )


# --- literal cases ------------------------------------------------------------------------------


def test_a_map_against_itself_is_perfect() -> None:
    truth = maps([[0, 0, 3, 3], [V, 2, 2, 1]], [[0, 0, 1, 1], [0, 2, 2, 0]])
    result = score(truth, truth)
    assert result.PQ == result.SQ == result.RQ == 100
    assert result.PQ_things == result.PQ_stuff == 100
    assert result.images == 1


def test_literal_figures() -> None:
    """Road IoU 4/5; car 1 IoU 2/3, car 2 missed, one car invented; sky missed; no person."""
    truth = maps([[0, 0, 0, 0, 1], [3, 3, 3, 3, 3]], [[0, 0, 0, 0, 0], [1, 1, 1, 2, 2]])
    prediction = maps([[0, 0, 0, 0, 0], [3, 3, 3, 3, 3]], [[0, 0, 0, 0, 0], [7, 7, 8, 8, 9]])
    result = score(prediction, truth)
    road, sky, person, car = result.per_class
    assert (road.tp, road.fp, road.fn) == (1, 0, 0)
    assert road.PQ == road.SQ == pytest.approx(80)
    assert (sky.PQ, sky.tp, sky.fp, sky.fn) == (0, 0, 0, 1)
    assert not person.occurs
    # Segment 7 shares 2 of 3 pixels with car 1; segment 8 shares 1 of 3 with car 2; 9 1 of 2:
    # exactly one half is not a match.
    assert (car.tp, car.fp, car.fn) == (1, 2, 1)
    assert pytest.approx(200 / 3) == car.SQ
    assert pytest.approx(40) == car.RQ
    assert pytest.approx(200 / 3 * 0.4) == car.PQ
    assert pytest.approx((80 + 0 + 200 / 3 * 0.4) / 3) == result.PQ
    assert pytest.approx(40) == result.PQ_stuff
    assert pytest.approx(200 / 3 * 0.4) == result.PQ_things


def test_void_is_taken_out_of_the_union() -> None:
    truth = maps([[3, 3, V, V, 0]], [[1, 1, 0, 0, 0]])
    prediction = maps([[3, 3, 3, 3, 0]], [[1, 1, 1, 1, 0]])
    result = score(prediction, truth)
    assert counts(result, CAR) == (1, 0, 0)
    assert result.per_class[CAR].SQ == 100


@pytest.mark.parametrize(('void_pixels', 'false_positives'), [(1, 1), (2, 1), (3, 0)])
def test_a_wrong_segment_on_void_is_excused_above_one_half(
    void_pixels: int, false_positives: int
) -> None:
    truth = maps([[V] * void_pixels + [0] * (5 - void_pixels)], [[0] * 5])
    prediction = maps([[3, 3, 3, 3, 0]], [[1, 1, 1, 1, 0]])
    assert counts(score(prediction, truth), CAR)[1] == false_positives


def test_a_group_is_neither_matched_nor_missed() -> None:
    truth = maps([[3, 3, 3, 0]], [[5, 5, 5, 0]])
    prediction = maps([[3, 3, 3, 0]], [[1, 1, 1, 0]])
    assert counts(score(prediction, truth, (5,)), CAR) == (0, 0, 0)
    assert counts(score(prediction, truth), CAR) == (1, 0, 0)


def test_a_group_excuses_only_its_own_class() -> None:
    truth = maps([[3, 3, 3, 0]], [[5, 5, 5, 0]])
    prediction = maps([[2, 2, 2, 0]], [[1, 1, 1, 0]])
    assert counts(score(prediction, truth, (5,)), PERSON) == (0, 1, 0)


def test_void_and_group_add_up() -> None:
    truth = maps([[3, V, 0, 0]], [[5, 0, 0, 0]])
    prediction = maps([[3, 3, 3, 0]], [[1, 1, 1, 0]])
    assert counts(score(prediction, truth, (5,)), CAR) == (0, 0, 0)
    assert counts(score(prediction, truth), CAR) == (0, 1, 1)


def test_a_void_prediction_misses_everything() -> None:
    truth = maps([[3, 3, 0, 0]], [[5, 5, 0, 0]])
    prediction = maps([[V] * 4], [[0] * 4])
    result = score(prediction, truth)
    assert counts(result, CAR) == counts(result, ROAD) == (0, 0, 1)
    assert result.PQ == result.SQ == 0


def test_nothing_at_all_is_not_a_number() -> None:
    result = PanopticQuality(LABELS).result()
    assert math.isnan(result.PQ)
    assert math.isnan(result.PQ_things)
    assert result.images == 0


def test_ids_far_apart_are_no_matter() -> None:
    truth = maps([[3, 3, 2]], [[65535, 65535, 1]])
    prediction = maps([[3, 3, 2]], [[1, 1, 65535]])
    assert score(prediction, truth).PQ == 100


def test_things_that_touch_are_told_apart_also_in_rows_of_one_side_only() -> None:
    truth = maps([[0] * 4, [3] * 4, [0] * 4], [[0] * 4, [1, 1, 2, 2], [0] * 4])
    prediction = maps([[3] * 4, [3] * 4, [0] * 4], [[4, 4, 4, 4], [1, 1, 2, 2], [0] * 4])
    result = score(prediction, truth)
    assert counts(result, CAR) == (2, 1, 0)
    assert result.per_class[CAR].SQ == 100


def test_sizes_must_agree() -> None:
    with pytest.raises(DatasetError, match='prediction is 3x1, the truth is 2x1'):
        score(maps([[0, 0, 0]], [[0, 0, 0]]), maps([[0, 0]], [[0, 0]]))


def test_many_images_and_figures_in_between() -> None:
    """More than are counted in one pass, and asked for before all have come."""
    road_and_car = maps([[ROAD, CAR, CAR, CAR]], [[0, 1, 1, 1]])
    half = maps([[ROAD, ROAD, CAR, CAR]], [[0, 0, 1, 1]])
    quality = PanopticQuality(LABELS)
    for image in range(75):
        quality.update(half if image % 3 else road_and_car, road_and_car)
        if image == 39:
            assert counts(quality.result(), CAR) == (40, 0, 0)
    result = quality.result()
    assert result.images == 75
    assert counts(result, CAR) == (75, 0, 0)
    assert counts(result, ROAD) == (25, 50, 50)  # 1 of 2 pixels is not above one half
    assert pytest.approx(100 * (25 + 50 * 2 / 3) / 75) == result.per_class[CAR].SQ


# --- maps of ids, as files hold them ------------------------------------------------------------


def table(*rows: tuple[int, int, bool], area: tuple[int, ...] = ()) -> SegmentTable:
    return SegmentTable(
        np.array([r[0] for r in rows], np.int64),
        np.array([r[1] for r in rows], np.uint8),
        np.array([r[2] for r in rows], bool),
        np.array(area or [-1] * len(rows), np.int64),
    )


def score_ids(
    prediction: list, listed: SegmentTable, truth: list, listed_truth: SegmentTable
) -> QualityResult:
    quality = PanopticQuality(LABELS)
    quality.add(Intersections.of_ids(np.array(prediction), listed, np.array(truth), listed_truth))
    return quality.result()


def test_several_segments_of_one_stuff_class_count_by_themselves() -> None:
    truth = table((1, ROAD, False))
    both = table((1, ROAD, False), (2, ROAD, False))
    result = score_ids([[1, 1, 2]], both, [[1, 1, 1]], truth)
    assert counts(result, ROAD) == (1, 1, 0)


def test_a_true_segment_without_pixels_is_missed() -> None:
    listed = table((1, ROAD, False), (9, CAR, False))
    result = score_ids([[1, 1]], table((1, ROAD, False)), [[1, 1]], listed)
    assert counts(result, CAR) == (0, 0, 1)


def test_the_stated_area_of_the_truth_is_used() -> None:
    listed = table((1, ROAD, False), area=(4,))
    result = score_ids([[1, 1, 1]], table((1, ROAD, False)), [[1, 1, 1]], listed)
    assert result.per_class[ROAD].SQ == 75


def test_the_last_of_several_groups_counts() -> None:
    listed = table((1, CAR, True), (2, CAR, True))
    assert counts(score_ids([[7, 7]], table((7, CAR, False)), [[1, 1]], listed), CAR)[1] == 1
    assert counts(score_ids([[7, 7]], table((7, CAR, False)), [[2, 2]], listed), CAR)[1] == 0


@pytest.mark.parametrize('side', ['truth', 'prediction'])
def test_an_id_that_is_not_listed_is_refused(side: str) -> None:
    ids = {'truth': [[1, 1]], 'prediction': [[1, 1]]} | {side: [[1, 4]]}
    one = table((1, ROAD, False))
    with pytest.raises(DatasetError, match=rf'PNG of the {side} has segment ids \[4\]'):
        score_ids(ids['prediction'], one, ids['truth'], one)


def test_a_predicted_segment_without_pixels_is_refused() -> None:
    two = table((1, ROAD, False), (2, CAR, False))
    with pytest.raises(DatasetError, match=r'lists segment ids \[2\] that its PNG lacks'):
        score_ids([[1, 1]], two, [[1, 1]], table((1, ROAD, False)))


# --- properties ---------------------------------------------------------------------------------


@given(st.lists(similar_maps(), min_size=1, max_size=3), st.data())
def test_equals_the_plain_definition(
    pairs: list[tuple[Panoptic, Panoptic]], data: st.DataObject
) -> None:
    quality, plain = PanopticQuality(LABELS), PlainQuality()
    for prediction, truth in pairs:
        ids = truth.segments.things.id.tolist()
        crowd_ids = tuple(data.draw(st.sets(st.sampled_from(ids)))) if ids else ()
        quality.update(prediction, truth, crowd_ids)
        plain.update(
            plain_segments(prediction),
            plain_segments(truth, crowd_ids),
            truth.semantic == VOID,
        )
    assert_equal_to_plain(quality.result(), plain)


@given(similar_indices(), st.data())
def test_maps_of_ids_equal_the_plain_definition(
    pair: tuple[np.ndarray, np.ndarray], data: st.DataObject
) -> None:
    classes = np.array(data.draw(st.lists(st.integers(0, 3), min_size=7, max_size=7)), np.uint8)

    def side(
        ids: np.ndarray, is_truth: bool
    ) -> tuple[np.ndarray, SegmentTable, list[PlainSegment]]:
        numbers = data.draw(st.permutations(np.unique(ids[ids > 0]).tolist()))
        numbers = np.array(numbers, np.int64)
        crowd = np.array([is_truth and data.draw(st.booleans()) for _ in numbers], bool)
        segments = [
            PlainSegment(int(classes[n]), ids == n, bool(g))
            for n, g in zip(numbers, crowd, strict=True)
        ]
        unstated = np.full(len(numbers), -1)
        return ids, SegmentTable(numbers, classes[numbers], crowd, unstated), segments

    (ids, listed, predicted), (true_ids, true_listed, true) = (
        side(pair[0], False),
        side(pair[1], True),
    )
    quality, plain = PanopticQuality(LABELS), PlainQuality()
    quality.add(Intersections.of_ids(ids, listed, true_ids, true_listed))
    plain.update(predicted, true, true_ids == 0)
    assert_equal_to_plain(quality.result(), plain)


@given(similar_maps())
def test_swapping_roles_keeps_pq_where_nothing_is_void(pair: tuple[Panoptic, Panoptic]) -> None:
    a, b = (
        Panoptic.from_maps(np.where(p.semantic == VOID, ROAD, p.semantic), p.instance, LABELS)
        for p in pair
    )
    assert pytest.approx(score(b, a).PQ, abs=1e-12) == score(a, b).PQ
