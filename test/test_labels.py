"""Label sets: look-up tables, the YAML format, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from panoptic_ros.errors import LabelSetError
from panoptic_ros.labels import ROLES, VOID, LabelClass, LabelSet
from panoptic_ros.resources import resource

ROAD = LabelClass('road', False, (128, 64, 128), 7, frozenset({'drivable', 'walkable'}))
SKY = LabelClass('sky', False, (70, 130, 180), 23)
CAR = LabelClass('car', True, (0, 0, 142), 26, frozenset({'dynamic_agent'}), height_m=1.5)
THREE = LabelSet('three', (ROAD, SKY, CAR))


def test_a_class_id_is_the_place_in_the_list() -> None:
    assert len(THREE) == 3
    assert THREE.names == ('road', 'sky', 'car')
    assert THREE.class_id('car') == 2
    with pytest.raises(LabelSetError, match="has no class 'tram'; it has road, sky, car"):
        THREE.class_id('tram')


def test_tables_cover_every_byte_and_void_is_nothing() -> None:
    assert np.flatnonzero(THREE.is_thing).tolist() == [2]
    assert THREE.is_thing.shape == (256,)
    assert THREE.colors_rgb[:3].tolist() == [[128, 64, 128], [70, 130, 180], [0, 0, 142]]
    assert not THREE.colors_rgb[3:].any()
    assert np.flatnonzero(THREE.with_role('drivable')).tolist() == [0]
    assert np.flatnonzero(~np.isnan(THREE.heights_m)).tolist() == [2]
    assert THREE.heights_m[2] == 1.5
    for table in (THREE.is_thing, THREE.colors_rgb, THREE.heights_m):
        assert table.shape[0] == 256
        with pytest.raises(ValueError, match='read-only'):
            table[VOID] = 1


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(LabelSetError, match="unknown role 'flyable'"):
        THREE.with_role('flyable')


def test_category_ids_translate_to_class_ids_and_unknown_ones_to_void() -> None:
    unordered = LabelSet('unordered', (CAR, ROAD, SKY))
    assert unordered.category_ids.tolist() == [26, 7, 23]
    wanted = np.array([[7, 23], [26, 8], [-1, 99]])
    translated = unordered.class_ids_of(wanted)
    assert translated.tolist() == [[1, 2], [0, VOID], [VOID, VOID]]
    assert translated.dtype == np.uint8
    assert unordered.class_ids_of([]).tolist() == []


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'name': ''}, 'empty name'),
        ({'color_rgb': (0, 0, 256)}, r"'car' has colour \(0, 0, 256\)"),
        ({'color_rgb': (0, 0)}, 'three values'),
        ({'roles': frozenset({'fast'})}, r"'car' has unknown roles \['fast'\]"),
        ({'height_m': 0.0}, "'car' has height_m 0.0"),
        ({'height_m': float('nan')}, "'car' has height_m nan"),
    ],
)
def test_a_class_that_makes_no_sense_is_refused(fields: dict, message: str) -> None:
    good = {'name': 'car', 'is_thing': True, 'color_rgb': (0, 0, 142), 'category_id': 26}
    with pytest.raises(LabelSetError, match=message):
        LabelClass(**{**good, **fields})


def test_a_set_without_classes_or_with_repeated_ones_is_refused() -> None:
    with pytest.raises(LabelSetError, match=r'has 0 classes; expected 1\.\.255'):
        LabelSet('none', ())
    many = tuple(LabelClass(f'c{n}', False, (0, 0, 0), n) for n in range(256))
    assert len(LabelSet('full', many[:255])) == 255
    with pytest.raises(LabelSetError, match='has 256 classes'):
        LabelSet('too many', many)
    with pytest.raises(LabelSetError, match=r"repeated name: \['car'\]"):
        LabelSet('two cars', (CAR, LabelClass('car', True, (0, 0, 0), 1)))
    with pytest.raises(LabelSetError, match=r'repeated category_id: \[26\]'):
        LabelSet('two ids', (CAR, LabelClass('bus', True, (0, 0, 0), 26)))


# ---- files ----


def test_a_file_is_read_as_written(tmp_path: Path) -> None:
    path = tmp_path / 'mine.yaml'
    path.write_text(
        'classes:\n'
        '  - {name: road, category_id: 7, thing: false, color: [128, 64, 128], '
        'roles: [drivable, walkable]}\n'
        '  - {name: sky, category_id: 23, thing: false, color: [70, 130, 180]}\n'
        '  - {name: car, category_id: 26, thing: true, color: [0, 0, 142], '
        'roles: [dynamic_agent], height_m: 1.5}\n',
        encoding='utf-8',
    )
    assert LabelSet.load(path) == LabelSet('mine', THREE.classes)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('classes: [', 'is not valid YAML'),
        ('- road', 'lacks the list "classes"'),
        ('classes: 3', 'lacks the list "classes"'),
        ('classes: [road]', "entry 'road' is not usable"),
        ('classes: [{name: road, category_id: 1, thing: false}]', "KeyError.'color'"),
        (
            'classes: [{name: road, category_id: x, thing: false, color: [0, 0, 0]}]',
            'is not usable',
        ),
        (
            'classes: [{name: no, category_id: 1, thing: false, color: [0, 0, 0]}]',
            'quote names that YAML reads as something else',
        ),
        (
            'classes: [{name: road, category_id: 1, thing: 1, color: [0, 0, 0]}]',
            'a true/false thing',
        ),
    ],
)
def test_a_file_that_breaks_the_format_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / 'broken.yaml'
    path.write_text(text, encoding='utf-8')
    with pytest.raises(LabelSetError, match=message) as caught:
        LabelSet.load(path)
    assert str(path) in str(caught.value)


def test_a_name_or_file_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelSetError, match=r"is called 'mars'; expected one of .*cityscapes"):
        LabelSet.load('mars')
    with pytest.raises(LabelSetError, match=r'gone\.yaml does not exist'):
        LabelSet.load(tmp_path / 'gone.yaml')


@pytest.mark.parametrize(
    'path', sorted(resource('config', 'labels').glob('*.yaml')), ids=lambda path: path.stem
)
def test_shipped_label_sets_load_under_their_file_s_name(path: Path) -> None:
    label_set = LabelSet.load(path.stem)
    assert label_set.name == path.stem
    assert label_set.is_thing.any()
    assert not label_set.is_thing[: len(label_set)].all()


def test_cityscapes_is_the_19_class_set_of_the_benchmark() -> None:
    label_set = LabelSet.load('cityscapes')
    # labels.py of the data set's own scripts: id of train ids 0..18
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert label_set.category_ids.tolist() == ids
    assert [c.name for c in label_set.classes if c.is_thing] == [
        'person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle'
    ]  # fmt: skip
    assert label_set.colors_rgb[label_set.class_id('road')].tolist() == [128, 64, 128]
    assert label_set.with_role('drivable')[label_set.class_id('road')]
    things = label_set.is_thing[: len(label_set)]
    assert (np.isfinite(label_set.heights_m[: len(label_set)]) == things).all()
    for role in ('drivable', 'dynamic_agent', 'permanent_structure'):
        assert role in ROLES
        assert label_set.with_role(role).any()
