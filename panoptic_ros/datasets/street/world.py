"""What stands and moves along the synthetic street, as a function of seed, place and time.

The road frame has s along the road and, across it, the distance to the right of its middle
line, metres. Traffic keeps
to the right. Nothing is simulated step by step: what stands still belongs to a block of the road
and is drawn from the block's number; what moves belongs to a cell of a stream that glides along
the road at constant speed and is drawn from the cell's number. So any moment can be asked for.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from panoptic_ros.datasets.street import shapes as shapes
from panoptic_ros.datasets.street import textures as textures
from panoptic_ros.datasets.street.shapes import Shape
from panoptic_ros.labels import LabelSet

FAR_M = 170.0
"""Things farther along the road are not shown; beyond stands the backdrop."""

_BEHIND_M = -15.0

BLOCK_M = 48.0
CROSSING_M = (2.0, 10.0)
"""A side street's carriageway in its block; its own sidewalks lie beside it, 2 m wide."""

_ZEBRA_M = (12.6, 15.8)
_SLOTS = 48  # things that stand still in one block, at most
_BLOCK_PERIOD = 512  # blocks after which instance ids come again: 24 km
_CELL_PERIOD = 1024  # cells of one stream after which instance ids come again
_WALK_MPS = 1.3


@lru_cache(maxsize=1)
def street_labels() -> LabelSet:
    """The label set of the street: Cityscapes, 19 classes."""
    return LabelSet.load('cityscapes')


def generator(seed: int, *key: int) -> np.random.Generator:
    """The random numbers of one part of a scene; ``key`` may hold negative numbers."""
    # A seed sequence takes no negative numbers: fold the sign into the lowest bit.
    return np.random.default_rng((seed, *(2 * k if k >= 0 else -2 * k - 1 for k in key)))


@dataclass(frozen=True)
class Style:
    """What one street looks like; drawn once from its seed. Sides: 0 left, 1 right."""

    curvature: float  # 1/m, above 0 turns right
    lanes: int  # each way
    lane_m: float
    parking: tuple[bool, bool]
    sidewalk_m: tuple[float, float]
    verge_m: tuple[float, float]
    park: float  # share of the road side without houses
    parked: float  # share of the parking places taken
    traffic: float
    people: float
    trees: float
    ego_mps: float
    tram: bool
    quiet: bool  # no moving cars, but people who cross
    cobbled: bool
    dashed: bool
    sun_azimuth: float  # rad, 0 ahead of the camera at s = 0
    sun_elevation: float  # rad
    sun: float  # 0 overcast .. 1 clear
    exposure: float
    contrast: float
    tint: tuple[float, float, float]
    sky_rgb: tuple[float, float, float]
    clouds: float
    blur: float  # pixels
    noise: float  # grey levels
    leaf_rgb: tuple[float, float, float]

    @property
    def road_half_m(self) -> float:
        """From the middle line to the outer edge of the lanes."""
        return self.lanes * self.lane_m

    def kerb(self, side: int) -> float:
        """From the middle line to the kerb."""
        return self.road_half_m + (2.2 if self.parking[side] else 0.35)

    def walk(self, side: int) -> float:
        """From the middle line to where the sidewalk begins."""
        return self.kerb(side) + self.verge_m[side]

    def front(self, side: int) -> float:
        """From the middle line to the house fronts."""
        return self.walk(side) + self.sidewalk_m[side]


