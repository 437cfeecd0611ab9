import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest

from panoptic_ros.cli import main
from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.cityscapes import CityscapesInstanceIds
from panoptic_ros.engines import open_engine
from panoptic_ros.errors import DatasetError, LabelSetError
from panoptic_ros.evaluation.evaluate import (
    PredictionWriter,
    check_label_sets,
    evaluate_model,
    evaluate_pairs,
    median_stages_ms,
    spread,
)
from panoptic_ros.evaluation.score import score_files
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.packing import coco_categories, to_coco
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.segmenter import Segmenter, StageTimes

LABELS = LabelSet.load('cityscapes')
ROAD, SKY, CAR = (LABELS.class_id(n) for n in ('road', 'sky', 'car'))
NO_CROWD = np.zeros(0, np.uint16)


def scene_values(right_car: int = 26001) -> np.ndarray:
    """What the tiny scene shows, as Cityscapes instance ids."""
    values = np.full((32, 64), 7, np.uint16)
    values[:12] = 23
    values[8:24, 8:24] = 26000
    values[8:24, 40:56] = right_car
    return values


@pytest.fixture
def root(tmp_path: Path, tiny_scene: Callable[..., np.ndarray]) -> Path:
    """Three images as the tiny model sees them; the truth of the last calls one car a bus."""
    root = tmp_path / 'data'
    for number, right_car in enumerate((26001, 26001, 28000)):
        name = f'ulm_00000{number}_000019'
        image = root / 'leftImg8bit' / 'val' / 'ulm' / f'{name}_leftImg8bit.png'
        truth = root / 'gtFine' / 'val' / 'ulm' / f'{name}_gtFine_instanceIds.png'
        image.parent.mkdir(parents=True, exist_ok=True)
        truth.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), cv2.cvtColor(tiny_scene(), cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(truth), scene_values(right_car))
    return root


