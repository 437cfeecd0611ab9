"""Objects measured by depth: made scenes with known answers, and what must hold for any."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.scene import depth
from panoptic_ros.scene.depth import MIN_PIXELS, ObjectDepths, measure_objects
from panoptic_ros.scene.geometry import CameraModel, GroundPlane, PlacedBy, place_boxes

LABELS = LabelSet.load('cityscapes')
CAR, ROAD = LABELS.class_id('car'), LABELS.class_id('road')
CAMERA = CameraModel(fx=100.0, fy=100.0, cx=63.5, cy=47.5, size_wh=(128, 96))
SHAPE = (96, 128)
BACKGROUND_M = 30.0


def panoptic(instance: np.ndarray) -> Panoptic:
    semantic = np.where(instance > 0, CAR, ROAD).astype(np.uint8)
    return Panoptic.from_maps(semantic, instance.astype(np.uint16), LABELS)


def plate(depth_m: float = 5.0, size: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return the maps of a square plate in the middle, across the view: instance, depth."""
    instance = np.zeros(SHAPE, np.uint16)
    y, x = (SHAPE[0] - size) // 2, (SHAPE[1] - size) // 2
    instance[y : y + size, x : x + size] = 7
    return instance, np.where(instance > 0, depth_m, BACKGROUND_M).astype(np.float32)


def measure(
    instance: np.ndarray, depth_m: np.ndarray, ground: GroundPlane | None = None
) -> ObjectDepths:
    return measure_objects(panoptic(instance), depth_m, CAMERA, ground)


def test_a_plate_across_the_view() -> None:
    found = measure(*plate())
    assert found.depth_m.tolist() == found.nearest_m.tolist() == [5.0]
    assert found.deviation_m.tolist() == [0.0]
    boxes = found.boxes
    assert boxes.method.tolist() == [PlacedBy.DEPTH]
    assert boxes.position_m[0] == pytest.approx([0, 0, 5], abs=0.01)
    assert boxes.size_m[0] == pytest.approx([2, 2, 0], abs=0.05)  # 40 pixels of 5 / 100 m
    assert boxes.base_m[0] == pytest.approx([0, 1, 5], abs=0.03)
    assert boxes.orientation_xyzw.tolist() == [[0, 0, 0, 1]]


def is_good(found: ObjectDepths) -> None:
    assert found.depth_m[0] == pytest.approx(5.0, rel=0.01)
    assert found.nearest_m[0] == pytest.approx(5.0, rel=0.02)
    assert found.boxes.position_m[0] == pytest.approx([0, 0, 5], abs=0.1)
    assert found.boxes.size_m[0] == pytest.approx([2, 2, 0], abs=0.2)


def test_the_mask_s_border_may_lie_on_the_background() -> None:
    instance, depth_m = plate()
    inner, _ = plate(size=36)
    depth_m[inner == 0] = BACKGROUND_M
    is_good(measure(instance, depth_m))


def test_flying_pixels_along_the_border() -> None:
    instance, depth_m = plate()
    inner, _ = plate(size=34)  # more of them than are left out by their place
    border = (instance > 0) & (inner == 0)
    depth_m[border] = np.linspace(5, BACKGROUND_M, border.sum(), dtype=np.float32)
    is_good(measure(instance, depth_m))


def test_a_fence_in_front() -> None:
    instance, depth_m = plate()
    depth_m[:, ::4] = 2.0
    depth_m[::20] = 2.0
    is_good(measure(instance, depth_m))


@pytest.mark.parametrize('seed', range(5))
def test_thirty_percent_of_outliers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance, depth_m = plate()
    wrong = rng.random(SHAPE) < 0.3
    depth_m[wrong] = rng.uniform(0.5, 80, wrong.sum())
    is_good(measure(instance, depth_m))


def test_holes_and_outliers_together() -> None:
    rng = np.random.default_rng(0)
    instance, depth_m = plate()
    depth_m[rng.random(SHAPE) < 0.2] = 25.0
    depth_m[rng.random(SHAPE) < 0.5] = np.nan
    is_good(measure(instance, depth_m))


def test_a_hole_through_which_much_of_the_background_is_seen() -> None:
    instance, depth_m = plate()
    depth_m[30:60, 50:60] = BACKGROUND_M  # a fifth of it
    is_good(measure(instance, depth_m))


