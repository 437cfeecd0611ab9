import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from panoptic_ros.benchmark import processes
from panoptic_ros.benchmark.processes import (
    DOMAINS,
    is_inhabited,
    own_domain,
    process_environment,
    signals_held_back,
)
from panoptic_ros.errors import PanopticRosError

if TYPE_CHECKING:
    from support.ros import Peer


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


CLAIM = """
import sys
from panoptic_ros.benchmark import processes
processes.DOMAINS = range(*map(int, sys.argv[1:]))
print(processes.own_domain(), flush=True)
sys.stdin.read()
"""


def claim(first: int, stop: int) -> subprocess.Popen:
    """Start a process that claims one of the domains, prints it, and waits."""
    return subprocess.Popen(
        [sys.executable, '-c', CLAIM, str(first), str(stop)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def claim_here(monkeypatch: pytest.MonkeyPatch, *domains: int) -> int:
    """Claim one of the domains as a process does that has none yet."""
    monkeypatch.setattr(processes, 'DOMAINS', range(*domains))
    return own_domain.__wrapped__()


@pytest.mark.process
def test_no_two_processes_are_in_one_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = claim(230, 232), claim(230, 232)
    with first, second:
        assert {int(p.stdout.readline()) for p in (first, second)} == {230, 231}
        with pytest.raises(PanopticRosError, match='each DDS domain from 230 to 231 is in use'):
            claim_here(monkeypatch, 230, 232)
        first.kill()  # however it ends
        first.wait()
        assert claim_here(monkeypatch, 230, 232) in {230, 231}


def test_domain_of_somebody_who_did_not_ask_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(('127.0.0.1', 7410 + 250 * 228))
        assert claim_here(monkeypatch, 228, 230) == 229


def test_where_ros_is_the_domain_is_seen_to_be_inhabited(peer: 'Peer') -> None:
    assert is_inhabited(int(os.environ['ROS_DOMAIN_ID']))
    assert peer.node.get_name() == 'peer'


def test_one_process_has_one_domain() -> None:
    assert own_domain() == own_domain()
    assert own_domain() in DOMAINS
    assert process_environment()['ROS_DOMAIN_ID'] == str(own_domain())
    assert os.environ['ROS_DOMAIN_ID'] == str(own_domain())
