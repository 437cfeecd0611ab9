"""Maps of stacks: planes in space, ids linked along z, or frames in time, ids that stay."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from panoptic_ros.errors import SourceError
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.large.bands import BandStore, WindowSegmenter, encode_band, segment_bands
from panoptic_ros.large.reading.stacks import Stack, to_rgb
from panoptic_ros.large.stitching import Objects, shared_pieces, stitch
from panoptic_ros.large.windows import Grid
from panoptic_ros.large.writing.tables import Table, write_table
from panoptic_ros.large.writing.whole_files import whole_file
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.scene.tracking import Tracker

_MAX_FRAME_ID = 65535


@dataclass(frozen=True, eq=False)
class Plane:
    """The map of one plane: class map uint8, instance map uint32, and the table of the objects."""

    semantic: np.ndarray
    instance: np.ndarray
    objects: Objects


def segment_planes(
    stack: Stack,
    segment: WindowSegmenter,
    grid: Grid,
    value_range: tuple[float, float] | None,
    store: BandStore,
    on_window: Callable[[], object] = lambda: None,
) -> None:
    """Segment the planes of a stack, each by itself, and keep the bands that ``store`` lacks."""
    count = len(grid.rows)
    for number in range(stack.count):
        missing = [band - number * count for band in store.missing(_bands_of(number, grid))]
        if missing:
            source = _PlaneSource(to_rgb(stack.read(number), value_range, stack))
            for row, band in segment_bands(source, segment, grid, missing, on_window):
                store.write(number * count + row, encode_band(band))


def stitch_planes(stack: Stack, grid: Grid, store: BandStore) -> list[Plane]:
    """Stitch the planes of a stack from the bands of ``store``, which has all of them."""
    planes = []
    for number in range(stack.count):
        maps = [each for band in _bands_of(number, grid) for each in store.read(band)[1]]
        semantic, instance, objects = stitch(grid, maps)
        planes.append(Plane(semantic.astype(np.uint8), instance, objects))
    return planes


def _bands_of(plane: int, grid: Grid) -> range:
    count = len(grid.rows)
    return range(plane * count, (plane + 1) * count)


@dataclass(frozen=True, eq=False)
class VolumeMap:
    """The map of a volume.

    Parameters
    ----------
    semantic
        uint8 [planes, H, W].
    instance
        uint32 [planes, H, W], 1 and on in reading order, plane by plane.
    class_id
        uint8 [n], of the objects.
    score
        float32 [n], mean of the planes' scores, weighted by their areas.
    """

    semantic: np.ndarray
    instance: np.ndarray
    class_id: np.ndarray
    score: np.ndarray


def link_planes(planes: Sequence[Plane], min_overlap: float = 0.5) -> VolumeMap:
    """Join the objects of neighbouring planes that cover each other.

    Two of one class are one object if the pixels that they share are at least ``min_overlap`` of
    the smaller one.
    """
    counts = np.array([len(plane.objects) for plane in planes])
    first = np.cumsum(counts) - counts
    pairs = [np.zeros((0, 2), np.int64)]
    for below in range(len(planes) - 1):
        a, b = planes[below], planes[below + 1]
        ids_a, ids_b, shared, smaller, _ = shared_pieces(a.instance, b.instance)
        is_one = (shared >= min_overlap * smaller) & (
            a.objects.class_id[ids_a - 1] == b.objects.class_id[ids_b - 1]
        )
        rows = first[below] + ids_a[is_one] - 1, first[below + 1] + ids_b[is_one] - 1
        pairs.append(np.stack(rows, axis=1))
    pair = np.concatenate(pairs)
    total = int(counts.sum())
    graph = coo_array((np.ones(len(pair), bool), tuple(pair.T)), (total, total))
    count, component = connected_components(graph, directed=False)
    # By the first piece, which comes first in reading order.
    _, first_row, number = np.unique(component, return_index=True, return_inverse=True)
    new_id = np.empty(count, np.uint32)
    new_id[np.argsort(first_row)] = np.arange(1, count + 1)
    id_of_row = new_id[number]
    instance = np.stack(
        [
            np.concatenate((np.zeros(1, np.uint32), id_of_row[start : start + n]))[plane.instance]
            for plane, start, n in zip(planes, first, counts, strict=True)
        ]
    )
    area = np.concatenate([plane.objects.area_px for plane in planes])
    score = np.concatenate([plane.objects.score for plane in planes])
    row = id_of_row.astype(np.int64) - 1
    weight = np.bincount(row, area, count)
    class_id = np.zeros(count, np.uint8)
    class_id[row] = np.concatenate([plane.objects.class_id for plane in planes])
    return VolumeMap(
        np.stack([plane.semantic for plane in planes]),
        instance,
        class_id,
        (np.bincount(row, area * score, count) / weight).astype(np.float32),
    )


def volume_table(found: VolumeMap, stack: Stack, label_set: LabelSet) -> Table:
    """Return one row an object: voxels, mm3 and the centroid in millimetres.

    Where the stack has no size, the volume is in voxels and the centroid in pixels.
    """
    count = len(found.class_id)
    plane, row, column = np.nonzero(found.instance)
    key = found.instance[plane, row, column].astype(np.int64) - 1
    voxels = np.bincount(key, minlength=count)
    middle = [np.bincount(key, axis, count) / voxels for axis in (column, row, plane)]
    affine = np.eye(4) if stack.affine is None else stack.affine
    position = affine @ np.stack([*middle, np.ones(count)])
    unit = 'voxels' if stack.affine is None else 'mm'
    volume = {} if stack.affine is None else {'volume_mm3': voxels * stack.voxel_mm3}
    return {
        'id': np.arange(1, count + 1),
        'class': np.array(label_set.names, object)[found.class_id],
        'score': np.round(found.score.astype(np.float64), 4),
        'voxels': voxels,
        **volume,
        f'centroid_x_{unit}': position[0],
        f'centroid_y_{unit}': position[1],
        f'centroid_z_{unit}': position[2],
    }


def volume_class_table(found: VolumeMap, stack: Stack, label_set: LabelSet) -> Table:
    """Return one row a class: objects, voxels and mm3."""
    voxels = np.bincount(found.semantic.ravel(), minlength=256)
    counts = np.bincount(found.class_id, minlength=256)
    chosen = [*range(len(label_set)), VOID]
    volume = {} if stack.affine is None else {'volume_mm3': voxels[chosen] * stack.voxel_mm3}
    return {
        'class': np.array([*label_set.names, 'void'], object),
        'count': counts[chosen],
        'voxels': voxels[chosen],
        **volume,
    }


def write_volume(found: VolumeMap, stack: Stack, label_set: LabelSet, folder: Path) -> None:
    """Write class.nii.gz, instance.nii.gz with the volume's affine, objects.csv, classes.csv."""
    import nibabel

    affine = np.eye(4) if stack.affine is None else stack.affine
    for name, values in (('class', found.semantic), ('instance', found.instance)):
        image = nibabel.Nifti1Image(values.transpose(2, 1, 0), affine)
        with whole_file(folder / f'{name}.nii.gz') as path:
            nibabel.save(image, path)
    write_table(folder / 'objects.csv', volume_table(found, stack, label_set))
    write_table(folder / 'classes.csv', volume_class_table(found, stack, label_set))


