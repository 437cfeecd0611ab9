"""Run a model in this process or on the workers of a dask cluster.

A worker process opens its model once. The tasks of a worker that dies are repeated by another one,
so the results of a cluster equal those of one process.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import cv2
import numpy as np

from panoptic_ros.engines import open_engine
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.model import Model
from panoptic_ros.segmenter import Segmentation, Segmenter

if TYPE_CHECKING:
    from distributed import Client, Future

Item = TypeVar('Item')
Result = TypeVar('Result')


@dataclass(frozen=True)
class ModelChoice:
    """Which model to run, and how; the parameters are those of :func:`open_engine`."""

    model: str
    engine: str = 'auto'
    precision: str = 'auto'
    threads: int = 0

    def open(self) -> Segmenter:
        """Return a segmenter with an open engine."""
        # OpenCV's threads would compete with the engine's for the same cores.
        cv2.setNumThreads(1)
        model = Model.load(self.model)
        return Segmenter(model, open_engine(model, self.engine, self.threads, self.precision))


class SegmentImages(Protocol):
    """Segments images one after the other, in order; each comes with an item that is passed on."""

    def __call__(
        self, images: Iterable[tuple[Item, np.ndarray]], encoding: str
    ) -> Iterator[tuple[Item, Segmentation]]:
        """Raise FrameError or EngineError as :meth:`Segmenter.segment` does."""


@contextmanager
def open_model(choice: ModelChoice, scheduler: str = '') -> Iterator[tuple[str, SegmentImages]]:
    """Open a model here, or on the workers of the scheduler at this address.

    Yields the description of the engine and the function that segments images. Raises
    PanopticRosError if there is no scheduler or a worker cannot open the model.
    """
    if scheduler:
        with open_client(scheduler) as client:
            described = client.submit(_describe_engine, choice, pure=False)
            description = result_of(described, f'opening {choice.model}')

            def on_cluster(
                images: Iterable[tuple[Item, np.ndarray]], encoding: str
            ) -> Iterator[tuple[Item, Segmentation]]:
                return _segment_on_cluster(client, choice, images, encoding)

            yield description, on_cluster
        return
    segmenter = choice.open()
    with closing(segmenter.engine) as engine:

        def here(
            images: Iterable[tuple[Item, np.ndarray]], encoding: str
        ) -> Iterator[tuple[Item, Segmentation]]:
            return ((item, segmenter.segment(image, encoding)) for item, image in images)

        yield str(engine.description), here


@contextmanager
def open_client(address: str) -> Iterator['Client']:
    """Connect to a dask scheduler; raises PanopticRosError if none answers."""
    from distributed import Client

    try:
        client = Client(address, timeout=20)
    except (OSError, TimeoutError, ValueError) as error:
        raise PanopticRosError(
            f'no dask scheduler answers at {address!r} ({error}); start one with dask scheduler, '
            'or leave out --scheduler'
        ) from error
    with client:
        yield client


def run_tasks(
    client: 'Client', function: Callable[..., Result], tasks: dict[Item, tuple[Any, ...]]
) -> Iterator[tuple[Item, Result]]:
    """Call a function on the workers, once for each task, and yield the results as they come.

    Raises PanopticRosError naming the task that failed.
    """
    from distributed import as_completed

    key_of = {
        # Pure tasks with equal arguments would be one task, also those of an earlier run.
        client.submit(function, *arguments, pure=False): key
        for key, arguments in tasks.items()
    }
    for future in as_completed(list(key_of)):
        key = key_of.pop(future)
        result = result_of(future, str(key))
        future.release()
        yield key, result


def result_of(future: 'Future', task: str) -> Any:
    """Return the result of a task; raises PanopticRosError naming the task if it failed."""
    from distributed import KilledWorker

    try:
        return future.result()
    except (KilledWorker, PanopticRosError) as error:
        raise PanopticRosError(f'{task} failed on the cluster ({error})') from error


@contextmanager
def worker_segmenter(choice: ModelChoice) -> Iterator[Segmenter]:
    """Yield the segmenter of this worker process; one thread at a time may use it."""
    with _LOCK:
        yield _open_once(choice)


_LOCK = Lock()  # an engine belongs to one thread, a worker may have several
_open_once = lru_cache(maxsize=1)(ModelChoice.open)  # stays open as long as the process


def _segment_on_cluster(
    client: 'Client',
    choice: ModelChoice,
    images: Iterable[tuple[Item, np.ndarray]],
    encoding: str,
) -> Iterator[tuple[Item, Segmentation]]:
    ahead = 2 * max(1, sum(client.nthreads().values()))
    waiting: deque[tuple[Item, Future]] = deque()
    number = 0
    for item, image in images:
        waiting.append((item, client.submit(_segment_image, choice, image, encoding, pure=False)))
        if len(waiting) > ahead:
            yield _take(waiting, number)
            number += 1
    while waiting:
        yield _take(waiting, number)
        number += 1


def _take(waiting: 'deque[tuple[Item, Future]]', number: int) -> tuple[Item, Segmentation]:
    item, future = waiting.popleft()
    return item, result_of(future, f'image {number}')


def _segment_image(choice: ModelChoice, image: np.ndarray, encoding: str) -> Segmentation:
    with worker_segmenter(choice) as segmenter:
        return segmenter.segment(image, encoding)


def _describe_engine(choice: ModelChoice) -> str:
    with worker_segmenter(choice) as segmenter:
        return str(segmenter.engine.description)
