"""The inference thread, with one slot in front of it: the newest image wins."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock
from typing import Any, TypeVar

T = TypeVar('T')
Task = Callable[[], None]


def wait_for(future: Future[Any]) -> None:
    """Wait until a future is done."""
    wait([future])


class NewestWorker:
    """Runs tasks one after the other on one thread; at most one waits, the newest.

    An engine is opened, used and closed on this thread (:meth:`call`), because GPU contexts belong
    to a thread.

    Parameters
    ----------
    on_failure
        Called on the thread with an exception that a submitted task did not catch.
    wait_for
        Waits for a future of the thread; may raise an exception to end the wait.
    """

    def __init__(
        self,
        on_failure: Callable[[BaseException], None],
        wait_for: Callable[[Future[Any]], None] = wait_for,
    ) -> None:
        self._on_failure = on_failure
        self._wait_for = wait_for
        self._pool = ThreadPoolExecutor(1, thread_name_prefix='inference')
        self._lock = Lock()
        self._waiting: Task | None = None

    def submit(self, task: Task) -> bool:
        """Put a task into the slot; returns True if it replaced one that waited there."""
        with self._lock:
            replaced = self._waiting is not None
            self._waiting = task
            if not replaced:
                self._pool.submit(self._run_waiting).add_done_callback(self._report)
        return replaced

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run a function on the thread after the tasks submitted before."""
        return self._pool.submit(function)

    def drain(self) -> bool:
        """Wait until the thread is idle; returns True if a waiting task was dropped."""
        with self._lock:
            dropped = self._waiting is not None
            self._waiting = None
        self._wait_for(self.call(int))
        return dropped

    def stop(self, last: Callable[[], object] = int) -> None:
        """Drop the waiting task, run a last function, and end the thread."""
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
