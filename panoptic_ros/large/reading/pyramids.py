"""Readers of large picture files, all behind one protocol: levels of pixels, read by rectangle.

Each reader imports its library when it is opened. None of them may be used by two threads at once.
"""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from panoptic_ros.errors import SourceError, one_line
from panoptic_ros.large.reading.georeference import Georeference, from_rasterio

SLIDE_SUFFIXES = ('.svs', '.ndpi', '.mrxs', '.scn', '.vms', '.vmu', '.bif', '.svslide')
TIFF_SUFFIXES = ('.tif', '.tiff', '.btf')

Box = tuple[int, int, int, int]
"""Pixels of a level: x0 y0 inclusive, x1 y1 exclusive."""

_UM = {'µm': 1.0, 'μm': 1.0, 'um': 1.0, 'nm': 1e-3, 'mm': 1e3, 'cm': 1e4, 'm': 1e6}


@dataclass(frozen=True)
class Bands:
    """What the bands of a picture are.

    Parameters
    ----------
    dtype
        numpy's name of the values' type.
    rgb
        Indices of the red, green and blue band; all the same for a grey picture; empty if that
        is not known.
    count
        Number of bands, without those that say which pixels have data.
    """

    dtype: str
    rgb: tuple[int, ...]
    count: int


class Pyramid(Protocol):
    """A picture file at one or more levels of detail, the finest first."""

    path: Path
    bands: Bands
    level_sizes_wh: tuple[tuple[int, int], ...]
    georeference: Georeference  # of level 0

    def read(self, level: int, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Return bands [H, W, bands] and where there are data, bool [H, W].

        ``box`` lies within the level. Raises SourceError if the file cannot be read there.
        """

    def close(self) -> None:
        """Close the file."""


def open_pyramid(path: str | Path) -> Pyramid:
    """Open a slide, an OME-TIFF or pyramidal TIFF, or whatever GDAL reads.

    Raises SourceError if there is no such file, or nothing reads it.
    """
    path = Path(path)
    if not path.is_file():
        raise SourceError(
            f'source {str(path)!r} does not exist or is not a file; expected a picture, a GeoTIFF '
            'or a slide'
        )
    if path.suffix.lower() in SLIDE_SUFFIXES:
        return OpenSlidePyramid(path)
    if path.suffix.lower() in TIFF_SUFFIXES and _is_microscopy(path):
        return TifffilePyramid(path)
    return RasterioPyramid(path)


@contextmanager
def _readable(path: Path, *errors: type[Exception]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        text = one_line(error)
        raise SourceError(
            f'{str(path)!r} cannot be read ({text}); it is truncated, damaged or of an unknown '
            'kind: copy it again or convert it to a tiled TIFF'
        ) from error


class RasterioPyramid:
    """Whatever GDAL reads: GeoTIFF, COG, BigTIFF, JPEG 2000, PNG, JPEG, VRT."""

    def __init__(self, path: Path) -> None:
        import rasterio
        from rasterio.enums import ColorInterp
        from rasterio.errors import RasterioError

        self.path = path
        self._errors = (RasterioError, OSError)
        with quiet_about_georeference(), _readable(path, *self._errors):
            self._dataset = rasterio.open(path)
            self._levels = [self._dataset]
            factors = self._dataset.overviews(1) if self._dataset.count else []
            self._levels += [
                rasterio.open(path, overview_level=level) for level in range(len(factors))
            ]
        first = self._dataset
        if not first.count:
            raise SourceError(
                f'{str(path)!r} has no bands; it is a container: name one of its subdatasets, '
                f'such as {first.subdatasets[0] if first.subdatasets else "none is listed"!r}'
            )
        kinds = list(first.colorinterp)
        self._indexes = [n + 1 for n, kind in enumerate(kinds) if kind != ColorInterp.alpha]
        self._palette = None
        if kinds[0] == ColorInterp.palette:
            table = first.colormap(1)
            self._palette = np.zeros((256, 3), np.uint8)
            for value, color in table.items():
                self._palette[value] = color[:3]
        colors = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
        count = 3 if self._palette is not None else len(self._indexes)
        if all(color in kinds for color in colors):
            rgb = tuple(self._indexes.index(kinds.index(color) + 1) for color in colors)
        else:
            rgb = (0, 0, 0) if count == 1 else (0, 1, 2) if count == 3 else ()
        dtypes = {first.dtypes[n - 1] for n in self._indexes}
        self.bands = Bands(np.result_type(*dtypes).name, rgb, count)
        self.level_sizes_wh = tuple((level.width, level.height) for level in self._levels)
        self.georeference = from_rasterio(
            first.crs, tuple(first.transform), self.level_sizes_wh[0]
        )

    def read(self, level: int, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Read a rectangle of a level."""
        from rasterio.windows import Window

        x0, y0, x1, y1 = box
        window = Window(x0, y0, x1 - x0, y1 - y0)
        dataset = self._levels[level]
        with _readable(self.path, *self._errors):
            values = dataset.read(self._indexes, window=window)
            is_valid = dataset.dataset_mask(window=window) > 0
        values = values.transpose(1, 2, 0)
        if self._palette is not None:
            values = self._palette[values[:, :, 0]]
        return values, is_valid

    def close(self) -> None:
        """Close the file."""
        for level in self._levels:
            level.close()


class TifffilePyramid:
    """OME-TIFF and pyramidal TIFF of microscopes, by tifffile."""

    def __init__(self, path: Path) -> None:
        import tifffile

        self.path = path
        self._errors = (tifffile.TiffFileError, OSError, ValueError, NotImplementedError)
        with _readable(path, *self._errors):
            self._file = tifffile.TiffFile(path)
            series = self._file.series[0]
            self._levels = list(series.levels)
            axes = series.axes
            if axes not in ('YX', 'YXS', 'CYX', 'SYX'):
                raise SourceError(
                    f'{str(path)!r} has the axes {axes}; expected one picture, YX with or '
                    'without channels: choose how to read a stack with --stack time or --stack z'
                )
            self._x_axis = axes.index('X')
            count = math.prod(
                n for n, axis in zip(series.shape, axes, strict=True) if axis in 'CS'
            )
            photometric = series.keyframe.photometric.name
            has_alpha = photometric == 'RGB' and count == 4
            count -= has_alpha
            rgb = (0, 0, 0) if count == 1 else (0, 1, 2) if axes != 'CYX' and count == 3 else ()
            self.bands = Bands(series.dtype.name, rgb, count)
            self.level_sizes_wh = tuple(
                (level.shape[self._x_axis], level.shape[self._x_axis - 1])
                for level in self._levels
            )
            self.georeference = _microscope_scale(self._file)
        self._decode = lru_cache(maxsize=64)(self._decode_segment)

    def read(self, level: int, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Read a rectangle of a level."""
        with _readable(self.path, *self._errors):
            pages = self._levels[level].pages
            parts = [self._read_page(level, number, box) for number in range(len(pages))]
        values = np.concatenate(parts, axis=2)
        is_valid = np.ones(values.shape[:2], bool)
        if values.shape[2] > self.bands.count:
            is_valid = values[:, :, -1] > 0
        return values[:, :, : self.bands.count], is_valid

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_page(self, level: int, number: int, box: Box) -> np.ndarray:
        page = self._levels[level].pages[number]
        frame = page.keyframe
        x0, y0, x1, y1 = box
        # tifffile's normalized shape: separate samples, depth, rows, columns, joined samples.
        planes, _, rows, columns, samples = frame.shaped
        high, wide = (
            (frame.tilelength, frame.tilewidth)
            if frame.is_tiled
            else (frame.rowsperstrip, columns)
        )
        across, down = -(-columns // wide), -(-rows // high)
        out = np.zeros((planes, y1 - y0, x1 - x0, samples), frame.dtype)
        for plane in range(planes):
            for row in range(y0 // high, -(-y1 // high)):
                for column in range(x0 // wide, -(-x1 // wide)):
                    segment = self._decode(level, number, (plane * down + row) * across + column)
                    if segment is None:  # left out of the file: empty
                        continue
                    top, left = row * high, column * wide
                    piece = segment[max(0, y0 - top) : y1 - top, max(0, x0 - left) : x1 - left]
                    y, x = max(y0, top) - y0, max(x0, left) - x0
                    out[plane, y : y + piece.shape[0], x : x + piece.shape[1]] = piece
        return out.transpose(1, 2, 0, 3).reshape(y1 - y0, x1 - x0, planes * samples)

    def _decode_segment(self, level: int, number: int, index: int) -> np.ndarray | None:
        page = self._levels[level].pages[number]
        frame = page.keyframe
        count = page.databytecounts[index]
        if not count:
            return None
        handle = self._file.filehandle
        handle.seek(page.dataoffsets[index])
        data = handle.read(count)
        if len(data) < count:
            raise OSError(f'the file ends within segment {index}')
        options = {'_fullsize': frame.is_tiled}
        if frame.compression.name.endswith('JPEG'):
            options |= {'jpegtables': page.jpegtables, 'jpegheader': frame.jpegheader}
        segment, _, _ = frame.decode(data, index, **options)
        return None if segment is None else segment[0]


class OpenSlidePyramid:
    """Whole slides of scanners, by OpenSlide."""

    bands = Bands('uint8', (0, 1, 2), 3)

    def __init__(self, path: Path) -> None:
        import openslide

        self.path = path
        self._errors = (openslide.OpenSlideError, OSError)
        with _readable(path, *self._errors):
            self._slide = openslide.OpenSlide(path)
        self.level_sizes_wh = tuple(self._slide.level_dimensions)
        names = openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y
        mpp = [float(self._slide.properties.get(name, 0)) for name in names]
        self.georeference = (
            Georeference((mpp[0], mpp[1]), 'um') if min(mpp) > 0 else Georeference()
        )

    def read(self, level: int, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Read a rectangle of a level."""
        x0, y0, x1, y1 = box
        factor = self._slide.level_downsamples[level]
        with _readable(self.path, *self._errors):
            # OpenSlide counts the corner in pixels of level 0.
            corner = round(x0 * factor), round(y0 * factor)
            rgba = np.asarray(self._slide.read_region(corner, level, (x1 - x0, y1 - y0)))
        return rgba[:, :, :3], rgba[:, :, 3] > 0

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


@contextmanager
def quiet_about_georeference() -> Iterator[None]:
    """Let rasterio open pictures without a georeference silently."""
    import warnings

    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter('ignore', NotGeoreferencedWarning)
        yield


def _is_microscopy(path: Path) -> bool:
    """Whether a TIFF is OME or has its levels where GDAL does not look."""
    import tifffile

    errors = tifffile.TiffFileError, OSError, ValueError
    with _readable(path, *errors), tifffile.TiffFile(path) as file:
        if file.is_geotiff or not file.pages:
            return False
        return file.is_ome or len(file.pages.first.subifds or ()) > 0 or len(file.pages) > 1


def _microscope_scale(file: Any) -> Georeference:
    """Return the size of a pixel from OME's description or from the tags in centimetres."""
    if file.is_ome:
        root = ElementTree.fromstring(file.ome_metadata)
        pixels = next((e for e in root.iter() if e.tag.endswith('}Pixels')), None)
        size = [
            float(pixels.get(f'PhysicalSize{axis}', 0))
            * _UM.get(pixels.get(f'PhysicalSize{axis}Unit', 'µm'), 0)
            for axis in 'XY'
        ]
        return Georeference((size[0], size[1]), 'um') if min(size) > 0 else Georeference()
    tags = file.pages.first.tags
    unit, *resolution = (
        tags.get(name) for name in ('ResolutionUnit', 'XResolution', 'YResolution')
    )
    if unit is None or int(unit.value) != 3 or None in resolution:
        return Georeference()
    size = [1e4 * t.value[1] / t.value[0] if t.value[0] else 0 for t in resolution]
    return Georeference((size[0], size[1]), 'um') if 0 < min(size) < 100 else Georeference()
