import hashlib
import itertools
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from panoptic_ros.datasets.street.painting import paint_faces
from panoptic_ros.datasets.street.polygons import street_polygons
from panoptic_ros.datasets.street.scene import StreetFrame, SyntheticStreet, synthetic_samples
from panoptic_ros.datasets.street.style import draw_style, generator, street_labels
from panoptic_ros.datasets.street.world import World
from panoptic_ros.errors import DatasetError
from panoptic_ros.panoptic import check_maps

SMALL = (320, 160)
LABELS = street_labels()


def straight_seed(start: int = 0) -> int:
    """The first seed whose street is straight and has traffic."""
    for seed in itertools.count(start):
        style = draw_style(generator(seed, 0))
        if style.curvature == 0 and style.traffic > 0.3 and any(style.parking):
            return seed
    raise AssertionError


def digest(frame: StreetFrame) -> str:
    parts = (frame.image_rgb, frame.depth_m, frame.truth.semantic, frame.truth.instance)
    return hashlib.sha256(b''.join(p.tobytes() for p in parts)).hexdigest()


def rays(frame: StreetFrame) -> np.ndarray:
    """Viewing rays of all pixels at depth 1, float64 [H, W, 3]."""
    width, height = frame.size_wh
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    pixels = np.stack([x, y, np.ones_like(x)], -1).astype(float)
    return pixels @ np.linalg.inv(frame.camera_matrix).T


def to_pixels(frame: StreetFrame, x: np.ndarray, up: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """Project points of the foot frame, independently of the renderer."""
    c, s = np.cos(frame.camera_pitch_rad), np.sin(frame.camera_pitch_rad)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    points = np.stack([x, frame.camera_height_m - up, ahead], -1) @ turn.T
    uvw = points @ frame.camera_matrix.T
    return uvw[..., :2] / uvw[..., 2:]


@pytest.mark.process
def test_the_same_seed_gives_the_same_bytes_in_another_process():
    code = (
        'import hashlib\n'
        'from panoptic_ros.datasets.street.scene import SyntheticStreet\n'
        f'f = SyntheticStreet(5, {SMALL}).frame(12)\n'
        'p = (f.image_rgb, f.depth_m, f.truth.semantic, f.truth.instance)\n'
        'print(hashlib.sha256(b"".join(a.tobytes() for a in p)).hexdigest())\n'
    )
    other = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path), 'PYTHONHASHSEED': '1'},
    )
    assert other.stdout.strip() == digest(SyntheticStreet(5, SMALL).frame(12))


def test_a_frame_does_not_depend_on_the_frames_before_it():
    fresh = digest(SyntheticStreet(3, SMALL).frame(40))
    street = SyntheticStreet(3, SMALL)
    for index in (200, 0, 41, 5000):
        street.frame(index)
    assert digest(street.frame(40)) == fresh


def test_another_seed_gives_another_street():
    first, second = (SyntheticStreet(seed, SMALL).frame(0) for seed in (1, 2))
    assert (first.image_rgb != second.image_rgb).mean() > 0.3
    assert (first.truth.semantic != second.truth.semantic).mean() > 0.05


@pytest.mark.parametrize('size_wh', [(640, 320), (641, 479), (96, 200)])
def test_shapes_types_and_truth_hold_at_every_size(size_wh):
    frame = SyntheticStreet(8, size_wh).frame(3)
    width, height = size_wh
    assert frame.size_wh == size_wh
    assert (frame.image_rgb.shape, frame.image_rgb.dtype) == ((height, width, 3), np.uint8)
    assert (frame.depth_m.shape, frame.depth_m.dtype) == ((height, width), np.float32)
    assert frame.camera_matrix[0, 2] == (width - 1) / 2
    assert frame.camera_matrix[1, 2] == (height - 1) / 2
    check_maps(frame.truth.semantic, frame.truth.instance, LABELS)


def test_truth_holds_and_all_classes_occur():
    seen = np.zeros(256, bool)
    for sample in synthetic_samples(0, 24, SMALL):
        truth = sample.truth
        check_maps(truth.semantic, truth.instance, LABELS)
        things = truth.segments.things
        assert len(set(things.id.tolist())) == len(things)
        assert (things.track_id == things.id).all()
        seen[truth.segments.class_id] = True
    assert [n for n in LABELS.names if not seen[LABELS.class_id(n)]] == []


