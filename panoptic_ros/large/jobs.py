"""What there is to do for one large picture, and doing it here or on a dask cluster."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from panoptic_ros.cluster import ModelChoice, open_client, run_tasks, worker_segmenter
from panoptic_ros.errors import PanopticRosError, SourceError
from panoptic_ros.large.bands import (
    BandStore,
    WindowSegmenter,
    encode_band,
    model_segmenter,
    segment_bands,
)
from panoptic_ros.large.mapping import Map, Results, write_map
from panoptic_ros.large.reading.georeference import Georeference
from panoptic_ros.large.reading.pictures import Picture, ReadOptions
from panoptic_ros.large.windows import Grid
from panoptic_ros.model import Model

Key = TypeVar('Key')

BANDS = '.bands'
"""Name of the folder of the bands, in the folder of the results."""


@dataclass(frozen=True)
class MapJob:
    """One large picture to be mapped.

    Parameters
    ----------
    source
        The file.
    reading
        How to read it.
    model
        What segments its windows.
    grid
        Where the windows lie, in pixels of the resolution that ``reading`` asks for.
    """

    source: Path
    reading: ReadOptions
    model: ModelChoice
    grid: Grid


def open_store(
    folder: Path,
    source: Path,
    model: Model,
    choice: ModelChoice,
    options: dict[str, Any],
    resume: bool,
) -> BandStore:
    """Open the store of the bands of a source, a file or a folder of files.

    ``options`` are the others that the bands depend on, as JSON values. Raises PanopticRosError
    if the store is of another job.
    """
    status = [file.stat() for file in (source.iterdir() if source.is_dir() else [source])]
    weights = hashlib.sha256()
    for precision in sorted(model.card.files):
        weights.update(model.card.files[precision].sha256.encode())
    job = {
        'source': source.name,
        'bytes': sum(file.st_size for file in status),
        'modified_ns': max(file.st_mtime_ns for file in status),
        'model': model.card.name,
        'weights': weights.hexdigest(),
        'engine': choice.engine,
        'precision': choice.precision,
        **options,
    }
    return BandStore(folder, job, resume)


@dataclass(frozen=True)
class PlannedMap:
    """A job with what its results need.

    Parameters
    ----------
    job
        What to do.
    georeference
        Where the pixels lie.
    scale_xy
        Size of a pixel in pixels of the file's finest level.
    """

    job: MapJob
    georeference: Georeference
    scale_xy: tuple[float, float]


def plan_grid(
    size_wh: tuple[int, int], window_wh: tuple[int, int], overlap: int | None = None
) -> Grid:
    """Lay out the windows of a picture.

    By default windows share an eighth of their shorter side; a quarter of what they share is
    trimmed from each side. Raises SourceError if the overlap is out of its range.
    """
    if overlap is None:
        overlap = max(1, min(window_wh) // 8)
    try:
        return Grid(size_wh, window_wh, overlap, overlap // 4)
    except ValueError as error:
        raise SourceError(f'{error}; change --overlap or --window') from error


def plan_map(
    source: Path,
    reading: ReadOptions,
    choice: ModelChoice,
    window_wh: tuple[int, int],
    overlap: int | None = None,
) -> PlannedMap:
    """Look at a picture and lay out its windows as :func:`plan_grid` does.

    Raises SourceError if the picture cannot be read as asked for.
    """
    with closing(Picture.open(source, reading)) as picture:
        grid = plan_grid(picture.size_wh, window_wh, overlap)
        job = MapJob(source.resolve(), reading, choice, grid)
        return PlannedMap(job, picture.georeference, picture.scale_xy)


def run_maps(
    plans: Sequence[tuple[PlannedMap, Results]],
    model: Model,
    resume: bool = False,
    scheduler: str = '',
) -> Iterator[Map]:
    """Segment all pictures, here or on a cluster, and write the results of each.

    Bands are kept in :data:`BANDS` of each folder until its results are whole. The results come in
    the order of the plans. Raises PanopticRosError or SourceError as its parts do.
    """
    stores = [
        open_store(
            results.folder / BANDS,
            plan.job.source,
            model,
            plan.job.model,
            asdict(plan.job.grid) | asdict(plan.job.reading),
            resume,
        )
        for plan, results in plans
    ]
    missing = [
        (number, row)
        for number, ((plan, _), store) in enumerate(zip(plans, stores, strict=True))
        for row in store.missing(range(len(plan.job.grid.rows)))
    ]
    across = [len(plan.job.grid.columns) for plan, _ in plans]
    total = sum(across[number] for number, _ in missing)
    with tqdm(total=total, unit='window', disable=None) as bar:
        if scheduler:
            tasks = {(number, row): (plans[number][0].job, row) for number, row in missing}
            for (number, row), data in run_on_cluster(scheduler, tasks):
                stores[number].write(row, data)
                bar.update(across[number])
        elif missing:
            segmenter = plans[0][0].job.model.open()
            with closing(segmenter.engine):
                segment = model_segmenter(segmenter)
                for number in sorted({number for number, _ in missing}):
                    rows = [row for n, row in missing if n == number]
                    for row, data in run_here(plans[number][0].job, segment, rows, bar.update):
                        stores[number].write(row, data)
    for (plan, results), store in zip(plans, stores, strict=True):
        steps = 2 * len(plan.job.grid.rows)
        with tqdm(total=steps, unit='band', desc='writing', disable=None) as bar:
            found = write_map(
                store,
                plan.job.grid,
                model.label_set,
                plan.georeference,
                plan.scale_xy,
                results,
                bar.update,
            )
        store.remove()
        yield found


def run_here(
    job: MapJob,
    segment: WindowSegmenter,
    rows: Sequence[int],
    on_window: Callable[[], Any],
) -> Iterator[tuple[int, bytes]]:
    """Segment some bands of a job in this process and give them encoded."""
    with closing(Picture.open(job.source, job.reading)) as picture:
        for row, band in segment_bands(picture, segment, job.grid, rows, on_window):
            yield row, encode_band(band)


def run_on_cluster(
    address: str, tasks: dict[Key, tuple[MapJob, int]]
) -> Iterator[tuple[Key, bytes]]:
    """Segment bands on the workers of a dask scheduler and yield them encoded, as they come.

    The workers must see the files of the jobs under the same paths. Raises PanopticRosError if
    there is no scheduler, or a band fails.
    """
    key_of = {f'band {row} of {job.source}': key for key, (job, row) in tasks.items()}
    named = dict(zip(key_of, tasks.values(), strict=True))
    with open_client(address) as client:
        try:
            for name, data in run_tasks(client, _segment_on_worker, named):
                yield key_of[name], data
        except PanopticRosError as error:
            raise PanopticRosError(
                f'{error}; the finished bands are kept: correct the cause and use --resume'
            ) from error


def _segment_on_worker(job: MapJob, row: int) -> bytes:
    with worker_segmenter(job.model) as segmenter:
        ((_, data),) = run_here(job, model_segmenter(segmenter), [row], lambda: None)
        return data
