"""The stages as functions of numbers; threads are held with events, so no test depends on time."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait

import pytest

from panoptic_ros.ros import worker as worker_module
from panoptic_ros.ros.worker import StagedWorker, inference_thread

TIMEOUT_S = 60
CAMERA = 'camera'


class Gate:
    """Holds a thread that passes it until it is opened."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.open.wait(TIMEOUT_S)


class Stages:
    """Two stages that note what passes them, with a gate or an error for some items."""

    def __init__(self, overlap: bool, **options: object) -> None:
        self.entered: list[tuple[str, object]] = []
        self.threads: list[threading.Thread] = []
        self.gates: dict[tuple[str, object], Gate] = {}
        self.errors: set[tuple[str, object]] = set()
        self.failures: list[BaseException] = []
        self.inference = inference_thread()
        self.worker = StagedWorker(
            self._first,
            self._second,
            self.inference,
            overlap=overlap,
            on_failure=self.failures.append,
            **options,
        )

    def gate(self, stage: str, item: object) -> Gate:
        return self.gates.setdefault((stage, item), Gate())

    def passed(self, stage: str) -> list[object]:
        return [item for entered, item in self.entered if entered == stage]

    def submit(self, item: object, source: str = CAMERA) -> bool:
        return self.worker.submit(source, item)

    def settle(self) -> None:
        """Wait until everything submitted has passed."""
        self.inference.submit(int).result(TIMEOUT_S)
        self.worker.drain('no source')

    def _first(self, items: Sequence[object]) -> Sequence[object]:
        for item in items:
            self._pass('first', item)
        return items

    def _second(self, items: Sequence[object]) -> None:
        for item in items:
            self._pass('second', item)

    def _pass(self, stage: str, item: object) -> None:
        self.entered.append((stage, item))
        self.threads.append(threading.current_thread())
        if gate := self.gates.get((stage, item)):
            gate()
        if (stage, item) in self.errors:
            raise ZeroDivisionError(f'{stage} {item}')


