import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panoptic_ros import packing
from panoptic_ros.labels import VOID, LabelClass, LabelSet
from panoptic_ros.panoptic import Panoptic

LABELS = LabelSet(
    'toy',
    (
        LabelClass('road', False, (1, 2, 3), 7),
        LabelClass('sky', False, (4, 5, 6), 23),
        LabelClass('person', True, (7, 8, 9), 24),
        LabelClass('car', True, (10, 11, 12), 26),
    ),
)

SEMANTIC = np.array([[0, 0, 3, 3], [0, 2, 2, 3], [VOID, VOID, 1, 3]], np.uint8)
INSTANCE = np.array([[0, 0, 1, 1], [0, 2, 2, 3], [0, 0, 0, 3]], np.uint16)


def toy() -> Panoptic:
    return Panoptic.from_maps(SEMANTIC, INSTANCE, LABELS)


@st.composite
def panoptic_maps(draw: st.DrawFn, consecutive: bool = True) -> Panoptic:
    """Any valid map: each cell shows one of some segments or void."""
    classes = draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))
    things = [c for c in classes if LABELS.is_thing[c]]
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 7)))
    rows = draw(hnp.arrays(np.int64, shape, elements=st.integers(-1, len(classes) - 1)))
    ids = np.arange(1, len(things) + 1)
    if not consecutive:
        ids = np.array(
            draw(
                st.lists(
                    st.integers(1, 65535), min_size=len(things), max_size=len(things), unique=True
                )
            ),
            np.int64,
        )
    class_of_row = np.array([*classes, VOID])
    instance_of_row = np.zeros(len(classes) + 1, np.int64)
    instance_of_row[[i for i, c in enumerate(classes) if LABELS.is_thing[c]]] = ids
    semantic = class_of_row[rows].astype(np.uint8)
    instance = instance_of_row[rows].astype(np.uint16)
    if consecutive:  # objects that show no pixel leave no gap in the numbering
        instance = np.unique(np.append(0, instance), return_inverse=True)[1][1:]
        instance = instance.reshape(shape).astype(np.uint16)
    return Panoptic.from_maps(semantic, instance, LABELS)


def assert_same(a: Panoptic, b: Panoptic) -> None:
    np.testing.assert_array_equal(a.semantic, b.semantic)
    np.testing.assert_array_equal(a.instance, b.instance)
    for name in ('id', 'class_id', 'is_thing', 'score', 'area', 'box_xyxy'):
        np.testing.assert_array_equal(getattr(a.segments, name), getattr(b.segments, name), name)


def assert_same_objects(a: Panoptic, b: Panoptic) -> None:
    """Equal but for the numbers of the instances."""
    np.testing.assert_array_equal(a.semantic, b.semantic)
    pairs = np.unique(np.stack([a.instance.ravel(), b.instance.ravel()]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def test_ids_are_little_endian_colours() -> None:
    rgb = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [255, 255, 255]]], np.uint8)
    np.testing.assert_array_equal(packing.rgb_to_ids(rgb), [[1, 256, 65536, 2**24 - 1]])
    np.testing.assert_array_equal(packing.ids_to_rgb(packing.rgb_to_ids(rgb)), rgb)


def test_rgb_to_ids_refuses_a_grey_picture() -> None:
    with pytest.raises(ValueError, match=r'uint8 \(3, 4\); expected uint8 \[H, W, 3\]'):
        packing.rgb_to_ids(np.zeros((3, 4), np.uint8))


def test_to_coco_literal() -> None:
    rgb, info = packing.to_coco(toy(), LABELS, crowd_ids=[3])
    ids = packing.rgb_to_ids(rgb)
    np.testing.assert_array_equal(ids, [[65536, 65536, 1, 1], [65536, 2, 2, 3], [0, 0, 65537, 3]])
    assert info[0] == {
        'id': 65536,
        'category_id': 7,
        'area': 3,
        'bbox': [0, 0, 2, 2],
        'iscrowd': 0,
        'score': 1.0,
    }
    assert [(i['id'], i['category_id'], i['iscrowd']) for i in info[1:]] == [
        (65537, 23, 0),
        (1, 26, 0),
        (2, 24, 0),
        (3, 26, 1),
    ]


def test_coco_categories_literal() -> None:
    assert packing.coco_categories(LABELS)[2] == {
        'id': 24,
        'name': 'person',
        'supercategory': 'person',
        'isthing': 1,
        'color': [7, 8, 9],
    }


def test_from_coco_literal() -> None:
    rgb = packing.ids_to_rgb(np.array([[9, 9, 70000], [0, 8, 5]]))
    info = [
        {'id': 70000, 'category_id': 26, 'iscrowd': 0},
        {'id': 9, 'category_id': 7},
        {'id': 5, 'category_id': 24, 'iscrowd': 1, 'score': 0.5},
        {'id': 8, 'category_id': 7},
    ]
    panoptic, crowd_ids = packing.from_coco(rgb, info, LABELS)
    np.testing.assert_array_equal(panoptic.semantic, [[0, 0, 3], [VOID, 0, 2]])
    np.testing.assert_array_equal(panoptic.instance, [[0, 0, 1], [0, 0, 2]])
    np.testing.assert_array_equal(crowd_ids, [2])
    assert crowd_ids.dtype == np.uint16
    np.testing.assert_array_equal(panoptic.segments.track_id, [0, 70000, 5])
    np.testing.assert_array_equal(panoptic.segments.score, [1, 1, 0.5])


def test_from_coco_makes_a_group_of_stuff_void() -> None:
    rgb = packing.ids_to_rgb(np.array([[1, 2]]))
    info = [
        {'id': 1, 'category_id': 7, 'iscrowd': 1},
        {'id': 2, 'category_id': 7, 'iscrowd': 0},
    ]
    panoptic, crowd_ids = packing.from_coco(rgb, info, LABELS)
    np.testing.assert_array_equal(panoptic.semantic, [[VOID, 0]])
    assert len(crowd_ids) == 0


