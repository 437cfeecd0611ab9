"""Street scenes rendered by the program itself: image, depth and exact panoptic truth.

The world is a road of constant curvature that never ends. Everything in it is a closed-form
function of the seed, the place along the road and the time, so any frame can be rendered
without the ones before it. Rendering is deferred: convex polygons are painted far to near into
one map of face numbers, and colour, class, instance and depth are all read from tables through
that one map. So the truth cannot differ from the picture.

Frames: the *road* frame has s along the road from the camera, l to the right of the middle line
and y up. The *camera* frame is the optical frame of REP 103: x right, y down, z forward.
Lengths are metres.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import cv2
import numpy as np

from panoptic_ros.datasets import Sample
from panoptic_ros.errors import DatasetError
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic

_NEAR_M = 0.6
_FAR_M = 170.0
_BLOCK_M = 48.0
_SIDE_STREET_M = 9.0
_SLOTS = 48  # things a block may hold
_BLOCK_PERIOD = 512  # blocks until instance ids come again
_CELL_PERIOD = 1024  # cells of a lane until instance ids come again


@dataclass(frozen=True, eq=False)
class StreetFrame:
    """One rendered camera frame and everything that is known about it.

    Parameters
    ----------
    image_rgb
        uint8 [H, W, 3].
    depth_m
        float32 [H, W], metres along the optical axis, NaN in the sky (REP 118).
    truth
        Class, instance and segments; an object keeps its id, which is also its
        ``segments.track_id``, for as long as it is in the scene.
    stamp_ns
        Time since frame 0, nanoseconds.
    camera_matrix
        float64 [3, 3], pinhole K without distortion; pixel centres are at whole numbers.
    camera_height_m
        Height of the camera above the ground.
    camera_pitch_rad
        Angle of the optical axis below the horizon.
    """

    image_rgb: np.ndarray
    depth_m: np.ndarray
    truth: Panoptic
    stamp_ns: int
    camera_matrix: np.ndarray
    camera_height_m: float
    camera_pitch_rad: float

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.truth.size_wh


# --- shapes: polygons in an object's own frame (x right, y up, z ahead) -------------------------


@dataclass(frozen=True, eq=False)
class _Shape:
    """Convex polygons in painting order.

    ``points`` float32 [n, 3], polygon after polygon, anticlockwise seen from outside; ``first``
    int [p] where each polygon starts; ``paint`` int [p] index into the object's palette;
    ``part`` int [p] index into the object's classes; ``billboard``: always turned to the camera;
    ``facade`` bool [p]: has windows.
    """

    points: np.ndarray
    first: np.ndarray
    paint: np.ndarray
    part: np.ndarray
    facade: np.ndarray
    billboard: bool
    half_width: float
    half_length: float
    height: float


class _Builder:
    """Collects polygons and makes a :class:`_Shape` of them."""

    def __init__(self) -> None:
        self.polygons: list[np.ndarray] = []
        self.paint: list[int] = []
        self.part: list[int] = []
        self.facade: list[bool] = []

    def add(self, points: Sequence, paint: int, part: int = 0, facade: bool = False) -> None:
        self.polygons.append(np.asarray(points, np.float32).reshape(-1, 3))
        self.paint.append(paint)
        self.part.append(part)
        self.facade.append(facade)

    def box(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
        paint: int,
        facade: bool = False,
        part: int = 0,
    ) -> None:
        """Four sides and the top."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        ring = [(x0, z0), (x1, z0), (x1, z1), (x0, z1)]
        for (xa, za), (xb, zb) in zip(ring, ring[1:] + ring[:1], strict=True):
            self.add(
                [(xa, y0, za), (xb, y0, zb), (xb, y1, zb), (xa, y1, za)], paint, part, facade
            )
        self.add([(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)], paint, part)

    def extrude(self, profile: Sequence[tuple[float, float, float]], paints: Sequence[int]) -> None:
        """Sweep a profile of (z, y, half width), rear to front over the top, across x.

        ``paints``: one per strip between two profile points, then one for the two sides.
        """
        for (za, ya, wa), (zb, yb, wb), paint in zip(profile, profile[1:], paints, strict=False):
            self.add([(-wa, ya, za), (wa, ya, za), (wb, yb, zb), (-wb, yb, zb)], paint)
        self.add([(w, y, z) for z, y, w in profile][::-1], paints[-1])
        self.add([(-w, y, z) for z, y, w in profile], paints[-1])

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, paint: int, part: int = 0, n: int = 10
    ) -> None:
        """An ellipse in the plane z = 0."""
        a = np.arange(n) * (2 * np.pi / n)
        self.add(
            np.stack([x + rx * np.cos(a), y + ry * np.sin(a), np.zeros(n)], 1), paint, part
        )

    def wheel(self, x: float, z: float, radius: float, outward: int) -> None:
        a = np.arange(12) * (2 * np.pi / 12) * outward
        for r, paint in ((radius, 2), (0.6 * radius, 3)):
            self.add(
                np.stack(
                    [np.full(12, x), radius + r * np.sin(a), z + r * np.cos(a) * -1], 1
                ),
                paint,
            )

    def side(self, w: float, zy: Sequence[tuple[float, float]], paint: int) -> None:
        """The same polygon on both sides x = -w and x = w; ``zy`` runs rear to front over top."""
        self.add([(-w, y, z) for z, y in zy], paint)
        self.add([(w, y, z) for z, y in zy][::-1], paint)

    def rear(self, z: float, x: tuple[float, float], y: tuple[float, float], paint: int) -> None:
        self.add([(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)], paint)

    def front(self, z: float, x: tuple[float, float], y: tuple[float, float], paint: int) -> None:
        self.add([(x[1], y[0], z), (x[0], y[0], z), (x[0], y[1], z), (x[1], y[1], z)], paint)

    def shape(
        self, billboard: bool = False, half_width: float = 0.0, half_length: float = 0.0
    ) -> _Shape:
        counts = [len(p) for p in self.polygons]
        points = np.concatenate(self.polygons)
        return _Shape(
            points,
            np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64),
            np.array(self.paint),
            np.array(self.part),
            np.array(self.facade),
            billboard,
            half_width or float(np.abs(points[:, 0]).max()),
            half_length or float(np.abs(points[:, 2]).max()),
            float(points[:, 1].max()),
        )


# Palette slots of vehicles.
_BODY, _GLASS, _TYRE, _HUB, _RED, _LAMP, _PLATE, _TRIM = range(8)
_VEHICLE_PALETTE = np.array(
    [
        (120, 120, 120),
        (38, 44, 48),
        (22, 22, 24),
        (95, 97, 100),
        (150, 20, 18),
        (215, 215, 200),
        (200, 200, 190),
        (30, 30, 32),
    ],
    np.float32,
)


@lru_cache(maxsize=64)
def _car(kind: int) -> _Shape:
    """Saloon, hatchback, estate, van-like car or small van."""
    length, width, height, belt, bonnet, tail, screen = (
        (4.5, 1.80, 1.45, 0.92, 1.05, 0.75, 0.75),
        (4.0, 1.74, 1.50, 0.95, 0.85, 0.10, 0.70),
        (4.6, 1.80, 1.50, 0.93, 1.05, 0.15, 0.80),
        (4.4, 1.85, 1.70, 1.02, 0.90, 0.08, 0.75),
        (5.0, 1.95, 2.10, 1.10, 0.60, 0.05, 0.70),
    )[kind]
    h, w = length / 2, width / 2
    b = _Builder()
    lower = [
        (-h + 0.06, 0.24, w),
        (-h, 0.55, w),
        (-h + 0.04, belt - 0.05, w * 0.98),
        (-h + 0.12, belt, w * 0.96),
        (h - bonnet, belt, w * 0.96),
        (h - 0.15, belt - 0.18, w * 0.96),
        (h, 0.60, w),
        (h - 0.05, 0.24, w),
    ]
    b.extrude(lower, [_TRIM, _BODY, _BODY, _BODY, _BODY, _BODY, _TRIM, _BODY])
    b.side(w * 1.001, [(-h + 0.3, 0.24), (-h + 0.3, 0.33), (h - 0.3, 0.33), (h - 0.3, 0.24)], _TRIM)
    for x, outward in ((-w * 1.005, 1), (w * 1.005, -1)):
        for z in (-h + 0.17 * length, h - 0.18 * length):
            b.wheel(x, z, 0.32, outward)
    roof_w = w * 0.78
    z0, z1 = -h + tail, h - bonnet + 0.1
    r0, r1 = z0 + (0.55 if kind == 0 else 0.3), z1 - screen
    cabin = [
        (z0, belt, w * 0.93),
        (r0, height - 0.04, roof_w),
        (r0 + 0.35, height, roof_w),
        (r1 - 0.1, height, roof_w),
        (r1, height - 0.04, roof_w),
        (z1, belt, w * 0.93),
    ]
    b.extrude(cabin, [_GLASS, _BODY, _BODY, _BODY, _GLASS, _BODY])
    if kind == 4:  # blind rear sides
        glass = [(h - bonnet - 1.2, 0.15), (h - bonnet - 1.2, 0.8), (r1, 0.8), (z1 - 0.25, 0.15)]
    else:
        glass = [(z0 + 0.25, 0.12), (r0 + 0.2, 0.8), (r1 - 0.05, 0.8), (z1 - 0.3, 0.12)]
    top, low = height - 0.04, belt

    def slope(f: float) -> float:
        return w * 0.93 + (roof_w - w * 0.93) * f + 0.005

    points = [(slope(f), low + f * (top - low), z) for z, f in glass]
    b.add([(-x, y, z) for x, y, z in points], _GLASS)
    b.add(points[::-1], _GLASS)
    e = -h - 0.01
    b.rear(e, (-w * 0.98, -w * 0.62), (belt - 0.28, belt - 0.06), _RED)
    b.rear(e, (w * 0.62, w * 0.98), (belt - 0.28, belt - 0.06), _RED)
    b.rear(e, (-0.26, 0.26), (belt - 0.3, belt - 0.18), _PLATE)
    e = h + 0.01
    b.front(e, (-w * 0.97, -w * 0.55), (0.58, 0.72), _LAMP)
    b.front(e, (w * 0.55, w * 0.97), (0.58, 0.72), _LAMP)
    b.front(e, (-w * 0.5, w * 0.5), (0.5, 0.68), _TRIM)
    b.front(e + 0.01, (-0.26, 0.26), (0.36, 0.47), _PLATE)
    return b.shape()


