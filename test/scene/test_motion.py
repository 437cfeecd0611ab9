import pytest

from panoptic_ros.scene.motion import TrackerSettings


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('max_gap_s', -0.1),
        ('max_gap_s', 61),
        ('min_overlap', 1.1),
        ('min_overlap_of_classes', float('nan')),
        ('max_deviation', -1),
        ('box_noise', 2),
        ('acceleration', -1),
        ('start_velocity', float('inf')),
        ('max_lost', 10001),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f'{name} is {value}; expected a number from 0 to'):
        TrackerSettings(**{name: value})
