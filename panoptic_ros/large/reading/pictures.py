"""A large picture at the resolution asked for, as a network takes it: uint8 RGB by window."""

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from panoptic_ros.errors import SourceError
from panoptic_ros.large.reading.georeference import Georeference
from panoptic_ros.large.reading.pyramids import Pyramid, open_pyramid

_TO_UNIT = {('um', 'um'): 1.0, ('m', 'm'): 1.0, ('um', 'm'): 1e-6, ('m', 'um'): 1e6}


@dataclass(frozen=True)
class Length:
    """A number with a unit, ``um`` or ``m``."""

    value: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> 'Length':
        """Read for example ``0.5um`` or ``0.3m``; raises ValueError otherwise."""
        found = re.fullmatch(r'(\d+\.?\d*(?:e-?\d+)?|\.\d+)\s*(um|µm|m|cm|mm)', text.strip())
        value = float(found[1]) if found else 0.0
        if not value > 0:
            raise ValueError(f'{text!r} is not a length; expected for example 0.5um or 0.3m')
        unit = found[2].replace('µ', 'u')
        factor = {'mm': 1e-3, 'cm': 1e-2}.get(unit)
        return cls(value * factor, 'm') if factor else cls(value, unit)


@dataclass(frozen=True)
class ReadOptions:
    """How the pixels of a file become those of the picture.

    Parameters
    ----------
    resolution
        Size of a pixel to work at, ``levelN`` of the file, or empty for the file's own pixels.
    pixel_size
        Size of the file's pixels, where the file does not say it.
    bands
        Numbers of the bands that are red, green and blue, from 1; or of one band. Empty for
        those the file names.
    value_range
        The values that become 0 and 255; needed for anything but 8 bits.
    """

    resolution: str = ''
    pixel_size: str = ''
    bands: tuple[int, ...] = ()
    value_range: tuple[float, float] | None = None


