"""Geometry: exact literal cases, and points put on the ground and found again."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from panoptic_ros.errors import FrameError
from panoptic_ros.scene.geometry import CameraModel, GroundPlane, PlacedBy, place_boxes

CAMERA = CameraModel(fx=100.0, fy=200.0, cx=49.5, cy=39.5, size_wh=(100, 80))
UNKNOWN = np.array([np.nan])


def box(*values: float) -> np.ndarray:
    return np.array([values], np.float64)


# ---- camera ----


def test_the_principal_point_looks_straight_ahead_and_a_focal_length_aside_is_one() -> None:
    rays = CAMERA.rays(np.array([[49.5, 39.5], [149.5, 239.5]]))
    assert rays.tolist() == [[0, 0, 1], [1, 1, 1]]


def test_from_k_takes_the_matrix_row_by_row() -> None:
    k = [100.0, 0, 49.5, 0, 200.0, 39.5, 0, 0, 1]
    assert CameraModel.from_k(k, (100, 80)) == CAMERA
    assert CameraModel.from_k(np.array(k).reshape(3, 3), (100, 80)) == CAMERA


@settings(deadline=None)
@given(pixel_xy=st.tuples(st.floats(-50, 150), st.floats(-50, 150)), depth_m=st.floats(0.1, 100))
def test_project_undoes_rays(pixel_xy: tuple[float, float], depth_m: float) -> None:
    point = CAMERA.rays(np.array(pixel_xy)) * depth_m
    assert CAMERA.project(point).tolist() == pytest.approx(pixel_xy, abs=1e-6)


@pytest.mark.parametrize(
    'k',
    [
        [0.0] * 9,  # what an uncalibrated camera publishes
        [np.nan, 0, 1, 0, 1, 1, 0, 0, 1],
        [1, 0, np.inf, 0, 1, 1, 0, 0, 1],
        [1, 0, 1, 0, -1, 1, 0, 0, 1],
    ],
)
def test_a_matrix_that_is_no_camera_is_refused(k: list[float]) -> None:
    with pytest.raises(FrameError, match=r'camera has fx=.*expected finite numbers'):
        CameraModel.from_k(k, (10, 10))


def test_a_wrong_number_of_values_or_no_size_is_refused() -> None:
    with pytest.raises(FrameError, match='K has 4 values; expected 9'):
        CameraModel.from_k([1, 1, 1, 1], (10, 10))
    with pytest.raises(FrameError, match=r'size_wh \(0, 10\)'):
        CameraModel(1, 1, 1, 1, (0, 10))


# ---- ground ----


def test_depth_of_the_ground_seen_by_a_level_and_by_a_tilted_camera() -> None:
    rays = np.array([[0, 0.5, 1], [3, 0.5, 1], [0, 0, 1], [0, -0.5, 1]])
    depth = GroundPlane(camera_height_m=1.5).depth_m(rays)
    assert depth[:2].tolist() == [3, 3]
    assert np.isnan(depth[2:]).all()  # the horizon and the sky
    # Looking down by 45 degrees, straight ahead is as far as the camera is high, times root two.
    depth = GroundPlane(1.5, pitch_rad=np.pi / 4).depth_m(rays[2:3])
    assert depth == pytest.approx([1.5 * np.sqrt(2)])
    depth = GroundPlane(1.5, pitch_rad=np.pi / 2).depth_m(rays)
    assert depth == pytest.approx([1.5] * 4)  # straight down: the ground is a wall in front


def test_ground_beyond_the_range_does_not_count() -> None:
    ray = np.array([[0, 0.75, 1.0]])  # meets the ground at depth 4, 5 metres away
    assert GroundPlane(3.0, max_range_m=5.0).depth_m(ray).tolist() == [4]
    assert np.isnan(GroundPlane(3.0, max_range_m=4.99).depth_m(ray)).all()


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('camera_height_m', 0.0),
        ('camera_height_m', np.nan),
        ('camera_height_m', np.inf),
        ('max_range_m', -1.0),
        ('pitch_rad', 2.0),
        ('pitch_rad', np.nan),
    ],
)
def test_a_plane_that_is_none_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f'{name} is {value}; expected'):
        GroundPlane(**{'camera_height_m': 1.5, name: value})


# ---- boxes ----


def test_a_box_on_the_ground() -> None:
    # The lower edge is 50 pixels below the principal point: slope 0.25, so depth 8 at 2 metres.
    # Its middle is 20 pixels right: x = 0.2 * 8. 10 pixels are 0.8 m wide, 25 are 1 m high.
    camera = CameraModel(100.0, 200.0, 49.5, 39.5, (100, 200))
    place = place_boxes(box(65, 65, 75, 90), camera, GroundPlane(2.0), UNKNOWN)
    assert place.method.tolist() == [PlacedBy.GROUND]
    assert place.base_m == pytest.approx(np.array([[1.6, 2, 8]]))
    assert place.position_m == pytest.approx(np.array([[1.6, 1.5, 8]]))
    assert place.size_m == pytest.approx(np.array([[0.8, 1, 0.8]]))


def test_a_box_above_the_horizon_is_placed_by_its_known_height() -> None:
    # 20 pixels high, 1.5 m tall: depth 200 * 1.5 / 20.
    boxes = np.repeat(box(45, 10, 55, 30), 2, axis=0)
    place = place_boxes(boxes, CAMERA, GroundPlane(2.0), np.array([1.5, np.nan]))
    assert place.method.tolist() == [PlacedBy.KNOWN_HEIGHT, PlacedBy.NOTHING]
    assert place.base_m[0] == pytest.approx([0, -10 / 200 * 15, 15])
    assert place.position_m[0] == pytest.approx([0, -10 / 200 * 15 - 0.75, 15])
    assert place.size_m[0] == pytest.approx([1.5, 1.5, 1.5])
    for values in (place.base_m, place.position_m, place.size_m):
        assert np.isnan(values[1]).all()


def test_a_box_beyond_the_range_is_placed_by_its_known_height() -> None:
    far = box(45, 31, 55, 41)  # slope 1 / 200: the ground there is 400 m away
    place = place_boxes(far, CAMERA, GroundPlane(2.0, max_range_m=60), np.array([2.0]))
    assert place.method.tolist() == [PlacedBy.KNOWN_HEIGHT]
    assert place.base_m[0, 2] == pytest.approx(40)


def test_a_box_cut_off_by_the_lower_border_takes_the_nearer_of_both() -> None:
    # The ground at the border is at depth 10 (slope 0.2); 20 visible pixels.
    cut_off = box(45, 60, 55, 80)
    ground = GroundPlane(2.0)
    for height_m, depth_m, method in (
        (0.5, 5, PlacedBy.KNOWN_HEIGHT),
        (1.5, 10, PlacedBy.GROUND),
        (np.nan, 10, PlacedBy.GROUND),
    ):
        place = place_boxes(cut_off, CAMERA, ground, np.array([height_m]))
        assert place.base_m[0, 2] == pytest.approx(depth_m)
        assert place.method.tolist() == [method]
    # A pixel above the border it is not cut off, and the ground decides.
    place = place_boxes(cut_off - [0, 1, 0, 1], CAMERA, ground, np.array([0.5]))
    assert place.method.tolist() == [PlacedBy.GROUND]


def test_boxes_without_extent_and_impossible_heights_are_not_placed() -> None:
    boxes = np.array([[10, 60, 20, 60], [20, 50, 20, 60], [10, 10, 20, 20], [10, 10, 20, 20]])
    heights_m = np.array([1.0, 1.0, 0.0, -1.0])
    place = place_boxes(boxes, CAMERA, GroundPlane(2.0), heights_m)
    assert place.method.tolist() == [PlacedBy.NOTHING] * 4
    assert np.isnan(place.position_m).all()


def test_no_boxes_give_empty_arrays() -> None:
    place = place_boxes(np.zeros((0, 4), np.int32), CAMERA, GroundPlane(2.0), np.zeros(0))
    assert place.position_m.shape == place.base_m.shape == place.size_m.shape == (0, 3)
    assert place.method.shape == (0,)
    assert place.method.dtype == np.uint8


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r'boxes_xyxy has shape \(4,\)'):
        place_boxes(np.zeros(4), CAMERA, GroundPlane(2.0), np.zeros(1))
    with pytest.raises(ValueError, match=r'heights_m has shape \(2,\); expected \(1,\)'):
        place_boxes(np.zeros((1, 4)), CAMERA, GroundPlane(2.0), np.zeros(2))


@settings(deadline=None)
@given(
    x=st.floats(-5, 5),
    forward=st.floats(2, 40),
    height_m=st.floats(0.5, 4),
    width_m=st.floats(0.3, 3),
    camera_height_m=st.floats(0.3, 5),
    pitch_rad=st.floats(-0.3, 0.8),
    on_ground=st.booleans(),
)
def test_an_upright_object_is_found_where_it_was_put(
    x: float,
    forward: float,
    height_m: float,
    width_m: float,
    camera_height_m: float,
    pitch_rad: float,
    on_ground: bool,
) -> None:
    """Project the middle of the base and of the top, make a box of it, and place it again."""
    camera = CameraModel(500.0, 450.0, 300.0, 260.0, (10_000, 10_000))
    # Level coordinates to the optical frame: the camera is turned down about its x axis.
    down = np.array([0, np.cos(pitch_rad), np.sin(pitch_rad)])
    ahead = np.array([0, -np.sin(pitch_rad), np.cos(pitch_rad)])
    base = np.array([x, 0, 0]) + camera_height_m * down + forward * ahead
    top = base - height_m * down
    assume(base[2] > 0.5 and top[2] > 0.5)
    low, high = camera.project(base), camera.project(top)
    half_width = width_m / 2 * camera.fx / base[2]
    boxes = box(low[0] - half_width, high[1], low[0] + half_width, low[1]) + 0.5
    ground = GroundPlane(camera_height_m, pitch_rad, max_range_m=100 if on_ground else 1e-3)
    place = place_boxes(boxes, camera, ground, np.array([height_m]))
    expected = PlacedBy.GROUND if on_ground else PlacedBy.KNOWN_HEIGHT
    assert place.method.tolist() == [expected]
    assert place.base_m[0] == pytest.approx(base, rel=1e-6, abs=1e-6)
    assert place.position_m[0] == pytest.approx((base + top) / 2, rel=1e-6, abs=1e-6)
    assert place.size_m[0] == pytest.approx([width_m, height_m, width_m], rel=1e-6)
