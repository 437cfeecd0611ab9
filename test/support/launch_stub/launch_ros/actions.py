from typing import Any


class Node:
    def __init__(self, **arguments: Any) -> None:
        self.__dict__.update(arguments)