def test_only_the_sky_has_no_depth():
    frame = SyntheticStreet(4, SMALL).frame(10)
    sky = frame.truth.semantic == LABELS.class_id('sky')
    assert sky.any()
    np.testing.assert_array_equal(np.isnan(frame.depth_m), sky)
    assert (frame.depth_m[~sky] > 0.5).all()


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_ground_depth_is_where_the_ray_meets_the_plane(seed):
    frame = SyntheticStreet(
        seed, SMALL, camera_height_m=1.1, camera_pitch_rad=0.08, horizontal_fov_deg=60
    ).frame(20)
    down = np.array([0, np.cos(0.08), np.sin(0.08)])
    expected = 1.1 / (rays(frame) @ down)
    ground = np.isin(
        frame.truth.semantic, [LABELS.class_id(n) for n in ('road', 'sidewalk', 'terrain')]
    )
    # Edges of road marks are painted up to a pixel wide of the mark, still on the plane.
    assert ground.sum() > 3000
    np.testing.assert_allclose(frame.depth_m[ground], expected[ground], rtol=2e-3)


def test_things_are_where_the_world_says():
    """Depth and pixels of every vehicle lie within its box in the world."""
    checked = 0
    seed = straight_seed()
    street = SyntheticStreet(seed, (640, 320))
    world = World(seed)
    for index in (0, 9, 31):
        frame = street.frame(index)
        points = rays(frame) * frame.depth_m[..., None]
        c, s = np.cos(frame.camera_pitch_rad), np.sin(frame.camera_pitch_rad)
        ahead = points[..., 2] * c - points[..., 1] * s
        up = frame.camera_height_m - points[..., 1] * c - points[..., 2] * s
        for seen in world.seen(index / 10):
            if LABELS.names[seen.thing.classes[0]] not in ('car', 'truck', 'bus'):
                continue
            mask = frame.truth.instance == seen.thing.ids[0]
            if mask.sum() < 40:
                continue
            scale = seen.thing.scale
            length, width = seen.shape.half_length * scale, seen.shape.half_width * scale
            x = seen.across - world.ego_across
            tolerance = 0.25 + 0.02 * seen.s  # a pixel at the edge, and parked a little askew
            assert np.abs(ahead[mask] - seen.s).max() < length + tolerance
            assert np.abs(points[..., 0][mask] - x).max() < width * 1.15 + tolerance
            assert up[mask].min() > -tolerance
            assert up[mask].max() < seen.shape.height * scale + tolerance
            near = seen.s - length
            if near > 1:
                corners = np.array(
                    [
                        (x + i * width * 1.2, y, seen.s + k * length)
                        for i in (-1, 1)
                        for y in (0, seen.shape.height * scale)
                        for k in (-1, 1)
                    ]
                )
                uv = to_pixels(frame, corners[:, 0], corners[:, 1], corners[:, 2])
                v, u = np.nonzero(mask)
                low, high = uv.min(0) - 4, uv.max(0) + 4
                assert low[0] <= u.min()
                assert u.max() <= high[0]
                assert low[1] <= v.min()
                assert v.max() <= high[1]
            checked += 1
    assert checked >= 6


