"""The content of the synthetic street as a function of seed, place and time.

In the road frame, s runs along the road, and "across" is the distance to the right of its centre
line, in metres. Traffic keeps to the right. Nothing is simulated step by step. Stationary things
belong to a block of the road and are drawn from the number of the block. Moving things belong to
a cell of a stream that moves along the road at constant speed, and are drawn from the number of
the cell. The world at any time is therefore computed without the time before.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np

from panoptic_ros.datasets.street import people, scenery, textures
from panoptic_ros.datasets.street.blocks import BLOCK_M, BLOCK_PERIOD, SLOTS, Block, BlockBuilder
from panoptic_ros.datasets.street.style import Style, draw_style, generator
from panoptic_ros.datasets.street.things import (
    Look,
    Placed,
    Rider,
    Rigid,
    Seen,
    View,
    Walker,
    class_id_of,
    draw_vehicle,
    house_palette,
    people_palette,
)

FAR_M = 170.0
"""Largest distance along the road at which things are shown; the backdrop is beyond."""

_BEHIND_M = -15.0

_CELL_PERIOD = 1024  # cells of one stream after which instance ids come again


@dataclass(frozen=True)
class _Stream:
    """Cells of equal length that move along the road at one speed."""

    kind: str
    mps: float
    across: float
    cell_m: float
    share: float

    @property
    def yaw(self) -> float:
        return 0.0 if self.mps > 0 else np.pi


@dataclass(frozen=True)
class World:
    """One street: its blocks, and the things near the camera at any time."""

    seed: int
    _blocks: dict[int, Block] = field(default_factory=dict, repr=False, compare=False)
    _cells: dict[tuple[int, int], 'Placed | None'] = field(
        default_factory=dict, repr=False, compare=False
    )

    @cached_property
    def style(self) -> Style:
        """The appearance of this street."""
        return draw_style(generator(self.seed, 0))

    @property
    def ego_across(self) -> float:
        """Position of the camera across the road: the centre of the outer right lane."""
        return self.style.lane_m * (self.style.lanes - 0.5)

    def ego_s(self, time_s: float) -> float:
        """Return the position of the camera along the road; its speed varies slightly."""
        return self.style.ego_mps * time_s + 2.5 * float(np.sin(0.35 * time_s))

    def block(self, number: int) -> Block:
        """Return the block that begins at number * BLOCK_M."""
        if number not in self._blocks:
            if len(self._blocks) > 64:
                self._blocks.clear()
            self._blocks[number] = BlockBuilder(self.seed, self.style, number).build()
        return self._blocks[number]

    def blocks(self, ego_s: float) -> list[tuple[float, Block]]:
        """Return the visible blocks and where each begins relative to the camera."""
        first = int((ego_s + _BEHIND_M) // BLOCK_M)
        numbers = range(first, int((ego_s + FAR_M) // BLOCK_M) + 1)
        return [(n * BLOCK_M - ego_s, self.block(n)) for n in numbers]

    def seen(self, time_s: float) -> list[Seen]:
        """Return all things near the camera at a time."""
        ego_s = self.ego_s(time_s)
        things = [(t, begin + t.s) for begin, block in self.blocks(ego_s) for t in block.things]
        for lane, stream in enumerate(self._streams):
            moved = stream.mps * time_s - ego_s
            first = int(np.floor((_BEHIND_M - moved) / stream.cell_m))
            last = int(np.floor((FAR_M - moved) / stream.cell_m))
            cells = [self._cell(lane, cell) for cell in range(first, last + 1)]
            things += [(t, t.s + moved) for t in cells if t is not None]
        return [self._see(t, s, time_s) for t, s in things if _BEHIND_M < s < FAR_M]

    def _see(self, thing: Placed, s: float, time_s: float) -> Seen:
        across, look = thing.across, thing.look
        if thing.crossing is not None:
            across, under_way = thing.crossing.at(time_s)
            if not under_way and isinstance(look, Walker):
                look = replace(look, moving=False)
        view = View(s, across - self.ego_across, thing.yaw + self.style.curvature * s, time_s)
        return Seen(thing, look.shape(view), s, across, thing.yaw)

    @cached_property
    def _streams(self) -> list[_Stream]:
        style = self.style
        streams = [
            _Stream('lead', style.ego_mps, self.ego_across, 30.0, 0.5 if style.traffic else 0.0)
        ]
        for i in range(style.lanes):
            middle = style.lane_m * (i + 0.5)
            speed = style.ego_mps * (1.05 + 0.12 * i)
            if style.tram and i == 0:
                streams.append(_Stream('tram', -speed, -middle, 70.0, 0.5))
            else:
                streams.append(_Stream('drive', -speed, -middle, 24.0, style.traffic))
            if middle < self.ego_across:
                streams.append(_Stream('drive', style.ego_mps * 1.15, middle, 24.0, style.traffic))
        for side, sign in ((0, -1), (1, 1)):
            # Between the things along the kerb and those along the house fronts.
            inner, outer = style.walk(side) + 1.15, style.front(side) - 0.65
            for fraction, way in ((0.2, -sign), (0.8, sign)):
                at = sign * (inner + max(outer - inner, 0) * fraction)
                streams.append(
                    _Stream('walk', way * (1.2 + 0.15 * fraction), at, 5.0, 0.4 * style.people)
                )
            streams.append(
                _Stream(
                    'ride',
                    sign * 4.4,
                    sign * (style.road_half_m - 0.15),
                    28.0,
                    0.12 + 0.3 * style.people,
                )
            )
        return streams

    def _cell(self, lane: int, cell: int) -> Placed | None:
        """Return the thing in one cell of a stream at time 0, or None."""
        if (lane, cell) not in self._cells:
            if len(self._cells) > 4096:
                self._cells.clear()
            self._cells[lane, cell] = self._draw_cell(lane, cell)
        return self._cells[lane, cell]

    def _draw_cell(self, lane: int, cell: int) -> Placed | None:
        stream = self._streams[lane]
        rng = generator(self.seed, 2, lane, cell)
        if rng.random() >= stream.share or (stream.kind == 'lead' and cell < 0):
            return None
        first = 1 + BLOCK_PERIOD * SLOTS + 2 * (lane * _CELL_PERIOD + cell % _CELL_PERIOD)
        s = stream.cell_m * (cell + float(rng.uniform(0.35, 0.65)))
        look: Look
        names: tuple[str, ...]
        if stream.kind == 'walk':
            scale = float(
                rng.uniform(0.6, 0.8) if rng.random() < 0.08 else rng.uniform(0.92, 1.07)
            )
            look = Walker(
                int(rng.choice(people.PERSON_KINDS, p=[0.5, 0.25, 0.15, 0.1])), float(rng.random())
            )
            at = stream.across + float(rng.uniform(-0.2, 0.2))
            names, palette = ('person',), people_palette(rng)
        elif stream.kind == 'ride':
            is_motorcycle = bool(rng.random() < 0.25)
            look = Rider(is_motorcycle, float(rng.random()))
            names = ('motorcycle' if is_motorcycle else 'bicycle', 'rider')
            at, scale, palette = stream.across, 1.0, people_palette(rng)
        else:
            heavy = 0.0 if stream.kind == 'lead' and cell == 0 else 0.12
            look, _, name, palette = draw_vehicle(rng, heavy, rail=stream.kind == 'tram')
            names, scale = (name,), float(rng.uniform(0.97, 1.04))
            at = stream.across + float(rng.uniform(-0.15, 0.15))
        classes = tuple(class_id_of(n) for n in names)
        ids = tuple(first + i for i in range(len(names)))
        return Placed(look, s, at, stream.yaw, classes, ids, palette, scale)

    def backdrop(self, heading: float, half_view: float) -> list[tuple[Seen, float]]:
        """Return houses and trees on the horizon, and their bearings from the camera, radians."""
        step = 0.11
        first = int(np.floor((heading - half_view) / step))
        last = int(np.ceil((heading + half_view) / step))
        return [
            (_distant(self.seed, number, self.style.leaf_rgb), number * step - heading)
            for number in range(first, last + 1)
        ]


@lru_cache(maxsize=512)
def _distant(seed: int, number: int, leaf_rgb: tuple[float, float, float]) -> Seen:
    rng = generator(seed, 3, number)
    if rng.random() < 0.5:
        shape = scenery.treeline(number % 8, int(rng.integers(10, 21)))
        color = np.array(leaf_rgb) * rng.uniform(0.8, 1.1)
        palette, name = np.outer([0.55, 0.8, 1.0], color).astype(np.float32), 'vegetation'
    else:
        shape = scenery.house(
            float(rng.uniform(14, 34)),
            2.0,
            int(rng.integers(4, 9)),
            int(rng.integers(textures.HOUSE_STYLES)),
        )
        palette, name = house_palette(rng), 'building'
    return Seen(
        Placed(Rigid(shape), 0.0, 0.0, 0.0, (class_id_of(name),), (0,), palette),
        shape,
        0.0,
        0.0,
        0.0,
    )
