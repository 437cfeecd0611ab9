import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from panoptic_ros.datasets.coco import CocoFormatDataset, CocoPanoptic, PanopticJson
from panoptic_ros.errors import DatasetError
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.packing import ids_to_rgb

DATA = Path(os.environ.get('PANOPTIC_DATA', Path(__file__).parents[3] / 'shared' / 'data'))
REAL = DATA / 'coco_panoptic_sample'
IDS = np.array([[900, 900, 70000], [0, 5, 5]])
SEGMENTS = [
    {'id': 900, 'category_id': 200, 'iscrowd': 0},  # rug-merged
    {'id': 70000, 'category_id': 1, 'iscrowd': 1},  # person, a group
    {'id': 5, 'category_id': 47, 'iscrowd': 0},  # cup
]

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f'the COCO sample is not at {REAL}')


def write_rgb(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))


def write_json(root: Path, segments: list[dict], with_image: bool = True) -> Path:
    image = {'id': 139, 'file_name': '000000000139.jpg', 'width': 3, 'height': 2}
    path = root / 'annotations' / 'panoptic_val2017.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    annotation = {'image_id': 139, 'file_name': '000000000139.png', 'segments_info': segments}
    path.write_text(
        json.dumps(
            {
                'images': [image] if with_image else [],
                'annotations': [annotation],
                'categories': [{'id': 1, 'name': 'person', 'isthing': 1}],
            }
        )
    )
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A miniature of the official layout."""
    write_rgb(tmp_path / 'val2017' / '000000000139.jpg', np.full((2, 3, 3), 90, np.uint8))
    write_rgb(tmp_path / 'annotations/panoptic_val2017/000000000139.png', ids_to_rgb(IDS))
    write_json(tmp_path, SEGMENTS)
    return tmp_path


def test_reads_the_official_layout(root: Path) -> None:
    sample = CocoPanoptic(root, 'val2017')[0]
    labels = LabelSet.load('coco')
    rug, person, cup = (labels.class_id(n) for n in ('rug-merged', 'person', 'cup'))
    assert sample.image_id == '139'
    np.testing.assert_array_equal(sample.truth.semantic, [[rug, rug, person], [VOID, cup, cup]])
    np.testing.assert_array_equal(sample.truth.instance, [[0, 0, 1], [0, 2, 2]])
    np.testing.assert_array_equal(sample.crowd_ids, [1])


def test_an_image_without_entry_is_named(root: Path) -> None:
    write_json(root, SEGMENTS, with_image=False)
    with pytest.raises(DatasetError, match=r'image 139: .* no entry in "images"'):
        CocoPanoptic(root, 'val2017')[0]


def test_an_unknown_category_is_named(root: Path) -> None:
    write_json(root, [*SEGMENTS[:2], {'id': 5, 'category_id': 12}])
    with pytest.raises(DatasetError, match=r'image 139: .* category ids \[12\]'):
        CocoPanoptic(root, 'val2017')[0]


def test_an_image_turned_by_exif_is_read_as_stored(root: Path) -> None:
    path = root / 'val2017' / '000000000139.jpg'
    turned = b'\xff\xe1\x00\x22Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00'
    turned += b'\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00'
    jpeg = path.read_bytes()
    path.write_bytes(jpeg[:2] + turned + jpeg[2:])
    assert cv2.imread(str(path)).shape == (3, 2, 3)  # the tag is there, OpenCV obeys it
    assert CocoPanoptic(root, 'val2017')[0].image_rgb.shape == (2, 3, 3)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', 'is not a readable JSON file'),
        ('[]', 'is not a panoptic JSON'),
        ('{"images": []}', "KeyError\\('annotations'\\)"),
        ('{"annotations": [{"image_id": 1, "file_name": "a"}]}', 'segments_info'),
        (
            '{"annotations": [{"image_id": 1, "file_name": "a", "segments_info": [{"id": 1}]}]}',
            'category_id',
        ),
    ],
)
def test_a_json_of_another_kind_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / 'a.json'
    path.write_text(text)
    with pytest.raises(DatasetError, match=message):
        PanopticJson.read(path)


def test_label_set_has_roles_for_indoor_robots() -> None:
    labels = LabelSet.load('coco')
    assert len(labels) == 133
    assert labels.is_thing.sum() == 80
    for role, name in (
        ('graspable', 'cup'),
        ('support_surface', 'table-merged'),
        ('walkable', 'floor-wood'),
        ('permanent_structure', 'wall-other-merged'),
        ('movable', 'chair'),
    ):
        assert labels.with_role(role)[labels.class_id(name)], (role, name)
    both = labels.with_role('movable') & labels.with_role('permanent_structure')
    assert not both.any()


@needs_real
def test_label_set_is_the_official_category_list() -> None:
    labels = LabelSet.load('coco')
    official = json.loads((REAL / 'panoptic_coco_categories.json').read_bytes())
    assert len(labels) == len(official) == 133
    for ours, theirs in zip(labels.classes, official, strict=True):
        assert ours.name == theirs['name']
        assert ours.is_thing == bool(theirs['isthing'])
        assert ours.category_id == theirs['id']
        assert list(ours.color_rgb) == theirs['color']


@needs_real
def test_real_sample() -> None:
    labels = LabelSet.load('coco')
    path = REAL / 'panoptic_examples.json'
    dataset = CocoFormatDataset(path, REAL / 'panoptic_examples', REAL / 'input_images', labels)
    stated = json.loads(path.read_bytes())['annotations']
    assert len(dataset) == 2
    for sample, annotation in zip(dataset, stated, strict=True):
        info = annotation['segments_info']
        assert sample.image_id == str(annotation['image_id'])
        assert sorted(sample.truth.segments.area.tolist()) == sorted(i['area'] for i in info)
        assert len(sample.crowd_ids) == sum(i['iscrowd'] for i in info)
