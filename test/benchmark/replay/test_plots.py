import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')
pytest.importorskip('matplotlib', reason='matplotlib draws the plots')

from panoptic_ros.benchmark.replay.plots import (
    latency_histogram,
    latency_over_time,
    stage_breakdown,
    write_plots,
)
from panoptic_ros.benchmark.replay.trial import MISSING, Trial

MS = 1_000_000


def trial(name, latency_ms):
    published_ns = np.arange(len(latency_ms), dtype=np.int64) * 100 * MS + 1
    latency_ns = np.array(latency_ms, np.int64)[:, None] * MS
    received_ns = np.where(latency_ns > 0, published_ns[:, None] + latency_ns, MISSING)
    stages = ('wait', 'inference', 'total', 'age', 'a new one')
    stage_ms = np.tile([1.0, 20.0, 99.0, np.nan, 3.0], (len(latency_ms), 1))
    usage = np.zeros((0, 3))
    return Trial(*(name, 10.0, published_ns, ('semantic',), received_ns, stages, stage_ms, usage))


TRIALS = [trial('10 Hz', [20, 30, 25]), trial('60 Hz', [40, 0, 45])]


def test_files(tmp_path):
    paths = write_plots(tmp_path, [*TRIALS, trial('nothing came', [0, 0])], 'a test')
    assert [path.name for path in paths] == ['latency.png', 'histogram.png', 'stages.png']
    for path in paths:
        picture = cv2.imread(str(path))
        assert picture.shape[1] == 990
        assert picture.std() > 5  # something is drawn


def test_latency_shows_every_frame_and_marks_those_dropped():
    top, bottom = latency_over_time(TRIALS).axes
    (line,) = top.lines
    assert line.get_ydata().tolist() == [20, 30, 25]
    assert line.get_xdata() == pytest.approx([0, 0.1, 0.2])
    line, dropped = bottom.lines
    assert np.isnan(line.get_ydata()).tolist() == [False, True, False]
    assert dropped.get_xdata() == pytest.approx([0.1])
    assert top.get_ylim() == bottom.get_ylim()
    assert top.get_xlim() == bottom.get_xlim()
    assert '33.3 % dropped' in bottom.get_title('left')


def test_histogram_counts_every_answered_frame():
    for axes, count in zip(latency_histogram(TRIALS).axes, (3, 2), strict=True):
        assert sum(patch.get_height() for patch in axes.patches) == count


def test_stages_are_those_of_the_node_without_their_sums():
    (axes,) = stage_breakdown(TRIALS).axes
    _, labels = axes.get_legend_handles_labels()
    assert labels == ['latency of semantic', 'wait', 'inference', 'a new one']
    widths = [container.datavalues.tolist() for container in axes.containers]
    assert widths == [[1, 1], [20, 20], [3, 3]]
