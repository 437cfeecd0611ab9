"""The cars, lorries, buses and trams of the synthetic street."""

from functools import lru_cache

import numpy as np

from panoptic_ros.datasets.street.shape import (
    BODY,
    BOX,
    LAMP,
    PLATE,
    RED,
    TRIM,
    WINDOW,
    Builder,
    Shape,
)

# Length, width, height, belt line, bonnet, tail (boot), rake of windscreen and of rear window;
# and the width of the roof, of the whole.
_CARS = (
    (4.60, 1.80, 1.44, 0.92, 1.15, 0.70, 0.85, 0.60, 0.74),  # saloon
    (4.05, 1.75, 1.48, 0.95, 0.95, 0.06, 0.75, 0.32, 0.77),  # hatchback
    (4.65, 1.80, 1.48, 0.92, 1.10, 0.10, 0.85, 0.38, 0.76),  # estate
    (4.50, 1.88, 1.68, 1.03, 1.00, 0.08, 0.72, 0.28, 0.80),  # off-roader
    (3.60, 1.62, 1.50, 0.95, 0.70, 0.04, 0.60, 0.22, 0.77),  # city car
    (5.00, 1.95, 2.00, 1.08, 0.75, 0.03, 0.75, 0.10, 0.88),  # van
)

CAR_KINDS = len(_CARS)


@lru_cache(maxsize=CAR_KINDS)
def car(kind: int) -> Shape:
    """Return a car, ``kind`` 0..CAR_KINDS - 1; the last is a van without rear side windows."""
    length, width, height, belt, bonnet, tail, rake, rear_rake, roof_share = _CARS[kind]
    h, w = length / 2, width / 2
    b = Builder()
    b.box((-w * 0.8, w * 0.8), (0.2, 0.3), (-h + 0.3, h - 0.3), TRIM, top=False)
    b.sweep(
        [
            (-h + 0.08, 0.26, w * 0.97),
            (-h, 0.36, w * 0.98),
            (-h, 0.62, w),
            (-h + 0.06, belt - 0.03, w * 0.95),
            (-h + 0.14, belt, w * 0.93),
            (h - bonnet, belt, w * 0.93),
            (h - 0.22, belt - 0.17, w * 0.92),
            (h - 0.03, belt - 0.32, w * 0.95),
            (h, 0.45, w * 0.97),
            (h - 0.08, 0.24, w * 0.95),
        ],
        [TRIM, BODY, BODY, BODY, BODY, BODY, BODY, BODY, TRIM],
        BODY,
    )
    b.sides(
        w * 1.002, [(-h + 0.2, 0.26), (-h + 0.2, 0.34), (h - 0.2, 0.34), (h - 0.2, 0.26)], TRIM
    )
    axles = (-h + 0.18 * length, h - 0.19 * length)
    radius = 0.30 if kind == 4 else 0.33
    for z in axles:
        arch = np.linspace(np.pi, 0, 7)
        ring = [
            (z + 0.39 * c, max(0.2, radius + 0.39 * s))
            for c, s in zip(np.cos(arch), np.sin(arch), strict=True)
        ]
        b.sides(w * 1.003, ring, TRIM)
        b.wheels(w * 1.006, z, radius)
    wide, narrow = w * 0.92, w * roof_share
    z0, z1 = -h + tail, h - bonnet + 0.12
    r0, r1 = z0 + rear_rake, z1 - rake
    roof = height - 0.05
    for sign in (-1, 1):
        mirror = sorted((sign * w * 0.97, sign * w * 1.13))
        b.box((mirror[0], mirror[1]), (belt, belt + 0.14), (z1 - 0.5, z1 - 0.42), BODY)
    b.sweep(
        [
            (z0, belt, wide),
            (r0, roof, narrow),
            (r0 + 0.3, height, narrow * 0.94),
            (r1 - 0.2, height, narrow * 0.94),
            (r1, roof, narrow),
            (z1, belt, wide),
        ],
        [BODY, BODY, BODY, BODY, BODY],
        BODY,
    )

    def on_slope(f: float, x: float, za: float, zb: float, out: float) -> tuple:
        """Return a point of a window: fraction f of the height, fraction x of the half width."""
        return x * (wide + (narrow - wide) * f), belt + f * (roof - belt), za + f * (zb - za) + out

    for za, zb, out, flip in ((z0, r0, -0.006, 1), (z1, r1, 0.006, -1)):
        b.add(
            [
                on_slope(0.08, -0.88 * flip, za, zb, out),
                on_slope(0.08, 0.88 * flip, za, zb, out),
                on_slope(0.94, 0.88 * flip, za, zb, out),
                on_slope(0.94, -0.88 * flip, za, zb, out),
            ],
            WINDOW,
        )
    split = (z0 + z1) / 2 - 0.1
    panes = [
        (z0 + 0.22, r0 + 0.12, split - 0.05, split - 0.05),
        (split + 0.05, split + 0.05, z1 - 0.35, r1 - 0.08),
    ]
    for low0, top0, low1, top1 in panes[1:] if kind == 5 else panes:
        zy = [(low0, 0.06), (top0, 0.9), (top1, 0.9), (low1, 0.06)]
        points = [(wide + (narrow - wide) * f + 0.006, belt + f * (roof - belt), z) for z, f in zy]
        b.add([(-x, y, z) for x, y, z in points], WINDOW)
        b.add(points[::-1], WINDOW)
    b.sides(
        w * 1.003,
        [(split - 0.01, 0.4), (split - 0.01, belt), (split + 0.01, belt), (split + 0.01, 0.4)],
        TRIM,
    )
    e = 0.012
    for sign in (-1, 1):
        outer, inner = sorted((sign * w * 0.93, sign * w * 0.60))
        b.rear(-h - e, (outer, inner), (belt - 0.27, belt - 0.09), RED)
        b.front(h + e, (outer, inner), (0.58, 0.70), LAMP)
    b.rear(-h - e, (-0.26, 0.26), (0.62, 0.73) if tail < 0.5 else (0.5, 0.61), PLATE)
    b.rear(-h - e, (-w * 0.7, w * 0.7), (0.28, 0.38), TRIM)
    b.front(h + e, (-w * 0.5, w * 0.5), (0.54, 0.66), TRIM)
    b.front(h + e, (-w * 0.75, w * 0.75), (0.28, 0.38), TRIM)
    b.front(h + e + 0.01, (-0.26, 0.26), (0.40, 0.50), PLATE)
    return b.shape(half_width=w)


