"""The comparison of speed: its scenes, its table, and what it says of peers that are missing."""

import contextlib
import importlib
import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from peers import networks as bench_peers
from peers.networks import (
    Candidate,
    Timing,
    difference,
    main,
    noise_queries,
    street_queries,
    table,
)

from panoptic_ros.datasets.street.scene import SyntheticStreet
from panoptic_ros.fusion import QueryFusion
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import Panoptic

COCO = LabelSet.load('coco')
ROAD = COCO.names.index('road')
CAR = COCO.names.index('car')


def test_the_street_is_found_again_in_its_queries() -> None:
    truth = SyntheticStreet(1, size_wh=(320, 240)).frame(0).truth
    heads = street_queries(truth, COCO, (80, 60))
    found = QueryFusion()(heads, COCO, (320, 240)).panoptic
    assert 5 < len(found.segments) <= len(truth.segments)
    assert (found.semantic != VOID).mean() > 0.8


def test_all_queries_of_the_noise_count() -> None:
    heads = noise_queries(COCO, (16, 12))
    assert (heads.class_logits.argmax(axis=1) < len(COCO)).all()
    assert heads.mask_logits.shape == (100, 12, 16)


class Tensor(np.ndarray):
    """An array that says ``numpy()`` as a tensor does."""

    def numpy(self) -> np.ndarray:
        return np.asarray(self)


@pytest.mark.parametrize(
    ('segmentation', 'pixels'),
    [
        ([[1, 2, 3, 0]], 0),
        ([[3, 2, 1, 0]], 4 - 2),  # another class on either side
        ([[1, 2, 2, 0]], 2),  # two cars as one
        ([[1, 2, 3, 3]], 1),  # a car on void: of its pixels one is wrong
    ],
)
def test_differences_are_counted(segmentation: list[list[int]], pixels: int) -> None:
    panoptic = Panoptic.from_maps(
        np.array([[ROAD, CAR, CAR, VOID]], np.uint8), np.array([[0, 1, 2, 0]], np.uint16), COCO
    )
    info = [
        {'id': number, 'label_id': label, 'was_fused': label == ROAD}
        for number, label in ((1, ROAD), (2, CAR), (3, CAR))
    ]
    result = {'segmentation': np.array(segmentation).view(Tensor), 'segments_info': info}
    assert difference(result, panoptic) == pixels


def test_the_table_has_a_ratio_to_ours() -> None:
    text = table(
        [
            Timing('path', 'a', 'ours', 2.0, 9),
            Timing('path', 'a', 'theirs', 30.0, 3, 'slowly'),
            Timing('fusion', 'b', 'ours too', 1.0, 9),
        ]
    )
    assert [line.split() for line in text.splitlines() if 'theirs' in line] == [
        ['theirs', '3', '30.00', '15.00', 'slowly']
    ]
    assert 'path' in text
    assert 'fusion' in text


def test_a_peer_that_is_missing_is_named_with_the_line_that_installs_it(
    tmp_path, monkeypatch, capsys
) -> None:
    def import_module(name: str) -> SimpleNamespace:
        if name in ('transformers', 'ultralytics'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
        return importlib.__import__(name)

    monkeypatch.setattr(bench_peers.importlib, 'import_module', import_module)
    monkeypatch.setattr(bench_peers, 'SyntheticStreet', small_street)
    out = tmp_path / 'peers.json'
    assert main(['--tables', 'fusion', '--seconds', '0.001', '--json', str(out)]) == 0
    printed = capsys.readouterr().out
    assert "transformers, DETR, street: left out, not installed (No module named 'tr" in printed
    assert 'pip install transformers torch==2.14.1 torchvision==0.29.1' in printed
    content = json.loads(out.read_text())
    assert {t['name'] for t in content['timings']} == {
        f'panoptic_ros, {rule}, {scene}'
        for rule in ('DETR', 'Mask2Former')
        for scene in ('street', 'noise')
    }
    assert len(content['missing']) == 4


def small_street(seed: int, size_wh: tuple[int, int]) -> SyntheticStreet:
    return SyntheticStreet(seed, size_wh=(64, 48))


def test_candidates_warm_up_and_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_peers, '_TURN_S', 1e-9)  # one run a turn
    calls = []

    @contextlib.contextmanager
    def prepare(name: str):
        yield lambda given: calls.append((name, given)), f'note of {name}'

    candidates = [
        Candidate('path', '', name, partial(prepare, name), inputs)
        for name, inputs in (('ours', ['a', 'b']), ('theirs', ['c']))
    ]
    timings = bench_peers._measure(candidates, 1e-9, {})
    assert calls == [('ours', 'a'), ('theirs', 'c')] + [
        run for given in 'aba' for run in (('ours', given), ('theirs', 'c'))
    ]
    assert [(t.name, t.runs, t.note) for t in timings] == [
        ('ours', 3, 'note of ours'),
        ('theirs', 3, 'note of theirs'),
    ]


def test_seconds_must_be_above_0(capsys) -> None:
    assert main(['--seconds', '0']) == 2
    assert '--seconds is 0.0; expected a number above 0' in capsys.readouterr().err


def test_masks_are_fused_as_transformers_does() -> None:
    pytest.importorskip('transformers', reason='extra import')
    truth = SyntheticStreet(1, size_wh=(320, 240)).frame(0).truth
    notes = {}
    for candidate in bench_peers._fusions(truth):
        with candidate.prepare() as (_, notes[candidate.name]):
            pass
    theirs = {note for name, note in notes.items() if name.startswith('transformers')}
    assert len(notes) == 8
    assert theirs == {'0 pixels differ'}
