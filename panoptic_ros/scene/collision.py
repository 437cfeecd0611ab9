"""How what moves comes closer: velocities on the ground by track id, and time to collision."""

from math import exp

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


_ID, _TIMES, _FIRST_NS, _LAST_NS = range(4)
# Columns of the first array, one row a track: how often and when it was seen. The second has
# the sums of its weighted line fit; times are relative to the last frame.
_NO_TRACKS = np.zeros((0, 4), np.int64), np.zeros((0, 7))


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
        self._seen, self._sums = _NO_TRACKS

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
        elapsed_ns = stamp_ns - self._stamp_ns
        if elapsed_ns < 0:
            self.reset()
            elapsed_ns = 0  # of nothing remembered
        is_remembered = stamp_ns - self._seen[:, _LAST_NS] <= MAX_GAP_S * 1e9
        old, old_sums = self._seen[is_remembered], self._sums[is_remembered]
        _advance(old_sums, elapsed_ns / 1e9)
        self._stamp_ns = stamp_ns

        count = len(track_id)
        now, sums = np.empty((count, 4), np.int64), np.zeros((count, 7))
        now[:, _ID], now[:, _TIMES] = track_id, 1
        now[:, _FIRST_NS] = now[:, _LAST_NS] = stamp_ns
        sums[:, 0] = 1
        sums[:, 3:5] = position_xy_m
        same = now[:, _ID, None] == old[:, _ID]
        here, there = np.nonzero(same)
        now[here, _TIMES] += old[there, _TIMES]
        now[here, _FIRST_NS] = old[there, _FIRST_NS]
        sums[here] += old_sums[there]
        is_hidden = ~same.any(0)
        self._seen = np.concatenate([now, old[is_hidden]])
        self._sums = np.concatenate([sums, old_sums[is_hidden]])
        return _slopes(now, sums, stamp_ns)


def _advance(sums: np.ndarray, elapsed_s: float) -> None:
    """Move the zero of time to now, and let the past fade."""
    w, wt, wx = sums[:, 0], sums[:, 1], sums[:, 3:5]
    sums[:, 5:7] -= elapsed_s * wx
    sums[:, 2] += elapsed_s * (elapsed_s * w - 2 * wt)
    sums[:, 1] -= elapsed_s * w
    sums *= exp(-elapsed_s / MEMORY_S)


def _slopes(seen: np.ndarray, sums: np.ndarray, stamp_ns: int) -> np.ndarray:
    w, wt, wtt = sums[:, :3].T
    spread = w * wtt - wt * wt
    is_known = (seen[:, _TIMES] >= MIN_SEEN) & (spread > 0)
    is_known &= stamp_ns - seen[:, _FIRST_NS] >= MIN_AGE_S * 1e9
    slope = w[:, None] * sums[:, 5:7] - wt[:, None] * sums[:, 3:5]
    slope /= np.where(is_known, spread, np.nan)[:, None]
    return slope
