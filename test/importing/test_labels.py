"""Class names of checkpoints against the label sets: by name, with aliases, never by guess."""

import pytest

from panoptic_ros.errors import LabelSetError
from panoptic_ros.importing.labels import ALIASES, LABEL_SETS, match_labels
from panoptic_ros.labels import LabelClass, LabelSet

COCO, ADE20K = LabelSet.load('coco'), LabelSet.load('ade20k')
THREE = LabelSet(
    'three',
    (
        LabelClass('mug', True, (1, 2, 3), 1),
        LabelClass('table', False, (4, 5, 6), 2),
        LabelClass('wall', False, (7, 8, 9), 3),
    ),
)

# ADE20K as transformers' checkpoints spell it, where that differs from our label set.
ADE20K_SPELLINGS = {
    'bed': 'bed ',
    'window': 'windowpane',
    'tub': 'bathtub',
    'rail': 'railing',
    'street lamp': 'streetlight',
    'tv': 'television receiver',
    'plane': 'airplane',
    'clothes': 'apparel',
    'pool': 'swimming pool',
    'falls': 'waterfall',
    'trash can': 'ashcan',
}


@pytest.mark.parametrize('name', LABEL_SETS)
def test_the_own_names_of_every_label_set_match_in_order(name):
    label_set = LabelSet.load(name)
    found = match_labels(dict(enumerate(label_set.names)))
    assert found.label_set.name == name
    assert found.columns == tuple(range(len(label_set)))
    assert (found.unused, found.aliases) == ((), ())


def test_the_eleven_other_spellings_of_ade20k_match():
    names = {i: ADE20K_SPELLINGS.get(n, n) for i, n in enumerate(ADE20K.names)}
    found = match_labels(names)
    assert found.label_set.name == 'ade20k'
    assert found.columns == tuple(range(150))
    assert dict(found.aliases) == {other: name for name, other in ADE20K_SPELLINGS.items()}
    assert '11 of them under another spelling' in str(found)


def test_aliases_lead_to_names_of_their_label_set():
    for name, aliases in ALIASES.items():
        assert set(aliases.values()) <= set(LabelSet.load(name).names)


def test_another_order_is_followed():
    names = dict(enumerate(reversed(COCO.names)))
    assert match_labels(names).columns == tuple(reversed(range(133)))


def test_gaps_in_the_ids_count_as_no_object():
    # COCO's category ids run to 200 with gaps; DETR's panoptic checkpoint has 250 columns.
    names = dict.fromkeys(range(250), 'N/A') | {c.category_id: c.name for c in COCO.classes}
    found = match_labels(names)
    assert found.columns == tuple(c.category_id for c in COCO.classes)
    assert set(found.unused) == set(range(250)) - set(found.columns)
    assert len(found.unused) == 117


def test_a_network_may_know_some_classes_only():
    things = dict(enumerate(COCO.names[:80]))
    found = match_labels(things)
    assert found.columns == (*range(80), *[-1] * 53)
    assert '80 of the 133 classes' in str(found)


def test_classes_without_names_need_a_label_set_of_as_many():
    unnamed = {index: f'LABEL_{index}' for index in range(3)}
    assert match_labels(unnamed, THREE).columns == (0, 1, 2)
    with pytest.raises(LabelSetError, match='3 classes without names; name a label set of 3'):
        match_labels(unnamed)
    with pytest.raises(LabelSetError, match='4 classes without names'):
        match_labels({**unnamed, 3: 'LABEL_3'}, THREE)


@pytest.mark.parametrize(
    ('names', 'label_set', 'message'),
    [
        (
            ['mug', 'table', 'spoon'],
            THREE,
            r"lacks 1 of the 3 classes of the checkpoint: 2 'spoon'",
        ),
        (['mug', 'Mug', 'wall'], THREE, r"calls the classes \[0, 1\] all 'mug'; give each a name"),
        ([*COCO.names[:-1], 'unicorn'], None, r"'coco' lacks 1 of the 133 classes.*'unicorn'"),
        (['gear', 'bolt', 'nut'], None, r"no label set of coco.* has the classes 'gear', 'bolt'"),
    ],
)
def test_unknown_and_repeated_names_are_asked_for(names, label_set, message):
    with pytest.raises(LabelSetError, match=message):
        match_labels(dict(enumerate(names)), label_set)
