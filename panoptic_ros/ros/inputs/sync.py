"""Match depth images to camera images by their stamps; independent of ROS."""

from collections import deque
from dataclasses import dataclass, replace
from threading import Condition
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar('T')

KEPT = 8
"""Number of latest depth images kept for images still to come."""

ANNOUNCED = 4
"""Number of latest announced images whose depth is kept: one is in the engine, one is published,
others were skipped."""

SILENCE_NS = 1_000_000_000
"""If the latest depth is this much older than an image, depth has stopped: do not wait."""


@dataclass
class DepthCounts:
    """Counts of depth images since the node was configured.

    ``received``: arrived. ``matched``: found for an image. ``bad``: matched, but unusable.
    ``missed``: images that needed depth and had none within the tolerance. ``late``: depth images
    that arrived after their image was processed without them.
    """

    received: int = 0
    matched: int = 0
    bad: int = 0
    missed: int = 0
    late: int = 0


@dataclass(frozen=True)
class Match(Generic[T]):
    """The depth of an image, None if none is within the tolerance.

    ``offset_ns`` is the stamp of the closest depth minus that of the image, None if no depth has
    arrived.
    """

    depth: T | None
    offset_ns: int | None


@dataclass(frozen=True)
class _Stamped(Generic[T]):
    stamp_ns: int
    depth: T


class DepthSync(Generic[T]):
    """Finds the depth image with the closest stamp.

    An image is announced (:meth:`begin`), segmented, and only then matched (:meth:`match`), so
    its depth may arrive meanwhile. The next image may be announced before that. A depth image that
    is older than the newest by more than :data:`SILENCE_NS` means that time jumped back, and all
    before it are dropped. Offers, announcements and matches may come from a thread each.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._counts = DepthCounts()
        self._recent: deque[_Stamped[T]] = deque(maxlen=KEPT)
        self._newest_ns = 0  # stamp of the newest depth image
        self._best: dict[int, _Stamped[T] | None] = {}  # by the stamps of announced images
        self._missed: range = range(0)  # stamps at which depth comes too late

    @property
    def counts(self) -> DepthCounts:
        """Copy of the counts."""
        with self._changed:
            return replace(self._counts)

    def count_bad(self) -> None:
        """Count a matched depth image that cannot be used."""
        with self._changed:
            self._counts.bad += 1

    def offer(self, stamp_ns: int, depth: T) -> None:
        """Add a depth image that arrived."""
        with self._changed:
            self._counts.received += 1
            self._counts.late += stamp_ns in self._missed
            if stamp_ns < self._newest_ns - SILENCE_NS:
                self._recent.clear()
                self._newest_ns = stamp_ns
            self._newest_ns = max(self._newest_ns, stamp_ns)
            self._recent.append(_Stamped(stamp_ns, depth))
            for wanted_ns, best in self._best.items():
                self._best[wanted_ns] = _closest(wanted_ns, best, self._recent[-1])
            self._changed.notify_all()

    def begin(self, stamp_ns: int) -> None:
        """Announce an image; from now on the depth closest to it is kept."""
        with self._changed:
            self._best.pop(stamp_ns, None)  # to the end
            self._best[stamp_ns] = _closest(stamp_ns, *self._recent)
            while len(self._best) > ANNOUNCED:
                del self._best[next(iter(self._best))]

    def match(self, wanted_ns: int, tolerance_ns: int, wait_s: float) -> Match[T]:
        """Return the depth that is closest to an image.

        Parameters
        ----------
        wanted_ns
            Stamp of the image.
        tolerance_ns
            Largest difference of the stamps; 0 for equal stamps only.
        wait_s
            Time to wait for depth that may still arrive. There is no wait if depth as new as the
            image has arrived, or if none has arrived for :data:`SILENCE_NS`.
        """
        end_s = monotonic() + wait_s
        with self._changed:
            while self._may_come(wanted_ns) and (left_s := end_s - monotonic()) > 0:
                self._changed.wait(left_s)
            best = self._best.pop(wanted_ns, None) or _closest(wanted_ns, *self._recent)
            offset_ns = None if best is None else best.stamp_ns - wanted_ns
            if best is not None and abs(best.stamp_ns - wanted_ns) <= tolerance_ns:
                self._counts.matched += 1
                return Match(best.depth, offset_ns)
            self._counts.missed += 1
            self._missed = range(wanted_ns - tolerance_ns, wanted_ns + tolerance_ns + 1)
            return Match(None, offset_ns)

    def _may_come(self, wanted_ns: int) -> bool:
        if not self._recent:
            return False
        return 0 < wanted_ns - self._newest_ns <= SILENCE_NS


def _closest(wanted_ns: int, *candidates: _Stamped[T] | None) -> _Stamped[T] | None:
    """Return the last of the candidates with the closest stamp; None if there is none.

    The last one is the newest: some cameras send the stamp 0 all the time.
    """
    return min(
        (candidate for candidate in reversed(candidates) if candidate is not None),
        key=lambda candidate: abs(candidate.stamp_ns - wanted_ns),
        default=None,
    )
