"""Label sets: what each class id means, how it is drawn and what robots may do with it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from panoptic_ros.errors import LabelSetError
from panoptic_ros.resources import resource
from panoptic_ros.untrusted import read_yaml

VOID = 255
"""Class id of pixels that have no class."""

ROLES = frozenset(
    {
        'drivable',  # a vehicle may drive on it
        'walkable',  # a person, or a legged robot, may walk on it
        'dynamic_agent',  # moves by itself
        'permanent_structure',  # is there tomorrow
        'movable',  # can be moved by somebody
        'support_surface',  # other things stand or lie on it
        'graspable',  # a manipulator can pick it up
    }
)
"""What the applications ask of a class, independent of the data set's names."""


@dataclass(frozen=True)
class LabelClass:
    """One class of a label set.

    Parameters
    ----------
    name
        The data set's own name.
    is_thing
        True for countable objects (instances), False for stuff.
    color_rgb
        The data set's drawing colour, three values 0..255.
    category_id
        The id in the data set's own files (COCO ``category_id``, Cityscapes label id).
    roles
        Any of :data:`ROLES`.
    height_m
        Usual height of a thing in metres, used to place markers where there is no depth.
    """

    name: str
    is_thing: bool
    color_rgb: tuple[int, int, int]
    category_id: int
    roles: frozenset[str] = frozenset()
    height_m: float | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise LabelSetError('a class has an empty name; every class needs one')
        if len(self.color_rgb) != 3 or not all(0 <= value <= 255 for value in self.color_rgb):
            raise LabelSetError(
                f'class {self.name!r} has colour {self.color_rgb}; expected three values 0..255'
            )
        unknown = self.roles - ROLES
        if unknown:
            raise LabelSetError(
                f'class {self.name!r} has unknown roles {sorted(unknown)}; '
                f'expected some of {sorted(ROLES)}'
            )
        if self.height_m is not None and not self.height_m > 0:
            raise LabelSetError(
                f'class {self.name!r} has height_m {self.height_m}; expected metres above 0'
            )


@dataclass(frozen=True)
class LabelSet:
    """An ordered set of classes; a class id is its index, 255 (:data:`VOID`) is no class.

    Raises LabelSetError for no classes, more than 255 classes, or a repeated name or category id.
    """

    name: str
    classes: tuple[LabelClass, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) <= VOID:
            raise LabelSetError(
                f'label set {self.name!r} has {len(self.classes)} classes; expected 1..{VOID}'
            )
        for what in ('name', 'category_id'):
            count = Counter(getattr(c, what) for c in self.classes)
            repeated = sorted(value for value, times in count.items() if times > 1)
            if repeated:
                raise LabelSetError(
                    f'label set {self.name!r} has a repeated {what}: {repeated}; each must be '
                    'unique'
                )

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Class names in the order of their ids."""
        return tuple(c.name for c in self.classes)

    @cached_property
    def is_thing(self) -> np.ndarray:
        """Look-up table, bool [256]: True where the class id is a thing (False for void)."""
        table = np.zeros(256, bool)
        table[: len(self)] = [c.is_thing for c in self.classes]
        table.flags.writeable = False
        return table

    @cached_property
    def colors_rgb(self) -> np.ndarray:
        """Look-up table, uint8 [256, 3]: drawing colour of each class id, black for void."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = [c.color_rgb for c in self.classes]
        table.flags.writeable = False
        return table

    @cached_property
    def heights_m(self) -> np.ndarray:
        """Look-up table, float32 [256]: usual height of each class, NaN where unknown."""
        table = np.full(256, np.nan, np.float32)
        table[: len(self)] = [c.height_m or np.nan for c in self.classes]
        table.flags.writeable = False
        return table

    def with_role(self, role: str) -> np.ndarray:
        """Return a look-up table, bool [256]: True where the class has the role."""
        if role not in ROLES:
            raise LabelSetError(f'unknown role {role!r}; expected one of {sorted(ROLES)}')
        table = np.zeros(256, bool)
        table[: len(self)] = [role in c.roles for c in self.classes]
        return table

    def class_id(self, name: str) -> int:
        """Return the id of a class name; raises LabelSetError if there is none."""
        if name not in self.names:
            raise LabelSetError(
                f'label set {self.name!r} has no class {name!r}; it has {", ".join(self.names)}'
            )
        return self.names.index(name)

    @cached_property
    def category_ids(self) -> np.ndarray:
        """The data set's own ids in the order of the class ids, int32 [classes]."""
        return np.array([c.category_id for c in self.classes], np.int32)

    def class_ids_of(self, category_ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Translate the data set's own ids to class ids, uint8; unknown ids become void."""
        wanted = np.asarray(category_ids)
        order = np.argsort(self.category_ids)
        known = self.category_ids[order]
        at = np.clip(np.searchsorted(known, wanted), 0, len(known) - 1)
        return np.where(known[at] == wanted, order[at], VOID).astype(np.uint8)

    @classmethod
    def load(cls, name_or_path: str | Path) -> 'LabelSet':
        """Read a label set by name (``cityscapes``, from ``config/labels``) or YAML path.

        Raises LabelSetError if the file is missing or does not follow the format.
        """
        path = Path(name_or_path)
        if path.suffix != '.yaml':
            folder = resource('config', 'labels')
            path = folder / f'{name_or_path}.yaml'
            if not path.is_file():
                known = ', '.join(sorted(p.stem for p in folder.glob('*.yaml')))
                raise LabelSetError(
                    f'no label set is called {str(name_or_path)!r}; expected one of {known} or '
                    'the path of a .yaml file'
                )
        if not path.is_file():
            raise LabelSetError(f'label set file {path} does not exist')
        try:
            data = read_yaml(path)
        except yaml.YAMLError as error:
            raise LabelSetError(f'label set file {path} is not valid YAML: {error}') from error
        if not isinstance(data, dict) or not isinstance(data.get('classes'), list):
            raise LabelSetError(f'label set file {path} lacks the list "classes"')
        classes = tuple(_parse_class(entry, path) for entry in data['classes'])
        return cls(str(data.get('name', path.stem)), classes)


def _parse_class(entry: Any, path: Path) -> LabelClass:
    try:
        name, is_thing = entry['name'], entry['thing']
        red, green, blue = map(int, entry['color'])
        category_id = int(entry['category_id'])
        roles = frozenset(entry.get('roles', ()))
        height_m = entry.get('height_m')
    except (KeyError, TypeError, ValueError) as error:
        raise LabelSetError(
            f'label set file {path}: class entry {entry!r} is not usable ({error!r}); expected '
            'the keys name, category_id, thing, color and optionally roles, height_m'
        ) from error
    if not isinstance(name, str) or not isinstance(is_thing, bool):
        raise LabelSetError(
            f'label set file {path}: class entry {entry!r} needs a text name and a true/false '
            'thing; quote names that YAML reads as something else'
        )
    return LabelClass(name, is_thing, (red, green, blue), category_id, roles, height_m)