class Picture:
    """A picture file at the resolution asked for.

    Parameters
    ----------
    pyramid
        The open file; closed with this.
    options
        See there.

    Raises SourceError if the file does not have what the options ask for. Only one thread at a
    time may read.
    """

    def __init__(self, pyramid: Pyramid, options: ReadOptions) -> None:
        self._pyramid = pyramid
        self.name = pyramid.path.name
        self._bands = _choose_bands(pyramid, options.bands)
        self._range = _choose_range(pyramid, options.value_range, self._bands)
        source = _with_pixel_size(pyramid, options.pixel_size)
        full_wh = pyramid.level_sizes_wh[0]
        self._level, scale = _choose_level(pyramid, source, options.resolution)
        self.size_wh = tuple(max(1, round(n / s)) for n, s in zip(full_wh, scale, strict=True))
        """Width and height in pixels of the resolution asked for."""
        exact = tuple(n / m for n, m in zip(full_wh, self.size_wh, strict=True))
        self.scale_xy = exact
        """Width and height of such a pixel in pixels of level 0."""
        self.georeference: Georeference = source.scaled(*exact)
        level_wh = pyramid.level_sizes_wh[self._level]
        self._step = tuple(n / m for n, m in zip(level_wh, self.size_wh, strict=True))

    @classmethod
    def open(cls, path: str | Path, options: ReadOptions | None = None) -> 'Picture':
        """Open a file; raises SourceError if it cannot be read as asked for."""
        pyramid = open_pyramid(path)
        try:
            return cls(pyramid, options or ReadOptions())
        except SourceError:
            pyramid.close()
            raise

    def read(self, x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, np.ndarray]:
        """Return uint8 [H, W, 3] RGB and bool [H, W], where there are data.

        The rectangle lies within the picture. Pixels without data are 0. Raises SourceError if
        the file cannot be read there.
        """
        if self._step == (1, 1):
            values, is_valid = self._read_rgb(x0, y0, x1, y1)
        else:
            values, is_valid = self._resample(x0, y0, x1, y1)
        values[~is_valid] = 0
        return values, is_valid

    def close(self) -> None:
        """Close the file."""
        self._pyramid.close()

    def _read_rgb(self, x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, np.ndarray]:
        values, is_valid = self._pyramid.read(self._level, (x0, y0, x1, y1))
        values = values[:, :, self._bands]
        if np.issubdtype(values.dtype, np.floating):
            is_valid = is_valid & np.isfinite(values).all(axis=2)
        if self._range is not None:
            low, high = self._range
            scaled = (np.nan_to_num(values.astype(np.float32)) - low) * (255 / (high - low))
            values = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(values), is_valid

    def _resample(self, x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, np.ndarray]:
        """Average blocks of whole pixels, then interpolate: the same pixels in every window."""
        level_wh = self._pyramid.level_sizes_wh[self._level]
        places, lows, highs, blocks = [], [], [], []
        for low, high, step, length in zip((x0, y0), (x1, y1), self._step, level_wh, strict=True):
            block = max(1, int(step))
            # Middles of the pixels, in blocks of the level.
            place = (np.arange(low, high) + 0.5) * (step / block) - 0.5
            first = max(0, int(np.floor(place[0])))
            last = min(-(-length // block) - 1, int(np.ceil(place[-1])))
            places.append((place - first).astype(np.float32))
            lows.append(first * block)
            highs.append(min(length, (last + 1) * block))
            blocks.append(block)
        values, is_valid = self._read_rgb(*lows, *highs)
        if blocks != [1, 1]:
            values = _block_mean(values, *blocks)
            is_valid = _block_mean(is_valid.astype(np.uint8) * 255, *blocks) > 127
        x, y = (np.broadcast_to(p, (y1 - y0, x1 - x0)) for p in (places[0], places[1][:, None]))
        x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
        resampled = cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        near = cv2.remap(
            is_valid.astype(np.uint8), x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE
        )
        return resampled, near > 0


def _block_mean(values: np.ndarray, across: int, down: int) -> np.ndarray:
    """Average blocks; those at the right and lower edge may be smaller."""
    height, width = values.shape[:2]
    pad = -height % down, -width % across
    values = cv2.copyMakeBorder(values, 0, pad[0], 0, pad[1], cv2.BORDER_REPLICATE)
    size_wh = values.shape[1] // across, values.shape[0] // down
    return cv2.resize(values, size_wh, interpolation=cv2.INTER_AREA)


def _choose_bands(pyramid: Pyramid, numbers: tuple[int, ...]) -> list[int]:
    bands = pyramid.bands
    if numbers:
        if len(numbers) not in (1, 3) or not all(1 <= n <= bands.count for n in numbers):
            raise SourceError(
                f'--bands {",".join(map(str, numbers))} does not fit {str(pyramid.path)!r}; '
                f'expected one or three numbers of 1 to {bands.count}'
            )
        return [n - 1 for n in numbers] * (3 // len(numbers))
    if not bands.rgb:
        raise SourceError(
            f'{str(pyramid.path)!r} has {bands.count} bands and does not say which are red, green '
            'and blue; choose with --bands, for example --bands 1,2,3'
        )
    return list(bands.rgb)


def _choose_range(
    pyramid: Pyramid, value_range: tuple[float, float] | None, bands: list[int]
) -> tuple[float, float] | None:
    if value_range is not None:
        low, high = value_range
        if not (np.isfinite([low, high]).all() and low < high):
            raise SourceError(f'--range {low:g} {high:g} is empty; expected LOW below HIGH')
        return value_range
    if pyramid.bands.dtype == 'uint8':
        return None
    level = len(pyramid.level_sizes_wh) - 1
    width, height = pyramid.level_sizes_wh[level]
    x, y = max(0, width // 2 - 1024), max(0, height // 2 - 1024)
    values, is_valid = pyramid.read(level, (x, y, min(width, x + 2048), min(height, y + 2048)))
    values = values[:, :, bands][is_valid]
    values = values[np.isfinite(values)]
    hint = ''
    if len(values):
        low, high = np.percentile(values, (1, 99))
        high = high if high > low else low + 1
        hint = f'; in the middle of the picture 98 % lie in --range {low:g} {high:g}'
    raise SourceError(
        f'{str(pyramid.path)!r} has {pyramid.bands.dtype} values; expected 8 bits, or --range LOW '
        f'HIGH, the values that become black and white{hint}'
    )


def _with_pixel_size(pyramid: Pyramid, pixel_size: str) -> Georeference:
    source = pyramid.georeference
    if not pixel_size:
        return source
    if source.unit != 'px':
        raise SourceError(
            f'{str(pyramid.path)!r} has pixels of {source.pixel_size_xy[0]:g} {source.unit} and '
            f'--pixel-size says {pixel_size}; leave the option out'
        )
    size = _length(pixel_size, '--pixel-size')
    return Georeference((size.value, size.value), size.unit)


def _choose_level(
    pyramid: Pyramid, source: Georeference, resolution: str
) -> tuple[int, tuple[float, float]]:
    """Return the level to read and the wanted pixel in pixels of level 0."""
    sizes = np.array(pyramid.level_sizes_wh, np.float64)
    factors = sizes[0] / sizes
    if not resolution:
        return 0, (1.0, 1.0)
    asked = re.fullmatch(r'level[ :=]?(\d+)', resolution)
    if asked:
        level = int(asked[1])
        if level >= len(sizes):
            listed = ', '.join(
                f'level{n} ({w}x{h})' for n, (w, h) in enumerate(pyramid.level_sizes_wh)
            )
            raise SourceError(
                f'{str(pyramid.path)!r} has no level {level}; it has {listed}, or ask for a pixel '
                'size, for example --resolution 0.5um'
            )
        across, down = factors[level]
        return level, (across, down)
    wanted = _length(resolution, '--resolution')
    if source.unit == 'px':
        raise SourceError(
            f'{str(pyramid.path)!r} does not say how large its pixels are, so {resolution} means '
            'nothing; add --pixel-size, for example --pixel-size 0.25um, or ask for level0'
        )
    size = wanted.value * _TO_UNIT[wanted.unit, source.unit]
    scale = size / source.pixel_size_xy[0], size / source.pixel_size_xy[1]
    fine_enough = np.flatnonzero((factors <= np.array(scale) * 1.001).all(axis=1))
    return int(fine_enough[-1]) if len(fine_enough) else 0, scale


def _length(text: str, option: str) -> Length:
    try:
        return Length.parse(text)
    except ValueError as error:
        raise SourceError(f'{option}: {error}') from error
