"""The files that annotation tools export, as doc/training.md describes them."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from panoptic_ros.datasets.opening import default_split, open_dataset

pytest.importorskip('pycocotools', reason='extra coco')


def instances(file_name: str) -> str:
    """Return a COCO instance file with one box of 3x2 pixels in an image of 8x4."""
    return json.dumps(
        {
            'images': [{'id': 1, 'file_name': file_name, 'width': 8, 'height': 4}],
            'categories': [{'id': 1, 'name': 'box', 'supercategory': ''}],
            'annotations': [
                {
                    'id': 1,
                    'image_id': 1,
                    'category_id': 1,
                    'segmentation': [[2, 1, 5, 1, 5, 3, 2, 3]],
                    'bbox': [2, 1, 3, 2],
                    'area': 6,
                    'iscrowd': 0,
                }
            ],
        }
    )


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((4, 8, 3), 9, np.uint8))


def check(root: Path, split: str) -> None:
    samples, label_set = open_dataset('coco', root, split)
    assert label_set.names == ('background', 'box')
    assert samples[0].image_rgb.tolist() == np.full((4, 8, 3), 9).tolist()
    assert samples[0].truth.semantic.tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0, 0],
        [0, 0, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_cvat_export_of_coco_1_0(tmp_path: Path) -> None:
    write_image(tmp_path / 'images' / 'default' / 'a.png')
    (tmp_path / 'annotations').mkdir()
    (tmp_path / 'annotations' / 'instances_default.json').write_text(instances('a.png'))
    assert default_split('coco', tmp_path) == 'default'
    check(tmp_path, 'default')


def test_labelme2coco_names_images_by_absolute_path(tmp_path: Path) -> None:
    write_image(tmp_path / 'labelme' / 'a.png')
    for split in ('train', 'val'):
        path = tmp_path / f'{split}.json'
        path.write_text(instances(str(tmp_path / 'labelme' / 'a.png')))
        check(tmp_path, split)
    assert default_split('coco', tmp_path) == 'val'
