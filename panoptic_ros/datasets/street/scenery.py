"""The trees, houses, walls and street furniture of the synthetic street."""

from functools import lru_cache

import numpy as np

from panoptic_ros.datasets.street.shape import (
    AWNING,
    BARK,
    BULB,
    CASE,
    GLASS,
    LEAF,
    POST,
    ROOF,
    SIGN,
    SIGN_EDGE,
    WALL,
    Builder,
    Shape,
)
from panoptic_ros.datasets.street.textures import BRICK, HOUSE, LEAVES, TILES

TREE_KINDS = 10

TREE_CLUMPS = ((7, 4), (3, 2), (2, 0))
"""Clumps of medium and light leaves on each bough of a tree, by detail: near, medium, far."""


@lru_cache(maxsize=len(TREE_CLUMPS) * TREE_KINDS)
def tree(kind: int, detail: int) -> Shape:
    """Return a street tree 6 to 10 m tall, a billboard: trunk and a crown of clumps.

    ``detail`` 0 (near) to 2 (far) chooses how many clumps.
    """
    rng = np.random.default_rng((77, kind))
    b = Builder()
    bole, top, reach = rng.uniform(2.0, 3.2), rng.uniform(6.5, 10.0), rng.uniform(1.7, 3.0)
    bend = rng.uniform(-0.25, 0.25)
    fork = (bend, bole + 0.8)
    b.limb((0, 0.05), fork, 0.16, 0.11, BARK)
    for x in (-0.45, 0.1, 0.5):
        b.limb(fork, (bend + x * reach, bole + 0.45 * (top - bole)), 0.08, 0.05, BARK)
    middle, tall = (bole + top) / 2, (top - bole) / 2
    lobes = []
    for i in range(6):
        angle = i * np.pi / 3 + rng.uniform(-0.3, 0.3)
        far = rng.uniform(0.42, 0.62)
        x, y = bend + reach * far * np.cos(angle), middle + tall * far * np.sin(angle)
        lobes.append((x, y, rng.uniform(0.42, 0.6) * reach, rng.uniform(0.42, 0.58) * tall))

    def clump(x: float, y: float, rx: float, ry: float, paint: int, n: int) -> None:
        turn = (np.arange(n) + rng.uniform(-0.3, 0.3, n)) * (2 * np.pi / n)
        far = rng.uniform(0.86, 1.1, n)
        points = np.stack(
            [x + rx * far * np.cos(turn), y + ry * far * np.sin(turn), np.zeros(n)], 1
        )
        b.add(points, paint, tile=LEAVES)

    clump(bend, middle, reach * 0.62, tall * 0.7, LEAF[0], 12)
    for x, y, rx, ry in lobes:
        clump(x, y, rx, ry, LEAF[0], 11)
    enlarge = (1.0, 1.25, 1.5)[detail]
    for level, count in zip((1, 2), TREE_CLUMPS[detail], strict=True):
        for x, y, rx, ry in lobes:
            for _ in range(count):
                angle = rng.uniform(0, 2 * np.pi)
                far = np.sqrt(rng.uniform(0.1, 1.0)) * (1.05 if level == 1 else 0.75)
                size = rng.uniform(0.22, 0.5) * enlarge
                clump(
                    x + rx * far * np.cos(angle) - 0.06 * level * rx,
                    y + ry * far * np.sin(angle) + 0.12 * level * ry,
                    size * rx,
                    size * ry,
                    LEAF[level],
                    8,
                )
    return b.shape(billboard=True, half_width=0.3, half_length=0.15)


@lru_cache(maxsize=128)
def treeline(kind: int, height: int) -> Shape:
    """Return a row of distant trees 34 m long, a billboard; slots 0..2 are dark to light."""
    rng = np.random.default_rng((78, kind))
    b = Builder()
    b.add([(-17, 0, 0), (17, 0, 0), (17, 0.6 * height, 0), (-17, 0.6 * height, 0)], 0, tile=LEAVES)
    for level in range(3):
        for x in np.arange(-16, 17, 4.0):
            r = rng.uniform(2.0, 3.6) - 0.5 * level
            y = (0.62 - 0.14 * level) * height + rng.uniform(-0.1, 0.12) * height
            turn = np.arange(9) * (2 * np.pi / 9)
            far = r * rng.uniform(0.85, 1.15, 9)
            points = [
                x + rng.uniform(-1, 1) + far * np.cos(turn),
                y + 1.2 * far * np.sin(turn),
                0 * turn,
            ]
            b.add(np.stack(points, 1), level, tile=LEAVES)
    return b.shape(billboard=True, half_length=0.15)


