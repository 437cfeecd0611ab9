import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from panoptic_ros.datasets.ade20k import Ade20kPanoptic
from panoptic_ros.errors import DatasetError
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.packing import ids_to_rgb

IMAGE_ID = 'ADE_val_00000001'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A miniature of the layout that the conversion scripts leave."""
    root = tmp_path / 'ADEChallengeData2016'
    images = root / 'images' / 'validation'
    pictures = root / 'ade20k_panoptic_val'
    images.mkdir(parents=True)
    pictures.mkdir()
    cv2.imwrite(str(images / f'{IMAGE_ID}.jpg'), np.full((2, 3, 3), 90, np.uint8))
    bgr = cv2.cvtColor(ids_to_rgb(np.array([[7, 7, 900], [0, 901, 901]])), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(pictures / f'{IMAGE_ID}.png'), bgr)
    segments = [
        {'id': 7, 'category_id': 0, 'iscrowd': 0},
        {'id': 900, 'category_id': 12, 'iscrowd': 0},
        {'id': 901, 'category_id': 147, 'iscrowd': 0},
    ]
    annotation = {
        'image_id': IMAGE_ID,
        'file_name': f'{IMAGE_ID}.png',
        'segments_info': segments,
    }
    content = {
        'images': [{'id': IMAGE_ID, 'file_name': f'{IMAGE_ID}.jpg', 'width': 3, 'height': 2}],
        'annotations': [annotation],
        'categories': [{'id': 0, 'name': 'wall', 'isthing': 0}],
    }
    (root / 'ade20k_panoptic_val.json').write_text(json.dumps(content))
    return root


def test_reads_the_layout_of_the_conversion_scripts(root: Path) -> None:
    sample = Ade20kPanoptic(root, 'val')[0]
    labels = LabelSet.load('ade20k')
    wall, person, glass = (labels.class_id(n) for n in ('wall', 'person', 'glass'))
    assert sample.image_id == IMAGE_ID
    np.testing.assert_array_equal(
        sample.truth.semantic, [[wall, wall, person], [VOID, glass, glass]]
    )
    np.testing.assert_array_equal(sample.truth.instance, [[0, 0, 1], [0, 2, 2]])


def test_takes_the_folder_above_too(root: Path) -> None:
    assert len(Ade20kPanoptic(root.parent, 'val')) == 1


def test_an_unknown_split_is_refused(root: Path) -> None:
    with pytest.raises(DatasetError, match="split 'test'; expected one of train, val"):
        Ade20kPanoptic(root, 'test')


def test_a_picture_that_is_missing_is_named(root: Path) -> None:
    (root / 'ade20k_panoptic_val' / f'{IMAGE_ID}.png').unlink()
    with pytest.raises(DatasetError, match=f'image {IMAGE_ID}: file .* does not exist'):
        Ade20kPanoptic(root, 'val')[0]


def test_label_set_has_the_150_classes_and_roles() -> None:
    labels = LabelSet.load('ade20k')
    assert len(labels) == 150
    assert labels.is_thing.sum() == 100
    np.testing.assert_array_equal(labels.category_ids, np.arange(150))
    for role, name in (
        ('graspable', 'bottle'),
        ('support_surface', 'countertop'),
        ('walkable', 'floor'),
        ('permanent_structure', 'wall'),
    ):
        assert labels.with_role(role)[labels.class_id(name)], (role, name)
