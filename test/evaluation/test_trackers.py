import json
from pathlib import Path

import numpy as np
import pytest

from panoptic_ros.cli import main
from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.videos import Video
from panoptic_ros.evaluation.trackers import (
    PER_FRAME,
    TRACKED,
    NamedTracker,
    score_trackers,
    tracking_table,
    with_shuffled_ids,
)
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic

LABELS = LabelSet.load('cityscapes')
ROAD, CAR = (LABELS.class_id(name) for name in ('road', 'car'))
NO_CROWD = np.zeros(0, np.uint16)


def two_cars(index: int) -> Sample:
    """Cars 300 and 2 that drive two pixels a frame, one to the right and one to the left."""
    instance = np.zeros((20, 60), np.uint16)
    instance[4:10, 5 + 2 * index : 15 + 2 * index] = 300
    instance[12:18, 45 - 2 * index : 55 - 2 * index] = 2
    semantic = np.where(instance > 0, CAR, ROAD).astype(np.uint8)
    truth = Panoptic.from_maps(semantic, instance, LABELS)
    return Sample(f'video_{index}', np.zeros((20, 60, 3), np.uint8), truth, NO_CROWD)


def video(frames: int) -> Video:
    return Video('video', [two_cars(index) for index in range(frames)], 10.0)


def test_tracked_is_perfect_where_ids_per_frame_are_not() -> None:
    per_frame, tracked = score_trackers([video(15), video(6)], LABELS)
    assert (per_frame.masks, per_frame.ids) == ('truth', 'per frame')
    assert (tracked.masks, tracked.ids) == ('truth', 'tracked')
    assert tracked.result.VPQ == tracked.result.STQ == 100
    assert (tracked.result.id_switches, tracked.result.found) == (0, 2 * 21)
    assert per_frame.result.per_window[1].PQ == 100
    assert per_frame.result.VPQ_things < 70
    assert per_frame.result.id_switches > 5
    assert (tracked.result.videos, tracked.result.frames) == (2, 21)
    assert tracked.median_ms > 0


def test_limit_is_of_each_video() -> None:
    (tracked,) = score_trackers([video(5), video(2)], LABELS, [TRACKED], limit=3)
    assert tracked.result.frames == 3 + 2


def test_each_video_starts_a_fresh_tracker() -> None:
    started = []

    def start():
        seen = []
        started.append(seen)
        return lambda panoptic, stamp_ns: (seen.append(stamp_ns), panoptic)[1]

    score_trackers([video(3), video(2)], LABELS, [NamedTracker('mine', start)])
    assert started == [[0, 100_000_000, 200_000_000], [0, 100_000_000]]


def test_shuffled_changes_ids_and_nothing_else() -> None:
    truth = two_cars(0).truth
    rng = np.random.default_rng(1)
    orders = set()
    for _ in range(20):
        found = with_shuffled_ids(truth, LABELS, rng)
        assert np.array_equal(found.semantic, truth.semantic)
        assert found.segments.things.track_id.tolist() == [1, 2]
        assert (found.instance[5, 6], found.instance[13, 46]) in {(1, 2), (2, 1)}
        orders.add(int(found.instance[5, 6]))
    assert orders == {1, 2}


def test_table_and_json_say_the_same() -> None:
    followed = score_trackers([video(6)], LABELS, [PER_FRAME, TRACKED])
    lines = tracking_table(followed).splitlines()
    assert 'k=5' in lines[0]
    assert 'k=10' not in lines[0]  # fits into no video
    assert lines[3].startswith('truth  tracked   | 100.0   100.0 100.0 100.0 | 100.0 100.0 100.0')
    assert ' 0/12 ' in lines[3]
    assert lines[-1].startswith('1 videos, 6 frames')
    figures = json.loads(json.dumps(followed[1].as_json(), allow_nan=False))
    assert figures['VPQ'] == figures['per_window']['5']['PQ_things'] == 100
    assert (figures['id_switches'], figures['found'], figures['frames']) == (0, 12, 6)


def test_figures_that_do_not_exist_are_null() -> None:
    (nothing,) = score_trackers([], LABELS, [TRACKED])
    assert nothing.as_json()['VPQ'] is None
    assert tracking_table([nothing])


def test_the_command(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ['evaluate', str(tiny_model), 'synthetic', '--video', '--limit', '2']
    command += ['--engine', 'onnxruntime', '--rate', '5', '--json', str(tmp_path / 'a.json')]
    assert main(command) == 0
    figures = json.loads((tmp_path / 'a.json').read_text())
    assert (figures['dataset'], figures['split'], figures['rate_hz']) == ('synthetic', 'val', 5)
    names = [(f['masks'], f['ids']) for f in figures['followed']]
    expected = [(masks, ids) for masks in ('truth', 'tiny') for ids in ('per frame', 'tracked')]
    assert names == expected
    assert [f['frames'] for f in figures['followed']] == [16] * 4
    assert figures['followed'][1]['AQ'] > figures['followed'][0]['AQ']
    printed = capsys.readouterr().out
    assert 'tiny   tracked' in printed


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--limit', '0'], 'the limit is 0; expected 1 or more frames'),
        (['--rate', '0'], 'rate_hz is 0.0; expected 0.1..1000'),
        (['--sheet', 'a.jpg'], 'neither --sheet nor --save-predictions'),
        (['--save-predictions', 'a'], 'neither --sheet nor --save-predictions'),
    ],
)
def test_options_that_do_not_fit(
    tiny_model: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['evaluate', str(tiny_model), 'synthetic', '--video', *options]) == 2
    assert message in capsys.readouterr().err
