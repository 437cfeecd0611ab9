"""What hides virtual things, and planes to put them on: made scenes with known depth."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.scene.geometry import CameraModel, GroundPlane
from panoptic_ros.scene.occlusion import Planes, occlusion_mask, scene_depth, support_planes

COCO = LabelSet.load('coco')
WALL, FLOOR, TABLE, CUP = (
    COCO.class_id(name) for name in ('wall-other-merged', 'floor-wood', 'dining table', 'cup')
)
CAMERA = CameraModel(fx=100.0, fy=100.0, cx=79.5, cy=59.5, size_wh=(160, 120))
NAN = np.nan


# ---- occlusion ----


def test_what_is_nearer_hides_and_what_is_unknown_does_not() -> None:
    real = np.array([[1.0, 2.0, 3.0, NAN, np.inf, 1.99]])
    virtual = np.full((1, 6), 2.0)
    # The last one is nearer by less than depth is exact.
    assert occlusion_mask(virtual, real).tolist() == [[True, False, False, False, False, False]]
    nothing = np.array([[NAN, np.inf, 0.0, -1.0, NAN, 5.0]])
    assert occlusion_mask(nothing, real).tolist() == [[False] * 5 + [True]]
    with pytest.raises(ValueError, match=r'virtual_depth_m is \(2, 2\); expected \(1, 6\)'):
        occlusion_mask(np.zeros((2, 2)), real)


def test_without_depth_objects_are_cardboard_on_flat_ground() -> None:
    camera = CameraModel(fx=2.0, fy=2.0, cx=0.5, cy=0.5, size_wh=(2, 4))
    semantic = np.array([[WALL, CUP], [FLOOR, CUP], [FLOOR, TABLE], [255, FLOOR]], np.uint8)
    instance = np.array([[0, 5], [0, 5], [0, 2], [0, 0]], np.uint16)
    panoptic = Panoptic.from_maps(semantic, instance, COCO)
    ground = GroundPlane(camera_height_m=3.0)
    found = scene_depth(panoptic, COCO, camera, ground, np.array([NAN, 1.5]))
    # Rows 1, 2, 3 look down by 0.25, 0.75, 1.25.
    expected = np.array([[NAN, 1.5], [12, 1.5], [4, NAN], [NAN, 2.4]], np.float32)
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, nan_ok=True)
    virtual = np.full((4, 2), 5.0)
    assert occlusion_mask(virtual, found).tolist() == [
        [False, True],
        [False, True],
        [True, False],
        [False, True],
    ]
    with pytest.raises(ValueError, match=r'object_depth_m has shape \(3,\); expected \(2,\)'):
        scene_depth(panoptic, COCO, camera, ground, np.zeros(3))


# ---- planes ----


def table_scene(
    height_m: float = 1.4, pitch_rad: float = 0.5, tilt_rad: float = 0.0, top_m: float = 0.7
) -> tuple[Panoptic, np.ndarray, GroundPlane]:
    """Render a table of 1 m x 0.8 m with a front board, 1.6 m ahead, on a floor before a wall.

    The table's top is tilted about the x axis by ``tilt_rad``.
    """
    ground = GroundPlane(height_m, pitch_rad, max_range_m=50.0)
    row, column = np.mgrid[:120, :160]
    ray = CAMERA.rays(np.stack([column, row], -1))
    _, cos, sin = ground.down
    right, forward, down = ray[..., 0], ray[..., 2] * cos - ray[..., 1] * sin, ray @ ground.down
    with np.errstate(divide='ignore', invalid='ignore'):
        floor = np.where(down > 0, height_m / down, np.inf)
        wall = np.where(forward > 0, 5 / forward, np.inf)
        # (forward - 2.0) * sin(tilt) + (down - (height - top)) * cos(tilt) = 0
        slope = forward * np.sin(tilt_rad) + down * np.cos(tilt_rad)
        top = (2.0 * np.sin(tilt_rad) + (height_m - top_m) * np.cos(tilt_rad)) / slope
        board = 1.6 / forward
    on_top = (np.abs(right * top) < 0.5) & (np.abs(forward * top - 2.0) < 0.4) & (top > 0)
    on_board = (np.abs(right * board) < 0.5) & (height_m - down * board < top_m) & (down > 0)
    on_board &= board < floor
    depth = np.minimum(floor, wall)
    semantic = np.where(floor < wall, FLOOR, WALL)
    for seen, at in ((on_top, top), (on_board, board)):
        nearer = seen & (at < depth)
        semantic[nearer], depth[nearer] = TABLE, at[nearer]
    instance = np.where(semantic == TABLE, 3, 0).astype(np.uint16)
    panoptic = Panoptic.from_maps(semantic.astype(np.uint8), instance, COCO)
    return panoptic, depth.astype(np.float32), ground


def of_class(planes: Planes, panoptic: Panoptic, class_id: int) -> int:
    (row,) = np.flatnonzero(panoptic.segments.class_id[planes.row] == class_id)
    return int(row)


def height_over_ground(planes: Planes, row: int, ground: GroundPlane) -> float:
    return ground.camera_height_m - float(planes.centre_m[row] @ ground.down)


def test_the_table_s_top_is_found_and_not_its_front() -> None:
    panoptic, depth_m, ground = table_scene()
    planes = support_planes(panoptic, COCO, CAMERA, ground, depth_m)
    assert panoptic.segments.class_id[planes.row].tolist() == [FLOOR, TABLE]
    table, floor = (of_class(planes, panoptic, c) for c in (TABLE, FLOOR))
    assert height_over_ground(planes, floor, ground) == pytest.approx(0, abs=1e-3)
    assert height_over_ground(planes, table, ground) == pytest.approx(0.7, abs=5e-3)
    for row in (table, floor):
        assert planes.normal[row] == pytest.approx(-ground.down, abs=0.02)
        assert planes.across[row] == pytest.approx([1, 0, 0], abs=0.02)
    assert planes.size_m[table] == pytest.approx([1.0, 0.8], abs=0.1)
    # 2 m ahead and in the middle.
    assert planes.centre_m[table] == pytest.approx(
        0.7 * ground.down + 2.0 * np.array([0, -np.sin(0.5), np.cos(0.5)]), abs=0.05
    )
    assert planes.inliers[floor] == pytest.approx(1)
    assert 0.3 < planes.inliers[table] < 0.9


@settings(deadline=None, max_examples=20)
@given(
    height_m=st.floats(1.2, 1.8),
    pitch_rad=st.floats(0.3, 0.7),
    tilt_rad=st.floats(-0.06, 0.06),
    error_rad=st.floats(-0.04, 0.04),
    seed=st.integers(0, 100),
)
def test_planes_are_found_though_pitch_is_not_exact_and_depth_is_noisy(
    height_m: float, pitch_rad: float, tilt_rad: float, error_rad: float, seed: int
) -> None:
    panoptic, depth_m, ground = table_scene(height_m, pitch_rad, tilt_rad)
    noise = np.random.default_rng(seed).standard_normal(depth_m.shape) * 0.002
    depth_m = (depth_m * (1 + noise)).astype(np.float32)
    assumed = GroundPlane(height_m, pitch_rad + error_rad, max_range_m=50.0)
    planes = support_planes(panoptic, COCO, CAMERA, assumed, depth_m)
    table = of_class(planes, panoptic, TABLE)
    forward = np.array([0, -np.sin(pitch_rad), np.cos(pitch_rad)])
    normal = -ground.down * np.cos(tilt_rad) - forward * np.sin(tilt_rad)
    assert np.degrees(np.arccos(np.clip(planes.normal[table] @ normal, -1, 1))) < 2
    middle = (height_m - 0.7) * ground.down + 2.0 * forward
    assert abs((planes.centre_m[table] - middle) @ normal) < 0.02


def test_without_depth_the_floor_is_the_ground_plane_and_the_table_is_unknown() -> None:
    panoptic, _, ground = table_scene()
    planes = support_planes(panoptic, COCO, CAMERA, ground)
    assert panoptic.segments.class_id[planes.row].tolist() == [FLOOR]
    assert planes.normal[0] == pytest.approx(-ground.down, abs=1e-6)
    assert height_over_ground(planes, 0, ground) == pytest.approx(0, abs=1e-6)
    assert planes.inliers.tolist() == [1]


def test_too_few_points_too_steep_and_no_depth_at_all_give_no_plane() -> None:
    panoptic, depth_m, ground = table_scene()
    assert len(support_planes(panoptic, COCO, CAMERA, ground, np.full_like(depth_m, NAN))) == 0
    few = depth_m.copy()
    few[panoptic.semantic == TABLE] = NAN
    few.reshape(-1)[np.flatnonzero(panoptic.semantic == TABLE)[:20]] = 2.0
    planes = support_planes(panoptic, COCO, CAMERA, ground, few)
    assert panoptic.segments.class_id[planes.row].tolist() == [FLOOR]
    upright = depth_m.copy()
    upright[panoptic.semantic == TABLE] = 2.0  # a board across the view
    planes = support_planes(panoptic, COCO, CAMERA, GroundPlane(1.4, 0.0), upright)
    assert TABLE not in panoptic.segments.class_id[planes.row]


def test_a_map_without_surfaces_has_no_planes() -> None:
    walls = Panoptic.from_maps(
        np.full((120, 160), WALL, np.uint8), np.zeros((120, 160), np.uint16), COCO
    )
    for depth_m in (None, np.ones((120, 160), np.float32)):
        assert len(support_planes(walls, COCO, CAMERA, GroundPlane(1.0), depth_m)) == 0


def test_sizes_that_differ_are_refused() -> None:
    panoptic, depth_m, ground = table_scene()
    with pytest.raises(ValueError, match=r'depth \(160, 10\); expected one size'):
        support_planes(panoptic, COCO, CAMERA, ground, depth_m[:10])
    with pytest.raises(ValueError, match=r'the camera \(80, 60\)'):
        support_planes(panoptic, COCO, replace(CAMERA, size_wh=(80, 60)), ground, depth_m)
