"""Outlines of the objects and the areas of a large map, found strip by strip.

Outlines follow the sides of the pixels. An object that lies in several strips is joined from its
parts when the last of them has been seen, so that only unfinished objects are in memory. Areas
without instances have no bound; they are cut along a grid of cells.
"""

import json
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.errors
import pyogrio.raw
import rasterio.features
import rasterio.warp
import shapely
from rasterio.crs import CRS

from panoptic_ros.labels import LabelSet
from panoptic_ros.large.reading.georeference import Georeference
from panoptic_ros.large.stitching import CLASSES, Objects
from panoptic_ros.large.writing.whole_files import whole_file

CELL = 2048
"""Side of the cells along which areas without instances are cut, pixels."""

_WGS84 = CRS.from_epsg(4326)
_GDAL_ERRORS = pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError
_QUPATH_NAMES = uuid.UUID('3b0e7a52-52c6-4a9b-8f0e-5d0b8d1f7a11')


@dataclass(frozen=True, eq=False)
class Outlines:
    """Some objects or areas with their outlines.

    Parameters
    ----------
    id
        int64 [n], the instance id; 0 for an area.
    class_id
        int64 [n].
    geometry
        shapely polygons or multipolygons [n], valid, in pixels.
    """

    id: np.ndarray
    class_id: np.ndarray
    geometry: np.ndarray


@dataclass(eq=False)
class Outliner:
    """Finds outlines in rows that are added from top to bottom.

    Parameters
    ----------
    width
        Columns of the map.
    class_of_id
        uint8 [largest id + 1].
    end_of_id
        int [largest id + 1], the first row below each object.
    kinds
        Number of kinds of areas.
    """

    width: int
    class_of_id: np.ndarray
    end_of_id: np.ndarray
    kinds: int = CLASSES
    _y: int = 0
    _parts: dict[int, list[Any]] = field(default_factory=dict)

    @classmethod
    def of_objects(cls, objects: Objects, width: int) -> 'Outliner':
        """Return one for a map with these objects, whose kinds of areas are classes."""
        none = np.zeros(1, np.int64)
        return cls(
            width,
            np.concatenate((none, objects.class_id)),
            np.concatenate((none, objects.box_xyxy[:, 3])),
        )

    def add(self, instance: np.ndarray, area: np.ndarray | None = None) -> Iterator[Outlines]:
        """Add the next rows and give the outlines that no later row can change.

        Parameters
        ----------
        instance
            uint32 [H, width], ids, 0 for none.
        area
            int32 [H, width], the kind of area where there is no instance, -1 for none.
        """
        start, height = 0, len(instance)
        while start < height:
            # Cells end at the same rows, whatever rows come together.
            stop = min(height, start + CELL - self._y % CELL)
            value = instance[start:stop].astype(np.int32)
            if area is not None:
                column = np.arange(self.width, dtype=np.int32) // CELL
                part = area[start:stop]
                is_area = (value == 0) & (part >= 0)
                value = np.where(is_area, -(column * np.int32(self.kinds) + part) - 1, value)
            self._find(value)
            yield self._take(
                [
                    key
                    for key in self._parts
                    if (self.end_of_id[key] <= self._y if key > 0 else self._y % CELL == 0)
                ]
            )
            start = stop

    def finish(self) -> Outlines:
        """Give what is left after the last row."""
        return self._take(list(self._parts))

    def _find(self, value: np.ndarray) -> None:
        """Outline the parts of a strip: ids above 0, areas below."""
        shift = rasterio.Affine.translation(0, self._y)
        for shape, number in rasterio.features.shapes(value, value != 0, 4, shift):
            rings = shape['coordinates']
            self._parts.setdefault(int(number), []).append(shapely.Polygon(rings[0], rings[1:]))
        self._y += len(value)

    def _take(self, keys: Sequence[int]) -> Outlines:
        keys = sorted(keys)
        geometry = np.empty(len(keys), object)
        for row, key in enumerate(keys):
            parts = self._parts.pop(key)
            # Where two parts meet, points remain in straight lines.
            geometry[row] = parts[0] if len(parts) == 1 else shapely.union_all(parts).simplify(0)
        invalid = ~shapely.is_valid(geometry)
        geometry[invalid] = shapely.make_valid(geometry[invalid])
        key = np.array(keys, np.int64)
        ids = np.maximum(key, 0)
        kind = np.where(key > 0, self.class_of_id[ids], (-key - 1) % self.kinds)
        return Outlines(ids, kind, geometry)


@dataclass(frozen=True, eq=False)
class Described:
    """Outlines with their columns by name, one value an outline.

    ``label`` is what QuPath calls each, ``color_rgb`` how it draws it, ``measurements`` the names
    of the columns it shows as such.
    """

    outlines: Outlines
    columns: dict[str, np.ndarray]
    label: Sequence[str] = ()
    color_rgb: Sequence[tuple[int, int, int]] = ()
    measurements: Sequence[str] = ()


def describe_objects(
    outlines: Outlines, objects: Objects, label_set: LabelSet, georeference: Georeference
) -> Described:
    """Describe the objects and areas of a map."""
    row = outlines.id - 1
    score = np.ones(len(row))
    score[row >= 0] = objects.score[row[row >= 0]]
    names = np.array([*label_set.names], object)[outlines.class_id]
    geometry = geometry_columns(outlines, georeference)
    return Described(
        outlines,
        {'id': outlines.id, 'class': names, 'score': np.round(score, 4), **geometry},
        names,
        [label_set.classes[class_id].color_rgb for class_id in outlines.class_id],
        ('score', f'area_{georeference.unit}2'),
    )


