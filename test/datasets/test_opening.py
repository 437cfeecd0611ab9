import os
from pathlib import Path

import pytest

from panoptic_ros.datasets.opening import open_dataset
from panoptic_ros.errors import DatasetError

DATA = Path(os.environ.get('PANOPTIC_DATA', Path(__file__).parents[3] / 'shared' / 'data'))


def test_synthetic_needs_no_folder() -> None:
    samples, label_set = open_dataset('synthetic', None)
    assert label_set.name == 'cityscapes'
    assert samples[0].truth.size_wh == (640, 320)


def test_synthetic_splits_are_different_streets() -> None:
    validation, _ = open_dataset('synthetic', None, 'val')
    training, _ = open_dataset('synthetic', None, 'train')
    assert (validation[0].image_rgb != training[0].image_rgb).any()


@pytest.mark.skipif(not (DATA / 'cityscapes640').is_dir(), reason=f'no Cityscapes at {DATA}')
def test_cityscapes_by_its_usual_split() -> None:
    samples, label_set = open_dataset('cityscapes', DATA / 'cityscapes640')
    assert len(samples) == 425
    assert len(label_set) == 19


@pytest.mark.parametrize(
    ('name', 'root', 'split', 'message'),
    [
        ('kitti', 'a', None, "'kitti'; expected one of cityscapes, coco, vistas"),
        ('synthetic', None, 'night', "no split 'night'; expected one of train, val"),
        ('coco', None, None, "'coco' needs the path of its folder"),
        ('coco', 'nowhere', 'val2017', 'panoptic_val2017.json does not exist'),
        ('coco', 'nowhere', None, 'nowhere has no COCO annotations'),
        ('vistas', 'nowhere', None, 'panoptic_2018.json does not exist'),
        ('vistas-v2.0', 'nowhere', None, 'panoptic_2020.json does not exist'),
        ('ade20k', 'nowhere', None, 'ade20k_panoptic_val.json does not exist'),
        ('cityscapes', 'nowhere', 'val', "nowhere has no Cityscapes split 'val'"),
    ],
)
def test_what_cannot_be_opened_is_named(
    name: str, root: str | None, split: str | None, message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        open_dataset(name, root, split)
