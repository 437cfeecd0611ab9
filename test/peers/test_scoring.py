import importlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from peers import scoring as bench

from panoptic_ros.datasets import Sample
from panoptic_ros.evaluation.quality import PanopticQuality
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import Panoptic

LABELS = LabelSet.load('cityscapes')
ROAD, SKY, PERSON, CAR = (LABELS.class_id(n) for n in ('road', 'sky', 'person', 'car'))
PEERS = ('panopticapi', 'hotcoco', 'torchmetrics', 'panoptica')


def samples() -> list[Sample]:
    """Cars of 8x8 in a grid, on road under sky; the first of them is a group."""
    semantic = np.full((48, 96), ROAD, np.uint8)
    semantic[:8] = SKY
    semantic[8:10] = VOID
    instance = np.zeros_like(semantic, np.uint16)
    for number in range(24):
        y, x = 12 + 12 * (number // 8), 12 * (number % 8)
        semantic[y : y + 8, x : x + 8] = CAR
        instance[y : y + 8, x : x + 8] = number + 1
    truth = Panoptic.from_maps(semantic, instance, LABELS)
    image = np.zeros((48, 96, 3), np.uint8)
    return [Sample(str(n), image, truth, np.array([1], np.uint16)) for n in range(2)]


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same outcome whether the peers are installed or not."""
    original = importlib.import_module

    def import_module(name: str, package: str | None = None) -> object:
        if name.split('.')[0] in (*PEERS, 'torch'):
            raise ImportError(f'No module named {name!r}')
        return original(name, package)

    monkeypatch.setattr(importlib, 'import_module', import_module)


def test_pairs_have_every_kind_of_mistake_and_no_groups() -> None:
    pairs = bench.make_pairs(samples(), LABELS)
    quality = PanopticQuality(LABELS)
    for pair in pairs:
        assert 1 not in pair.truth.instance  # the group
        assert not (pair.prediction.semantic == VOID).any()
        quality.update(pair.prediction, pair.truth)
    car, person = (quality.result().per_class[c] for c in (CAR, PERSON))
    assert car.tp > 0
    assert car.fn > 0
    assert car.fp > 0  # halves
    assert person.fp > 0  # cars called persons


def test_pairs_are_the_same_each_time() -> None:
    first, second = bench.make_pairs(samples(), LABELS), bench.make_pairs(samples(), LABELS)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.prediction.instance, b.prediction.instance)


def test_enlarging_keeps_the_figures() -> None:
    figures = []
    for scale in (1, 3):
        quality = PanopticQuality(LABELS)
        for pair in bench.make_pairs(samples(), LABELS, scale):
            assert pair.truth.size_wh == (96 * scale, 48 * scale)
            quality.update(pair.prediction, pair.truth)
        figures.append(quality.result().PQ)
    assert figures[0] == pytest.approx(figures[1], abs=1e-12)


def test_ours_gives_one_figure_from_maps_and_files(no_peers: None, tmp_path: Path) -> None:
    pairs = bench.make_pairs(samples(), LABELS)
    candidates, missing = bench.gather(pairs, LABELS, tmp_path)
    assert sorted(missing) == sorted(PEERS)
    assert [c.source for c in candidates] == ['maps', 'files', 'files']
    timings = bench.measure(candidates, pairs, LABELS, 1)
    for timing in timings:
        assert pytest.approx(timing.ours, abs=1e-12) == timing.PQ
        assert 0 < timing.PQ < 100


def test_peers_agree(tmp_path: Path) -> None:
    installed = [p for p in PEERS if importlib.util.find_spec(p)]
    if not installed:
        pytest.skip(f'none of {", ".join(PEERS)} is installed')
    pairs = bench.make_pairs(samples(), LABELS)
    candidates, _ = bench.gather(pairs, LABELS, tmp_path)
    for timing in bench.measure(candidates, pairs, LABELS, 1):
        if timing.same_definition:
            # torchmetrics counts in float32.
            assert pytest.approx(timing.ours, abs=1e-4) == timing.PQ, timing.name


def test_the_best_repetition_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0, 10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr(bench.time, 'perf_counter', lambda: next(clock))
    pairs = bench.make_pairs(samples(), LABELS)
    candidate = bench.Candidate('somebody', 'maps', lambda: 50.0, 2)
    (timing,) = bench.measure([candidate], pairs, LABELS, 3)
    assert timing.ms_per_image == 500
    assert timing.PQ == 50


def test_table_compares_with_the_first_of_the_same_source() -> None:
    timings = [
        bench.Timing('ours', 'maps', 60.0, 60.0, 0.5, 2, True),
        bench.Timing('ours', 'files', 60.0, 60.0, 4.0, 2, True),
        bench.Timing('peer', 'maps', 60.5, 60.0, 5.0, 2, True),
        bench.Timing('peer', 'files', 50.0, 60.0, 2.0, 2, False),
    ]
    lines = [' '.join(line.split()) for line in bench.table(timings).splitlines()]
    assert lines[2] == 'ours maps 2 0.500 1.0 60.000 0.0e+00'
    assert lines[4] == 'peer maps 2 5.000 10.0 60.500 5.0e-01'
    assert lines[5] == 'peer files 2 2.000 0.5 50.000 another definition'


def test_the_command_prints_and_writes(
    no_peers: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / 'bench.json'
    assert bench.main(['--images', '2', '--repeats', '1', '--json', str(path)]) == 0
    printed = capsys.readouterr().out
    assert 'panoptic_ros, one thread' in printed
    assert 'hotcoco: left out, not installed' in printed
    content = json.loads(path.read_text())
    assert len(content['timings']) == 3
    assert set(content['missing']) == set(PEERS)


@pytest.mark.parametrize('option', ['--repeats', '--scale', '--images'])
def test_counts_must_be_above_zero(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([option, '0']) == 2
    assert capsys.readouterr().err.startswith('bench: ')
