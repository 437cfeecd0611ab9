import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panoptic_ros.labels import VOID, LabelClass, LabelSet
from panoptic_ros.panoptic import Panoptic, check_maps, measure_segments
from panoptic_ros.scene.motion import TrackerSettings
from panoptic_ros.scene.tracking import MAX_ID, Tracker

ROAD, CAR, TRUCK, PERSON = range(4)
LABELS = LabelSet(
    'toy',
    (
        LabelClass('road', False, (1, 2, 3), 7),
        LabelClass('car', True, (4, 5, 6), 26),
        LabelClass('truck', True, (7, 8, 9), 27),
        LabelClass('person', True, (10, 11, 12), 24),
    ),
)
SIZE_WH = (80, 40)
FRAME_NS = 100_000_000
Thing = tuple[int, int, int, int, int]  # class, then x0 y0 x1 y1; later ones hide earlier ones


def frame(*things: Thing, size_wh: tuple[int, int] = SIZE_WH, ids: list[int] | None = None):
    """A road with things on it; thing k has the id k + 1, or that of ``ids``."""
    semantic = np.zeros(size_wh[::-1], np.uint8)
    instance = np.zeros(size_wh[::-1], np.uint16)
    for number, (class_id, x0, y0, x1, y1) in enumerate(things):
        semantic[y0:y1, x0:x1] = class_id
        instance[y0:y1, x0:x1] = ids[number] if ids else number + 1
    return Panoptic.from_maps(semantic, instance, LABELS)


def car(x: int, y: int = 10, width: int = 12, height: int = 8, class_id: int = CAR) -> Thing:
    return class_id, x, y, x + width, y + height


def id_at(panoptic: Panoptic, x: int, y: int) -> int:
    return int(panoptic.instance[y, x])


def track(frames: list[Panoptic], tracker: Tracker | None = None, start: int = 0):
    tracker = tracker or Tracker()
    return [tracker.update(f, (start + n) * FRAME_NS) for n, f in enumerate(frames)]


def ids_of(panoptic: Panoptic) -> list[int]:
    return panoptic.segments.things.id.tolist()


# Ids that stay.
def test_first_frame_numbers_from_one_and_keeps_the_maps() -> None:
    given_frame = frame(car(5), car(40), ids=[7, 300])
    (found,) = track([given_frame])
    assert ids_of(found) == [1, 2]
    assert found.segments.track_id.tolist() == [0, 1, 2]
    assert np.array_equal(found.semantic, given_frame.semantic)
    assert (id_at(found, 6, 12), id_at(found, 41, 12)) == (1, 2)
    assert given_frame.segments.things.id.tolist() == [7, 300]  # what was given is as it was


def test_ids_follow_the_objects_and_not_the_order_of_the_frame() -> None:
    first, second = track([frame(car(5), car(40)), frame(car(43), car(8))])
    assert id_at(second, 44, 12) == id_at(first, 41, 12)
    assert id_at(second, 9, 12) == id_at(first, 6, 12)


def test_two_that_cross_keep_their_ids() -> None:
    """The right one passes in front of the left one; half hidden, then hidden, then back."""
    frames = [frame(car(10 + 4 * n, 12), car(60 - 4 * n, 10, height=12)) for n in range(13)]
    found = track(frames)
    left, right = id_at(found[0], 11, 13), id_at(found[0], 61, 11)
    assert id_at(found[-1], 59, 13) == left
    assert id_at(found[-1], 13, 11) == right


def test_one_that_is_hidden_for_half_a_second_comes_back() -> None:
    hidden = range(4, 9)
    frames = [frame(*([] if n in hidden else [car(5 + 4 * n)])) for n in range(12)]
    found = track(frames)
    assert ids_of(found[3]) == [1]
    assert ids_of(found[6]) == []
    assert ids_of(found[9]) == [1]


