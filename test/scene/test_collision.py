"""Velocities and times to collision: literal cases, and straight lines found again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_ros.scene.collision import MAX_GAP_S, AgentMotion, time_to_collision_s

NONE = np.zeros((0, 2))


@pytest.mark.parametrize(
    ('position', 'velocity', 'seconds'),
    [
        ((10, 0), (-4, 0), 2),  # straight at us: 8 of the 10 metres
        ((3, 4), (-3, -4), 0.6),  # 5 metres away, 5 metres a second
        ((10, 0), (4, 0), np.inf),  # moves away
        ((10, 0), (0, 0), np.inf),
        ((10, 2.5), (-4, 0), np.inf),  # passes by
        ((10, 2), (-5, 0), 2),  # just touches
        ((1, 1), (9, 9), 0),  # is within already
        ((np.nan, 0), (-1, 0), np.nan),
        ((10, 0), (np.nan, np.nan), np.nan),
    ],
)
def test_time_to_collision(
    position: tuple[float, float], velocity: tuple[float, float], seconds: float
) -> None:
    found = time_to_collision_s(np.array([position]), np.array([velocity]), 2.0)
    assert found.tolist() == pytest.approx([seconds], nan_ok=True)


def test_nobody_and_a_radius_that_is_none() -> None:
    assert time_to_collision_s(NONE, NONE, 1.0).shape == (0,)
    with pytest.raises(ValueError, match='radius_m is 0; expected metres above 0'):
        time_to_collision_s(NONE, NONE, 0)


@settings(deadline=None)
@given(
    angle=st.floats(0, 6.28),
    distance=st.floats(3, 100),
    velocity=st.tuples(st.floats(-30, 30), st.floats(-30, 30)),
)
def test_at_that_time_the_radius_is_reached_and_not_before(
    angle: float, distance: float, velocity: tuple[float, float]
) -> None:
    position = distance * np.array([[np.cos(angle), np.sin(angle)]])
    (seconds,) = time_to_collision_s(position, np.array([velocity]), 2.0)
    times = np.linspace(0, min(seconds, 1000), 50)
    at_m = np.linalg.norm(position + times[:, None] * velocity, axis=1)
    assert (at_m >= 2.0 - 1e-6 * distance).all()
    if seconds < 1e6:
        end_m = np.linalg.norm(position + seconds * np.array(velocity))
        assert end_m == pytest.approx(2.0, rel=1e-6)


@settings(deadline=None)
@given(
    start=st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
    velocity=st.tuples(st.floats(-30, 30), st.floats(-30, 30)),
    gaps_ms=st.lists(st.integers(10, 300), min_size=10, max_size=30),
)
def test_a_straight_line_is_found_whatever_the_frame_rate(
    start: tuple[float, float], velocity: tuple[float, float], gaps_ms: list[int]
) -> None:
    motion = AgentMotion()
    for stamp_ms in np.cumsum([1_700_000_000_000, *gaps_ms]).tolist():
        seconds = (stamp_ms - 1_700_000_000_000) / 1e3
        position = np.array([start]) + seconds * np.array([velocity])
        found = motion.update(stamp_ms * 1_000_000, np.array([7]), position)
    if sum(gaps_ms) >= 250:
        assert found == pytest.approx(np.array([velocity]), abs=1e-3)


def test_a_velocity_takes_four_frames_and_a_quarter_of_a_second() -> None:
    motion = AgentMotion()
    known = []
    for frame in range(5):
        found = motion.update(frame * 100_000_000, np.array([3]), np.array([[20.0 - frame, 1]]))
        known.append(not np.isnan(found).any())
    assert known == [False, False, False, True, True]
    assert found == pytest.approx(np.array([[-10, 0]]), abs=1e-6)


def run(motion: AgentMotion, stamps_ms: range, track_id: int) -> np.ndarray:
    """Let one agent come closer by 10 m/s; returns its last velocity."""
    for stamp_ms in stamps_ms:
        position = np.array([[100 - stamp_ms / 100, 0]])
        found = motion.update(stamp_ms * 1_000_000, np.array([track_id]), position)
    return found


def test_tracks_are_kept_apart_and_an_agent_may_be_hidden_for_a_while() -> None:
    motion = AgentMotion()
    run(motion, range(0, 500, 100), 1)
    assert np.isnan(run(motion, range(500, 600, 100), 2)).all()  # somebody else
    found = motion.update(600_000_000, np.array([2, 1]), np.array([[94, 0], [94, 0]]))
    assert np.isnan(found[0]).all()
    assert found[1] == pytest.approx([-10, 0], abs=1e-6)
    for rows in (np.zeros(0, int), np.zeros(0, int)):
        assert motion.update(700_000_000, rows, NONE).shape == (0, 2)
    late_ns = 600_000_000 + round(MAX_GAP_S * 1e9) + 1
    assert np.isnan(motion.update(late_ns, np.array([1]), np.array([[80, 0]]))).all()


def test_stamps_that_go_back_start_afresh() -> None:
    motion = AgentMotion()
    assert not np.isnan(run(motion, range(1000, 2000, 100), 1)).any()
    assert np.isnan(run(motion, range(0, 100, 100), 1)).all()
    assert run(motion, range(100, 600, 100), 1) == pytest.approx(np.array([[-10, 0]]), abs=1e-6)


def test_stamps_far_below_zero() -> None:
    start_ms = -(2**31) * 1000
    motion = AgentMotion()
    assert not np.isnan(run(motion, range(10_000, 11_000, 100), 1)).any()
    found = run(motion, range(start_ms, start_ms + 600, 100), 1)
    assert found == pytest.approx(np.array([[-10, 0]]), abs=1e-3)