@pytest.mark.parametrize('seed', [3, 6, 7, 9, 19])
def test_nearer_things_hide_farther_ones(seed):
    """Painting in order gives what comparing depths pixel by pixel gives."""
    street = SyntheticStreet(seed, SMALL)
    world, camera, ground = street._world, street._camera, street._ground
    ego_s = world.ego_s(1.7)
    polygons = street_polygons(world, camera, ground, world.seen(1.7), ego_s)
    face = ground.faces(ego_s)
    faces = paint_faces(face, polygons, camera, ground)
    painted = face.copy()
    depth = faces.depth(face.astype(np.intp), camera)
    # Everything painted, once more each by itself: nothing hidden may be nearer by much.
    nearest = np.where(face > 0, depth, np.inf)
    owner = painted.copy()
    empty = ground.faces(ego_s)
    first, last = polygons.first, np.append(polygons.first[1:], len(polygons.points))
    for i in range(len(first)):
        corners = polygons.points[first[i] : last[i]]
        if corners[:, 2].min() < 0.7 or polygons.normal[i] @ corners[0] > -1e-3:
            continue
        alone = np.zeros_like(empty, np.uint8)
        uv = camera.fixed_point(camera.pixels(corners))
        if (np.ptp(uv, axis=0) < 16 * 4).any():
            continue
        cv2.fillConvexPoly(alone, uv, 1, cv2.LINE_8, 4)
        alone = cv2.erode(alone, np.ones((3, 3), np.uint8)) > 0
        if not alone.any():
            continue
        inverse = (polygons.normal[i] / (polygons.normal[i] @ corners[0])) @ np.stack(
            [
                np.broadcast_to(camera.ray_x, face.shape)[alone],
                np.broadcast_to(camera.ray_y, face.shape)[alone],
                np.ones(alone.sum()),
            ]
        )
        here = 1 / inverse
        # Between two pixels of a wall seen along it the depth changes a lot.
        closer = (here > 0) & (here < 0.95 * nearest[alone] - 1.5)
        owner[alone] = np.where(closer, -i - 1, owner[alone])
        nearest[alone] = np.minimum(here, nearest[alone])
    assert (owner != painted).mean() < 0.0005


def test_an_object_keeps_its_id_and_moves_smoothly():
    street = SyntheticStreet(straight_seed(), (640, 320))
    before = street.frame(50).truth.segments.things
    shared = 0
    for index in range(51, 60):
        now = street.frame(index).truth.segments.things
        for row in np.flatnonzero(np.isin(now.id, before.id)):
            old = int(np.flatnonzero(before.id == now.id[row])[0])
            assert before.class_id[old] == now.class_id[row]
            if min(before.area[old], now.area[row]) > 400:
                # The top edge hardly moves in a tenth of a second, unless it leaves the image.
                inside = (now.box_xyxy[row, :2] > 0).all() and now.box_xyxy[row, 2] < 640
                if inside:
                    assert abs(before.box_xyxy[old, 1] - now.box_xyxy[row, 1]) < 60
                shared += 1
        before = now
    assert shared > 10


@pytest.mark.parametrize('seed', [0, 1, 2, 3])
def test_things_move_as_things_do_and_ids_are_unique(seed):
    world = World(seed)
    for time_s in (0.0, 37.3, 4000.0):
        now, then = ({o.thing.ids: o for o in world.seen(t)} for t in (time_s, time_s + 0.05))
        ids = [i for o in world.seen(time_s) for i in o.thing.ids if i]
        assert len(ids) == len(set(ids))
        assert max(ids) < 2**16
        ego = world.ego_s(time_s + 0.05) - world.ego_s(time_s)
        for key in set(now) & set(then) - {(0,), (0, 0), (0, 0, 0)}:
            speed = (then[key].s - now[key].s + ego) / 0.05
            sideways = (then[key].across - now[key].across) / 0.05
            fastest = 3 if LABELS.names[now[key].thing.classes[0]] == 'person' else 17
            assert abs(speed) < fastest
            assert abs(sideways) < 2


def test_people_who_cross_are_off_the_lane_when_the_camera_comes():
    crossers = 0
    for seed in range(25):
        world = World(seed)
        if not world.style.quiet:
            continue
        for time_s in np.arange(0, 60, 0.5):
            for o in world.seen(float(time_s)):
                if o.thing.crossing is not None:
                    crossers += 1
                    if -2 < o.s < 3:
                        assert abs(o.across) > world.style.road_half_m
    assert crossers > 0


def test_the_road_never_ends():
    street = SyntheticStreet(2, SMALL)
    for index in (10**5, 10**7):
        present = street.frame(index).truth.segments.class_id
        names = {LABELS.names[c] for c in present}
        assert {'road', 'sidewalk', 'sky', 'building'} <= names
        assert len(names) > 7


def test_iteration_counts_up_from_frame_zero():
    street = SyntheticStreet(1, SMALL, frame_rate_hz=4.0)
    frames = list(itertools.islice(street, 3))
    assert [f.stamp_ns for f in frames] == [0, 250_000_000, 500_000_000]
    assert digest(frames[2]) == digest(street.frame(2))


