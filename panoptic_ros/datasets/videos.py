"""Labelled videos, to measure tracking."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from panoptic_ros.datasets import LabelledImages, Sample
from panoptic_ros.datasets.opening import open_dataset
from panoptic_ros.datasets.street.scene import SyntheticStreet
from panoptic_ros.datasets.street.style import street_labels
from panoptic_ros.datasets.subset import Subset
from panoptic_ros.errors import DatasetError
from panoptic_ros.labels import LabelSet

STREET_SEED = 3000
"""Seed of the first street that is opened as a video."""

_STREETS, _STREET_FRAMES = 8, 100


@dataclass(frozen=True, eq=False)
class Video:
    """Labelled frames in order; an object keeps its ``track_id`` in the truth of all frames.

    Parameters
    ----------
    name
        The common part of the frames' ids.
    samples
        The frames.
    rate_hz
        Frames per second.
    """

    name: str
    samples: Sequence[Sample]
    rate_hz: float

    def stamp_ns(self, index: int) -> int:
        """Return the time since the first frame in nanoseconds."""
        return round(index * 1e9 / self.rate_hz)


def open_videos(
    name: str,
    root: str | Path | None,
    split: str | None = None,
    rate_hz: float = 10.0,
    label_set: LabelSet | None = None,
) -> tuple[Sequence[Video], LabelSet]:
    """Open a data set by its name as videos.

    ``synthetic`` is 8 drives of 100 frames through streets that no model was trained on. In other
    data sets, images are frames of one video if their ids differ only in the last number; the
    data must keep the ids of objects from frame to frame.

    Parameters
    ----------
    root, split, label_set
        As for :func:`panoptic_ros.datasets.opening.open_dataset`.
    rate_hz
        Frames per second, 0.1 to 1000.

    Raises DatasetError for a rate out of range, and as the readers do.
    """
    if not 0.1 <= rate_hz <= 1000:
        raise DatasetError(f'rate_hz is {rate_hz}; expected 0.1..1000 frames per second')
    if name == 'synthetic':
        return street_videos(rate_hz=rate_hz), street_labels()
    samples, label_set = open_dataset(name, root, split, label_set)
    assert isinstance(samples, LabelledImages)  # only the synthetic street is rendered
    places = sorted((*_place(samples.image_id(i)), i) for i in range(len(samples)))
    return [
        Video(video, Subset(samples, [index for *_, index in frames]), rate_hz)
        for video, frames in groupby(places, key=lambda place: place[0])
    ], label_set


def street_videos(first_seed: int = STREET_SEED, rate_hz: float = 10.0) -> list[Video]:
    """Return drives through eight streets; their seeds count up from ``first_seed``, 0 or more."""
    if not 0.1 <= rate_hz <= 1000:
        raise DatasetError(f'rate_hz is {rate_hz}; expected 0.1..1000 frames per second')
    return [
        Video(f'street {seed}', StreetSamples(seed, _STREET_FRAMES, rate_hz), rate_hz)
        for seed in range(first_seed, first_seed + _STREETS)
    ]


def _place(image_id: str) -> tuple[str, int]:
    """Return the name of the video and the number of the frame."""
    found = re.fullmatch(r'(.*?)(\d+)(\D*)', image_id, re.DOTALL)
    return (found[1] + found[3], int(found[2])) if found else (image_id, 0)


class StreetSamples(Sequence[Sample]):
    """The first frames of a drive through a synthetic street, rendered on access."""

    def __init__(self, seed: int, count: int, rate_hz: float) -> None:
        self._name = f'street_{seed}'
        self._street = SyntheticStreet(seed, frame_rate_hz=rate_hz)
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        index = range(self._count)[index]
        frame = self._street.frame(index)
        image_id = f'{self._name}_{index:06d}'
        return Sample(image_id, frame.image_rgb, frame.truth, np.zeros(0, np.uint16))
