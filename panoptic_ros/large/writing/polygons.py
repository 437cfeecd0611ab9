"""Outlines of the objects and the areas of a large map, found strip by strip.

Outlines follow the sides of the pixels. An object that lies in several strips is joined from its
parts when the last of them has been seen, so that only unfinished objects are in memory. Areas
without instances have no bound; they are cut along a grid of cells.
"""

import json
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import rasterio.features
import rasterio.warp
import shapely
from rasterio.crs import CRS

from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.large.reading.georeference import Georeference
from panoptic_ros.large.stitching import CLASSES, Objects
from panoptic_ros.large.writing.whole_files import whole_file

CELL = 2048
"""Side of the cells along which areas without instances are cut, pixels."""

_WGS84 = CRS.from_epsg(4326)
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
    with_stuff
        Also outline what has no instance, except for void and no data.
    """

    width: int
    class_of_id: np.ndarray
    end_of_id: np.ndarray
    with_stuff: bool = False
    _y: int = 0
    _parts: dict[int, list[Any]] = field(default_factory=dict)

    @classmethod
    def of_objects(cls, objects: Objects, width: int, with_stuff: bool) -> 'Outliner':
        """Return one for a map with these objects."""
        none = np.zeros(1, np.int64)
        return cls(
            width,
            np.concatenate((none, objects.class_id)),
            np.concatenate((none, objects.box_xyxy[:, 3])),
            with_stuff,
        )

    def add(self, semantic: np.ndarray, instance: np.ndarray) -> Iterator[Outlines]:
        """Add the next rows and give the outlines that no later row can change."""
        start = 0
        while start < len(semantic):
            # Cells end at the same rows, whatever rows come together.
            stop = min(len(semantic), start + CELL - self._y % CELL)
            self._find(semantic[start:stop], instance[start:stop])
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

    def _find(self, semantic: np.ndarray, instance: np.ndarray) -> None:
        value = instance.astype(np.int32)
        if self.with_stuff:
            column = np.arange(self.width, dtype=np.int32) // CELL
            is_area = (instance == 0) & (semantic < VOID)
            value = np.where(is_area, -(column * CLASSES + semantic) - 1, value)
        shift = rasterio.Affine.translation(0, self._y)
        for shape, number in rasterio.features.shapes(value, value != 0, 4, shift):
            rings = shape['coordinates']
            self._parts.setdefault(int(number), []).append(shapely.Polygon(rings[0], rings[1:]))
        self._y += len(semantic)

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
        return Outlines(
            ids, np.where(key > 0, self.class_of_id[ids], (-key - 1) % CLASSES), geometry
        )


class PolygonFiles:
    """Writes outlines to the files asked for.

    Use as a context manager: the files get their names when it ends well.

    Parameters
    ----------
    folder, formats
        ``gpkg`` writes polygons.gpkg in the picture's coordinate system, ``geojson``
        polygons.geojson in degrees (RFC 7946), ``qupath`` qupath.geojson in pixels of the file's
        finest level. Without a coordinate system all of them are in such pixels.
    """

    def __init__(
        self,
        folder: Path,
        formats: Sequence[str],
        label_set: LabelSet,
        georeference: Georeference,
        scale_xy: tuple[float, float],
        objects: Objects,
    ) -> None:
        self._folder, self._formats = folder, formats
        self._label_set, self._georeference = label_set, georeference
        self._scale_xy, self._objects = scale_xy, objects
        self._stack = ExitStack()

    def __enter__(self) -> 'PolygonFiles':
        self._writers = []
        unit = self._georeference.unit
        with ExitStack() as stack:
            for kind in self._formats:
                if kind == 'gpkg':
                    path = stack.enter_context(whole_file(self._folder / 'polygons.gpkg'))
                    writer = stack.enter_context(_geopackage(path, self._georeference, unit))
                elif kind == 'geojson':
                    path = stack.enter_context(whole_file(self._folder / 'polygons.geojson'))
                    writer = stack.enter_context(_geojson(path, self._geojson_features))
                else:
                    path = stack.enter_context(whole_file(self._folder / 'qupath.geojson'))
                    writer = stack.enter_context(_geojson(path, self._qupath_features))
                self._writers.append(writer)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> bool | None:
        return self._stack.__exit__(*exception)

    def add(self, outlines: Outlines) -> None:
        """Write some outlines."""
        if len(outlines.id):
            columns = self._columns(outlines)
            for writer in self._writers:
                writer(outlines, columns)

    def _columns(self, outlines: Outlines) -> dict[str, np.ndarray]:
        """Return what is written beside each outline."""
        is_object = outlines.id > 0
        row = outlines.id - 1
        centroid = shapely.get_coordinates(shapely.centroid(outlines.geometry))
        area_px = shapely.area(outlines.geometry)
        score = np.ones(len(row), np.float64)
        score[is_object] = self._objects.score[row[is_object]]
        names = np.array([*self._label_set.names], object)
        x, y = self._georeference.points(*centroid.T)
        return {
            'id': outlines.id,
            'class': names[outlines.class_id],
            'score': np.round(score, 4),
            f'area_{self._georeference.unit}2': area_px
            * self._georeference.pixel_area(centroid[:, 1]),
            'centroid_x': x,
            'centroid_y': y,
        }

    def _geojson_features(
        self, outlines: Outlines, columns: dict[str, np.ndarray]
    ) -> Iterator[dict[str, Any]]:
        geometry = _moved(outlines.geometry, self._georeference)
        if self._georeference.crs_wkt:
            geometry = _to_wgs84(geometry, self._georeference.crs_wkt)
        for row, shape in enumerate(shapely.to_geojson(geometry)):
            properties = {name: _plain(column[row]) for name, column in columns.items()}
            yield {'type': 'Feature', 'properties': properties, 'geometry': json.loads(shape)}

    def _qupath_features(
        self, outlines: Outlines, columns: dict[str, np.ndarray]
    ) -> Iterator[dict[str, Any]]:
        geometry = shapely.transform(outlines.geometry, lambda points: points * self._scale_xy)
        unit = self._georeference.unit
        area_name = 'Area µm^2' if unit == 'um' else f'Area {unit}^2'
        area = columns[f'area_{unit}2']
        for row, shape in enumerate(shapely.to_geojson(geometry)):
            number, class_id = int(outlines.id[row]), int(outlines.class_id[row])
            label = self._label_set.classes[class_id]
            name = f'{number}' if number else f'{class_id} {shape}'
            yield {
                'type': 'Feature',
                'id': str(uuid.uuid5(_QUPATH_NAMES, name)),
                'geometry': json.loads(shape),
                'properties': {
                    'objectType': 'detection' if number else 'annotation',
                    'classification': {'name': label.name, 'color': list(label.color_rgb)},
                    'measurements': {
                        'Score': float(columns['score'][row]),
                        area_name: round(float(area[row]), 4),
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
def _geopackage(path: Path, georeference: Georeference, unit: str) -> Iterator[Any]:
    crs = georeference.crs_wkt or None
    # Otherwise the file holds the time of writing, and no two runs give the same bytes.
    pyogrio.set_gdal_config_options({'OGR_CURRENT_DATE': '1970-01-01T00:00:00.000Z'})

    def write(outlines: Outlines, columns: dict[str, np.ndarray]) -> None:
        with warnings.catch_warnings():
            # A picture may have no coordinate system.
            warnings.filterwarnings('ignore', "'crs' was not provided")
            pyogrio.raw.write(
                path,
                geometry=shapely.to_wkb(_moved(outlines.geometry, georeference)),
                field_data=list(columns.values()),
                fields=list(columns),
                layer='polygons',
                driver='GPKG',
                geometry_type='Unknown',
                crs=crs,
                append=path.exists(),
            )

    yield write
    if not path.exists():
        none = np.zeros(0)
        names = 'id', 'class', 'score', f'area_{unit}2', 'centroid_x', 'centroid_y'
        dtypes = np.int64, object, *[np.float64] * 4
        write(
            Outlines(none, none, np.zeros(0, object)),
            {name: np.zeros(0, dtype) for name, dtype in zip(names, dtypes, strict=True)},
        )


@contextmanager
def _geojson(path: Path, features: Any) -> Iterator[Any]:
    """Write a feature collection, one feature a line."""
    with path.open('w', encoding='utf-8') as file:
        file.write('{"type": "FeatureCollection", "features": [')
        separator = '\n'

        def write(outlines: Outlines, columns: dict[str, np.ndarray]) -> None:
            nonlocal separator
            for feature in features(outlines, columns):
                file.write(separator + json.dumps(feature))
                separator = ',\n'

        yield write
        file.write('\n]}\n')


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
