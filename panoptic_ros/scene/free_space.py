"""Where a robot can go, seen from above: a grid on the ground, free, occupied or unknown.

Ground is looked up the other way round: every cell of the grid knows the pixel that sees it
(inverse perspective mapping, Mallot et al. 1991), so a frame is one gather. A cell is free only if
its own pixel shows ground; what an obstacle hides stays unknown. Obstacles stand where their
lower edge meets the ground, or, with depth, where depth says.

The ground frame has z up and z = 0 on the ground; of a camera alone it lies below the camera, x
forward, y left (REP 103). All here is of that frame, of pixels, or of cells; metres, seconds.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np

from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import NO_INSTANCE, Panoptic, Segments
from panoptic_ros.scene.geometry import CameraModel, GroundPlane

UNKNOWN, FREE, OCCUPIED = -1, 0, 100
"""Cells as nav_msgs/OccupancyGrid has them."""

MIN_HITS = 3
"""So many pixels with depth make a cell occupied: at the edges of objects depth invents some."""

DEPTH_COLUMNS = 320
"""With depth, obstacles are looked for in so many columns of pixels, evenly spaced, and in rows as
far apart."""

REACH = 2.0
"""How far back a thing without depth may reach, in its own heights. Where its lower edge seems to
lie farther, it is well off the ground (arms, mirrors)."""

CLEARANCE_M = 0.25
"""Where the lower edge of a thing is not at its nearest, it may be so high off the ground (bumpers
and bellies of cars), and that much nearer than it looks."""

GROUND_TOLERANCE = 0.1
"""A pixel whose depth differs from the plane's by more than this share does not see the plane."""

_FIXED = 4  # fractional bits of the coordinates OpenCV draws at


@dataclass(frozen=True)
class CameraPose:
    """Where a camera is above the ground.

    Parameters
    ----------
    axes
        Three unit vectors: the ground frame's x, y and z in the camera's optical frame. As a
        matrix, it takes vectors from the optical to the ground frame.
    position_m
        Of the camera in the ground frame; its z is the height above the ground, above 0.

    Raises ValueError if the axes are not those of a right-handed frame, or the camera is not
    above the ground.
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
        """Take the ground frame of a camera alone: its origin below it, x where it looks.

        A plane knows no roll; cameras that roll need a pose from outside.
        """
        cos, sin = float(ground.down[1]), float(ground.down[2])
        axes = ((0.0, -sin, cos), (-1.0, 0.0, 0.0), (0.0, -cos, -sin))
        return cls(axes, (0.0, 0.0, ground.camera_height_m))

    @property
    def matrix(self) -> np.ndarray:
        """``axes``, float64 [3, 3]."""
        return np.array(self.axes, np.float64)

    def to_ground(self, point_m: np.ndarray) -> np.ndarray:
        """Take points [..., 3] from the optical to the ground frame."""
        return point_m @ self.matrix.T + self.position_m

    def to_optical(self, point_m: np.ndarray) -> np.ndarray:
        """Take points [..., 3] from the ground to the optical frame."""
        return (np.asarray(point_m) - self.position_m) @ self.matrix


def _is_rotation(matrix: np.ndarray) -> bool:
    off = np.abs(matrix @ matrix.T - np.eye(3)).max()
    return bool(off <= 1e-6 and np.linalg.det(matrix) > 0)


@dataclass(frozen=True)
class Grid:
    """Square cells on the ground.

    Parameters
    ----------
    resolution_m
        Side of a cell, above 0.
    origin_xy_m
        The corner of the first cell, in the ground frame.
    size_xy
        How many cells along x and along y, each 1 or more.

    Arrays of a grid are [size y, size x], as in nav_msgs/OccupancyGrid. Raises ValueError if a
    value is out of its range.
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
    @lru_cache(maxsize=1)  # asked for with each frame
    def ahead(cls, length_m: float, width_m: float, resolution_m: float) -> 'Grid':
        """Cover the ground in front of a camera: from below it forward, as far left as right."""
        size_xy = tuple(max(1, round(extent / resolution_m)) for extent in (length_m, width_m))
        return cls(resolution_m, (0.0, -size_xy[1] * resolution_m / 2), size_xy)

    def around(self, corners_xy_m: np.ndarray) -> 'Grid':
        """Return the grid of the same cells' size that covers points [n, 2].

        Its cells lie at multiples of the resolution, so that those of two grids coincide.
        """
        low = np.floor(corners_xy_m.min(0) / self.resolution_m + 1e-6).astype(int)
        high = np.ceil(corners_xy_m.max(0) / self.resolution_m - 1e-6).astype(int)
        size_x, size_y = np.maximum(high - low, 1).tolist()
        x, y = (low * self.resolution_m).tolist()
        return Grid(self.resolution_m, (x, y), (size_x, size_y))

    @property
    def shape(self) -> tuple[int, int]:
        """Of the arrays."""
        return self.size_xy[1], self.size_xy[0]

    @property
    def corners_xy_m(self) -> np.ndarray:
        """The four corners, float64 [4, 2]."""
        size_m = np.array(self.size_xy) * self.resolution_m
        return self.origin_xy_m + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * size_m

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x of the centres of each row's cells and y of each column's, two float64 [n]."""
        x, y = (
            start + (np.arange(count) + 0.5) * self.resolution_m
            for start, count in zip(self.origin_xy_m, self.size_xy, strict=True)
        )
        return x, y

    def centres(self) -> np.ndarray:
        """Return x and y of every cell's centre, float64 [size y, size x, 2]."""
        return np.stack(np.meshgrid(*self.axes()), -1)

    def cells(self, point_xy_m: np.ndarray) -> np.ndarray:
        """Return the flat index of the cell of each point [n, 2], -1 outside, intp [n]."""
        # Column by column: along an axis of two, numpy takes many times as long.
        x, y = (
            np.floor((point_xy_m[..., k] - self.origin_xy_m[k]) / self.resolution_m)
            for k in range(2)
        )
        inside = (x >= 0) & (x < self.size_xy[0]) & (y >= 0) & (y < self.size_xy[1])
        return np.where(inside, y * self.size_xy[0] + x, -1).astype(np.intp)


