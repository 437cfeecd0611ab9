from dataclasses import dataclass


@dataclass
class IfCondition:
    predicate: str