def test_one_that_is_hidden_for_too_long_is_another() -> None:
    settings = TrackerSettings(max_gap_s=0.5)
    tracker = Tracker(settings)
    tracker.update(frame(car(5)), 0)
    assert ids_of(tracker.update(frame(), 300_000_000)) == []
    assert ids_of(tracker.update(frame(car(5)), 500_000_000)) == [1]
    assert ids_of(tracker.update(frame(), 600_000_000)) == []
    assert ids_of(tracker.update(frame(car(5)), 1_000_000_001)) == [2]


@pytest.mark.parametrize('period_s', [0.01, 1.02, 2.5, 30.0])
def test_ids_stay_at_any_frame_rate(period_s: float) -> None:
    tracker = Tracker()
    scene = frame(car(5), car(30), car(50))
    for number in range(5):
        after = tracker.update(scene, round(number * period_s * 1e9))
        assert ids_of(after) == [1, 2, 3]


def test_tracks_end_in_a_long_pause() -> None:
    tracker = Tracker()
    assert ids_of(tracker.update(frame(car(5)), 0)) == [1]
    assert ids_of(tracker.update(frame(car(5)), 61_000_000_000)) == [2]


@pytest.mark.parametrize('stamps_ms', [(0, 100, 99.999, 200), (0, 100, 300, 200, 400)])
def test_frames_out_of_order_keep_their_ids(stamps_ms: tuple[float, ...]) -> None:
    tracker = Tracker()
    for stamp_ms in stamps_ms:
        assert ids_of(tracker.update(frame(car(5), car(30)), round(stamp_ms * 1e6))) == [1, 2]


def test_a_jump_back_starts_new_tracks() -> None:
    tracker = Tracker()
    tracker.update(frame(car(5)), 5_000_000_000)
    assert ids_of(tracker.update(frame(car(5)), 4_000_000_000)) == [1]
    assert ids_of(tracker.update(frame(car(5)), 3_999_999_999)) == [2]


def test_small_and_fast_ones_are_found_without_overlap() -> None:
    """Four pixels wide, six pixels a frame: masks of neighbouring frames never overlap."""
    found = track([frame(car(4 + 6 * n, width=4, height=6)) for n in range(10)])
    assert [ids_of(f) for f in found] == [[1]] * 10
    strict = track(
        [frame(car(4 + 6 * n, width=4, height=6)) for n in range(3)],
        Tracker(TrackerSettings(max_deviation=0)),
    )
    assert [ids_of(f) for f in strict] == [[1], [2], [3]]


def test_a_mask_that_falls_apart_stays_with_what_it_overlaps_most() -> None:
    """Once the right end of a car is an object, later the left end: 1 is always the larger part.

    More matches, the old right end with the larger part and 1 with the left end, are not better.
    """
    whole = frame(car(20, width=40))
    right_end = frame(car(20, width=34), car(54, width=6))
    left_end = frame(car(20, width=6), car(26, width=34))
    found = track([whole, right_end, whole, left_end])
    assert id_at(found[1], 55, 12) == 2
    assert [id_at(f, 40, 12) for f in found] == [1, 1, 1, 1]


def test_a_new_one_far_away_is_another() -> None:
    found = track([frame(car(2)), frame(car(65))])
    assert [ids_of(f) for f in found] == [[1], [2]]


def test_born_beside_an_old_one_and_gone_again() -> None:
    found = track([frame(car(5)), frame(car(5), car(40)), frame(car(40)), frame(car(40), car(5))])
    assert [ids_of(f) for f in found] == [[1], [1, 2], [2], [1, 2]]


def test_one_that_left_the_picture_does_not_come_back_as_the_next_one() -> None:
    leaving = [frame(car(50 + 8 * n)) for n in range(4)]  # at 74 the last time
    found = track([*leaving, frame(), frame(), frame(car(66))])
    assert ids_of(found[3]) == [1]
    assert ids_of(found[6]) == [2]


