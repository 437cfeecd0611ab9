"""What changed between two label rasters: classes by area, objects by overlap."""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import rasterio.warp
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from panoptic_ros.errors import SourceError
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.large.bands import overview_pixels, overview_step
from panoptic_ros.large.reading.georeference import Georeference
from panoptic_ros.large.stitching import NODATA, shared_pieces
from panoptic_ros.large.writing.label_raster import (
    BLOCK,
    LabelRaster,
    labels_from_raster,
    new_raster,
)
from panoptic_ros.large.writing.polygons import (
    Described,
    Outliner,
    Outlines,
    PolygonFiles,
    geometry_columns,
)
from panoptic_ros.large.writing.tables import Table, write_table
from panoptic_ros.large.writing.whole_files import whole_file

SAME_OVERLAP = 0.5
"""IoU from which an object that kept its class is the same."""

MIN_OVERLAP = 0.1
"""IoU from which two objects are one object that changed."""

STATES = ('same', 'changed', 'vanished', 'appeared')
CHANGED, UNCHANGED, CHANGE_NODATA = 1, 0, 255


@dataclass(frozen=True, eq=False)
class Pair:
    """Two label rasters on the grid of the first, where both have pixels.

    Parameters
    ----------
    before
        The first raster.
    after
        The second, as rasterio reads it on the grid of the first.
    window
        The part of the first's grid that both cover.
    georeference
        Of that part.
    """

    before: LabelRaster
    after: object
    window: Window
    georeference: Georeference

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height of the common part, pixels."""
        return int(self.window.width), int(self.window.height)

    def strips(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
        """Give class and instance map before, then after, from top to bottom.

        Raises SourceError if a file cannot be read.
        """
        width, height = self.size_wh
        for y in range(0, height, BLOCK):
            window = Window(
                self.window.col_off, self.window.row_off + y, width, min(BLOCK, height - y)
            )
            try:
                bands = [d.read(window=window) for d in (self.before.dataset, self.after)]
            except (RasterioError, OSError) as error:
                raise SourceError(
                    f'a label raster cannot be read ({error.__cause__ or error}); it is truncated '
                    'or damaged: make it again'
                ) from error
            yield *labels_from_raster(bands[0]), *labels_from_raster(bands[1])


def align(before: LabelRaster, after: LabelRaster, names: tuple[str, str]) -> Pair:
    """Bring two label rasters to one grid, that of the first.

    Raises SourceError if their classes differ, only one has a coordinate system, they have none
    and differ in size, or they do not overlap. ``names`` are those of the files, for messages.
    """
    if before.label_set.names != after.label_set.names:
        raise SourceError(
            f'{names[0]!r} has the classes of {before.label_set.name!r} and {names[1]!r} those of '
            f'{after.label_set.name!r}; expected the same classes: map both with one model'
        )
    first, second = before.dataset, after.dataset
    if bool(first.crs) != bool(second.crs):
        without = names[1] if first.crs else names[0]
        raise SourceError(
            f'{without!r} has no coordinate system and the other has one; georeference it, for '
            'example with gdal_edit.py -a_srs and -a_ullr'
        )
    if not first.crs:
        if first.shape != second.shape:
            raise SourceError(
                f'{names[0]!r} has {first.width} x {first.height} pixels, {names[1]!r} '
                f'{second.width} x {second.height}, and neither has a coordinate system; expected '
                'the same size, or georeferenced files'
            )
        window = Window(0, 0, first.width, first.height)
        return Pair(before, second, window, before.georeference)
    try:
        bounds = rasterio.warp.transform_bounds(second.crs, first.crs, *second.bounds)
    except RasterioError as error:
        raise SourceError(
            f'{names[1]!r} cannot be brought to the coordinate system of {names[0]!r} ({error}); '
            'expected two places on one planet'
        ) from error
    corners = np.reshape(bounds, (2, 2)).T
    x, y = (np.sort(values) for values in before.georeference.pixels(*corners))
    x0, x1 = (int(np.clip(round(v), 0, first.width)) for v in x)
    y0, y1 = (int(np.clip(round(v), 0, first.height)) for v in y)
    if x0 >= x1 or y0 >= y1:
        raise SourceError(
            f'{names[0]!r} and {names[1]!r} do not overlap: their bounds are '
            f'{_rounded(first.bounds)} and {_rounded(bounds)}; expected pictures of one place'
        )
    warped = WarpedVRT(
        second,
        crs=first.crs,
        transform=first.transform,
        width=first.width,
        height=first.height,
        resampling=rasterio.warp.Resampling.nearest,
    )
    window = Window(x0, y0, x1 - x0, y1 - y0)
    return Pair(before, warped, window, before.georeference.shifted(x0, y0))


@dataclass(eq=False)
class Transitions:
    """Sums the areas of each pair of classes, where both rasters have data."""

    georeference: Georeference
    pixels: np.ndarray = field(default_factory=lambda: np.zeros((256, 256), np.int64))
    area: np.ndarray = field(default_factory=lambda: np.zeros((256, 256)))
    _y: int = 0

    def add(self, before: np.ndarray, after: np.ndarray) -> None:
        """Add the next rows of both class maps, uint16 [H, W]."""
        is_known = (before != NODATA) & (after != NODATA)
        key = np.where(is_known, before.astype(np.int64) * 256 + after, 256 * 256)
        sizes = self.georeference.pixel_area(self._y + np.arange(len(before)) + 0.5)
        parts = [(key.ravel(), sizes[0])] if np.ptp(sizes) == 0 else zip(key, sizes, strict=True)
        for part, size in parts:
            count = np.bincount(part, minlength=256 * 256 + 1)[:-1].reshape(256, 256)
            self.pixels += count
            self.area += count * size
        self._y += len(before)

    def table(self, label_set: LabelSet) -> Table:
        """Return one row for each pair of classes that occurs."""
        before, after = np.nonzero(self.pixels)
        names = _names(label_set)
        return {
            'before': names[before],
            'after': names[after],
            'area_px': self.pixels[before, after],
            f'area_{self.georeference.unit}2': self.area[before, after],
        }


@dataclass(eq=False)
class ObjectOverlaps:
    """Counts what the objects of both dates share, where both rasters have data."""

    _pairs: list[np.ndarray] = field(default_factory=list)
    _seen: tuple[list[np.ndarray], list[np.ndarray]] = field(default_factory=lambda: ([], []))
    _y: int = 0

    def add(
        self,
        before: np.ndarray,
        before_id: np.ndarray,
        after: np.ndarray,
        after_id: np.ndarray,
    ) -> None:
        """Add the next rows of both maps."""
        is_known = (before != NODATA) & (after != NODATA)
        known = [np.where(is_known, ids, 0) for ids in (before_id, after_id)]
        ids_a, ids_b, shared, _, _ = shared_pieces(*known)
        self._pairs.append(np.stack((ids_a, ids_b, shared), axis=1))
        for side, ids, classes in ((0, before_id, before), (1, after_id, after)):
            y, x = np.nonzero(ids)
            unique, first, row = np.unique(ids[y, x], return_index=True, return_inverse=True)
            count = len(unique)
            self._seen[side].append(
                np.stack(
                    [
                        unique.astype(np.float64),
                        classes[y, x][first],
                        np.bincount(row, minlength=count),
                        np.bincount(row, is_known[y, x], count),
                        np.bincount(row, x + 0.5, count),
                        np.bincount(row, self._y + y + 0.5, count),
                    ],
                    axis=1,
                )
            )
        self._y += len(before)

    def match(self) -> 'Matches':
        """Match each object to the one it overlaps most, where that is mutual.

        An object of which less than half lies where the other raster has data counts nowhere.
        """
        objects = [_summed(np.concatenate(side)) for side in self._seen]
        pairs = np.concatenate(self._pairs)
        key, row = np.unique(pairs[:, :2], axis=0, return_inverse=True)
        shared = np.bincount(row.ravel(), pairs[:, 2], len(key))
        ids = [side[:, 0].astype(np.int64) for side in objects]
        at = [np.searchsorted(ids[n], key[:, n]) for n in range(2)]
        union = objects[0][at[0], 3] + objects[1][at[1], 3] - shared
        overlap = shared / np.maximum(union, 1)
        usable = [side[:, 3] * 2 >= side[:, 2] for side in objects]
        is_mutual = (overlap >= MIN_OVERLAP) & usable[0][at[0]] & usable[1][at[1]]
        for n in range(2):
            best = np.zeros(len(ids[n]))
            np.maximum.at(best, at[n], overlap)
            is_mutual &= overlap == best[at[n]]
        chosen = np.flatnonzero(is_mutual)
        # Of equal overlaps the lowest ids.
        for n in range(2):
            _, first = np.unique(at[n][chosen], return_index=True)
            chosen = chosen[first]
        return Matches(
            objects[0], objects[1], at[0][chosen], at[1][chosen], overlap[chosen], *usable
        )


@dataclass(frozen=True, eq=False)
class Matches:
    """Objects of both dates, and which of them are one.

    Parameters
    ----------
    before, after
        float64 [n, 6]: id, class, pixels, pixels where both rasters have data, centroid x, y.
    row_before, row_after
        intp [m], rows that are one object.
    overlap
        float64 [m], their IoU where both rasters have data.
    before_usable, after_usable
        bool [n], whether the other raster shows enough of the place.
    """

    before: np.ndarray
    after: np.ndarray
    row_before: np.ndarray
    row_after: np.ndarray
    overlap: np.ndarray
    before_usable: np.ndarray
    after_usable: np.ndarray

    def table(self, label_set: LabelSet, georeference: Georeference) -> Table:
        """Return one row for each object or pair, by state, then by id."""
        same_class = self.before[self.row_before, 1] == self.after[self.row_after, 1]
        is_same = same_class & (self.overlap >= SAME_OVERLAP)
        vanished = np.setdiff1d(np.flatnonzero(self.before_usable), self.row_before)
        appeared = np.setdiff1d(np.flatnonzero(self.after_usable), self.row_after)
        none = np.full
        row_before = np.concatenate((self.row_before, vanished, none(len(appeared), -1)))
        row_after = np.concatenate((self.row_after, none(len(vanished), -1), appeared))
        state = np.concatenate(
            (np.where(is_same, 0, 1), none(len(vanished), 2), none(len(appeared), 3))
        )
        overlap = np.concatenate((self.overlap, np.zeros(len(vanished) + len(appeared))))
        order = np.lexsort((row_after, row_before, state))
        state, row_before, row_after = state[order], row_before[order], row_after[order]
        there = [np.where(row >= 0, row, 0) for row in (row_before, row_after)]
        sides = [
            np.where((row >= 0)[:, None], side[at] if len(side) else np.zeros((len(at), 6)), 0)
            for row, side, at in zip(
                (row_before, row_after), (self.before, self.after), there, strict=True
            )
        ]
        names = _names(label_set)
        centre = np.where((row_before >= 0)[:, None], sides[0], sides[1])[:, 4:]
        x, y = georeference.points(*centre.T)
        size = georeference.pixel_area(centre[:, 1])
        unit = georeference.unit
        columns: Table = {'state': np.array(STATES, object)[state]}
        for n, date in enumerate(('before', 'after')):
            row = (row_before, row_after)[n]
            columns[f'{date}_id'] = sides[n][:, 0].astype(np.int64)
            class_names = names[sides[n][:, 1].astype(int)]
            columns[f'{date}_class'] = np.where(row >= 0, class_names, '')
            columns[f'{date}_area_{unit}2'] = sides[n][:, 2] * size
        return {**columns, 'overlap': overlap[order], 'centroid_x': x, 'centroid_y': y}


@dataclass(frozen=True, eq=False)
class Change:
    """What changed: the table of the classes and that of the objects."""

    transitions: Table
    objects: Table


def write_change(pair: Pair, folder: Path, formats: tuple[str, ...]) -> Change:
    """Compare two label rasters and write all results.

    change.tif has three bands: 1 where the class changed, the class before, the class after; 255
    where a raster has no data. Raises PanopticRosError if a file cannot be written.
    """
    label_set, georeference = pair.before.label_set, pair.georeference
    transitions, overlaps = Transitions(georeference), ObjectOverlaps()
    width, _ = pair.size_wh
    none = np.zeros(1, np.int64)
    outliner = Outliner(width, none, none, kinds=256 * 256)
    picture = _ChangePicture(pair.size_wh, label_set)
    bands = ('changed', 'class before', 'class after')
    with ExitStack() as stack:
        raster = stack.enter_context(
            new_raster(
                folder / 'change.tif',
                pair.size_wh,
                georeference,
                'uint8',
                CHANGE_NODATA,
                bands,
                {},
            )
        )
        polygons = stack.enter_context(
            PolygonFiles(folder, 'change', formats, georeference, (1.0, 1.0))
        )
        for before, before_id, after, after_id in pair.strips():
            transitions.add(before, after)
            overlaps.add(before, before_id, after, after_id)
            is_known = (before != NODATA) & (after != NODATA)
            is_changed = is_known & (before != after)
            changed = np.where(is_changed, CHANGED, UNCHANGED)
            rows = np.where(is_known, (changed, before, after), CHANGE_NODATA).astype(np.uint8)
            raster.add(rows)
            picture.add(rows)
            kind = np.where(is_changed, before.astype(np.int32) * 256 + after, -1)
            for outlines in outliner.add(np.zeros(before.shape, np.uint32), kind):
                polygons.add(_describe(outlines, label_set, georeference))
        polygons.add(_describe(outliner.finish(), label_set, georeference))
    change = Change(transitions.table(label_set), overlaps.match().table(label_set, georeference))
    write_table(folder / 'transitions.csv', change.transitions)
    write_table(folder / 'objects.csv', change.objects)
    picture.write(folder / 'change.png')
    return change


def compare(before: Path, after: Path, folder: Path, formats: tuple[str, ...]) -> Change:
    """Open two label rasters and write what changed; raises as :func:`write_change`."""
    with ExitStack() as stack:
        first, second = LabelRaster.open(before), LabelRaster.open(after)
        for raster in (first, second):
            stack.enter_context(closing(raster.dataset))
        return write_change(align(first, second, (str(before), str(after))), folder, formats)


class _ChangePicture:
    """The classes after, pale where nothing changed; at full colour where they changed."""

    def __init__(self, size_wh: tuple[int, int], label_set: LabelSet) -> None:
        self._step = overview_step(size_wh)
        self._x = overview_pixels(0, size_wh[0], self._step)
        self._colors = label_set.colors_rgb.astype(np.float32)
        self._rows: list[np.ndarray] = []
        self._y = 0

    def add(self, rows: np.ndarray) -> None:
        y = overview_pixels(self._y, self._y + rows.shape[1], self._step) - self._y
        self._y += rows.shape[1]
        changed, _, after = rows[:, y[:, None], self._x]
        colors = self._colors[after]
        grey = 190 + 0.25 * (colors.mean(axis=2, keepdims=True) - 128)
        drawn = np.where((changed == CHANGED)[..., None], colors, grey)
        self._rows.append(np.where((changed == CHANGE_NODATA)[..., None], 0, drawn))

    def write(self, path: Path) -> None:
        picture = np.rint(np.concatenate(self._rows)).astype(np.uint8)
        _, data = cv2.imencode('.png', picture[:, :, ::-1])
        with whole_file(path) as temporary:
            temporary.write_bytes(data)


def _describe(outlines: Outlines, label_set: LabelSet, georeference: Georeference) -> Described:
    names = _names(label_set)
    before, after = np.divmod(outlines.class_id, 256)
    columns = {'before': names[before], 'after': names[after]}
    return Described(outlines, {**columns, **geometry_columns(outlines, georeference)})


def _summed(rows: np.ndarray) -> np.ndarray:
    """Add up the rows of one id: id, class, pixels, known pixels, mean x, mean y."""
    ids, first, row = np.unique(rows[:, 0], return_index=True, return_inverse=True)
    sums = [np.bincount(row, rows[:, column], len(ids)) for column in range(2, 6)]
    return np.stack(
        [ids, rows[first, 1], sums[0], sums[1], sums[2] / sums[0], sums[3] / sums[0]], axis=1
    )


def _names(label_set: LabelSet) -> np.ndarray:
    """Return the name of each class id, object [256]."""
    names = np.full(256, '', object)
    names[: len(label_set)] = label_set.names
    names[VOID] = 'void'
    return names


def _rounded(bounds: tuple[float, ...]) -> str:
    return '(' + ', '.join(f'{value:.7g}' for value in bounds) + ')'
