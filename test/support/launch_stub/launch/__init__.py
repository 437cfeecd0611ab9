"""The parts of ``launch`` that the launch files use; it is not on PyPI."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class LaunchContext:
    launch_configurations: dict[str, str] = field(default_factory=dict)
    argv: list[str] = field(default_factory=list)


class LaunchDescription:
    def __init__(self, entities: list[Any]) -> None:
        self.entities = entities
