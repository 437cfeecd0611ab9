"""Map a synthetic slide of any size from true windows: time, memory, counts, resume.

The windows are the slide's truth, so everything but the network is measured, and the result is
known. ``python test/peers/large_slide.py run OUT --side 50000`` prints one line of JSON;
``--stop-after N`` ends it as a kill would after N bands; run it again to go on.
"""

import argparse
import hashlib
import json
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from panoptic_ros.large.bands import BandStore, encode_band, segment_bands
from panoptic_ros.large.mapping import Results, write_map
from panoptic_ros.large.reading.georeference import Georeference
from panoptic_ros.large.samples import NUCLEI, Sample, slide
from panoptic_ros.large.stitching import WindowMap
from panoptic_ros.large.windows import Grid


class NoPicture:
    """A source without colours: the true windows do not look at them."""

    def __init__(self, size_wh: tuple[int, int]) -> None:
        self.size_wh = size_wh

    def read(self, x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, np.ndarray]:
        shape = y1 - y0, x1 - x0
        return np.zeros((*shape, 3), np.uint8), np.ones(shape, bool)


class TrueWindows:
    """Segments the windows of a sample truly, with ids that hold in one window only."""

    def __init__(self, sample: Sample, window: int) -> None:
        self._sample, self._window = sample, window

    def __call__(self, image_rgb: np.ndarray, corner_xy: tuple[int, int]) -> WindowMap:
        x0, y0 = corner_xy
        x1 = min(x0 + self._window, self._sample.size_wh[0])
        y1 = min(y0 + self._window, self._sample.size_wh[1])
        semantic, instance = self._sample.labels(x0, y0, x1, y1)
        # Dense ids by lookup: sorting a million pixels would be most of the time.
        row, column = np.divmod(instance - 1, self._sample.cells_across)
        is_object = instance > 0
        row, column = row[is_object], column[is_object]
        across = int(np.ptp(column)) + 1 if len(column) else 1
        key = (row - row.min(initial=2**32 - 1)) * across + column - column.min(initial=2**32 - 1)
        is_there = np.bincount(key) > 0
        local = np.zeros(instance.shape, np.uint16)
        local[is_object] = np.cumsum(is_there)[key]
        count = int(is_there.sum())
        padding = [(0, self._window - (y1 - y0)), (0, self._window - (x1 - x0))]
        return WindowMap(
            np.pad(semantic, padding), np.pad(local, padding), np.ones(count + 1, np.float32)
        )


def true_counts(sample: Sample) -> tuple[int, int]:
    """Return the number of objects and of their pixels, by strips that do not overlap."""
    objects, pixels = set(), 0
    step = sample.pitch * 16
    for y in range(0, sample.size_wh[1], step):
        for x in range(0, sample.size_wh[0], step * 4):
            x1, y1 = min(x + step * 4, sample.size_wh[0]), min(y + step, sample.size_wh[1])
            _, instance = sample.labels(x, y, x1, y1)
            found = instance[instance > 0]
            pixels += len(found)
            objects.update(np.unique(found).tolist())
    return len(objects), pixels


def digest(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each result."""
    sums = {}
    for path in sorted(folder.iterdir()):
        if path.is_file():
            sha = hashlib.sha256()
            with path.open('rb') as file:
                while block := file.read(1 << 20):
                    sha.update(block)
            sums[path.name] = sha.hexdigest()[:16]
    return sums


def run(args: argparse.Namespace) -> dict[str, object]:
    """Map the slide and measure."""
    sample = slide((args.side, args.side))
    grid = Grid(sample.size_wh, (args.window, args.window), args.window // 8, args.window // 32)
    store = BandStore(args.out / '.bands', {'side': args.side, 'window': args.window}, True)
    rows = store.missing(range(len(grid.rows)))
    started = time.perf_counter()
    segment = TrueWindows(sample, args.window)
    for number, (row, band) in enumerate(
        segment_bands(NoPicture(sample.size_wh), segment, grid, rows)
    ):
        store.write(row, encode_band(band))
        if number + 1 == args.stop_after:
            os._exit(9)
    segmented = time.perf_counter()
    kept = sum(path.stat().st_size for path in (args.out / '.bands').iterdir())
    results = Results(args.out, tuple(args.polygons))
    georeference = Georeference((0.5, 0.5), 'um')
    found = write_map(store, grid, NUCLEI, georeference, (1.0, 1.0), results)
    written = time.perf_counter()
    store.remove()
    windows = len(rows) * len(grid.columns)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        'side_px': args.side,
        'windows': windows,
        'windows_s': segmented - started,
        'windows_per_s': windows / (segmented - started) if windows else None,
        'results_s': written - segmented,
        'peak_gib': peak / 2**20,
        'bands_mib': kept / 2**20,
        'labels_mib': (args.out / 'labels.tif').stat().st_size / 2**20,
        'objects': len(found.objects),
        'object_pixels': int(found.objects.area_px.sum()),
        'sha256': digest(args.out),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run or count, and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('what', choices=('run', 'truth'))
    parser.add_argument('out', type=Path)
    parser.add_argument('--side', type=int, default=50000)
    parser.add_argument('--window', type=int, default=1024)
    parser.add_argument('--polygons', nargs='*', default=[])
    parser.add_argument('--stop-after', type=int, default=0)
    args = parser.parse_args(argv)
    if args.what == 'truth':
        objects, pixels = true_counts(slide((args.side, args.side)))
        print(json.dumps({'objects': objects, 'object_pixels': pixels}))
    else:
        print(json.dumps(run(args)))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
