import json
import os
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask
import pytest

from panoptic_ros.datasets.coco import CocoPanoptic, default_coco_split, open_coco
from panoptic_ros.datasets.coco_json import PanopticJson
from panoptic_ros.errors import DatasetError
from panoptic_ros.labels import VOID, LabelClass, LabelSet
from panoptic_ros.packing import coco_categories, ids_to_rgb

DATA = Path(os.environ.get('PANOPTIC_DATA', Path(__file__).parents[3] / 'shared' / 'data'))
REAL = DATA / 'coco_panoptic_sample'
CATEGORIES = [
    {'id': 200, 'name': 'rug-merged', 'isthing': 0, 'color': [1, 2, 3]},
    {'id': 1, 'name': 'person', 'isthing': 1},
    {'id': 47, 'name': 'cup', 'isthing': 1},
]
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
                'categories': CATEGORIES,
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
    dataset = open_coco(root, 'val2017')
    sample = dataset[0]
    rug, person, cup = range(3)
    assert dataset.label_set.names == ('rug-merged', 'person', 'cup')
    assert dataset.label_set.is_thing[:3].tolist() == [False, True, True]
    assert dataset.label_set.classes[0].color_rgb == (1, 2, 3)
    assert len(set(map(bytes, dataset.label_set.colors_rgb[:3]))) == 3
    assert sample.image_id == '139'
    np.testing.assert_array_equal(sample.truth.semantic, [[rug, rug, person], [VOID, cup, cup]])
    np.testing.assert_array_equal(sample.truth.instance, [[0, 0, 1], [0, 2, 2]])
    np.testing.assert_array_equal(sample.crowd_ids, [1])


def test_an_image_without_entry_is_named(root: Path) -> None:
    write_json(root, SEGMENTS, with_image=False)
    with pytest.raises(DatasetError, match=r'image 139: .* no entry in "images"'):
        open_coco(root, 'val2017')[0]


def test_an_unknown_category_is_named(root: Path) -> None:
    write_json(root, [*SEGMENTS[:2], {'id': 5, 'category_id': 12}])
    with pytest.raises(DatasetError, match=r'image 139: .* category ids \[12\]'):
        open_coco(root, 'val2017')[0]


def test_an_image_turned_by_exif_is_read_as_stored(root: Path) -> None:
    path = root / 'val2017' / '000000000139.jpg'
    turned = b'\xff\xe1\x00\x22Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00'
    turned += b'\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00'
    jpeg = path.read_bytes()
    path.write_bytes(jpeg[:2] + turned + jpeg[2:])
    assert cv2.imread(str(path)).shape == (3, 2, 3)  # the tag is there, OpenCV obeys it
    assert open_coco(root, 'val2017')[0].image_rgb.shape == (2, 3, 3)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{', 'is not a readable JSON file'),
        ('[]', 'is not a panoptic JSON'),
        ('{"annotations": [], "categories": [{"id": 1, "name": "a", "isthing": "yes"}]}', 'yes'),
        ('{"images": []}', "'annotations' is missing"),
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
    dataset = CocoPanoptic(path, REAL / 'panoptic_examples', REAL / 'input_images', labels)
    stated = json.loads(path.read_bytes())['annotations']
    assert len(dataset) == 2
    for sample, annotation in zip(dataset, stated, strict=True):
        info = annotation['segments_info']
        assert sample.image_id == str(annotation['image_id'])
        assert sorted(sample.truth.segments.area.tolist()) == sorted(i['area'] for i in info)
        assert len(sample.crowd_ids) == sum(i['iscrowd'] for i in info)


# --- layouts and label sets ---------------------------------------------------------------------


def test_a_label_set_may_be_given(root: Path) -> None:
    labels = LabelSet.load('coco')
    sample = open_coco(root, 'val2017', labels)[0]
    rug, person, cup = (labels.class_id(n) for n in ('rug-merged', 'person', 'cup'))
    np.testing.assert_array_equal(sample.truth.semantic, [[rug, rug, person], [VOID, cup, cup]])
    with pytest.raises(DatasetError, match=r"category 200 .* label set 'cityscapes' lacks"):
        open_coco(root, 'val2017', LabelSet.load('cityscapes'))


def test_the_133_categories_of_coco_give_the_shipped_label_set(root: Path) -> None:
    path = root / 'annotations' / 'panoptic_val2017.json'
    content = json.loads(path.read_text())
    content['categories'] = coco_categories(LabelSet.load('coco'))
    path.write_text(json.dumps(content))
    assert open_coco(root).label_set.with_role('graspable').any()


def move(root: Path, moves: dict[str, str]) -> None:
    for old, new in moves.items():
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)


