import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from peers import tracking as bench_tracking

from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic

LABELS = LabelSet.load('cityscapes')
ROAD, CAR = (LABELS.class_id(name) for name in ('road', 'car'))
PEERS = ('trackers', 'supervision', 'norfair')


def two_cars(*ids: int) -> Panoptic:
    """Cars of 20x10 pixels with the given ids, the first on the left."""
    instance = np.zeros((30, 80), np.uint16)
    for number, instance_id in enumerate(ids):
        instance[10:20, 10 + 40 * number : 30 + 40 * number] = instance_id
    semantic = np.where(instance > 0, CAR, ROAD).astype(np.uint8)
    return Panoptic.from_maps(semantic, instance, LABELS)


def test_without_peers_they_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = importlib.import_module

    def import_module(name: str, package: str | None = None) -> object:
        if name.split('.')[0] in PEERS:
            raise ImportError(f'No module named {name!r}')
        return original(name, package)

    monkeypatch.setattr(importlib, 'import_module', import_module)
    path = tmp_path / 'a.json'
    assert bench_tracking.main(['--limit', '2', '--json', str(path)]) == 0
    printed = capsys.readouterr().out
    assert "trackers: left out, not installed (No module named 'trackers')" in printed
    assert 'norfair: left out' in printed
    content = json.loads(path.read_text())
    assert [f['ids'] for f in content['followed']] == ['per frame', 'tracked']
    assert [name for name, _ in content['missing']] == ['trackers', 'norfair']


def test_with_a_model(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_tracking.main([str(tiny_model), '--limit', '1']) == 0
    assert 'tiny   tracked' in capsys.readouterr().out


def test_made_scenes_and_their_times(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = bench_tracking.drifting_ellipses(7, (64, 48), frames=2)
    assert [frame.size_wh for frame in frames] == [(64, 48)] * 2
    assert all(0 < len(frame.segments.things) <= 7 for frame in frames)
    monkeypatch.setattr(bench_tracking, 'SPEED_FRAMES', 2)
    assert bench_tracking.main(['--speed']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [
        [things, size] for size in ('640x480', '1280x720') for things in ('10', '50', '200')
    ]
    assert all(float(p) > 0 for line in lines[2:] for p in line.split()[2:])


@pytest.mark.parametrize(
    ('option', 'value'), [('--limit', '0'), ('--rate', '0'), ('--seed', '-1')]
)
def test_bad_options(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_tracking.main([option, value]) == 2
    assert capsys.readouterr().err.startswith('bench_tracking: ')


def test_things_without_an_id_from_the_peer_get_new_ones() -> None:
    said = iter([[7, -1], [-1, 7]])
    assign_ids = bench_tracking._of_boxes(lambda: lambda things, time_s: np.array(next(said)))()
    found = [assign_ids(two_cars(1, 2), n).segments.things.track_id.tolist() for n in range(2)]
    assert found[0][0] == found[1][1] == 7
    new = {found[0][1], found[1][0]}
    assert len(new) == 2
    assert min(new) > 65535


@pytest.mark.parametrize('package', ['trackers', 'norfair'])
def test_peers_keep_the_ids_of_objects_at_rest(package: str) -> None:
    pytest.importorskip(package, reason=f'{package} is a peer, not a requirement')
    candidates, _ = bench_tracking.gather(10.0)
    named = [c for c in candidates if package in c.name]
    assert named
    for candidate in named:
        assign_ids = candidate.start()
        ids = []
        for number in range(5):
            frame = two_cars(*((1, 2) if number % 2 else (2, 1)))
            things = assign_ids(frame, number * 100_000_000).segments.things
            order = np.argsort(things.box_xyxy[:, 0])
            ids.append(tuple(things.track_id[order].tolist()))
        assert len(set(ids[1:])) == 1
        assert len(set(ids[-1])) == 2