def geometry_columns(outlines: Outlines, georeference: Georeference) -> dict[str, np.ndarray]:
    """Return area and centroid of each outline."""
    centroid = shapely.get_coordinates(shapely.centroid(outlines.geometry))
    area = shapely.area(outlines.geometry) * georeference.pixel_area(centroid[:, 1])
    x, y = georeference.points(*centroid.T)
    return {f'area_{georeference.unit}2': area, 'centroid_x': x, 'centroid_y': y}


class PolygonFiles:
    """Writes outlines to the files asked for, which get their names when all is written.

    Use as a context manager.

    Parameters
    ----------
    folder, stem, formats
        ``gpkg`` writes STEM.gpkg in the picture's coordinate system, ``geojson`` STEM.geojson in
        degrees (RFC 7946), ``qupath`` qupath.geojson in pixels of the file's finest level.
        Without a coordinate system all of them are in such pixels.
    georeference, scale_xy
        Where the pixels lie, and their size in pixels of the finest level.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        formats: Sequence[str],
        georeference: Georeference,
        scale_xy: tuple[float, float],
    ) -> None:
        self._folder, self._stem, self._formats = folder, stem, formats
        self._georeference, self._scale_xy = georeference, scale_xy
        self._writers: list[Callable[[Described], None]] = []
        self._stack = ExitStack()

    def __enter__(self) -> 'PolygonFiles':
        with ExitStack() as stack:
            for kind in self._formats:
                suffix = 'gpkg' if kind == 'gpkg' else 'geojson'
                stem = 'qupath' if kind == 'qupath' else self._stem
                path = stack.enter_context(
                    whole_file(self._folder / f'{stem}.{suffix}', *_GDAL_ERRORS)
                )
                if kind == 'gpkg':
                    writer = _geopackage(path, self._georeference)
                else:
                    is_qupath = kind == 'qupath'
                    features = self._qupath_features if is_qupath else self._geojson_features
                    writer = _geojson(path, features)
                self._writers.append(stack.enter_context(writer))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> bool | None:
        return self._stack.__exit__(*exception)

    def add(self, described: Described) -> None:
        """Write some outlines; also without any, which names the columns."""
        for writer in self._writers:
            writer(described)

    def _geojson_features(self, described: Described) -> Iterator[dict[str, Any]]:
        geometry = _moved(described.outlines.geometry, self._georeference)
        if self._georeference.crs_wkt:
            geometry = _to_wgs84(geometry, self._georeference.crs_wkt)
        for row, shape in enumerate(shapely.to_geojson(geometry)):
            properties = {name: _plain(c[row]) for name, c in described.columns.items()}
            yield {'type': 'Feature', 'properties': properties, 'geometry': json.loads(shape)}

    def _qupath_features(self, described: Described) -> Iterator[dict[str, Any]]:
        outlines = described.outlines
        geometry = shapely.transform(outlines.geometry, lambda points: points * self._scale_xy)
        for row, shape in enumerate(shapely.to_geojson(geometry)):
            number, kind = int(outlines.id[row]), int(outlines.class_id[row])
            name = f'{number}' if number else f'{kind} {shape}'
            label, color = described.label[row], described.color_rgb[row]
            yield {
                'type': 'Feature',
                'id': str(uuid.uuid5(_QUPATH_NAMES, name)),
                'geometry': json.loads(shape),
                'properties': {
                    'objectType': 'detection' if number else 'annotation',
                    'classification': {'name': label, 'color': list(color)},
                    'measurements': {
                        name: round(float(described.columns[name][row]), 4)
                        for name in described.measurements
                    },
                },
            }


def _moved(geometry: np.ndarray, georeference: Georeference) -> np.ndarray:
    return shapely.transform(
        geometry, lambda points: np.stack(georeference.points(*points.T), axis=1)
    )


def _to_wgs84(geometry: np.ndarray, crs_wkt: str) -> np.ndarray:
    def degrees(points: np.ndarray) -> np.ndarray:
        x, y = rasterio.warp.transform(CRS.from_wkt(crs_wkt), _WGS84, *points.T)
        return np.round(np.stack((x, y), axis=1), 9)

    return shapely.transform(geometry, degrees)


@contextmanager
def _geopackage(path: Path, georeference: Georeference) -> Iterator[Callable[[Described], None]]:
    # Otherwise the file holds the time of writing, and no two runs give the same bytes.
    pyogrio.set_gdal_config_options({'OGR_CURRENT_DATE': '1970-01-01T00:00:00.000Z'})

    def write(described: Described) -> None:
        if path.exists() and not len(described.outlines.id):
            return
        with warnings.catch_warnings():
            # A picture may have no coordinate system.
            warnings.filterwarnings('ignore', "'crs' was not provided")
            pyogrio.raw.write(
                path,
                geometry=shapely.to_wkb(_moved(described.outlines.geometry, georeference)),
                field_data=list(described.columns.values()),
                fields=list(described.columns),
                layer='polygons',
                driver='GPKG',
                geometry_type='Unknown',
                crs=georeference.crs_wkt or None,
                append=path.exists(),
            )

    yield write


@contextmanager
def _geojson(
    path: Path, features: Callable[[Described], Iterator[dict[str, Any]]]
) -> Iterator[Callable[[Described], None]]:
    """Write a feature collection, one feature a line."""
    with path.open('w', encoding='utf-8') as file:
        file.write('{"type": "FeatureCollection", "features": [')
        separator = '\n'

        def write(described: Described) -> None:
            nonlocal separator
            for feature in features(described):
                file.write(separator + json.dumps(feature))
                separator = ',\n'

        yield write
        file.write('\n]}\n')


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
