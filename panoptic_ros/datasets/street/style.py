"""The random appearance of one synthetic street, and its label set."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from panoptic_ros.labels import LabelSet


@lru_cache(maxsize=1)
def street_labels() -> LabelSet:
    """Return the label set of the street: Cityscapes, 19 classes."""
    return LabelSet.load('cityscapes')


def generator(seed: int, *key: int) -> np.random.Generator:
    """Return the random generator of one part of a scene; ``key`` may hold negative numbers."""
    # A seed sequence takes no negative numbers: fold the sign into the lowest bit.
    return np.random.default_rng((seed, *(2 * k if k >= 0 else -2 * k - 1 for k in key)))


@dataclass(frozen=True)
class Style:
    """The appearance of one street, drawn once from its seed. Sides: 0 left, 1 right."""

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
        """Distance from the centre line to the outer edge of the lanes."""
        return self.lanes * self.lane_m

    def kerb(self, side: int) -> float:
        """Return the distance from the centre line to the kerb."""
        return self.road_half_m + (2.2 if self.parking[side] else 0.35)

    def walk(self, side: int) -> float:
        """Return the distance from the centre line to the sidewalk."""
        return self.kerb(side) + self.verge_m[side]

    def front(self, side: int) -> float:
        """Return the distance from the centre line to the house fronts."""
        return self.walk(side) + self.sidewalk_m[side]


def draw_style(rng: np.random.Generator) -> Style:
    """Draw the appearance of one street."""

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
