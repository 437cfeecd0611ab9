"""The pedestrians, bicycles and motorcycles of the synthetic street."""

from functools import lru_cache

import numpy as np

from panoptic_ros.datasets.street.shape import (
    BAG,
    FRAME,
    HAIR,
    METAL,
    RUBBER,
    SHIRT,
    SHOES,
    SKIN,
    TROUSERS,
    Builder,
    Point,
    Shape,
)

PHASES = 16
"""Number of phases in one cycle of walking or pedalling."""

PERSON_KINDS = 4
"""Kinds of people: plain, with a bag, with a coat, with a skirt."""


@lru_cache(maxsize=2048)
def person(kind: int, phase: int, profile: int, away: bool) -> Shape:
    """Return a person 1.75 m tall, a billboard.

    ``phase`` 0..PHASES - 1 of the walk, -1 standing; ``profile`` -4..4: seen from the side,
    walking left (-4) or right (4), or from front or back (0); ``away``: we see the back.
    """
    b = Builder()
    side = profile / 4
    frontal = 1 - abs(side)
    girth = 1 - 0.32 * abs(side)
    turn = phase * 2 * np.pi / PHASES
    swing = 0.48 * np.sin(turn) if phase >= 0 else 0.06
    lift = -np.cos(turn) if phase >= 0 else 0.0
    hip = 0.93
    lean = 0.03 * side

    def leg(sign: int) -> None:
        angle = sign * swing
        bend = angle - 0.75 * max(0.0, lift * sign) * (0.4 + 0.6 * abs(side))
        x = sign * 0.085 * max(frontal, 0.15)
        knee = (x + 0.46 * np.sin(angle) * side, hip - 0.46 * np.cos(angle))
        ankle = (knee[0] + 0.42 * np.sin(bend) * side, knee[1] - 0.42 * np.cos(bend))
        b.limb((x, hip), knee, 0.095, 0.07, TROUSERS)
        b.limb(knee, ankle, 0.068, 0.048, TROUSERS)
        toe = (ankle[0] + 0.13 * side, ankle[1] - 0.03)
        b.limb(ankle, toe if abs(side) > 0.3 else (x, ankle[1] - 0.02), 0.055, 0.045, SHOES)

    def arm(sign: int) -> None:
        angle = -sign * swing * 0.9
        shoulder = (sign * 0.21 * max(frontal, 0.1) * girth + lean, 1.40)
        elbow = (shoulder[0] + 0.28 * np.sin(angle) * side + sign * 0.045 * frontal, 1.13)
        hand = (elbow[0] + 0.26 * np.sin(angle + 0.35 * abs(side)) * side, 0.90)
        b.limb(shoulder, elbow, 0.06, 0.05, SHIRT)
        b.limb(elbow, hand, 0.047, 0.036, SHIRT)
        b.ellipse(*hand, 0.04, 0.055, SKIN, n=6)

    far, near = (-1, 1) if side >= 0 else (1, -1)
    if frontal < 0.8:
        arm(far)
    leg(far)
    leg(near)
    low = {2: 0.62, 3: 0.90}.get(kind, 0.86)
    flare = {2: 0.19, 3: 0.17}.get(kind, 0.155)
    if kind == 3:
        b.add(
            [
                (-0.21 * girth, 0.52, 0),
                (0.21 * girth, 0.52, 0),
                (0.15 * girth, 0.98, 0),
                (-0.15 * girth, 0.98, 0),
            ],
            BAG,
        )
    top = 0.215 * girth
    b.add(
        [
            (-flare * girth, low, 0),
            (flare * girth, low, 0),
            (0.15 * girth, 1.05, 0),
            (top + lean, 1.32, 0),
            (top * 0.8 + lean, 1.44, 0),
            (0.06 + lean, 1.50, 0),
            (-0.06 + lean, 1.50, 0),
            (-top * 0.8 + lean, 1.44, 0),
            (-top + lean, 1.32, 0),
            (-0.15 * girth, 1.05, 0),
        ],
        SHIRT,
    )
    if kind == 1 and (away or abs(side) > 0.2):
        b.ellipse(-0.17 * side, 1.2, 0.13 + 0.03 * frontal, 0.22, BAG)
    arm(near)
    if frontal >= 0.8:
        arm(far)
    if not away and kind == 1 and frontal >= 0.8:
        b.limb((-0.12, 1.45), (0.12, 1.0), 0.015, 0.015, BAG)
    b.limb((lean, 1.46), (lean * 1.5, 1.56), 0.05, 0.05, SKIN)
    b.ellipse(lean * 2, 1.645, 0.092, 0.122, HAIR)
    if not away or abs(side) > 0.4:
        b.ellipse(lean * 2 + 0.035 * side, 1.625, 0.078 - 0.012 * abs(side), 0.098, SKIN)
        b.ellipse(lean * 2 - 0.01 * side, 1.715, 0.085, 0.05, HAIR, n=8)
    return b.shape(billboard=True, half_width=0.3, half_length=0.2)