TRUCK_KINDS = 3


@lru_cache(maxsize=2 * TRUCK_KINDS)
def truck(kind: int, from_behind: bool) -> Shape:
    """Return a lorry with a box body (0), with a long box (1), or a tipper (2).

    ``from_behind``: the camera is behind the cab, so that the body hides it.
    """
    half, body_top, cab_top = ((3.9, 3.35, 2.7), (5.0, 3.8, 3.1), (3.7, 2.3, 2.8))[kind]
    w = 1.22
    cab_rear = half - 1.9
    b = Builder()

    def cab() -> None:
        b.box((-w * 0.96, w * 0.96), (0.5, cab_top), (cab_rear, half), BODY)
        b.front(half + 0.01, (-1.08, 1.08), (cab_top - 1.15, cab_top - 0.25), WINDOW)
        b.front(half + 0.01, (-0.85, 0.85), (0.8, 1.3), TRIM)
        b.front(half + 0.01, (-w * 0.9, w * 0.9), (0.45, 0.55), TRIM)
        low, top = cab_top - 1.1, cab_top - 0.3
        window = [
            (cab_rear + 0.5, low),
            (cab_rear + 0.5, top),
            (half - 0.3, top),
            (half - 0.15, low),
        ]
        b.sides(w * 0.965, window, WINDOW)
        b.wheels(w * 1.002, half - 1.1, 0.48)

    if from_behind:
        cab()
    b.box((-w * 0.85, w * 0.85), (0.45, 0.95), (-half + 0.1, half - 0.3), TRIM)
    b.box((-w, w), (0.95, body_top), (-half, cab_rear - 0.2), BOX)
    b.rear(-half - 0.01, (-0.02, 0.02), (1.0, body_top - 0.05), TRIM)
    b.rear(-half - 0.01, (-w, w), (0.8, 0.95), TRIM)
    for z in (-half + 1.3, -half + 2.4) if kind == 1 else (-half + 1.5,):
        b.wheels(w * 1.002, z, 0.48)
    if not from_behind:
        cab()
    b.lamps((0.75, 1.08), (0.58, 0.78), half + 0.02, -half - 0.02)
    b.rear(-half - 0.02, (-0.26, 0.26), (0.6, 0.75), PLATE)
    return b.shape(half_width=w)


@lru_cache(maxsize=4)
def coach(rail: bool) -> Shape:
    """Return a city bus, or a tram of three parts: long boxes with a band of windows."""
    length, width, height = (26.0, 2.4, 3.5) if rail else (11.8, 2.5, 3.05)
    h, w, floor = length / 2, width / 2, 0.3
    b = Builder()
    b.box((-w, w), (floor, height), (-h, h), BODY)
    b.sides(w * 1.001, [(-h, floor), (-h, 1.15), (h, 1.15), (h, floor)], BOX)
    b.sides(w * 1.002, [(-h, floor), (-h, 0.42), (h, 0.42), (h, floor)], TRIM)
    b.sides(w * 1.002, [(-h, 1.2), (-h, height - 0.55), (h, height - 0.55), (h, 1.2)], TRIM)
    count = round(length / 1.6)
    step = (length - 0.4) / count
    for i in range(count):
        z = -h + 0.2 + i * step
        door = i % 4 == 2
        low, high = 0.45 if door else 1.28, height - 0.62
        zy = [(z + 0.05, low), (z + 0.05, high), (z + step - 0.05, high), (z + step - 0.05, low)]
        b.sides(w * 1.003, zy, WINDOW)
    if rail:
        for z in (-h / 3, h / 3):
            zy = [(z - 0.3, floor), (z - 0.3, height), (z + 0.3, height), (z + 0.3, floor)]
            b.sides(w * 1.004, zy, TRIM)
    else:
        for z in (-h * 0.5, h * 0.52):
            b.wheels(w * 1.004, z, 0.48)
    e = 0.01
    b.rear(-h - e, (-w, w), (floor, 1.3), BOX)
    b.rear(-h - e * 2, (-w * 0.85, w * 0.85), (1.7, height - 0.6), WINDOW)
    b.front(h + e, (-w, w), (floor, 1.0), BOX)
    b.front(h + e * 2, (-w * 0.94, w * 0.94), (1.05, height - 0.55), WINDOW)
    b.front(h + e * 2, (-w * 0.6, w * 0.6), (height - 0.45, height - 0.12), TRIM)
    b.front(h + e * 3, (-w * 0.45, w * 0.3), (height - 0.38, height - 0.2), LAMP)
    b.lamps((w * 0.62, w * 0.94), (0.6, 0.82), h + e * 3, -h - e * 3)
    b.rear(-h - e * 3, (-0.26, 0.26), (0.55, 0.68), PLATE)
    return b.shape(half_width=w)
