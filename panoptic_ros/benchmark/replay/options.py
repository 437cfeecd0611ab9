"""What a replay benchmark is asked to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUTPUTS = ('semantic', 'instance', 'markers', 'overlay')
RATES_HZ = (10.0, 30.0, 60.0)
TRIAL_SECONDS = 5.0
QUALITY_FRAMES = 300

RECORDED, AS_FAST = 'recorded', 'max'
"""Rates by name: as recorded, and as fast as the node answers."""


@dataclass(frozen=True)
class Options:
    """The options of ``replay_benchmark``; its ``--help`` describes them.

    Topics and remappings are pairs of names, parameters pairs of name and value.
    """

    bag: str
    node: str | None = None
    model: str = 'street-lite'
    engine: str = 'auto'
    param: tuple[tuple[str, Any], ...] = ()
    rate: float | str | None = None
    rates: tuple[float, ...] = RATES_HZ
    seconds: float | None = None
    loop: bool = False
    start_offset: float = 0.0
    duration: float | None = None
    topic: tuple[str, str] | None = None
    remap: tuple[tuple[str, str], ...] = ()
    stamps: str = RECORDED
    outputs: tuple[str, ...] = OUTPUTS
    quality_frames: int = QUALITY_FRAMES
    timeout: float = 60.0
    out: Path = Path('out', 'replay')

    @property
    def node_name(self) -> str:
        """Fully qualified name of the node under test."""
        return '/segment' if self.node is None else f'/{self.node.strip("/")}'
