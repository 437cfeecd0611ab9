import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panoptic_ros.errors import DatasetError
from panoptic_ros.evaluation.overlap import ClassOverlap
from panoptic_ros.evaluation.quality import PanopticQuality
from panoptic_ros.evaluation.video import VideoQuality, VideoResult
from panoptic_ros.labels import VOID, LabelClass, LabelSet
from panoptic_ros.panoptic import Panoptic

ROAD, SKY, CAR, BUS = range(4)
LABELS = LabelSet(
    'toy',
    (
        LabelClass('road', False, (1, 2, 3), 7),
        LabelClass('sky', False, (4, 5, 6), 23),
        LabelClass('car', True, (10, 11, 12), 26),
        LabelClass('bus', True, (13, 14, 15), 28),
    ),
)
Frame = tuple[Panoptic, Panoptic, tuple[int, ...]]


def cars(instance: list) -> Panoptic:
    """Cars with the given ids, which are their tracks, on road."""
    instance = np.array(instance, np.uint16)
    semantic = np.where(instance > 0, CAR, ROAD).astype(np.uint8)
    return Panoptic.from_maps(semantic, instance, LABELS)


def quality(frames: list[Frame], windows: tuple[int, ...] = (1, 2)) -> VideoResult:
    measure = VideoQuality(LABELS, windows)
    measure.update_video(frames)
    return measure.result()


def test_a_video_against_itself_is_perfect() -> None:
    frames = [
        (cars([[1, 1, 0]]), cars([[1, 1, 0]]), ()),
        (cars([[0, 1, 2]]), cars([[0, 1, 2]]), ()),
    ]
    result = quality(frames)
    assert result.VPQ == result.VPQ_things == result.VPQ_stuff == 100
    assert result.STQ == result.SQ == result.AQ == 100
    assert (result.videos, result.frames) == (1, 2)
    assert result.per_window[1].images == 2
    assert result.per_window[2].images == 1


def test_a_switched_id_costs_in_the_longer_window_only() -> None:
    """Car 1 is called 8 in the second frame: two halves of the tube, neither above one half."""
    truth = cars([[1, 1, 0]])
    frames = [(truth, truth, ()), (cars([[8, 8, 0]]), truth, ())]
    result = quality(frames)
    assert result.per_window[1].PQ == 100
    assert result.per_window[2].PQ_things == 0
    assert result.per_window[2].PQ_stuff == 100
    assert pytest.approx((100 + 50) / 2) == result.VPQ
    assert result.SQ == 100
    # Each half covers 2 of 4 pixels with IoU one half: (2 * 0.5 + 2 * 0.5) / 4.
    assert pytest.approx(50) == result.AQ
    assert pytest.approx(math.sqrt(100 * 50)) == result.STQ


def test_a_switched_id_late_keeps_the_match() -> None:
    truth = cars([[1, 1, 0]])
    frames = [(truth, truth, ())] * 2 + [(cars([[8, 8, 0]]), truth, ())]
    result = quality(frames, (3,))
    car = result.per_window[3].per_class[CAR]
    assert (car.tp, car.fp, car.fn) == (1, 1, 0)
    assert pytest.approx(200 / 3) == car.SQ
    assert pytest.approx(100 * (4 * 4 / 6 + 2 * 2 / 6) / 6) == result.AQ


def test_the_track_id_counts_not_the_id_of_the_frame() -> None:
    truth = cars([[1, 1, 0]])
    renumbered = cars([[8, 8, 0]])
    tracked = renumbered.with_track_ids(np.array([0, 1], np.int32))
    assert quality([(truth, truth, ()), (tracked, truth, ())]).VPQ == 100


def test_a_window_longer_than_the_video_is_left_out() -> None:
    truth = cars([[1, 1, 0]])
    result = quality([(truth, truth, ())] * 3, (1, 15))
    assert list(result.per_window) == [1]
    assert result.VPQ == 100