@lru_cache(maxsize=8)
def _truck() -> _Shape:
    """A lorry with a box body; slot 8 is the colour of the box."""
    b = _Builder()
    w = 1.2
    b.box((-w * 0.9, w * 0.9), (0.45, 0.9), (-3.8, 3.6), _TRIM)
    b.box((-w, w), (0.9, 3.4), (-3.9, 1.7), 8)
    b.box((-w * 0.97, w * 0.97), (0.45, 2.75), (1.9, 3.9), _BODY)
    b.front(3.91, (-1.05, 1.05), (1.55, 2.45), _GLASS)
    b.front(3.91, (-1.0, 1.0), (0.85, 1.2), _TRIM)
    b.front(3.92, (-1.1, -0.75), (0.6, 0.8), _LAMP)
    b.front(3.92, (0.75, 1.1), (0.6, 0.8), _LAMP)
    b.side(w * 0.98, [(2.5, 1.6), (2.5, 2.4), (3.5, 2.4), (3.7, 1.6)], _GLASS)
    for x, outward in ((-w, 1), (w, -1)):
        for z in (-2.6, 2.9):
            b.wheel(x, z, 0.48, outward)
    b.rear(-3.91, (-1.12, -0.85), (0.55, 0.8), _RED)
    b.rear(-3.91, (0.85, 1.12), (0.55, 0.8), _RED)
    b.rear(-3.92, (-0.26, 0.26), (0.6, 0.75), _PLATE)
    b.rear(-3.92, (-0.02, 0.02), (0.95, 3.35), _TRIM)
    return b.shape()


@lru_cache(maxsize=8)
def _coach(length: float, width: float, height: float, floor: float) -> _Shape:
    """A bus or a tram car: a long box with a band of windows; slot 8 is its lower colour."""
    b = _Builder()
    h, w = length / 2, width / 2
    b.box((-w, w), (floor, height), (-h, h), _BODY)
    b.side(w * 1.002, [(-h, floor), (-h, 1.15), (h, 1.15), (h, floor)], 8)
    n = max(3, int(length / 1.7))
    step = (length - 0.6) / n
    for i in range(n):
        z = -h + 0.3 + i * step
        low = 0.5 if i in (n - 1, n // 2) else 1.3
        b.side(
            w * 1.004,
            [
                (z + 0.06, low),
                (z + 0.06, height - 0.75),
                (z + step - 0.06, height - 0.75),
                (z + step - 0.06, low),
            ],
            _GLASS,
        )
    for x, outward in ((-w * 1.005, 1), (w * 1.005, -1)):
        for z in (-h * 0.55, h * 0.5):
            b.wheel(x, z, 0.48, outward)
    b.rear(-h - 0.01, (-w * 0.85, w * 0.85), (1.6, height - 0.5), _GLASS)
    b.rear(-h - 0.01, (-w * 0.98, -w * 0.8), (0.7, 1.1), _RED)
    b.rear(-h - 0.01, (w * 0.8, w * 0.98), (0.7, 1.1), _RED)
    b.front(h + 0.01, (-w * 0.92, w * 0.92), (1.1, height - 0.55), _GLASS)
    b.front(h + 0.01, (-w * 0.6, w * 0.6), (height - 0.45, height - 0.15), _TRIM)
    b.front(h + 0.01, (-w * 0.95, -w * 0.65), (0.6, 0.8), _LAMP)
    b.front(h + 0.01, (w * 0.65, w * 0.95), (0.6, 0.8), _LAMP)
    return b.shape()


# Palette slots of people.
_SKIN, _HAIR, _SHIRT, _TROUSERS, _SHOES, _BAG = range(6)


def _limb(
    b: _Builder,
    a: tuple[float, float],
    c: tuple[float, float],
    wa: float,
    wc: float,
    paint: int,
    part: int = 0,
) -> None:
    """A tapered bar in the plane z = 0 from a to c."""
    d = np.array(c) - np.array(a)
    n = np.array([-d[1], d[0]]) / max(float(np.hypot(*d)), 1e-6)
    p = [a + n * wa, a - n * wa, c - n * wc, c + n * wc]
    b.add([(q[0], q[1], 0.0) for q in p][::-1], paint, part)


@lru_cache(maxsize=512)
def _person(phase: int, sideways: int, bag: bool) -> _Shape:
    """A walker, 1.75 m; ``phase`` 0..15 of the gait, ``sideways`` -4..4 quarters of a profile."""
    b = _Builder()
    side = sideways / 4
    girth = 1 - 0.35 * abs(side)
    swing = 0.5 * np.sin(phase * np.pi / 8)
    hip = 0.92
    legs = []
    for sign in (-1, 1):
        angle = sign * swing
        x = sign * 0.09 * (1 - abs(side))
        knee = (x + 0.45 * np.sin(angle) * side, hip - 0.45 * np.cos(angle))
        bend = angle - 0.5 * max(0.0, -np.cos(phase * np.pi / 8) * sign)
        ankle = (knee[0] + 0.43 * np.sin(bend) * side, knee[1] - 0.42 * np.cos(bend))
        legs.append((x, knee, ankle))
    for x, knee, ankle in legs:
        _limb(b, (x, hip), knee, 0.095, 0.075, _TROUSERS)
        _limb(b, knee, ankle, 0.075, 0.05, _TROUSERS)
        toe = (ankle[0] + 0.09 * side, max(0.02, ankle[1] - 0.04))
        b.ellipse(toe[0], toe[1], 0.06 + 0.06 * abs(side), 0.05, _SHOES, n=8)
    far_hand = (0.3 * -swing * side + 0.22 * girth * (1 - abs(side)), 0.82)
    _limb(b, (0.2 * girth, 1.4), far_hand, 0.055, 0.04, _SHIRT)
    top = 0.22 * girth
    b.add(
        [(-0.16 * girth, 0.86, 0), (0.16 * girth, 0.86, 0), (top, 1.3, 0), (top * 0.75, 1.47, 0),
         (-top * 0.75, 1.47, 0), (-top, 1.3, 0)],
        _SHIRT,
    )  # fmt: skip
    if bag:
        b.ellipse(-0.2 * np.sign(side) * abs(side), 1.2, 0.13, 0.22, _BAG)
    near_hand = (0.3 * swing * side - 0.24 * girth * (1 - abs(side)), 0.82)
    _limb(b, (-0.2 * girth * (1 - abs(side)), 1.4), near_hand, 0.055, 0.04, _SHIRT)
    b.ellipse(near_hand[0], near_hand[1], 0.045, 0.06, _SKIN, n=6)
    b.ellipse(0, 1.5, 0.05, 0.08, _SKIN, n=6)
    b.ellipse(0.01 * side, 1.64, 0.095, 0.13, _HAIR)
    b.ellipse(0.04 * side, 1.61, 0.075, 0.10, _SKIN)
    return b.shape(billboard=True, half_width=0.3, half_length=0.2)


@lru_cache(maxsize=512)
def _cyclist(phase: int, motor: bool, ridden: bool) -> _Shape:
    """A two-wheeler (part 0), seen in its own plane x = 0 and across, with a rider (part 1)."""
    b = _Builder()
    frame, tyre, metal = 6, 7, 8
    radius = 0.31 if motor else 0.34
    base = 0.68 if motor else 0.54
    a = np.arange(14) * (2 * np.pi / 14)

    def disc(x: float, z: float, y: float, r: float, paint: int, outward: int) -> None:
        b.add(
            np.stack([np.full(14, x), y + r * np.sin(a), z - outward * r * np.cos(a)], 1), paint
        )

    def plate(zy: Sequence[tuple[float, float]], half: float, paint: int, part: int = 0) -> None:
        """A convex slab of the plane x = 0, thick enough to be seen from all sides."""
        centre = np.mean(zy, 0)
        order = np.argsort(
            [-np.arctan2(y - centre[1], z - centre[0]) for z, y in zy], kind='stable'
        )
        ring = [zy[i] for i in order]
        for (za, ya), (zb, yb) in zip(ring, ring[1:] + ring[:1], strict=True):
            b.add(
                [(half, yb, zb), (-half, yb, zb), (-half, ya, za), (half, ya, za)][::-1],
                paint,
                part,
            )
        b.add([(-half, y, z) for z, y in ring], paint, part)
        b.add([(half, y, z) for z, y in ring][::-1], paint, part)

    def bar(p: tuple[float, float], q: tuple[float, float], thick: float, half: float,
            paint: int, part: int = 0) -> None:  # fmt: skip
        d = np.array(q) - np.array(p)
        n = np.array([-d[1], d[0]]) / np.hypot(*d) * thick
        plate([tuple(p + n), tuple(q + n), tuple(q - n), tuple(p - n)], half, paint, part)

    half_tyre = 0.07 if motor else 0.025
    for z in (-base, base):
        bar((z, 0.02), (z, 2 * radius - 0.02), 0.05, half_tyre, tyre)
        for x, outward in ((-half_tyre, 1), (half_tyre, -1)):
            disc(x, z, radius, radius, tyre, outward)
            disc(x * 1.02, z, radius, radius * 0.86, metal, outward)
    if motor:
        plate([(-0.6, 0.75), (-0.45, 0.3), (0.45, 0.3), (0.6, 0.8), (0.2, 0.95)], 0.16, frame)
        plate([(-0.75, 0.85), (-0.3, 0.72), (0.1, 0.8), (-0.3, 0.9)], 0.14, tyre)
        bar((0.66, 0.35), (0.42, 1.05), 0.04, 0.12, metal)
        plate([(0.45, 0.8), (0.62, 0.85), (0.5, 1.15), (0.4, 1.05)], 0.14, frame)
        bar((0.38, 1.05), (0.34, 1.12), 0.03, 0.36, tyre)
    else:
        bar((-base, radius), (0.02, 0.3), 0.018, 0.03, frame)
        bar((0.02, 0.3), (-0.2, 0.95), 0.02, 0.03, frame)
        bar((-0.15, 0.8), (0.4, 0.85), 0.02, 0.03, frame)
        bar((0.02, 0.3), (0.42, 0.75), 0.02, 0.03, frame)
        bar((base, radius), (0.38, 1.02), 0.02, 0.035, frame)
        bar((-0.34, 0.97), (-0.08, 0.97), 0.03, 0.08, tyre)
        bar((0.36, 1.03), (0.34, 1.07), 0.02, 0.27, metal)
    if ridden:
        hip = (-0.2, 0.95) if not motor else (-0.25, 0.92)
        shoulder = (0.08, 1.42)
        for sign in (-1, 1):
            angle = phase * np.pi / 8 + (np.pi if sign > 0 else 0)
            foot = (
                (0.04 + 0.17 * np.sin(angle), 0.3 + 0.17 * np.cos(angle))
                if not motor
                else (0.05, 0.35)
            )
            knee = (hip[0] + 0.36, (hip[1] + foot[1]) / 2 + 0.13)
            bar(hip, knee, 0.085, 0.12, _TROUSERS, 1)
            bar(knee, foot, 0.06, 0.10, _TROUSERS, 1)
            bar((foot[0] - 0.08, foot[1]), (foot[0] + 0.14, foot[1]), 0.035, 0.08, _SHOES, 1)
        bar(hip, shoulder, 0.12, 0.18, _SHIRT, 1)
        bar(shoulder, (0.34, 1.08), 0.05, 0.22, _SHIRT, 1)
        head = np.array([0.14, 1.62])
        plate(
            [tuple(head + 0.12 * np.array([np.cos(t), np.sin(t)])) for t in a[::2]],
            0.085,
            _SKIN,
            1,
        )
        plate(
            [tuple(head + (0, 0.03) + 0.125 * np.array([np.cos(t), np.sin(t)]))
             for t in np.linspace(0, np.pi, 6)],
            0.095,
            _HAIR,
            1,
        )  # fmt: skip
    return b.shape(half_width=0.3)


@lru_cache(maxsize=64)
def _tree(kind: int) -> _Shape:
    """A street tree, about 7 m: trunk and a crown of blobs; slots 0 bark, 1..4 dark to light."""
    rng = np.random.default_rng((77, kind))
    b = _Builder()
    bole = rng.uniform(1.8, 3.0)
    top = rng.uniform(6.0, 9.5)
    reach = rng.uniform(1.6, 2.9)
    _limb(b, (0, 0), (rng.uniform(-0.2, 0.2), bole + 1.5), 0.17, 0.1, 0)
    middle = (bole + top) / 2
    tall = (top - bole) / 2
    blobs = []
    for level in range(4):
        for _ in range(9 - level):
            angle, far = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1)) * (1 - level * 0.08)
            x = reach * far * np.cos(angle) - 0.12 * level
            y = middle + tall * far * np.sin(angle) + 0.16 * level
            blobs.append((x, y, rng.uniform(0.35, 0.75) * (1.1 - 0.2 * level), 1 + level))
    for x, y, r, paint in blobs:
        n = 9
        a = np.sort(rng.uniform(0, 2 * np.pi, n))
        rr = r * rng.uniform(0.85, 1.15, n)
        b.add(np.stack([x + rr * np.cos(a), y + rr * np.sin(a), np.zeros(n)], 1), paint)
    return b.shape(billboard=True, half_length=0.15)


