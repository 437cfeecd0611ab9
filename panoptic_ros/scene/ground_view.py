"""Inverse perspective mapping: a grid on the ground and the pixel that sees each cell.

The mapping runs from the ground to the image (Mallot et al., 1991): every cell knows its pixel, so
a frame is one lookup. The ground frame has z up and z = 0 on the ground. For a camera without a
known pose its origin is below the camera, with x forward and y left (REP 103).
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import tan

import cv2
import numpy as np

from panoptic_ros.scene.geometry import CameraModel, GroundPlane

DEPTH_COLUMNS = 320
"""With depth, obstacles are searched for in this many columns of pixels, and in rows of the same
spacing."""

WINDOW_COLUMNS = 640
"""Agents are searched for in this many columns of pixels or more, and in rows of the same spacing.
"""

GROUND_TOLERANCE = 0.1
"""Relative depth difference above which a pixel does not see the ground plane."""

CLEARANCE_M = 0.25
"""Largest height above the ground of the lower edge of a thing on the ground, such as a bumper."""

CLEARANCE_FRACTION = 0.2
"""The same as a fraction of the height of the camera; the smaller one counts."""


@dataclass(frozen=True)
class CameraPose:
    """The pose of a camera in the ground frame.

    Parameters
    ----------
    axes
        Rotation matrix by rows, from the optical to the ground frame: the ground frame's x, y
        and z in the optical frame.
    position_m
        Position of the camera in the ground frame; z is its height, above 0.

    Raises ValueError if the axes are not a rotation or the camera is not above the ground.
    """

    axes: tuple[tuple[float, float, float], ...]
    position_m: tuple[float, float, float]

    def __post_init__(self) -> None:
        matrix = np.array(self.axes, np.float64)
        if not (matrix.shape == (3, 3) and _is_rotation(matrix)):
            raise ValueError(f'axes are {self.axes}; expected three rows of a rotation matrix')
        if not (np.isfinite(self.position_m).all() and self.position_m[2] > 0):
            raise ValueError(
                f'position_m is {self.position_m}; expected the camera above the ground, z > 0'
            )

    @classmethod
    def over(cls, ground: GroundPlane) -> 'CameraPose':
        """Return the pose above a plane: the origin below the camera, x in its viewing direction.

        A ground plane has no roll; a camera that rolls needs a pose from outside.
        """
        cos, sin = float(ground.down[1]), float(ground.down[2])
        axes = ((0.0, -sin, cos), (-1.0, 0.0, 0.0), (0.0, -cos, -sin))
        return cls(axes, (0.0, 0.0, ground.camera_height_m))

    @property
    def matrix(self) -> np.ndarray:
        """``axes``, float64 [3, 3]."""
        return np.array(self.axes, np.float64)

    def to_ground(self, point_m: np.ndarray) -> np.ndarray:
        """Transform points [..., 3] from the optical to the ground frame."""
        return point_m @ self.matrix.T + self.position_m

    def to_optical(self, point_m: np.ndarray) -> np.ndarray:
        """Transform points [..., 3] from the ground to the optical frame."""
        return (np.asarray(point_m) - self.position_m) @ self.matrix


def _is_rotation(matrix: np.ndarray) -> bool:
    off = np.abs(matrix @ matrix.T - np.eye(3)).max()
    return bool(off <= 1e-6 and np.linalg.det(matrix) > 0)


@dataclass(frozen=True)
class PoseTolerance:
    """Largest error of a camera's assumed pose above the ground.

    Parameters
    ----------
    height_fraction
        Error of the height, as a fraction of it, 0 to below 1.
    pitch_rad
        Error of the angle between a viewing ray and the ground, 0 or more. It comes from the
        mounting, from braking and from slopes.

    Raises ValueError if a value is out of range.
    """

    height_fraction: float = 0.15
    pitch_rad: float = 0.035

    def __post_init__(self) -> None:
        if not 0 <= self.height_fraction < 1:
            raise ValueError(f'height_fraction is {self.height_fraction}; expected 0 to below 1')
        if not 0 <= self.pitch_rad < 1:
            raise ValueError(f'pitch_rad is {self.pitch_rad}; expected 0 to below 1')


DEFAULT_TOLERANCE = PoseTolerance()
"""Tolerance of a height and a pitch that were estimated, or measured by hand."""


@dataclass(frozen=True)
class Grid:
    """Square cells on the ground.

    Parameters
    ----------
    resolution_m
        Side of a cell, above 0.
    origin_xy_m
        The corner of the first cell in the ground frame.
    size_xy
        Number of cells along x and along y, each 1 or more.

    Arrays of a grid are [size y, size x], as in nav_msgs/OccupancyGrid. Raises ValueError if a
    value is out of range.
    """

    resolution_m: float
    origin_xy_m: tuple[float, float]
    size_xy: tuple[int, int]

    def __post_init__(self) -> None:
        if not (np.isfinite(self.resolution_m) and self.resolution_m > 0):
            raise ValueError(f'resolution_m is {self.resolution_m}; expected metres above 0')
        if not np.isfinite(self.origin_xy_m).all():
            raise ValueError(f'origin_xy_m is {self.origin_xy_m}; expected finite numbers')
        if min(self.size_xy) < 1:
            raise ValueError(f'size_xy is {self.size_xy}; expected 1 cell or more each way')

    @classmethod
    @lru_cache(maxsize=1)  # called for every frame
    def ahead(cls, length_m: float, width_m: float, resolution_m: float) -> 'Grid':
        """Return a grid in front of a camera, from below it forward, symmetric to its axis."""
        size_x, size_y = (max(1, round(size_m / resolution_m)) for size_m in (length_m, width_m))
        return cls(resolution_m, (0.0, -size_y * resolution_m / 2), (size_x, size_y))

    def around(self, corners_xy_m: np.ndarray) -> 'Grid':
        """Return a grid of the same resolution that covers points [n, 2].

        Its cells are aligned to multiples of the resolution, so that those of two grids coincide.
        """
        low = np.floor(corners_xy_m.min(0) / self.resolution_m + 1e-6).astype(int)
        high = np.ceil(corners_xy_m.max(0) / self.resolution_m - 1e-6).astype(int)
        size_x, size_y = np.maximum(high - low, 1).tolist()
        x, y = (low * self.resolution_m).tolist()
        return Grid(self.resolution_m, (x, y), (size_x, size_y))

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the arrays: size y, size x."""
        return self.size_xy[1], self.size_xy[0]

    @property
    def corners_xy_m(self) -> np.ndarray:
        """The four corners, float64 [4, 2]."""
        size_m = np.array(self.size_xy) * self.resolution_m
        return self.origin_xy_m + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * size_m

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x of the cell centres along x and y of those along y, two float64 [n]."""
        x, y = (
            start + (np.arange(count) + 0.5) * self.resolution_m
            for start, count in zip(self.origin_xy_m, self.size_xy, strict=True)
        )
        return x, y

    def centres(self) -> np.ndarray:
        """Return x and y of every cell's centre, float64 [size y, size x, 2]."""
        return np.stack(np.meshgrid(*self.axes()), -1)

    def cells(self, point_xy_m: np.ndarray) -> np.ndarray:
        """Return the flat index of the cell of each point [n, 2], intp [n], -1 outside."""
        # Coordinate by coordinate: numpy is many times slower along an axis of length two.
        x, y = (
            np.floor((point_xy_m[..., k] - self.origin_xy_m[k]) / self.resolution_m)
            for k in range(2)
        )
        inside = (x >= 0) & (x < self.size_xy[0]) & (y >= 0) & (y < self.size_xy[1])
        return np.where(inside, y * self.size_xy[0] + x, -1).astype(np.intp)


