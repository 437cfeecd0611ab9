"""The stationary content of the synthetic street, block by block."""

from dataclasses import dataclass

import numpy as np

from panoptic_ros.datasets.street import people, scenery, textures
from panoptic_ros.datasets.street.shape import Shape
from panoptic_ros.datasets.street.style import Style, generator, street_labels
from panoptic_ros.datasets.street.things import (
    WALK_MPS,
    Crossing,
    Look,
    Placed,
    Rigid,
    Tree,
    Walker,
    class_id_of,
    draw_vehicle,
    house_palette,
    people_palette,
)

BLOCK_M = 48.0

CROSSING_M = (2.0, 10.0)
"""Extent of a side street's carriageway in its block; sidewalks of 2 m lie on both sides."""

_ZEBRA_M = (12.6, 15.8)

SLOTS = 48  # things that stand still in one block, at most

BLOCK_PERIOD = 512  # blocks after which instance ids come again: 24 km


@dataclass(frozen=True, eq=False)
class Block:
    """The stationary content of one stretch of the road.

    ``marks`` float32 [n, 5]: rectangles of paint (1) or mended asphalt (its brightness, about 0)
    on the road: s0, s1 relative to the block, from and to across, and which.
    """

    side_street: tuple[bool, bool]
    things: tuple[Placed, ...]
    marks: np.ndarray


