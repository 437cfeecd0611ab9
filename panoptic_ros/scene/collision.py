"""Time to collision of moving objects."""

import numpy as np


def time_to_collision_s(
    position_xy_m: np.ndarray, velocity_xy_m_s: np.ndarray, radius_m: float
) -> np.ndarray:
    """Return when points of constant velocity come within a radius of the origin.

    Parameters
    ----------
    position_xy_m, velocity_xy_m_s
        float [n, 2], both relative to the camera.
    radius_m
        Metres, above 0.

    Returns
    -------
    float64 [n], seconds: 0 inside the radius, infinite for a point that never enters it, NaN where
    position or velocity is NaN.
    """
    if not radius_m > 0:
        raise ValueError(f'radius_m is {radius_m}; expected metres above 0')
    p = np.asarray(position_xy_m, np.float64)
    v = np.asarray(velocity_xy_m_s, np.float64)
    # The smaller solution of |p + v t| = r; b < 0 where the distance decreases.
    a, b = (v * v).sum(-1), (p * v).sum(-1)
    c = (p * p).sum(-1) - radius_m**2
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    hits = (b < 0) & (b * b >= a * c)
    # Equal to (-b - root) / a, without cancellation for small a.
    with np.errstate(over='ignore'):  # of times beyond the range of floats
        seconds = np.divide(c, root - b, out=np.full(np.shape(c), np.inf), where=hits)
    seconds[c <= 0] = 0
    seconds[np.isnan(a + b + c)] = np.nan
    return seconds
