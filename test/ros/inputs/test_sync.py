"""Pairing by stamps: literal stamps, and threads where waiting is tested."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panoptic_ros.ros.inputs.sync import ANNOUNCED, KEPT, SILENCE_NS, DepthCounts, DepthSync, Match

NEVER_S = 60.0
"""A wait this long would be noticed: nothing here takes it to its end."""


def offered(*stamps_ns: int) -> DepthSync[str]:
    sync = DepthSync()
    for stamp_ns in stamps_ns:
        sync.offer(stamp_ns, f'depth {stamp_ns}')
    return sync


def matched(sync: DepthSync[str], stamp_ns: int, tolerance_ns: int = 0) -> Match[str]:
    sync.begin(stamp_ns)
    return sync.match(stamp_ns, tolerance_ns, 0.0)


def test_exact_takes_equal_stamps_only() -> None:
    sync = offered(100, 200, 300)
    assert matched(sync, 200) == Match('depth 200', 0)
    assert matched(sync, 201) == Match(None, -1)
    assert matched(sync, 299) == Match(None, 1)
    assert sync.counts == DepthCounts(received=3, matched=1, missed=2)


def test_approximate_takes_the_closest_within_the_tolerance() -> None:
    sync = offered(100, 200, 300)
    assert matched(sync, 160, 40) == Match('depth 200', 40)
    assert matched(sync, 140, 40) == Match('depth 100', -40)
    assert matched(sync, 140, 39) == Match(None, -40)
    assert matched(sync, 1000, 700) == Match('depth 300', -700)


def test_no_depth_at_all_is_a_miss_without_a_distance_and_without_waiting() -> None:
    sync = DepthSync()
    sync.begin(100)
    assert sync.match(100, 1000, NEVER_S) == Match(None, None)
    assert sync.counts == DepthCounts(missed=1)


def test_depth_may_come_while_the_picture_is_worked_on() -> None:
    sync = offered(100)
    sync.begin(200)
    sync.offer(200, 'in time')
    assert sync.match(200, 0, 0.0) == Match('in time', 0)


def test_the_next_image_may_be_announced_before_the_match() -> None:
    sync = offered(100)
    sync.begin(200)
    sync.begin(300)
    sync.offer(200, 'of the first')
    sync.offer(300, 'of the second')
    assert sync.match(200, 0, 0.0) == Match('of the first', 0)
    assert sync.match(300, 0, 0.0) == Match('of the second', 0)


def test_an_image_that_was_not_announced_is_matched_with_recent_depth() -> None:
    sync = offered(100, 200)
    assert sync.match(200, 0, 0.0) == Match('depth 200', 0)
    sync.begin(100)
    for stamp_ns in range(300, 300 + 2 * ANNOUNCED):
        sync.begin(stamp_ns)  # images that are skipped
    assert sync.match(100, 0, 0.0) == Match('depth 100', 0)


def test_what_fits_is_kept_however_long_the_work_takes() -> None:
    sync = offered(100)
    sync.begin(110)
    for stamp_ns in range(200, 200 + 100 * 5 * KEPT, 100):
        sync.offer(stamp_ns, 'later')
    assert sync.match(110, 10, 0.0) == Match('depth 100', -10)


def test_only_the_latest_are_kept_for_pictures_to_come() -> None:
    sync = offered(*range(KEPT + 1))
    assert matched(sync, 0) == Match(None, 1)
    assert matched(sync, 1) == Match('depth 1', 0)


def test_one_depth_may_serve_two_pictures() -> None:
    sync = offered(100)
    assert matched(sync, 99, 5).depth == matched(sync, 101, 5).depth == 'depth 100'


def test_late_depth_is_counted_once_its_picture_was_given_up() -> None:
    sync = offered(100)
    assert matched(sync, 200, 10).depth is None
    assert sync.counts.late == 0
    sync.offer(189, 'too early to be of this picture')
    assert sync.counts.late == 0
    sync.offer(210, 'late')
    assert sync.counts == DepthCounts(received=3, missed=1, late=1)


def test_time_that_jumps_back_forgets_what_was_before() -> None:
    second = 1_000_000_000
    sync = offered(2 * second, 3 * second, second)
    assert matched(sync, 3 * second) == Match(None, -2 * second)
    assert matched(sync, second) == Match(f'depth {second}', 0)


def test_depth_out_of_order_is_kept() -> None:
    sync = offered(100, 300, 200)
    for stamp_ns in (100, 200, 300):
        assert matched(sync, stamp_ns) == Match(f'depth {stamp_ns}', 0)


def test_nobody_waits_where_depth_as_new_as_the_picture_is_there() -> None:
    sync = offered(100, 301)
    sync.begin(300)
    assert sync.match(300, 0, NEVER_S) == Match(None, 1)


def test_nobody_waits_for_depth_that_has_stopped() -> None:
    sync = offered(0)
    sync.begin(SILENCE_NS + 1)
    assert sync.match(SILENCE_NS + 1, 0, NEVER_S).depth is None


def test_a_wait_ends_when_the_depth_comes() -> None:
    sync = offered(100)
    sync.begin(200)
    found = []
    waiting = threading.Thread(target=lambda: found.append(sync.match(200, 50, NEVER_S)))
    waiting.start()
    sync.offer(160, 'within the tolerance, but a better one may come')
    sync.offer(200, 'the very one')
    waiting.join(NEVER_S / 2)
    assert found == [Match('the very one', 0)]


def test_a_wait_ends_without_depth_and_takes_the_closest() -> None:
    sync = offered(100, 190)
    sync.begin(200)
    assert sync.match(200, 10, 0.01) == Match('depth 190', -10)
    sync.begin(300)
    assert sync.match(300, 10, 0.01) == Match(None, -110)


def test_bad_depth_is_counted_apart() -> None:
    sync = offered(1)
    matched(sync, 1)
    sync.count_bad()
    assert sync.counts == DepthCounts(received=1, matched=1, bad=1)


@given(
    stamps_ns=st.lists(st.integers(-(2**62), 2**62), max_size=KEPT).map(sorted),
    wanted_ns=st.integers(-(2**62), 2**62),
    tolerance_ns=st.integers(0, 2**62),
    seen_before=st.integers(0, KEPT),
)
def test_always_the_closest(
    stamps_ns: list[int], wanted_ns: int, tolerance_ns: int, seen_before: int
) -> None:
    sync = offered(*stamps_ns[:seen_before])
    sync.begin(wanted_ns)
    for stamp_ns in stamps_ns[seen_before:]:
        sync.offer(stamp_ns, f'depth {stamp_ns}')
    found = sync.match(wanted_ns, tolerance_ns, 0.0)
    if not stamps_ns:
        assert found == Match(None, None)
        return
    distance_ns = min(abs(stamp_ns - wanted_ns) for stamp_ns in stamps_ns)
    assert abs(found.offset_ns) == distance_ns
    is_within = distance_ns <= tolerance_ns
    assert found.depth == (f'depth {wanted_ns + found.offset_ns}' if is_within else None)
    assert (sync.counts.matched, sync.counts.missed) == (int(is_within), int(not is_within))


@pytest.mark.parametrize('stamp_ns', [0, -5, 2**62])
def test_any_stamp_will_do(stamp_ns: int) -> None:
    assert matched(offered(stamp_ns), stamp_ns).offset_ns == 0


def test_of_equal_stamps_the_newest_depth_counts() -> None:
    sync: DepthSync[str] = DepthSync()
    for depth in ('first', 'second'):
        sync.offer(0, depth)
    sync.begin(0)
    assert sync.match(0, 0, 0.0).depth == 'second'
    sync.begin(0)
    sync.offer(0, 'third')
    assert sync.match(0, 0, 0.0).depth == 'third'
