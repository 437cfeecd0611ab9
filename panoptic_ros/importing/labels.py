"""The class names of a checkpoint, matched by name with a label set."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from panoptic_ros.errors import LabelSetError
from panoptic_ros.labels import LabelSet

LABEL_SETS = ('coco', 'cityscapes', 'ade20k', 'vistas')

UNUSED = re.compile(r'n/?a|none|unused|unlabeled|_*background_*|no[ _-]?object|-+', re.I)
"""Names of class indices that stand for nothing: COCO's ids have gaps, and some networks keep
them. Their probability is added to that of "no object"."""

_PLACEHOLDER = re.compile(r'LABEL_\d+')
"""What transformers writes where there is no name: unused too, if other indices have names."""

ALIASES = {
    'ade20k': {
        'windowpane': 'window',
        'bathtub': 'tub',
        'railing': 'rail',
        'streetlight': 'street lamp',
        'television receiver': 'tv',
        'television': 'tv',
        'airplane': 'plane',
        'apparel': 'clothes',
        'swimming pool': 'pool',
        'waterfall': 'falls',
        'ashcan': 'trash can',
    },
}
"""Other spellings of a label set's names, folded; extended by :func:`_spellings`."""


@dataclass(frozen=True)
class ClassMap:
    """Which column of a network's class scores belongs to which class of a label set.

    Parameters
    ----------
    label_set
        The classes, in the order of their ids.
    columns
        For each class the network's class index, -1 where the network does not know the class.
    unused
        The network's class indices that stand for nothing.
    aliases
        Names of the network that the label set spells otherwise: (network's, label set's).
    """

    label_set: LabelSet
    columns: tuple[int, ...]
    unused: tuple[int, ...]
    aliases: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        known = sum(column >= 0 for column in self.columns)
        text = f'{known} of the {len(self.label_set)} classes of label set {self.label_set.name!r}'
        if self.aliases:
            text += f', {len(self.aliases)} of them under another spelling'
        if self.unused:
            text += f'; {len(self.unused)} unused class indices count as "no object"'
        return text


def match_labels(id2label: Mapping[int, str], label_set: LabelSet | None = None) -> ClassMap:
    """Match a network's class names with a label set, or find the one that has them all.

    Parameters
    ----------
    id2label
        Name by class index.
    label_set
        The classes wanted; None looks for the names in :data:`LABEL_SETS`.

    Raises LabelSetError, naming the classes, if a name is repeated or no label set has it.
    """
    named = {i: name for i, name in id2label.items() if not _PLACEHOLDER.fullmatch(name)}
    if not named:
        if label_set is not None and len(label_set) == len(id2label):
            return ClassMap(label_set, tuple(sorted(id2label)), (), ())
        raise LabelSetError(
            f'the checkpoint has {len(id2label)} classes without names; name a label set of '
            f'{len(id2label)} classes in their order with --labels'
        )
    used = {index: name for index, name in named.items() if not UNUSED.fullmatch(name.strip())}
    if label_set is not None:
        return _match(id2label, used, label_set)
    failures = []
    for name in LABEL_SETS:
        candidate = LabelSet.load(name)
        try:
            return _match(id2label, used, candidate)
        except LabelSetError as error:
            failures.append((len(_unknown(used, candidate)), str(error)))
    # Of label sets that lack as few names the first one.
    fewest, message = min(failures, key=lambda failure: failure[0])
    if fewest == len(used):
        first = ', '.join(map(repr, list(used.values())[:4]))
        raise LabelSetError(
            f'no label set of {", ".join(LABEL_SETS)} has the classes {first}, ...; write their '
            'names, colours and things or stuff to a label set file and give it with --labels'
        )
    raise LabelSetError(message)


def _match(id2label: Mapping[int, str], used: Mapping[int, str], label_set: LabelSet) -> ClassMap:
    unknown = _unknown(used, label_set)
    if unknown:
        listed = ', '.join(f'{index} {name!r}' for index, name in list(unknown.items())[:6])
        raise LabelSetError(
            f'label set {label_set.name!r} lacks {len(unknown)} of the {len(used)} classes of the '
            f'checkpoint: {listed}; give a label set file that has them with --labels, or correct '
            "the names under id2label in the checkpoint's config.json"
        )
    spellings = _spellings(label_set)
    column_of = {spellings[_fold(name)]: index for index, name in used.items()}
    repeated = [
        name for name, count in Counter(spellings[_fold(n)] for n in used.values()).items()
        if count > 1
    ]  # fmt: skip
    if repeated:
        indices = [i for i, name in used.items() if spellings[_fold(name)] == repeated[0]]
        raise LabelSetError(
            f'the checkpoint calls the classes {indices} all {repeated[0]!r}; give each a name of '
            "its own under id2label in the checkpoint's config.json"
        )
    return ClassMap(
        label_set,
        tuple(column_of.get(name, -1) for name in label_set.names),
        _unused(id2label, used),
        tuple(
            (name, spellings[_fold(name)])
            for name in used.values()
            if name != spellings[_fold(name)]
        ),
    )


def _unused(id2label: Mapping[int, str], used: Mapping[int, str]) -> tuple[int, ...]:
    return tuple(sorted(set(id2label) - set(used)))


def _unknown(used: Mapping[int, str], label_set: LabelSet) -> dict[int, str]:
    spellings = _spellings(label_set)
    return {index: name for index, name in used.items() if _fold(name) not in spellings}


def _spellings(label_set: LabelSet) -> dict[str, str]:
    """Return the name of a class by each of its spellings, folded."""
    aliases = ALIASES.get(label_set.name, {})
    names = {_fold(name): name for name in label_set.names}
    both_ways = aliases | {other: name for name, other in aliases.items()}
    for spelling, name in both_ways.items():
        if _fold(name) in names:
            names.setdefault(_fold(spelling), names[_fold(name)])
    return names


def _fold(name: str) -> str:
    """Return a name without case, outer space, and the ways to write a space within."""
    return re.sub(r'[\s_-]+', ' ', name).strip().casefold()
