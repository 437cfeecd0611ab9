"""Free space: an occupancy grid on the ground from a panoptic map.

A cell is free only if its own pixel shows ground; what an obstacle hides is unknown. Obstacles
stand where their lower edge meets the ground plane or, with depth, where depth places them. The
pose of the camera may be wrong, so ground that is assumed, not measured, is also occupied wherever
an agent may stand within the tolerance of the pose. The margin around agents belongs to the
assumed pose only: added to the tolerance it would cost a quarter of the road that is left.

Positions are in the ground frame of :mod:`.ground_view`; metres and seconds.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import NO_INSTANCE, Panoptic, Segments
from panoptic_ros.scene.ground_view import CLEARANCE_M, GroundView

UNKNOWN, FREE, OCCUPIED = -1, 0, 100
"""Values of cells, as in nav_msgs/OccupancyGrid."""

MIN_HITS = 3
"""Pixels needed to make a cell occupied, because depth has outliers at the edges of objects."""

REACH = 2.0
"""Largest extent of a thing without depth away from the camera, in its own heights. A lower edge
that appears farther away is well above the ground (arms, mirrors)."""

OVERHANG_M = 0.1
"""Margin around ground that an agent may stand on: bodies reach beyond their lower edge."""

_FIXED = 4  # fractional bits of the coordinates that OpenCV draws at


@dataclass(frozen=True, eq=False)
class Traversability:
    """The meaning of each class for a robot on the ground, in tables indexed by class id.

    Parameters
    ----------
    cost
        int8 [256], value of a cell that shows the class: :data:`FREE` where a vehicle may drive,
        ``walkable_cost`` where only people may walk, else :data:`UNKNOWN`.
    is_obstacle
        bool [256], blocks the way.
    is_agent
        bool [256], blocks the way and moves by itself.
    """

    cost: np.ndarray
    is_obstacle: np.ndarray
    is_agent: np.ndarray

    @classmethod
    def of(cls, label_set: LabelSet, walkable_cost: int) -> 'Traversability':
        """Derive the tables from the roles of the classes; no role (sky, void) means unknown.

        ``walkable_cost`` is 0..100, from free like a road to occupied like a wall.
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
    """Moving objects with a position on the ground, one per row.

    Parameters
    ----------
    row
        intp [n], the agent's row in the segment table of the panoptic map.
    track_id
        int32 [n].
    position_xy_m
        float64 [n, 2], its nearest point in the ground frame.
    """

    row: np.ndarray
    track_id: np.ndarray
    position_xy_m: np.ndarray

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, eq=False)
class FreeSpace:
    """The free space of one frame.

    Parameters
    ----------
    occupancy
        int8 [size y, size x], 0 free .. 100 occupied, -1 unknown.
    closest_obstacle_m
        Distance along the ground from the point below the camera to the nearest obstacle on the
        grid, without margins and for the assumed pose; infinite if there is none.
    agents
        The moving objects, on the grid or beyond it.
    off_plane
        Share of the ground cells with a depth where it does not agree with the plane, 0 to 1.
    """

    occupancy: np.ndarray
    closest_obstacle_m: float
    agents: Agents
    off_plane: float = 0.0