@lru_cache(maxsize=256)
def two_wheeler(motor: bool, ridden: bool, phase: int) -> Shape:
    """Return a bicycle or motorcycle (part 0), optionally with a rider (part 1)."""
    b = Builder()
    radius, base, half = (0.31, 0.66, 0.075) if motor else (0.345, 0.54, 0.022)
    turn = np.arange(14) * (2 * np.pi / 14)
    circle = np.stack([-np.cos(turn), np.sin(turn)], 1)
    for z in (-base, base):
        hub = np.array([z, radius])
        b.bar((z, 0.01), (z, 2 * radius - 0.01), 0.06, half, RUBBER)
        b.sides(half, [tuple(p) for p in hub + radius * circle], RUBBER)
        b.sides(half * 1.02, [tuple(p) for p in hub + radius * 0.84 * circle], METAL)
        b.sides(half * 1.04, [tuple(p) for p in hub + radius * 0.14 * circle], RUBBER)
    if motor:
        b.slab([(-0.4, 0.35), (0.35, 0.28), (0.45, 0.62), (-0.35, 0.66)], 0.14, METAL)
        b.slab(
            [(-0.72, 0.86), (-0.62, 0.68), (0.05, 0.66), (0.1, 0.80), (-0.3, 0.88)], 0.15, RUBBER
        )
        b.slab([(0.02, 0.68), (0.45, 0.68), (0.42, 0.98), (0.12, 1.0)], 0.17, FRAME)
        b.bar((base, 0.33), (0.42, 1.02), 0.035, 0.11, METAL)
        b.slab([(0.42, 0.78), (0.66, 0.8), (0.6, 1.05), (0.42, 1.15)], 0.16, FRAME)
        b.bar((-0.78, 0.84), (-0.6, 0.9), 0.03, 0.12, FRAME)
        b.bar((0.36, 1.04), (0.32, 1.1), 0.025, 0.36, RUBBER)
    else:
        for a, c, thick in (
            ((-base, radius), (0.0, 0.3), 0.014),
            ((-base, radius), (-0.16, 0.82), 0.012),
            ((0.0, 0.3), (-0.2, 0.95), 0.02),
            ((-0.15, 0.8), (0.4, 0.86), 0.02),
            ((0.0, 0.3), (0.42, 0.78), 0.022),
            ((base, radius), (0.38, 1.0), 0.018),
        ):
            b.bar(a, c, thick, 0.025, FRAME)
        b.bar((-0.33, 0.97), (-0.08, 0.97), 0.03, 0.07, RUBBER)
        b.bar((0.38, 1.0), (0.33, 1.06), 0.018, 0.27, RUBBER)
    if ridden:
        _rider(b, motor, phase)
    return b.shape(half_width=0.32)


def _rider(b: Builder, motor: bool, phase: int) -> None:
    hip, shoulder, grip = (
        ((-0.22, 0.9), (0.1, 1.36), (0.34, 1.08))
        if motor
        else ((-0.2, 0.98), (0.1, 1.45), (0.34, 1.08))
    )
    for sign in (-1, 1):
        angle = phase * 2 * np.pi / PHASES + (np.pi if sign > 0 else 0)
        foot = (0.06, 0.34) if motor else (0.17 * np.sin(angle), 0.32 + 0.17 * np.cos(angle))
        middle = np.add(hip, foot) / 2
        along = np.subtract(foot, hip)
        reach = float(np.hypot(*along))
        out = np.sqrt(max(0.48**2 - (reach / 2) ** 2, 0.01))
        knee = middle + np.array([-along[1], along[0]]) / reach * out
        _leg(b, hip, tuple(knee), foot, sign * (0.16 if motor else 0.11))
    b.bar(hip, shoulder, 0.12, 0.17, SHIRT, 1)
    elbow = (np.add(shoulder, grip) / 2 - (0.0, 0.06)).tolist()
    b.bar(shoulder, tuple(elbow), 0.055, 0.23, SHIRT, 1)
    b.bar(tuple(elbow), grip, 0.045, 0.25, SHIRT, 1)
    b.slab(
        [
            (hip[0] - 0.13, hip[1] - 0.04),
            (hip[0] + 0.12, hip[1] - 0.06),
            (hip[0] + 0.12, hip[1] + 0.1),
            (hip[0] - 0.12, hip[1] + 0.12),
        ],
        0.18,
        TROUSERS,
        1,
    )
    turn = np.arange(8) * (np.pi / 4)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    head = np.array([shoulder[0] + 0.07, shoulder[1] + 0.2])
    b.slab(head + 0.115 * circle, 0.085, HAIR if motor else SKIN, 1)
    b.slab(head + (-0.02, 0.035) + (0.13, 0.11) * circle, 0.098, HAIR, 1)
    if not motor:
        b.slab(head + (0.05, -0.04) + (0.08, 0.07) * circle, 0.07, SKIN, 1)


def _leg(b: Builder, hip: Point, knee: Point, foot: Point, x: float) -> None:
    """Add one leg of a rider at distance x from the middle plane."""
    leg = Builder()
    leg.bar(hip, knee, 0.08, 0.075, TROUSERS, 1)
    leg.bar(knee, foot, 0.055, 0.06, TROUSERS, 1)
    leg.bar(
        (foot[0] - 0.07, foot[1] - 0.03), (foot[0] + 0.15, foot[1] - 0.03), 0.035, 0.05, SHOES, 1
    )
    b.merge(leg, x)