@lru_cache(maxsize=16)
def _pole(kind: str) -> _Shape:
    """Street furniture; part 0 pole, 1 sign, 2 light. Slots 0 metal, 1 and 2 sign, 3.. lamps."""
    b = _Builder()
    if kind == 'lamp':
        _limb(b, (0, 0), (0, 7.0), 0.08, 0.05, 0)
        _limb(b, (0, 7.0), (-1.2, 7.25), 0.05, 0.05, 0)
    elif kind == 'bollard':
        _limb(b, (0, 0), (0, 0.95), 0.07, 0.06, 0)
    elif kind == 'light':
        _limb(b, (0, 0), (0, 3.4), 0.07, 0.06, 0)
        b.add([(-0.17, 2.4, 0), (0.17, 2.4, 0), (0.17, 3.4, 0), (-0.17, 3.4, 0)], 3, 2)
        for i in range(3):
            b.ellipse(0, 3.22 - 0.32 * i, 0.11, 0.11, 4 + i, 2, 8)
    else:
        _limb(b, (0, 0), (0, 2.8), 0.04, 0.04, 0)
        if kind == 'round':
            b.ellipse(0, 2.5, 0.33, 0.33, 1, 1, 12)
            b.ellipse(0, 2.5, 0.23, 0.23, 2, 1, 12)
        elif kind == 'triangle':
            b.add([(-0.42, 2.2, 0), (0.42, 2.2, 0), (0, 2.95, 0)], 1, 1)
            b.add([(-0.27, 2.29, 0), (0.27, 2.29, 0), (0, 2.77, 0)], 2, 1)
        else:
            b.add([(-0.3, 2.2, 0), (0.3, 2.2, 0), (0.3, 2.8, 0), (-0.3, 2.8, 0)], 1, 1)
            b.add([(-0.2, 2.3, 0), (0.2, 2.3, 0), (0.2, 2.7, 0), (-0.2, 2.7, 0)], 2, 1)
    return b.shape(billboard=True, half_length=0.1)


@lru_cache(maxsize=1024)
def _block_shape(length: float, depth: float, height: float, facade: bool) -> _Shape:
    b = _Builder()
    x, z = (-depth / 2, depth / 2), (-length / 2, length / 2)
    b.box(x, (0.0, height), z, 0, facade)
    if facade:
        e = 0.25
        b.box(
            (x[0] - e, x[1] + e), (height - 0.25, height + 0.15), (z[0] + 0.01, z[1] - 0.01), 1
        )
    return b.shape()


@dataclass(frozen=True, eq=False)
class _Placed:
    """A shape in the world: where it stands, what it is called and how it is painted."""

    shape: _Shape
    s: float
    l: float  # noqa: E741
    heading: float
    classes: tuple[int, ...]
    ids: tuple[int, ...]
    palette: np.ndarray
    scale: float = 1.0


_CLASS = {
    name: i
    for i, name in enumerate(
        (
            'road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light',
            'traffic sign', 'vegetation', 'terrain', 'sky', 'person', 'rider', 'car', 'truck',
            'bus', 'train', 'motorcycle', 'bicycle',
        )
    )
}  # fmt: skip