def write_truth(root: Path, folder: Path) -> Path:
    """Write the truth in COCO format, for ``panoptic score``."""
    annotations = []
    (folder / 'truth').mkdir(parents=True)
    for sample in CityscapesInstanceIds(root, 'val'):
        rgb, info = to_coco(sample.truth, LABELS, sample.crowd_ids)
        name = f'{sample.image_id}.png'
        cv2.imwrite(str(folder / 'truth' / name), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        annotations.append({'image_id': sample.image_id, 'file_name': name, 'segments_info': info})
    path = folder / 'truth.json'
    content = {'annotations': annotations, 'categories': coco_categories(LABELS)}
    path.write_text(json.dumps(content))
    return path


def test_the_command_writes_everything(
    tiny_model: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    command = ['evaluate', str(tiny_model), 'cityscapes', str(root), '--split', 'val']
    command += ['--json', str(out / 'a.json'), '--sheet', str(out / 'worst.jpg')]
    command += ['--save-predictions', str(out / 'predictions'), '--engine', 'onnxruntime']
    assert main(command) == 0
    printed = capsys.readouterr().out
    figures = json.loads((out / 'a.json').read_text())
    assert figures['images'] == 3
    # 5 of the 6 cars are found and one is invented where the bus is missed.
    counts = {name: figures['per_class'][name] for name in ('car', 'bus', 'road', 'person')}
    assert [counts['car'][k] for k in ('tp', 'fp', 'fn')] == [5, 1, 0]
    assert [counts['bus'][k] for k in ('tp', 'fp', 'fn')] == [0, 0, 1]
    assert [counts['road'][k] for k in ('tp', 'fp', 'fn')] == [3, 0, 0]
    assert counts['person']['PQ'] is None
    # The right masks are exact, so every threshold gives the same; there are wrong ones too.
    assert 0 < figures['AP'] == figures['AP50'] == figures['AP75'] < 100
    assert figures['dataset'] == 'cityscapes'
    assert figures['engine'].startswith('onnxruntime')
    assert figures['median_ms']['inference'] > 0
    assert next(iter(figures['worst_images'])) == 'ulm_000002_000019'
    assert 'bus' in printed
    assert f'All       |{figures["PQ"]:7.1f}' in printed
    assert 'car 100.0 %' in printed  # what the bus is taken for
    sheet = cv2.imread(str(out / 'worst.jpg'))
    assert sheet.shape[0] > 3 * 200
    # The saved predictions score the same.
    score = score_files(write_truth(root, tmp_path), out / 'predictions' / 'panoptic.json')
    assert pytest.approx(figures['PQ'], abs=1e-12) == score.quality.PQ
    assert pytest.approx(figures['mIoU'], abs=1e-12) == score.overlap.mean_iou


def test_limit_spreads_over_the_data_set(tiny_model: Path, root: Path, tmp_path: Path) -> None:
    command = ['evaluate', str(tiny_model), 'cityscapes', str(root), '--limit', '1']
    command += ['--json', str(tmp_path / 'a.json'), '--sheet', str(tmp_path / 'a.jpg')]
    assert main([*command, '--engine', 'onnxruntime']) == 0
    figures = json.loads((tmp_path / 'a.json').read_text())
    assert list(figures['worst_images']) == ['ulm_000000_000019']


def test_evaluate_model_is_importable_for_training(tiny_model: Path, root: Path) -> None:
    model = Model.load(tiny_model)
    with closing(open_engine(model, 'onnxruntime', threads=1)) as engine:
        evaluation = evaluate_model(Segmenter(model, engine), CityscapesInstanceIds(root, 'val'))
    assert evaluation.quality.images == 3
    assert 60 < evaluation.quality.PQ < 100


def test_no_dataset_is_one_sentence(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['evaluate', str(tiny_model), 'cityscapes', str(tmp_path)]) == 2
    assert "has no Cityscapes split 'val'" in capsys.readouterr().err


# --- pairs, wherever they come from -------------------------------------------------------------


def sample(name: str, width: int) -> Sample:
    """Sky, and a car as wide as given, in an image of 10 pixels."""
    semantic = np.array([[CAR] * width + [SKY] * (10 - width)], np.uint8)
    instance = (semantic == CAR).astype(np.uint16)
    truth = Panoptic.from_maps(semantic, instance, LABELS)
    return Sample(name, np.zeros((1, 10, 3), np.uint8), truth, NO_CROWD)


def test_the_worst_images_come_worst_first() -> None:
    prediction = sample('', 8).truth
    widths = {'exact': 8, 'near': 7, 'far': 5, 'wrong': 2, 'also exact': 8}
    pairs = ((prediction, sample(name, width)) for name, width in widths.items())
    evaluation = evaluate_pairs(pairs, LABELS, worst=3)
    assert [w.sample.image_id for w in evaluation.worst] == ['wrong', 'far', 'near']
    assert [w.PQ for w in evaluation.worst] == sorted(w.PQ for w in evaluation.worst)
    assert evaluation.quality.images == 5
    assert evaluation.overlap.confusion.sum() == 50


def test_equal_images_keep_their_order() -> None:
    pairs = ((sample('', 5).truth, sample(name, 5)) for name in 'abc')
    evaluation = evaluate_pairs(pairs, LABELS, worst=2)
    assert [w.sample.image_id for w in evaluation.worst] == ['a', 'b']


def test_an_image_without_truth_is_not_among_the_worst() -> None:
    empty = Panoptic.from_maps(
        np.full((1, 10), 255, np.uint8), np.zeros((1, 10), np.uint16), LABELS
    )
    nothing = Sample('nothing', np.zeros((1, 10, 3), np.uint8), empty, NO_CROWD)
    evaluation = evaluate_pairs([(sample('', 3).truth, nothing)], LABELS)
    assert evaluation.worst == ()
    assert evaluation.quality.images == 1


def test_groups_are_excused() -> None:
    crowd = sample('crowd', 8)
    crowd = Sample('crowd', crowd.image_rgb, crowd.truth, np.array([1], np.uint16))
    evaluation = evaluate_pairs([(sample('', 4).truth, crowd)], LABELS)
    assert not evaluation.quality.per_class[CAR].occurs


def test_a_prediction_of_another_size_names_the_image() -> None:
    small = Panoptic.from_maps(np.zeros((1, 3), np.uint8), np.zeros((1, 3), np.uint16), LABELS)
    with pytest.raises(DatasetError, match='image here: the prediction is 3x1, the truth is 10x1'):
        evaluate_pairs([(small, sample('here', 4))], LABELS)


# --- parts --------------------------------------------------------------------------------------


def test_label_sets_must_agree() -> None:
    check_label_sets(LABELS, LABELS)
    with pytest.raises(LabelSetError, match="class 0 is 'road' and 'person'"):
        check_label_sets(LABELS, LabelSet.load('coco'))
    with pytest.raises(LabelSetError, match="class 18 is 'bicycle' and 'no class'"):
        check_label_sets(LABELS, LabelSet('cut', LABELS.classes[:-1]))


def test_spread_takes_evenly() -> None:
    samples = [sample(str(n), 1) for n in range(10)]
    assert [s.image_id for s in spread(samples, 4)] == ['0', '2', '5', '7']
    assert spread(samples, None) is samples
    assert spread(samples, 10) is samples
    with pytest.raises(DatasetError, match='limit is 0; expected 1 or more'):
        spread(samples, 0)


def test_median_stages() -> None:
    times = [StageTimes(1_000_000, 5_000_000, 0), StageTimes(3_000_000, 5_000_000, 2_000_000)]
    assert median_stages_ms(times) == {
        'preprocess': 2,
        'inference': 5,
        'fusion': 1,
        'total': 8,
    }
    assert median_stages_ms([]) == {}


def test_writer_keeps_numbers_as_numbers_and_names_as_text(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path, LABELS) as writer:
        for image_id in ('139', '0139', 'ulm_1'):
            writer.add(sample('', 4).truth, image_id)
    content = json.loads((tmp_path / 'panoptic.json').read_text())
    assert [a['image_id'] for a in content['annotations']] == [139, '0139', 'ulm_1']
    assert [i['width'] for i in content['images']] == [10] * 3
    assert (tmp_path / 'panoptic' / '0139.png').is_file()
    assert len(content['categories']) == 19
