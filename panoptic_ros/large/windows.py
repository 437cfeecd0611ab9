"""Where the windows of a large picture lie, and which window decides about which pixel."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from panoptic_ros.fusion.windows import Span, split_axis


@dataclass(frozen=True)
class Window:
    """One window of the grid, by its spans along both axes."""

    x: Span
    y: Span

    @property
    def kept_shape(self) -> tuple[int, int]:
        """Rows and columns of the kept part."""
        return (self.y.kept_stop - self.y.kept_start, self.x.kept_stop - self.x.kept_start)

    @property
    def kept_slices(self) -> tuple[slice, slice]:
        """The kept part, as an index of the window's map."""
        return (
            slice(self.y.kept_start - self.y.start, self.y.kept_stop - self.y.start),
            slice(self.x.kept_start - self.x.start, self.x.kept_stop - self.x.start),
        )

    @property
    def core_slices(self) -> tuple[slice, slice]:
        """The core, as an index of the kept part."""
        return (
            slice(self.y.core_start - self.y.kept_start, self.y.core_stop - self.y.kept_start),
            slice(self.x.core_start - self.x.kept_start, self.x.core_stop - self.x.kept_start),
        )


@dataclass(frozen=True)
class Grid:
    """Windows of one size that cover a picture, row by row.

    Parameters
    ----------
    size_wh
        Width and height of the picture.
    window_wh
        Width and height of a window. A picture smaller than that has one window, which goes
        beyond the picture.
    overlap
        Pixels that neighbouring windows share at least: 1 to half a window. The windows of a row
        are spread evenly, so most share a few more.
    trim
        Outer pixels of each window's map that are not used, where the network lacks context;
        less than half of ``overlap``.

    Raises ValueError if a value is out of its range.
    """

    size_wh: tuple[int, int]
    window_wh: tuple[int, int]
    overlap: int
    trim: int = 0

    def __post_init__(self) -> None:
        if min(self.size_wh) < 1:
            raise ValueError(f'the picture is {self.size_wh}; expected width and height above 0')
        if not 1 <= self.overlap <= min(self.window_wh) // 2:
            raise ValueError(
                f'windows of {self.window_wh} overlap by {self.overlap} pixels; expected 1 to '
                f'half a window, {min(self.window_wh) // 2}'
            )
        if not 0 <= self.trim < self.overlap / 2:
            raise ValueError(
                f'{self.trim} outer pixels are trimmed; expected 0 or more and less than half '
                f'of the overlap, {self.overlap}'
            )

    @cached_property
    def columns(self) -> tuple[Span, ...]:
        """The windows along x."""
        return split_axis(self.size_wh[0], self.window_wh[0], self.overlap, self.trim)

    @cached_property
    def rows(self) -> tuple[Span, ...]:
        """The windows along y."""
        return split_axis(self.size_wh[1], self.window_wh[1], self.overlap, self.trim)

    def band(self, row: int) -> Iterator[Window]:
        """Iterate over the windows of one row, from left to right."""
        return (Window(x, self.rows[row]) for x in self.columns)
