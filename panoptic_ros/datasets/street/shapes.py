"""The things of the synthetic street, built of convex polygons.

Every shape stands at the origin of its own frame: x right, y up, z ahead (where it goes), metres.
Billboards are drawn in the plane z = 0 and always turn to the camera.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from panoptic_ros.datasets.street.textures import BRICK, HOUSE, LEAVES, PLAIN, TILES

# Palette slots of vehicles; BOX is the second colour of lorries and buses.
BODY, WINDOW, TYRE, HUB, RED, LAMP, PLATE, TRIM, BOX = range(9)
# Palette slots of people and of what they ride.
SKIN, HAIR, SHIRT, TROUSERS, SHOES, BAG, FRAME, RUBBER, METAL = range(9)
# Palette slots of trees, houses and street furniture.
BARK, LEAF = 0, (1, 2, 3)
WALL, GLASS, ROOF, AWNING = range(4)
POST, SIGN_EDGE, SIGN, CASE, BULB = 0, 1, 2, 3, (4, 5, 6)

_Point = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Shape:
    """Convex polygons in painting order.

    Parameters
    ----------
    points
        float32 [n, 3], polygon after polygon, anticlockwise seen from outside.
    first, count
        int64 [p], where each polygon starts in ``points`` and how many it has.
    centre, normal, radius
        float64 [p, 3], [p, 3], [p]: a polygon's middle, its unit normal and its farthest point
        from the middle.
    paint, paint2
        int64 [p], palette slots of a polygon's first and second colour.
    tile
        int64 [p], the texture.
    part
        int64 [p], which of the object's classes a polygon belongs to.
    billboard
        True if the shape turns to the camera.
    half_width, half_length, overhang, height
        Half the footprint, how far the shape reaches over it sideways, and the height.
    bay_m
        Width of one window axis, for house fronts.
    """

    points: np.ndarray
    first: np.ndarray
    count: np.ndarray
    centre: np.ndarray
    normal: np.ndarray
    radius: np.ndarray
    paint: np.ndarray
    paint2: np.ndarray
    tile: np.ndarray
    part: np.ndarray
    billboard: bool
    half_width: float
    half_length: float
    overhang: float
    height: float
    bay_m: float


class _Builder:
    """Collects polygons and makes a :class:`Shape` of them."""

    def __init__(self) -> None:
        self._polygons: list[np.ndarray] = []
        self._columns: list[tuple[int, int, int, int]] = []

    def add(
        self, points: Sequence, paint: int, part: int = 0, tile: int = PLAIN, paint2: int = -1
    ) -> None:
        self._polygons.append(np.asarray(points, np.float32).reshape(-1, 3))
        self._columns.append((paint, paint if paint2 < 0 else paint2, tile, part))

    def box(
        self,
        x: _Point,
        y: _Point,
        z: _Point,
        paint: int,
        *,
        tile: int = PLAIN,
        paint2: int = -1,
        top: bool = True,
    ) -> None:
        """Four sides and perhaps the top."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        ring = [(x0, z0), (x1, z0), (x1, z1), (x0, z1)]
        for (xa, za), (xb, zb) in zip(ring, ring[1:] + ring[:1], strict=True):
            quad = [(xa, y0, za), (xb, y0, zb), (xb, y1, zb), (xa, y1, za)]
            self.add(quad, paint, tile=tile, paint2=paint2)
        if top:
            self.add([(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)], paint)

    def sweep(
        self, profile: Sequence[tuple[float, float, float]], strips: Sequence[int], side: int
    ) -> None:
        """A profile of (z, y, half width), from the rear over the top to the front, across x."""
        for (za, ya, wa), (zb, yb, wb), paint in zip(
            profile[:-1], profile[1:], strips, strict=True
        ):
            self.add([(-wa, ya, za), (wa, ya, za), (wb, yb, zb), (-wb, yb, zb)], paint)
        self.add([(w, y, z) for z, y, w in profile][::-1], side)
        self.add([(-w, y, z) for z, y, w in profile], side)

    def sides(self, x: float, zy: Sequence[_Point], paint: int, part: int = 0) -> None:
        """One polygon at x and at -x; ``zy`` runs from the rear over the top to the front."""
        self.add([(-x, y, z) for z, y in zy], paint, part)
        self.add([(x, y, z) for z, y in zy][::-1], paint, part)

    def rear(self, z: float, x: _Point, y: _Point, paint: int) -> None:
        self.add([(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)], paint)

    def front(self, z: float, x: _Point, y: _Point, paint: int) -> None:
        self.add([(x[1], y[0], z), (x[0], y[0], z), (x[0], y[1], z), (x[1], y[1], z)], paint)

    def lamps(self, x: _Point, y: _Point, front_z: float, rear_z: float) -> None:
        """Head lamps ahead and red lamps behind, on both sides."""
        for pair in (x, (-x[1], -x[0])):
            self.front(front_z, pair, y, LAMP)
            self.rear(rear_z, pair, y, RED)

    def wheels(self, x: float, z: float, radius: float, y: float | None = None) -> None:
        """A pair of wheels seen from outside at x and -x."""
        turn = np.arange(12) * (np.pi / 6)
        y = radius if y is None else y
        for r, paint in ((radius, TYRE), (0.62 * radius, HUB), (0.2 * radius, TRIM)):
            ring = [
                (z - r * c, y + r * s) for c, s in zip(np.cos(turn), np.sin(turn), strict=True)
            ]
            self.sides(x, ring, paint)
            x *= 1.001

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, paint: int, part: int = 0, n: int = 10
    ) -> None:
        """An ellipse in the plane z = 0."""
        turn = np.arange(n) * (2 * np.pi / n)
        points = np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn), np.zeros(n)], 1)
        self.add(points, paint, part)

    def limb(self, a: _Point, b: _Point, ra: float, rb: float, paint: int, part: int = 0) -> None:
        """A tapered bar with rounded ends in the plane z = 0."""
        around = np.linspace(np.pi / 2, 3 * np.pi / 2, 4) + np.arctan2(b[1] - a[1], b[0] - a[0])
        x, y = np.cos(around), np.sin(around)
        points = np.zeros((8, 3), np.float32)
        points[:4, 0], points[:4, 1] = a[0] + ra * x, a[1] + ra * y
        points[4:, 0], points[4:, 1] = b[0] - rb * x, b[1] - rb * y
        self.add(points, paint, part)

    def slab(self, zy: Sequence[_Point], half: float, paint: int, part: int = 0) -> None:
        """A convex outline in the plane x = 0 with a thickness, in any order of its corners."""
        corners = np.asarray(zy, float)
        out = corners - corners.mean(0)
        ring = corners[np.argsort(-np.arctan2(out[:, 1], out[:, 0]), kind='stable')]
        for (za, ya), (zb, yb) in zip(ring, np.roll(ring, -1, 0), strict=True):
            self.add(
                [(-half, ya, za), (half, ya, za), (half, yb, zb), (-half, yb, zb)], paint, part
            )
        self.sides(half, [tuple(c) for c in ring], paint, part)

    def bar(
        self, a: _Point, b: _Point, thick: float, half: float, paint: int, part: int = 0
    ) -> None:
        """A slab along the line from a to b, in (z, y)."""
        d = np.subtract(b, a)
        n = np.array([-d[1], d[0]]) * (thick / np.hypot(*d))
        self.slab([a + n, b + n, b - n, a - n], half, paint, part)

    def merge(self, other: '_Builder', x: float) -> None:
        """Take over another builder's polygons, moved to the right by x."""
        self._polygons += [p + np.float32([x, 0, 0]) for p in other._polygons]
        self._columns += other._columns

    def shape(
        self,
        *,
        billboard: bool = False,
        half_width: float = 0.0,
        half_length: float = 0.0,
        bay_m: float = 3.0,
    ) -> Shape:
        count = np.array([len(p) for p in self._polygons])
        points = np.concatenate(self._polygons)
        first = np.cumsum(count) - count
        centre = np.add.reduceat(points.astype(float), first) / count[:, None]
        out = points - np.repeat(centre, count, 0)
        following = np.arange(1, len(points) + 1)
        following[first + count - 1] = first
        # Newell's method: right for polygons that are a little warped, too. x is to the right,
        # y up and z ahead, so the order of the product is turned.
        normal = np.add.reduceat(np.cross(out[following], out), first)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        paint, paint2, tile, part = np.array(self._columns, np.int64).T
        half_width = half_width or float(np.abs(points[:, 0]).max())
        return Shape(
            points=points,
            first=first,
            count=count,
            centre=centre,
            normal=normal,
            radius=np.maximum.reduceat(np.linalg.norm(out, axis=1), first),
            paint=paint,
            paint2=paint2,
            tile=tile,
            part=part,
            billboard=billboard,
            half_width=half_width,
            half_length=half_length or float(np.abs(points[:, 2]).max()),
            overhang=max(0.0, float(np.abs(points[:, 0]).max()) - half_width),
            height=float(points[:, 1].max()),
            bay_m=bay_m,
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
    """A car, ``kind`` 0..CAR_KINDS - 1; the last is a van without rear side windows."""
    length, width, height, belt, bonnet, tail, rake, rear_rake, roof_share = _CARS[kind]
    h, w = length / 2, width / 2
    b = _Builder()
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
        """A point of the rear window or windscreen, f up from the belt, x of its width."""
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
    """A lorry with a box body (0), with a long box (1), or a tipper with a low body (2).

    ``from_behind``: the camera is behind the cab, so that the body hides it.
    """
    half, body_top, cab_top = ((3.9, 3.35, 2.7), (5.0, 3.8, 3.1), (3.7, 2.3, 2.8))[kind]
    w = 1.22
    cab_rear = half - 1.9
    b = _Builder()

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
    """A city bus, or a tram of three parts: long boxes with a band of windows."""
    length, width, height = (26.0, 2.4, 3.5) if rail else (11.8, 2.5, 3.05)
    h, w, floor = length / 2, width / 2, 0.3
    b = _Builder()
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


PHASES = 16
"""Pictures in one cycle of walking or pedalling."""

PERSON_KINDS = 4
"""Plain, with a bag, with a coat, with a skirt."""


@lru_cache(maxsize=2048)
def person(kind: int, phase: int, profile: int, away: bool) -> Shape:
    """Somebody 1.75 m tall, a billboard.

    ``phase`` 0..PHASES - 1 of the walk, -1 standing; ``profile`` -4..4: seen from the side,
    walking left (-4) or right (4), or from front or back (0); ``away``: we see the back.
    """
    b = _Builder()
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
    """A bicycle or motorcycle (part 0), perhaps with a rider (part 1), 0 <= ``phase`` < PHASES."""
    b = _Builder()
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


def _rider(b: _Builder, motor: bool, phase: int) -> None:
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


def _leg(b: _Builder, hip: _Point, knee: _Point, foot: _Point, x: float) -> None:
    """One leg of a rider, off the middle plane by x."""
    leg = _Builder()
    leg.bar(hip, knee, 0.08, 0.075, TROUSERS, 1)
    leg.bar(knee, foot, 0.055, 0.06, TROUSERS, 1)
    leg.bar(
        (foot[0] - 0.07, foot[1] - 0.03), (foot[0] + 0.15, foot[1] - 0.03), 0.035, 0.05, SHOES, 1
    )
    b.merge(leg, x)


TREE_KINDS = 10
TREE_CLUMPS = ((7, 4), (3, 2), (2, 0))
"""Clumps of middle and light leaves on each bough of a tree, by detail: near, middling, far."""


@lru_cache(maxsize=len(TREE_CLUMPS) * TREE_KINDS)
def tree(kind: int, detail: int) -> Shape:
    """A street tree 6 to 10 m tall, a billboard: trunk and a crown of clumps, dark to light.

    ``detail`` 0 (near) to 2 (far) chooses how many clumps.
    """
    rng = np.random.default_rng((77, kind))
    b = _Builder()
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
    """A row of distant trees 34 m long, a billboard; slots 0..2 dark to light."""
    rng = np.random.default_rng((78, kind))
    b = _Builder()
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
    """Things on a pole, billboards: part 0 the pole, 1 a sign, 2 a traffic light."""
    b = _Builder()
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
        for i, paint in ((1.0, SIGN_EDGE), (0.72, SIGN)):
            if kind == 'round':
                b.ellipse(0, 2.5, 0.33 * i, 0.33 * i, paint, 1, 12)
            elif kind == 'triangle':
                y = 2.42
                b.add(
                    [
                        (-0.45 * i, y - 0.24 * i, 0),
                        (0.45 * i, y - 0.24 * i, 0),
                        (0, y + 0.52 * i, 0),
                    ],
                    paint,
                    1,
                )
            else:
                w, h = (0.32, 0.32) if kind == 'square' else (0.7, 0.22)
                w, h = w - 0.32 * (1 - i), h - 0.32 * (1 - i) * (h / w)
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
    """A house along the road; ``style`` names its front, ``gable`` gives it a pitched roof.

    ``awning``: over the shops on its left (-1) or right (1) side, or none (0).
    """
    height = 3.05 * floors + 0.3
    x, z = depth / 2, length / 2
    b = _Builder()
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
    """A wall, hedge or fence along the road; slot 0 and, through the gaps, slot 1."""
    b = _Builder()
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
