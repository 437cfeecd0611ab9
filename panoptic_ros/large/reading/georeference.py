"""Where the pixels of a picture lie on the ground or on a slide, and how large they are."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

_PSEUDO_MERCATOR = 3857
_EARTH_RADIUS_M = 6378137.0


@dataclass(frozen=True)
class Georeference:
    """The geometry of a picture's pixels.

    Parameters
    ----------
    pixel_size_xy
        Width and height of a pixel in ``unit``; for a geographic system those in the middle of
        the picture.
    unit
        ``m`` on the ground, ``um`` on a slide, ``px`` where no size is known.
    transform
        a, b, c, d, e, f: the point (column, row) of the picture lies at
        (a * column + b * row + c, d * column + e * row + f) in the coordinate system, or in
        pixels of the source if there is none.
    crs_wkt
        The coordinate system, empty if there is none.
    is_geographic, is_pseudo_mercator
        Whether the size of a pixel on the ground depends on its latitude, and how.
    """

    pixel_size_xy: tuple[float, float] = (1.0, 1.0)
    unit: str = 'px'
    transform: tuple[float, float, float, float, float, float] = IDENTITY
    crs_wkt: str = ''
    is_geographic: bool = False
    is_pseudo_mercator: bool = False

    def scaled(self, scale_x: float, scale_y: float) -> 'Georeference':
        """Return that of the same picture with pixels ``scale_x`` x ``scale_y`` as large."""
        a, b, c, d, e, f = self.transform
        width, height = self.pixel_size_xy
        return replace(
            self,
            pixel_size_xy=(width * scale_x, height * scale_y),
            transform=(a * scale_x, b * scale_y, c, d * scale_x, e * scale_y, f),
        )

    def shifted(self, x0: int, y0: int) -> 'Georeference':
        """Return that of the part of the picture that begins at a column and a row."""
        a, b, _, d, e, _ = self.transform
        c, f = self.points(x0, y0)
        return replace(self, transform=(a, b, float(c), d, e, float(f)))

    def points(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Transform points from pixels to the coordinate system."""
        a, b, c, d, e, f = self.transform
        return a * x + b * y + c, d * x + e * y + f

    def pixels(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Transform points from the coordinate system to pixels."""
        a, b, c, d, e, f = self.transform
        (ia, ib), (id_, ie) = np.linalg.inv([[a, b], [d, e]])
        return ia * (x - c) + ib * (y - f), id_ * (x - c) + ie * (y - f)

    def pixel_area(self, y: np.ndarray) -> np.ndarray:
        """Return the area of a pixel in the square of ``unit``, at rows ``y``, float64 [n]."""
        width, height = self.pixel_size_xy
        y = np.asarray(y, np.float64)
        if not (self.is_geographic or self.is_pseudo_mercator):
            return np.full(y.shape, width * height)
        a, _, _, _, e, f = self.transform
        if self.is_geographic:
            across, along = degrees_m(e * y + f)
            return np.abs(a * across * e * along)
        # The projection enlarges by 1 / cos(latitude), which is cosh(northing / radius).
        return np.abs(a * e) / np.cosh((e * y + f) / _EARTH_RADIUS_M) ** 2


def degrees_m(latitude_deg: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Return the length of a degree of longitude and of latitude in metres.

    The series of the WGS 84 ellipsoid, good to centimetres.
    """
    phi = np.radians(latitude_deg)
    longitude = 111412.84 * np.cos(phi) - 93.5 * np.cos(3 * phi) + 0.118 * np.cos(5 * phi)
    latitude = 111132.92 - 559.82 * np.cos(2 * phi) + 1.175 * np.cos(4 * phi)
    return longitude, latitude - 0.0023 * np.cos(6 * phi)


def from_rasterio(
    crs: Any, transform: tuple[float, ...], size_wh: tuple[int, int]
) -> Georeference:
    """Return the georeference of a raster; ``crs`` is rasterio's, or None.

    A transform that changes nothing stands for none: files whose position is known by control
    points alone have it beside their coordinate system.
    """
    transform = tuple(float(value) for value in transform[:6])
    if not crs or transform == IDENTITY:
        return Georeference(transform=IDENTITY)
    a, b, _, d, e, f = transform
    width, height = float(np.hypot(a, d)), float(np.hypot(b, e))
    is_pseudo_mercator = False
    if crs.is_geographic:
        across, along = degrees_m(e * size_wh[1] / 2 + f)
        width, height = width * float(across), height * float(along)
    else:
        _, metres = crs.linear_units_factor
        width, height = width * metres, height * metres
        is_pseudo_mercator = crs.to_epsg() == _PSEUDO_MERCATOR
        if is_pseudo_mercator:
            shrunk = float(np.cosh((e * size_wh[1] / 2 + f) / _EARTH_RADIUS_M))
            width, height = width / shrunk, height / shrunk
    return Georeference(
        pixel_size_xy=(width, height),
        unit='m',
        transform=transform,
        crs_wkt=crs.to_wkt(),
        is_geographic=crs.is_geographic,
        is_pseudo_mercator=is_pseudo_mercator,
    )