@lru_cache(maxsize=16)
def furniture(kind: str) -> Shape:
    """Return street furniture on a pole, a billboard: part 0 pole, 1 sign, 2 traffic light."""
    b = Builder()
    if kind == 'lamp':
        b.limb((0, 0), (0, 7.2), 0.085, 0.05, POST)
        b.limb((0, 7.2), (-1.3, 7.5), 0.04, 0.035, POST)
        b.limb((-1.2, 7.46), (-1.75, 7.52), 0.09, 0.05, POST)
    elif kind == 'bollard':
        b.limb((0, 0.05), (0, 0.9), 0.075, 0.06, POST)
    elif kind in ('light', 'back'):
        b.limb((0, 0), (0, 3.3), 0.065, 0.055, POST)
        b.add([(-0.18, 2.35, 0), (0.18, 2.35, 0), (0.18, 3.4, 0), (-0.18, 3.4, 0)], CASE, 2)
        if kind == 'light':
            for i, bulb in enumerate(BULB):
                b.ellipse(0, 3.21 - 0.33 * i, 0.115, 0.115, bulb, 2, 8)
    else:
        b.limb((0, 0), (0, 2.75), 0.04, 0.035, POST)
        for size, paint in ((1.0, SIGN_EDGE), (0.72, SIGN)):
            if kind == 'round':
                b.ellipse(0, 2.5, 0.33 * size, 0.33 * size, paint, 1, 12)
            elif kind == 'triangle':
                y = 2.42
                b.add(
                    [
                        (-0.45 * size, y - 0.24 * size, 0),
                        (0.45 * size, y - 0.24 * size, 0),
                        (0, y + 0.52 * size, 0),
                    ],
                    paint,
                    1,
                )
            else:
                w, h = (0.32, 0.32) if kind == 'square' else (0.7, 0.22)
                w, h = w - 0.32 * (1 - size), h - 0.32 * (1 - size) * (h / w)
                b.add(
                    [(-w, 2.5 - h, 0), (w, 2.5 - h, 0), (w, 2.5 + h, 0), (-w, 2.5 + h, 0)],
                    paint,
                    1,
                )
    return b.shape(billboard=True, half_width=0.1, half_length=0.1)


def house(
    length: float,
    depth: float,
    floors: int,
    style: int,
    *,
    bay_m: float = 3.0,
    gable: bool = False,
    awning: int = 0,
) -> Shape:
    """Return a house along the road; ``style`` is its front, ``gable`` a pitched roof.

    ``awning``: over the shops on its left (-1) or right (1) side, or none (0).
    """
    height = 3.05 * floors + 0.3
    x, z = depth / 2, length / 2
    b = Builder()
    b.box((-x, x), (0.0, height), (-z, z), WALL, tile=HOUSE + style, paint2=GLASS, top=False)
    eave, top = x + 0.35, height + 0.1
    b.box((-eave, eave), (height - 0.2, top), (-z, z), AWNING)
    if gable:
        ridge = height + 0.75 * x
        for sign in (-1, 1):
            a, c = sign * z, -sign * z
            slope = [(sign * eave, top, c), (sign * eave, top, a), (0, ridge, a), (0, ridge, c)]
            b.add(slope, ROOF, tile=TILES)
            b.add([(sign * x, height, a), (-sign * x, height, a), (0, ridge, a)], WALL)
    if awning:
        near, far = sorted((awning * x, awning * (x + 0.7)))
        b.box((near, far), (2.75, 3.1), (-z * 0.6, z * 0.5), AWNING)
    return b.shape(half_width=x, half_length=z, bay_m=bay_m)


def slab(length: float, depth: float, height: float, tile: int = BRICK) -> Shape:
    """Return a wall, hedge or fence along the road; slot 1 shows through its gaps."""
    b = Builder()
    b.box(
        (-depth / 2, depth / 2), (0.0, height), (-length / 2, length / 2), 0, tile=tile, paint2=1
    )
    if tile == LEAVES:
        rng = np.random.default_rng(int(length * 100))
        for i in range(int(length / 0.8)):
            z, r = -length / 2 + 0.4 + 0.8 * i, rng.uniform(0.25, 0.5)
            ring = [
                (z - r, height - 0.1),
                (z - 0.6 * r, height + 0.6 * r),
                (z, height + 0.8 * r),
                (z + 0.7 * r, height + 0.5 * r),
                (z + r, height - 0.1),
            ]
            for at in (-depth / 2, depth / 2):
                side = [(at, y, zz) for zz, y in ring]
                b.add(side if at < 0 else side[::-1], 0, tile=tile, paint2=1)
    return b.shape()