def test_what_recedes_is_not_cut_off() -> None:
    instance, depth_m = plate()
    depth_m[instance > 0] = np.tile(np.linspace(4, 8, 40, dtype=np.float32), 40)
    found = measure(instance, depth_m)
    assert found.boxes.size_m[0, 2] == pytest.approx(4.0, rel=0.12)
    assert found.boxes.position_m[0, 2] == pytest.approx(6.0, rel=0.02)
    assert found.nearest_m[0] == pytest.approx(4.0, rel=0.1)


def test_two_parts_a_little_apart_are_one_object() -> None:
    """The rear of a car, and its rear window half a metre farther."""
    instance, depth_m = plate()
    depth_m[40:60][instance[40:60] > 0] = 5.5
    assert measure(instance, depth_m).boxes.size_m[0] == pytest.approx([2.1, 2.1, 0.5], abs=0.2)


def test_noise_is_measured() -> None:
    instance, depth_m = plate()
    depth_m += np.random.default_rng(0).normal(0, 0.1, SHAPE).astype(np.float32)
    found = measure(instance, depth_m)
    assert found.depth_m[0] == pytest.approx(5.0, abs=0.03)
    # A median of five varies about half as much as one.
    assert found.deviation_m[0] == pytest.approx(0.054, rel=0.2)


def test_objects_that_fill_the_image_and_are_cut_off_by_it() -> None:
    instance = np.full(SHAPE, 3, np.uint16)
    found = measure(instance, np.full(SHAPE, 2.0, np.float32))
    assert found.depth_m.tolist() == [2.0]
    assert found.boxes.size_m[0] == pytest.approx([128 * 0.02, 96 * 0.02, 0], abs=0.08)


def test_more_objects_than_a_byte_counts() -> None:
    # 16 x 20 objects of 6 x 6 pixels, each at another depth.
    ids = 700 + np.arange(320).reshape(16, 20)
    instance = ids.repeat(6, 0).repeat(6, 1)
    depth_m = (instance / 100).astype(np.float32)
    camera = CameraModel(fx=100.0, fy=100.0, cx=59.5, cy=47.5, size_wh=(120, 96))
    found = measure_objects(panoptic(instance), depth_m, camera)
    assert found.depth_m == pytest.approx(ids.ravel() / 100, abs=1e-5)


def test_smoothing_is_a_median_that_passes_over_what_is_not_known() -> None:
    around = np.array([[1.0, 2.0, 9.0, 5.0, 4.0], [np.nan, 2.0, 9.0, np.nan, 3.0]], np.float32)
    for values, expected in zip(around, (4.0, 3.0), strict=True):
        depth_m = np.full((5, 5), 77.0, np.float32)
        depth_m[2, 2], depth_m[2, 0], depth_m[2, 4], depth_m[0, 2], depth_m[4, 2] = values[::-1]
        smooth = depth._smooth(depth_m, np.array([12, 0]), np.array([True, False]))
        assert smooth.tolist() == [expected, 77.0]


def test_objects_without_depth_are_unknown() -> None:
    instance, depth_m = plate()
    instance[:8, :8] = 2
    depth_m[:8, :8] = np.nan
    found = measure(instance, depth_m)
    assert np.isnan(found.depth_m).tolist() == [True, False]
    assert found.boxes.method.tolist() == [PlacedBy.NOTHING, PlacedBy.DEPTH]
    for values in (found.deviation_m, found.nearest_m, found.boxes.position_m):
        assert np.isnan(values[0]).all()
    assert np.isnan(found.boxes.size_m[0]).all()


@pytest.mark.parametrize('count', [MIN_PIXELS - 1, MIN_PIXELS])
def test_enough_pixels(count: int) -> None:
    instance, depth_m = plate()
    depth_m[(np.cumsum(instance.ravel() > 0) > count).reshape(SHAPE)] = np.nan
    assert np.isfinite(measure(instance, depth_m).depth_m[0]) == (count == MIN_PIXELS)


def test_what_is_too_thin_to_have_an_inside_is_measured_as_a_whole() -> None:
    instance = np.zeros(SHAPE, np.uint16)
    instance[20:60, 64:67] = 1
    depth_m = np.where(instance > 0, 10.0, BACKGROUND_M).astype(np.float32)
    found = measure(instance, depth_m)
    assert found.depth_m.tolist() == [10.0]
    assert found.boxes.size_m[0] == pytest.approx([0.3, 4.0, 0], abs=0.1)