def test_windows_do_not_reach_into_the_next_video() -> None:
    truth = cars([[1, 1, 0]])
    measure = VideoQuality(LABELS, (2,))
    measure.update_video([(truth, truth, ())] * 2)
    measure.update_video([(truth, truth, ())])
    assert measure.result().per_window[2].images == 1


def test_tracks_of_two_videos_are_different_objects() -> None:
    """One video's track is found, the other's is not: the mean over tracks is one half."""
    truth = cars([[1, 1, 0]])
    measure = VideoQuality(LABELS, (1,))
    measure.update_video([(truth, truth, ())])
    measure.update_video([(cars([[0, 0, 0]]), truth, ())])
    assert pytest.approx(50) == measure.result().AQ


def test_id_switches_are_counted_where_the_object_is_found_again() -> None:
    """Car 1 is 5, lost, 6, then 6 again and taken for a bus; car 2 is never found."""
    truth = cars([[1, 1, 1, 0, 2, 2, 2]])
    bus = Panoptic.from_maps(
        np.array([[BUS] * 3 + [ROAD] * 4], np.uint8),
        np.array([[6] * 3 + [0] * 4], np.uint16),
        LABELS,
    )
    frames = [
        (cars([[5, 5, 0, 0, 7, 0, 0]]), truth, ()),
        (cars([[8, 0, 0, 0, 0, 0, 0]]), truth, ()),  # a third of it is not found
        (cars([[6, 6, 6, 0, 0, 0, 0]]), truth, ()),
        (bus, truth, ()),
    ]
    result = quality(frames)
    assert (result.id_switches, result.found) == (1, 3)
    groups = quality([(p, t, (1,)) for p, t, _ in frames])
    assert (groups.id_switches, groups.found) == (0, 0)
    both = VideoQuality(LABELS, (1,))
    for _ in range(2):
        both.update_video(frames)
    assert (both.result().id_switches, both.result().found) == (2, 6)


def test_two_videos_at_once_and_one_that_fails() -> None:
    truth = cars([[1, 1, 0]])
    one, other = VideoQuality(LABELS, (2,)), VideoQuality(LABELS, (2,))
    with one.video() as add_to_one, other.video() as add_to_other:
        for _ in range(2):
            add_to_one(truth, truth, ())
            add_to_other(cars([[0, 1, 1]]), truth, ())
    assert (one.result().VPQ_things, other.result().VPQ_things) == (100, 0)
    with pytest.raises(DatasetError), one.video() as add:
        add(cars([[1]]), truth, ())
    assert one.videos == 1


def test_groups_are_left_out_of_the_association() -> None:
    truth = cars([[1, 1, 2]])
    prediction = cars([[1, 1, 1]])
    assert quality([(prediction, truth, (2,))], (1,)).AQ == 100
    # Without the group: 2 of 2 pixels with IoU 2/3, and 1 of 1 with IoU 1/3.
    assert pytest.approx(50) == quality([(prediction, truth, ())], (1,)).AQ


def test_what_a_track_covers_beyond_the_truth_counts_against_it() -> None:
    truth = cars([[1, 1, 0, 0]])
    prediction = cars([[1, 1, 1, 1]])
    assert pytest.approx(50) == quality([(prediction, truth, ())], (1,)).AQ


def test_nothing_at_all_is_not_a_number() -> None:
    measure = VideoQuality(LABELS)
    measure.update_video([])
    result = measure.result()
    assert math.isnan(result.VPQ)
    assert math.isnan(result.STQ)
    assert result.per_window == {}


def test_a_video_without_things_has_no_association() -> None:
    road = cars([[0, 0]])
    result = quality([(road, road, ())], (1,))
    assert result.SQ == 100
    assert math.isnan(result.AQ)


def test_windows_must_be_frames() -> None:
    with pytest.raises(ValueError, match=r'windows are \(0, 2\)'):
        VideoQuality(LABELS, (0, 2))