def test_the_image_shows_what_the_truth_says():
    """Colours change where classes change: sky is brighter than what stands before it."""
    for seed in range(4):
        frame = SyntheticStreet(seed, SMALL).frame(0)
        sky = frame.truth.semantic == LABELS.class_id('sky')
        rest = np.isin(frame.truth.semantic, [LABELS.class_id(n) for n in ('road', 'vegetation')])
        assert frame.image_rgb[sky].mean() > frame.image_rgb[rest].mean() + 40


def test_samples_are_a_sequence_of_different_scenes():
    samples = synthetic_samples(7, 3, SMALL)
    assert len(samples) == 3
    images = [s.image_rgb for s in samples]
    assert len(images) == 3
    assert all((a != b).mean() > 0.3 for a, b in itertools.combinations(images, 2))
    np.testing.assert_array_equal(samples[-1].image_rgb, images[2])
    assert len({s.image_id for s in samples}) == 3
    assert samples[0].crowd_ids.dtype == np.uint16
    assert len(samples[0].crowd_ids) == 0
    with pytest.raises(IndexError, match='sample 3 does not exist; there are 3'):
        samples[3]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'seed': -1}, 'seed is -1; expected a whole number, 0 or more'),
        ({'seed': 1.5}, 'seed is 1.5'),
        ({'size_wh': (640, 0)}, r'size_wh is \(640, 0\); expected whole numbers'),
        ({'size_wh': (640,)}, r'size_wh is \(640,\)'),
        ({'frame_rate_hz': 0.0}, 'frame_rate_hz is 0.0; expected 0.1..1000'),
        ({'frame_rate_hz': float('nan')}, 'frame_rate_hz is nan'),
        ({'horizontal_fov_deg': 180}, 'horizontal_fov_deg is 180; expected 10..150'),
        ({'camera_height_m': -1.0}, 'camera_height_m is -1.0'),
        ({'camera_pitch_rad': 2.0}, 'camera_pitch_rad is 2.0'),
    ],
)
def test_bad_parameters_are_refused_by_name(arguments, message):
    with pytest.raises(DatasetError, match=message):
        SyntheticStreet(**{'seed': 0, **arguments})


def test_bad_indices_and_counts_are_refused():
    with pytest.raises(DatasetError, match='frame index is -1; expected a whole number'):
        SyntheticStreet(0, SMALL).frame(-1)
    with pytest.raises(DatasetError, match='count is -2'):
        synthetic_samples(0, -2)


@pytest.mark.parametrize(
    'camera',
    [
        {'camera_pitch_rad': -0.5},
        {'camera_pitch_rad': 0.5},
        {'horizontal_fov_deg': 10},
        {'horizontal_fov_deg': 150},
        {'camera_height_m': 5.0, 'camera_pitch_rad': 0.3},
        {'camera_height_m': 0.3},
    ],
)
def test_unusual_cameras_work(camera):
    for seed, size_wh in ((2, (32, 32)), (6, (100, 60))):
        frame = SyntheticStreet(seed, size_wh, **camera).frame(11)
        check_maps(frame.truth.semantic, frame.truth.instance, LABELS)
        sky = frame.truth.semantic == LABELS.class_id('sky')
        assert np.isfinite(frame.depth_m[~sky]).all()


def test_boxes_are_around_what_is_seen_of_the_objects() -> None:
    street = SyntheticStreet(2, (320, 240))
    for index in (0, 37):
        frame, boxes = street.frame(index), street.boxes(index)
        things = frame.truth.segments.things
        assert len(things) > 3
        assert np.isin(things.id, boxes.id).all()
        assert (np.diff(boxes.id.astype(int)) > 0).all()
        y, x = np.nonzero(frame.truth.instance)
        ray = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(frame.camera_matrix).T
        point = ray * frame.depth_m[y, x, None]
        row = np.searchsorted(boxes.id, frame.truth.instance[y, x])
        # Polygons are painted to the nearest pixel, so a point may lie a pixel outside.
        slack = 2 * frame.depth_m[y, x, None] / frame.camera_matrix[0, 0] + 0.05
        inside = (point >= boxes.low_m[row] - slack) & (point <= boxes.high_m[row] + slack)
        assert inside[:, :2].mean() > 0.99
        assert inside.all(axis=1).mean() > 0.97
    with pytest.raises(DatasetError, match='frame index'):
        street.boxes(-1)
