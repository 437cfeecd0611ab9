import os
import signal
from collections.abc import Iterator

import pytest

from panoptic_ros.ros.processes import signals_held_back


class Came(Exception):
    """A signal arrived."""


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    def take(number: int, frame: object) -> None:
        raise Came

    before = signal.signal(signal.SIGTERM, take)
    yield
    signal.signal(signal.SIGTERM, before)


def test_signals_take_effect_after_the_block() -> None:
    done = []

    def interrupted() -> None:
        with signals_held_back():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append('the rest of the block')

    with pytest.raises(Came):
        interrupted()
    assert done == ['the rest of the block']
    with pytest.raises(Came):
        os.kill(os.getpid(), signal.SIGTERM)


def test_without_signals_nothing_happens() -> None:
    interrupt = signal.getsignal(signal.SIGINT)
    with signals_held_back():
        assert signal.getsignal(signal.SIGINT) is not interrupt
    assert signal.getsignal(signal.SIGINT) is interrupt
