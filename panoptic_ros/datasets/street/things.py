"""The things of the synthetic street: their appearance over time, and their colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from panoptic_ros.datasets.street import people, scenery, vehicles
from panoptic_ros.datasets.street.shape import Shape
from panoptic_ros.datasets.street.style import street_labels

WALK_MPS = 1.3


class View(NamedTuple):
    """The position and heading of a thing relative to the camera, and the time."""

    s: float
    right: float
    yaw: float
    time_s: float


class Look(Protocol):
    """Selects the shape of a thing for a view."""

    def shape(self, view: View) -> Shape:
        """Return the shape for a view."""


@dataclass(frozen=True, eq=False)
class Rigid:
    """A constant shape."""

    only: Shape

    def shape(self, view: View) -> Shape:
        """Return the shape."""
        return self.only


@dataclass(frozen=True)
class Tree:
    """A tree, coarser with distance."""

    kind: int

    def shape(self, view: View) -> Shape:
        """Return the tree in the detail for its distance."""
        return scenery.tree(self.kind, 0 if view.s < 22 else 1 if view.s < 48 else 2)


@dataclass(frozen=True)
class Lorry:
    """A lorry, whose body and cab occlude each other."""

    kind: int

    def shape(self, view: View) -> Shape:
        """Return the lorry with the nearer part painted last."""
        camera_ahead = -view.s * np.cos(view.yaw) - view.right * np.sin(view.yaw)
        return vehicles.truck(self.kind, bool(camera_ahead < 2.0))


@dataclass(frozen=True)
class Walker:
    """A pedestrian; ``phase`` 0..1 of the step at time 0; ``moving`` or standing."""

    kind: int
    phase: float
    moving: bool = True

    def shape(self, view: View) -> Shape:
        """Return the figure in its phase of the step, seen from its side."""
        beat = int((view.time_s * 0.95 + self.phase) * people.PHASES) % people.PHASES
        turned = view.yaw - np.arctan2(view.right, view.s)
        profile = round(4 * float(np.sin(turned)))
        away = bool(np.cos(turned) > 0)
        return people.person(self.kind, beat if self.moving else -1, profile, away)


@dataclass(frozen=True)
class Rider:
    """A rider on a bicycle or motorcycle; ``phase`` 0..1 of pedalling at time 0."""

    motor: bool
    phase: float

    def shape(self, view: View) -> Shape:
        """Return rider and vehicle in their phase."""
        beat = int((view.time_s * 1.2 + self.phase) * people.PHASES) % people.PHASES
        return people.two_wheeler(self.motor, True, 0 if self.motor else beat)


@dataclass(frozen=True)
class Crossing:
    """A walk from kerb to kerb that begins at ``start_s``; ``half_m`` is half its length."""

    start_s: float
    half_m: float
    way: int  # 1 to the right, -1 to the left

    def at(self, time_s: float) -> tuple[float, bool]:
        """Return the position across the road at a time, and whether the walk is in progress."""
        gone = (time_s - self.start_s) * WALK_MPS
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
    """A thing at one time; ``s`` is relative to the camera."""

    thing: Placed
    shape: Shape
    s: float
    across: float
    yaw: float


def class_id_of(name: str) -> int:
    """Return the class id of a name."""
    return street_labels().class_id(name)


def _pick(rng: np.random.Generator, colors: Sequence[tuple[float, float, float]]) -> np.ndarray:
    return np.array(colors[int(rng.integers(len(colors)))], float)


def _body_rgb(rng: np.random.Generator) -> np.ndarray:
    """Draw the colour of a car: mostly black, grey, silver or white."""
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


def draw_vehicle(
    rng: np.random.Generator, heavy: float, *, rail: bool = False
) -> tuple[Look, Shape, str, np.ndarray]:
    """Draw a vehicle; return its look, its shape, class name and palette.

    ``heavy`` is the share of lorries and buses.
    """
    body, window, light = _body_rgb(rng), rng.uniform(34, 70), rng.uniform(0.8, 1.1)
    box = body
    kind = rng.random()
    look: Look
    if rail or kind < 0.45 * heavy:
        shape, name = vehicles.coach(rail), 'train' if rail else 'bus'
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
        kind_of_truck = int(rng.integers(vehicles.TRUCK_KINDS))
        look, name = Lorry(kind_of_truck), 'truck'
        shape = vehicles.truck(kind_of_truck, True)
        body = rng.uniform(40, 210) + rng.uniform(-35, 35, 3)
        box = rng.uniform(60, 215) + rng.uniform(-20, 20, 3)
    else:
        shape = vehicles.car(
            int(rng.choice(vehicles.CAR_KINDS, p=[0.2, 0.28, 0.2, 0.13, 0.1, 0.09]))
        )
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
    """Draw the colours of skin, hair, clothes and a two-wheeler."""
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


def house_palette(rng: np.random.Generator) -> np.ndarray:
    """Draw the colours of wall, glass, roof and awning."""
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
