"""The commands fuse and gpu-report."""

import pytest

from panoptic_ros import cli
from panoptic_ros.cli.engine import gpu_report
from panoptic_ros.engines import open_engine
from panoptic_ros.model import Model

pytest.importorskip('onnx', reason='onnx rewrites the file')


def test_fuse_replaces_the_file_once(own_tiny_model, capsys):
    before = Model.load(own_tiny_model).card
    assert cli.main(['fuse', str(own_tiny_model)]) == 0
    card = Model.load(own_tiny_model).card
    assert card.fused == ('float16',)
    assert card.files['float16'] != before.files['float16']
    assert card.files['float32'] == before.files['float32']
    assert 'owner uint8' in capsys.readouterr().out
    assert cli.main(['fuse', str(own_tiny_model)]) == 2
    assert 'is fused already' in capsys.readouterr().err


def test_without_a_gpu_one_sentence_names_what_is_missing(capsys, tmp_path):
    assert cli.main(['gpu-report', '--out', str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith('panoptic: no engine can use a GPU here: tensorrt: ')
    assert said.count('\n') == 1
    assert not list(tmp_path.iterdir())


def test_the_report_has_a_row_for_each_engine(tiny_model, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(
        gpu_report, 'unavailable_gpu_engines', lambda: {'tensorrt': 'no', 'onnxruntime': ''}
    )
    arguments = ['gpu-report', str(tiny_model), '--runs', '3', '--out', str(tmp_path)]
    assert cli.main(arguments) == 0
    report = (tmp_path / 'report.md').read_text()
    engine = open_engine(Model.load(tiny_model), 'onnxruntime')
    assert f'| {engine.description} |' in report
    engine.close()
    # The image, and the five outputs of the heads.
    assert '| 7936 |' in report
