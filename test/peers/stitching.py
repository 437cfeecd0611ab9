"""Stitching by label maps against stitching polygon by polygon with shapely.

The polygon way is the usual one: outline each instance of each window, move the outlines to the
picture, find those that intersect with an index, join the ones that overlap enough, union them.
``python test/peers/stitching.py`` runs both in turn on the true windows of a synthetic slide and
prints one line of JSON.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import rasterio.features
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from panoptic_ros.large.samples import slide
from panoptic_ros.large.stitching import Stitcher, WindowMap, stitch
from panoptic_ros.large.windows import Grid

MIN_OVERLAP = 0.5


def true_windows(side: int, window: int) -> tuple[Grid, list[WindowMap]]:
    """Cut a slide into windows whose ids are shuffled."""
    sample = slide((side, side))
    grid = Grid((side, side), (window, window), window // 8, window // 32)
    maps = []
    for row in range(len(grid.rows)):
        for w in grid.band(row):
            semantic, instance = sample.labels(
                w.x.kept_start, w.y.kept_start, w.x.kept_stop, w.y.kept_stop
            )
            ids, local = np.unique(instance, return_inverse=True)
            new = np.arange(1, len(ids))
            random.Random(len(maps)).shuffle(new)
            local = np.concatenate(([0], new))[local.reshape(instance.shape)].astype(np.uint16)
            maps.append(WindowMap(semantic, local, np.ones(len(ids), np.float32)))
    return grid, maps


def objects_by_labels(grid: Grid, maps: list[WindowMap]) -> np.ndarray:
    """Join the pieces and return each object's area and box, float64 [objects, 5]."""
    stitcher, across = Stitcher(grid), len(grid.columns)
    for row in range(len(grid.rows)):
        stitcher.add_row(maps[row * across : (row + 1) * across])
    objects = stitcher.finish().objects
    return np.concatenate((objects.area_px[:, None], objects.box_xyxy), axis=1).astype(float)


def map_by_labels(grid: Grid, maps: list[WindowMap]) -> np.ndarray:
    """Stitch and return the instance map, uint32 [H, W]."""
    return stitch(grid, maps)[1]


def objects_by_polygons(grid: Grid, maps: list[WindowMap]) -> np.ndarray:
    """Join the polygons and return each object's area and box, float64 [objects, 5]."""
    joined = join_polygons(grid, maps)
    return np.concatenate((shapely.area(joined)[:, None], shapely.bounds(joined)), axis=1)


def map_by_polygons(grid: Grid, maps: list[WindowMap]) -> np.ndarray:
    """Join the polygons and draw them to an instance map."""
    joined = join_polygons(grid, maps)
    numbered = zip(joined, range(1, len(joined) + 1), strict=True)
    return rasterio.features.rasterize(numbered, grid.size_wh[::-1], dtype=np.int32)


def join_polygons(grid: Grid, maps: list[WindowMap]) -> np.ndarray:
    """Outline the instances of each window and join what is one object, shapely [objects]."""
    polygons, window_of = [], []
    windows = [w for row in range(len(grid.rows)) for w in grid.band(row)]
    for number, (window, window_map) in enumerate(zip(windows, maps, strict=True)):
        shift = rasterio.Affine.translation(window.x.kept_start, window.y.kept_start)
        instance = window_map.instance
        for shape, _ in rasterio.features.shapes(instance, instance > 0, 4, shift):
            rings = shape['coordinates']
            polygons.append(shapely.Polygon(rings[0], rings[1:]))
            window_of.append(number)
    geometry, window_of = np.array(polygons, object), np.array(window_of)
    a, b = shapely.STRtree(geometry).query(geometry, predicate='intersects')
    is_pair = (a < b) & (window_of[a] != window_of[b])
    a, b = a[is_pair], b[is_pair]
    shared = shapely.area(shapely.intersection(geometry[a], geometry[b]))
    # Of each, what lies in the part that both windows saw.
    boxes = np.array(
        [
            shapely.box(w.x.kept_start, w.y.kept_start, w.x.kept_stop, w.y.kept_stop)
            for w in windows
        ],
        object,
    )
    seen = [
        shapely.area(shapely.intersection(geometry[one], boxes[window_of[other]]))
        for one, other in ((a, b), (b, a))
    ]
    is_one = (shared > 0) & (shared >= MIN_OVERLAP * np.minimum(*seen))
    graph = coo_array(
        (np.ones(is_one.sum(), bool), (a[is_one], b[is_one])), (len(geometry), len(geometry))
    )
    count, component = connected_components(graph, directed=False)
    order = np.argsort(component, kind='stable')
    ends = np.cumsum(np.bincount(component, minlength=count))[:-1]
    return np.array([shapely.union_all(geometry[rows]) for rows in np.split(order, ends)], object)


def same_objects(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two tables have the same rows in any order."""
    if len(a) != len(b):
        return False
    a, b = (rows[np.lexsort(rows.T)] for rows in (a, b))
    return bool(np.allclose(a, b))


def same_map(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two maps have the same instances under any ids."""
    pairs = np.unique(np.stack((a.ravel(), b.ravel())), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def measure(side: int, window: int, rounds: int) -> dict[str, object]:
    """Run both ways in turn and compare."""
    grid, maps = true_windows(side, window)
    ways: dict[str, Callable[..., np.ndarray]] = {
        'objects_by_labels': objects_by_labels,
        'objects_by_polygons': objects_by_polygons,
        'map_by_labels': map_by_labels,
        'map_by_polygons': map_by_polygons,
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    for _ in range(rounds):
        for name, way in ways.items():
            # The runs of the maps are part of the work.
            fresh = [replace(window_map) for window_map in maps]
            started = time.process_time()
            found[name] = way(grid, fresh)
            times[name].append(time.process_time() - started)
    median = {name: float(np.median(values)) for name, values in times.items()}
    return {
        'side_px': side,
        'windows': len(maps),
        'objects': len(found['objects_by_labels']),
        'same_objects': same_objects(found['objects_by_labels'], found['objects_by_polygons']),
        'same_map': same_map(found['map_by_labels'], found['map_by_polygons']),
        'seconds': median,
        'objects_ratio': median['objects_by_polygons'] / median['objects_by_labels'],
        'map_ratio': median['map_by_polygons'] / median['map_by_labels'],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--side', type=int, default=4000)
    parser.add_argument('--window', type=int, default=512)
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args(argv)
    print(json.dumps(measure(args.side, args.window, args.rounds)))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
