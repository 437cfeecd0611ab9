"""Shapes of convex polygons, from which everything in the synthetic street is built.

A shape stands at the origin of its own frame, in metres: x right, y up, z ahead (the direction of
travel). A billboard lies in the plane z = 0 and is always turned to the camera.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from panoptic_ros.datasets.street.textures import PLAIN

# Palette slots of vehicles; BOX is the second colour of lorries and buses.
BODY, WINDOW, TYRE, HUB, RED, LAMP, PLATE, TRIM, BOX = range(9)

# Palette slots of people and of what they ride.
SKIN, HAIR, SHIRT, TROUSERS, SHOES, BAG, FRAME, RUBBER, METAL = range(9)

# Palette slots of trees, houses and street furniture.
BARK, LEAF = 0, (1, 2, 3)

WALL, GLASS, ROOF, AWNING = range(4)

POST, SIGN_EDGE, SIGN, CASE, BULB = 0, 1, 2, 3, (4, 5, 6)

Point = tuple[float, float]


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


class Builder:
    """Collects polygons and makes a :class:`Shape` of them."""

    def __init__(self) -> None:
        self._polygons: list[np.ndarray] = []
        self._columns: list[tuple[int, int, int, int]] = []

    def add(
        self,
        points: Sequence | np.ndarray,
        paint: int,
        part: int = 0,
        tile: int = PLAIN,
        paint2: int = -1,
    ) -> None:
        """Add a polygon; ``paint2`` is the second colour, the first one if below 0."""
        self._polygons.append(np.asarray(points, np.float32).reshape(-1, 3))
        self._columns.append((paint, paint if paint2 < 0 else paint2, tile, part))

    def box(
        self,
        x: Point,
        y: Point,
        z: Point,
        paint: int,
        *,
        tile: int = PLAIN,
        paint2: int = -1,
        top: bool = True,
    ) -> None:
        """Add the four sides of a box and optionally its top."""
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
        """Extrude a profile of (z, y, half width), from the rear over the top to the front."""
        for (za, ya, wa), (zb, yb, wb), paint in zip(
            profile[:-1], profile[1:], strips, strict=True
        ):
            self.add([(-wa, ya, za), (wa, ya, za), (wb, yb, zb), (-wb, yb, zb)], paint)
        self.add([(w, y, z) for z, y, w in profile][::-1], side)
        self.add([(-w, y, z) for z, y, w in profile], side)

    def sides(self, x: float, zy: Sequence[Point], paint: int, part: int = 0) -> None:
        """Add a polygon at x and at -x; ``zy`` runs from the rear over the top to the front."""
        self.add([(-x, y, z) for z, y in zy], paint, part)
        self.add([(x, y, z) for z, y in zy][::-1], paint, part)

    def rear(self, z: float, x: Point, y: Point, paint: int) -> None:
        """Add a rectangle that faces backwards."""
        self.add([(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)], paint)

    def front(self, z: float, x: Point, y: Point, paint: int) -> None:
        """Add a rectangle that faces forwards."""
        self.add([(x[1], y[0], z), (x[0], y[0], z), (x[0], y[1], z), (x[1], y[1], z)], paint)

    def lamps(self, x: Point, y: Point, front_z: float, rear_z: float) -> None:
        """Add head lamps and rear lamps on both sides."""
        for pair in (x, (-x[1], -x[0])):
            self.front(front_z, pair, y, LAMP)
            self.rear(rear_z, pair, y, RED)

    def wheels(self, x: float, z: float, radius: float, y: float | None = None) -> None:
        """Add a pair of wheels at x and -x."""
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
        """Add an ellipse in the plane z = 0."""
        turn = np.arange(n) * (2 * np.pi / n)
        points = np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn), np.zeros(n)], 1)
        self.add(points, paint, part)

    def limb(self, a: Point, b: Point, ra: float, rb: float, paint: int, part: int = 0) -> None:
        """Add a tapered bar with rounded ends in the plane z = 0."""
        around = np.linspace(np.pi / 2, 3 * np.pi / 2, 4) + np.arctan2(b[1] - a[1], b[0] - a[0])
        x, y = np.cos(around), np.sin(around)
        points = np.zeros((8, 3), np.float32)
        points[:4, 0], points[:4, 1] = a[0] + ra * x, a[1] + ra * y
        points[4:, 0], points[4:, 1] = b[0] - rb * x, b[1] - rb * y
        self.add(points, paint, part)

    def slab(
        self, zy: Sequence[Point] | np.ndarray, half: float, paint: int, part: int = 0
    ) -> None:
        """Add a plate with a convex outline in the plane x = 0; corners in any order."""
        corners = np.asarray(zy, float)
        out = corners - corners.mean(0)
        ring = corners[np.argsort(-np.arctan2(out[:, 1], out[:, 0]), kind='stable')]
        for (za, ya), (zb, yb) in zip(ring, np.roll(ring, -1, 0), strict=True):
            self.add(
                [(-half, ya, za), (half, ya, za), (half, yb, zb), (-half, yb, zb)], paint, part
            )
        self.sides(half, [tuple(c) for c in ring], paint, part)

    def bar(
        self, a: Point, b: Point, thick: float, half: float, paint: int, part: int = 0
    ) -> None:
        """Add a plate along the line from a to b, in (z, y)."""
        d = np.subtract(b, a)
        n = np.array([-d[1], d[0]]) * (thick / np.hypot(*d))
        self.slab([a + n, b + n, b - n, a - n], half, paint, part)

    def merge(self, other: 'Builder', x: float) -> None:
        """Add the polygons of another builder, moved to the right by x."""
        self._polygons += [p + np.array([x, 0, 0], np.float32) for p in other._polygons]
        self._columns += other._columns

    def shape(
        self,
        *,
        billboard: bool = False,
        half_width: float = 0.0,
        half_length: float = 0.0,
        bay_m: float = 3.0,
    ) -> Shape:
        """Return the shape of all polygons so far."""
        count = np.array([len(p) for p in self._polygons])
        points = np.concatenate(self._polygons)
        first = np.cumsum(count) - count
        centre = np.add.reduceat(points.astype(float), first) / count[:, None]
        out = points - np.repeat(centre, count, 0)
        following = np.arange(1, len(points) + 1)
        following[first + count - 1] = first
        # Newell's method, which tolerates slightly warped polygons. x right, y up, z ahead is a
        # left-handed frame, so the factors are swapped.
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