# --- against the definitions, slow and plain ----------------------------------------------------


def side_by_side(maps: list[Panoptic]) -> Panoptic:
    """A tube is a segment of the picture that has all frames beside each other."""
    semantic = np.concatenate([m.semantic for m in maps], axis=1)
    instance = np.concatenate([m.instance for m in maps], axis=1)
    return Panoptic.from_maps(semantic, instance, LABELS)


def plain_association(videos: list[list[Frame]]) -> float:
    total, tracks = 0.0, 0
    for frames in videos:
        true: dict = defaultdict(int)
        predicted: dict = defaultdict(int)
        shared: dict = defaultdict(int)
        for prediction, truth, crowd_ids in frames:
            for pc, pi, tc, ti in zip(
                prediction.semantic.flat,
                prediction.instance.flat,
                truth.semantic.flat,
                truth.instance.flat,
                strict=True,
            ):
                if ti in crowd_ids and ti > 0:
                    continue
                if ti:
                    true[tc, ti] += 1
                if pi:
                    predicted[pc, pi] += 1
                if ti and pi:
                    shared[(tc, ti), (pc, pi)] += 1
        for (t, p), tpa in shared.items():
            fpa, fna = predicted[p] - tpa, true[t] - tpa
            total += tpa * tpa / (tpa + fpa + fna) / true[t]
        tracks += len(true)
    return 100 * total / tracks if tracks else math.nan


@st.composite
def videos(draw: st.DrawFn) -> list[Frame]:
    shape = (2, 5)
    indices = hnp.arrays(np.int64, shape, elements=st.integers(0, 5))
    classes = np.array([*draw(st.lists(st.integers(0, 3), min_size=5, max_size=5)), VOID])
    crowd = draw(st.integers(0, 5)) + 1

    def painted(rows: np.ndarray) -> Panoptic:
        semantic = classes[rows].astype(np.uint8)
        instance = np.where(LABELS.is_thing[semantic], rows + 1, 0).astype(np.uint16)
        return Panoptic.from_maps(semantic, instance, LABELS)

    frames = []
    for _ in range(draw(st.integers(1, 4))):
        rows = np.sort(draw(indices).ravel()).reshape(shape)
        changed = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, 3))) == 3
        crowd_ids = (crowd,) if (painted(rows).instance == crowd).any() else ()
        frames.append((painted(np.where(changed, draw(indices), rows)), painted(rows), crowd_ids))
    return frames


@given(st.lists(videos(), min_size=1, max_size=2))
def test_equals_the_plain_definitions(clips: list[list[Frame]]) -> None:
    measure = VideoQuality(LABELS, (1, 3))
    for frames in clips:
        measure.update_video(iter(frames))
    result = measure.result()
    assert (result.videos, result.frames) == (len(clips), sum(map(len, clips)))

    overlap = ClassOverlap(LABELS)
    for window in (1, 3):
        tubes = PanopticQuality(LABELS)
        for frames in clips:
            for start in range(len(frames) - window + 1):
                predictions, truths, crowds = zip(*frames[start : start + window], strict=True)
                tubes.update(
                    side_by_side(list(predictions)),
                    side_by_side(list(truths)),
                    [i for crowd_ids in crowds for i in crowd_ids],
                )
        expected = tubes.result()
        if not expected.images:
            assert window not in result.per_window
            continue
        np.testing.assert_allclose(result.per_window[window].PQ, expected.PQ, atol=1e-12)
        for ours, theirs in zip(
            result.per_window[window].per_class, expected.per_class, strict=True
        ):
            assert (ours.tp, ours.fp, ours.fn) == (theirs.tp, theirs.fp, theirs.fn)
    for frames in clips:
        for frame in frames:
            overlap.update(*frame)
    np.testing.assert_allclose(result.SQ, overlap.result().mean_iou, atol=1e-12)
    np.testing.assert_allclose(result.AQ, plain_association(clips), atol=1e-9)
