import pytest

from panoptic_ros.datasets.subset import evenly_spaced
from panoptic_ros.errors import DatasetError


def test_a_limit_takes_from_the_first_to_the_last() -> None:
    samples = list('abcdefghij')
    assert list(evenly_spaced(samples, 4)) == ['a', 'd', 'g', 'j']
    assert list(evenly_spaced(samples, 1)) == ['a']
    assert list(evenly_spaced(samples, 99)) == samples
    assert evenly_spaced(samples, None) is samples


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(DatasetError, match='limit is 0; expected 1 or more'):
        evenly_spaced('abc', 0)
