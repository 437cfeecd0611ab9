"""From a large picture to its map on disk: segment the bands, stitch them, write the results."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.large.bands import BandStore, overview_pixels, overview_step
from panoptic_ros.large.reading.georeference import Georeference
from panoptic_ros.large.stitching import NODATA, Objects, Stitcher, Stitching
from panoptic_ros.large.windows import Grid
from panoptic_ros.large.writing.label_raster import new_label_raster
from panoptic_ros.large.writing.polygons import Outliner, PolygonFiles, describe_objects
from panoptic_ros.large.writing.tables import (
    ClassAreas,
    Table,
    Zones,
    class_table,
    object_table,
    write_table,
)
from panoptic_ros.large.writing.whole_files import whole_file

POLYGON_FORMATS = ('gpkg', 'geojson', 'qupath')
TABLE_FORMATS = ('csv', 'parquet')

_STRIP = 128  # rows that are worked on at a time: whole bands would take several times the memory
_OPACITY = 0.5  # of the classes over the picture


@dataclass(frozen=True)
class Results:
    """Which files to write.

    Parameters
    ----------
    folder
        Where.
    polygons
        Some of :data:`POLYGON_FORMATS`.
    with_stuff
        Whether areas without instances are among the polygons.
    tables
        Some of :data:`TABLE_FORMATS`.
    zones
        A polygon layer to count by, or None.
    """

    folder: Path
    polygons: tuple[str, ...] = ('gpkg', 'geojson')
    with_stuff: bool = False
    tables: tuple[str, ...] = ('csv',)
    zones: Path | None = None


@dataclass(frozen=True, eq=False)
class Map:
    """What was found: the table of the objects, and that of the classes."""

    objects: Objects
    classes: Table


def stitch_bands(store: BandStore, grid: Grid, on_band: Callable[[], None]) -> Stitching:
    """Stitch the bands of a store, which has all of them."""
    stitcher = Stitcher(grid)
    for row in range(len(grid.rows)):
        _, maps = store.read(row)
        stitcher.add_row(maps)
        on_band()
    return stitcher.finish()


def final_rows(
    store: BandStore, grid: Grid, stitching: Stitching
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Give the map from top to bottom, a few rows at a time.

    Each has the number of its band, a class map, uint16 [H, width], an instance map, uint32
    [H, width], and the overview of the picture there, uint8 [rows, columns, 3] RGB.
    """
    across, step = len(grid.columns), overview_step(grid.size_wh)
    for row, span in enumerate(grid.rows):
        overview, maps = store.read(row)
        shape = span.core_stop - span.core_start, grid.size_wh[0]
        semantic, instance = np.empty(shape, np.uint16), np.empty(shape, np.uint32)
        for column, (window, window_map) in enumerate(zip(grid.band(row), maps, strict=True)):
            place = np.s_[:, window.x.core]
            semantic[place], instance[place] = stitching.final(
                window_map, row * across + column, window.core_slices
            )
        shown = 0
        for start in range(0, shape[0], _STRIP):
            rows = slice(start, min(shape[0], start + _STRIP))
            top, end = (span.core_start + y for y in (rows.start, rows.stop))
            count = len(overview_pixels(top, end, step))
            yield row, semantic[rows], instance[rows], overview[shown : shown + count]
            shown += count


def write_map(
    store: BandStore,
    grid: Grid,
    label_set: LabelSet,
    georeference: Georeference,
    scale_xy: tuple[float, float],
    results: Results,
    on_band: Callable[[], None] = lambda: None,
) -> Map:
    """Stitch the bands and write all results.

    Parameters
    ----------
    store, grid
        The bands, all of them, and where their windows lie.
    label_set, georeference
        The classes, and where the pixels lie.
    scale_xy
        Size of a pixel in pixels of the file's finest level.
    results
        What to write.
    on_band
        Called twice for each band.

    Raises PanopticRosError if a file cannot be written, SourceError if the zones are unusable.
    """
    zones = Zones((), np.zeros(0, object))
    if results.zones is not None:
        zones = Zones.read(results.zones, georeference, scale_xy)
    stitching = stitch_bands(store, grid, on_band)
    objects = stitching.objects
    areas = ClassAreas(georeference, zones)
    overview = _Overview(grid.size_wh, label_set)
    outliner = Outliner.of_objects(objects, grid.size_wh[0])
    with ExitStack() as stack:
        raster = stack.enter_context(
            new_label_raster(results.folder / 'labels.tif', grid.size_wh, georeference, label_set)
        )
        polygons = stack.enter_context(
            PolygonFiles(results.folder, 'polygons', results.polygons, georeference, scale_xy)
        )
        written = 0
        for row, semantic, instance, picture in final_rows(store, grid, stitching):
            if row > written:
                on_band()
                written = row
            raster.add(semantic, instance)
            areas.add(semantic)
            overview.add(semantic, instance, picture)
            if results.polygons:
                area = None
                if results.with_stuff:
                    is_area = (instance == 0) & (semantic < VOID)
                    area = np.where(is_area, semantic, -1).astype(np.int32)
                for outlines in outliner.add(instance, area):
                    polygons.add(describe_objects(outlines, objects, label_set, georeference))
        on_band()
        last = outliner.finish()
        polygons.add(describe_objects(last, objects, label_set, georeference))
    classes = class_table(areas, objects, label_set)
    for suffix in results.tables:
        write_table(results.folder / f'classes.{suffix}', classes)
        rows = object_table(objects, label_set, georeference)
        write_table(results.folder / f'objects.{suffix}', rows)
    overview.write(results.folder / 'overview.png')
    return Map(objects, classes)


class _Overview:
    """A small picture of the whole, the classes over it, each instance in a shade of its own."""

    def __init__(self, size_wh: tuple[int, int], label_set: LabelSet) -> None:
        self._step = overview_step(size_wh)
        self._x = overview_pixels(0, size_wh[0], self._step)
        self._colors = np.zeros((NODATA + 1, 3), np.float32)
        self._colors[:256] = label_set.colors_rgb
        self._rows: list[np.ndarray] = []
        self._y = 0

    def add(self, semantic: np.ndarray, instance: np.ndarray, picture_rgb: np.ndarray) -> None:
        y = overview_pixels(self._y, self._y + len(semantic), self._step) - self._y
        self._y += len(semantic)
        semantic, instance = (m[y[:, None], self._x] for m in (semantic, instance))
        shade = np.where(instance > 0, 0.7 + 0.6 * (instance * 0.618034 % 1), 1)[..., None]
        colors = np.clip(self._colors[semantic] * shade, 0, 255)
        drawn = _OPACITY * colors + (1 - _OPACITY) * picture_rgb
        drawn = np.rint(drawn).astype(np.uint8)
        self._rows.append(np.where(semantic[..., None] >= 255, picture_rgb, drawn))

    def write(self, path: Path) -> None:
        _, data = cv2.imencode('.png', np.concatenate(self._rows)[:, :, ::-1])
        with whole_file(path) as temporary:
            temporary.write_bytes(data)
