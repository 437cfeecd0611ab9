from dataclasses import dataclass
from typing import Any


@dataclass
class ParameterValue:
    value: Any
    value_type: type