def free_space(
    panoptic: Panoptic,
    view: GroundView,
    traversability: Traversability,
    *,
    agent_margin_m: float = 0.0,
    obstacle_height_m: float = 2.0,
    depth_m: np.ndarray | None = None,
) -> FreeSpace:
    """Compute the free space of a panoptic map.

    Without depth, the ground is a plane and an obstacle stands where its lower edge meets it. With
    depth, an obstacle is where its pixels are, unless they are above ``obstacle_height_m``, and
    ground counts where its depth is unknown or agrees with the plane.

    Ground without depth on which an agent may stand, within ``view.tolerance``, is occupied, with
    a margin of at most :data:`OVERHANG_M`.

    Parameters
    ----------
    panoptic
        The map.
    view
        The pixel that sees each cell.
    traversability
        The meaning of its classes.
    agent_margin_m
        Radius around agents, where the assumed pose places them, that is occupied as well.
    obstacle_height_m
        Height above which nothing is an obstacle; used only with depth.
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
    is_assumed = is_ground = cost != UNKNOWN
    off_plane = 0.0
    if depth_m is not None:
        off_m = depth_m.ravel().take(pixel)
        off_m -= view.plane_depth_m
        is_assumed = is_ground & np.isnan(off_m)
        # A comparison with NaN is False.
        is_off = is_ground & (np.abs(off_m, out=off_m) > view.tolerance_m)
        cost[is_off] = UNKNOWN
        measured = np.count_nonzero(is_ground) - np.count_nonzero(is_assumed)
        off_plane = np.count_nonzero(is_off) / max(measured, 1)
    occupancy = np.full(view.grid.shape, UNKNOWN, np.int8)
    occupancy.ravel()[cell] = cost

    if depth_m is None:
        still, moving, agents = _by_lower_edges(panoptic, view, traversability)
    else:
        still, moving, agents = _by_depth(
            panoptic, view, traversability, obstacle_height_m, depth_m
        )
    obstacle = cv2.bitwise_or(still, moving)

    def radius(margin_m: float) -> int:
        return int(margin_m / view.grid.resolution_m + 0.5)

    occupied = still | _widened(moving, radius(agent_margin_m))
    if is_assumed.any():
        agent_mask = _agents_and_feet(view.sampled(panoptic.semantic), traversability)
        _fill_below_bodies(agent_mask, panoptic, view, traversability)
        may_stand = np.zeros_like(moving)
        may_stand.ravel()[cell[is_assumed & view.may_carry(agent_mask)]] = 1
        occupied |= _widened(may_stand, radius(min(agent_margin_m, OVERHANG_M)))
    occupancy[occupied.view(bool)] = OCCUPIED
    ranges_m = view.range_m[obstacle.ravel().view(bool)]
    return FreeSpace(occupancy, float(ranges_m.min(initial=np.inf)), agents, off_plane)


def _widened(mask: np.ndarray, radius: int) -> np.ndarray:
    """Return a grid, uint8 0 or 1, with a margin of ``radius`` cells."""
    if not (radius and mask.any()):
        return mask
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask, disc)


def _agents_and_feet(semantic: np.ndarray, traversability: Traversability) -> np.ndarray:
    """Return the mask of all agents, and the feet of what hides their lower parts.

    An agent behind a hedge stands no farther away than where the hedge meets the ground. Returns
    uint8 [H, W], 0 or 1.
    """
    agent = cv2.LUT(semantic, traversability.is_agent.view(np.uint8))
    obstacle = cv2.LUT(semantic, traversability.is_obstacle.view(np.uint8))
    height, width = semantic.shape
    covered = np.flatnonzero(agent[:-1].view(bool) & (obstacle[1:] > agent[1:]))
    if not covered.size:
        return agent
    foot = np.flatnonzero(obstacle[:-1] > obstacle[1:])
    at_border = np.flatnonzero(obstacle[-1]) + (height - 1) * width
    foot_row, foot_column = np.divmod(np.concatenate([foot, at_border]), width)
    # Numbered column by column, the next foot is the lower end of the obstacle.
    feet = np.sort(foot_column * height + foot_row)
    row, column = np.divmod(covered, width)
    found_row = feet[np.searchsorted(feet, column * height + row)] % height
    agent[found_row, column] = 1
    return agent


def _fill_below_bodies(
    mask: np.ndarray, panoptic: Panoptic, view: GroundView, traversability: Traversability
) -> None:
    """Add the image between the wheels and the legs of each agent to a mask, uint8 [H, W].

    A body between two wheels is too high above the ground for a clearance that fits all agents.
    A straight line in the image is a straight line on the ground, so the ground below a body lies
    within the convex hull of its lower edge. The mask is one of :meth:`GroundView.sampled`.
    """
    instance, step = view.sampled(panoptic.instance), view.sample_step
    is_foot = mask.copy()
    np.logical_and(mask[:-1], instance[1:] != instance[:-1], out=is_foot[:-1].view(bool))
    pixel = np.flatnonzero(is_foot.view(bool))
    pixel = pixel[instance.ravel()[pixel] != NO_INSTANCE]
    row, column = np.divmod(pixel, mask.shape[1])
    point = view.ground_xy_m(column * step, (row + 0.5) * step)
    on_ground = ~np.isnan(point[:, 0])
    row, column, range_m = row[on_ground], column[on_ground], _ranges_m(point[on_ground], view)
    ids, bounds, order = _sorted_by_thing(instance.ravel()[pixel[on_ground]], range_m)
    rows = panoptic.segments.row_of_id[ids]
    touches = _touches_ground(range_m[order], bounds, panoptic.segments.box_xyxy[rows], view)
    edge = np.stack([column, row], -1)[order].astype(np.int32)
    for k in np.flatnonzero(traversability.is_agent[panoptic.segments.class_id[rows]]):
        own = slice(bounds[k], bounds[k + 1])
        cv2.fillConvexPoly(mask, cv2.convexHull(edge[own][touches[own]]), 1)


_Obstacles = tuple[np.ndarray, np.ndarray, Agents]


def _by_lower_edges(
    panoptic: Panoptic, view: GroundView, traversability: Traversability
) -> _Obstacles:
    """Return stationary and moving obstacles (uint8 grids, 0 or 1), and the agents."""
    top = min(view.first_row, len(panoptic.semantic) - 1)
    obstacle = cv2.LUT(panoptic.semantic[top:], traversability.is_obstacle.view(np.uint8))
    # An obstacle at the lower border of the image is cut off there and stands there or nearer.
    is_foot = obstacle.copy()
    np.greater(obstacle[:-1], obstacle[1:], out=is_foot[:-1].view(bool))
    pixel = np.flatnonzero(is_foot.view(bool)) + top * view.camera.size_wh[0]
    row, column = np.divmod(pixel, view.camera.size_wh[0])
    # The lower edge of a pixel is half a pixel below its centre.
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
    """Mark the cells of the lower edge, and those between its neighbouring pixels.

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
    """Mark the ground that each thing covers: the convex hull of its lower edge on the ground.

    Between wheels and legs the lower edge is above the ground. A straight line in the image is a
    straight line on the ground, so the corners of the hull are at the wheels.
    """
    range_m = _ranges_m(point, view)
    ids, bounds, things = _sorted_by_thing(foot_id, range_m)
    rows = segments.row_of_id[ids]
    point, range_m = point[things], range_m[things]
    start, count = bounds[:-1], bounds[1:] - bounds[:-1]
    near_m = range_m[start]
    touches = _touches_ground(range_m, bounds, segments.box_xyxy[rows], view)
    below = np.array(view.pose.position_m[:2])
    nearer = 1 - CLEARANCE_M / view.pose.position_m[2]
    nearer = np.maximum(nearer, np.repeat(0.8 * near_m, count) / range_m)
    nearer[range_m <= np.repeat(1.05 * near_m, count)] = 1
    is_agent = traversability.is_agent[segments.class_id[rows]]
    both = np.stack([point, below + (point - below) * nearer[:, None]], 1)
    corner = (both - view.grid.origin_xy_m) / view.grid.resolution_m - 0.5
    corner = np.rint(corner * (1 << _FIXED)).astype(np.int32)
    for first, last, moves in zip(
        start.tolist(), bounds[1:].tolist(), is_agent.tolist(), strict=True
    ):
        hull = cv2.convexHull(corner[first:last][touches[first:last]].reshape(-1, 2))
        cv2.fillConvexPoly(moving if moves else still, hull, 1, cv2.LINE_8, _FIXED)
    rows = rows[is_agent]
    return Agents(rows, segments.track_id[rows], point[start[is_agent]])


