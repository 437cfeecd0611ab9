"""Which depth image belongs to which picture, by their stamps. Knows nothing of ROS."""

from collections import deque
from dataclasses import dataclass, replace
from threading import Condition
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar('T')

KEPT = 8
"""So many of the latest depth images are kept, for pictures that are still to come."""

SILENCE_NS = 1_000_000_000
"""Depth that is so much older than a picture has stopped: nobody waits for it."""


@dataclass
class DepthCounts:
    """What became of the depth images since the node was configured.

    ``received``: arrived. ``matched``: found for a picture. ``bad``: of those, could not be used.
    ``missed``: pictures that wanted depth and had none within the tolerance. ``late``: depth
    images that came after their picture was given up.
    """

    received: int = 0
    matched: int = 0
    bad: int = 0
    missed: int = 0
    late: int = 0


@dataclass(frozen=True)
class Match(Generic[T]):
    """The depth of a picture, None if none is within the tolerance.

    ``offset_ns`` is the stamp of the closest depth there is minus the picture's, None if there
    is none at all.
    """

    depth: T | None
    offset_ns: int | None


@dataclass(frozen=True)
class _Stamped(Generic[T]):
    stamp_ns: int
    depth: T


class DepthSync(Generic[T]):
    """Finds for one picture at a time the depth image whose stamp is closest.

    A picture does not wait for its depth: it is announced (:meth:`begin`), worked on, and only
    then matched (:meth:`match`), so depth may be as much later as the work takes. Depth images
    are offered in the order of their stamps; one that is older than the last means that time
    jumped back, and all before it are forgotten. One thread may offer while another matches.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._counts = DepthCounts()
        self._recent: deque[_Stamped[T]] = deque(maxlen=KEPT)
        self._wanted_ns = 0
        self._best: _Stamped[T] | None = None
        self._missed: range = range(0)  # stamps at which depth comes too late

    @property
    def counts(self) -> DepthCounts:
        """A copy of the counts."""
        with self._changed:
            return replace(self._counts)

    def count_bad(self) -> None:
        """Count a matched depth image that cannot be used."""
        with self._changed:
            self._counts.bad += 1

    def offer(self, stamp_ns: int, depth: T) -> None:
        """Take a depth image that arrived."""
        with self._changed:
            self._counts.received += 1
            self._counts.late += stamp_ns in self._missed
            if self._recent and stamp_ns < self._recent[-1].stamp_ns:
                self._recent.clear()
            self._recent.append(_Stamped(stamp_ns, depth))
            self._consider(self._recent[-1])
            self._changed.notify_all()

    def begin(self, stamp_ns: int) -> None:
        """Announce the picture that :meth:`match` will ask for; what fits it best is kept."""
        with self._changed:
            self._wanted_ns, self._best = stamp_ns, None
            for candidate in self._recent:
                self._consider(candidate)

    def match(self, tolerance_ns: int, wait_s: float) -> Match[T]:
        """Return the depth that is closest to the announced picture.

        Parameters
        ----------
        tolerance_ns
            The stamps may differ by so much; 0 for equal stamps only.
        wait_s
            How long to wait for depth that may still come: not if depth as new as the picture is
            there already, and not if none has come for :data:`SILENCE_NS`.
        """
        end_s = monotonic() + wait_s
        with self._changed:
            while self._may_come() and (left_s := end_s - monotonic()) > 0:
                self._changed.wait(left_s)
            best = self._best
            offset_ns = None if best is None else best.stamp_ns - self._wanted_ns
            if best is not None and abs(best.stamp_ns - self._wanted_ns) <= tolerance_ns:
                self._counts.matched += 1
                return Match(best.depth, offset_ns)
            self._counts.missed += 1
            self._missed = range(
                self._wanted_ns - tolerance_ns, self._wanted_ns + tolerance_ns + 1
            )
            return Match(None, offset_ns)

    def _consider(self, candidate: _Stamped[T]) -> None:
        if self._best is None or self._distance_ns(candidate) < self._distance_ns(self._best):
            self._best = candidate

    def _distance_ns(self, candidate: _Stamped[T]) -> int:
        return abs(candidate.stamp_ns - self._wanted_ns)

    def _may_come(self) -> bool:
        if not self._recent:
            return False
        return 0 < self._wanted_ns - self._recent[-1].stamp_ns <= SILENCE_NS