# Classes.
def test_a_car_taken_for_a_truck_keeps_its_id() -> None:
    found = track([frame(car(5)), frame(car(6, class_id=TRUCK)), frame(car(7))])
    assert [ids_of(f) for f in found] == [[1]] * 3
    assert found[1].segments.things.class_id.tolist() == [TRUCK]  # the class is the frame's


def test_no_id_changes_its_class_where_that_is_not_wanted() -> None:
    tracker = Tracker(TrackerSettings(min_overlap_of_classes=1))
    found = track([frame(car(5)), frame(car(5, class_id=TRUCK)), frame(car(5))], tracker)
    assert [ids_of(f) for f in found] == [[1], [2], [1]]


def test_a_person_in_front_of_a_car_is_not_the_car() -> None:
    person = (PERSON, 10, 8, 14, 20)
    found = track([frame(car(5)), frame(car(5), person), frame(car(5), person)])
    assert id_at(found[1], 6, 12) == 1
    assert [id_at(f, 11, 12) for f in found[1:]] == [2, 2]


def test_of_two_classes_the_same_one_is_preferred() -> None:
    """A truck appears on most of where the car was; the car has moved a little."""
    found = track([frame(car(20)), frame(car(14), car(26, width=10, class_id=TRUCK))])
    assert id_at(found[1], 15, 12) == 1


# Time.
@pytest.mark.parametrize('frame_ns', [20_000_000, 100_000_000, 400_000_000])
def test_motion_is_by_the_second(frame_ns: int) -> None:
    """60 px/s to the right, whatever the time between frames, and two frames are missing."""
    tracker = Tracker()
    size_wh = (800, 40)
    for at in (0, 1, 2, 3, 4, 6, *range(8, 30)):
        x = 20 + round(60 * at * frame_ns / 1e9)
        found = tracker.update(frame(car(x), size_wh=size_wh), at * frame_ns)
        assert ids_of(found) == [1]
    assert tracker.tracks.velocity_px_s[0] == pytest.approx([60, 0], abs=4)


def test_dropped_frames_do_not_matter() -> None:
    tracker = Tracker()
    ids = set()
    for n in (0, 1, 2, 3, 7, 8, 12, 13):
        found = tracker.update(frame(car(2 + 5 * n)), n * FRAME_NS)
        ids.update(ids_of(found))
    assert ids == {1}


def test_a_frame_of_the_same_time_changes_nothing() -> None:
    tracker = Tracker()
    assert ids_of(tracker.update(frame(car(5)), 5)) == [1]
    assert ids_of(tracker.update(frame(car(6)), 5)) == [1]
    assert np.isfinite(tracker.tracks.velocity_px_s).all()


def test_another_size_starts_afresh() -> None:
    tracker = Tracker()
    tracker.update(frame(car(5)), 0)
    found = tracker.update(frame(car(5), size_wh=(100, 40)), FRAME_NS)
    assert ids_of(found) == [2]
    assert ids_of(tracker.update(frame(car(5), size_wh=(100, 40)), 2 * FRAME_NS)) == [2]


def test_reset_forgets_and_goes_on_numbering() -> None:
    tracker = Tracker()
    tracker.update(frame(car(5), car(40)), 0)
    tracker.reset()
    assert len(tracker.tracks.track_id) == 0
    assert ids_of(tracker.update(frame(car(5)), FRAME_NS)) == [3]


def test_negative_and_huge_stamps() -> None:
    tracker = Tracker()
    for number, seconds in enumerate((-(2**31), 0, 2**31)):  # all that a ROS stamp can say
        assert ids_of(tracker.update(frame(car(5)), seconds * 10**9)) == [number + 1]


def test_settings_may_change_at_any_time() -> None:
    tracker = Tracker()
    tracker.update(frame(car(5)), 0)
    tracker.update(frame(), FRAME_NS)
    tracker.settings = TrackerSettings(max_gap_s=0)
    assert ids_of(tracker.update(frame(car(5)), 2 * FRAME_NS)) == [2]


