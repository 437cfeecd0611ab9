import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from panoptic_ros.benchmark.replay.trial import (
    MISSING,
    Trial,
    find_peak,
    output_table,
    rate_table,
    stage_table,
)

MS = 1_000_000
S = 1000 * MS
NAN = float('nan')


def trial(received_ms, published_ms=(0, 100, 200, 300), asked_hz=10.0, usage=(), stage_ms=None):
    """Make a trial from milliseconds: 0 stands for nothing came."""
    published_ns = np.array(published_ms, np.int64) * MS + S
    received_ms = np.array(received_ms, np.float64)
    if received_ms.ndim == 1:
        received_ms = received_ms[:, None]
    received_ns = np.where(received_ms == 0, MISSING, received_ms * MS + S).astype(np.int64)
    topics = ('semantic', 'overlay')[: received_ns.shape[1]]
    stages = ('inference', 'total')
    if stage_ms is None:
        stage_ms = np.full((len(published_ns), 2), NAN)
    usage = np.array(usage, np.float64).reshape(-1, 3)
    return Trial(
        *('ten', asked_hz, published_ns, topics, received_ns, stages, np.array(stage_ms), usage)
    )


def test_latency_drops_and_rates():
    ten = trial([[20, 25], [0, 0], [250, 0], [340, 345]])
    assert ten.published == 4
    assert ten.answered == 3
    assert ten.dropped_fraction == 0.25
    assert ten.latency_ms().tolist()[0::2] == [20, 50]
    assert math.isnan(ten.latency_ms()[1])
    assert np.isnan(ten.latency_ms(1)).tolist() == [False, True, True, False]
    assert ten.publish_rate_hz == pytest.approx(10)
    assert ten.frame_rate_hz == pytest.approx(2 / 0.32)
    assert ten.reached_rate


def test_answers_that_overtake_each_other_are_still_a_rate():
    assert trial([900, 110, 210, 310]).frame_rate_hz == pytest.approx(3 / 0.79)


@pytest.mark.parametrize(('last_ms', 'reached'), [(300, True), (309, True), (312, False)])
def test_rate_that_was_not_reached(last_ms, reached):
    assert trial([1, 1, 1, 1], (0, 100, 200, last_ms)).reached_rate is reached


def test_rates_of_too_few_frames_are_unknown():
    empty = trial(np.zeros((0, 1)), ())
    assert math.isnan(empty.dropped_fraction)
    assert math.isnan(empty.publish_rate_hz)
    one = trial([5], (0,))
    assert math.isnan(one.frame_rate_hz)
    assert one.reached_rate  # not known


def test_cpu_and_memory():
    used = trial([20, 120, 220, 320], usage=[[10, 3.0, 200], [11, 3.9, 210], [12, 4.5, 205]])
    assert used.cpu_percent == pytest.approx(75)
    assert used.as_json()['resident_mb'] == {'start': 200, 'end': 205}
    assert math.isnan(trial([1, 1, 1, 1], usage=[[10, 3, 200]]).cpu_percent)
    assert math.isnan(trial([1, 1, 1, 1], usage=[[10, 3, 200], [10, 4, 200]]).cpu_percent)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r'received_ns is \(3, 1\); expected \(4, 1\)'):
        Trial('', None, np.zeros(4), ('a',), np.zeros((3, 1)), (), np.zeros((4, 0)), np.zeros(0))
    with pytest.raises(ValueError, match='usage is'):
        Trial(
            *('', None, np.zeros(1), ('a',), np.zeros((1, 1))),
            *((), np.zeros((1, 0)), np.zeros((2, 2))),
        )


def test_json_has_every_figure_and_no_nan():
    stage_ms = [[10, NAN], [NAN, NAN], [20, NAN], [30, NAN]]
    content = trial([[20, 25], [0, 0], [250, 0], [340, 345]], stage_ms=stage_ms).as_json()
    json.dumps(content, allow_nan=False)
    assert content['frames_published'] == 4
    assert content['frames_answered'] == 3
    assert content['frames_dropped'] == 1
    assert content['dropped_percent'] == 25
    assert content['asked_rate_hz'] == 10
    assert content['latency_ms']['semantic']['p50'] == 40
    assert content['latency_ms']['overlay']['count'] == 2
    assert content['stages_ms']['inference']['p50'] == 20
    assert content['stages_ms']['total']['count'] == 0
    assert content['cpu_percent'] is None
    assert content['resident_mb'] == {'start': None, 'end': None}
    json.dumps(trial(np.zeros((0, 1)), ()).as_json(), allow_nan=False)


@given(
    st.floats(0.5, 500), st.floats(0.5, 500), st.floats(1.05, 2.0), st.sampled_from([0.02, 0.05])
)
def test_peak_is_found_from_any_guess(peak_hz, guess_hz, step, precision):
    asked = []

    def holds(rate_hz):
        asked.append(rate_hz)
        return rate_hz <= peak_hz

    found = find_peak(holds, guess_hz, step=step, precision=precision, max_trials=500)
    assert peak_hz / (1 + precision) <= found * 1.000001
    assert found <= peak_hz
    assert found in asked


def test_peak_is_the_highest_seen_if_the_trials_run_out():
    asked = []
    found = find_peak(lambda rate_hz: not asked.append(rate_hz), 10, max_trials=3)
    assert asked == [10, 12.5, 15.625]
    assert found == 15.625


def test_no_rate_holds():
    asked = []
    assert find_peak(lambda rate_hz: bool(asked.append(rate_hz)), 10, max_trials=3) is None
    assert asked == [10, 8, 6.4]


def test_a_few_trials_are_enough_from_a_good_guess():
    asked = []
    find_peak(lambda rate_hz: asked.append(rate_hz) or rate_hz <= 42, 40)
    assert len(asked) <= 5


def test_tables():
    lines = rate_table([trial([20, 0, 250, 340]), trial([0, 0, 0, 0])]).splitlines()
    assert lines[2].split()[:4] == ['ten', '10.0', '6.2', '25.0']
    assert lines[2].split()[4] == '40.0'
    assert lines[3].split() == ['ten', '10.0', '-', '100.0', *['-'] * 6]
    rows = output_table(trial([[20, 25], [0, 0], [250, 0], [340, 345]])).splitlines()
    assert rows[1].split()[:3] == ['semantic', '3', '40.00']
    assert rows[2].split()[:3] == ['overlay', '2', '35.00']
    stages = stage_table(trial([1, 1, 1, 1], stage_ms=[[1, 2], [1, 2], [1, 2], [3, NAN]]))
    assert stages.splitlines()[2].split() == ['total', '3', *['2.00'] * 4]
