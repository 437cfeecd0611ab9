"""What has to add up in a soak: images, outputs, memory, threads and file handles."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from panoptic_ros.benchmark.cdr import FrameKey
from panoptic_ros.benchmark.checks import OUTCOMES
from panoptic_ros.benchmark.processes import NodeLostError

MAX_GROWTH = 0.01
"""Share by which the node's resident memory may grow from the first to the second half."""

COUNTED = ('semantic', 'instance', 'overlay')
"""Outputs that are published for every processed image."""


@dataclass(frozen=True)
class Usage:
    """Resources that a process holds.

    Parameters
    ----------
    memory_mib
        Resident memory, MiB: anonymous, mapped files (libraries, the model) and shared memory,
        which includes the 64 MiB segment of Fast DDS and the pages read from those of its peers.
    own_mib
        Anonymous memory, MiB; shows whether growth is on the heap.
    threads, handles
        Number of threads and of open file descriptors.
    """

    memory_mib: float
    own_mib: float
    threads: int
    handles: int

    @classmethod
    def of(cls, pid: int) -> 'Usage':
        """Read ``/proc``; raises NodeLostError if there is no process with this id."""
        proc = Path('/proc', str(pid))
        try:
            lines = (proc / 'status').read_text().splitlines()
            status = dict(line.split(':', 1) for line in lines)
            return cls(
                memory_mib=int(status['VmRSS'].split()[0]) / 1024,
                own_mib=int(status['RssAnon'].split()[0]) / 1024,
                threads=int(status['Threads']),
                handles=len(list((proc / 'fd').iterdir())),
            )
        except (OSError, KeyError) as error:
            raise NodeLostError(f'process {pid} is gone') from error

    @classmethod
    def least(cls, readings: Sequence['Usage']) -> 'Usage':
        """Return the least of each resource, which leaves out what is held for a moment only."""
        return cls(*(min(getattr(r, f.name) for r in readings) for f in fields(cls)))


def usage_faults(cycles: Sequence[Usage]) -> dict[str, str]:
    """Compare the second half of the cycles with the first; returns faults by check.

    An empty text means no fault. Memory is that of the smallest cycle of each half, because
    allocators return more or less from one reload of the engine to the next. For threads and
    handles the last cycle counts.
    """
    first, second = cycles[: len(cycles) // 2], cycles[len(cycles) // 2 :]
    before, after = (min(usage.memory_mib for usage in half) for half in (first, second))
    growth = after / before - 1
    memory = (
        f'{before:.1f} MiB in the first half, {after:.1f} MiB in the second: {growth:+.2%}'
        if growth > MAX_GROWTH
        else ''
    )
    faults = {'memory grows by 1 % at most': memory}
    for name in ('threads', 'handles'):
        most, last = max(getattr(usage, name) for usage in first), getattr(cycles[-1], name)
        faults[f'no {name} are left'] = (
            f'{most} in the first half, {last} at the end' if last > most else ''
        )
    return faults


@dataclass(frozen=True)
class Output:
    """What came on one output during a phase.

    Parameters
    ----------
    headers
        Number of different headers.
    unpublished, repeated
        Headers that nobody sent, and headers that came more than once.
    """

    headers: int
    unpublished: Collection[FrameKey] = ()
    repeated: Collection[FrameKey] = ()


def frame_faults(
    counts: Mapping[str, int], outputs: Mapping[str, Output], sent: Counter[str] | None
) -> dict[str, str]:
    """Return faults by check for one phase; an empty text means no fault.

    Parameters
    ----------
    counts
        ``received`` and each of the outcomes, by how much the node's counters grew.
    outputs
        By topic.
    sent
        Images sent, ``good`` and ``bad``; None if a camera process published as well.
    """
    ended = sum(counts[outcome] for outcome in OUTCOMES)
    received, processed = counts['received'], counts['processed']
    faults = {
        'frames received are accounted for': f'{received} received, {ended} ended'
        if ended != received
        else '',
        'no frame fails': f'{counts["failed"]} failed' if counts['failed'] else '',
    }
    if sent is not None:
        bad, dropped = counts['bad'], counts['dropped']
        faults['frames sent are received'] = (
            f'{sent.total()} sent, {received} received' if sent.total() != received else ''
        )
        faults['bad frames, and no others, are counted as bad or dropped'] = (
            f'{sent["bad"]} bad frames sent, {bad} counted as bad, {dropped} as dropped'
            if not bad <= sent['bad'] <= bad + dropped
            else ''
        )
    for topic in COUNTED:
        headers = outputs[topic].headers
        faults[f'{topic}: comes for every frame processed'] = (
            f'{processed} processed, {headers} came' if headers != processed else ''
        )
    for topic, output in outputs.items():
        fault = ''
        if output.unpublished:
            fault = f'{min(output.unpublished)} was never sent'
        elif output.repeated:
            fault = f'{min(output.repeated)} came twice'
        faults[f'{topic}: headers are those of frames sent, each once'] = fault
    return faults
