"""How what moves comes closer: velocities on the ground by track id, and time to collision."""

from dataclasses import dataclass, field

import numpy as np

MEMORY_S = 0.5
"""A position counts less and less for the velocity: after so long by 1/e."""

MAX_GAP_S = 1.0
"""An agent that was not seen for longer begins anew."""

MIN_SEEN = 4
MIN_AGE_S = 0.25
"""An agent seen less often or for a shorter time has no velocity yet."""


def time_to_collision_s(
    position_xy_m: np.ndarray, velocity_xy_m_s: np.ndarray, radius_m: float
) -> np.ndarray:
    """Return when points that move straight on come within a radius of the origin.

    Parameters
    ----------
    position_xy_m, velocity_xy_m_s
        float [n, 2], both relative to the camera.
    radius_m
        Metres, above 0.

    Returns
    -------
    float64 [n]: 0 for a point that is within already, infinite for one that passes by, moves
    away or stands still, NaN where position or velocity is NaN.
    """
    if not radius_m > 0:
        raise ValueError(f'radius_m is {radius_m}; expected metres above 0')
    p = np.asarray(position_xy_m, np.float64)
    v = np.asarray(velocity_xy_m_s, np.float64)
    # |p + v t| = r, the first of the two times; b < 0 comes closer.
    a, b = (v * v).sum(-1), (p * v).sum(-1)
    c = (p * p).sum(-1) - radius_m**2
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    hits = (b < 0) & (b * b >= a * c)
    # Equal to (-b - root) / a, without the loss of digits where a is small.
    with np.errstate(over='ignore'):  # in so many years that it is never
        seconds = np.divide(c, root - b, out=np.full(np.shape(c), np.inf), where=hits)
    seconds[c <= 0] = 0
    seconds[np.isnan(a + b + c)] = np.nan
    return seconds


@dataclass(eq=False)
class _Fits:
    """Sums of the weighted line fits, one row a track; times are relative to the last frame."""

    track_id: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    seen: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    first_ns: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    last_ns: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    sums: np.ndarray = field(default_factory=lambda: np.zeros((0, 7)))

    def where(self, rows: np.ndarray) -> '_Fits':
        return _Fits(
            self.track_id[rows],
            self.seen[rows],
            self.first_ns[rows],
            self.last_ns[rows],
            self.sums[rows],
        )


class AgentMotion:
    """Velocities of agents from where they were in frame after frame.

    To the positions of each track a straight line over time is fitted, older ones weighing
    less: one glimpse says little about how fast something moves. Stamps that go back start
    afresh.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._stamp_ns = 0
        self._fits = _Fits()

    def update(self, stamp_ns: int, track_id: np.ndarray, position_xy_m: np.ndarray) -> np.ndarray:
        """Take the positions of a frame and return velocities.

        Parameters
        ----------
        stamp_ns
            Of the frame, nanoseconds.
        track_id
            Integer [n], no two alike.
        position_xy_m
            float [n, 2], finite, relative to the camera.

        Returns
        -------
        float64 [n, 2], metres per second relative to the camera; NaN where not yet known.
        """
        if stamp_ns < self._stamp_ns:
            self.reset()
        old, count = self._fits, len(track_id)
        old = old.where(stamp_ns - old.last_ns <= MAX_GAP_S * 1e9)
        _advance(old.sums, (stamp_ns - self._stamp_ns) / 1e9)
        self._stamp_ns = stamp_ns

        fresh = np.zeros((count, 7))
        fresh[:, 0] = 1
        fresh[:, 3:5] = position_xy_m
        now = _Fits(
            np.array(track_id, np.int64),
            np.ones(count, np.int64),
            np.full(count, stamp_ns, np.int64),
            np.full(count, stamp_ns, np.int64),
            fresh,
        )
        same = now.track_id[:, None] == old.track_id
        here, there = np.nonzero(same)
        now.seen[here] += old.seen[there]
        now.first_ns[here] = old.first_ns[there]
        now.sums[here] += old.sums[there]
        hidden = old.where(~same.any(0))
        self._fits = _Fits(
            *(
                np.concatenate([getattr(now, name), getattr(hidden, name)])
                for name in ('track_id', 'seen', 'first_ns', 'last_ns', 'sums')
            )
        )
        return _slopes(now, stamp_ns)


def _advance(sums: np.ndarray, elapsed_s: float) -> None:
    """Move the zero of time to now, and let the past fade."""
    w, wt, wx = sums[:, 0], sums[:, 1], sums[:, 3:5]
    sums[:, 5:7] -= elapsed_s * wx
    sums[:, 2] += elapsed_s * (elapsed_s * w - 2 * wt)
    sums[:, 1] -= elapsed_s * w
    sums *= np.exp(-elapsed_s / MEMORY_S)


def _slopes(fits: _Fits, stamp_ns: int) -> np.ndarray:
    w, wt, wtt = fits.sums[:, :3].T
    spread = w * wtt - wt * wt
    known = (fits.seen >= MIN_SEEN) & (stamp_ns - fits.first_ns >= MIN_AGE_S * 1e9) & (spread > 0)
    slope = np.full((len(w), 2), np.nan)
    slope[known] = (
        w[known, None] * fits.sums[known, 5:7] - wt[known, None] * fits.sums[known, 3:5]
    ) / spread[known, None]
    return slope