@dataclass(frozen=True)
class GroundView:
    """Which pixel sees which cell; computed once for a camera that stays where it is.

    Parameters
    ----------
    camera
        Of the panoptic map's size.
    pose
        Where it is above the ground.
    grid
        The cells.
    max_range_m
        Metres from the camera beyond which flat ground is not believed in.
    """

    camera: CameraModel
    pose: CameraPose
    grid: Grid
    max_range_m: float

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
        """How far each cell's centre is from the point below the camera, float32 [cells]."""
        along_x, along_y = self.grid.axes()
        x, y, _ = self.pose.position_m
        return np.hypot(along_x - x, (along_y - y)[:, None]).astype(np.float32).ravel()

    @cached_property
    def pixel(self) -> np.ndarray:
        """Flat index of the pixel that sees each cell's centre, -1 where none, intp [cells]."""
        width, height = self.camera.size_wh
        x, y, z = self._optical
        seen = (x * x + y * y + z * z <= self.max_range_m**2) & (z > 1e-6)
        with np.errstate(divide='ignore', invalid='ignore'):  # what is not in front
            column = np.floor(self.camera.fx * x / z + (self.camera.cx + 0.5))
            row = np.floor(self.camera.fy * y / z + (self.camera.cy + 0.5))
        # Compared before it becomes an index: it may be far outside.
        seen &= (column >= 0) & (column < width) & (row >= 0) & (row < height)
        return np.where(seen, row * width + column, -1).astype(np.intp).ravel()

    @cached_property
    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """The cells that a pixel sees, and those pixels: two intp [n]."""
        cell = np.flatnonzero(self.pixel >= 0)
        return cell, self.pixel[cell]

    @cached_property
    def plane_depth_m(self) -> np.ndarray:
        """Depth at which each cell of :attr:`seen` lies, float32 [n]."""
        return self._optical[2].ravel()[self.seen[0]].astype(np.float32)

    @cached_property
    def tolerance_m(self) -> np.ndarray:
        """By how much the depth of ground may differ from that, float32 [n]."""
        return GROUND_TOLERANCE * self.plane_depth_m

    @cached_property
    def _ray_to_ground(self) -> np.ndarray:
        """Takes (column, row, 1) to a viewing ray with depth 1 in the ground frame."""
        c = self.camera
        rays = np.array([[1 / c.fx, 0, -c.cx / c.fx], [0, 1 / c.fy, -c.cy / c.fy], [0, 0, 1]])
        return self.pose.matrix @ rays

    @cached_property
    def first_row(self) -> int:
        """The highest row of pixels that sees ground within range; the number of rows if none."""
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
        """Return where pixels' rays meet the ground, float64 [n, 2]; NaN where they do not.

        Not: at the horizon and above, and beyond ``max_range_m``.
        """
        x, y, z = self.rays_to_ground(column, row)
        depth = np.divide(-self.pose.position_m[2], z, out=np.full(len(z), np.nan), where=z < 0)
        depth[~((x * x + y * y + z * z) * depth * depth <= self.max_range_m**2)] = np.nan
        start = self.pose.position_m
        return np.stack([x * depth + start[0], y * depth + start[1]], -1)

    @property
    def step(self) -> int:
        """How many rows and columns apart the pixels are at which obstacles are looked for."""
        return max(1, self.camera.size_wh[0] // DEPTH_COLUMNS)

    @cached_property
    def _of_pixels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where a metre of depth leads from the pixels :attr:`step` apart, float32.

        The parts that their columns [3, w] and their rows [3, h] have in it, and where depth 0
        is [3]: along x and y in cells from the corner of the grid, along z in metres above the
        ground.
        """
        per_m = np.array([1 / self.grid.resolution_m] * 2 + [1.0])
        start = (self.pose.position_m - np.array([*self.grid.origin_xy_m, 0.0])) * per_m
        m = self._ray_to_ground * per_m[:, None]
        width, height = self.camera.size_wh
        of_column = m[:, :1] * np.arange(0, width, self.step)
        of_row = m[:, 1:2] * np.arange(0, height, self.step) + m[:, 2:]
        return of_column.astype(np.float32), of_row.astype(np.float32), start.astype(np.float32)

    @cached_property
    def _up_per_m(self) -> np.ndarray:
        of_column, of_row, _ = self._of_pixels
        return of_column[2] + of_row[2, :, None]

    def height_m(self, depth_m: np.ndarray) -> np.ndarray:
        """Return how high above the ground the pixels :attr:`step` apart are, float32 [h, w].

        ``depth_m`` is float32 [h, w], of those pixels.
        """
        with np.errstate(over='ignore'):  # depth may be any number
            height_m = self._up_per_m * depth_m
            height_m += self._of_pixels[2][2]
        return height_m

    def cells_of_pixels(
        self, pixel: np.ndarray, depth_m: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y of some of these pixels, in cells from the grid's corner, float32 [n].

        Parameters
        ----------
        pixel
            intp [n], flat indices into an array of the pixels :attr:`step` apart.
        depth_m
            float32 [n], theirs.
        """
        of_column, of_row, start = self._of_pixels
        row = pixel // of_column.shape[1]
        column = pixel - row * of_column.shape[1]
        x, y = (of_column[k].take(column) + of_row[k].take(row) for k in range(2))
        x *= depth_m
        x += start[0]
        y *= depth_m
        y += start[1]
        return x, y

    def rays_to_ground(self, column: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Return where in the ground frame a metre of depth leads, float64 [3, *shape]."""
        m = self._ray_to_ground
        return np.stack([m[k, 0] * column + (m[k, 1] * row + m[k, 2]) for k in range(3)])

    def points(self, column: np.ndarray, row: np.ndarray, depth_m: np.ndarray) -> np.ndarray:
        """Return where pixels of known depth are in the ground frame, float32 [3, n]."""
        ray = self.rays_to_ground(column, row).astype(np.float32)
        return ray * depth_m + np.array(self.pose.position_m, np.float32)[:, None]


@lru_cache(maxsize=1)
def ground_view(
    camera: CameraModel, pose: CameraPose, grid: Grid, max_range_m: float
) -> GroundView:
    """Return the view of a camera, the one made before where nothing has changed."""
    return GroundView(camera, pose, grid, max_range_m)


@dataclass(frozen=True, eq=False)
class Traversability:
    """What each class means for a robot on the ground; all tables have one entry a class id.

    Parameters
    ----------
    cost
        int8 [256], what a cell with this class on it is worth: :data:`FREE` where a vehicle may
        drive, ``walkable_cost`` where only people may walk, else :data:`UNKNOWN`.
    is_obstacle
        bool [256], stands in the way.
    is_agent
        bool [256], stands in the way and moves by itself.
    """

    cost: np.ndarray
    is_obstacle: np.ndarray
    is_agent: np.ndarray

    @cached_property
    def kind(self) -> np.ndarray:
        """uint8 [256], bit 0 where :attr:`is_obstacle`, bit 1 where :attr:`is_agent`."""
        return self.is_obstacle.astype(np.uint8) | 2 * self.is_agent.astype(np.uint8)

    @classmethod
    def of(cls, label_set: LabelSet, walkable_cost: int) -> 'Traversability':
        """Read it off the classes' roles; what has none (sky, water, void) says nothing.

        ``walkable_cost`` is 0..100, from as good as a road to as bad as a wall.
        """
        if not FREE <= walkable_cost <= OCCUPIED:
            raise ValueError(f'walkable_cost is {walkable_cost}; expected {FREE}..{OCCUPIED}')
        drivable, walkable = label_set.with_role('drivable'), label_set.with_role('walkable')
        is_agent = label_set.with_role('dynamic_agent')
        stands = is_agent | label_set.with_role('permanent_structure')
        stands |= label_set.with_role('movable') | label_set.with_role('graspable')
        cost = np.full(256, UNKNOWN, np.int8)
        cost[walkable] = walkable_cost
        cost[drivable] = FREE
        return cls(cost, stands & (cost == UNKNOWN), is_agent & (cost == UNKNOWN))


@dataclass(frozen=True, eq=False)
class Agents:
    """What moves by itself and has a place on the ground, one a row.

    Parameters
    ----------
    row
        intp [n], the agent's row in the panoptic map's segments.
    track_id
        int32 [n].
    position_xy_m
        float64 [n, 2], its nearest point, in the ground frame.
    """

    row: np.ndarray
    track_id: np.ndarray
    position_xy_m: np.ndarray

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, eq=False)
class FreeSpace:
    """A frame seen from above.

    Parameters
    ----------
    occupancy
        int8 [size y, size x] of the view's grid: 0 free .. 100 occupied, -1 unknown.
    closest_obstacle_m
        Metres along the ground from below the camera to the nearest obstacle on the grid, margins
        not counted; infinite where there is none.
    agents
        Wherever they are, on the grid or not.
    """

    occupancy: np.ndarray
    closest_obstacle_m: float
    agents: Agents


def free_space(
    panoptic: Panoptic,
    view: GroundView,
    traversability: Traversability,
    *,
    agent_margin_m: float = 0.0,
    obstacle_height_m: float = 2.0,
    depth_m: np.ndarray | None = None,
) -> FreeSpace:
    """Look at a panoptic map from above.

    Without depth the ground is a plane, and an obstacle is where its lower edge meets it. With
    depth an obstacle is where its pixels are, if they are not above ``obstacle_height_m``, and
    ground counts where depth is unknown or agrees with the plane.

    Parameters
    ----------
    panoptic
        The map.
    view
        Which of its pixels see which cell.
    traversability
        What its classes mean.
    agent_margin_m
        Cells so near to something that moves by itself are occupied too.
    obstacle_height_m
        What hangs higher above the ground is in nobody's way; used only with depth.
    depth_m
        float32 [H, W] of the map's size, metres along the optical axis, NaN where unknown.

    Raises ValueError if the map, the view or the depth differ in size.
    """
    size_wh = panoptic.size_wh
    if view.camera.size_wh != size_wh:
        raise ValueError(f'the map is {size_wh}; expected {view.camera.size_wh}, the camera')
    if depth_m is not None and depth_m.shape != panoptic.semantic.shape:
        raise ValueError(f'depth_m is {depth_m.shape}; expected {panoptic.semantic.shape}')
    cell, pixel = view.seen
    cost = traversability.cost.take(panoptic.semantic.ravel().take(pixel))
    if depth_m is not None:
        off_m = depth_m.ravel().take(pixel)
        off_m -= view.plane_depth_m
        # A comparison with NaN is false.
        cost[np.abs(off_m, out=off_m) > view.tolerance_m] = UNKNOWN
    occupancy = np.full(view.grid.shape, UNKNOWN, np.int8)
    occupancy.ravel()[cell] = cost

    if depth_m is None:
        still, moving, agents = _by_lower_edges(panoptic, view, traversability)
    else:
        still, moving, agents = _by_depth(
            panoptic, view, traversability, obstacle_height_m, depth_m
        )
    obstacle = cv2.bitwise_or(still, moving)
    radius = int(agent_margin_m / view.grid.resolution_m + 0.5)
    if radius and moving.any():
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        occupied = cv2.bitwise_or(still, cv2.dilate(moving, disc))
    else:
        occupied = obstacle
    occupancy[occupied.view(bool)] = OCCUPIED
    ranges_m = view.range_m[obstacle.ravel().view(bool)]
    return FreeSpace(occupancy, float(ranges_m.min(initial=np.inf)), agents)


_Obstacles = tuple[np.ndarray, np.ndarray, Agents]


def _by_lower_edges(
    panoptic: Panoptic, view: GroundView, traversability: Traversability
) -> _Obstacles:
    """Return what stands still, what moves (uint8 grids, 0 or 1), and the agents."""
    top = min(view.first_row, len(panoptic.semantic) - 1)
    obstacle = cv2.LUT(panoptic.semantic[top:], traversability.is_obstacle.view(np.uint8))
    # What touches the lower border is cut off there and stands there or nearer.
    is_foot = obstacle.copy()
    np.greater(obstacle[:-1], obstacle[1:], out=is_foot[:-1].view(bool))
    pixel = np.flatnonzero(is_foot.view(bool)) + top * view.camera.size_wh[0]
    row, column = np.divmod(pixel, view.camera.size_wh[0])
    # A pixel's lower edge lies half a pixel below its centre.
    point = view.ground_xy_m(column, row + 0.5)
    on_ground = ~np.isnan(point[:, 0])
    pixel, point = pixel[on_ground], point[on_ground]
    foot_id = panoptic.instance.ravel()[pixel]

    stuff = foot_id == NO_INSTANCE
    still = np.zeros(view.grid.shape, np.uint8)
    _draw_lines(still, view, pixel[stuff], point[stuff])
    moving = np.zeros_like(still)
    agents = _draw_things(
        still, moving, panoptic.segments, view, traversability, foot_id[~stuff], point[~stuff]
    )
    return still, moving, agents


def _draw_lines(
    drawing: np.ndarray, view: GroundView, pixel: np.ndarray, point: np.ndarray
) -> None:
    """Mark the feet's cells, and those between the feet of neighbouring pixels.

    Far away, neighbouring rows of pixels are metres apart on the ground.
    """
    if not len(pixel):
        return
    width = view.camera.size_wh[0]
    first = np.flatnonzero(pixel % width < width - 1)
    to_the_right = pixel[first] + np.array([[1 - width], [1], [1 + width]])
    second = np.minimum(np.searchsorted(pixel, to_the_right), len(pixel) - 1)
    step, here = np.nonzero(pixel[second] == to_the_right)
    start, end = point[first[here]], point[second[step, here]]
    gap_m = np.abs(end - start).max(initial=0.0)
    share = np.linspace(0, 1, 2 + int(gap_m / view.grid.resolution_m))[:, None, None]
    between = start + (end - start) * share
    cell = view.grid.cells(np.concatenate([between.reshape(-1, 2), point]))
    drawing.ravel()[cell[cell >= 0]] = 1


def _draw_things(
    still: np.ndarray,
    moving: np.ndarray,
    segments: Segments,
    view: GroundView,
    traversability: Traversability,
    foot_id: np.ndarray,
    point: np.ndarray,
) -> Agents:
    """Mark what each thing covers of the ground: the convex hull of its feet.

    Between wheels and between legs the lower edge is off the ground. A line through the image is
    a line on the ground, so the hull has its edges where the wheels are.
    """
    offset = point - view.pose.position_m[:2]
    range_m = np.hypot(offset[:, 0], offset[:, 1]).astype(np.float32)
    ids, bounds, things = _sorted_by_thing(foot_id, range_m)
    rows = segments.row_of_id[ids]
    point, range_m = point[things], range_m[things]
    start, count = bounds[:-1], bounds[1:] - bounds[:-1]
    tall_px = segments.box_xyxy[rows, 3] - segments.box_xyxy[rows, 1]
    near_m = range_m[start]
    tall_m = tall_px / view.camera.fy * near_m
    touches = range_m <= np.repeat(near_m + REACH * tall_m, count)
    below = np.array(view.pose.position_m[:2])
    nearer = 1 - CLEARANCE_M / view.pose.position_m[2]
    nearer = np.maximum(nearer, np.repeat(0.8 * near_m, count) / range_m)
    nearer[range_m <= np.repeat(1.05 * near_m, count)] = 1
    both = np.stack([point, below + (point - below) * nearer[:, None]], 1)
    corner = (both - view.grid.origin_xy_m) / view.grid.resolution_m - 0.5
    corner = np.rint(corner * (1 << _FIXED)).astype(np.int32)
    is_agent = traversability.is_agent[segments.class_id[rows]]
    for first, last, moves in zip(
        start.tolist(), bounds[1:].tolist(), is_agent.tolist(), strict=True
    ):
        hull = cv2.convexHull(corner[first:last][touches[first:last]].reshape(-1, 2))
        cv2.fillConvexPoly(moving if moves else still, hull, 1, cv2.LINE_8, _FIXED)
    rows = rows[is_agent]
    return Agents(rows, segments.track_id[rows], point[start[is_agent]])


def _sorted_by_thing(
    ids: np.ndarray, range_m: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort points by the thing they belong to, each thing's by their distance, float32 [n].

    Returns the things' ids, where each begins and the last one ends, and the order.
    """
    # The bits of floats above 0 are in the order of the floats.
    order = np.argsort((ids.astype(np.int64) << 32) | range_m.view(np.int32))
    ids = ids[order]
    inner = np.flatnonzero(ids[1:] != ids[:-1]) + 1
    bounds = np.concatenate(([0], inner, [len(ids)]))[: len(ids) + 1]
    return ids[bounds[:-1]], bounds, order


def _by_depth(
    panoptic: Panoptic,
    view: GroundView,
    traversability: Traversability,
    obstacle_height_m: float,
    depth_m: np.ndarray,
) -> _Obstacles:
    """Return what stands still, what moves (uint8 grids, 0 or 1), and the agents."""
    step, grid = view.step, view.grid
    size_x, size_y = grid.size_xy
    kind = cv2.LUT(np.ascontiguousarray(panoptic.semantic[::step, ::step]), traversability.kind)
    depth_m = np.ascontiguousarray(depth_m[::step, ::step])
    in_the_way = view.height_m(depth_m) <= obstacle_height_m
    in_the_way &= depth_m <= view.max_range_m
    in_the_way &= kind > 0
    pixel = np.flatnonzero(in_the_way)
    x, y = view.cells_of_pixels(pixel, depth_m.ravel().take(pixel))
    is_agent = kind.ravel().take(pixel) > 1

    on_grid = np.flatnonzero((x >= 0) & (x < size_x) & (y >= 0) & (y < size_y))
    count = size_x * size_y
    cell = y.take(on_grid).astype(np.int32) * size_x
    cell += x.take(on_grid).astype(np.int32)
    cell += count * is_agent.take(on_grid)
    crowded = np.bincount(cell, minlength=2 * count) >= MIN_HITS
    still, moving = crowded.view(np.uint8).reshape(2, *grid.shape)

    # Where agents are is also told of those beyond the grid.
    is_agent = np.flatnonzero(is_agent)
    pixel, x, y = pixel.take(is_agent), x.take(is_agent), y.take(is_agent)
    width, columns = panoptic.semantic.shape[1], depth_m.shape[1]
    row = pixel // columns
    ids = panoptic.instance.ravel().take(row * (step * width - step * columns) + pixel * step)
    if not ids.all():  # stuff that moves (Vistas: On Rails) is nobody
        x, y, ids = x[ids > 0], y[ids > 0], ids[ids > 0]
    below_xy_m = view.pose.position_m[:2]
    x_m, y_m = (
        cells * np.float32(grid.resolution_m) + np.float32(corner_m)
        for cells, corner_m in zip((x, y), grid.origin_xy_m, strict=True)
    )
    range_m = np.hypot(x_m - np.float32(below_xy_m[0]), y_m - np.float32(below_xy_m[1]))
    ids, bounds, order = _sorted_by_thing(ids, range_m)
    # A few of the nearest depth may have invented.
    chosen = order[bounds[:-1] + (bounds[1:] - bounds[:-1]) // 20]
    rows = panoptic.segments.row_of_id[ids]
    position = np.stack([x_m[chosen], y_m[chosen]], -1).astype(np.float64)
    agents = Agents(rows, panoptic.segments.track_id[rows], position)
    return still, moving, agents