def draw_style(rng: np.random.Generator) -> Style:
    """Draw the looks of one street."""

    def uniform(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    def chance(share: float) -> bool:
        return bool(rng.random() < share)

    quiet = chance(0.35)
    gray = uniform(0.86, 1.0)
    blue = uniform(0.0, 0.4) if chance(0.4) else uniform(0.0, 0.08)
    warm = uniform(-0.03, 0.03)
    return Style(
        curvature=0.0 if chance(0.45) else uniform(-1 / 170, 1 / 170),
        lanes=1 if chance(0.65) else 2,
        lane_m=uniform(3.0, 3.7),
        parking=(chance(0.6), chance(0.65)),
        sidewalk_m=(uniform(2.2, 5.0), uniform(2.2, 5.0)),
        verge_m=(uniform(1.0, 3.5) * chance(0.3), uniform(1.0, 3.5) * chance(0.3)),
        park=uniform(0.0, 1.0) ** 1.6,
        parked=uniform(0.1, 0.9),
        traffic=0.0 if quiet else uniform(0.15, 0.75),
        people=uniform(0.0, 1.0) ** 1.3,
        trees=uniform(0.0, 1.0),
        ego_mps=uniform(5.0, 8.0) if quiet else uniform(7.0, 13.0),
        tram=not quiet and chance(0.12),
        quiet=quiet,
        cobbled=chance(0.12),
        dashed=chance(0.7),
        sun_azimuth=uniform(0, 2 * np.pi),
        sun_elevation=uniform(0.45, 1.1),
        sun=uniform(0.4, 1.0) if chance(0.4) else uniform(0.0, 0.15),
        exposure=uniform(0.48, 0.92),
        contrast=uniform(1.0, 1.3),
        tint=(0.94 + warm, uniform(1.02, 1.08), uniform(0.88, 0.97) - warm),
        sky_rgb=(246 * gray * (1 - blue), 250 * gray * (1 - 0.45 * blue), 250 * gray),
        clouds=uniform(0.0, 1.0),
        blur=uniform(0.35, 0.75),
        noise=uniform(0.6, 3.0),
        leaf_rgb=tuple(np.array([78, 94, 56]) * uniform(0.7, 1.25) + rng.uniform(-7, 7, 3)),
    )


class View(NamedTuple):
    """How the camera sees a thing: its place and heading relative to the camera, and the time."""

    s: float
    right: float
    yaw: float
    time_s: float


class Look(Protocol):
    """What chooses a thing's shape from moment to moment."""

    def shape(self, view: View) -> Shape:
        """Return the shape seen so."""


@dataclass(frozen=True, eq=False)
class Rigid:
    """Always the same shape."""

    only: Shape

    def shape(self, view: View) -> Shape:
        """Return the one shape."""
        return self.only


@dataclass(frozen=True)
class Tree:
    """A tree: the farther, the coarser."""

    kind: int

    def shape(self, view: View) -> Shape:
        """Return the tree in the detail its distance asks for."""
        return shapes.tree(self.kind, 0 if view.s < 22 else 1 if view.s < 48 else 2)


@dataclass(frozen=True)
class Lorry:
    """A lorry, whose body hides its cab or the other way round."""

    kind: int

    def shape(self, view: View) -> Shape:
        """Return the lorry with the nearer part painted last."""
        camera_ahead = -view.s * np.cos(view.yaw) - view.right * np.sin(view.yaw)
        return shapes.truck(self.kind, bool(camera_ahead < 2.0))


@dataclass(frozen=True)
class Walker:
    """Somebody on foot; ``phase`` 0..1 of the step at time 0; ``moving`` or standing."""

    kind: int
    phase: float
    moving: bool = True

    def shape(self, view: View) -> Shape:
        """Return the figure at this moment of its step, from this side."""
        beat = int((view.time_s * 0.95 + self.phase) * shapes.PHASES) % shapes.PHASES
        turned = view.yaw - np.arctan2(view.right, view.s)
        profile = round(4 * float(np.sin(turned)))
        away = bool(np.cos(turned) > 0)
        return shapes.person(self.kind, beat if self.moving else -1, profile, away)


@dataclass(frozen=True)
class Rider:
    """Somebody on a bicycle or motorcycle; ``phase`` 0..1 of pedalling at time 0."""

    motor: bool
    phase: float

    def shape(self, view: View) -> Shape:
        """Return rider and vehicle at this moment."""
        beat = int((view.time_s * 1.2 + self.phase) * shapes.PHASES) % shapes.PHASES
        return shapes.two_wheeler(self.motor, True, 0 if self.motor else beat)


@dataclass(frozen=True)
class Crossing:
    """A walk from kerb to kerb that begins at ``start_s``; ``half_m`` is half its length."""

    start_s: float
    half_m: float
    way: int  # 1 to the right, -1 to the left

    def at(self, time_s: float) -> tuple[float, bool]:
        """Return the place across the road at a time, and whether it is still under way."""
        gone = (time_s - self.start_s) * _WALK_MPS
        across = self.way * (min(max(gone, 0.0), 2 * self.half_m) - self.half_m)
        return across, 0 < gone < 2 * self.half_m


@dataclass(frozen=True, eq=False)
class Placed:
    """A thing in the world.

    ``s``, ``across``: its place; ``yaw``: its heading relative to the road; ``classes``, ``ids``:
    class and instance id (0 for stuff) of each part of its shape; ``palette`` float32 [slots, 3].
    """

    look: Look
    s: float
    across: float
    yaw: float
    classes: tuple[int, ...]
    ids: tuple[int, ...]
    palette: np.ndarray
    scale: float = 1.0
    crossing: Crossing | None = None


class Seen(NamedTuple):
    """A thing at a moment: ``s`` is relative to the camera."""

    thing: Placed
    shape: Shape
    s: float
    across: float
    yaw: float


@dataclass(frozen=True, eq=False)
class Block:
    """What stands still on one stretch of the road.

    ``marks`` float32 [n, 5]: rectangles of paint (1) or mended asphalt (its brightness, about 0)
    on the road: s0, s1 relative to the block, from and to across, and which.
    """

    side_street: tuple[bool, bool]
    things: tuple[Placed, ...]
    marks: np.ndarray


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
    """One street: ask for its blocks, and for what is seen from a place at a time."""

    seed: int
    _blocks: dict[int, Block] = field(default_factory=dict, repr=False, compare=False)
    _cells: dict[tuple[int, int], 'Placed | None'] = field(
        default_factory=dict, repr=False, compare=False
    )

    @cached_property
    def style(self) -> Style:
        """The looks of this street."""
        return draw_style(generator(self.seed, 0))

    @property
    def ego_across(self) -> float:
        """The camera's place across the road: the middle of the outer right lane."""
        return self.style.lane_m * (self.style.lanes - 0.5)

    def ego_s(self, time_s: float) -> float:
        """The camera's place along the road; its speed sways a little."""
        return self.style.ego_mps * time_s + 2.5 * float(np.sin(0.35 * time_s))

    def block(self, number: int) -> Block:
        """The stretch that begins at number * BLOCK_M."""
        if number not in self._blocks:
            if len(self._blocks) > 64:
                self._blocks.clear()
            self._blocks[number] = _BlockBuilder(self.seed, self.style, number).build()
        return self._blocks[number]

    def blocks(self, ego_s: float) -> list[tuple[float, Block]]:
        """The stretches in sight and where each begins, relative to the camera."""
        first = int((ego_s + _BEHIND_M) // BLOCK_M)
        numbers = range(first, int((ego_s + FAR_M) // BLOCK_M) + 1)
        return [(n * BLOCK_M - ego_s, self.block(n)) for n in numbers]

    def seen(self, time_s: float) -> list[Seen]:
        """All things near the camera at a time."""
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
            if not under_way:
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
        """Who is in one cell of a stream, at its place at time 0."""
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
        first = 1 + _BLOCK_PERIOD * _SLOTS + 2 * (lane * _CELL_PERIOD + cell % _CELL_PERIOD)
        s = stream.cell_m * (cell + float(rng.uniform(0.35, 0.65)))
        if stream.kind == 'walk':
            scale = float(
                rng.uniform(0.6, 0.8) if rng.random() < 0.08 else rng.uniform(0.92, 1.07)
            )
            look = Walker(
                int(rng.choice(shapes.PERSON_KINDS, p=[0.5, 0.25, 0.15, 0.1])), float(rng.random())
            )
            at = stream.across + float(rng.uniform(-0.2, 0.2))
            names, palette = ('person',), people_palette(rng)
        elif stream.kind == 'ride':
            look = Rider(bool(rng.random() < 0.25), float(rng.random()))
            names = ('motorcycle' if look.motor else 'bicycle', 'rider')
            at, scale, palette = stream.across, 1.0, people_palette(rng)
        else:
            heavy = 0.0 if stream.kind == 'lead' and cell == 0 else 0.12
            look, _, name, palette = _vehicle(rng, heavy, rail=stream.kind == 'tram')
            names, scale = (name,), float(rng.uniform(0.97, 1.04))
            at = stream.across + float(rng.uniform(-0.15, 0.15))
        classes = tuple(_id(n) for n in names)
        ids = tuple(first + i for i in range(len(names)))
        return Placed(look, s, at, stream.yaw, classes, ids, palette, scale)

    def backdrop(self, heading: float, half_view: float) -> list[tuple[Seen, float]]:
        """Houses and trees on the horizon, and the bearing of each from the camera, radians."""
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
        shape = shapes.treeline(number % 8, int(rng.integers(10, 21)))
        color = np.array(leaf_rgb) * rng.uniform(0.8, 1.1)
        palette, name = np.outer([0.55, 0.8, 1.0], color).astype(np.float32), 'vegetation'
    else:
        shape = shapes.house(
            float(rng.uniform(14, 34)),
            2.0,
            int(rng.integers(4, 9)),
            int(rng.integers(textures.HOUSE_STYLES)),
        )
        palette, name = _house_palette(rng), 'building'
    return Seen(
        Placed(Rigid(shape), 0.0, 0.0, 0.0, (_id(name),), (0,), palette), shape, 0.0, 0.0, 0.0
    )


def _id(name: str) -> int:
    return street_labels().class_id(name)


def _pick(rng: np.random.Generator, colors: list[tuple[float, float, float]]) -> np.ndarray:
    return np.array(colors[int(rng.integers(len(colors)))], float)


def _body_rgb(rng: np.random.Generator) -> np.ndarray:
    """Car colours as they are: mostly black, grey, silver and white."""
    if rng.random() < 0.76:
        gray = rng.choice(
            [26, 42, 70, 112, 152, 185, 222], p=[0.2, 0.15, 0.13, 0.14, 0.14, 0.12, 0.12]
        )
        return gray + rng.uniform(-5, 5, 3)
    colors = [
        (105, 18, 18),
        (20, 30, 80),
        (28, 55, 100),
        (35, 58, 40),
        (150, 118, 40),
        (80, 62, 48),
        (60, 90, 110),
        (150, 60, 25),
    ]
    return _pick(rng, colors) + rng.uniform(-12, 12, 3)


def _vehicle(
    rng: np.random.Generator, heavy: float, *, rail: bool = False
) -> tuple[Look, Shape, str, np.ndarray]:
    """Draw a vehicle: its look, its shape for measuring, class and palette.

    ``heavy`` is the share of lorries and buses.
    """
    body, window, light = _body_rgb(rng), rng.uniform(34, 70), rng.uniform(0.8, 1.1)
    box = body
    kind = rng.random()
    if rail or kind < 0.45 * heavy:
        shape, name = shapes.coach(rail), 'train' if rail else 'bus'
        look = Rigid(shape)
        bright = [
            (170, 30, 30),
            (190, 160, 40),
            (200, 200, 196),
            (40, 70, 130),
            (60, 110, 60),
            (210, 205, 180),
        ]
        body = _pick(rng, bright) * rng.uniform(0.6, 1.05)
        box = _pick(rng, bright) * rng.uniform(0.5, 1.0) if rng.random() < 0.5 else body
    elif kind < heavy:
        kind_of_truck = int(rng.integers(shapes.TRUCK_KINDS))
        look, name = Lorry(kind_of_truck), 'truck'
        shape = shapes.truck(kind_of_truck, True)
        body = rng.uniform(40, 210) + rng.uniform(-35, 35, 3)
        box = rng.uniform(60, 215) + rng.uniform(-20, 20, 3)
    else:
        shape = shapes.car(int(rng.choice(shapes.CAR_KINDS, p=[0.2, 0.28, 0.2, 0.13, 0.1, 0.09])))
        look, name = Rigid(shape), 'car'
    palette = np.array(
        [
            body,
            (window, window * 1.08, window * 1.1),
            (24, 24, 25),
            np.full(3, 95 * light),
            (135, 22, 18),
            np.array([205, 205, 195]) * light,
            (178, 178, 170),
            (30, 30, 32),
            box,
        ],
        np.float32,
    )
    return look, shape, name, palette


def people_palette(rng: np.random.Generator) -> np.ndarray:
    """Skin, hair, clothes, and the colours of a two-wheeler."""
    skin = np.array([188, 142, 118]) * rng.uniform(0.4, 1.05)
    hair = np.array([62, 48, 38]) * rng.uniform(0.25, 2.2)

    def cloth() -> np.ndarray:
        if rng.random() < 0.55:
            return rng.uniform(22, 110) + rng.uniform(-6, 6, 3)
        return np.clip(rng.uniform(40, 170) + rng.uniform(-60, 60, 3), 12, 215)

    trousers = np.array([44, 50, 68]) * rng.uniform(0.5, 1.8) if rng.random() < 0.6 else cloth()
    return np.array(
        [
            skin,
            hair,
            cloth(),
            trousers,
            cloth() * 0.45,
            cloth(),
            rng.uniform(20, 120, 3),
            (22, 22, 23),
            np.full(3, rng.uniform(75, 125)),
        ],
        np.float32,
    )


def _house_palette(rng: np.random.Generator) -> np.ndarray:
    """Wall, glass, roof, awning."""
    walls = [
        (150, 142, 128),
        (168, 160, 140),
        (122, 112, 104),
        (112, 78, 64),
        (176, 176, 172),
        (158, 140, 104),
        (98, 98, 100),
        (136, 120, 112),
    ]
    wall = _pick(rng, walls) * rng.uniform(0.75, 1.4) + rng.uniform(-9, 9, 3)
    glass = np.array([42, 48, 52]) * rng.uniform(0.5, 1.4)
    roof = _pick(rng, [(96, 56, 44), (64, 62, 62), (80, 70, 62)]) * rng.uniform(0.7, 1.1)
    awning = wall * 0.85 if rng.random() < 0.6 else rng.uniform(30, 170, 3)
    return np.stack([wall, glass, roof, awning]).astype(np.float32)


class _BlockBuilder:
    """Draws one block: houses, parks, trees, furniture, parked vehicles, standing people."""

    def __init__(self, seed: int, style: Style, number: int) -> None:
        self._rng = generator(seed, 1, number)
        self._style = style
        self._start = number * BLOCK_M
        self._next_id = 1 + (number % _BLOCK_PERIOD) * _SLOTS
        self._last_id = self._next_id + _SLOTS
        self._things: list[Placed] = []

    def build(self) -> Block:
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
        classes = tuple(_id(n) for n in names)
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
        kind = int(self._rng.integers(shapes.TREE_KINDS))
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
                shape = shapes.house(
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
                    _house_palette(self._rng),
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
                shapes.slab(length, thick, height, tile),
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
                    shapes.slab(length, 1.0, self._uniform(3, 7), textures.LEAVES),
                    s + length / 2,
                    sign * (front + 13),
                    ('vegetation',),
                    np.stack([color, color]),
                )
            else:
                style = int(rng.integers(textures.HOUSE_STYLES))
                shape = shapes.house(length * 0.8, 8.0, 3, style, gable=True)
                self._put(
                    shape, s + length / 2, sign * (front + 20), ('building',), _house_palette(rng)
                )

    def _parked(self, side: int, sign: int, begin: float) -> None:
        s = begin + 0.8
        for _ in range(10):
            look, shape, name, palette = _vehicle(self._rng, 0.05)
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
        """Lamps, trees, signs, lights and parked two-wheelers in the strip along the kerb."""
        style = self._style
        at = sign * (style.kerb(side) + 0.55)
        metal = np.full(3, self._uniform(45, 120))
        planted = self._chance(style.trees)
        for i in range(3):
            s = begin + 5 + i * 12 + self._uniform(0, 2)
            if planted and s < BLOCK_M - 2 and self._chance(0.8):
                self._tree(s, at + sign * 0.2, (0.7, 1.2))
            elif self._chance(0.5):
                self._put(shapes.furniture('lamp'), s, at, ('pole',), metal[None])
        for s in (begin + 0.8, begin + 15.5, begin + 28.0):
            if s < BLOCK_M - 2 and self._chance(0.45):
                self._sign(s, at, metal)
        if self._chance(0.12):
            for i in range(6):
                self._put(
                    shapes.furniture('bollard'), begin + 17 + 1.5 * i, at, ('pole',), metal[None]
                )
        if street:
            palette = np.full((7, 3), 26.0)
            palette[0] = metal
            palette[4:] = [(62, 18, 16), (62, 48, 14), (14, 52, 36)]
            palette[6] = (70, 235, 170)
            for s, kind in ((-0.6, 'light'), (12.6, 'back')):
                if self._chance(0.7):
                    self._put(
                        shapes.furniture(kind),
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
            shapes.furniture(kind),
            s,
            across,
            ('pole', 'traffic sign'),
            np.array([metal, edge, middle]),
            scale=self._uniform(0.85, 1.15),
        )

    def _two_wheeler(self, s: float, across: float, yaw: float) -> None:
        motor = self._chance(0.2)
        self._put(
            shapes.two_wheeler(motor, False, 0),
            s,
            across,
            ('motorcycle' if motor else 'bicycle',),
            people_palette(self._rng),
            yaw=yaw,
        )

    def _fronts(self, side: int, sign: int, begin: float) -> None:
        """People and bicycles along the house fronts, each at a place of its own."""
        style = self._style
        places = begin + 1.5 + 2.2 * np.arange(int((BLOCK_M - begin - 3) / 2.2))
        self._rng.shuffle(places)
        people = min(int(self._rng.poisson(2.2 * style.people)), 5)
        bicycles = min(int(self._rng.poisson(0.7)), 3)
        for i, s in enumerate(places[: people + bicycles].tolist()):
            at = sign * (style.front(side) - 0.2)
            if i >= people:
                self._two_wheeler(s, at, self._uniform(-0.1, 0.1))
                continue
            # Some stand together.
            for dx in (0.0, 0.6)[: 1 + self._chance(0.35)]:
                look = Walker(int(self._rng.integers(shapes.PERSON_KINDS)), 0.0, moving=False)
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
        """People who cross before the car comes, on the zebra behind the side street."""
        style = self._style
        width = max(style.kerb(0), style.kerb(1)) + 0.8
        arrival = (self._start + _ZEBRA_M[0]) / style.ego_mps
        for _ in range(int(self._rng.integers(1, 5))):
            way = 1 if self._chance(0.5) else -1
            margin = self._uniform(1.6, 5.0)
            start = arrival - margin - 2 * width / _WALK_MPS
            kind = int(self._rng.integers(shapes.PERSON_KINDS))
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
            edge = abs(i) == style.lanes
            if edge and not style.parking[int(i > 0)]:
                continue
            step = 6.0 if edge or style.dashed or i != 0 else 3.0
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
                at = sorted((sign * (style.walk(side) + 0.3), sign * (style.walk(side) + 2.6)))
                for s in np.arange(*CROSSING_M, 1.0):
                    marks.append((s + 0.25, s + 0.75, at[0], at[1], 1.0))
        return np.array(marks, np.float32)
