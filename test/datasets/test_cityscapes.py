import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from panoptic_ros.datasets.cityscapes import (
    CityscapesInstanceIds,
    CityscapesPanoptic,
    open_cityscapes,
)
from panoptic_ros.errors import DatasetError
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.packing import from_cityscapes, ids_to_rgb
from panoptic_ros.panoptic import Panoptic

LABELS = LabelSet.load('cityscapes')
IMAGE_ID = 'ulm_000000_000019'
# road 7, sky 23, a group of persons 24, two cars 26000 and 26001, 4 (static) is not evaluated
VALUES = np.array(
    [[23, 23, 23, 24, 24], [26000, 26000, 4, 26001, 24], [7, 7, 7, 26001, 7]], np.uint16
)
DATA = Path(os.environ.get('PANOPTIC_DATA', Path(__file__).parents[3] / 'shared' / 'data'))
REAL = DATA / 'cityscapes640'


def write_rgb(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))


def panoptic_json(**changes: object) -> dict:
    def segment(number: int, category_id: int, iscrowd: int = 0) -> dict:
        area = int(np.count_nonzero(number == VALUES))
        return {'id': number, 'category_id': category_id, 'iscrowd': iscrowd, 'area': area}

    image = {'id': IMAGE_ID, 'width': 5, 'height': 3, 'file_name': 'no_such_picture.png'}
    annotation = {
        'image_id': IMAGE_ID,
        'file_name': f'{IMAGE_ID}_gtFine_panoptic.png',
        'segments_info': [
            segment(7, 7),
            segment(23, 23),
            segment(24, 24, 1),
            segment(26000, 26),
            segment(26001, 26),
        ],
    }
    categories = [
        {'id': c.category_id, 'name': c.name, 'isthing': int(c.is_thing)} for c in LABELS.classes
    ]
    return {'images': [image], 'annotations': [annotation], 'categories': categories} | changes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A miniature of the official layout, with both kinds of truth."""
    image = np.arange(45, dtype=np.uint8).reshape(3, 5, 3)
    write_rgb(tmp_path / f'leftImg8bit/val/ulm/{IMAGE_ID}_leftImg8bit.png', image)
    truth = tmp_path / 'gtFine'
    ids = np.where(VALUES == 4, 0, VALUES)
    write_rgb(truth / f'cityscapes_panoptic_val/{IMAGE_ID}_gtFine_panoptic.png', ids_to_rgb(ids))
    (truth / 'cityscapes_panoptic_val.json').write_text(json.dumps(panoptic_json()))
    folder = truth / 'val' / 'ulm'
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / f'{IMAGE_ID}_gtFine_instanceIds.png'), VALUES)
    return tmp_path


@pytest.mark.parametrize('reader', [CityscapesPanoptic, CityscapesInstanceIds])
def test_reads_the_official_layout(root: Path, reader: type) -> None:
    dataset = reader(root, 'val')
    assert len(dataset) == 1
    sample = dataset[0]
    assert sample.image_id == IMAGE_ID
    np.testing.assert_array_equal(sample.image_rgb[1, 0], [15, 16, 17])
    np.testing.assert_array_equal(
        sample.truth.semantic,
        [[10, 10, 10, 11, 11], [13, 13, VOID, 13, 11], [0, 0, 0, 13, 0]],
    )
    np.testing.assert_array_equal(
        sample.truth.instance, [[0, 0, 0, 1, 1], [2, 2, 0, 3, 1], [0, 0, 0, 3, 0]]
    )
    np.testing.assert_array_equal(sample.crowd_ids, [1])


def test_iterates(root: Path) -> None:
    assert [sample.image_id for sample in CityscapesPanoptic(root, 'val')] == [IMAGE_ID]


def test_takes_jpeg_images_too(root: Path) -> None:
    folder = root / 'leftImg8bit' / 'val' / 'ulm'
    (folder / f'{IMAGE_ID}_leftImg8bit.png').unlink()
    write_rgb(folder / f'{IMAGE_ID}_leftImg8bit.jpg', np.full((3, 5, 3), 200, np.uint8))
    assert abs(int(CityscapesPanoptic(root, 'val')[0].image_rgb.mean()) - 200) < 3


def test_open_cityscapes_prefers_the_json(root: Path) -> None:
    assert isinstance(open_cityscapes(root, 'val'), CityscapesPanoptic)
    (root / 'gtFine' / 'cityscapes_panoptic_val.json').unlink()
    assert isinstance(open_cityscapes(root, 'val'), CityscapesInstanceIds)


def test_open_cityscapes_names_what_is_missing(root: Path) -> None:
    with pytest.raises(DatasetError, match=r"split 'nights': expected .*_nights\.json"):
        open_cityscapes(root, 'nights')


def test_missing_instance_pictures_are_named(root: Path) -> None:
    with pytest.raises(DatasetError, match=r'test has no file CITY'):
        CityscapesInstanceIds(root, 'test')


def test_missing_json_is_named(root: Path) -> None:
    with pytest.raises(DatasetError, match=r'cityscapes_panoptic_train\.json does not exist'):
        CityscapesPanoptic(root, 'train')


def test_missing_image_is_named(root: Path) -> None:
    (root / f'leftImg8bit/val/ulm/{IMAGE_ID}_leftImg8bit.png').unlink()
    with pytest.raises(DatasetError, match=rf'image {IMAGE_ID}: file .* does not exist'):
        CityscapesPanoptic(root, 'val')[0]


def test_missing_truth_is_named(root: Path) -> None:
    (root / f'gtFine/cityscapes_panoptic_val/{IMAGE_ID}_gtFine_panoptic.png').unlink()
    with pytest.raises(DatasetError, match=rf'image {IMAGE_ID}: file .*_panoptic\.png does not'):
        CityscapesPanoptic(root, 'val')[0]


def test_a_broken_picture_is_named(root: Path) -> None:
    (root / f'gtFine/cityscapes_panoptic_val/{IMAGE_ID}_gtFine_panoptic.png').write_bytes(b'no')
    with pytest.raises(DatasetError, match=rf'image {IMAGE_ID}: file .* is not an image'):
        CityscapesPanoptic(root, 'val')[0]


def test_an_id_that_the_json_lacks_is_named(root: Path) -> None:
    data = panoptic_json()
    data['annotations'][0]['segments_info'].pop()
    (root / 'gtFine' / 'cityscapes_panoptic_val.json').write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=rf'image {IMAGE_ID}: .*\[26001\]'):
        CityscapesPanoptic(root, 'val')[0]


@pytest.mark.parametrize('reader', [CityscapesPanoptic, CityscapesInstanceIds])
def test_an_image_of_another_size_is_named(root: Path, reader: type) -> None:
    path = root / f'leftImg8bit/val/ulm/{IMAGE_ID}_leftImg8bit.png'
    write_rgb(path, np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(DatasetError, match=rf'image {IMAGE_ID}: it is 5x4, its truth is 5x3'):
        reader(root, 'val')[0]


def test_a_truth_of_another_size_than_stated_is_named(root: Path) -> None:
    path = root / f'gtFine/cityscapes_panoptic_val/{IMAGE_ID}_gtFine_panoptic.png'
    write_rgb(path, np.zeros((6, 5, 3), np.uint8))
    with pytest.raises(DatasetError, match=rf'image {IMAGE_ID}: .* is 5x6, the JSON states 5x3'):
        CityscapesPanoptic(root, 'val')[0]


def test_classes_of_another_data_set_are_refused(root: Path) -> None:
    data = panoptic_json(categories=[{'id': 7, 'name': 'boat', 'isthing': 1}])
    (root / 'gtFine' / 'cityscapes_panoptic_val.json').write_text(json.dumps(data))
    with pytest.raises(DatasetError, match=r"category 7 \('boat', isthing 1\)"):
        CityscapesPanoptic(root, 'val')


def test_coloured_instance_ids_are_refused(root: Path) -> None:
    path = root / f'gtFine/val/ulm/{IMAGE_ID}_gtFine_instanceIds.png'
    write_rgb(path, np.zeros((3, 5, 3), np.uint8))
    with pytest.raises(DatasetError, match=rf'image {IMAGE_ID}: .* has 3 channels'):
        CityscapesInstanceIds(root, 'val')[0]


@pytest.mark.skipif(not REAL.is_dir(), reason=f'the Cityscapes copy is not at {REAL}')
def test_real_validation_images() -> None:
    dataset = CityscapesPanoptic(REAL, 'val')
    assert len(dataset) == 425
    stated = json.loads((REAL / 'gtFine' / 'cityscapes_panoptic_val.json').read_bytes())
    crowds = 0
    for index in range(0, 425, 25):
        sample = dataset[index]
        assert sample.image_rgb.shape == (320, 640, 3)
        info = stated['annotations'][index]['segments_info']
        assert sorted(i['area'] for i in info) == sorted(sample.truth.segments.area.tolist())
        assert len(sample.crowd_ids) == sum(i['iscrowd'] for i in info)
        crowds += len(sample.crowd_ids)
        Panoptic.from_maps(sample.truth.semantic, sample.truth.instance, LABELS)
    assert crowds > 0


@pytest.mark.skipif(not REAL.is_dir(), reason=f'the Cityscapes copy is not at {REAL}')
def test_real_ids_mean_the_same_as_instance_ids() -> None:
    """The panoptic ids of Cityscapes are its instance ids: both readers see the same map."""
    dataset = CityscapesPanoptic(REAL, 'val')
    truth, crowd_ids = dataset.truth(3)
    ids = np.zeros(truth.semantic.shape, np.int32)
    for segment in range(len(truth.segments)):
        row = truth.segments.where(np.array([segment]))
        mask = (truth.semantic == row.class_id) & (truth.instance == row.id)
        ids[mask] = row.track_id[0] or LABELS.category_ids[row.class_id[0]]
    other, other_crowd = from_cityscapes(ids, LABELS)
    np.testing.assert_array_equal(other.semantic, truth.semantic)
    assert len(other_crowd) == len(crowd_ids)