def test_no_objects() -> None:
    found = measure(np.zeros(SHAPE, np.uint16), np.ones(SHAPE, np.float32))
    assert len(found.depth_m) == len(found.boxes.method) == 0
    assert found.boxes.position_m.shape == (0, 3)
    turned = measure(np.zeros(SHAPE, np.uint16), np.ones(SHAPE, np.float32), GroundPlane(1.5))
    assert turned.boxes.orientation_xyzw.shape == (0, 4)


@pytest.mark.parametrize('depth_m', [np.ones((4, 5), np.float32), np.ones(SHAPE)])
def test_depth_of_another_kind_is_refused(depth_m: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r'depth_m is float(32|64) \(.*expected float32'):
        measure(np.zeros(SHAPE, np.uint16), depth_m)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), turn=st.booleans())
def test_all_at_once_is_as_one_by_one(seed: int, turn: bool) -> None:
    rng = np.random.default_rng(seed)
    instance = np.zeros(SHAPE, np.uint16)
    for track_id in rng.choice(np.arange(1, 2**16), 6, replace=False):
        x, y = rng.integers(0, (120, 90))
        instance[y : y + rng.integers(1, 50), x : x + rng.integers(1, 50)] = track_id
    depth_m = rng.uniform(1, 20, SHAPE).astype(np.float32)
    depth_m[rng.random(SHAPE) < rng.random()] = np.nan
    ground = GroundPlane(1.5, 0.2) if turn else None
    found = measure(instance, depth_m, ground)
    things = panoptic(instance).segments.things
    for i, one in enumerate(things.id):
        alone = measure(np.where(instance == one, one, 0), depth_m, ground)
        assert np.array_equal(alone.depth_m, found.depth_m[[i]], equal_nan=True)
        for name in ('position_m', 'size_m', 'orientation_xyzw', 'method'):
            expected, value = getattr(alone.boxes, name)[0], getattr(found.boxes, name)[i]
            assert np.array_equal(expected, value, equal_nan=True)


@settings(deadline=None, max_examples=30)
@given(scale=st.floats(0.05, 20))
def test_everything_grows_with_depth(scale: float) -> None:
    instance, depth_m = plate()
    depth_m[40:60][instance[40:60] > 0] = 5.5
    small, large = measure(instance, depth_m), measure(instance, depth_m * np.float32(scale))
    assert large.depth_m == pytest.approx(small.depth_m * scale)
    assert large.boxes.size_m == pytest.approx(small.boxes.size_m * scale, rel=1e-3)
    assert large.boxes.position_m == pytest.approx(small.boxes.position_m * scale, abs=1e-3)


# ---- boxes that are turned ----