# Sizes and numbers.
def test_empty_frames() -> None:
    found = track([frame(), frame(car(5)), frame(), frame(car(5)), frame()])
    assert [ids_of(f) for f in found] == [[], [1], [], [1], []]


@pytest.mark.parametrize('size_wh', [(1, 1), (1, 1000), (1000, 1), (7, 3), (1280, 720)])
def test_every_size_of_map(size_wh: tuple[int, int]) -> None:
    everything = (CAR, 0, 0, *size_wh)
    found = track([frame(everything, size_wh=size_wh)] * 3)
    assert [ids_of(f) for f in found] == [[1]] * 3
    assert (found[2].instance == 1).all()


def test_numbers_start_again_after_the_last_and_pass_over_those_in_use() -> None:
    tracker = Tracker()
    tracker.update(frame(car(2), car(22)), 0)  # 1 and 2
    tracker._last_id = MAX_ID - 1
    found = tracker.update(frame(car(2), car(22), car(42), car(62)), FRAME_NS)
    assert ids_of(found) == [1, 2, 3, MAX_ID]
    found = tracker.update(frame(car(62)), 2 * FRAME_NS)
    assert len(ids_of(found)) == 1
    assert 1 <= ids_of(found)[0] <= MAX_ID


def test_as_many_things_as_an_instance_map_can_number() -> None:
    """256 x 256 things of one pixel, but one; they overlap nothing when they are new."""
    numbers = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    semantic = np.where(numbers > 0, CAR, ROAD).astype(np.uint8)
    everywhere = Panoptic.from_maps(semantic, numbers, LABELS)
    tracker = Tracker()
    tracker.update(frame(car(5), size_wh=(256, 256)), 0)
    found = tracker.update(everywhere, 10**10)
    assert np.array_equal(np.sort(found.segments.things.id), np.arange(1, 65536))


def test_ids_above_255_in_the_frame() -> None:
    first, second = track(
        [frame(car(5), car(40), ids=[60000, 256]), frame(car(5), car(40), ids=[1, 65535])]
    )
    assert np.array_equal(first.instance, second.instance)


def test_what_is_out_of_sight_is_bounded() -> None:
    tracker = Tracker(TrackerSettings(max_lost=1))
    tracker.update(frame(car(2), car(22), car(42)), 0)
    tracker.update(frame(), FRAME_NS)
    found = tracker.update(frame(car(2), car(22), car(42)), 2 * FRAME_NS)
    assert len(set(ids_of(found)) & {1, 2, 3}) == 1


# Motion.
def test_velocity_of_one_that_was_seen_once_is_zero() -> None:
    tracker = Tracker()
    tracker.update(frame(car(5)), 0)
    tracks = tracker.tracks
    assert tracks.track_id.tolist() == [1]
    assert tracks.velocity_px_s.tolist() == [[0, 0]]
    assert np.isnan(tracks.velocity_m_s).all()
    assert tracks.velocity_m_s.shape == (1, 3)


def test_tracks_are_in_the_order_of_the_segments() -> None:
    tracker = Tracker()
    for n in range(5):
        left, right = car(5 + 3 * n), car(60 - 2 * n)
        found = tracker.update(frame(*((right, left) if n % 2 else (left, right))), n * FRAME_NS)
    assert found.segments.things.id.tolist() == tracker.tracks.track_id.tolist() == [1, 2]
    assert tracker.tracks.velocity_px_s[:, 0] == pytest.approx([30, -20], abs=3)
    assert tracker.tracks.age_s == pytest.approx([0.4, 0.4])
    assert found.segments.things.box_xyxy[:, 0].tolist() == [17, 52]