def test_from_coco_refuses_an_id_that_is_not_listed() -> None:
    with pytest.raises(ValueError, match=r'segment ids \[3\] that its list'):
        packing.from_coco(
            packing.ids_to_rgb(np.array([[1, 3]])), [{'id': 1, 'category_id': 7}], LABELS
        )


def test_from_coco_refuses_an_id_listed_twice() -> None:
    info = [{'id': 1, 'category_id': 7}, {'id': 1, 'category_id': 23}]
    with pytest.raises(ValueError, match=r'\[1\] are listed more than once'):
        packing.from_coco(packing.ids_to_rgb(np.array([[1]])), info, LABELS)


def test_from_coco_refuses_an_unknown_category() -> None:
    with pytest.raises(ValueError, match=r"category ids \[99\]; label set 'toy'"):
        packing.from_coco(
            packing.ids_to_rgb(np.array([[1]])), [{'id': 1, 'category_id': 99}], LABELS
        )


def test_from_coco_of_an_empty_list_is_void() -> None:
    panoptic, crowd_ids = packing.from_coco(np.zeros((2, 2, 3), np.uint8), [], LABELS)
    assert (panoptic.semantic == VOID).all()
    assert len(panoptic.segments) == len(crowd_ids) == 0


def test_from_cityscapes_literal() -> None:
    values = np.array([[7, 7, 26001], [24, 4, 26000], [24, 65535, 24003]], np.uint16)
    panoptic, crowd_ids = packing.from_cityscapes(values, LABELS)
    np.testing.assert_array_equal(panoptic.semantic, [[0, 0, 3], [2, VOID, 3], [2, VOID, 2]])
    np.testing.assert_array_equal(panoptic.instance, [[0, 0, 4], [1, 0, 3], [1, 0, 2]])
    np.testing.assert_array_equal(crowd_ids, [1])


def test_class_instance_literal() -> None:
    packed = packing.to_class_instance(toy())
    assert packed.dtype == np.int32
    assert packed[0, 2] == 3 << 16 | 1
    assert packed[2, 0] == 255 << 16
    assert packed[0, 0] == 0


def test_thing_instance_literal() -> None:
    car, person = 3 << 16, 2 << 16
    packed = packing.to_thing_instance(toy())
    assert packed.dtype == np.int32
    np.testing.assert_array_equal(
        packed,
        [
            [0, 0, car + 1, car + 1],
            [0, person + 2, person + 2, car + 3],
            [0, 0, 0, car + 3],
        ],
    )


def test_segment_ids_literal() -> None:
    road, sky, person, car = (k << 16 for k in (1, 2, 3, 4))
    ids = packing.to_segment_ids(toy())
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(
        ids,
        [
            [road, road, car + 1, car + 1],
            [road, person + 2, person + 2, car + 3],
            [0, 0, sky, car + 3],
        ],
    )


@given(panoptic_maps())
def test_coco_round_trip(panoptic: Panoptic) -> None:
    crowd = panoptic.segments.things.id[::2]
    back, back_crowd = packing.from_coco(*packing.to_coco(panoptic, LABELS, crowd), LABELS)
    assert_same(back, panoptic)
    np.testing.assert_array_equal(back_crowd, crowd)
    np.testing.assert_array_equal(back.segments.track_id, panoptic.segments.track_id)


@given(panoptic_maps(consecutive=False))
def test_coco_round_trip_of_any_ids(panoptic: Panoptic) -> None:
    back, _ = packing.from_coco(*packing.to_coco(panoptic, LABELS), LABELS)
    assert_same_objects(back, panoptic)
    np.testing.assert_array_equal(back.segments.track_id, panoptic.segments.track_id)


@given(panoptic_maps(consecutive=False), st.integers(0, 5))
def test_cityscapes_values_give_back_the_maps(panoptic: Panoptic, group: int) -> None:
    segments = panoptic.segments
    number = np.arange(len(segments))
    is_group = segments.is_thing & (number == group)
    values = LABELS.category_ids[segments.class_id].astype(np.int64)
    values[segments.is_thing & ~is_group] *= 1000
    values[segments.is_thing & ~is_group] += number[segments.is_thing & ~is_group]
    back, crowd_ids = packing.from_cityscapes(panoptic.paint(values, 0), LABELS)
    assert_same_objects(back, panoptic)
    groups = {panoptic.instance[back.instance == i][0] for i in crowd_ids}
    assert groups == set(segments.id[is_group].tolist())


@given(panoptic_maps(consecutive=False))
def test_class_and_instance_can_be_read_back(panoptic: Panoptic) -> None:
    packed = packing.to_class_instance(panoptic)
    np.testing.assert_array_equal(packed >> 16, panoptic.semantic)
    np.testing.assert_array_equal(packed & 0xFFFF, panoptic.instance)


@given(panoptic_maps(consecutive=False))
def test_segment_ids_can_be_read_back(panoptic: Panoptic) -> None:
    ids = packing.to_segment_ids(panoptic)
    np.testing.assert_array_equal(np.where(ids == 0, VOID, (ids >> 16) - 1), panoptic.semantic)
    np.testing.assert_array_equal(ids & 0xFFFF, panoptic.instance)


@given(panoptic_maps(consecutive=False))
def test_thing_instance_is_class_instance_of_the_things(panoptic: Panoptic) -> None:
    packed = packing.to_thing_instance(panoptic)
    is_thing = panoptic.instance != 0
    np.testing.assert_array_equal(packed[is_thing], packing.to_class_instance(panoptic)[is_thing])
    assert not packed[~is_thing].any()