@pytest.mark.parametrize(
    'moves',
    [
        {},
        {'annotations/panoptic_val2017': 'panoptic_val', 'val2017': 'input_images'}
        | {'annotations/panoptic_val2017.json': 'panoptic_val.json'},
        {'val2017': 'images/val2017'},
        {'val2017': 'images'},
        {'val2017/000000000139.jpg': '000000000139.jpg'},
    ],
)
@pytest.mark.parametrize('by_file', [False, True])
def test_usual_layouts(root: Path, moves: dict[str, str], by_file: bool) -> None:
    move(root, moves)
    (path,) = root.rglob('panoptic_*.json')
    dataset = open_coco(path if by_file else root)
    assert dataset[0].truth.size_wh == (3, 2)


def test_the_split_must_be_clear(root: Path) -> None:
    assert default_coco_split(root) == 'val2017'
    for name in ('one', 'two'):
        write_rgb(root / 'annotations' / f'panoptic_{name}' / 'a.png', ids_to_rgb(IDS))
        (root / 'annotations' / f'panoptic_{name}.json').write_text('{}')
    assert default_coco_split(root) == 'val2017'
    (root / 'annotations' / 'panoptic_val2017.json').unlink()
    with pytest.raises(DatasetError, match='has the splits one, two; choose one with --split'):
        default_coco_split(root)
    with pytest.raises(DatasetError, match=r"split 'val2017': .* splits found: one, two"):
        open_coco(root, 'val2017')
    with pytest.raises(DatasetError, match='has no COCO annotations; expected annotations/panop'):
        open_coco(root / 'val2017')


def test_categories_without_isthing_are_named(root: Path) -> None:
    path = root / 'annotations' / 'panoptic_val2017.json'
    content = json.loads(path.read_text())
    del content['categories'][1]['isthing']
    path.write_text(json.dumps(content))
    with pytest.raises(
        DatasetError, match=r"category 1 \('person'\) has no \"isthing\"; add 1 for"
    ):
        open_coco(root)
    assert len(open_coco(root, None, LabelSet.load('coco'))) == 1


def test_isthing_may_be_a_boolean_or_text(root: Path) -> None:
    path = root / 'annotations' / 'panoptic_val2017.json'
    content = json.loads(path.read_text())
    for category, is_thing in zip(content['categories'], ('0', True, '1'), strict=True):
        category['isthing'] = is_thing
    path.write_text(json.dumps(content))
    assert open_coco(root).label_set.is_thing[:3].tolist() == [False, True, True]


def test_more_than_255_categories_do_not_fit_a_map(root: Path) -> None:
    path = root / 'annotations' / 'panoptic_val2017.json'
    content = json.loads(path.read_text())
    content['categories'] += [{'id': n, 'name': str(n), 'isthing': 1} for n in range(300, 600)]
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r'has 303 classes; expected 1\.\.255'):
        open_coco(root)


def test_a_png_of_one_channel_is_refused(root: Path) -> None:
    png = root / 'annotations/panoptic_val2017/000000000139.png'
    cv2.imwrite(str(png), IDS.astype(np.uint16))
    with pytest.raises(DatasetError, match=r'image 139: .* has 1 channel of 16 bits; a COCO'):
        open_coco(root)[0]


# --- instance annotations -----------------------------------------------------------------------

SQUARE = [1, 1, 5, 1, 5, 4, 1, 4]  # columns 1 to 4, rows 1 to 3


def write_instances(root: Path, annotations: list[dict], **changes: object) -> Path:
    write_rgb(root / 'images' / 'a.png', np.full((6, 8, 3), 90, np.uint8))
    content = {
        'images': [{'id': 1, 'file_name': 'a.png', 'width': 8, 'height': 6}],
        'annotations': [{'image_id': 1, 'id': n, **a} for n, a in enumerate(annotations)],
        'categories': [{'id': 3, 'name': 'nut'}, {'id': 9, 'name': 'bolt'}],
    }
    path = root / 'annotations' / 'instances_val.json'
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content | changes))
    return path


def test_polygons_become_instances_on_background(tmp_path: Path) -> None:
    big = {'category_id': 3, 'segmentation': [[0, 0, 8, 0, 8, 6, 0, 6]]}
    small = {'category_id': 9, 'segmentation': [SQUARE, [6, 4, 8, 4, 8, 6, 6, 6], [1, 2, 3, 4]]}
    write_instances(tmp_path, [small, big])
    dataset = open_coco(tmp_path)
    assert dataset.label_set.names == ('background', 'nut', 'bolt')
    assert dataset.label_set.is_thing[:3].tolist() == [False, True, True]
    truth = dataset[0].truth
    assert truth.semantic.tolist() == [
        [1, 1, 1, 1, 1, 1, 1, 1],
        [1, 2, 2, 2, 2, 1, 1, 1],
        [1, 2, 2, 2, 2, 1, 1, 1],
        [1, 2, 2, 2, 2, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 2, 2],
        [1, 1, 1, 1, 1, 1, 2, 2],
    ]
    assert truth.segments.things.area.tolist() == [32, 16]

    write_instances(tmp_path, [small])
    truth = open_coco(tmp_path)[0].truth
    assert (truth.semantic[0, 0], truth.instance[0, 0]) == (0, 0)


