"""The label raster: a GeoTIFF with the class in band 1 and the instance id in band 2."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window

from panoptic_ros.errors import SourceError
from panoptic_ros.labels import LabelClass, LabelSet
from panoptic_ros.large.reading.georeference import Georeference, from_rasterio
from panoptic_ros.large.reading.pyramids import quiet_about_georeference
from panoptic_ros.large.stitching import NODATA
from panoptic_ros.large.writing.whole_files import whole_file

RASTER_NODATA = 4294967295
"""Value of both bands where the source has no data. Its last byte is VOID, 255."""

BLOCK = 512
CACHE_MB = 128
"""Memory that GDAL may take for blocks."""

_LABELS_TAG, _SIZE_TAG = 'PANOPTIC_LABELS', 'PANOPTIC_PIXEL_SIZE'


class RowWriter:
    """Writes rows of any number to a tiled raster, a row of blocks at a time."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        shape = dataset.count, BLOCK, dataset.width
        self._rows = np.empty(shape, dataset.dtypes[0])
        self._filled = 0
        self._next = 0

    def add(self, rows: np.ndarray) -> None:
        """Add the next rows, [bands, rows, width] of the raster's type."""
        start = 0
        while start < rows.shape[1]:
            count = min(BLOCK - self._filled, rows.shape[1] - start)
            self._rows[:, self._filled : self._filled + count] = rows[:, start : start + count]
            self._filled += count
            start += count
            if self._filled == BLOCK:
                self.finish()

    def finish(self) -> None:
        """Write what is left."""
        if self._filled:
            window = Window(0, self._next, self._rows.shape[2], self._filled)
            self._dataset.write(self._rows[:, : self._filled], window=window)
        self._next += self._filled
        self._filled = 0


@contextmanager
def new_raster(
    path: Path,
    size_wh: tuple[int, int],
    georeference: Georeference,
    dtype: str,
    nodata: float,
    descriptions: tuple[str, ...],
    tags: dict[str, str],
) -> Iterator[RowWriter]:
    """Write a tiled, compressed GeoTIFF with overviews, whole or not at all.

    Raises PanopticRosError if it cannot be written.
    """
    profile = {
        'driver': 'GTiff',
        'width': size_wh[0],
        'height': size_wh[1],
        'count': len(descriptions),
        'dtype': dtype,
        'nodata': nodata,
        'tiled': True,
        'blockxsize': BLOCK,
        'blockysize': BLOCK,
        'interleave': 'band',
        'compress': 'deflate',
        'zlevel': 1,
        'num_threads': 2,
        'bigtiff': 'if_safer',
    }
    if georeference.crs_wkt:
        profile['crs'] = rasterio.crs.CRS.from_wkt(georeference.crs_wkt)
        profile['transform'] = Affine(*georeference.transform)
    options = {'GDAL_CACHEMAX': CACHE_MB, 'COMPRESS_OVERVIEW': 'DEFLATE', 'ZLEVEL_OVERVIEW': 1}
    with (
        whole_file(path, RasterioError) as temporary,
        rasterio.Env(**options),
        quiet_about_georeference(),
    ):
        with rasterio.open(temporary, 'w', **profile) as dataset:
            dataset.update_tags(**tags)
            for index, text in enumerate(descriptions, 1):
                dataset.set_band_description(index, text)
            writer = RowWriter(dataset)
            yield writer
            writer.finish()
        factors = [2**n for n in range(1, 20) if max(size_wh) / 2 ** (n - 1) > BLOCK]
        if factors:
            with rasterio.open(temporary, 'r+') as dataset:
                dataset.build_overviews(factors, Resampling.nearest)
        _check_readable(temporary)


@contextmanager
def new_label_raster(
    path: Path, size_wh: tuple[int, int], georeference: Georeference, label_set: LabelSet
) -> Iterator['LabelRows']:
    """Write a label raster, whole or not at all; rows are added from top to bottom."""
    classes = [
        {'name': c.name, 'thing': c.is_thing, 'color': list(c.color_rgb), 'id': c.category_id}
        for c in label_set.classes
    ]
    tags = {
        _LABELS_TAG: json.dumps({'name': label_set.name, 'classes': classes}),
        _SIZE_TAG: json.dumps([*georeference.pixel_size_xy, georeference.unit]),
    }
    bands = ('class', 'instance')
    with new_raster(path, size_wh, georeference, 'uint32', RASTER_NODATA, bands, tags) as writer:
        yield LabelRows(writer)


class LabelRows:
    """Rows of a label raster, from top to bottom."""

    def __init__(self, writer: RowWriter) -> None:
        self._writer = writer

    def add(self, semantic: np.ndarray, instance: np.ndarray) -> None:
        """Add the next rows: class map uint16 with VOID and NODATA, instance map uint32."""
        rows = np.stack((semantic.astype(np.uint32), instance.astype(np.uint32)))
        rows[:, semantic == NODATA] = RASTER_NODATA
        self._writer.add(rows)


@dataclass(frozen=True, eq=False)
class LabelRaster:
    """An open label raster.

    Parameters
    ----------
    dataset
        rasterio's.
    label_set
        The classes that its file names.
    georeference
        Of its pixels.
    """

    dataset: Any
    label_set: LabelSet
    georeference: Georeference

    @classmethod
    def open(cls, path: Path) -> 'LabelRaster':
        """Open a label raster; raises SourceError if it is none, or cannot be read."""
        with quiet_about_georeference():
            try:
                dataset = rasterio.open(path)
            except (RasterioError, OSError) as error:
                raise SourceError(
                    f'{str(path)!r} cannot be read ({error}); expected a label raster that '
                    'panoptic map wrote'
                ) from error
        tags = dataset.tags()
        if dataset.count != 2 or _LABELS_TAG not in tags:
            dataset.close()
            raise SourceError(
                f'{str(path)!r} is not a label raster; expected labels.tif as panoptic map writes '
                'it, or a picture and --model'
            )
        content = json.loads(tags[_LABELS_TAG])
        label_set = LabelSet(
            content['name'],
            tuple(
                LabelClass(c['name'], c['thing'], tuple(c['color']), c['id'])
                for c in content['classes']
            ),
        )
        size_wh = dataset.width, dataset.height
        georeference = from_rasterio(dataset.crs, tuple(dataset.transform), size_wh)
        if not georeference.crs_wkt:
            *pixel_size, unit = json.loads(tags[_SIZE_TAG])
            georeference = Georeference(tuple(pixel_size), unit)
        return cls(dataset, label_set, georeference)


def labels_from_raster(bands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return class map uint16 and instance map uint32 from the bands of a label raster."""
    semantic, instance = bands
    no_data = semantic == RASTER_NODATA
    return (
        np.where(no_data, NODATA, semantic).astype(np.uint16),
        np.where(no_data, 0, instance).astype(np.uint32),
    )


def _check_readable(path: Path) -> None:
    """Read the last blocks: GDAL does not report every block that it could not write."""
    with rasterio.open(path) as dataset:
        for index in range(1, dataset.count + 1):
            window = Window(
                max(0, dataset.width - BLOCK), max(0, dataset.height - BLOCK), BLOCK, BLOCK
            )
            dataset.read(
                index, window=window.intersection(Window(0, 0, dataset.width, dataset.height))
            )
