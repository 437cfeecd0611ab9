"""The pose, the grid and the view of a camera above the ground."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_ros.scene.geometry import CameraModel, GroundPlane
from panoptic_ros.scene.ground_view import CameraPose, Grid, GroundView

# One metre high, looking level: row 20.5 + k sees the ground 100 / k metres ahead, and there a
# pixel is 1 / k metres wide.
CAMERA = CameraModel(fx=100.0, fy=100.0, cx=49.5, cy=20.5, size_wh=(100, 71))
PLANE = GroundPlane(camera_height_m=1.0, max_range_m=30.0)
GRID = Grid.ahead(length_m=20.0, width_m=8.0, resolution_m=0.5)
VIEW = GroundView(CAMERA, CameraPose.over(PLANE), GRID, PLANE.max_range_m)


def points(
    view: GroundView, column: np.ndarray, row: np.ndarray, depth_m: np.ndarray
) -> np.ndarray:
    """Return the position of pixels of known depth in the ground frame, float64 [3, n]."""
    return view.rays_to_ground(column, row) * depth_m + np.array(view.pose.position_m)[:, None]


def test_the_ground_frame_of_a_level_camera_is_forward_left_up_from_the_ground_below_it() -> None:
    pose = CameraPose.over(GroundPlane(1.5))
    # Optical: right, down, forward.
    assert pose.to_ground(np.array([[0, 0, 0], [2, 1, 7]])).tolist() == [[0, 0, 1.5], [7, -2, 0.5]]


def test_the_ground_frame_of_a_camera_that_looks_down_stays_level() -> None:
    pose = CameraPose.over(GroundPlane(2.0, pitch_rad=np.pi / 4))
    # The optical axis meets the ground as far ahead as the camera is high.
    assert pose.to_ground(np.array([0, 0, 2 * np.sqrt(2)])) == pytest.approx([2, 0, 0])
    straight_down = CameraPose.over(GroundPlane(2.0, pitch_rad=np.pi / 2))
    assert straight_down.to_ground(np.array([1, -1, 2])) == pytest.approx([1, -1, 0], abs=1e-12)


@settings(deadline=None)
@given(
    point=st.tuples(*[st.floats(-50, 50)] * 3),
    height_m=st.floats(0.1, 10),
    pitch_rad=st.floats(-1.5, 1.5),
)
def test_to_optical_undoes_to_ground(
    point: tuple[float, float, float], height_m: float, pitch_rad: float
) -> None:
    pose = CameraPose.over(GroundPlane(height_m, pitch_rad))
    assert pose.to_optical(pose.to_ground(np.array(point))) == pytest.approx(point, abs=1e-9)


def test_poses_that_are_none_are_refused() -> None:
    mirrored = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
    for axes in (mirrored, ((2.0, 0, 0), (0, 1, 0), (0, 0, 1)), ((1.0, 0, 0), (0, 1, 0))):
        with pytest.raises(ValueError, match='expected three rows of a rotation matrix'):
            CameraPose(axes, (0, 0, 1))
    level = CameraPose.over(PLANE).axes
    for height_m in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match='expected the camera above the ground'):
            CameraPose(level, (0, 0, height_m))


def test_a_grid_has_its_first_cell_to_the_right_of_the_camera() -> None:
    grid = Grid.ahead(length_m=2.0, width_m=3.0, resolution_m=0.5)
    assert (grid.size_xy, grid.shape, grid.origin_xy_m) == ((4, 6), (6, 4), (0, -1.5))
    assert grid.centres()[0, 0].tolist() == [0.25, -1.25]
    assert grid.centres()[5, 3].tolist() == [1.75, 1.25]
    assert grid.cells(grid.centres().reshape(-1, 2)).tolist() == list(range(24))
    outside = np.array([[-0.1, 0], [2.1, 0], [1, 1.6], [1, -1.6]])
    assert grid.cells(outside).tolist() == [-1] * 4


def test_a_grid_around_points_has_its_cells_at_multiples_of_the_resolution() -> None:
    grid = GRID.around(np.array([[1.2, -0.1], [2.9, 0.4]]))
    assert grid == Grid(0.5, (1.0, -0.5), (4, 2))
    assert GRID.around(GRID.corners_xy_m) == GRID


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ((0.0, (0, 0), (1, 1)), 'resolution_m is 0.0'),
        ((np.nan, (0, 0), (1, 1)), 'resolution_m is nan'),
        ((1.0, (0, np.inf), (1, 1)), 'origin_xy_m'),
        ((1.0, (0, 0), (0, 1)), 'size_xy is'),
    ],
)
def test_grids_that_are_none_are_refused(values: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Grid(*values)


# ---- which pixel sees which cell ----
def test_a_cell_knows_the_pixel_that_sees_its_centre() -> None:
    # The cell whose centre is 4.75 m ahead and 0.25 m to the left: 100 / 4.75 = 21.05 rows below
    # the horizon, 5.26 columns left of the middle.
    cell = GRID.cells(np.array([[4.75, 0.25]]))[0]
    assert VIEW.pixel[cell] == round(20.5 + 21.05) * 100 + round(49.5 - 5.26)
    # Nearer than 2 m the ground is below the picture, aside it is outside.
    unseen = GRID.cells(np.array([[0.75, 0.25], [1.75, 0.25], [5.25, 3.75]]))
    assert VIEW.pixel[unseen].tolist() == [-1] * 3


@settings(deadline=None)
@given(
    height_m=st.floats(0.3, 5),
    pitch_rad=st.floats(-0.3, 1.2),
    yaw_rad=st.floats(-3.1, 3.1),
    place=st.tuples(st.floats(-20, 20), st.floats(-20, 20)),
)
def test_every_pixel_that_a_cell_is_given_looks_at_that_cell(
    height_m: float, pitch_rad: float, yaw_rad: float, place: tuple[float, float]
) -> None:
    """From cell to pixel and back along the pixel's ray, for cameras that stand anywhere."""
    level = CameraPose.over(GroundPlane(height_m, pitch_rad)).matrix
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    turned = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ level
    pose = CameraPose(tuple(map(tuple, turned.tolist())), (*place, height_m))
    centre = np.array(place) + 6 * np.array([cos, sin])
    grid = Grid(0.25, tuple((centre - 5).tolist()), (40, 40))
    view = GroundView(CAMERA, pose, grid, 30.0)
    cell, pixel = view.seen
    row, column = np.divmod(pixel, 100)
    # The pixel's corners enclose the centre of the cell, as far as their rays meet the ground.
    centres = grid.centres().reshape(-1, 2)[cell]
    optical = pose.to_optical(np.pad(centres, ((0, 0), (0, 1))))
    uv = CAMERA.project(optical)
    assert (np.abs(uv - np.stack([column, row], -1)) <= 0.5 + 1e-6).all()
    back = view.ground_xy_m(*uv.T)
    inside = ~np.isnan(back[:, 0])  # all but those exactly at the range
    assert back[inside] == pytest.approx(centres[inside], abs=1e-6)
    by_depth = points(view, *uv.T, optical[:, 2])
    assert np.abs(by_depth[:2].T - centres).max(initial=0) < 1e-2


def test_rays_at_the_horizon_and_above_and_beyond_the_range_meet_no_ground() -> None:
    row = np.array([10, 20.5, 22.5, 23.5, 24.5, 45.5])  # the ground at 50, 33, 25 and 4 m
    found = VIEW.ground_xy_m(np.full(6, 49.5), row)
    assert np.isnan(found[:4]).all()
    assert found[4:] == pytest.approx(np.array([[25, 0], [4, 0]]))
    assert VIEW.first_row == 24  # its lower edge is 4 pixels below the horizon


def test_a_camera_that_looks_at_the_sky_sees_no_ground() -> None:
    view = GroundView(CAMERA, CameraPose.over(GroundPlane(1.0, pitch_rad=-1.2)), GRID, 30.0)
    assert view.first_row == 71
    assert [len(part) for part in view.seen] == [0, 0]