def test_masks_as_text_as_list_and_as_polygon_are_the_same(tmp_path: Path) -> None:
    mask = np.zeros((6, 8), np.uint8, 'F')
    mask[1:4, 1:5] = 1
    text = pycocotools.mask.encode(mask)
    as_text = {'size': [6, 8], 'counts': text['counts'].decode()}
    as_list = {'size': [6, 8], 'counts': [7, 3, 3, 3, 3, 3, 3, 3, 20]}
    found = []
    for segmentation in (as_text, as_list, [SQUARE], SQUARE):
        write_instances(tmp_path, [{'category_id': 3, 'segmentation': segmentation}])
        found.append(open_coco(tmp_path)[0].truth.instance)
    for instance in found:
        np.testing.assert_array_equal(instance, mask)


def test_groups_lie_below_objects(tmp_path: Path) -> None:
    group = {'category_id': 3, 'iscrowd': 1, 'segmentation': [SQUARE]}
    one = {'category_id': 3, 'segmentation': [[0, 0, 8, 0, 8, 6, 0, 6]]}
    write_instances(tmp_path, [group, one])
    sample = open_coco(tmp_path)[0]
    assert sample.crowd_ids.tolist() == [1]
    assert np.unique(sample.truth.instance).tolist() == [2]


def test_objects_in_a_given_label_set_lie_on_void(tmp_path: Path) -> None:
    write_instances(tmp_path, [{'category_id': 3, 'segmentation': [SQUARE]}])
    labels = LabelSet(
        'mine',
        (LabelClass('nut', True, (0, 0, 0), 3), LabelClass('bolt', False, (0, 0, 0), 9)),
    )
    truth = open_coco(tmp_path, None, labels)[0].truth
    assert np.unique(truth.semantic).tolist() == [0, VOID]


def test_an_image_without_objects_is_background(tmp_path: Path) -> None:
    images = [{'id': n, 'file_name': 'a.png', 'width': 8, 'height': 6} for n in (1, 2)]
    write_instances(tmp_path, [{'category_id': 3, 'segmentation': [SQUARE]}], images=images)
    dataset = open_coco(tmp_path)
    assert len(dataset) == 2
    assert not dataset[1].truth.semantic.any()


@pytest.mark.parametrize(
    ('annotation', 'message'),
    [
        ({'category_id': 3, 'segmentation': []}, 'has boxes but no masks'),
        ({'category_id': 4, 'segmentation': [SQUARE]}, r'image 1: .* category id 4'),
        ({'category_id': 3, 'segmentation': {'size': [3, 3], 'counts': [9]}}, r'size \[3, 3\]'),
        ({'category_id': 3, 'segmentation': 'x'}, "a segmentation is 'x'; expected polygons"),
        ({'category_id': 3, 'segmentation': [SQUARE], 'image_id': 7}, '7 is missing'),
        ({'category_id': 'a', 'segmentation': [SQUARE]}, 'is not an instance JSON'),
    ],
)
def test_a_bad_object_is_named(tmp_path: Path, annotation: dict, message: str) -> None:
    write_instances(tmp_path, [annotation])
    with pytest.raises(DatasetError, match=message):
        open_coco(tmp_path)[0]


def test_the_export_of_annotation_tools(tmp_path: Path) -> None:
    path = write_instances(tmp_path, [{'category_id': 3, 'segmentation': [SQUARE]}])
    move(tmp_path, {'images/a.png': 'valid/a.png'})
    move(tmp_path, {'annotations/instances_val.json': 'valid/_annotations.coco.json'})
    assert not path.is_file()
    assert open_coco(tmp_path)[0].truth.instance.any()
    assert open_coco(tmp_path, 'valid')[0].truth.instance.any()


@needs_real
def test_the_sample_in_panoptic_and_in_detection_format() -> None:
    panoptic = open_coco(REAL)
    assert len(panoptic) == 2
    assert len(panoptic.label_set) == 133
    detections = open_coco(REAL / 'panoptic_coco_detection_format.json', None, panoptic.label_set)
    for one, other in zip(panoptic, detections, strict=True):
        assert one.image_id == other.image_id
        same = one.truth.semantic == other.truth.semantic
        assert same.mean() > 0.999


@pytest.mark.skipif(not (DATA / 'nuclei').is_dir(), reason=f'no nuclei at {DATA}')
def test_nuclei() -> None:
    dataset = open_coco(DATA / 'nuclei')
    assert len(dataset) == 116
    assert dataset.label_set.names == ('background', 'nucleus')
    assert dataset[0].truth.size_wh == (256, 256)
    assert len(open_coco(DATA / 'nuclei', 'train')) == 423
