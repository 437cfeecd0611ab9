"""Free space: small streets worked out by hand, and geometry there and back."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_ros.datasets.street.scene import StreetFrame, SyntheticStreet
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.scene.free_space import (
    FREE,
    OCCUPIED,
    OVERHANG_M,
    UNKNOWN,
    FreeSpace,
    Traversability,
    free_space,
)
from panoptic_ros.scene.geometry import CameraModel, GroundPlane
from panoptic_ros.scene.ground_view import (
    CLEARANCE_M,
    CameraPose,
    Grid,
    GroundView,
    PoseTolerance,
)

CITYSCAPES = LabelSet.load('cityscapes')
ROAD, SIDEWALK, WALL, SKY, PERSON, CAR = (
    CITYSCAPES.class_id(name) for name in ('road', 'sidewalk', 'wall', 'sky', 'person', 'car')
)
VOID = 255
RULES = Traversability.of(CITYSCAPES, walkable_cost=50)
# One metre high, looking level: row 20.5 + k sees the ground 100 / k metres ahead, and there a
# pixel is 1 / k metres wide.
CAMERA = CameraModel(fx=100.0, fy=100.0, cx=49.5, cy=20.5, size_wh=(100, 71))
PLANE = GroundPlane(camera_height_m=1.0, max_range_m=30.0)
GRID = Grid.ahead(length_m=20.0, width_m=8.0, resolution_m=0.5)
EXACT = PoseTolerance(0.0, 0.0)
VIEW = GroundView(CAMERA, CameraPose.over(PLANE), GRID, PLANE.max_range_m, EXACT)


def scene(*patches: tuple[int, slice, slice] | tuple[int, slice, slice, int]) -> Panoptic:
    """Return road under sky, and on it patches of class, rows, columns and instance."""
    semantic = np.full((71, 100), ROAD, np.uint8)
    semantic[:21] = SKY
    instance = np.zeros((71, 100), np.uint16)
    for class_id, rows, columns, *instance_id in patches:
        semantic[rows, columns] = class_id
        instance[rows, columns] = instance_id[0] if instance_id else 0
    return Panoptic.from_maps(semantic, instance, CITYSCAPES)


def at(found: FreeSpace, x_m: float, y_m: float) -> int:
    cell = GRID.cells(np.array([[x_m, y_m]]))[0]
    assert cell >= 0
    return int(found.occupancy.ravel()[cell])


ALL = slice(None)


def points(
    view: GroundView, column: np.ndarray, row: np.ndarray, depth_m: np.ndarray
) -> np.ndarray:
    """Return the position of pixels of known depth in the ground frame, float64 [3, n]."""
    return view.rays_to_ground(column, row) * depth_m + np.array(view.pose.position_m)[:, None]


# ---- what classes mean ----
def test_roles_decide_what_is_free() -> None:
    assert [RULES.cost[c] for c in (ROAD, SIDEWALK, WALL, SKY, CAR, VOID)] == [
        FREE,
        50,
        UNKNOWN,
        UNKNOWN,
        UNKNOWN,
        UNKNOWN,
    ]
    assert [bool(RULES.is_obstacle[c]) for c in (ROAD, SIDEWALK, WALL, SKY, CAR, VOID)] == [
        False,
        False,
        True,
        False,
        True,
        False,
    ]
    assert [bool(RULES.is_agent[c]) for c in (WALL, CAR)] == [False, True]
    coco = LabelSet.load('coco')
    indoors = Traversability.of(coco, 0)
    ids = [coco.class_id(n) for n in ('floor-wood', 'rug-merged', 'chair', 'cup', 'river')]
    assert indoors.cost[ids].tolist() == [FREE, FREE, UNKNOWN, UNKNOWN, UNKNOWN]
    assert indoors.is_obstacle[ids].tolist() == [False, False, True, True, False]
    for cost in (-1, 101):
        with pytest.raises(ValueError, match=f'walkable_cost is {cost}; expected 0..100'):
            Traversability.of(CITYSCAPES, cost)


# ---- flat ground ----
def test_an_empty_road_is_free_as_far_as_it_is_seen() -> None:
    found = free_space(scene(), VIEW, RULES)
    assert found.occupancy.dtype == np.int8
    assert found.occupancy.shape == GRID.shape
    expected = np.where(VIEW.pixel.reshape(GRID.shape) >= 0, FREE, UNKNOWN)
    assert np.array_equal(found.occupancy, expected)
    assert at(found, 10.25, 0.25) == FREE
    assert at(found, 1.25, 0.25) == UNKNOWN
    assert len(found.agents) == 0


def test_a_camera_that_looks_at_the_sky_knows_nothing() -> None:
    up = CameraPose.over(GroundPlane(1.0, pitch_rad=-1.2))
    found = free_space(scene(), GroundView(CAMERA, up, GRID, 30.0), RULES)
    assert (found.occupancy == UNKNOWN).all()
    assert found.closest_obstacle_m == np.inf


def test_a_wall_is_occupied_where_it_meets_the_road_and_hides_what_is_behind() -> None:
    # Rows up to 30 are wall: its lower edge, 10 pixels below the horizon, is 10 metres ahead.
    found = free_space(scene((WALL, slice(5, 31), ALL)), VIEW, RULES)
    for y_m in (-3.75, -0.25, 0.25, 3.75):
        assert at(found, 10.01, y_m) == OCCUPIED
        assert at(found, 9.25, y_m) == FREE
        assert at(found, 10.75, y_m) == at(found, 15.25, y_m) == UNKNOWN
    assert found.closest_obstacle_m == pytest.approx(10.25, abs=0.1)


def test_what_is_seen_over_an_obstacle_is_known_again() -> None:
    # A kerb 5.26 m ahead: it hides the road up to 5.88 m.
    found = free_space(scene((WALL, slice(38, 40), ALL)), VIEW, RULES)
    assert at(found, 5.26, 0.25) == OCCUPIED
    assert at(found, 6.25, 0.25) == FREE


def test_sidewalk_void_and_sky_on_the_ground() -> None:
    found = free_space(
        scene(
            (SIDEWALK, slice(21, 71), slice(0, 35)),
            (VOID, slice(21, 71), slice(40, 50)),
            (SKY, slice(21, 71), slice(60, 75)),
        ),
        VIEW,
        RULES,
    )
    # 4 m ahead a pixel is 4 cm wide.
    assert at(found, 4.25, 0.75) == 50
    assert at(found, 4.25, 0.25) == UNKNOWN
    assert at(found, 4.25, -0.25) == FREE
    assert at(found, 4.25, -0.75) == UNKNOWN


def test_the_face_of_a_wall_along_the_road_has_no_gaps() -> None:
    # The wall stands 2 m to the left: its foot is at column 49.5 - 2 k in the row 20.5 + k.
    row, column = np.mgrid[:71, :100]
    semantic = np.where(row < 21, SKY, ROAD).astype(np.uint8)
    semantic[column < 49.5 - 2 * np.maximum(row - 20, 0)] = WALL
    panoptic = Panoptic.from_maps(semantic, np.zeros((71, 100), np.uint16), CITYSCAPES)
    found = free_space(panoptic, VIEW, RULES)
    beside = [
        at(found, x_m, 1.75) == OCCUPIED or at(found, x_m, 2.25) == OCCUPIED
        for x_m in np.arange(5.25, 19)
    ]
    assert all(beside)
    assert at(found, 8.25, 0.75) == FREE
    assert at(found, 8.25, 3.25) == UNKNOWN


def car(wheels_at: int = 45, belly_at: int = 43) -> Panoptic:
    """Return a car seen from behind: two wheels of three pixels, the belly between them."""
    return scene(
        (CAR, slice(20, belly_at), slice(40, 60), 7),
        (CAR, slice(belly_at, wheels_at), slice(40, 43), 7),
        (CAR, slice(belly_at, wheels_at), slice(57, 60), 7),
    )


def test_a_car_covers_the_ground_between_its_wheels() -> None:
    # Its wheels are 24 pixels below the horizon: 4.17 m. Its belly seems to be at 4.55 m, over
    # road that is seen beneath it.
    found = free_space(car(), VIEW, RULES)
    for y_m in (-0.3, -0.05, 0.05, 0.3):
        assert at(found, 4.25, y_m) == OCCUPIED
    assert at(found, 2.75, 0.05) == FREE
    assert at(found, 6.25, 0.05) == UNKNOWN
    assert found.closest_obstacle_m < 4.4
    assert found.agents.track_id.tolist() == [7]
    assert np.hypot(*found.agents.position_xy_m[0]) == pytest.approx(4.17, abs=0.05)
    assert found.agents.row.tolist() == [2]  # road, sky, car


def test_an_edge_that_may_be_off_the_ground_may_be_nearer_by_its_clearance() -> None:
    # Without the left wheel, the car's lower edge there is a bumper: at 5 m if it touched the
    # ground, at 5 m * (1 - clearance / height) if it is that high.
    bumper = scene((CAR, slice(20, 41), slice(40, 60), 7), (CAR, slice(41, 45), slice(57, 60), 7))
    found = free_space(bumper, VIEW, RULES)
    left_m = 0.4
    assert at(found, 5 * (1 - CLEARANCE_M) + 0.3, left_m) == OCCUPIED
    assert at(found, 4.9, left_m) == OCCUPIED
    assert at(found, 3.2, 0.3) == FREE


def test_arms_do_not_reach_for_the_horizon() -> None:
    # A person 5 m away, feet in two columns; the arms, 1 m wide, end 2 pixels below the horizon,
    # where the road is 50 m away.
    person = scene(
        (PERSON, slice(4, 23), slice(40, 60), 3), (PERSON, slice(23, 41), slice(49, 51), 3)
    )
    far = GroundView(CAMERA, CameraPose.over(PLANE), Grid.ahead(60, 8, 0.5), 60.0, EXACT)
    occupied = np.argwhere(free_space(person, far, RULES).occupancy == OCCUPIED)
    x_m, y_m = (occupied[:, ::-1] * 0.5 + [0.25, -3.75]).T
    assert np.any(x_m < 9)
    # Behind the feet the ground is hidden, and a lower edge up to a fifth of the camera's height
    # above the ground may be at 40 m.
    assert not np.any((x_m > 9) & (x_m < 39) & (np.abs(y_m) > 0.3))


def test_agents_have_a_margin_and_walls_have_none() -> None:
    plain, wide = (free_space(car(), VIEW, RULES, agent_margin_m=m) for m in (0.0, 1.0))
    assert at(plain, 4.25, 1.3) == FREE
    assert at(wide, 4.25, 1.3) == OCCUPIED
    assert at(wide, 4.25, 1.9) == FREE
    assert at(wide, 3.2, 0.05) == OCCUPIED
    assert (wide.occupancy == OCCUPIED).sum() > (plain.occupancy == OCCUPIED).sum()
    assert wide.closest_obstacle_m == plain.closest_obstacle_m
    wall = scene((WALL, slice(5, 31), ALL))
    plain, wide = (free_space(wall, VIEW, RULES, agent_margin_m=m) for m in (0.0, 1.0))
    assert np.array_equal(plain.occupancy, wide.occupancy)


def test_a_car_before_a_car_hides_where_that_one_stands() -> None:
    both = scene((CAR, slice(15, 35), slice(40, 60), 1), (CAR, slice(25, 45), slice(40, 60), 2))
    found = free_space(both, VIEW, RULES)
    assert found.agents.track_id.tolist() == [2]
    assert at(found, 7.25, 0.05) == UNKNOWN


def test_what_is_cut_off_by_the_lower_border_stands_at_the_border() -> None:
    found = free_space(scene((CAR, slice(20, 71), slice(40, 60), 1)), VIEW, RULES)
    assert at(found, 2.01, 0.05) == OCCUPIED
    assert at(found, 4.25, 0.05) == UNKNOWN
    assert np.hypot(*found.agents.position_xy_m[0]) == pytest.approx(1.98, abs=0.05)


def test_a_pitched_camera_sees_the_same_wall_at_the_same_place() -> None:
    down = GroundPlane(1.0, pitch_rad=np.arctan(0.1), max_range_m=30)  # the horizon at row 10.5
    view = GroundView(CAMERA, CameraPose.over(down), GRID, 30.0)
    semantic = np.full((71, 100), ROAD, np.uint8)
    # 10 m ahead: 0.1 below level and 0.1 below that.
    foot = CAMERA.project(CameraPose.over(down).to_optical(np.array([10.0, 0, 0])))[1]
    semantic[: round(foot + 0.5)] = WALL
    panoptic = Panoptic.from_maps(semantic, np.zeros((71, 100), np.uint16), CITYSCAPES)
    found = free_space(panoptic, view, RULES)
    assert foot == pytest.approx(20.5, abs=0.2)
    assert OCCUPIED in (at(found, 9.75, 0.25), at(found, 10.25, 0.25))
    assert at(found, 8.75, 0.25) == FREE
    assert at(found, 11.25, 0.25) == UNKNOWN


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1000), margin_m=st.floats(0, 2), with_depth=st.booleans())
def test_whatever_the_map_cells_are_free_only_where_a_pixel_shows_ground(
    seed: int, margin_m: float, with_depth: bool
) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.choice([ROAD, SIDEWALK, WALL, SKY, CAR, PERSON, VOID], (8, 10))
    semantic = blocks.repeat(9, 0).repeat(10, 1)[:71].astype(np.uint8)
    ids = np.arange(1, 81, dtype=np.uint16).reshape(8, 10).repeat(9, 0).repeat(10, 1)[:71]
    instance = np.where(CITYSCAPES.is_thing[semantic], ids, 0).astype(np.uint16)
    panoptic = Panoptic.from_maps(semantic, instance, CITYSCAPES)
    depth_m = None
    if with_depth:
        depth_m = rng.choice([np.nan, 1, 5, 20, 1e4, 3e38], (71, 100)).astype(np.float32)
    found = free_space(panoptic, VIEW, RULES, agent_margin_m=margin_m, depth_m=depth_m)
    assert set(np.unique(found.occupancy)) <= {UNKNOWN, FREE, 50, OCCUPIED}
    known = (found.occupancy.ravel() >= 0) & (found.occupancy.ravel() < OCCUPIED)
    assert (RULES.cost[semantic.ravel()[VIEW.pixel[known]]] >= 0).all()
    assert (VIEW.pixel[known] >= 0).all()
    assert np.isfinite(found.agents.position_xy_m).all()
    assert set(found.agents.track_id) <= set(panoptic.segments.id)


# ---- a pose with an error ----
def person_at(distance_m: float, camera_m: float, pitch_rad: float) -> Panoptic:
    """Return a person, 1.7 m tall, as a camera of that pose sees it straight ahead."""
    pose = CameraPose.over(GroundPlane(camera_m, pitch_rad))
    head, foot = (
        CAMERA.project(pose.to_optical(np.array([distance_m, 0, z])))[1] for z in (1.7, 0.0)
    )
    columns = slice(48, 52)
    return scene((PERSON, slice(max(0, round(head)), round(foot)), columns, 3))


def blocked_m(panoptic: Panoptic, tolerance: PoseTolerance) -> np.ndarray:
    """Return the distances of the cells straight ahead that are occupied."""
    grid = Grid.ahead(length_m=20.0, width_m=2.0, resolution_m=0.1)
    view = GroundView(CAMERA, CameraPose.over(PLANE), grid, 30.0, tolerance)
    found = free_space(panoptic, view, RULES)
    return grid.axes()[0][found.occupancy[10] == OCCUPIED]


@pytest.mark.parametrize(
    ('height_error', 'pitch_error_rad'), [(0.0, 0.0), (-0.13, 0.03), (0.13, -0.03), (0.0, 0.03)]
)
@pytest.mark.parametrize('distance_m', [4.0, 6.0, 10.0])
def test_a_person_is_in_an_occupied_cell_if_the_pose_is_within_its_tolerance(
    distance_m: float, height_error: float, pitch_error_rad: float
) -> None:
    seen = person_at(distance_m, 1.0 + height_error, pitch_error_rad)
    blocked = blocked_m(seen, PoseTolerance(0.15, 0.035))
    # Behind the assumed position the person hides the ground, which is unknown.
    assert blocked.min() < distance_m + 0.1


def test_a_person_is_not_in_an_occupied_cell_if_the_pose_has_an_error_beyond_its_tolerance() -> (
    None
):
    seen = person_at(10.0, 0.87, 0.03)
    assert blocked_m(seen, EXACT).min() > 10.5
    assert blocked_m(seen, PoseTolerance(0.15, 0.035)).min() < 10


def test_a_tolerance_occupies_ground_as_far_as_the_nearest_pose_would_move_the_foot() -> None:
    # The foot is at row 40.5, a fifth below level: 5 m ahead.
    seen = person_at(5.0, 1.0, 0.0)
    clearance = 0.2  # of the height
    assert blocked_m(seen, EXACT).min() == pytest.approx(5 * (1 - clearance), abs=0.3)
    by_pitch = blocked_m(seen, PoseTolerance(0.0, 0.05))
    assert by_pitch.min() == pytest.approx(0.8 / np.tan(np.arctan(0.2) + 0.05), abs=0.3)
    by_height = blocked_m(seen, PoseTolerance(0.3, 0.0))
    assert by_height.min() == pytest.approx(5 * (1 - 0.3 - clearance), abs=0.3)
    wall = scene((WALL, slice(5, 31), ALL))
    assert np.array_equal(
        blocked_m(wall, EXACT), blocked_m(wall, PoseTolerance(0.15, 0.035))
    )  # agents only


def test_an_agent_behind_a_hedge_may_stand_as_near_as_the_hedge() -> None:
    # The hedge hides all but the head; its foot is 5 m ahead.
    hedge = scene((WALL, slice(22, 41), ALL), (PERSON, slice(12, 22), slice(48, 52), 3))
    tolerance = PoseTolerance(0.15, 0.035)
    assert blocked_m(hedge, EXACT).min() == pytest.approx(4.0, abs=0.3)  # the clearance
    assert blocked_m(hedge, tolerance).min() < 3.3
    assert blocked_m(scene((WALL, slice(22, 41), ALL)), tolerance).min() > 4.8


def lorry() -> Panoptic:
    """Return a lorry 5 m ahead, 1.6 m wide: wheels at its sides, its body 0.4 m up."""
    return scene(
        (CAR, slice(5, 33), slice(34, 66), 3),
        (CAR, slice(33, 41), slice(34, 38), 3),
        (CAR, slice(33, 41), slice(62, 66), 3),
    )


def test_between_its_wheels_an_agent_may_stand_as_near_as_at_its_wheels() -> None:
    grid = Grid.ahead(12.0, 8.0, 0.1)
    tolerance = PoseTolerance(0.15, 0.035)
    view = GroundView(CAMERA, CameraPose.over(PLANE), grid, 30.0, tolerance)
    occupancy = free_space(lorry(), view, RULES).occupancy
    along_x, along_y = grid.axes()
    nearest_m = [
        along_x[occupancy[np.argmin(np.abs(along_y - y_m))] == OCCUPIED].min()
        for y_m in (-0.35, 0.05, 0.35)
    ]
    assert nearest_m[0] == nearest_m[1] == nearest_m[2] < 3.3


def test_the_margin_is_around_the_assumed_place_and_not_added_to_the_tolerance() -> None:
    seen, tolerance = person_at(5.0, 1.0, 0.0), PoseTolerance(0.3, 0.0)
    view = GroundView(CAMERA, CameraPose.over(PLANE), Grid.ahead(12.0, 8.0, 0.1), 30.0, tolerance)

    def occupied(margin_m: float) -> np.ndarray:
        return free_space(seen, view, RULES, agent_margin_m=margin_m).occupancy == OCCUPIED

    def nearest_m(margin_m: float) -> float:
        return float(np.flatnonzero(occupied(margin_m).any(0)).min() * 0.1)

    assert nearest_m(0.0) == pytest.approx(nearest_m(1.0) + OVERHANG_M)
    assert occupied(1.0).sum() > 2 * occupied(0.0).sum()
    assert np.all(occupied(1.0) | ~occupied(0.0))


def test_ground_that_depth_measures_is_not_subject_to_the_tolerance() -> None:
    seen, depth_m = person_at(5.0, 1.0, 0.0), plane_depth()
    depth_m[:41, 48:52] = 5.0
    view = GroundView(CAMERA, CameraPose.over(PLANE), GRID, 30.0, PoseTolerance(0.15, 0.035))
    assert at(free_space(seen, view, RULES, depth_m=depth_m), 4.25, 0.05) == FREE
    depth_m[41:, 40:56] = np.nan
    assert at(free_space(seen, view, RULES, depth_m=depth_m), 4.25, 0.05) == OCCUPIED


def test_a_camera_that_sees_no_ground_has_no_cells_for_agents() -> None:
    up = CameraPose.over(GroundPlane(1.0, pitch_rad=-1.2))
    found = free_space(person_at(5.0, 1.0, 0.0), GroundView(CAMERA, up, GRID, 30.0), RULES)
    assert not (found.occupancy == FREE).any()


# ---- with depth ----
def plane_depth() -> np.ndarray:
    """Return what a depth camera measures of the empty road, float32 [71, 100]."""
    row, column = np.mgrid[:71, :100]
    rays = CAMERA.rays(np.stack([column, row], -1))
    return GroundPlane(1.0, max_range_m=1e3).depth_m(rays).astype(np.float32)


def test_with_depth_a_wall_is_where_depth_says() -> None:
    # It hangs in the air, so its lower edge tells nothing: it is at 6 m, from 0.4 m up.
    depth_m = plane_depth()
    depth_m[5:31] = 6.0
    found = free_space(scene((WALL, slice(5, 31), ALL)), VIEW, RULES, depth_m=depth_m)
    for y_m in (-1.25, 0.25, 1.25):
        assert at(found, 6.01, y_m) == OCCUPIED
        assert at(found, 10.01, y_m) == UNKNOWN
        assert at(found, 5.25, y_m) == FREE
    assert found.closest_obstacle_m == pytest.approx(6.25, abs=0.1)


def test_with_depth_high_obstacles_do_not_count() -> None:
    depth_m = plane_depth()
    depth_m[0:10] = 10.0  # from 1 + 1.05 m up
    bridge = scene((WALL, slice(0, 10), ALL))
    arguments = (bridge, VIEW, RULES)
    low = free_space(*arguments, depth_m=depth_m, obstacle_height_m=3.0)
    high = free_space(*arguments, depth_m=depth_m, obstacle_height_m=2.0)
    assert at(low, 10.01, 0.25) == OCCUPIED
    assert at(high, 10.01, 0.25) == FREE
    assert high.closest_obstacle_m == np.inf


def test_with_depth_ground_counts_where_it_is_on_the_plane_or_depth_is_unknown() -> None:
    depth_m = plane_depth()
    depth_m[:, 45:55] = np.nan
    depth_m[:, 60:70] *= 0.7  # a ramp
    found = free_space(scene(), VIEW, RULES, depth_m=depth_m)
    assert at(found, 4.25, 0.05) == FREE
    assert at(found, 4.25, 0.9) == FREE
    assert at(found, 4.25, -0.7) == UNKNOWN


def test_with_depth_a_wrong_pose_leaves_the_ground_off_the_plane() -> None:
    depth_m = plane_depth()
    assert free_space(scene(), VIEW, RULES, depth_m=depth_m).off_plane == 0.0
    pitched = CameraPose.over(GroundPlane(1.0, pitch_rad=0.1))
    wrong = GroundView(CAMERA, pitched, GRID, 30.0, EXACT)
    found = free_space(scene(), wrong, RULES, depth_m=depth_m)
    assert found.off_plane > 0.8
    assert not (found.occupancy == FREE).mean() > 0.1
    depth_m[:] = np.nan
    assert free_space(scene(), wrong, RULES, depth_m=depth_m).off_plane == 0.0
    assert free_space(scene(), wrong, RULES).off_plane == 0.0


def test_with_depth_single_pixels_are_no_obstacle_and_agents_have_places_and_margins() -> None:
    depth_m = plane_depth()
    depth_m[20:45, 40:60] = 4.2
    depth_m[20, 40] = 2.5  # one pixel that depth invented
    arguments = (car(), VIEW, RULES)
    found = free_space(*arguments, depth_m=depth_m)
    assert at(found, 4.25, 0.05) == OCCUPIED
    assert at(found, 2.6, 0.2) == FREE
    assert found.agents.track_id.tolist() == [7]
    assert np.hypot(*found.agents.position_xy_m[0]) == pytest.approx(4.2, abs=0.05)
    assert at(found, 4.25, 1.3) == FREE
    assert at(free_space(*arguments, depth_m=depth_m, agent_margin_m=1.0), 4.25, 1.3) == OCCUPIED


def test_with_depth_stuff_that_moves_is_no_agent() -> None:
    depth_m = plane_depth()
    depth_m[5:31] = 6.0
    on_rails = replace(RULES, is_agent=RULES.is_agent | (np.arange(256) == WALL))
    wall = scene((WALL, slice(5, 31), ALL))
    found = free_space(wall, VIEW, on_rails, depth_m=depth_m, agent_margin_m=1.0)
    assert len(found.agents) == 0
    assert at(found, 5.25, 0.25) == OCCUPIED  # within the margin


def test_sizes_that_differ_are_refused() -> None:
    small = Panoptic.from_maps(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint16), CITYSCAPES)
    with pytest.raises(ValueError, match=r'the map is \(4, 4\); expected \(100, 71\)'):
        free_space(small, VIEW, RULES)
    with pytest.raises(ValueError, match=r'depth_m is \(4, 4\); expected \(71, 100\)'):
        free_space(scene(), VIEW, RULES, depth_m=np.zeros((4, 4), np.float32))


# ---- against the synthetic street ----
def truth_of(frame: StreetFrame, view: GroundView) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells with visible ground, and those with an obstacle.

    Found the other way round, from every pixel's true depth to the cell it lies in.
    """
    row, column = np.nonzero(np.isfinite(frame.depth_m))
    x, y, z = points(view, column, row, frame.depth_m[row, column])
    cell = view.grid.cells(np.stack([x, y], -1))
    class_id = frame.truth.semantic[row, column]
    count = len(view.range_m)
    stands = RULES.is_obstacle[class_id] & (z < 2.0) & (cell >= 0)
    lies = (RULES.cost[class_id] >= 0) & (cell >= 0)
    occupied = np.bincount(cell[stands], minlength=count) > 0
    return (np.bincount(cell[lies], minlength=count) > 0) & ~occupied, occupied


@pytest.mark.parametrize(('with_depth', 'right'), [(False, 0.88), (True, 0.98)])
def test_cells_of_the_synthetic_street_are_right_within_15_m(
    with_depth: bool, right: float
) -> None:
    hits = looked = stood = 0
    for seed in range(4):
        frame = SyntheticStreet(seed, (1280, 640)).frame(200)
        camera = CameraModel.from_k(frame.camera_matrix.ravel(), frame.size_wh)
        pose = CameraPose.over(GroundPlane(frame.camera_height_m, frame.camera_pitch_rad))
        view = GroundView(camera, pose, Grid.ahead(15, 15, 0.1), 60.0, EXACT)
        depth_m = frame.depth_m if with_depth else None
        cells = free_space(frame.truth, view, RULES, depth_m=depth_m).occupancy.ravel()
        free, occupied = truth_of(frame, view)
        near = (view.range_m < 15) & (cells >= 0) & (free | occupied)
        stood += np.count_nonzero(occupied & near)
        hits += np.count_nonzero(near & ((cells < OCCUPIED) == free))
        looked += np.count_nonzero(near)
    assert stood > 200
    assert hits >= right * looked, hits / looked
