import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from panoptic_ros.benchmark.figures import (
    distribution,
    mean_rate_hz,
    number,
    percentile_table,
)

NAN = float('nan')


def test_distribution():
    figures = distribution(np.array([10.0, NAN, 30, 20, 40]))
    assert figures['count'] == 4
    assert (figures['min'], figures['mean'], figures['p50'], figures['max']) == (10, 25, 25, 40)
    assert figures['p95'] == pytest.approx(38.5)
    # |30-10|, |20-30|, |40-20|
    assert figures['jitter'] == pytest.approx(50 / 3)


def test_distribution_of_none_and_of_one_value():
    nothing = distribution(np.array([NAN]))
    assert nothing.keys() == distribution(np.array([1.0])).keys()
    assert nothing['count'] == 0
    assert nothing['p50'] is None
    assert distribution(np.array([1.0]))['jitter'] is None


def test_percentile_table() -> None:
    table = percentile_table(
        'ms', {'a long stage': distribution([1, 2, 3]), 'b': distribution([])}, ('count', 'p50')
    )
    assert table.splitlines() == [
        'ms                count      p50',
        'a long stage          3     2.00',
        'b                     0        -',
    ]


def test_numbers() -> None:
    assert number(NAN, 4) == number(None, 4) == '   -'
    assert number(1.26, 5) == '  1.3'


@pytest.mark.parametrize(('times_ns', 'rate_hz'), [([], NAN), ([5], NAN), ([5, 5], NAN)])
def test_rate_of_too_few_events(times_ns: list[int], rate_hz: float) -> None:
    assert np.isnan(mean_rate_hz(times_ns))


def test_mean_rate() -> None:
    assert mean_rate_hz([0, 100_000_000, 500_000_000]) == 4.0
