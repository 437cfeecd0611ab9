"""``python test/studies/pose_errors.py``: free space with a wrong pose of the camera.

The maps are the ground truth of the synthetic street and there is no depth, so that only the pose
is tested. The cells that people and vehicles are really in come from the true depth.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from panoptic_ros.datasets.street.scene import StreetFrame, SyntheticStreet
from panoptic_ros.datasets.street.style import street_labels
from panoptic_ros.scene.free_space import FREE, OCCUPIED, Traversability, free_space
from panoptic_ros.scene.geometry import CameraModel, GroundPlane
from panoptic_ros.scene.ground_view import CameraPose, Grid, GroundView, PoseTolerance

ERRORS = ((0.0, 0.0), (0.15, 0.0), (0.0, -0.035), (0.15, -0.035), (0.0, 0.035), (0.5, 0.0))
"""Errors of the assumed pose: of the height, as a fraction, and of the pitch, in radians."""

TOLERANCES = (PoseTolerance(0.0, 0.0), PoseTolerance(0.05, 0.0175), PoseTolerance())

GRID = Grid.ahead(20.0, 20.0, 0.1)
RANGE_M = 15.0
AGENT_MARGIN_M = 0.5
OBSTACLE_HEIGHT_M = 2.0

STREETS = 6
FRAME = 200
HEIGHT_M, PITCH_RAD = 1.3, 0.035


@dataclass(frozen=True)
class Shares:
    """Shares of the cells within :data:`RANGE_M`.

    Parameters
    ----------
    agents
        Number of cells with a person or vehicle.
    free_agents
        Share of them that is free or walkable, 0 to 1.
    free_road
        Share of the cells that show only road that is free, 0 to 1.
    """

    agents: int
    free_agents: float
    free_road: float


@dataclass(frozen=True, eq=False)
class TrueCells:
    """A frame, and bool [cells] for :data:`GRID`: with an agent, and with road only."""

    frame: StreetFrame
    has_agent: np.ndarray
    is_road: np.ndarray


def view_of(
    frame: StreetFrame,
    tolerance: PoseTolerance,
    height_error: float = 0.0,
    pitch_error_rad: float = 0.0,
) -> GroundView:
    """Return the view with an error in the assumed pose."""
    camera = CameraModel.from_k(frame.camera_matrix.ravel(), frame.size_wh)
    height_m = frame.camera_height_m * (1 + height_error)
    pose = CameraPose.over(GroundPlane(height_m, frame.camera_pitch_rad + pitch_error_rad))
    return GroundView(camera, pose, GRID, 60.0, tolerance)


def true_cells(frame: StreetFrame, rules: Traversability) -> TrueCells:
    """Sort the visible points of a frame into the cells they are in."""
    view = view_of(frame, PoseTolerance(0.0, 0.0))
    row, column = np.nonzero(np.isfinite(frame.depth_m))
    start = np.array(view.pose.position_m)[:, None]
    x, y, z = view.rays_to_ground(column, row) * frame.depth_m[row, column] + start
    cell, class_id = GRID.cells(np.stack([x, y], -1)), frame.truth.semantic[row, column]

    def contains(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(cell[chosen & (cell >= 0)], minlength=len(view.range_m)) > 0

    near, low = view.range_m < RANGE_M, z < OBSTACLE_HEIGHT_M
    obstacle = contains(rules.is_obstacle[class_id] & low)
    return TrueCells(
        frame,
        contains(rules.is_agent[class_id] & low) & near,
        contains(rules.cost[class_id] == FREE) & ~obstacle & near,
    )


def measure(
    cells: Iterable[TrueCells],
    rules: Traversability,
    tolerance: PoseTolerance,
    height_error: float,
    pitch_error_rad: float,
) -> Shares:
    """Return the shares over all frames with one error of the pose."""
    agents = road = free_agents = free_road = 0
    for true in cells:
        view = view_of(true.frame, tolerance, height_error, pitch_error_rad)
        found = free_space(true.frame.truth, view, rules, agent_margin_m=AGENT_MARGIN_M)
        value = found.occupancy.ravel()
        agents += np.count_nonzero(true.has_agent)
        free_agents += np.count_nonzero(true.has_agent & (value >= FREE) & (value < OCCUPIED))
        road += np.count_nonzero(true.is_road)
        free_road += np.count_nonzero(true.is_road & (value == FREE))
    return Shares(agents, free_agents / max(agents, 1), free_road / max(road, 1))


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table: cells of people and vehicles that are free, and road that is free."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('--streets', type=int, default=STREETS, help='(%(default)s)')
    args = parser.parse_args(argv)
    if args.streets < 1:
        parser.error('expected at least one street')
    rules = Traversability.of(street_labels(), walkable_cost=50)
    cells = []
    for seed in range(args.streets):
        street = SyntheticStreet(seed, camera_height_m=HEIGHT_M, camera_pitch_rad=PITCH_RAD)
        cells.append(true_cells(street.frame(FRAME), rules))
    print('| error of height | of pitch |' + ' agents free / road free, % |' * len(TOLERANCES))
    print('|---|---|' + '---|' * len(TOLERANCES))
    for height_error, pitch_error_rad in ERRORS:
        columns = []
        for tolerance in TOLERANCES:
            shares = measure(cells, rules, tolerance, height_error, pitch_error_rad)
            columns.append(f' {100 * shares.free_agents:.1f} / {100 * shares.free_road:.0f} |')
        print(f'| {height_error:+.0%} | {pitch_error_rad:+.3f} rad |' + ''.join(columns))
    tolerances = '; '.join(f'{t.height_fraction:g} and {t.pitch_rad:g} rad' for t in TOLERANCES)
    print(f'\ncolumns: tolerance of height and pitch {tolerances}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