# --- the scene ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Style:
    """What one scene looks like; drawn once from the seed."""

    curvature: float
    lanes: int
    lane_m: float
    parking: tuple[bool, bool]
    sidewalk_m: tuple[float, float]
    verge_m: tuple[float, float]
    park: float
    parked_share: float
    traffic: float
    people: float
    ego_speed: float
    sun_azimuth: float
    sun_elevation: float
    sun: float
    brightness: float
    contrast: float
    tint: tuple[float, float, float]
    sky_top: tuple[float, float, float]
    sky_low: tuple[float, float, float]
    blur: float
    noise: float
    tram: bool
    dashed: bool

    @property
    def road_half(self) -> float:
        return self.lanes * self.lane_m

    def kerb(self, side: int) -> float:
        """Distance of the kerb from the middle line; side 0 left, 1 right."""
        return self.road_half + (2.2 if self.parking[side] else 0.3)

    def front(self, side: int) -> float:
        """Distance of the house fronts from the middle line."""
        return self.kerb(side) + self.verge_m[side] + self.sidewalk_m[side]


def _draw_style(rng: np.random.Generator) -> _Style:
    def uniform(a: float, b: float) -> float:
        return float(rng.uniform(a, b))

    gray = uniform(0.75, 1.0)
    blue = uniform(0.0, 0.35)
    return _Style(
        curvature=0.0 if rng.random() < 0.45 else uniform(-1 / 160, 1 / 160),
        lanes=1 if rng.random() < 0.65 else 2,
        lane_m=uniform(3.0, 3.7),
        parking=(bool(rng.random() < 0.6), bool(rng.random() < 0.7)),
        sidewalk_m=(uniform(1.8, 4.5), uniform(1.8, 4.5)),
        verge_m=tuple(uniform(0.8, 3.0) if rng.random() < 0.3 else 0.0 for _ in range(2)),
        park=uniform(0.0, 0.7),
        parked_share=uniform(0.2, 0.95),
        traffic=uniform(0.1, 0.8),
        people=uniform(0.1, 0.8),
        ego_speed=uniform(5.0, 12.0),
        sun_azimuth=uniform(0, 2 * np.pi),
        sun_elevation=uniform(0.4, 1.1),
        sun=uniform(0.0, 1.0) ** 1.5,
        brightness=uniform(0.42, 0.85),
        contrast=uniform(0.9, 1.15),
        tint=(uniform(0.9, 1.0), uniform(0.98, 1.06), uniform(0.86, 1.0)),
        sky_top=(235 * gray * (1 - blue), 240 * gray * (1 - 0.5 * blue), 250 * gray),
        sky_low=(245 * gray, 250 * gray, 248 * gray),
        blur=uniform(0.35, 0.8),
        noise=uniform(0.5, 3.0),
        tram=bool(rng.random() < 0.08),
        dashed=bool(rng.random() < 0.7),
    )