@pytest.fixture(params=[True, False], ids=['overlap', 'no overlap'])
def overlap(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def stages(overlap: bool) -> Iterator[Stages]:
    stages = Stages(overlap)
    yield stages
    for gate in stages.gates.values():
        gate.open.set()
    stages.worker.stop()


@pytest.fixture
def overlapping() -> Iterator[Stages]:
    stages = Stages(True)
    yield stages
    for gate in stages.gates.values():
        gate.open.set()
    stages.worker.stop()


def test_the_newest_item_wins(stages: Stages) -> None:
    gate = stages.gate('first', 1)
    assert not stages.submit(1)
    assert gate.entered.wait(TIMEOUT_S)
    assert not stages.submit(2)
    assert stages.submit(3)
    assert stages.submit(4)
    gate.open.set()
    stages.settle()
    assert stages.passed('second') == [1, 4]
    assert not stages.submit(5)
    stages.settle()
    assert stages.passed('second') == [1, 4, 5]


def test_the_stages_run_at_the_same_time_and_in_order(overlapping: Stages) -> None:
    published, computed = overlapping.gate('second', 1), overlapping.gate('first', 2)
    overlapping.submit(1)
    assert published.entered.wait(TIMEOUT_S)
    overlapping.submit(2)
    assert computed.entered.wait(TIMEOUT_S)  # while 1 is in the second stage
    overlapping.submit(3)
    computed.open.set()
    time.sleep(0.05)
    # 2 waits for the second stage, and 3 for the first: there is no queue between them.
    assert overlapping.entered == [('first', 1), ('second', 1), ('first', 2)]
    assert overlapping.submit(4)
    published.open.set()
    overlapping.settle()
    assert overlapping.passed('first') == overlapping.passed('second') == [1, 2, 4]


def test_each_stage_has_its_thread(overlap: bool, stages: Stages) -> None:
    for item in range(3):
        stages.submit(item)
        stages.settle()
    first, second = set(stages.threads[::2]), set(stages.threads[1::2])
    assert len(first) == len(second) == 1
    assert (first == second) is not overlap
    assert first == {stages.inference.submit(threading.current_thread).result(TIMEOUT_S)}
    assert stages.worker.overlaps is overlap


def test_the_first_stage_waits_for_a_newer_item_while_the_second_is_busy(
    overlapping: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr(worker_module, 'monotonic', lambda: now_s)
    long = overlapping.gate('second', 1)
    overlapping.submit(1)
    assert long.entered.wait(TIMEOUT_S)
    now_s = 1000.0
    long.open.set()
    overlapping.settle()
    # The second stage is now expected to take 1000 s, the first one no time.
    again = overlapping.gate('second', 2)
    overlapping.submit(2)
    assert again.entered.wait(TIMEOUT_S)
    overlapping.submit(3)
    time.sleep(0.05)
    assert overlapping.submit(4)
    again.open.set()
    overlapping.settle()
    assert overlapping.passed('first') == [1, 2, 4]


@pytest.mark.parametrize('stage', ['first', 'second'])
def test_an_error_in_a_stage_is_reported_and_the_next_item_passes(
    stages: Stages, stage: str
) -> None:
    stages.errors.add((stage, 1))
    for item in (1, 2):
        stages.submit(item)
        stages.settle()
    assert [str(error) for error in stages.failures] == [f'{stage} 1']
    assert stages.passed('second') == ([2] if stage == 'first' else [1, 2])


def test_drain_drops_what_waits_and_finishes_what_is_in_work(overlapping: Stages) -> None:
    published, computed = overlapping.gate('second', 1), overlapping.gate('first', 2)
    overlapping.submit(1)
    assert published.entered.wait(TIMEOUT_S)
    overlapping.submit(2)
    assert computed.entered.wait(TIMEOUT_S)
    overlapping.submit(3)
    dropped: list[bool] = []
    drainer = threading.Thread(target=lambda: dropped.append(overlapping.worker.drain(CAMERA)))
    drainer.start()
    while overlapping.worker._waiting:  # until the drainer has dropped it
        time.sleep(0.001)
    computed.open.set()
    published.open.set()
    drainer.join(TIMEOUT_S)
    assert dropped == [True]
    assert overlapping.passed('second') == [1, 2]
    assert overlapping.worker.drain(CAMERA) is False


def test_stop_while_both_stages_are_busy() -> None:
    stages = Stages(True)
    published, computed = stages.gate('second', 1), stages.gate('first', 2)
    stages.submit(1)
    assert published.entered.wait(TIMEOUT_S)
    stages.submit(2)
    assert computed.entered.wait(TIMEOUT_S)
    stages.submit(3)
    closed: list[threading.Thread] = []
    stopper = threading.Thread(
        target=stages.worker.stop, args=(lambda: closed.append(threading.current_thread()),)
    )
    stopper.start()
    while stages.worker._waiting:
        time.sleep(0.001)
    assert not closed
    computed.open.set()
    published.open.set()
    stopper.join(TIMEOUT_S)
    assert stages.passed('second') == [1, 2]
    assert closed == [stages.threads[0]]  # the engine is closed where it was used
    assert not any(thread.is_alive() for thread in stages.threads)
    with pytest.raises(RuntimeError):
        stages.submit(4)


def test_an_error_of_the_last_function_is_the_callers(overlap: bool) -> None:
    stages = Stages(overlap)
    stages.submit(1)
    stages.settle()
    with pytest.raises(ZeroDivisionError):
        stages.worker.stop(last=lambda: 1 / 0)
    assert not any(thread.is_alive() for thread in stages.threads)


def test_sources_take_turns(stages: Stages) -> None:
    gate = stages.gate('first', 'left 0')
    stages.submit('left 0', 'left')
    assert gate.entered.wait(TIMEOUT_S)
    stages.submit('front 1', 'front')
    stages.submit('left 1', 'left')
    stages.submit('rear 1', 'rear')
    assert stages.submit('front 2', 'front')  # keeps the turn of 'front 1'
    gate.open.set()
    stages.settle()
    assert stages.passed('second') == ['left 0', 'front 2', 'left 1', 'rear 1']


def test_a_step_takes_the_newest_item_of_several_sources() -> None:
    stages = Stages(True, batch=2)
    steps: list[list[object]] = []
    stages.worker._first = lambda items: steps.append(list(items)) or items
    gate = Gate()
    stages.inference.submit(gate)
    for item, source in (('a1', 'a'), ('b1', 'b'), ('a2', 'a'), ('c1', 'c')):
        stages.submit(item, source)
    gate.open.set()
    stages.settle()
    assert steps == [['a2', 'b1'], ['c1']]
    stages.submit('b2', 'b')
    stages.settle()
    assert steps[2:] == [['b2']]  # does not wait for other sources
    assert stages.passed('second') == ['a2', 'b1', 'c1', 'b2']
    stages.worker.stop()


@pytest.mark.parametrize('stage', ['first', 'second'])
def test_who_waits_decides_for_how_long(stage: str) -> None:
    def impatient(future: Future) -> None:
        if not wait([future], 0.01).done:
            raise TimeoutError

    stages = Stages(True, wait_for=impatient)
    gate = stages.gate(stage, 1)
    stages.submit(1)
    assert gate.entered.wait(TIMEOUT_S)
    with pytest.raises(TimeoutError):
        stages.worker.drain(CAMERA)
    with pytest.raises(TimeoutError):
        stages.worker.stop()
    gate.open.set()
