"""Times to collision: literal cases and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_ros.scene.collision import time_to_collision_s

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


def test_no_points_and_a_bad_radius() -> None:
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