def _ranges_m(point: np.ndarray, view: GroundView) -> np.ndarray:
    """Return distances of points on the ground, [n, 2], from below the camera, float32 [n]."""
    offset = point - view.pose.position_m[:2]
    return np.hypot(offset[:, 0], offset[:, 1]).astype(np.float32)


def _touches_ground(
    range_m: np.ndarray, bounds: np.ndarray, box_xyxy: np.ndarray, view: GroundView
) -> np.ndarray:
    """Return which points of lower edges are on the ground, bool [n], not arms or mirrors.

    The points are in the order of :func:`_sorted_by_thing`; ``box_xyxy`` has a row a thing.
    """
    near_m = range_m[bounds[:-1]]
    tall_m = (box_xyxy[:, 3] - box_xyxy[:, 1]) / view.camera.fy * near_m
    return range_m <= np.repeat(near_m + REACH * tall_m, np.diff(bounds))


def _sorted_by_thing(
    ids: np.ndarray, range_m: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort points by thing and, within a thing, by their distance, float32 [n].

    Returns the ids of the things, the bounds of each thing's points, and the order.
    """
    # The bit patterns of positive floats sort like the floats.
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
    """Return stationary and moving obstacles (uint8 grids, 0 or 1), and the agents."""
    grid, rays, every = view.grid, view.sampled_rays, np.s_[:: view.step, :: view.step]
    camera_m = np.array(view.pose.position_m, np.float32)
    depth_m, semantic = depth_m[every], panoptic.semantic[every]
    with np.errstate(over='ignore'):  # depth may be any number
        in_the_way = rays[2] * depth_m + camera_m[2] <= obstacle_height_m
    in_the_way &= depth_m <= view.max_range_m
    in_the_way &= traversability.is_obstacle.take(semantic)
    pixel = np.flatnonzero(in_the_way)
    depth = depth_m.ravel().take(pixel)
    x_m, y_m = (rays[k].ravel().take(pixel) * depth + camera_m[k] for k in range(2))
    is_agent = traversability.is_agent.take(semantic.ravel().take(pixel))

    cell = grid.cells(np.stack([x_m, y_m], -1))
    cells = grid.size_xy[0] * grid.size_xy[1]
    hits = np.bincount((cell + cells * is_agent)[cell >= 0], minlength=2 * cells)
    still, moving = (hits >= MIN_HITS).view(np.uint8).reshape(2, *grid.shape)

    # Agents beyond the grid are reported as well. Stuff that moves (Vistas: On Rails) has no id.
    ids = panoptic.instance[every].ravel().take(pixel)
    is_agent &= ids != NO_INSTANCE
    ids, x_m, y_m = ids[is_agent], x_m[is_agent], y_m[is_agent]
    range_m = np.hypot(x_m - camera_m[0], y_m - camera_m[1])
    ids, bounds, order = _sorted_by_thing(ids, range_m)
    # The nearest twentieth may be outliers of depth.
    chosen = order[bounds[:-1] + (bounds[1:] - bounds[:-1]) // 20]
    rows = panoptic.segments.row_of_id[ids]
    position = np.stack([x_m[chosen], y_m[chosen]], -1).astype(np.float64)
    agents = Agents(rows, panoptic.segments.track_id[rows], position)
    return still, moving, agents
