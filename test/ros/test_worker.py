import threading
import time
from concurrent.futures import Future, wait

import pytest

from panoptic_ros.ros.worker import NewestWorker

TIMEOUT_S = 60


@pytest.fixture
def failures() -> list[BaseException]:
    return []


@pytest.fixture
def worker(failures: list[BaseException]) -> NewestWorker:
    worker = NewestWorker(failures.append)
    yield worker
    worker.stop()


class Gate:
    """A task that starts, says so, and waits to be let through."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.open.wait(TIMEOUT_S)


def test_the_newest_task_wins(worker: NewestWorker) -> None:
    done = []
    gate = Gate()
    assert not worker.submit(gate)
    assert gate.entered.wait(TIMEOUT_S)
    assert not worker.submit(lambda: done.append('old'))
    assert worker.submit(lambda: done.append('newer'))
    assert worker.submit(lambda: done.append('newest'))
    gate.open.set()
    worker.call(int).result(TIMEOUT_S)
    assert done == ['newest']
    assert not worker.submit(lambda: done.append('next'))
    worker.call(int).result(TIMEOUT_S)
    assert done == ['newest', 'next']


def test_all_on_one_thread_that_is_not_ours(worker: NewestWorker) -> None:
    threads = []
    worker.submit(lambda: threads.append(threading.get_ident()))
    threads.append(worker.call(threading.get_ident).result(TIMEOUT_S))
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads


def test_drain_forgets_what_waits_and_finishes_what_runs(worker: NewestWorker) -> None:
    done = []
    gate = Gate()

    def work() -> None:
        gate()
        done.append('running')

    worker.submit(work)
    assert gate.entered.wait(TIMEOUT_S)
    worker.submit(lambda: done.append('waiting'))
    forgot = []
    drainer = threading.Thread(target=lambda: forgot.append(worker.drain()))
    drainer.start()
    while worker._waiting is not None:  # until the drainer has forgotten it
        time.sleep(0.001)
    gate.open.set()
    drainer.join(TIMEOUT_S)
    assert forgot == [True]
    assert done == ['running']
    assert worker.drain() is False


def test_what_a_task_raises_is_reported_and_the_next_one_runs(
    worker: NewestWorker, failures: list[BaseException]
) -> None:
    done = []

    def fail() -> None:
        raise ZeroDivisionError('on purpose')

    worker.submit(fail)
    worker.call(int).result(TIMEOUT_S)
    assert [str(error) for error in failures] == ['on purpose']
    worker.submit(lambda: done.append('next'))
    worker.call(int).result(TIMEOUT_S)
    assert done == ['next']


def test_what_a_call_raises_is_the_callers(
    worker: NewestWorker, failures: list[BaseException]
) -> None:
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda: 1 / 0).result(TIMEOUT_S)
    assert failures == []


def test_stop_ends_the_thread(failures: list[BaseException]) -> None:
    worker = NewestWorker(failures.append)
    thread = worker.call(threading.current_thread).result(TIMEOUT_S)
    worker.stop()
    assert not thread.is_alive()
    with pytest.raises(RuntimeError):
        worker.submit(lambda: None)


def test_the_last_function_runs_on_the_thread_and_what_it_raises_is_the_callers(
    failures: list[BaseException],
) -> None:
    worker = NewestWorker(failures.append)
    thread, ran = worker.call(threading.current_thread).result(TIMEOUT_S), []
    worker.stop(last=lambda: ran.append(threading.current_thread()))
    assert ran == [thread]
    worker = NewestWorker(failures.append)
    thread = worker.call(threading.current_thread).result(TIMEOUT_S)
    with pytest.raises(ZeroDivisionError):
        worker.stop(last=lambda: 1 / 0)
    assert not thread.is_alive()


def test_who_waits_decides_for_how_long(failures: list[BaseException]) -> None:
    def impatient(future: Future) -> None:
        if not wait([future], 0.01).done:
            raise TimeoutError

    worker = NewestWorker(failures.append, impatient)
    gate = Gate()
    worker.submit(gate)
    assert gate.entered.wait(TIMEOUT_S)
    with pytest.raises(TimeoutError):
        worker.drain()
    with pytest.raises(TimeoutError):
        worker.stop()
    gate.open.set()