def _car_color(rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.78:
        return np.full(3, rng.choice([25, 40, 70, 110, 150, 190, 225])) + rng.uniform(-6, 6, 3)
    hue = rng.choice([[120, 22, 20], [24, 36, 95], [30, 62, 110], [40, 70, 45], [170, 130, 40],
                      [90, 70, 55]])  # fmt: skip
    return hue + rng.uniform(-15, 15, 3)


def _vehicle_palette(rng: np.random.Generator, *extra: np.ndarray) -> np.ndarray:
    palette = np.concatenate([_VEHICLE_PALETTE, *(np.reshape(e, (1, 3)) for e in extra)])
    palette[_BODY] = _car_color(rng)
    return palette.astype(np.float32)


def _people_palette(rng: np.random.Generator) -> np.ndarray:
    skin = np.array([200, 150, 125]) * rng.uniform(0.4, 1.05)
    hair = np.array([60, 45, 35]) * rng.uniform(0.2, 2.0)

    def cloth() -> np.ndarray:
        if rng.random() < 0.5:
            return np.full(3, rng.uniform(18, 90)) + rng.uniform(-8, 8, 3)
        return rng.uniform(25, 200, 3)

    trousers = np.array([40, 45, 65]) * rng.uniform(0.5, 1.8) if rng.random() < 0.6 else cloth()
    frame = rng.uniform(20, 140, 3)
    return np.array(
        [skin, hair, cloth(), trousers, cloth() * 0.5, cloth(), frame, (24, 24, 24),
         (85, 88, 88)],
        np.float32,
    )  # fmt: skip


def _vehicle(
    rng: np.random.Generator, s: float, l: float, heading: float, thing_id: int,  # noqa: E741
    heavy: float = 0.1, tram: bool = False,
) -> _Placed:  # fmt: skip
    kind = rng.random()
    if tram:
        shape, name = _coach(24.0, 2.4, 3.5, 0.35), 'train'
        palette = _vehicle_palette(rng, _car_color(rng))
    elif kind < heavy * 0.5:
        shape, name = _truck(), 'truck'
        palette = _vehicle_palette(rng, rng.uniform(90, 225, 3))
    elif kind < heavy:
        shape, name = _coach(11.5, 2.5, 3.1, 0.3), 'bus'
        color = rng.uniform(40, 220, 3)
        palette = _vehicle_palette(rng, color * 0.8)
        palette[_BODY] = color
    else:
        shape, name = _car(int(rng.choice(5, p=[0.25, 0.3, 0.22, 0.13, 0.1]))), 'car'
        palette = _vehicle_palette(rng)
    scale = float(rng.uniform(0.96, 1.05))
    return _Placed(shape, s, l, heading, (_CLASS[name],), (thing_id,), palette, scale)


@dataclass(frozen=True, eq=False)
class _Block:
    """What stands still along one stretch of the road."""

    side_street: tuple[bool, bool]
    objects: tuple[_Placed, ...]


def _rng(seed: int, *key: int) -> np.random.Generator:
    # A seed sequence takes no negative numbers; fold the sign into the lowest bit.
    return np.random.default_rng((seed, *(2 * k if k >= 0 else -2 * k - 1 for k in key)))


class _World:
    """Everything that stands or moves along the road, as a function of place and time."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.style = _draw_style(_rng(seed, 0))
        self._blocks: dict[int, _Block] = {}
        self._cells: dict[tuple[int, int], tuple[_Placed, ...]] = {}

    def ego(self, time_s: float) -> tuple[float, float]:
        """Place of the camera along and across the road."""
        style = self.style
        return style.ego_speed * time_s, style.lane_m * (style.lanes - 0.5)

    def objects(self, ego_s: float, time_s: float) -> list[_Placed]:
        """All objects in sight, with s relative to the camera."""
        found = []
        for number in range(int((ego_s - 10) // _BLOCK_M), int((ego_s + _FAR_M) // _BLOCK_M) + 1):
            found += [replace(o, s=o.s - ego_s) for o in self.block(number).objects]
        for lane, (speed, at_l, heading, cell_m, kind) in enumerate(self._lanes):
            moved = speed * time_s
            low = int((ego_s - 20 - moved) // cell_m)
            high = int((ego_s + _FAR_M - moved) // cell_m)
            for cell in range(low, high + 1):
                for o in self._cell(lane, cell, at_l, heading, cell_m, kind):
                    o = replace(o, s=o.s + moved - ego_s)
                    if kind in ('walk', 'ride'):
                        o = replace(o, shape=self._gait(o, kind, time_s))
                    found.append(o)
        return [o for o in found if -20 < o.s < _FAR_M]

    @cached_property
    def _lanes(self) -> list[tuple[float, float, float, float, str]]:
        """Streams of traffic: speed, lateral place, heading, cell length, kind."""
        style = self.style
        lanes = []
        ego_lane = style.lane_m * (style.lanes - 0.5)
        lanes.append((style.ego_speed, ego_lane, 0.0, 34.0, 'lead'))
        for i in range(style.lanes):
            middle = style.lane_m * (i + 0.5)
            kind = 'tram' if style.tram and i == 0 else 'drive'
            lanes.append((-style.ego_speed * (1.0 + 0.1 * i), -middle, np.pi, 26.0, kind))
            if middle < ego_lane:
                lanes.append((style.ego_speed * 1.15, middle, 0.0, 24.0, 'drive'))
        for side, sign in ((0, -1), (1, 1)):
            edge = style.kerb(side) + style.verge_m[side]
            width = style.sidewalk_m[side]
            for fraction, direction in ((0.3, 1), (0.7, -1)):
                speed = direction * (1.25 + 0.2 * fraction)
                heading = 0.0 if direction > 0 else np.pi
                lanes.append((speed, sign * (edge + width * fraction), heading, 7.0, 'walk'))
        near = style.road_half + 0.1 - 0.45
        lanes.append((4.5, near, 0.0, 30.0, 'ride'))
        lanes.append((-4.2, -near, np.pi, 34.0, 'ride'))
        return lanes

    def _cell(
        self, lane: int, cell: int, at_l: float, heading: float, cell_m: float, kind: str
    ) -> tuple[_Placed, ...]:
        """The occupants of one cell of a stream, at its place at time 0."""
        if (lane, cell) in self._cells:
            return self._cells[lane, cell]
        rng = _rng(self.seed, 2, lane, cell)
        style = self.style
        first_id = 1 + _BLOCK_PERIOD * _SLOTS + (lane * _CELL_PERIOD + cell % _CELL_PERIOD) * 2
        s = cell_m * (cell + float(rng.uniform(0.35, 0.65)))
        share = {'lead': 0.5 * style.traffic + 0.1, 'drive': style.traffic,
                 'tram': 0.25, 'walk': 0.45 * style.people, 'ride': 0.35 * style.people}[kind]  # fmt: skip
        placed: tuple[_Placed, ...] = ()
        if rng.random() < share and not (kind == 'lead' and cell < 0.2):
            if kind in ('lead', 'drive', 'tram'):
                placed = (_vehicle(rng, s, at_l, heading, first_id, 0.1, kind == 'tram'),)
            elif kind == 'walk':
                placed = (
                    _Placed(
                        _person(0, 0, bool(rng.random() < 0.3)), s,
                        at_l + float(rng.uniform(-0.25, 0.25)), heading, (_CLASS['person'],),
                        (first_id,), _people_palette(rng), float(rng.uniform(0.88, 1.08)),
                    ),
                )  # fmt: skip
            else:
                motor = bool(rng.random() < 0.3)
                vehicle = _CLASS['motorcycle' if motor else 'bicycle']
                placed = (
                    _Placed(
                        _cyclist(0, motor, True), s, at_l, heading, (vehicle, _CLASS['rider']),
                        (first_id, first_id + 1), _people_palette(rng), 1.0,
                    ),
                )  # fmt: skip
        if len(self._cells) > 4096:
            self._cells.clear()
        self._cells[lane, cell] = placed
        return placed

    def _gait(self, o: _Placed, kind: str, time_s: float) -> _Shape:
        offset = o.ids[0] * 5
        if kind == 'ride':
            motor = o.classes[0] == _CLASS['motorcycle']
            return _cyclist(0 if motor else int(time_s * 16 * 1.2 + offset) % 16, motor, True)
        return _person(
            int(time_s * 16 * 0.95 + offset) % 16, 0, bool(o.ids[0] // 2 % 3 == 0)
        )

    def block(self, number: int) -> _Block:
        """What stands on the stretch number * _BLOCK_M and on, built on first use."""
        if number not in self._blocks:
            if len(self._blocks) > 64:
                self._blocks.clear()
            self._blocks[number] = self._build_block(number)
        return self._blocks[number]

    def _build_block(self, number: int) -> _Block:
        rng = _rng(self.seed, 1, number)
        style = self.style
        start = number * _BLOCK_M
        objects: list[_Placed] = []
        slot = iter(range(_SLOTS))
        base = 1 + (number % _BLOCK_PERIOD) * _SLOTS
        streets = (bool(rng.random() < 0.3), bool(rng.random() < 0.3))

        def put(shape: _Shape, s: float, at_l: float, names: tuple[str, ...],
                palette: np.ndarray, heading: float = 0.0, scale: float = 1.0) -> None:  # fmt: skip
            classes = tuple(_CLASS[n] for n in names)
            ids = tuple(
                base + next(slot) if n in _THINGS else 0 for n in names
            )
            objects.append(_Placed(shape, s, at_l, heading, classes, ids, palette, scale))

        for side, sign in ((0, -1), (1, 1)):
            begin = start + (_SIDE_STREET_M if streets[side] else 0.0)
            end = start + _BLOCK_M
            front, kerb = style.front(side), style.kerb(side)
            # Houses, or a park with trees behind a hedge, wall or fence.
            s = begin
            while s < end - 3:
                length = min(float(rng.uniform(9, 22)), end - s)
                if end - s - length < 5:
                    length = end - s
                middle = s + length / 2
                if rng.random() > style.park:
                    height = float(rng.choice([7.0, 10.0, 13.0, 16.0, 19.0]))
                    color = np.array([150, 145, 135]) * rng.uniform(0.35, 1.3) + rng.uniform(
                        -28, 28, 3
                    )
                    put(_block_shape(round(length, 2), 10.0, height, True), middle,
                        sign * (front + 5.3 + float(rng.uniform(0, 0.6))), ('building',),
                        np.array([color, color * 0.8], np.float32))  # fmt: skip
                else:
                    kind = rng.random()
                    if kind < 0.7:
                        name = ('wall', 'fence', 'vegetation')[int(rng.integers(3))]
                        color = {'wall': rng.uniform(70, 140) * np.array([1, 0.97, 0.92]),
                                 'fence': rng.uniform(35, 110) * np.array([1, 1, 0.97]),
                                 'vegetation': np.array([62, 78, 45]) * rng.uniform(0.6, 1.2)}[name]
                        put(_block_shape(round(length, 2), 0.3 if name != 'vegetation' else 1.0,
                                         float(rng.choice([1.2, 1.6, 2.2])), False), middle,
                            sign * (front + 0.6), (name,), np.array([color], np.float32))  # fmt: skip
                    for _ in range(int(rng.integers(2, 6))):
                        self._put_tree(put, rng, float(rng.uniform(s, s + length)),
                                       sign * (front + float(rng.uniform(2.5, 9))))  # fmt: skip
                s += length
            # Parked vehicles.
            if style.parking[side]:
                s = begin + 3.5
                while s < end - 4:
                    if rng.random() < style.parked_share:
                        o = _vehicle(rng, s, sign * (kerb - 1.15), 0.0 if sign > 0 else np.pi,
                                     base + next(slot), 0.04)  # fmt: skip
                        half = o.shape.half_length
                        s += half
                        objects.append(replace(o, s=s - 0.2))
                        s += half
                    else:
                        s += 4
                    s += float(rng.uniform(0.5, 1.6))
            # Trees, lamps, signs and parked two-wheelers along the kerb.
            trees = rng.random() < 0.5
            for i in range(3):
                s = begin + 4 + i * 13 + float(rng.uniform(0, 3))
                if trees and rng.random() < 0.8:
                    self._put_tree(put, rng, s, sign * (kerb + 0.7))
            put(_pole('lamp'), begin + 9.5, sign * (kerb + 0.5), ('pole',),
                np.full((1, 3), 75, np.float32))  # fmt: skip
            for s in (begin + 1.2, begin + 20, begin + 33):
                if rng.random() < 0.45:
                    kind = ('round', 'triangle', 'square')[int(rng.integers(3))]
                    colors = [((160, 25, 25), (200, 200, 195)), ((20, 50, 130), (200, 200, 200)),
                              ((185, 150, 30), (60, 60, 60))][int(rng.integers(3))]  # fmt: skip
                    put(_pole(kind), s, sign * (kerb + 0.45), ('pole', 'traffic sign'),
                        np.array([(90, 92, 92), *colors], np.float32),
                        scale=float(rng.uniform(0.85, 1.1)))  # fmt: skip
            if streets[side]:
                lit = int(rng.choice([0, 2]))
                lamps = np.array([(70, 20, 18), (70, 55, 15), (15, 60, 40)], np.float32)
                lamps[lit] = [(255, 50, 40), (0, 0, 0), (60, 240, 170)][lit]
                put(_pole('light'), start - 1.0, sign * (kerb + 0.4),
                    ('pole', 'traffic sign', 'traffic light'),
                    np.concatenate([np.full((4, 3), 34, np.float32), lamps]))  # fmt: skip
            if rng.random() < 0.35 * style.people + 0.1:
                s = begin + float(rng.uniform(12, 30))
                for i in range(int(rng.integers(1, 5))):
                    motor = bool(rng.random() < 0.2)
                    put(_cyclist(0, motor, False), s + 0.9 * i, sign * (kerb + 1.1),
                        ('motorcycle' if motor else 'bicycle',), _people_palette(rng),
                        heading=float(rng.uniform(1.2, 1.9)))  # fmt: skip
            for _ in range(int(rng.poisson(1.2 * style.people))):
                put(_person(int(rng.integers(16)) // 8 * 8, int(rng.integers(-3, 4)), False),
                    begin + float(rng.uniform(1, 36)),
                    sign * (front - float(rng.uniform(0.4, 1.0))), ('person',),
                    _people_palette(rng), scale=float(rng.uniform(0.9, 1.08)))  # fmt: skip
        return _Block(streets, tuple(objects))

    @staticmethod
    def _put_tree(put, rng: np.random.Generator, s: float, at_l: float) -> None:  # noqa: ANN001
        green = np.array([70, 84, 50]) * rng.uniform(0.6, 1.15) + rng.uniform(-8, 8, 3)
        palette = np.array(
            [(58, 50, 42), green * 0.55, green * 0.8, green, green * 1.25], np.float32
        )
        put(_tree(int(rng.integers(12))), s, at_l, ('vegetation',), palette,
            scale=float(rng.uniform(0.75, 1.3)))  # fmt: skip


_THINGS = frozenset(
    {'person', 'rider', 'car', 'truck', 'bus', 'train', 'motorcycle', 'bicycle'}
)


def _painting_order(low: np.ndarray, high: np.ndarray) -> list[int]:
    """Order of the objects, hidden ones first.

    ``low`` and ``high``, float [n, 2]: footprints in (s, l) relative to the camera. Disjoint
    convex footprints always have such an order in less than half a turn of view; where
    footprints overlap, the farther middle goes first.
    """
    count = len(low)
    near_s = np.maximum(low[:, 0], _NEAR_M)
    far_s = np.maximum(high[:, 0], _NEAR_M)
    left = np.minimum(low[:, 1] / near_s, low[:, 1] / far_s)
    right = np.maximum(high[:, 1] / near_s, high[:, 1] / far_s)
    meet = (left[:, None] < right[None, :]) & (left[None, :] < right[:, None])
    beyond = low[:, None, 0] >= high[None, :, 0]
    apart_s = beyond | beyond.T
    to_right = low[:, None, 1] >= high[None, :, 1]
    outside = (to_right & (low[:, None, 1] >= 0)) | (to_right.T & (high[:, None, 1] <= 0))
    apart_l = to_right | to_right.T
    middle = (low[:, 0] + high[:, 0]) / 2
    behind = np.where(
        apart_s, beyond, np.where(apart_l, outside, middle[:, None] > middle[None, :])
    )
    behind &= meet
    np.fill_diagonal(behind, False)
    waiting_for = behind.sum(0)
    todo = np.ones(count, bool)
    by_distance = np.argsort(-middle, kind='stable')
    order = []
    for _ in range(count):
        free = by_distance[(todo & (waiting_for == 0))[by_distance]]
        chosen = int(free[0]) if len(free) else int(by_distance[todo[by_distance]][0])
        todo[chosen] = False
        order.append(chosen)
        waiting_for = waiting_for - behind[chosen]
    return order


def _noise_tile(rng: np.random.Generator, size: int, scales: Sequence[float]) -> np.ndarray:
    """Repeating noise, float32 [size, size], mean 0, standard deviation 1."""
    total = np.zeros((size, size), np.float32)
    white = rng.standard_normal((size, size)).astype(np.float32)
    for sigma in scales:
        layer = white
        if sigma > 0:
            edge = int(4 * sigma) + 1
            wrapped = cv2.copyMakeBorder(white, edge, edge, edge, edge, cv2.BORDER_WRAP)
            layer = cv2.GaussianBlur(wrapped, (0, 0), sigma)[edge:-edge, edge:-edge]
        total += layer / layer.std()
        white = np.rot90(white).copy()
    return total / total.std()


_GROUND = ('road', 'sidewalk', 'sidewalk', 'terrain', 'terrain')
_ROAD, _KERB, _WALK, _VERGE, _YARD = range(1, 6)  # face numbers of the ground
_FIRST_FACE = 6  # face 0 is the sky


class SyntheticStreet:
    """An endless drive through one synthetic street, random access by frame number.

    Parameters
    ----------
    seed
        0 or more; the same seed gives the same bytes.
    size_wh
        Width and height of the image in pixels, each at least 32.
    frame_rate_hz
        Frames a second of scene time.
    horizontal_fov_deg
        Horizontal field of view; the default is that of the Cityscapes camera.
    camera_height_m, camera_pitch_rad
        Height above the ground, and how far below the horizon the camera looks.

    Raises
    ------
    DatasetError
        If a parameter is out of its range.
    """

    def __init__(
        self,
        seed: int,
        size_wh: tuple[int, int] = (640, 320),
        frame_rate_hz: float = 10.0,
        *,
        horizontal_fov_deg: float = 48.7,
        camera_height_m: float = 1.3,
        camera_pitch_rad: float = 0.035,
    ) -> None:
        _check(seed, size_wh, frame_rate_hz, horizontal_fov_deg, camera_height_m, camera_pitch_rad)
        self.seed = int(seed)
        self.size_wh = (int(size_wh[0]), int(size_wh[1]))
        self.frame_rate_hz = float(frame_rate_hz)
        self.camera_height_m = float(camera_height_m)
        self.camera_pitch_rad = float(camera_pitch_rad)
        width, height = self.size_wh
        focal = width / 2 / np.tan(np.radians(horizontal_fov_deg) / 2)
        self.camera_matrix = np.array(
            [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], np.float64
        )
        self.label_set = LabelSet.load('cityscapes')
        self._world = _World(self.seed)
        self._prepare()

    def __iter__(self) -> Iterator[StreetFrame]:
        index = 0
        while True:
            yield self.frame(index)
            index += 1

    def frame(self, index: int) -> StreetFrame:
        """Render frame ``index`` (0 or more); raises DatasetError for a negative one."""
        if index < 0:
            raise DatasetError(f'frame index is {index}; expected 0 or more')
        time_s = index / self.frame_rate_hz
        ego_s, ego_l = self._world.ego(time_s)
        face = np.zeros(self.size_wh[::-1], np.int32)
        face[self._top :] = self._ground_faces(ego_s)
        table, shadow = self._paint(face, ego_s, ego_l, time_s)
        semantic = table.semantic[face]
        instance = table.instance[face]
        inverse_m = self._inverse_depth(face, table)
        with np.errstate(divide='ignore'):
            depth_m = np.where(face > 0, 1 / inverse_m, np.float32(np.nan))
        image = self._shade(face, table, depth_m, shadow, ego_s, index)
        truth = Panoptic.from_maps(semantic, instance, self.label_set)
        return StreetFrame(
            image,
            depth_m,
            truth,
            round(time_s * 1e9),
            self.camera_matrix,
            self.camera_height_m,
            self.camera_pitch_rad,
        )

    # Everything about the empty road that stays the same from frame to frame.

    def _prepare(self) -> None:
        style = self._world.style
        width, height = self.size_wh
        k = self.camera_matrix
        self._cos = cos = float(np.cos(self.camera_pitch_rad))
        self._sin = sin = float(np.sin(self.camera_pitch_rad))
        self._ray_x = ((np.arange(width) - k[0, 2]) / k[0, 0]).astype(np.float32)
        ray_y = (np.arange(height) - k[1, 2]) / k[1, 1]
        self._ray_y = ray_y.astype(np.float32)
        # A ray falls by `down` and goes ahead by `ahead` for each metre of depth.
        self._down = (ray_y * cos + sin).astype(np.float32)
        self._ahead = (cos - ray_y * sin).astype(np.float32)
        # First row that sees the ground: strictly below the horizon.
        self._top = int(np.argmax(self._down > 1e-4)) if (self._down > 1e-4).any() else height
        depth = self.camera_height_m / self._down[self._top :, None].astype(np.float64)
        z = depth * self._ahead[self._top :, None] + 0 * self._ray_x
        x = depth * self._ray_x + self._world.ego(0.0)[1]
        bend = style.curvature
        if bend == 0.0:
            s, across = z, x
        else:
            sign = np.sign(bend)
            s = np.arctan2(z * sign, (1 / bend - x) * sign) / bend
            across = 1 / bend - sign * np.hypot(1 / bend - x, z)
        self._ground_s = s.astype(np.float32)
        self._ground_l = across.astype(np.float32)
        self._ground_profile = self._profile(across)
        self._ground_pixel_m = (depth / k[0, 0] * np.ones_like(x)).astype(np.float32)
        rng = _rng(self.seed, 3)
        self._grain = _noise_tile(rng, 512, (0.0, 1.5, 12.0))
        sensor = rng.standard_normal((height + 64, width + 64, 3)) * style.noise
        self._sensor = np.clip(np.rint(128 + sensor), 0, 255).astype(np.uint8)
        t = np.clip(np.arange(self._top + 1) / max(self._top, 1), 0, 1)[:, None] ** 1.3
        sky = np.array(style.sky_top) * (1 - t) + np.array(style.sky_low) * t
        self._sky_rows = np.zeros((height, 3), np.float32)
        self._sky_rows[: self._top + 1] = sky[:height]
        level = np.arange(256) / 255.0
        tone = [
            255 * np.clip((style.contrast * (level - 0.35) + 0.35) * style.brightness * c, 0, 1)
            for c in style.tint
        ]
        self._tone = np.rint(np.stack(tone, 1)).astype(np.uint8)[None]
        ground = np.array(
            [(118, 118, 118), (150, 149, 146), (128, 126, 123), (84, 98, 58), (92, 100, 66)],
            np.float32,
        )
        light = rng.uniform(0.8, 1.15)
        self._ground_rgb = ground * light + rng.uniform(-8, 8, (5, 1)) + rng.uniform(-4, 4, (5, 3))

    def _profile(self, across: np.ndarray) -> np.ndarray:
        """Ground faces by lateral place, as if no street crossed."""
        style = self._world.style
        edges, faces = [], [_YARD]
        for side, sign in ((0, -1), (1, 1)):
            kerb, front = style.kerb(side), style.front(side)
            verge = kerb + style.verge_m[side]
            line = [kerb, kerb + 0.15, verge, front + 0.35]
            zone = [_KERB, _VERGE, _WALK, _YARD]
            if style.verge_m[side] <= 0.15:
                line, zone = [kerb, kerb + 0.15, front + 0.35], [_KERB, _WALK, _YARD]
            if sign < 0:
                edges = [-e for e in line[::-1]]
                faces = [*zone[::-1], _ROAD]
            else:
                edges += line
                faces += zone
        return np.array(faces, np.int32)[np.digitize(across, edges)]

    def _ground_faces(self, ego_s: float) -> np.ndarray:
        """Ground face numbers, int32 [rows below the horizon, W]."""
        faces = self._ground_profile.copy()
        first = int((ego_s - 10) // _BLOCK_M)
        for number in range(first, int((ego_s + _FAR_M) // _BLOCK_M) + 1):
            begin = number * _BLOCK_M - ego_s
            for side, here in enumerate(self._world.block(number).side_street):
                if here:
                    cut = (self._ground_s >= begin) & (self._ground_s < begin + _SIDE_STREET_M)
                    cut &= (self._ground_l > 0) == (side == 1)
                    faces[cut] = _ROAD
        return faces

    def _paint(
        self, face: np.ndarray, ego_s: float, ego_l: float, time_s: float
    ) -> tuple['_FaceTable', np.ndarray]:
        """Paint all objects into the face map, far to near, and their shadows into a mask."""
        style = self._world.style
        objects = self._world.objects(ego_s, time_s)
        half = np.array([(o.shape.half_length, o.shape.half_width) for o in objects])
        turned = np.array([abs(np.sin(o.heading)) > 0.7 for o in objects])
        half[turned] = half[turned][:, ::-1]
        half *= np.array([o.scale for o in objects])[:, None]
        place = np.array([(o.s, o.l - ego_l) for o in objects])
        objects = [objects[i] for i in _painting_order(place - half, place + half)]

        x, ahead, yaw = _place(objects, style.curvature, ego_l)
        points_of = np.array([len(o.shape.points) for o in objects])
        local = np.concatenate([o.shape.points * np.float32(o.scale) for o in objects])
        owner = np.repeat(np.arange(len(objects)), points_of)
        turn = np.where([o.shape.billboard for o in objects], np.arctan2(x, ahead), yaw)
        cos_t, sin_t = np.cos(turn)[owner], np.sin(turn)[owner]
        flat_x = x[owner] + local[:, 0] * cos_t + local[:, 2] * sin_t
        flat_z = ahead[owner] - local[:, 0] * sin_t + local[:, 2] * cos_t
        camera = self._to_camera(flat_x, local[:, 1], flat_z)

        start = np.concatenate([[0], np.cumsum(points_of)[:-1]])
        first = np.concatenate([o.shape.first + b for o, b in zip(objects, start, strict=True)])
        last = np.append(first[1:], len(camera))
        owner_of_face = owner[first]
        billboard = np.array([o.shape.billboard for o in objects])[owner_of_face]
        p0, p1, p2 = camera[first], camera[first + 1], camera[first + 2]
        normal = np.cross(p1 - p0, p2 - p0)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        distance = np.einsum('ij,ij->i', normal, p0)
        normal[billboard] *= -np.sign(distance[billboard])[:, None]
        distance[billboard] = -np.abs(distance[billboard])
        near = np.minimum.reduceat(camera[:, 2], first)
        far = np.maximum.reduceat(camera[:, 2], first)
        z = np.maximum(camera[:, 2], 1e-3)
        u = camera[:, 0] / z * self.camera_matrix[0, 0] + self.camera_matrix[0, 2]
        v = camera[:, 1] / z * self.camera_matrix[1, 1] + self.camera_matrix[1, 2]
        uv = np.stack([u, v], 1)
        low, high = np.minimum.reduceat(uv, first), np.maximum.reduceat(uv, first)
        width, height = self.size_wh
        seen = (distance < -1e-3) & (far > _NEAR_M)
        clipped = near < _NEAR_M
        inside = (high > -1).all(1) & (low < (width, height)).all(1)
        inside &= (high - low).max(1) > 0.6
        seen &= inside | clipped
        chosen = np.flatnonzero(seen)

        # Paint. Coordinates have four fractional bits.
        fixed = np.rint(np.clip(uv, -20000, 20000) * 16).astype(np.int32)
        for number, i in enumerate(chosen.tolist(), _FIRST_FACE):
            polygon = fixed[first[i] : last[i]]
            if clipped[i]:
                polygon = self._clip(camera[first[i] : last[i]])
            cv2.fillConvexPoly(face, polygon, number, cv2.LINE_8, 4)

        owner_of_face = owner_of_face[chosen]
        part = np.concatenate([o.shape.part for o in objects])[chosen]
        paint = np.concatenate([o.shape.paint for o in objects])[chosen]
        classes = _padded([o.classes for o in objects])[owner_of_face, part]
        ids = _padded([o.ids for o in objects])[owner_of_face, part]
        palettes = np.concatenate([o.palette for o in objects])
        offset = np.cumsum([0] + [len(o.palette) for o in objects[:-1]])
        rgb = palettes[offset[owner_of_face] + paint]
        normal, distance = normal[chosen], distance[chosen]
        up = -(normal[:, 1] * self._cos + normal[:, 2] * self._sin)
        flat_z_normal = normal[:, 2] * self._cos - normal[:, 1] * self._sin
        sun = np.maximum(
            up * np.sin(style.sun_elevation)
            + np.cos(style.sun_elevation)
            * (
                normal[:, 0] * np.sin(style.sun_azimuth)
                + flat_z_normal * np.cos(style.sun_azimuth)
            ),
            0,
        )
        shade = 0.78 + 0.22 * up + style.sun * (0.55 * sun - 0.1)
        shade[billboard[chosen]] = 0.9 + 0.1 * style.sun
        haze = 1 - np.exp(-np.maximum(near[chosen], 0) / 700)[:, None]
        rgb = rgb * shade[:, None] * (1 - haze) + 205 * haze
        facade = np.concatenate([o.shape.facade for o in objects])[chosen]
        along = camera[first + 1][chosen] - camera[first][chosen]
        along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        anchor = -np.einsum('ij,ij->i', along, camera[first][chosen])
        flat = np.where(classes == _CLASS['vegetation'], 0.22, 0.02)
        ground = np.array([_CLASS[n] for n in _GROUND])
        ground_plane = np.array([[0, self._cos, self._sin]]) / self.camera_height_m
        table = _FaceTable(
            semantic=np.concatenate([[_CLASS['sky']], ground, classes]).astype(np.uint8),
            instance=np.concatenate([np.zeros(_FIRST_FACE), ids]).astype(np.uint16),
            plane=np.concatenate(
                [np.zeros((1, 3)), np.repeat(ground_plane, 5, 0), normal / distance[:, None]]
            ).astype(np.float32),
            near_inverse=np.concatenate(
                [np.full(_FIRST_FACE, np.inf), 1 / np.maximum(near[chosen], _NEAR_M)]
            ).astype(np.float32),
            far_inverse=np.concatenate([np.zeros(_FIRST_FACE), 1 / far[chosen]]).astype(np.float32),
            rgb=np.clip(np.concatenate([np.zeros((1, 3)), self._ground_rgb, rgb]), 0, 255).astype(
                np.float32
            ),
            grain=np.concatenate([[0], [0.045, 0.06, 0.06, 0.14, 0.14], flat]).astype(np.float32),
            facade=np.concatenate([np.zeros(_FIRST_FACE, bool), facade]),
            along=np.concatenate(
                [np.zeros((_FIRST_FACE, 4)), np.concatenate([along, anchor[:, None]], 1)]
            ).astype(np.float32),
        )
        return table, self._shadows(objects, x, ahead, yaw)

    def _to_camera(self, x: np.ndarray, up: np.ndarray, ahead: np.ndarray) -> np.ndarray:
        """Level coordinates around the camera's foot to the optical frame, float64 [n, 3]."""
        fall = self.camera_height_m - up
        return np.stack(
            [x, fall * self._cos - ahead * self._sin, fall * self._sin + ahead * self._cos], 1
        )

    def _clip(self, points: np.ndarray) -> np.ndarray:
        """Cut a polygon at the near plane and project it, int32 [n, 2] with 4 binary digits."""
        out = []
        for a, b in zip(points, np.roll(points, -1, 0), strict=True):
            if a[2] >= _NEAR_M:
                out.append(a)
            if (a[2] >= _NEAR_M) != (b[2] >= _NEAR_M):
                out.append(a + (b - a) * ((_NEAR_M - a[2]) / (b[2] - a[2])))
        p = np.array(out)
        k = self.camera_matrix
        uv = p[:, :2] / p[:, 2:] * (k[0, 0], k[1, 1]) + (k[0, 2], k[1, 2])
        return np.rint(np.clip(uv, -20000, 20000) * 16).astype(np.int32)

    def _shadows(
        self, objects: list[_Placed], x: np.ndarray, ahead: np.ndarray, yaw: np.ndarray
    ) -> np.ndarray:
        """How much light reaches the ground, uint8 [H, W], 255 all of it."""
        style = self._world.style
        light = np.full(self.size_wh[::-1], 255, np.uint8)
        reach = 1 / np.tan(style.sun_elevation)
        shift = -reach * np.array([np.sin(style.sun_azimuth), np.cos(style.sun_azimuth)])
        k = self.camera_matrix
        for i, o in enumerate(objects):
            if ahead[i] < -15 or ahead[i] > 70:
                continue
            w, length = o.shape.half_width * o.scale, o.shape.half_length * o.scale
            right = np.array([np.cos(yaw[i]), -np.sin(yaw[i])])
            forward = np.array([np.sin(yaw[i]), np.cos(yaw[i])])
            foot = np.array([x[i], ahead[i]]) + [
                a * w * right + b * length * forward for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))
            ]
            tall = o.shape.height * o.scale
            hulls = []
            if style.sun > 0.15:
                hulls.append((np.concatenate([foot, foot + shift * tall]), 1 - 0.5 * style.sun))
            if o.classes[0] >= _CLASS['person']:
                hulls.append((foot, 0.45))
            for ground, value in hulls:
                camera = self._to_camera(ground[:, 0], np.zeros(len(ground)), ground[:, 1])
                camera = camera[camera[:, 2] > 0.3]
                if len(camera) < 3:
                    continue
                uv = camera[:, :2] / camera[:, 2:] * (k[0, 0], k[1, 1]) + (k[0, 2], k[1, 2])
                hull = cv2.convexHull(np.clip(uv, -20000, 20000).astype(np.float32))
                cv2.fillConvexPoly(
                    light, np.rint(hull * 16).astype(np.int32), int(255 * value), cv2.LINE_8, 4
                )
        return cv2.blur(light, (5, 3))

    def _inverse_depth(self, face: np.ndarray, table: '_FaceTable') -> np.ndarray:
        inverse = table.plane[:, 0][face] * self._ray_x
        inverse += table.plane[:, 1][face] * self._ray_y[:, None]
        inverse += table.plane[:, 2][face]
        # Pixels on a polygon's edge may lie a little outside it: keep to its range of depths.
        np.minimum(inverse, table.near_inverse[face], out=inverse)
        return np.maximum(inverse, table.far_inverse[face], out=inverse)

    def _shade(
        self,
        face: np.ndarray,
        table: '_FaceTable',
        depth_m: np.ndarray,
        light: np.ndarray,
        ego_s: float,
        index: int,
    ) -> np.ndarray:
        style = self._world.style
        width, height = self.size_wh
        top = self._top
        rgb = table.rgb[face]
        sky = face == 0
        rgb[sky] = np.broadcast_to(self._sky_rows[:, None], rgb.shape)[sky]
        depth = np.where(sky, 1, depth_m)
        # Grain fixed to the world; it fades where a pixel covers more than the grain.
        up = self.camera_height_m - depth * self._down[:, None]
        u = depth * self._ray_x + depth * self._ahead[:, None] + ego_s
        grain = self._grain[
            (up * 24).astype(np.int32) & 511, (u * 24).astype(np.int32) & 511
        ]
        ground = (face > 0) & (face < _FIRST_FACE)
        low = ground[top:]
        gs = self._ground_s + ego_s
        ground_grain = self._grain[
            (gs * 24).astype(np.int32) & 511, (self._ground_l * 24).astype(np.int32) & 511
        ]
        grain[top:][low] = ground_grain[low]
        fade = np.clip(0.02 * self.camera_matrix[0, 0] / depth / 0.5, 0, 1)
        gain = 1 + grain * table.grain[face] * fade
        gain[ground] *= light[ground] * np.float32(1 / 255)
        rgb *= gain[..., None]
        self._marks(rgb[top:], low, gs, light[top:])
        self._windows(rgb, face, table, depth_m, up)
        image = np.clip(rgb, 0, 255).astype(np.uint8)
        tone = cv2.LUT(image, np.ascontiguousarray(self._tone))
        image = cv2.GaussianBlur(tone, (3, 3), style.blur)
        rng = _rng(self.seed, 4, index)
        dy, dx = rng.integers(0, 64, 2)
        noise = self._sensor[dy : dy + height, dx : dx + width]
        return cv2.addWeighted(image, 1.0, noise, 1.0, -128.0)

    def _marks(self, rgb: np.ndarray, ground: np.ndarray, s: np.ndarray, light: np.ndarray) -> None:
        style = self._world.style
        across = self._ground_l
        wide = 0.06 + 0.5 * self._ground_pixel_m
        strength = np.minimum(1, 0.12 / (2 * wide))
        cover = np.zeros_like(across)
        for i in range(-style.lanes, style.lanes + 1):
            edge = abs(i) == style.lanes
            if edge and not any(style.parking):
                continue
            line = np.abs(across - i * style.lane_m) < wide
            if edge or (style.dashed or i != 0):
                line &= (s % 6.0) < 3.0
            cover[line] = strength[line]
        begin = s % _BLOCK_M
        cover[begin < _SIDE_STREET_M] = 0
        cover[~ground] = 0
        paint = (np.float32(190 / 255) * light * cover)[..., None]
        rgb *= 1 - cover[..., None]
        rgb += paint

    def _windows(
        self, rgb: np.ndarray, face: np.ndarray, table: '_FaceTable', depth_m: np.ndarray,
        up: np.ndarray,
    ) -> None:  # fmt: skip
        at = np.flatnonzero(table.facade[face])
        if not len(at):
            return
        width = face.shape[1]
        number = face.ravel()[at]
        depth = depth_m.ravel()[at]
        along = table.along[number]
        u = depth * (
            along[:, 0] * self._ray_x[at % width]
            + along[:, 1] * self._ray_y[at // width]
            + along[:, 2]
        )
        u = (u + along[:, 3]) / 2.6
        v = up.ravel()[at] / 3.1
        bay, floor = np.floor(u), np.floor(v)
        fu, fv = u - bay, v - floor
        glass = (np.abs(fu - 0.5) < 0.24) & (np.abs(fv - 0.55) < 0.27)
        frame = (np.abs(fu - 0.5) < 0.29) & (np.abs(fv - 0.55) < 0.32)
        pane = ((bay * 37 + floor * 101 + number * 17) % 7) * 9 + 30
        flat = rgb.reshape(-1, 3)
        flat[at[frame]] *= 1.2
        flat[at[glass]] = pane[glass, None]


@dataclass(frozen=True, eq=False)
class _FaceTable:
    """What is known of each face number: 0 sky, 1..5 ground, then the painted polygons.

    ``plane`` float32 [n, 3]: inverse depth is its product with the ray (x, y, 1).
    """

    semantic: np.ndarray
    instance: np.ndarray
    plane: np.ndarray
    near_inverse: np.ndarray
    far_inverse: np.ndarray
    rgb: np.ndarray
    grain: np.ndarray
    facade: np.ndarray
    along: np.ndarray


def _padded(rows: Sequence[tuple[int, ...]]) -> np.ndarray:
    out = np.zeros((len(rows), 3), np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def _place(
    objects: Sequence[_Placed], bend: float, ego_l: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Road coordinates to x, ahead and yaw around the camera's foot, float64 [n] each."""
    s = np.array([o.s for o in objects])
    across = np.array([o.l for o in objects])
    heading = np.array([o.heading for o in objects])
    if bend == 0.0:
        return across - ego_l, s, heading
    angle = bend * s
    x = (1 - np.cos(angle)) / bend + across * np.cos(angle)
    return x - ego_l, np.sin(angle) / bend - across * np.sin(angle), angle + heading


def _check(
    seed: int, size_wh: tuple[int, int], frame_rate_hz: float, horizontal_fov_deg: float,
    camera_height_m: float, camera_pitch_rad: float,
) -> None:  # fmt: skip
    if seed < 0 or seed != int(seed):
        raise DatasetError(f'seed is {seed!r}; expected a whole number, 0 or more')
    if len(size_wh) != 2 or min(size_wh) < 32:
        raise DatasetError(f'size_wh is {size_wh!r}; expected (width, height), each 32 or more')
    for name, value, low, high in (
        ('frame_rate_hz', frame_rate_hz, 0.1, 1000.0),
        ('horizontal_fov_deg', horizontal_fov_deg, 10.0, 150.0),
        ('camera_height_m', camera_height_m, 0.3, 5.0),
        ('camera_pitch_rad', camera_pitch_rad, -0.5, 0.5),
    ):
        if not low <= value <= high:
            raise DatasetError(f'{name} is {value!r}; expected {low}..{high}')


def synthetic_samples(
    seed: int, count: int, size_wh: tuple[int, int] = (640, 320)
) -> 'SyntheticSamples':
    """Independent labelled images, each from a street of its own; see :class:`SyntheticSamples`."""
    return SyntheticSamples(seed, count, size_wh)


@dataclass(frozen=True)
class SyntheticSamples(Sequence[Sample]):
    """A sequence of ``count`` samples, each rendered when asked for, the same bytes each time.

    Raises DatasetError if ``count`` is negative; IndexError beyond the end.
    """

    seed: int
    count: int
    size_wh: tuple[int, int] = (640, 320)

    def __post_init__(self) -> None:
        _check(self.seed, self.size_wh, 10.0, 48.7, 1.3, 0.0)
        if self.count < 0:
            raise DatasetError(f'count is {self.count}; expected 0 or more')

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not -self.count <= index < self.count:
            raise IndexError(f'sample {index} of {self.count}')
        index %= self.count
        rng = _rng(self.seed, 5, index)
        street = SyntheticStreet(
            int(rng.integers(2**31)),
            self.size_wh,
            horizontal_fov_deg=float(rng.uniform(46, 60)),
            camera_height_m=float(rng.uniform(1.15, 1.5)),
            camera_pitch_rad=float(rng.uniform(0.0, 0.06)),
        )
        frame = street.frame(int(rng.integers(10000)))
        return Sample(
            f'synthetic_{self.seed}_{index}', frame.image_rgb, frame.truth, np.zeros(0, np.uint16)
        )
