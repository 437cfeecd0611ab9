"""Some of the samples of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from panoptic_ros.datasets import Sample
from panoptic_ros.errors import DatasetError


@dataclass(frozen=True, eq=False)
class Subset(Sequence[Sample]):
    """The samples at some indices, read when they are asked for."""

    samples: Sequence[Sample]
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[self.indices[index]]


def evenly_spaced_indices(length: int, count: int) -> list[int]:
    """Return ``count`` indices, or all there are, from the first to the last of a sequence."""
    return np.linspace(0, length - 1, min(count, length), dtype=int).tolist()


def evenly_spaced(samples: Sequence[Sample], limit: int | None) -> Sequence[Sample]:
    """Return ``limit`` samples evenly spaced over all of them, or all if None.

    Raises DatasetError if the limit is not above 0.
    """
    if limit is None:
        return samples
    if limit < 1:
        raise DatasetError(f'the limit is {limit}; expected 1 or more images')
    return Subset(samples, evenly_spaced_indices(len(samples), limit))
