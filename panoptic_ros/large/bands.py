"""Bands, the rows of windows of a large picture: segmented one by one, kept on disk meanwhile.

A band is a file of its own: what it holds depends on the picture and the model alone, not on the
other bands or on what was done before. So an interrupted run goes on with the bands that are
missing, and several machines may share the bands of one picture.
"""

import json
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from panoptic_ros.errors import PanopticRosError
from panoptic_ros.large.stitching import NODATA, WindowMap
from panoptic_ros.large.windows import Grid, Window
from panoptic_ros.large.writing.whole_files import whole_file
from panoptic_ros.runs import Runs
from panoptic_ros.segmenter import Segmenter

OVERVIEW_SIDE = 2048
"""The longer side of the overview picture, pixels, at most."""

_AHEAD = 4  # windows that are read while one is segmented


class Source(Protocol):
    """What windows are read from; :class:`~panoptic_ros.large.reading.pictures.Picture` is one."""

    size_wh: tuple[int, int]

    def read(self, x0: int, y0: int, x1: int, y1: int) -> tuple[np.ndarray, np.ndarray]:
        """Return uint8 [H, W, 3] RGB and bool [H, W], where there are data."""


WindowSegmenter = Callable[[np.ndarray, tuple[int, int]], WindowMap]
"""From the picture of a whole window, uint8 [H, W, 3] RGB, and its corner x0, y0, to its map."""


def model_segmenter(segmenter: Segmenter) -> WindowSegmenter:
    """Return the function that segments a window with a model."""

    def segment(image_rgb: np.ndarray, corner_xy: tuple[int, int]) -> WindowMap:
        panoptic = segmenter.segment(image_rgb, 'rgb8').panoptic
        things = panoptic.segments.things
        score = np.zeros(int(things.id.max(initial=0)) + 1, np.float32)
        score[things.id] = things.score
        return WindowMap(panoptic.semantic.astype(np.uint16), panoptic.instance, score)

    return segment


@dataclass(frozen=True, eq=False)
class Band:
    """One row of windows: their maps from left to right, and the picture's overview there.

    ``overview`` is uint8 [rows, columns, 3] RGB: every ``overview_step``-th pixel of the picture
    in the rows that are the cores of this band.
    """

    maps: Sequence[WindowMap]
    overview: np.ndarray


