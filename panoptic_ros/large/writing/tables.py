"""Tables of a large map: its objects, and counts, areas and densities by class and by zone."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyogrio.errors
import pyogrio.raw
import rasterio.features
import rasterio.warp
import shapely
from rasterio.crs import CRS

from panoptic_ros.errors import SourceError
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.large.reading.georeference import Georeference
from panoptic_ros.large.stitching import CLASSES, NODATA, Objects
from panoptic_ros.large.writing.whole_files import whole_file

Table = dict[str, np.ndarray]
"""Columns of one length by name."""

_CHUNK = 10000  # rows that are made to text at a time
_DENSITY_AREA = {'m': (1e6, 'km2'), 'um': (1e6, 'mm2'), 'px': (1e6, 'megapixel')}


@dataclass(frozen=True, eq=False)
class Zones:
    """Areas for which the classes are counted.

    Parameters
    ----------
    names
        One name each.
    geometry
        shapely polygons or multipolygons [n] in pixels of the map; they may overlap.
    """

    names: tuple[str, ...]
    geometry: np.ndarray

    @classmethod
    def read(
        cls, path: Path, georeference: Georeference, scale_xy: tuple[float, float]
    ) -> 'Zones':
        """Read a polygon layer that GDAL knows, and bring it to the pixels of the map.

        The column ``name`` names the zones if there is one, else their number. For a picture
        without a coordinate system the layer is in pixels of its finest level. Raises SourceError
        if the layer is unusable.
        """
        try:
            meta, _, wkb, columns = pyogrio.raw.read(path)
            geometry = shapely.from_wkb(wkb)
        except (pyogrio.errors.DataSourceError, OSError, shapely.GEOSException) as error:
            raise SourceError(
                f'zones {str(path)!r} cannot be read ({error}); expected polygons as GeoJSON, '
                'GeoPackage or Shapefile'
            ) from error
        kinds = set(shapely.get_type_id(geometry).tolist())
        if not len(geometry) or not kinds <= {3, 6}:
            raise SourceError(
                f'zones {str(path)!r} has {len(geometry)} geometries, not all of them polygons; '
                'expected one or more polygons'
            )
        fields = [str(name) for name in meta['fields']]
        numbers = [str(n) for n in range(1, len(geometry) + 1)]
        names = [str(v) for v in columns[fields.index('name')]] if 'name' in fields else numbers
        if georeference.crs_wkt:
            if not meta['crs']:
                raise SourceError(
                    f'zones {str(path)!r} has no coordinate system and the picture has one; '
                    'assign it, for example with ogr2ogr -a_srs'
                )
            geometry = shapely.transform(geometry, _between(meta['crs'], georeference.crs_wkt))
            geometry = shapely.transform(
                geometry, lambda points: np.stack(georeference.pixels(*points.T), axis=1)
            )
        else:
            geometry = shapely.transform(geometry, lambda points: points / scale_xy)
        return cls(tuple(names), geometry)


@dataclass(eq=False)
class ClassAreas:
    """Sums areas by class in zones, from rows that are added from top to bottom.

    The first zone is the whole picture.
    """

    georeference: Georeference
    zones: Zones
    area_px: np.ndarray = field(init=False)
    area: np.ndarray = field(init=False)
    _y: int = 0

    def __post_init__(self) -> None:
        shape = len(self.zones.names) + 1, CLASSES
        self.area_px, self.area = np.zeros(shape, np.int64), np.zeros(shape)

    def add(self, semantic: np.ndarray) -> None:
        """Add the next rows, uint16 [H, W]."""
        height, width = semantic.shape
        self._count(0, semantic, self._y)
        for number, zone in enumerate(self.zones.geometry, 1):
            x0, y0, x1, y1 = shapely.bounds(zone)
            x0, x1 = max(0, int(x0)), min(width, int(np.ceil(x1)))
            y0, y1 = max(self._y, int(y0)), min(self._y + height, int(np.ceil(y1)))
            if x0 >= x1 or y0 >= y1:
                continue
            inside = rasterio.features.rasterize(
                [zone], (y1 - y0, x1 - x0), transform=rasterio.Affine.translation(x0, y0)
            )
            part = semantic[y0 - self._y : y1 - self._y, x0:x1]
            self._count(number, np.where(inside, part, CLASSES), y0)
        self._y += height

    def _count(self, zone: int, semantic: np.ndarray, y: int) -> None:
        rows = y + np.arange(len(semantic)) + 0.5
        pixel_area = self.georeference.pixel_area(rows)
        if np.ptp(pixel_area) == 0:
            count = np.bincount(semantic.ravel(), minlength=CLASSES)[:CLASSES]
            self.area_px[zone] += count
            self.area[zone] += count * pixel_area[0]
            return
        for row, size in zip(semantic, pixel_area, strict=True):
            count = np.bincount(row, minlength=CLASSES)[:CLASSES]
            self.area_px[zone] += count
            self.area[zone] += count * size


def object_table(objects: Objects, label_set: LabelSet, georeference: Georeference) -> Table:
    """Return one row an object."""
    x, y = georeference.points(*objects.centroid_xy.T)
    area = objects.area_px * georeference.pixel_area(objects.centroid_xy[:, 1])
    x0, y0, x1, y1 = objects.box_xyxy.T
    return {
        'id': np.arange(1, len(objects) + 1),
        'class': np.array(label_set.names, object)[objects.class_id],
        'score': np.round(objects.score.astype(np.float64), 4),
        'area_px': objects.area_px,
        f'area_{georeference.unit}2': area,
        'centroid_x': x,
        'centroid_y': y,
        'x0_px': x0,
        'y0_px': y0,
        'x1_px': x1,
        'y1_px': y1,
    }


def class_table(areas: ClassAreas, objects: Objects, label_set: LabelSet) -> Table:
    """Return one row for each zone and class, the whole picture first.

    An object counts where its centroid lies. Shares and densities are of the area that has data.
    """
    unit = areas.georeference.unit
    per_area, per_name = _DENSITY_AREA[unit]
    names = [*label_set.names, 'void']
    chosen = [*range(len(label_set)), VOID]
    columns: dict[str, list] = {
        name: []
        for name in (
            'zone', 'class', 'kind', 'count', 'area_px', f'area_{unit}2', 'share',
            f'density_per_{per_name}',
        )
    }  # fmt: skip
    for zone, zone_name in enumerate(('', *areas.zones.names)):
        area = areas.area[zone]
        total = area[:NODATA].sum()
        inside = np.ones(len(objects), bool)
        if zone:
            inside = shapely.contains_xy(areas.zones.geometry[zone - 1], objects.centroid_xy)
        counts = np.bincount(objects.class_id[inside], minlength=256)
        for class_id, name in zip(chosen, names, strict=True):
            is_thing = bool(label_set.is_thing[class_id])
            count = int(counts[class_id]) if is_thing else 0
            kind = 'void' if class_id == VOID else 'thing' if is_thing else 'stuff'
            row = (
                zone_name, name, kind, count, int(areas.area_px[zone, class_id]), area[class_id],
                area[class_id] / total if total else 0.0,
                count / total * per_area if total else 0.0,
            )  # fmt: skip
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
    return {name: np.array(values) for name, values in columns.items()}


def write_table(path: Path, table: Table) -> None:
    """Write a table as ``.csv`` or ``.parquet``, whole or not at all."""
    with whole_file(path) as temporary:
        if path.suffix == '.parquet':
            import pyarrow
            import pyarrow.parquet

            pyarrow.parquet.write_table(pyarrow.table(table), temporary)
            return
        with temporary.open('w', encoding='utf-8', newline='') as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow(table)
            count = len(next(iter(table.values())))
            for start in range(0, count, _CHUNK):
                columns = (_texts(c[start : start + _CHUNK]) for c in table.values())
                writer.writerows(zip(*columns, strict=True))


def _texts(column: np.ndarray) -> Sequence:
    if column.dtype.kind == 'f':
        return [f'{value:.10g}' for value in column.tolist()]
    return column.tolist()


def _between(from_crs: str, to_crs: str) -> Callable[[np.ndarray], np.ndarray]:
    def change(points: np.ndarray) -> np.ndarray:
        x, y = rasterio.warp.transform(
            CRS.from_user_input(from_crs), CRS.from_wkt(to_crs), *points.T
        )
        return np.stack((x, y), axis=1)

    return change
