import json
from pathlib import Path

import numpy as np
import pytest

from panoptic_ros.cli import main
from panoptic_ros.datasets.coco_writer import CocoPanopticWriter
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic

LABELS = LabelSet.load('cityscapes')
ROAD, PERSON, CAR = (LABELS.class_id(name) for name in ('road', 'person', 'car'))


def write(folder: Path, semantic: list[list[int]]) -> Path:
    """Write one image in which every thing class is one object."""
    classes = np.array(semantic, np.uint8)
    instance = np.where(LABELS.is_thing[classes], classes, 0).astype(np.uint16)
    with CocoPanopticWriter(folder, LABELS, {}) as writer:
        writer.add(Panoptic.from_maps(classes, instance, LABELS), 'one', 5)
    return folder / 'panoptic.json'


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return write(tmp_path / 'truth', [[ROAD] * 4, [CAR] * 3 + [255]])


@pytest.fixture
def prediction(tmp_path: Path) -> Path:
    """Road 3 of 4 pixels right, the car found (and on void), a person invented."""
    return write(tmp_path / 'prediction', [[ROAD] * 3 + [PERSON], [CAR] * 4])


def test_the_command_prints_the_official_table(
    truth: Path, prediction: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / 'new' / 'results.json'
    assert main(['score', str(truth), str(prediction), '--json', str(target)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 'All       |   58.3   58.3   66.7     3' in lines
    assert 'Things    |   50.0   50.0   50.0     2' in lines
    assert 'Stuff     |   75.0   75.0  100.0     1' in lines
    results = json.loads(target.read_text())
    assert results['PQ'] == pytest.approx(175 / 3)
    assert {'PQ', 'SQ', 'RQ', 'PQ_things', 'SQ_things', 'RQ_things'} < set(results)
    assert {'PQ_stuff', 'SQ_stuff', 'RQ_stuff', 'per_class', 'images'} < set(results)
    assert results['images'] == 1
    assert results['per_class']['road']['PQ'] == 75


def test_a_misstated_area_is_noted(
    truth: Path, prediction: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(truth.read_text())
    content['annotations'][0]['segments_info'][0]['area'] = 5
    truth.write_text(json.dumps(content))
    assert main(['score', str(truth), str(prediction)]) == 0
    assert 'note: the JSON states another area than the PNG for 1 true' in capsys.readouterr().err


def test_folders_may_have_other_names(truth: Path, prediction: Path, tmp_path: Path) -> None:
    prediction.with_suffix('').rename(tmp_path / 'elsewhere')
    command = ['score', str(truth), str(prediction)]
    assert main(command) == 2
    assert main([*command, '--prediction-folder', str(tmp_path / 'elsewhere')]) == 0


def test_an_error_ends_the_command_with_one_sentence(
    truth: Path, prediction: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (prediction.with_suffix('') / 'one.png').unlink()
    assert main(['score', str(truth), str(prediction)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('panoptic: image 5: file ')
    assert error.endswith('one.png does not exist; the data are incomplete')


def test_threads_must_be_a_count(
    truth: Path, prediction: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['score', str(truth), str(prediction), '--threads', '0']) == 2
    assert '--threads is 0; expected 1 or more' in capsys.readouterr().err