def track_planes(
    planes: Sequence[Plane], label_set: LabelSet, rate_hz: float
) -> tuple[np.ndarray, Table]:
    """Give the objects ids that stay from frame to frame.

    Returns instance map uint16 [frames, H, W] and one row a track: class, first and last frame,
    number of frames, mean area. Raises SourceError if a frame has too many objects.
    """
    tracker, instance, rows = Tracker(), [], []
    for number, plane in enumerate(planes):
        if len(plane.objects) > _MAX_FRAME_ID:
            raise SourceError(
                f'frame {number} has {len(plane.objects)} objects; the tracker follows up to '
                f'{_MAX_FRAME_ID}: cut the frames into parts'
            )
        score = np.concatenate((np.zeros(1, np.float32), plane.objects.score))
        panoptic = Panoptic.from_maps(
            plane.semantic, plane.instance.astype(np.uint16), label_set, score
        )
        tracked = tracker.update(panoptic, round(number * 1e9 / rate_hz))
        instance.append(tracked.instance.copy())
        things = tracked.segments.things
        rows += [
            (*row, number) for row in zip(things.id, things.class_id, things.area, strict=True)
        ]
    table = np.array(rows, np.int64).reshape(-1, 4)
    ids, row = np.unique(table[:, 0], return_inverse=True)
    frames = np.bincount(row, minlength=len(ids))
    first, last = np.full(len(ids), len(planes)), np.zeros(len(ids), np.int64)
    np.minimum.at(first, row, table[:, 3])
    np.maximum.at(last, row, table[:, 3])
    class_id = np.zeros(len(ids), np.int64)
    class_id[row] = table[:, 1]
    return np.stack(instance), {
        'id': ids,
        'class': np.array(label_set.names, object)[class_id],
        'first_frame': first,
        'last_frame': last,
        'frames': frames,
        'mean_area_px': np.bincount(row, table[:, 2], len(ids)) / frames,
    }


def write_frames(
    planes: Sequence[Plane], instance: np.ndarray, tracks: Table, folder: Path
) -> None:
    """Write labels.tif, two pages a frame (class, instance), and tracks.csv."""
    import tifffile

    semantic = np.stack([plane.semantic for plane in planes]).astype(np.uint16)
    pages = np.stack((semantic, instance), axis=1)
    with whole_file(folder / 'labels.tif') as path:
        tifffile.imwrite(
            path, pages, compression='zlib', photometric='minisblack', metadata={'axes': 'TCYX'}
        )
    write_table(folder / 'tracks.csv', tracks)


class _PlaneSource:
    """A plane in memory, as windows are read from it."""

    def __init__(self, image_rgb: np.ndarray) -> None:
        self._image_rgb = image_rgb
        self.size_wh = image_rgb.shape[1], image_rgb.shape[0]

    def read(self, x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, np.ndarray]:
        part = self._image_rgb[y0:y1, x0:x1]
        return part, np.ones(part.shape[:2], bool)