def rotation(xyzw: np.ndarray) -> np.ndarray:
    """Return the matrix of a unit quaternion; its columns are where the axes go."""
    x, y, z, w = xyzw
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def cuboid(
    yaw_rad: float, pitch_rad: float, size_m: tuple[float, float, float], camera: CameraModel
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return instance map, depth, and middle of a cuboid 8 m ahead, by casting every ray."""
    cos, sin = np.cos(pitch_rad), np.sin(pitch_rad)
    level = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    cos, sin = np.cos(yaw_rad), np.sin(yaw_rad)
    axes = level @ np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    middle = np.array([0.5, 0.2, 8.0])
    width, height = camera.size_wh
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    ray = camera.rays(np.stack([x, y], -1)) @ axes
    origin = -middle @ axes
    with np.errstate(divide='ignore'):
        one = (-np.array(size_m) / 2 - origin) / ray
        other = (np.array(size_m) / 2 - origin) / ray
    enter = np.minimum(one, other).max(-1)
    leave = np.maximum(one, other).min(-1)
    hit = enter < leave
    depth_m = np.where(hit, enter, BACKGROUND_M).astype(np.float32)
    return hit.astype(np.uint16), depth_m, middle


WIDE = CameraModel(fx=300.0, fy=300.0, cx=159.5, cy=119.5, size_wh=(320, 240))


@pytest.mark.parametrize('yaw_deg', [-40, -30, -15, 0, 15, 30, 40])
@pytest.mark.parametrize('pitch_rad', [0.0, 0.25])
def test_a_turned_box_fits_closely(yaw_deg: float, pitch_rad: float) -> None:
    size_m = (1.8, 1.5, 2.4)
    instance, depth_m, middle = cuboid(np.radians(yaw_deg), pitch_rad, size_m, WIDE)
    ground = GroundPlane(1.5, pitch_rad)
    boxes = measure_objects(panoptic(instance), depth_m, WIDE, ground).boxes
    assert boxes.size_m[0, :2] == pytest.approx(size_m[:2], abs=0.1)
    if abs(yaw_deg) >= 30:  # else little or nothing is seen of the side that goes away
        assert boxes.size_m[0, 2] == pytest.approx(size_m[2], abs=0.25)
        assert boxes.position_m[0] == pytest.approx(middle, abs=0.2)
    turned = rotation(boxes.orientation_xyzw[0])
    expected = np.array([np.cos(np.radians(yaw_deg)), 0, -np.sin(np.radians(yaw_deg))])
    level_x = turned[:, 0] @ rotation([np.sin(pitch_rad / 2), 0, 0, np.cos(pitch_rad / 2)])
    assert level_x @ expected > np.cos(np.radians(6))
    assert turned[:, 1] == pytest.approx(ground.down)  # it stands upright


@settings(deadline=None, max_examples=30)
@given(
    yaw_rad=st.floats(-3, 3),
    pitch_rad=st.floats(-0.5, 0.5),
    size_m=st.tuples(*[st.floats(0.5, 3)] * 3),
    turn=st.booleans(),
)
def test_a_box_is_around_its_points(
    yaw_rad: float, pitch_rad: float, size_m: tuple[float, float, float], turn: bool
) -> None:
    instance, depth_m, _ = cuboid(yaw_rad, pitch_rad, size_m, WIDE)
    ground = GroundPlane(1.5, pitch_rad) if turn else None
    boxes = measure_objects(panoptic(instance), depth_m, WIDE, ground).boxes
    assert boxes.method.tolist() == [PlacedBy.DEPTH]
    y, x = np.nonzero(instance)
    points = WIDE.rays(np.stack([x, y], -1)) * depth_m[y, x, None]
    own = (points - boxes.position_m[0]) @ rotation(boxes.orientation_xyzw[0])
    half = boxes.size_m[0] / 2
    # A narrow side seen at a slant has few pixels a metre: there the object ends too early.
    assert (abs(own) <= half + 0.2).all(axis=1).mean() > 0.85
    assert (half <= abs(own).max(axis=0) + 0.2).all()
    down = ground.down if turn else np.array([0, 1, 0])
    assert boxes.base_m[0] == pytest.approx(boxes.position_m[0] + half[1] * down)


# ---- together with boxes that are assumed ----


def test_measured_boxes_come_before_assumed_ones() -> None:
    instance, depth_m = plate()
    instance[:8, :8] = 2
    depth_m[:8, :8] = np.nan
    measured = measure(instance, depth_m).boxes
    things = panoptic(instance).segments.things
    assumed = place_boxes(things.box_xyxy, CAMERA, GroundPlane(1.5), np.array([1.5, 1.5]))
    both = measured.otherwise(assumed)
    assert both.method.tolist() == [PlacedBy.KNOWN_HEIGHT, PlacedBy.DEPTH]
    for name in ('position_m', 'base_m', 'size_m', 'orientation_xyzw'):
        value = getattr(both, name)
        assert np.array_equal(value[0], getattr(assumed, name)[0])
        assert np.array_equal(value[1], getattr(measured, name)[1])


# ---- groups ----


@settings(deadline=None)
@given(
    groups=st.lists(st.lists(st.floats(-1e6, 1e6, width=32), max_size=9), min_size=1, max_size=6),
    share=st.floats(0, 1),
)
def test_quantiles_of_groups(groups: list[list[float]], share: float) -> None:
    row = np.repeat(np.arange(len(groups)), [len(g) for g in groups])
    values = np.array([v for g in groups for v in g], np.float32)
    found = depth._Groups.of(row, len(groups))
    ordered = found.sort(values)
    quantile, greatest = found.quantiles(ordered, share, 1.0)
    for i, group in enumerate(groups):
        part = ordered[row == i]
        assert part.tolist() == sorted(np.float32(group).tolist())
        if group:
            expected = np.quantile(np.float64(part), share)
            assert quantile[i] == pytest.approx(expected, rel=1e-5, abs=1e-5)
            assert greatest[i] == part[-1]
        else:
            assert np.isnan(quantile[i])
