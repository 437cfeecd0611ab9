from dataclasses import dataclass
from typing import Any


@dataclass
class DeclareLaunchArgument:
    name: str
    default_value: str | None = None
    description: str = ''


@dataclass
class OpaqueFunction:
    function: Any
