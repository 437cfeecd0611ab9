import shutil

import pytest

from panoptic_ros import cli
from panoptic_ros import model as model_module
from panoptic_ros.model import write_metrics
from panoptic_ros.model.card import Metric


@pytest.fixture
def installed(monkeypatch, tmp_path, tiny_model):
    """Return a folder that takes the place of the package's ``models/``, with one model."""
    shutil.copytree(tiny_model, tmp_path / 'models' / 'tiny')
    monkeypatch.setattr(model_module, 'resource', lambda *parts: tmp_path.joinpath(*parts))
    return tmp_path / 'models'


def test_list(installed, capsys):
    write_metrics(installed / 'tiny', [Metric('PQ', 21.5, 'val', 'by hand')])
    assert cli.main(['models']) == 0
    line = capsys.readouterr().out
    assert line.startswith('tiny: 64x32, 19 classes (cityscapes), centres; float32 0.0 MB, float1')
    assert 'PQ 21.5 on val' in line


def test_list_goes_on_after_a_bad_model(installed, capsys):
    shutil.copytree(installed / 'tiny', installed / 'bad')
    (installed / 'bad' / 'card.yaml').write_text('nonsense')
    assert cli.main(['models']) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('bad: not usable: model card')
    assert lines[1].startswith('tiny: 64x32')


def test_no_model_installed(installed, capsys):
    shutil.rmtree(installed / 'tiny')
    assert cli.main(['models']) == 2
    assert 'no model is installed' in capsys.readouterr().err


def test_details_verify_the_files(installed, capsys):
    assert cli.main(['models', 'tiny']) == 0
    shown = capsys.readouterr().out
    assert 'all files agree' in shown
    assert 'centre_threshold: 0.3' in shown
    assert 'made_by: test/conftest.py' in shown
    (installed / 'tiny' / 'model.float16.onnx').write_bytes(b'')
    assert cli.main(['models', 'tiny']) == 2
    assert 'SHA-256' in capsys.readouterr().err
