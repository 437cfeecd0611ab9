import shutil
from pathlib import Path

import pytest

from panoptic_ros.cli import main
from panoptic_ros.model import Model
from panoptic_ros.resources import resource
from panoptic_ros.segmenter import card_fusion


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / 'street-lite'
    shutil.copytree(resource('models', 'street-lite'), folder)
    return folder


def tune(model: Path, *options: str) -> int:
    data = ('synthetic', '--split', 'val', '--limit', '2', '--engine', 'onnxruntime')
    return main(['tune', str(model), *data, *options])


def test_thresholds_are_chosen_and_written(model: Path, capsys) -> None:
    before = Model.load(model)
    assert tune(model, '--write') == 0
    lines = capsys.readouterr().out.splitlines()
    present, chosen = (
        float(line.split('PQ ')[1].split(',')[0])
        for line in lines
        if line.startswith(('present', 'chosen'))
    )
    assert chosen >= present
    after = Model.load(model)
    changed = dict(pair.split('=') for pair in lines[-2].removeprefix('changed: ').split())
    assert changed
    for name, value in vars(card_fusion(after)).items():
        if name in changed:
            assert value == pytest.approx(float(changed[name]))
        else:
            assert value == getattr(card_fusion(before), name)
    assert after.card.provenance['thresholds'] == (
        'panoptic tune street-lite synthetic ROOT --split val --limit 2'
    )
    after.golden()


def test_a_fused_file_has_its_thresholds_as_constants(model: Path, capsys) -> None:
    card = model / 'card.yaml'
    text = card.read_text().replace('fused: []', '')
    card.write_text(text + 'fused: [float16]\n')
    assert tune(model, '--write') == 2
    assert 'tune the model before panoptic fuse' in capsys.readouterr().err
