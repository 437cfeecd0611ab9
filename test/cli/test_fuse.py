"""The commands fuse and gpu-report."""

import json
from dataclasses import replace

import numpy as np
import pytest

from panoptic_ros import cli
from panoptic_ros.cli.engine import fuse as fuse_module
from panoptic_ros.cli.engine import gpu_report
from panoptic_ros.cli.engine.fuse import fuse, fuse_or_hint
from panoptic_ros.engines import open_engine
from panoptic_ros.errors import ModelError
from panoptic_ros.image_files import write_image
from panoptic_ros.model import Model
from panoptic_ros.segmenter import card_fusion

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


def test_a_model_that_was_just_written_is_fused_on_request(own_tiny_model):
    model = Model.load(own_tiny_model)
    assert f'"panoptic fuse {own_tiny_model}"' in fuse_or_hint(model, is_wanted=False)
    assert Model.load(own_tiny_model).card.fused == ()
    assert 'owner uint8' in fuse_or_hint(model, is_wanted=True)
    fused = Model.load(own_tiny_model)
    assert fused.card.fused == ('float16',)
    assert fuse_or_hint(fused, is_wanted=False) == ''


@pytest.fixture
def query_model(own_tiny_query_model_float16):
    return Model.load(own_tiny_query_model_float16)


def test_models_of_queries_are_fused_unless_this_is_refused(query_model):
    assert 'moves it to the GPU' in fuse_or_hint(query_model, is_wanted=False)
    assert Model.load(query_model.folder).card.fused == ()
    assert 'owner uint8' in fuse_or_hint(query_model, is_wanted=None)
    assert Model.load(query_model.folder).card.fused == ('float16',)


def test_models_of_centres_are_not_fused_by_default(own_tiny_model):
    assert 'moves it to the GPU' in fuse_or_hint(Model.load(own_tiny_model), is_wanted=None)
    assert Model.load(own_tiny_model).card.fused == ()


def test_a_fused_file_with_another_map_is_not_kept(query_model, monkeypatch):
    before = query_model.onnx_path('float16').read_bytes()
    no_car = replace(card_fusion(query_model), score_threshold=0.95)
    monkeypatch.setattr(fuse_module, 'card_fusion', lambda model: no_car)
    with pytest.raises(ModelError, match=r'gives another map for the golden picture: semantic'):
        fuse(query_model)
    after = Model.load(query_model.folder)
    assert after.card.fused == ()
    assert after.onnx_path('float16').read_bytes() == before
    assert 'the CPU makes the map of each frame: the fused' in fuse_or_hint(after, None)


def test_without_a_gpu_one_sentence_names_what_is_missing(capsys, tmp_path):
    assert cli.main(['gpu-report', '--out', str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith('panoptic: no engine can use a GPU here: tensorrt: ')
    assert said.count('\n') == 1
    assert not list(tmp_path.iterdir())


@pytest.fixture
def engines_claim_a_gpu(monkeypatch):
    """Let the report take engines on the CPU for engines on a GPU."""

    def open_claiming(model, name):
        engine = open_engine(model, name)
        engine.description = replace(engine.description, is_gpu=True)
        return engine

    monkeypatch.setattr(gpu_report, 'open_engine', open_claiming)


@pytest.mark.usefixtures('engines_claim_a_gpu')
def test_the_report_has_a_row_for_each_engine(tiny_model, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(
        gpu_report, 'unavailable_gpu_engines', lambda: {'tensorrt': 'no', 'onnxruntime': ''}
    )
    images = tmp_path / 'images' / 'city'
    images.mkdir(parents=True)
    for number in range(3):
        write_image(images / f'{number}.png', np.full((40, 60, 3), 80 * number, np.uint8))
    arguments = ['gpu-report', str(tiny_model), '--runs', '3', '--out', str(tmp_path)]
    assert cli.main([*arguments, '--data', str(tmp_path / 'images'), '--images', '2']) == 0
    report = (tmp_path / 'report.md').read_text()
    engine = open_engine(Model.load(tiny_model), 'onnxruntime')
    assert f'| {engine.description} | 3 |' in report
    engine.close()
    (row,) = json.loads((tmp_path / 'report.json').read_text())['engines']
    assert row['bytes_copied'] == 7936  # the image, and the five outputs of the heads
    assert 0 < row['engine_ms']['p50'] < row['path_ms']['max']
    # The engine on trial is the float32 model itself.
    assert row['PQ_against_float32'] == 100
    assert row['PQ_images'] == 2


def test_an_engine_that_runs_on_the_cpu_is_not_measured(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_report, 'unavailable_gpu_engines', lambda: {'onnxruntime': ''})
    arguments = ['gpu-report', str(tiny_model), '--runs', '1', '--out', str(tmp_path)]
    assert cli.main(arguments) == 2
    assert 'onnxruntime failed: it runs on ' in (tmp_path / 'report.md').read_text()
    assert json.loads((tmp_path / 'report.json').read_text())['engines'] == []


@pytest.mark.usefixtures('engines_claim_a_gpu')
def test_an_engine_that_fails_is_named_and_the_others_are_measured(
    tiny_model, tmp_path, monkeypatch
):
    found = {'tensorrt': '', 'onnxruntime': ''}
    monkeypatch.setattr(gpu_report, 'unavailable_gpu_engines', lambda: found)
    arguments = ['gpu-report', str(tiny_model), '--runs', '1', '--out', str(tmp_path)]
    assert cli.main(arguments) == 2
    report = (tmp_path / 'report.md').read_text()
    assert 'tensorrt failed: engine tensorrt cannot run here' in report
    assert '| onnxruntime' in report


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (['--runs', '0'], 'runs is 0; expected 1 or more'),
        (['--images', '0'], 'images is 0; expected 1 or more'),
        (['--data', 'missing'], "folder 'missing'"),
    ],
)
def test_what_cannot_be_measured_is_refused(tiny_model, capsys, option, message):
    command = ['benchmark-engine', str(tiny_model), '--engine', 'onnxruntime', '--runs', '1']
    assert cli.main([*command, *option]) == 2
    assert message in capsys.readouterr().err
