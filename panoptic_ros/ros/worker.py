"""Two stages with a thread each, and a slot in front of them for the newest image."""

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Lock
from time import monotonic
from typing import Any, Generic, TypeVar

Item = TypeVar('Item')
Result = TypeVar('Result')


WaitFor = Callable[[Future[Any]], None]


def wait_for(future: Future[Any]) -> None:
    """Wait until a future is done."""
    wait([future])


def inference_thread() -> ThreadPoolExecutor:
    """Return the thread of a first stage. An engine is opened, used and closed on it.

    GPU contexts belong to a thread.
    """
    return ThreadPoolExecutor(1, thread_name_prefix='inference')


class StagedWorker(Generic[Item, Result]):
    """Passes items through two stages; while an item is in the second, the next is in the first.

    Each source of items has one slot, in which the newest item replaces an older one. Sources take
    turns. Between the stages is no queue: a result waits in the first stage's thread until the
    second stage has finished the result before it, so the order is kept.

    An item that enters the first stage early only waits longer for the second. The first stage
    therefore begins so late that it ends when the second stage is expected to be free, and takes
    the newest item at that time.

    Parameters
    ----------
    first
        First stage: takes the items of one step, at most one of each source.
    second
        Second stage: takes what the first one returned.
    inference
        Thread of the first stage; ended by :meth:`stop`.
    batch
        Largest number of items in one step.
    overlap
        Whether the second stage has a thread of its own. If false, the first stage's thread runs
        both, one after the other.
    on_failure
        Called with an exception of a stage, on the thread of that stage.
    wait_for
        Waits for a future of the threads; may raise an exception to end the wait.
    """

    def __init__(
        self,
        first: Callable[[Sequence[Item]], Result],
        second: Callable[[Result], None],
        inference: ThreadPoolExecutor,
        *,
        batch: int = 1,
        overlap: bool,
        on_failure: Callable[[BaseException], None],
        wait_for: WaitFor = wait_for,
    ) -> None:
        self._first = first
        self._second = second
        self._inference = inference
        self._batch = batch
        self._publishing = (
            ThreadPoolExecutor(1, thread_name_prefix='publishing') if overlap else None
        )
        self._on_failure = on_failure
        self._wait_for = wait_for
        self._lock = Lock()
        self._waiting: dict[Hashable, Item] = {}  # in the order in which they are taken
        self._handed: Future[None] = Future()  # latest result in the second stage
        self._handed.set_result(None)
        # Latest durations, and when the result in the second stage is expected to leave it.
        self._first_s = self._second_s = self._second_end_s = 0.0

    @property
    def overlaps(self) -> bool:
        """Whether the stages have a thread each."""
        return self._publishing is not None

    def submit(self, source: Hashable, item: Item) -> bool:
        """Put an item into the slot of its source; returns True if it replaced an older one."""
        with self._lock:
            replaced = source in self._waiting
            self._waiting[source] = item  # an older item leaves its turn to this one
            if not replaced:
                self._inference.submit(self._take).add_done_callback(self._report)
        return replaced

    def drain(self, source: Hashable) -> bool:
        """Wait until both stages are idle; returns True if an item of the source was dropped."""
        with self._lock:
            dropped = self._waiting.pop(source, None) is not None
        for thread in self._threads():
            self._wait_for(thread.submit(int))
        return dropped

    def stop(self, last: Callable[[], object] = int) -> None:
        """Drop waiting items, finish those in work, run a last function in the first stage.

        Then end the threads.
        """
        with self._lock:
            self._waiting.clear()
        for thread in self._threads():
            self._wait_for(thread.submit(int))
        closing = self._inference.submit(last)
        self._wait_for(closing)
        for thread in self._threads():
            thread.shutdown()
        closing.result()

    def _threads(self) -> list[ThreadPoolExecutor]:
        return [self._inference] + ([self._publishing] if self._publishing else [])

    # On the thread of the first stage.

    def _take(self) -> None:
        wait([self._handed], max(0.0, self._second_end_s - self._first_s - monotonic()))
        with self._lock:
            items = [self._waiting.pop(source) for source in list(self._waiting)[: self._batch]]
        if not items:
            return  # dropped, or taken together with others
        start_s = monotonic()
        result = self._first(items)
        self._first_s = monotonic() - start_s
        if self._publishing is None:
            self._second(result)
            return
        wait([self._handed])
        self._second_end_s = monotonic() + self._second_s
        self._handed = self._publishing.submit(self._finish, result)
        self._handed.add_done_callback(self._report)

    # On the thread of the second stage.

    def _finish(self, result: Result) -> None:
        start_s = monotonic()
        self._second(result)
        self._second_s = monotonic() - start_s

    def _report(self, future: Future[None]) -> None:
        error = future.exception()
        if error is not None:
            self._on_failure(error)
