"""The one thread that owns the network, with one slot in front of it: the newest task wins."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock
from time import sleep
from typing import Any, TypeVar

T = TypeVar('T')
Task = Callable[[], None]

HANDOVER_S = 1e-3
"""Who submits a task steps aside for so long, so that the thread can get as far as the engine,
which does not need the interpreter. The two would else wait for it by turns: an rclpy executor has
a third of a millisecond to do between two callbacks."""


def wait_for_ever(future: Future[Any]) -> None:
    """Wait until a future is done, however long that takes."""
    wait([future])


def _nothing() -> None:
    pass


class NewestWorker:
    """Runs tasks one after the other on one thread; at most one waits, the newest.

    An engine is opened, used and closed on this thread (:meth:`call`), because what a GPU's
    driver keeps belongs to the thread that made it.

    Parameters
    ----------
    on_failure
        Called on the thread with the exception that a submitted task let escape.
    wait_for
        How others wait until the thread has done something: returns when it has, or raises what
        ends the waiting.
    """

    def __init__(
        self,
        on_failure: Callable[[BaseException], None],
        wait_for: Callable[[Future[Any]], None] = wait_for_ever,
    ) -> None:
        self._on_failure = on_failure
        self._wait_for = wait_for
        self._pool = ThreadPoolExecutor(1, thread_name_prefix='inference')
        self._lock = Lock()
        self._waiting: Task | None = None

    def submit(self, task: Task) -> bool:
        """Put a task in the slot; returns True if an older one had to make way for it."""
        with self._lock:
            overtakes = self._waiting is not None
            self._waiting = task
            if not overtakes:
                self._pool.submit(self._run_waiting).add_done_callback(self._report)
        if not overtakes:
            sleep(HANDOVER_S)
        return overtakes

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run a function on the thread, after the tasks that were submitted before."""
        return self._pool.submit(function)

    def drain(self) -> bool:
        """Wait until the thread is idle; returns True if a task that waited is forgotten."""
        with self._lock:
            forgets = self._waiting is not None
            self._waiting = None
        self._wait_for(self.call(int))
        return forgets

    def stop(self, last: Callable[[], None] = _nothing) -> None:
        """Forget the task that waits, if any, run a last function, and end the thread."""
        self.drain()
        closing = self.call(last)
        self._wait_for(closing)
        self._pool.shutdown()
        closing.result()

    def _run_waiting(self) -> None:
        with self._lock:
            task, self._waiting = self._waiting, None
        if task is not None:
            task()

    def _report(self, future: Future[None]) -> None:
        error = future.exception()
        if error is not None:
            self._on_failure(error)
