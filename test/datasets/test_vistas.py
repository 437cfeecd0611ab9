import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from panoptic_ros.datasets.vistas import VistasPanoptic
from panoptic_ros.errors import DatasetError
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.packing import ids_to_rgb

IMAGE_ID = '--jRsD9anHdGxv4ZOCQktA'
IDS = np.array([[11, 11, 20], [0, 300, 300]])


def write(folder: Path, json_name: str, categories: list[dict], category_ids: list[int]) -> None:
    folder.mkdir(parents=True)
    bgr = cv2.cvtColor(ids_to_rgb(IDS), cv2.COLOR_RGB2BGR)
    assert cv2.imwrite(str(folder / f'{IMAGE_ID}.png'), bgr)
    segments = [
        {'id': number, 'category_id': category_id, 'iscrowd': 0}
        for number, category_id in zip((11, 20, 300), category_ids, strict=True)
    ]
    image = {'id': IMAGE_ID, 'file_name': f'{IMAGE_ID}.jpg', 'width': 3, 'height': 2}
    annotation = {
        'image_id': IMAGE_ID,
        'file_name': f'{IMAGE_ID}.png',
        'segments_info': segments,
    }
    content = {'images': [image], 'annotations': [annotation], 'categories': categories}
    (folder / json_name).write_text(json.dumps(content))


def write_v1(folder: Path) -> None:
    categories = [
        {'id': 14, 'name': 'Road', 'isthing': 0},
        {'id': 20, 'name': 'Person', 'isthing': 1},
        {'id': 56, 'name': 'Car', 'isthing': 1},
    ]
    write(folder, 'panoptic_2018.json', categories, [14, 20, 56])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A miniature of the official layout, with both versions."""
    images = tmp_path / 'validation' / 'images'
    images.mkdir(parents=True)
    cv2.imwrite(str(images / f'{IMAGE_ID}.jpg'), np.full((2, 3, 3), 90, np.uint8))
    write_v1(tmp_path / 'validation' / 'v1.2' / 'panoptic')
    categories = [
        {'id': 22, 'name': 'Road', 'isthing': 0, 'color': [128, 64, 128]},
        {'id': 31, 'name': 'Person', 'isthing': 1, 'color': [220, 20, 60]},
        {'id': 109, 'name': 'Car', 'isthing': 1, 'color': [0, 0, 142]},
    ]
    write(
        tmp_path / 'validation' / 'v2.0' / 'panoptic',
        'panoptic_2020.json',
        categories,
        [22, 31, 109],
    )
    return tmp_path


def test_reads_version_1_2(root: Path) -> None:
    sample = VistasPanoptic(root, 'validation')[0]
    labels = LabelSet.load('vistas')
    road, person, car = (labels.class_id(n) for n in ('Road', 'Person', 'Car'))
    assert sample.image_id == IMAGE_ID
    np.testing.assert_array_equal(sample.truth.semantic, [[road, road, person], [VOID, car, car]])
    np.testing.assert_array_equal(sample.truth.instance, [[0, 0, 1], [0, 2, 2]])


def test_reads_version_2_0_by_its_own_categories(root: Path) -> None:
    dataset = VistasPanoptic(root, 'validation', 'v2.0')
    assert dataset.label_set.names == ('Road', 'Person', 'Car')
    assert dataset.label_set.classes[1].color_rgb == (220, 20, 60)
    np.testing.assert_array_equal(dataset[0].truth.semantic, [[0, 0, 1], [VOID, 2, 2]])


def test_reads_the_older_layout(root: Path) -> None:
    folder = root / 'validation'
    (folder / 'v1.2' / 'panoptic').rename(folder / 'panoptic')
    assert len(VistasPanoptic(root, 'validation')) == 1


def test_an_unknown_version_is_refused(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"version '3'; expected one of v1\.2, v2\.0"):
        VistasPanoptic(root, 'validation', '3')


def test_a_missing_image_is_named(root: Path) -> None:
    (root / 'validation' / 'images' / f'{IMAGE_ID}.jpg').unlink()
    with pytest.raises(DatasetError, match=f'image {IMAGE_ID}: file .* does not exist'):
        VistasPanoptic(root, 'validation')[0]


def test_label_set_is_that_of_version_1_2() -> None:
    labels = LabelSet.load('vistas')
    assert len(labels) == 65
    assert labels.is_thing.sum() == 37
    assert labels.with_role('drivable')[labels.class_id('Lane Marking - General')]
    np.testing.assert_array_equal(labels.category_ids, np.arange(1, 66))
