import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from panoptic_ros.cli import main
from panoptic_ros.cli.evaluate import match_label_sets
from panoptic_ros.cluster import ModelChoice, open_model
from panoptic_ros.datasets.cityscapes import CityscapesInstanceIds
from panoptic_ros.datasets.coco_writer import CocoPanopticWriter
from panoptic_ros.errors import LabelSetError
from panoptic_ros.evaluation.accuracy import measure_accuracy, predict
from panoptic_ros.evaluation.coco_files import score_files
from panoptic_ros.image_files import write_image
from panoptic_ros.labels import LabelClass, LabelSet
from panoptic_ros.packing import coco_categories, from_cityscapes, to_coco
from panoptic_ros.panoptic import Panoptic

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


def test_limit_takes_some_images(tiny_model: Path, root: Path, tmp_path: Path) -> None:
    command = ['evaluate', str(tiny_model), 'cityscapes', str(root), '--limit', '1']
    command += ['--json', str(tmp_path / 'a.json'), '--sheet', str(tmp_path / 'a.jpg')]
    assert main([*command, '--engine', 'onnxruntime']) == 0
    figures = json.loads((tmp_path / 'a.json').read_text())
    assert list(figures['worst_images']) == ['ulm_000000_000019']


def test_a_model_is_measured_without_the_command(tiny_model: Path, root: Path) -> None:
    choice = ModelChoice(str(tiny_model), 'onnxruntime', threads=1)
    with open_model(choice) as (_, segment):
        pairs = predict(segment, CityscapesInstanceIds(root, 'val'))
        accuracy = measure_accuracy(pairs, LABELS)
    assert accuracy.quality.images == 3
    assert 60 < accuracy.quality.PQ < 100


def test_no_dataset_is_one_sentence(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['evaluate', str(tiny_model), 'cityscapes', str(tmp_path)]) == 2
    assert "has no Cityscapes split 'val'" in capsys.readouterr().err


def test_label_sets_must_have_the_same_classes() -> None:
    assert match_label_sets(LABELS, LABELS) == LABELS
    with pytest.raises(
        LabelSetError, match=r"stuff class 'sidewalk' .* the data have no such class"
    ):
        match_label_sets(LABELS, LabelSet.load('coco'))
    cut = LabelSet('cut', LABELS.classes[:-1])
    with pytest.raises(LabelSetError, match=r"the data have the classes bicycle .*'cut'"):
        match_label_sets(cut, LABELS)
    other_kind = LabelSet('k', (replace(LABELS.classes[0], is_thing=True), *LABELS.classes[1:]))
    with pytest.raises(LabelSetError, match='the data have that class as the other kind'):
        match_label_sets(LABELS, other_kind)


def test_classes_of_the_data_are_put_in_the_order_of_the_model() -> None:
    road, car = LabelClass('road', False, (0, 0, 0), 1), LabelClass('car', True, (0, 0, 0), 5)
    matched = match_label_sets(LabelSet('m', (car, road)), LabelSet('d', (road, car)))
    assert matched.names == ('car', 'road')
    assert matched.category_ids.tolist() == [5, 1]


def test_a_coco_data_set_is_read_with_its_own_categories(
    tiny_model: Path,
    tiny_scene: Callable[..., np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Categories in another order and with other ids than the model's, images of two sizes."""
    classes = tuple(
        replace(c, category_id=1000 + number) for number, c in enumerate(reversed(LABELS.classes))
    )
    labels = LabelSet('own', classes)
    root = tmp_path / 'own'
    with CocoPanopticWriter(tmp_path, labels, {}) as writer:
        for name, size_wh in (('a', (64, 32)), ('b', (128, 64))):
            truth, _ = from_cityscapes(scene_values(), LABELS)
            semantic, instance = (
                cv2.resize(m, size_wh, interpolation=cv2.INTER_NEAREST)
                for m in (truth.semantic, truth.instance)
            )
            own = Panoptic.from_maps(len(LABELS) - 1 - semantic, instance, labels)
            writer.add(own, name, name, f'{name}.png')
            write_image(root / 'val' / f'{name}.png', tiny_scene(size_wh)[..., ::-1])
    (root / 'annotations').mkdir()
    (tmp_path / 'panoptic.json').rename(root / 'annotations' / 'panoptic_val.json')
    (tmp_path / 'panoptic').rename(root / 'annotations' / 'panoptic_val')
    command = ['evaluate', str(tiny_model), 'coco', str(root), '--engine', 'onnxruntime']
    command += ['--json', str(tmp_path / 'a.json'), '--sheet', str(tmp_path / 'a.jpg')]
    assert main(command) == 0
    results = json.loads((tmp_path / 'a.json').read_text())
    assert (results['split'], results['images'], results['PQ']) == ('val', 2, 100)
    assert main([*command, '--labels', 'coco']) == 2
    assert "which label set 'coco' lacks" in capsys.readouterr().err


@pytest.mark.process
def test_a_cluster_gives_the_same_figures(tiny_model: Path, root: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip('distributed', reason='the extra cluster runs this test')
    command = ['evaluate', str(tiny_model), 'cityscapes', str(root), '--engine', 'onnxruntime']
    command += ['--sheet', str(tmp_path / 'worst.jpg'), '--json']
    assert main([*command, str(tmp_path / 'here.json')]) == 0
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=None, processes=False
    ) as cluster:
        remote = ['--scheduler', cluster.scheduler_address]
        assert main([*command, str(tmp_path / 'there.json'), *remote]) == 0
    here, there = (
        json.loads((tmp_path / name).read_text()) for name in ('here.json', 'there.json')
    )
    assert here.pop('median_ms').keys() == there.pop('median_ms').keys()
    assert there == here


def test_videos_do_not_run_on_a_cluster(
    tiny_model: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ['evaluate', str(tiny_model), 'cityscapes', str(root), '--video']
    assert main([*command, '--scheduler', 'tcp://x:1']) == 2
    assert 'leave out --scheduler' in capsys.readouterr().err
