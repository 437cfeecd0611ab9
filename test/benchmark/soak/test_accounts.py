import os
from collections import Counter

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from panoptic_ros.benchmark.cdr import FrameKey
from panoptic_ros.benchmark.processes import NodeLostError
from panoptic_ros.benchmark.soak.accounts import Output, Usage, frame_faults, usage_faults


def used(*memory_mib: float, shared: float = 40, **more: int) -> list[Usage]:
    held = {'threads': 9, 'handles': 20} | more
    return [Usage(mib, mib - shared, **held) for mib in memory_mib]


def test_usage_of_this_process() -> None:
    before = Usage.of(os.getpid())
    with open(os.devnull):  # noqa: PTH123
        during = Usage.of(os.getpid())
    assert during.handles == before.handles + 1
    assert before.threads >= 1
    assert 10 < before.own_mib < before.memory_mib < 100_000
    with pytest.raises(NodeLostError, match='gone'):
        Usage.of(2**22 + 1)


def test_least_usage() -> None:
    readings = [Usage(9.0, 6.0, 3, 5), Usage(8.0, 7.0, 4, 6)]
    assert Usage.least(readings) == Usage(8.0, 6.0, 3, 5)


@pytest.mark.parametrize(
    ('cycles', 'faults'),
    [
        (used(100, 100, 100, 100), set()),
        (used(100, 108, 108, 100.9), set()),
        (used(100, 100, 101.1, 102), {'memory grows by 1 % at most'}),
        (used(100, 100) + used(102, 102, shared=42), {'memory grows by 1 % at most'}),
        (used(100, 100) + used(100, 100, threads=10), {'no threads are left'}),
        (used(100, 100, 100) + used(100, handles=21), {'no handles are left'}),
        (used(100, handles=21) + used(100) + used(100) + used(100, handles=21), set()),
    ],
)
def test_what_counts_as_growth(cycles: list[Usage], faults: set[str]) -> None:
    found = usage_faults(cycles)
    assert {name for name, fault in found.items() if fault} == faults
    assert len(found) == 3


TOPICS = ('semantic', 'instance', 'overlay', 'markers')
HEADERS = '{}: headers are those of frames sent, each once'
KEY = FrameKey(1, 2, 'eye')


def faults(
    counts: dict[str, int] | None = None,
    outputs: dict[str, Output] | None = None,
    camera_sends: bool = False,
) -> set[str]:
    """Return the checks that fail for a good phase with these changes."""
    good = {'received': 12, 'processed': 8, 'dropped': 3, 'unwatched': 0, 'bad': 1, 'failed': 0}
    came = dict.fromkeys(TOPICS, Output(8)) | {'markers': Output(5)}
    sent = None if camera_sends else Counter(good=10, bad=2)
    found = frame_faults(good | (counts or {}), came | (outputs or {}), sent)
    return {name for name, fault in found.items() if fault}


def test_a_phase_in_which_everything_adds_up() -> None:
    assert faults() == set()


@pytest.mark.parametrize(
    ('counts', 'failing'),
    [
        (
            {'received': 11},
            {'frames received are accounted for', 'frames sent are received'},
        ),
        ({'received': 13}, {'frames received are accounted for', 'frames sent are received'}),
        ({'dropped': 2}, {'frames received are accounted for'}),
        ({'dropped': 2, 'failed': 1}, {'no frame fails'}),
        (
            {'dropped': 1, 'bad': 3},
            {'bad frames, and no others, are counted as bad or dropped'},
        ),
        (
            {'dropped': 0, 'bad': 0, 'unwatched': 4},
            {'bad frames, and no others, are counted as bad or dropped'},
        ),
        (
            {'processed': 9, 'dropped': 2},
            {f'{topic}: comes for every frame processed' for topic in TOPICS[:3]},
        ),
    ],
)
def test_counters_that_do_not_add_up(counts: dict[str, int], failing: set[str]) -> None:
    assert faults(counts) == failing


@pytest.mark.parametrize('topic', TOPICS)
@pytest.mark.parametrize('kind', ['unpublished', 'repeated'])
def test_outputs_with_wrong_headers(topic: str, kind: str) -> None:
    headers = 5 if topic == 'markers' else 8
    assert faults(outputs={topic: Output(headers, **{kind: [KEY]})}) == {HEADERS.format(topic)}


def test_what_a_camera_process_sends_is_not_counted() -> None:
    assert faults({'received': 50, 'dropped': 41}, camera_sends=True) == set()
    assert faults({'received': 50}, camera_sends=True) == {'frames received are accounted for'}
