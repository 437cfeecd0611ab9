"""The table of tracks, and the Kalman filter of their motion.

Motion is a Kalman filter of constant velocity for each of the four edges of a box, in pixels per
second, and for each coordinate of the position in space. Time is continuous, so neither the frame
rate nor a dropped frame matters.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class TrackerSettings:
    """When a thing continues a track.

    Parameters
    ----------
    max_gap_s
        0..60 s, a track ends when it was not seen for longer.
    min_overlap
        0..1, IoU above which masks of one class may be the same thing.
    min_overlap_of_classes
        0..1, IoU above which masks of two classes may be the same thing, because networks
        confuse classes such as car and truck from frame to frame; 1 keeps the class of an id.
    max_deviation
        0..10 standard deviations (root mean square over the four edges), largest deviation of a
        box from its prediction if the masks do not overlap; 0 requires overlap.
    box_noise
        0..1 box sizes, standard deviation of the edges of a box.
    acceleration
        0..1000 box sizes / s^2, standard deviation of the edges' acceleration.
    start_velocity
        0..1000 box sizes / s, standard deviation of the velocity of the edges of a new thing.
    max_lost
        0..10000, number of unseen tracks to keep, the latest first.

    The size of a box is the square root of its area. Raises ValueError for a value out of range.
    """

    max_gap_s: float = 1.0
    min_overlap: float = 0.1
    min_overlap_of_classes: float = 0.4
    max_deviation: float = 5.0
    box_noise: float = 0.05
    acceleration: float = 2.0
    start_velocity: float = 3.0
    max_lost: int = 200

    def __post_init__(self) -> None:
        for name, high in (
            ('max_gap_s', 60),
            ('min_overlap', 1),
            ('min_overlap_of_classes', 1),
            ('max_deviation', 10),
            ('box_noise', 1),
            ('acceleration', 1000),
            ('start_velocity', 1000),
            ('max_lost', 10000),
        ):
            value = getattr(self, name)
            if not 0 <= value <= high:
                raise ValueError(f'{name} is {value}; expected a number from 0 to {high}')


_UNKNOWN = 1e9  # variance before the first measurement

ACCELERATION_M_S2 = 3.0

_START_VELOCITY_M_S = 10.0

MAX_JUMP2 = 16.3  # squared Mahalanobis distance, three coordinates: exceeded once in a thousand

EDGES, PLACE = 4, 3

START_PLACE = np.array([0.0, 0.0, _UNKNOWN, 0.0, _START_VELOCITY_M_S**2])

TRACK = np.dtype(
    [
        ('id', np.int64),
        ('first_ns', np.int64),
        ('seen_ns', np.int64),
        ('located', np.int64),
        ('class_id', np.uint8),
        ('box_xyxy', np.float64, EDGES),
        ('size_px', np.float64),
        ('motion', np.float64, (5, EDGES + PLACE)),
    ],
    align=True,
)
"""A row of the table of tracks. Tracks seen in the last frame come first, then the others, latest
first.

``first_ns`` and ``seen_ns`` are the stamps of the first and last sighting, ``located`` the number
of positions, ``box_xyxy`` the last box and ``size_px`` the square root of its area, at least 4.
``motion`` holds, for each edge of the box (pixels and seconds) and each coordinate in space
(metres and seconds): value, velocity, variance of the value, covariance of value and velocity,
variance of the velocity.
"""


class Things(NamedTuple):
    """The things of a frame: classes uint8 [n] and boxes int32 [n, 4]."""

    class_id: np.ndarray
    box_xyxy: np.ndarray


def begin_tracks(things: 'Things', stamp_ns: int, settings: TrackerSettings) -> np.ndarray:
    """Return a track for each thing, with id 0 and the state before the first measurement."""
    table = np.zeros(len(things.class_id), TRACK)
    table['first_ns'] = table['seen_ns'] = stamp_ns
    table['class_id'] = things.class_id
    table['box_xyxy'] = things.box_xyxy
    width, height = (things.box_xyxy[:, 2:] - things.box_xyxy[:, :2]).T.astype(np.float64)
    table['size_px'] = np.maximum(np.sqrt(width * height), 4)
    motion = table['motion']
    motion[:, 0, :EDGES] = things.box_xyxy
    motion[:, 2] = _UNKNOWN
    motion[:, 4, :EDGES] = ((settings.start_velocity * table['size_px']) ** 2)[:, None]
    motion[:, :, EDGES:] = START_PLACE[:, None]
    return table


def box_noise_px(table: np.ndarray, settings: TrackerSettings) -> np.ndarray:
    """Return the standard deviation of the box edges of each track, float64 [n]."""
    # One more pixel for masks that come from a coarser grid.
    return settings.box_noise * table['size_px'] + 1


def predict(motion: np.ndarray, elapsed_s: float, acceleration: np.ndarray) -> None:
    """Predict the motion [n, 5, coordinates] after a time, in place."""
    value, velocity, variance, covariance, velocity_variance = motion.swapaxes(0, 1)
    t, noise = elapsed_s, np.square(acceleration)
    value += t * velocity
    variance += 2 * t * covariance
    variance += t**2 * velocity_variance
    variance += t**4 / 4 * noise
    covariance += t * velocity_variance
    covariance += t**3 / 2 * noise
    velocity_variance += t**2 * noise


def correct(motion: np.ndarray, measured: np.ndarray, noise: np.ndarray) -> None:
    """Correct the motion by a measurement of the values [n, coordinates], in place."""
    value, velocity, variance, covariance, velocity_variance = motion.swapaxes(0, 1)
    noise2 = noise**2
    total = variance + noise2
    off = measured - value
    gain = covariance / total
    value += variance / total * off
    velocity += gain * off
    variance *= noise2
    variance /= total
    velocity_variance -= covariance**2 / total
    covariance *= noise2
    covariance /= total