class BlockBuilder:
    """Draws one block at random: houses, parks, trees, furniture, vehicles, people."""

    def __init__(self, seed: int, style: Style, number: int) -> None:
        self._rng = generator(seed, 1, number)
        self._style = style
        self._start = number * BLOCK_M
        self._next_id = 1 + (number % BLOCK_PERIOD) * SLOTS
        self._last_id = self._next_id + SLOTS
        self._things: list[Placed] = []

    def build(self) -> Block:
        """Draw the block."""
        streets = (self._chance(0.3), self._chance(0.3))
        zebra = any(streets) and self._chance(0.5)
        for side in (0, 1):
            sign = 2 * side - 1
            begin = 12.0 if streets[side] else 0.0
            self._houses_and_parks(side, sign, begin)
            if self._style.parking[side]:
                self._parked(side, sign, _ZEBRA_M[1] if zebra else begin)
            self._kerbside(side, sign, begin, streets[side])
            self._fronts(side, sign, begin)
        if zebra and self._style.quiet:
            self._crossers()
        return Block(streets, tuple(self._things), self._marks(streets, zebra))

    def _chance(self, share: float) -> bool:
        return bool(self._rng.random() < share)

    def _uniform(self, low: float, high: float) -> float:
        return float(self._rng.uniform(low, high))

    def _put(
        self,
        look: Look | Shape,
        s: float,
        across: float,
        names: tuple[str, ...],
        palette: np.ndarray,
        *,
        yaw: float = 0.0,
        scale: float = 1.0,
        crossing: Crossing | None = None,
    ) -> None:
        if isinstance(look, Shape):
            look = Rigid(look)
        classes = tuple(class_id_of(n) for n in names)
        ids = [0] * len(classes)
        for i, class_id in enumerate(classes):
            if street_labels().is_thing[class_id]:
                if self._next_id == self._last_id:
                    return  # the block is full
                ids[i] = self._next_id
                self._next_id += 1
        self._things.append(
            Placed(
                look,
                s,
                across,
                yaw,
                classes,
                tuple(ids),
                palette.astype(np.float32),
                scale,
                crossing,
            )
        )

    def _tree(self, s: float, across: float, scales: tuple[float, float] = (0.8, 1.6)) -> None:
        green = np.array(self._style.leaf_rgb) * self._uniform(0.8, 1.2) + self._rng.uniform(
            -5, 5, 3
        )
        palette = np.stack([np.array([52, 46, 40]), green * 0.5, green * 0.85, green * 1.2])
        kind = int(self._rng.integers(scenery.TREE_KINDS))
        self._put(Tree(kind), s, across, ('vegetation',), palette, scale=self._uniform(*scales))

    def _houses_and_parks(self, side: int, sign: int, begin: float) -> None:
        front = self._style.front(side)
        s = begin
        while s < BLOCK_M - 3:
            length = min(self._uniform(9, 22), BLOCK_M - s)
            if BLOCK_M - s - length < 6:
                length = BLOCK_M - s
            middle = s + length / 2
            if not self._chance(self._style.park):
                depth = 11.0
                shape = scenery.house(
                    length,
                    depth,
                    2 + int(self._rng.choice(6, p=[0.1, 0.15, 0.25, 0.25, 0.15, 0.1])),
                    int(self._rng.integers(textures.HOUSE_STYLES)),
                    bay_m=self._uniform(2.5, 3.6),
                    gable=self._chance(0.5),
                    awning=-sign if self._chance(0.25) else 0,
                )
                back = self._uniform(0.3, 0.8) if self._chance(0.75) else self._uniform(2.0, 5.0)
                self._put(
                    shape,
                    middle,
                    sign * (front + depth / 2 + back),
                    ('building',),
                    house_palette(self._rng),
                )
            else:
                self._park(s, length, sign, front)
            s += length

    def _park(self, s: float, length: float, sign: int, front: float) -> None:
        rng = self._rng
        border = rng.random()
        if border < 0.75:
            height = float(rng.choice([1.0, 1.4, 1.9, 2.5]))
            if border < 0.22:
                name, tile = 'wall', (textures.BRICK, textures.PLAIN)[int(rng.integers(2))]
                color = self._uniform(55, 125) * np.array([1, 0.96, 0.9])
                thick, palette = 0.3, np.stack([color, color])
            elif border < 0.45:
                name, tile, thick = 'fence', textures.BARS, 0.08
                palette = np.stack([np.full(3, self._uniform(25, 95)), np.array([48, 56, 38])])
            else:
                name, tile, thick = 'vegetation', textures.LEAVES, 1.0
                color = np.array(self._style.leaf_rgb) * self._uniform(0.6, 1.0)
                palette = np.stack([color, color])
            self._put(
                scenery.slab(length, thick, height, tile),
                s + length / 2,
                sign * (front + 0.7),
                (name,),
                palette,
            )
        for _ in range(int(rng.integers(1, 5))):
            self._tree(self._uniform(s, s + length), sign * (front + self._uniform(2.5, 10)))
        if self._chance(0.6):  # a thicket or houses behind
            if self._chance(0.6):
                color = np.array(self._style.leaf_rgb) * self._uniform(0.5, 0.9)
                self._put(
                    scenery.slab(length, 1.0, self._uniform(3, 7), textures.LEAVES),
                    s + length / 2,
                    sign * (front + 13),
                    ('vegetation',),
                    np.stack([color, color]),
                )
            else:
                style = int(rng.integers(textures.HOUSE_STYLES))
                shape = scenery.house(length * 0.8, 8.0, 3, style, gable=True)
                self._put(
                    shape, s + length / 2, sign * (front + 20), ('building',), house_palette(rng)
                )

    def _parked(self, side: int, sign: int, begin: float) -> None:
        s = begin + 0.8
        for _ in range(10):
            look, shape, name, palette = draw_vehicle(self._rng, 0.05)
            length = 2 * shape.half_length + self._uniform(0.5, 1.6)
            if s + length > BLOCK_M - 1.5:
                break
            if self._chance(self._style.parked):
                turned = self._chance(0.08)
                yaw = (0.0 if (sign > 0) != turned else np.pi) + self._uniform(-0.03, 0.03)
                at = sign * (self._style.kerb(side) - 0.15 - shape.half_width)
                self._put(look, s + length / 2, at, (name,), palette, yaw=yaw)
            s += length

    def _kerbside(self, side: int, sign: int, begin: float, street: bool) -> None:
        """Place lamps, trees, signs, traffic lights and parked two-wheelers along the kerb."""
        style = self._style
        at = sign * (style.kerb(side) + 0.55)
        metal = np.full(3, self._uniform(45, 120))
        planted = self._chance(style.trees)
        for i in range(3):
            s = begin + 5 + i * 12 + self._uniform(0, 2)
            if planted and s < BLOCK_M - 2 and self._chance(0.8):
                self._tree(s, at + sign * 0.2, (0.7, 1.2))
            elif self._chance(0.5):
                self._put(scenery.furniture('lamp'), s, at, ('pole',), metal[None])
        for s in (begin + 0.8, begin + 15.5, begin + 28.0):
            if s < BLOCK_M - 2 and self._chance(0.45):
                self._sign(s, at, metal)
        if self._chance(0.12):
            for i in range(6):
                self._put(
                    scenery.furniture('bollard'), begin + 17 + 1.5 * i, at, ('pole',), metal[None]
                )
        if street:
            palette = np.full((7, 3), 26.0)
            palette[0] = metal
            palette[4:] = [(62, 18, 16), (62, 48, 14), (14, 52, 36)]
            palette[6] = (70, 235, 170)
            for s, kind in ((-0.6, 'light'), (12.6, 'back')):
                if self._chance(0.7):
                    self._put(
                        scenery.furniture(kind),
                        s,
                        at,
                        ('pole', 'traffic sign', 'traffic light'),
                        palette,
                    )
        if style.sidewalk_m[side] > 3.2 and self._chance(0.12 + 0.3 * style.people):
            s = begin + 20 + self._uniform(0, 1)
            for i in range(int(self._rng.integers(1, 5))):
                self._two_wheeler(s + 0.8 * i, at + sign * 0.7, self._uniform(1.2, 1.9))

    def _sign(self, s: float, across: float, metal: np.ndarray) -> None:
        kind = ('round', 'triangle', 'square', 'board')[
            int(self._rng.choice(4, p=[0.35, 0.2, 0.3, 0.15]))
        ]
        white, red, blue = (178, 178, 172), (130, 22, 22), (20, 44, 110)
        pairs = {
            'round': [(red, white), (blue, white), (red, blue)],
            'triangle': [(red, white)],
            'square': [(white, blue), (blue, white), (white, (170, 130, 25))],
            'board': [((60, 60, 60), (170, 140, 30)), (white, white), (blue, blue)],
        }[kind]
        edge, middle = pairs[int(self._rng.integers(len(pairs)))]
        if self._chance(0.3):  # seen from behind
            edge = middle = (92, 92, 92)
        self._put(
            scenery.furniture(kind),
            s,
            across,
            ('pole', 'traffic sign'),
            np.array([metal, edge, middle]),
            scale=self._uniform(0.85, 1.15),
        )

    def _two_wheeler(self, s: float, across: float, yaw: float) -> None:
        motor = self._chance(0.2)
        self._put(
            people.two_wheeler(motor, False, 0),
            s,
            across,
            ('motorcycle' if motor else 'bicycle',),
            people_palette(self._rng),
            yaw=yaw,
        )

    def _fronts(self, side: int, sign: int, begin: float) -> None:
        """Place people and bicycles along the house fronts, without overlap."""
        style = self._style
        places = begin + 1.5 + 2.2 * np.arange(int((BLOCK_M - begin - 3) / 2.2))
        self._rng.shuffle(places)
        persons = min(int(self._rng.poisson(2.2 * style.people)), 5)
        bicycles = min(int(self._rng.poisson(0.7)), 3)
        for i, s in enumerate(places[: persons + bicycles].tolist()):
            at = sign * (style.front(side) - 0.2)
            if i >= persons:
                self._two_wheeler(s, at, self._uniform(-0.1, 0.1))
                continue
            # Some stand together.
            for dx in (0.0, 0.6)[: 1 + self._chance(0.35)]:
                look = Walker(int(self._rng.integers(people.PERSON_KINDS)), 0.0, moving=False)
                self._put(
                    look,
                    s + dx,
                    at + self._uniform(-0.15, 0.15),
                    ('person',),
                    people_palette(self._rng),
                    yaw=self._uniform(0, 2 * np.pi),
                    scale=self._uniform(0.9, 1.07),
                )

    def _crossers(self) -> None:
        """Place people on the zebra crossing who finish before the car arrives."""
        style = self._style
        width = max(style.kerb(0), style.kerb(1)) + 0.8
        arrival = (self._start + _ZEBRA_M[0]) / style.ego_mps
        for _ in range(int(self._rng.integers(1, 5))):
            way = 1 if self._chance(0.5) else -1
            margin = self._uniform(1.6, 5.0)
            start = arrival - margin - 2 * width / WALK_MPS
            kind = int(self._rng.integers(people.PERSON_KINDS))
            self._put(
                Walker(kind, self._uniform(0, 1)),
                self._uniform(_ZEBRA_M[0] + 0.3, _ZEBRA_M[1] - 0.3),
                0.0,
                ('person',),
                people_palette(self._rng),
                yaw=way * np.pi / 2,
                scale=self._uniform(0.85, 1.07),
                crossing=Crossing(start, width, way),
            )

    def _marks(self, streets: tuple[bool, bool], zebra: bool) -> np.ndarray:
        style = self._style
        marks: list[tuple[float, float, float, float, float]] = []
        rng = self._rng
        for _ in range(int(rng.poisson(3))):  # mended asphalt
            s, at = self._uniform(0, BLOCK_M), self._uniform(-1, 1) * style.road_half_m
            marks.append(
                (
                    s,
                    s + self._uniform(1, 6),
                    at,
                    at + self._uniform(0.4, 2),
                    self._uniform(-0.25, 0.15),
                )
            )
        for _ in range(2):  # manhole covers
            s, at = self._uniform(0, BLOCK_M), self._uniform(-1, 1) * style.road_half_m
            marks.append((s, s + 0.6, at, at + 0.6, -0.4))
        if style.cobbled:
            return np.array(marks, np.float32)
        begin = (_ZEBRA_M[1] + 0.5 if zebra else CROSSING_M[1] + 1.5) if any(streets) else 0.0
        for i in range(-style.lanes, style.lanes + 1):
            at = i * style.lane_m
            is_edge = abs(i) == style.lanes
            if is_edge and not style.parking[int(i > 0)]:
                continue
            step = 6.0 if is_edge or style.dashed or i != 0 else 3.0
            for s in np.arange(0, BLOCK_M, step):
                if begin <= s:
                    marks.append((s, s + 3.0, at - 0.06, at + 0.06, 1.0))
        if zebra:
            edge = max(style.kerb(0), style.kerb(1)) - 0.3
            for at in np.arange(-edge, edge - 0.4, 1.0):
                marks.append((*_ZEBRA_M, at, at + 0.5, 1.0))
        if streets[1]:
            marks.append((-1.6, -1.2, 0.1, style.road_half_m - 0.1, 1.0))
        for side in (0, 1):
            if streets[side] and self._chance(0.4):
                sign = 2 * side - 1
                near, far = sorted(
                    (sign * (style.walk(side) + 0.3), sign * (style.walk(side) + 2.6))
                )
                for s in np.arange(*CROSSING_M, 1.0):
                    marks.append((s + 0.25, s + 0.75, near, far, 1.0))
        return np.array(marks, np.float32)