def overview_step(size_wh: tuple[int, int]) -> int:
    """Return how many pixels of the picture are one of the overview, 1 or more."""
    return -(-max(size_wh) // OVERVIEW_SIDE)


def overview_pixels(start: int, stop: int, step: int) -> np.ndarray:
    """Return which of the pixels ``start`` to before ``stop`` are in the overview, int64 [n]."""
    pixels = np.arange(start // step, -(-stop // step) + 1) * step + step // 2
    return pixels[(pixels >= start) & (pixels < stop)]


def segment_bands(
    source: Source,
    segment: WindowSegmenter,
    grid: Grid,
    rows: Sequence[int],
    on_window: Callable[[], Any] = lambda: None,
) -> Iterator[tuple[int, Band]]:
    """Segment some bands; the next windows are read while one is segmented.

    ``on_window`` is called after each window. Windows without any data are not segmented.
    """
    step = overview_step(grid.size_wh)
    windows = ((row, window) for row in rows for window in grid.band(row))
    with ThreadPoolExecutor(1, thread_name_prefix='reader') as reader:
        reads: list[Future] = []
        for row in rows:
            maps, overview = [], []
            for window in grid.band(row):
                for _, ahead in islice(windows, _AHEAD + 1 - len(reads)):
                    reads.append(reader.submit(_read_window, source, ahead))
                image_rgb, is_valid = reads.pop(0).result()
                maps.append(_segment_window(segment, image_rgb, is_valid, window))
                overview.append(_overview_of(image_rgb, window, grid, step))
                on_window()
            yield row, Band(maps, np.concatenate(overview, axis=1))


def _read_window(source: Source, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Read a whole window; what lies beyond the picture has no data."""
    x, y = window.x, window.y
    image_rgb = np.zeros((y.stop - y.start, x.stop - x.start, 3), np.uint8)
    is_valid = np.zeros(image_rgb.shape[:2], bool)
    x1, y1 = min(x.stop, source.size_wh[0]), min(y.stop, source.size_wh[1])
    inside = np.s_[: y1 - y.start, : x1 - x.start]
    image_rgb[inside], is_valid[inside] = source.read(x.start, y.start, x1, y1)
    return image_rgb, is_valid


def _segment_window(
    segment: WindowSegmenter, image_rgb: np.ndarray, is_valid: np.ndarray, window: Window
) -> WindowMap:
    kept = window.kept_slices
    if not is_valid[kept].any():
        shape = window.kept_shape
        return WindowMap(
            np.full(shape, NODATA, np.uint16), np.zeros(shape, np.uint16), np.zeros(1, np.float32)
        )
    found = segment(image_rgb, (window.x.start, window.y.start))
    semantic = np.where(is_valid[kept], found.semantic[kept], np.uint16(NODATA))
    instance = np.where(is_valid[kept], found.instance[kept], 0)
    return WindowMap(semantic, instance.astype(found.instance.dtype), found.score)


def _overview_of(image_rgb: np.ndarray, window: Window, grid: Grid, step: int) -> np.ndarray:
    x = overview_pixels(window.x.core_start, window.x.core_stop, step) - window.x.start
    y = overview_pixels(window.y.core_start, window.y.core_stop, step) - window.y.start
    return image_rgb[y[:, None], x]


_HEADER = struct.Struct('<4I')


def encode_band(band: Band) -> bytes:
    """Pack a band: the runs of each map, compressed."""
    parts = [_HEADER.pack(len(band.maps), *band.overview.shape), band.overview.tobytes()]
    for window_map in band.maps:
        runs = Runs.of(window_map.semantic, window_map.instance)
        height, width = window_map.semantic.shape
        parts.append(_HEADER.pack(height, width, len(runs), len(window_map.score)))
        parts += [
            runs.length.astype('<u2').tobytes(),
            runs.sample(window_map.semantic).astype('<u2').tobytes(),
            runs.sample(window_map.instance).astype('<u4').tobytes(),
            window_map.score.astype('<f4').tobytes(),
        ]
    return zlib.compress(b''.join(parts), 1)


def decode_band(data: bytes) -> tuple[np.ndarray, Iterator[WindowMap]]:
    """Unpack a band: its overview, and its maps one by one.

    Raises ValueError or zlib.error if the bytes are not a whole band.
    """
    raw = zlib.decompress(data)
    at = 0

    def take(dtype: str, count: int) -> np.ndarray:
        nonlocal at
        values = np.frombuffer(raw, dtype, count, at)
        at += values.nbytes
        return values

    count, *shape = take('<u4', 4).tolist()
    overview = take('u1', int(np.prod(shape))).reshape(shape)

    def maps() -> Iterator[WindowMap]:
        for _ in range(count):
            height, width, runs, scores = take('<u4', 4).tolist()
            length = take('<u2', runs)
            semantic, instance = take('<u2', runs), take('<u4', runs)
            yield WindowMap(
                np.repeat(semantic, length).reshape(height, width),
                np.repeat(instance, length).reshape(height, width),
                take('<f4', scores),
            )

    return overview, maps()


class BandStore:
    """The folder in which the bands of one run are kept until the picture is whole.

    Parameters
    ----------
    folder
        Made if need be.
    job
        Everything that the bands depend on, as JSON values. Bands of another job are removed.
    resume
        Keep the bands that are there. Raises PanopticRosError if they are of another job.
    """

    def __init__(self, folder: Path, job: dict[str, Any], resume: bool) -> None:
        self._folder = folder
        text = json.dumps(job, indent=1, sort_keys=True)
        manifest = folder / 'job.json'
        if folder.is_dir():
            if resume and manifest.is_file():
                _check_job(json.loads(manifest.read_text(encoding='utf-8')), json.loads(text))
            else:
                shutil.rmtree(folder)
        with whole_file(manifest) as path:
            path.write_text(text, encoding='utf-8')

    def missing(self, rows: Iterable[int]) -> list[int]:
        """Return the rows that have no file."""
        return [row for row in rows if not self._path(row).is_file()]

    def write(self, row: int, data: bytes) -> None:
        """Keep an encoded band; raises PanopticRosError if the disk is full."""
        with whole_file(self._path(row)) as path:
            path.write_bytes(data)

    def read(self, row: int) -> tuple[np.ndarray, Iterator[WindowMap]]:
        """Return the overview and the maps of a band."""
        return decode_band(self._path(row).read_bytes())

    def remove(self) -> None:
        """Remove the folder, when the results are whole."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, row: int) -> Path:
        return self._folder / f'{row:06d}.band'


def _check_job(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key in sorted({*found, *wanted}):
        if found.get(key) != wanted.get(key):
            raise PanopticRosError(
                f'the interrupted run had {key} {found.get(key)!r} and this one has '
                f'{wanted.get(key)!r}; use the same options and files, or leave out --resume to '
                'start afresh'
            )
