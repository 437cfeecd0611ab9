"""Objects by role, and what carries them, on rooms of a few dozen pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_ros.errors import LabelSetError
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.scene.supports import NONE, find_supports, with_roles

COCO = LabelSet.load('coco')
WALL, FLOOR, TABLE, CUP, LAPTOP, CHAIR, PERSON, BOOK, COUNTER = (
    COCO.class_id(name)
    for name in (
        'wall-other-merged',
        'floor-wood',
        'dining table',
        'cup',
        'laptop',
        'chair',
        'person',
        'book',
        'counter',
    )
)
VOID = 255

Patch = tuple[int, int, int, int, int, int]
"""Class, instance, and rows and columns from..to."""


def room(*patches: Patch) -> Panoptic:
    """Return 24 rows of 30 pixels: wall above row 14, floor below, and patches over them."""
    semantic = np.full((24, 30), WALL, np.uint8)
    semantic[14:] = FLOOR
    instance = np.zeros((24, 30), np.uint16)
    for class_id, instance_id, top, bottom, left, right in patches:
        semantic[top:bottom, left:right] = class_id
        instance[top:bottom, left:right] = instance_id
    return Panoptic.from_maps(semantic, instance, COCO)


TABLE_TOP = (TABLE, 1, 10, 13, 4, 24)
LEGS = ((TABLE, 1, 13, 20, 5, 7), (TABLE, 1, 13, 20, 21, 23))


def support(panoptic: Panoptic, instance_id: int, depth_m: np.ndarray | None = None) -> str:
    """Return class and id of what carries an object."""
    supports = find_supports(panoptic, COCO, depth_m)
    segments = panoptic.segments
    row = supports.row[segments.row_of_id[instance_id]]
    if row == NONE:
        return 'none'
    return f'{COCO.names[segments.class_id[row]]} {segments.id[row]}'


# ---- roles ----


def test_objects_are_chosen_by_any_of_their_roles() -> None:
    segments = room(TABLE_TOP, (CUP, 2, 8, 11, 8, 10), (PERSON, 3, 2, 20, 26, 29)).segments

    def chosen(*roles: str) -> list[int]:
        return segments.id[with_roles(segments, COCO, roles)].tolist()

    assert chosen() == [1, 2, 3]
    assert chosen('graspable') == [2]
    assert chosen('support_surface') == [1]  # not the floor, which is no object
    assert chosen('movable') == [1, 2]
    assert chosen('dynamic_agent', 'graspable') == [2, 3]
    assert chosen('permanent_structure') == []
    with pytest.raises(LabelSetError, match="unknown role 'edible'"):
        chosen('edible')


# ---- supports ----


def test_a_cup_stands_on_the_table_and_the_table_on_the_floor() -> None:
    panoptic = room(TABLE_TOP, *LEGS, (CUP, 2, 8, 11, 8, 10))
    assert support(panoptic, 2) == 'dining table 1'
    assert support(panoptic, 1) == 'floor-wood 0'
    supports = find_supports(panoptic, COCO)
    assert supports.contact.tolist() == [0, 0, 1, 1]  # floor, wall, table, cup
    assert (supports.row.dtype, supports.contact.dtype) == (np.intp, np.float32)


def test_what_stands_on_something_that_stands_on_something() -> None:
    panoptic = room(TABLE_TOP, *LEGS, (BOOK, 2, 9, 11, 10, 16), (CUP, 3, 6, 9, 12, 14))
    assert support(panoptic, 2) == 'dining table 1'
    # A book is no support surface in the label set, and the table is not right below the cup.
    assert support(panoptic, 3) == 'none'


def test_a_laptop_on_a_desk_partly_hidden_by_a_cup() -> None:
    laptop = (LAPTOP, 2, 6, 11, 8, 20)
    panoptic = room(TABLE_TOP, *LEGS, laptop, (CUP, 3, 8, 12, 9, 16))
    assert support(panoptic, 2) == 'dining table 1'
    found = find_supports(panoptic, COCO)
    # Above the cup its lower edge is not seen, and does not count.
    assert found.contact[panoptic.segments.row_of_id[2]] == 1
    # With no more than a shallow corner of it on the table, it is not said to lie there.
    wall_behind = [(WALL, 0, 10, 13, column, column + 1) for column in range(10, 24)]
    assert support(room(TABLE_TOP, *wall_behind, laptop), 2) == 'none'


def test_stuff_carries_too() -> None:
    panoptic = room((COUNTER, 0, 10, 24, 0, 30), (CUP, 2, 8, 11, 8, 10))
    assert support(panoptic, 2) == 'counter 0'


def test_what_floats_before_the_wall_or_ends_below_the_picture_stands_on_nothing() -> None:
    assert support(room((CUP, 2, 4, 8, 8, 10)), 2) == 'none'
    assert support(room((PERSON, 2, 4, 24, 8, 14)), 2) == 'none'
    assert support(room((CUP, 2, 15, 18, 8, 10), (VOID, 0, 18, 20, 6, 12)), 2) == 'none'


def test_only_the_lowest_part_touches() -> None:
    # A person stands on the floor; an arm, seen above the table, does not lie on it.
    body, arm = (PERSON, 2, 2, 21, 25, 28), (PERSON, 2, 6, 8, 10, 25)
    table_behind = (TABLE, 1, 8, 13, 4, 24)
    assert support(room(table_behind, body, arm), 2) == 'floor-wood 0'


def test_depth_tells_before_from_on() -> None:
    panoptic = room(TABLE_TOP, *LEGS, (CUP, 2, 8, 11, 8, 10))
    depth_m = np.full((24, 30), 2.0, np.float32)
    assert support(panoptic, 2, depth_m) == 'dining table 1'
    depth_m[8:11, 8:10] = 1.5
    assert support(panoptic, 2, depth_m) == 'none'
    depth_m[8:11, 8:10] = np.nan
    assert support(panoptic, 2, depth_m) == 'dining table 1'
    with pytest.raises(ValueError, match=r'depth_m is \(2, 2\); expected \(24, 30\)'):
        find_supports(panoptic, COCO, np.zeros((2, 2), np.float32))


def test_a_map_without_objects_and_one_without_anything() -> None:
    assert find_supports(room(), COCO).row.tolist() == [NONE, NONE]
    empty = Panoptic.from_maps(np.full((2, 2), VOID, np.uint8), np.zeros((2, 2), np.uint16), COCO)
    assert find_supports(empty, COCO).row.shape == (0,)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000))
def test_supports_are_what_a_slow_look_at_every_column_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    patches = []
    for instance_id in range(1, 7):
        top, left = rng.integers(0, 20), rng.integers(0, 26)
        bottom, right = top + rng.integers(1, 12), left + rng.integers(1, 14)
        class_id = rng.choice([TABLE, CUP, CHAIR, PERSON, VOID])
        ids = 0 if class_id == VOID else instance_id
        patches.append((class_id, ids, top, min(bottom, 24), left, min(right, 30)))
    panoptic = room(*patches)
    segments, found = panoptic.segments, find_supports(panoptic, COCO)
    is_surface = COCO.with_role('support_surface')
    rows = panoptic.rows_at(np.arange(24 * 30)).reshape(24, 30)
    for row in np.flatnonzero(segments.is_thing).tolist():
        _, y0, _, y1 = segments.box_xyxy[row].tolist()
        below = []
        for column in range(30):
            mine = np.flatnonzero(rows[:, column] == row)
            if len(mine) and mine[-1] < 23 and y1 - mine[-1] <= max((y1 - y0) / 4, 1):
                below.append(rows[mine[-1] + 1, column])
        below = [b for b in below if b != -1]
        votes = {b: below.count(b) for b in below if is_surface[segments.class_id[b]]}
        most = max(votes.values(), default=0)
        if most and most >= len(below) / 4:
            assert votes[int(found.row[row])] == most
            assert found.contact[row] == pytest.approx(most / len(below))
        else:
            assert found.row[row] == NONE