@dataclass(frozen=True)
class GroundView:
    """The pixel that sees each cell; computed once for a camera with a fixed pose.

    Parameters
    ----------
    camera
        The camera of the panoptic map.
    pose
        The pose of the camera in the ground frame.
    grid
        The cells.
    max_range_m
        Distance from the camera beyond which flat ground is not assumed.
    tolerance
        Error that the pose may have.
    """

    camera: CameraModel
    pose: CameraPose
    grid: Grid
    max_range_m: float
    tolerance: PoseTolerance = DEFAULT_TOLERANCE

    @cached_property
    def _optical(self) -> np.ndarray:
        """The cells' centres in the optical frame, float64 [3, size y, size x]."""
        along_x, along_y = self.grid.axes()
        start = np.array([-self.pose.position_m[0], -self.pose.position_m[1]])
        turn, down = self.pose.matrix, -self.pose.position_m[2]
        return np.stack(
            [
                (along_x + start[0]) * turn[0, k]
                + ((along_y + start[1]) * turn[1, k] + down * turn[2, k])[:, None]
                for k in range(3)
            ]
        )

    @cached_property
    def range_m(self) -> np.ndarray:
        """Distance of each cell's centre from the point below the camera, float32 [cells]."""
        along_x, along_y = self.grid.axes()
        x, y, _ = self.pose.position_m
        return np.hypot(along_x - x, (along_y - y)[:, None]).astype(np.float32).ravel()

    @cached_property
    def pixel(self) -> np.ndarray:
        """Flat index of the pixel that sees each cell's centre, -1 where none, intp [cells]."""
        width, height = self.camera.size_wh
        x, y, z = self._optical
        seen = (x * x + y * y + z * z <= self.max_range_m**2) & (z > 1e-6)
        with np.errstate(divide='ignore', invalid='ignore'):  # behind the camera
            column = np.floor(self.camera.fx * x / z + (self.camera.cx + 0.5))
            row = np.floor(self.camera.fy * y / z + (self.camera.cy + 0.5))
        # Compared before the conversion to an index, which may overflow.
        seen &= (column >= 0) & (column < width) & (row >= 0) & (row < height)
        return np.where(seen, row * width + column, -1).astype(np.intp).ravel()

    @cached_property
    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """The cells that are seen, and their pixels: two intp [n]."""
        cell = np.flatnonzero(self.pixel >= 0)
        return cell, self.pixel[cell]

    def _window_pixels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return where the lower edge of a thing on each cell of :attr:`seen` may be in the image.

        The pose is within its tolerance, the lower edge within :data:`CLEARANCE_M` of the ground.
        First column, first row, last column and last row of a window, each int [n].
        """
        cell, pixel = self.seen
        camera, camera_m, (width, height) = (
            self.camera,
            self.pose.position_m[2],
            self.camera.size_wh,
        )
        range_m = np.maximum(self.range_m[cell], 1e-3)
        optical = self._optical.reshape(3, -1).take(cell, axis=1).astype(np.float32)
        up = self.pose.matrix[2].astype(np.float32)[:, None]
        row, column = np.divmod(pixel, width)
        left, top, right, bottom = column, row, column, row
        error_m = self.tolerance.height_fraction * camera_m
        clearance_m = min(CLEARANCE_M, CLEARANCE_FRACTION * camera_m)
        # At the extremes of the pose, a cell is seen where a point above or below it is seen with
        # the assumed pose. The tangent of a sum of angles gives the height of that point.
        for height_m, slope in (
            (camera_m + error_m, tan(self.tolerance.pitch_rad)),
            (max(camera_m - error_m - clearance_m, 0.0), -tan(self.tolerance.pitch_rad)),
        ):
            below_m = height_m + slope * range_m
            below_m /= np.maximum(1 - height_m * slope / range_m, 1e-3)
            x, y, z = optical + up * (camera_m - below_m)
            is_ahead = z > 1e-6
            z = np.where(is_ahead, z, np.float32(1))
            x = np.where(is_ahead, camera.fx * x / z + camera.cx, column)
            y = _nearest_pixel(np.where(is_ahead, camera.fy * y / z + camera.cy, row), height)
            half_px = camera.fx * self.grid.resolution_m / 2 / z
            left = np.minimum(left, _nearest_pixel(x - half_px, width))
            right = np.maximum(right, _nearest_pixel(x + half_px, width))
            top, bottom = np.minimum(top, y), np.maximum(bottom, y)
        return left, top, right, bottom

    @cached_property
    def _windows(self) -> tuple[int, np.ndarray]:
        """The windows of :meth:`_window_pixels` in the integral image of :meth:`sampled`.

        Returns the first row of samples of all windows, and the corners of each (top left, top
        right, bottom left, bottom right) as flat indices into the integral image, intp [4, n].
        """
        left, top, right, bottom = self._window_pixels()
        width, height = self.camera.size_wh
        step = self.sample_step
        columns, rows = len(range(0, width, step)), len(range(0, height, step))
        # Rounded outwards.
        left, top = left // step, top // step
        right = np.minimum(-(-right // step) + 1, columns)
        bottom = np.minimum(-(-bottom // step) + 1, rows)
        first_row = int(top.min(initial=rows - 1))
        top, bottom = ((k - first_row) * (columns + 1) for k in (top, bottom))
        return first_row, np.stack([top + left, top + right, bottom + left, bottom + right])

    @property
    def sample_step(self) -> int:
        """Spacing in pixels of the rows and columns of :meth:`sampled`."""
        return max(1, self.camera.size_wh[0] // WINDOW_COLUMNS)

    def sampled(self, array: np.ndarray) -> np.ndarray:
        """Return the samples of a map [H, W] that :meth:`may_carry` reads."""
        step = self.sample_step
        return np.ascontiguousarray(array[::step, ::step])

    def may_carry(self, mask: np.ndarray) -> np.ndarray:
        """Return the cells of :attr:`seen` that things may stand on, within the pose's tolerance.

        ``mask`` has the pixels of the things among those of :meth:`sampled`, uint8, 0 or 1;
        returns bool [n].
        """
        first_row, corners = self._windows
        total = cv2.integral(mask[first_row:]).ravel()
        top_left, top_right, bottom_left, bottom_right = total.take(corners)
        return bottom_right - bottom_left > top_right - top_left

    @cached_property
    def plane_depth_m(self) -> np.ndarray:
        """Depth of each cell of :attr:`seen`, float32 [n]."""
        return self._optical[2].ravel()[self.seen[0]].astype(np.float32)

    @cached_property
    def tolerance_m(self) -> np.ndarray:
        """Largest deviation of the ground from that depth, float32 [n]."""
        return GROUND_TOLERANCE * self.plane_depth_m

    @cached_property
    def _ray_to_ground(self) -> np.ndarray:
        """Matrix from (column, row, 1) to a viewing ray with depth 1 in the ground frame."""
        c = self.camera
        rays = np.array([[1 / c.fx, 0, -c.cx / c.fx], [0, 1 / c.fy, -c.cy / c.fy], [0, 0, 1]])
        return self.pose.matrix @ rays

    @cached_property
    def first_row(self) -> int:
        """The topmost row of pixels that sees ground within range; the number of rows if none."""
        width, height = self.camera.size_wh
        row = np.arange(height)
        # Ground at one distance is highest in the image straight ahead.
        camera_column = min(max(self.camera.cx, 0), width - 1)
        ends = [
            self.ground_xy_m(np.full(height, x), row + 0.5) for x in (0, camera_column, width - 1)
        ]
        sees = ~np.isnan(np.stack(ends)[..., 0]).all(0)
        return int(np.argmax(sees)) if sees.any() else height

    def ground_xy_m(self, column: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Return where the rays of pixels meet the ground, float64 [n, 2].

        NaN at and above the horizon, and beyond ``max_range_m``.
        """
        x, y, z = self.rays_to_ground(column, row)
        depth = np.divide(-self.pose.position_m[2], z, out=np.full(len(z), np.nan), where=z < 0)
        depth[~((x * x + y * y + z * z) * depth * depth <= self.max_range_m**2)] = np.nan
        start = self.pose.position_m
        return np.stack([x * depth + start[0], y * depth + start[1]], -1)

    @property
    def step(self) -> int:
        """Spacing in pixels of the rows and columns in which obstacles are searched for."""
        return max(1, self.camera.size_wh[0] // DEPTH_COLUMNS)

    @cached_property
    def sampled_rays(self) -> np.ndarray:
        """Viewing rays with depth 1 of the pixels :attr:`step` apart, float32 [3, h, w]."""
        width, height = self.camera.size_wh
        row, column = np.mgrid[0 : height : self.step, 0 : width : self.step]
        return self.rays_to_ground(column, row).astype(np.float32)

    def rays_to_ground(self, column: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Return viewing rays with depth 1 in the ground frame, float64 [3, *shape]."""
        m = self._ray_to_ground
        return np.stack([m[k, 0] * column + (m[k, 1] * row + m[k, 2]) for k in range(3)])


def _nearest_pixel(coordinate: np.ndarray, count: int) -> np.ndarray:
    """Return the nearest of ``count`` rows or columns, intp [n]."""
    return np.rint(np.clip(coordinate, 0, count - 1)).astype(np.int32)