def test_velocity_in_metres_from_positions() -> None:
    """The left one comes nearer at 5 m/s, of the right one there is no position at first."""
    tracker = Tracker()
    for n in range(10):
        both = (car(5), car(40)) if n % 2 else (car(40), car(5))
        tracker.update(frame(*both), n * FRAME_NS)
        right = [4.0, 0.0, 20.0] if n > 8 else [np.nan] * 3
        position_m = np.array([[-3.0, 0.5, 30 - 0.5 * n], right])
        tracker.locate(position_m if id_is_left(tracker) else position_m[::-1])
    left, right = tracker.tracks.velocity_m_s[:: 1 if id_is_left(tracker) else -1]
    assert left == pytest.approx([0, 0, -5], abs=0.3)
    assert np.isnan(right).all()


def id_is_left(tracker: Tracker) -> bool:
    return tracker._table[tracker._row_of_thing]['box_xyxy'][0, 0] < 20


def test_noise_of_positions_counts() -> None:
    speeds = []
    for noise_m in (0.01, 10.0):
        tracker = Tracker()
        for n in range(3):
            tracker.update(frame(car(5)), n * FRAME_NS)
            tracker.locate(np.array([[0.0, 0.0, 10.0 + n]]), noise_m)
        speeds.append(tracker.tracks.velocity_m_s[0, 2])
    assert speeds[0] == pytest.approx(10, abs=0.5)
    assert 0 <= speeds[1] < 5


def test_positions_of_another_number_are_refused() -> None:
    tracker = Tracker()
    tracker.update(frame(car(5)), 0)
    with pytest.raises(ValueError, match=r'shape \(2, 3\); expected \(1, 3\)'):
        tracker.locate(np.zeros((2, 3)))


def random_frames(draw: st.DrawFn) -> list[Panoptic]:
    frames = []
    for _ in range(draw(st.integers(1, 4))):
        instance = draw(hnp.arrays(np.uint16, (6, 8), elements=st.integers(0, 5)))
        class_of_id = np.array(
            [ROAD, *draw(st.lists(st.integers(CAR, PERSON), min_size=5, max_size=5))]
        )
        semantic = class_of_id[instance].astype(np.uint8)
        semantic[(instance == 0) & draw(hnp.arrays(bool, (6, 8)))] = VOID
        frames.append(Panoptic.from_maps(semantic, instance, LABELS))
    return frames


@settings(deadline=None)
@given(st.data())
def test_what_always_holds(data: st.DataObject) -> None:
    tracker = Tracker()
    stamp_ns = 0
    for before in random_frames(data.draw):
        stamp_ns += data.draw(st.integers(-(10**9), 10**9))
        after = tracker.update(before, stamp_ns)
        assert np.array_equal(after.semantic, before.semantic)
        check_maps(after.semantic, after.instance, LABELS)  # ids on things only, of one class
        # The same partition: ids of the frame and of tracks go together one to one.
        pairs = np.unique(np.stack((before.instance.ravel(), after.instance.ravel())), axis=1)
        assert len(set(pairs[0])) == len(set(pairs[1])) == pairs.shape[1]
        measured = measure_segments(after.semantic, after.instance)
        for name in ('id', 'class_id', 'is_thing', 'area', 'box_xyxy', 'track_id'):
            assert np.array_equal(getattr(after.segments, name), getattr(measured, name))
        assert after.segments.things.id.tolist() == tracker.tracks.track_id.tolist()
        assert np.isfinite(tracker.tracks.velocity_px_s).all()


@settings(deadline=None)
@given(st.data())
def test_ids_of_the_frame_mean_nothing(data: st.DataObject) -> None:
    one, other = Tracker(), Tracker()
    for number, before in enumerate(random_frames(data.draw)):
        new_id = np.array([0, *data.draw(st.permutations(range(1, 6)))], np.uint16)
        renamed = Panoptic.from_maps(before.semantic, new_id[before.instance], LABELS)
        found = one.update(before, number * FRAME_NS)
        assert np.array_equal(found.instance, other.update(renamed, number * FRAME_NS).instance)
