"""Select classes and a region of a panoptic map."""

from dataclasses import dataclass, replace

import numpy as np

from panoptic_ros.panoptic import Panoptic, Segments
from panoptic_ros.runs import Runs


@dataclass(frozen=True)
class Region:
    """A rectangle of an image, pixels.

    Raises ValueError unless the corner is not negative and the size is 1x1 or larger.
    """

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if min(self.x, self.y) < 0 or min(self.width, self.height) < 1:
            raise ValueError(
                f'region is x={self.x} y={self.y} width={self.width} height={self.height}; '
                'expected x and y of 0 or more, width and height of 1 or more'
            )

    @classmethod
    def parse(cls, text: str) -> 'Region':
        """Read ``x, y, width, height``; ValueError if it is something else."""
        parts = [part.strip() for part in text.split(',')]
        if len(parts) != 4 or not all(part.removeprefix('-').isdecimal() for part in parts):
            raise ValueError(f'region is {text!r}; expected x, y, width, height in whole pixels')
        return cls(*map(int, parts))

    def within(self, size_wh: tuple[int, int]) -> 'Region | None':
        """Return the part inside an image of a size; None if there is none."""
        width = min(self.x + self.width, size_wh[0]) - self.x
        height = min(self.y + self.height, size_wh[1]) - self.y
        return Region(self.x, self.y, width, height) if min(width, height) > 0 else None

    def crop(self, array: np.ndarray) -> np.ndarray:
        """Return the region of an array [H, W, ...], a view."""
        return array[self.y : self.y + self.height, self.x : self.x + self.width]


def keep_classes(panoptic: Panoptic, is_kept: np.ndarray) -> Panoptic:
    """Return a map in which all segments of other classes are void; ``is_kept`` is bool [256]."""
    rows = np.flatnonzero(is_kept[panoptic.segments.class_id])
    return panoptic.with_segments(panoptic.segments.where(rows), rows)


def place(panoptic: Panoptic, region: Region, size_wh: tuple[int, int]) -> Panoptic:
    """Return the map of a region as a map of its whole image, void outside the region.

    Raises ValueError if the map does not have the region's size, or the region is not inside.
    """
    if panoptic.size_wh != (region.width, region.height):
        raise ValueError(f'the map is {panoptic.size_wh}; expected the size of {region}')
    if region.within(size_wh) != region:
        raise ValueError(f'{region} is not inside an image of {size_wh}')
    runs, rows = panoptic.runs, len(panoptic.runs.copies)
    every, right = np.arange(rows) + 1, region.x + region.width
    # Void to the left and to the right of every row, and a void row above and below.
    row = np.concatenate([runs.row + 1, every, every, [0, rows + 1]])
    start = np.concatenate([runs.start + region.x, 0 * every, 0 * every + right, [0, 0]])
    stop = np.concatenate(
        [runs.stop + region.x, 0 * every + region.x, 0 * every + size_wh[0], [size_wh[0]] * 2]
    )
    segment = np.concatenate([panoptic.segment, np.full(2 * rows + 2, -1, np.intp)])
    order = np.lexsort((stop, start, row))
    below = size_wh[1] - region.y - region.height
    placed = Runs(
        row=row[order],
        start=start[order],
        stop=stop[order],
        width=size_wh[0],
        copies=np.concatenate([[region.y], runs.copies, [below]]),
    )
    return Panoptic(placed, segment[order], _moved(panoptic.segments, region))


def _moved(segments: Segments, region: Region) -> Segments:
    shift = np.array([region.x, region.y] * 2, segments.box_xyxy.dtype)
    return replace(segments, box_xyxy=segments.box_xyxy + shift)
