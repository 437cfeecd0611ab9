"""The classes that a metric counts."""

from dataclasses import dataclass
from typing import Protocol

from panoptic_ros.labels import LabelClass


class Classes(Protocol):
    """Named classes in the order of their ids.

    :class:`panoptic_ros.labels.LabelSet` is one; :class:`ClassList` has no limit of 255 classes.
    """

    @property
    def name(self) -> str:
        """The name of the collection, for messages."""

    @property
    def classes(self) -> tuple[LabelClass, ...]:
        """The classes; the index is the class id."""

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class ClassList:
    """Classes of files that are scored without being decoded into panoptic maps."""

    name: str
    classes: tuple[LabelClass, ...]

    def __len__(self) -> int:
        return len(self.classes)
