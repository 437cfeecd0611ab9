import json
from pathlib import Path

import numpy as np
import pytest

from panoptic_ros.datasets.coco_writer import CocoPanopticWriter
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic

LABELS = LabelSet.load('cityscapes')
ROADS = Panoptic.from_maps(np.zeros((2, 10), np.uint8), np.zeros((2, 10), np.uint16), LABELS)


def test_ids_are_kept_or_counted(tmp_path: Path) -> None:
    with CocoPanopticWriter(tmp_path, LABELS, {'description': 'test'}) as writer:
        writer.add(ROADS, '139', 139)
        writer.add(ROADS, 'ulm_1', 'ulm_1', 'ulm_1.jpg')
        writer.add(ROADS, 'in/folder')
    content = json.loads((tmp_path / 'panoptic.json').read_text())
    assert [a['image_id'] for a in content['annotations']] == [139, 'ulm_1', 3]
    assert content['images'] == [
        {'id': 139, 'file_name': '139.png', 'width': 10, 'height': 2},
        {'id': 'ulm_1', 'file_name': 'ulm_1.jpg', 'width': 10, 'height': 2},
        {'id': 3, 'file_name': 'in/folder.png', 'width': 10, 'height': 2},
    ]
    assert content['annotations'][0]['segments_info'][0]['area'] == 20
    assert (tmp_path / 'panoptic' / 'in' / 'folder.png').is_file()
    assert len(content['categories']) == 19
    assert content['info'] == {'description': 'test'}


def test_an_interrupted_run_keeps_its_results(tmp_path: Path) -> None:
    def interrupted() -> None:
        with CocoPanopticWriter(tmp_path, LABELS, {}) as writer:
            writer.add(ROADS, 'a')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(json.loads((tmp_path / 'panoptic.json').read_text())['images']) == 1
