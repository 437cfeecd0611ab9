"""Free space, objects, surfaces and occlusion over DDS; poses from tf2, played by a stand-in."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')
pytest.importorskip('nav_msgs', reason='nav_msgs is not installed')

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TransformStamped
from hypothesis import given, settings
from hypothesis import strategies as st
from nav_msgs.msg import OccupancyGrid
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.time import Time
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.engines import open_engine
from panoptic_ros.errors import FrameError
from panoptic_ros.model import Model
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.ros import messages
from panoptic_ros.ros import transforms as frames
from panoptic_ros.ros.parameters import ParameterError, Tuning
from panoptic_ros.ros.surroundings import (
    SurroundingsBuilder,
    ground_frame_origin,
    target_grid,
)
from panoptic_ros.ros.transforms import Frames
from panoptic_ros.scene.free_space import CameraPose, Grid, Traversability, free_space, ground_view
from panoptic_ros.scene.geometry import CameraModel, GroundPlane
from panoptic_ros.segmenter import Segmenter

NODE_ARGUMENTS = ('-p', 'virtual_depth:=true', '-p', 'camera_pitch_rad:=0.1')
IMAGE, CAMERA_INFO = '/robot/image', '/robot/camera_info'
OUT = '/robot/segment/'
SIZE_WH = (128, 64)
K = [128.0, 0.0, 63.5, 0.0, 128.0, 31.5, 0.0, 0.0, 1.0]
CAMERA = CameraModel.from_k(K, SIZE_WH)
GROUND = GroundPlane(1.5, 0.1, 60.0)
GRID = Grid.ahead(20.0, 10.0, 0.1)


@pytest.fixture
def scene_bgr(tiny_scene) -> np.ndarray:
    return np.ascontiguousarray(tiny_scene(SIZE_WH)[..., ::-1])


@pytest.fixture(scope='module')
def segmented(tiny_model, tiny_scene) -> tuple[Panoptic, Model]:
    """Two cars side by side on a road, under the sky."""
    model = Model.load(tiny_model)
    segmenter = Segmenter(model, open_engine(model, 'onnxruntime'))
    image = np.ascontiguousarray(tiny_scene(SIZE_WH))
    return segmenter.segment(image, 'rgb8').panoptic, model


def camera_info() -> CameraInfo:
    width, height = SIZE_WH
    return CameraInfo(
        width=width, height=height, k=K, r=np.eye(3).reshape(-1), p=np.eye(3, 4).reshape(-1)
    )


@pytest.fixture
def ask(module_node, peer, scene_bgr):
    """Return a function: (type, output) -> the node's answer on it to an image."""
    peer.subscribe(CameraInfo, OUT + 'camera_info')
    first = messages.image_message(scene_bgr, peer.header())
    peer.exchange(IMAGE, first, OUT + 'camera_info', before=(CAMERA_INFO, camera_info()))

    def run(message_type: type, output: str, before=None):
        if OUT + output not in peer.received:
            peer.subscribe(message_type, OUT + output)
        image = messages.image_message(scene_bgr, peer.header())
        (answer,) = peer.exchange(
            IMAGE, image, OUT + output, before=before and before(image.header)
        )
        header = answer.markers[0].header if hasattr(answer, 'markers') else answer.header
        assert serialize_message(header) == serialize_message(image.header)
        return answer

    return run


def array(message: OccupancyGrid) -> np.ndarray:
    return np.array(message.data, np.int8).reshape(message.info.height, message.info.width)


# ---- free space ----


def test_free_space_over_dds_is_that_of_the_map(ask, segmented) -> None:
    message = ask(OccupancyGrid, 'free_space')
    panoptic, model = segmented
    view = ground_view(CAMERA, CameraPose.over(GROUND), GRID, 60.0)
    rules = Traversability.of(model.label_set, 50)
    expected = free_space(panoptic, view, rules, agent_margin_m=0.5).occupancy
    assert np.array_equal(array(message), expected)
    assert set(np.unique(expected)) == {-1, 0, 100}  # the scene is worth looking at
    info = message.info
    assert (info.width, info.height) == (200, 100)
    assert info.resolution == pytest.approx(0.1)
    assert info.map_load_time == message.header.stamp


def test_who_reads_the_grid_by_the_rules_finds_its_cells_in_the_picture(ask, segmented) -> None:
    """OccupancyGrid: cell (i, j) is at origin * ((i + 0.5) r, (j + 0.5) r, 0) of frame_id."""
    message = ask(OccupancyGrid, 'free_space')
    grid, info, pose = array(message), message.info, message.info.origin
    turn = pose.orientation
    rotation = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w])
    i, j = np.meshgrid(np.arange(info.width), np.arange(info.height))
    cells = np.stack([(i + 0.5) * info.resolution, (j + 0.5) * info.resolution, 0 * i], -1)
    origin = [pose.position.x, pose.position.y, pose.position.z]
    optical = rotation.apply(cells.reshape(-1, 3)) + origin
    # All on the ground: 1.5 m below the camera, along the vertical.
    assert optical @ GROUND.down == pytest.approx(np.full(len(optical), 1.5), abs=1e-6)
    free = grid.ravel() == 0
    u, v = np.rint(CAMERA.project(optical[free])).astype(int).T
    panoptic, model = segmented
    assert set(panoptic.semantic[v, u]) == {model.label_set.class_id('road')}
    # The first cell is the nearest one to the right, seen from the camera.
    assert optical[0, 0] == pytest.approx(4.95, abs=0.01)
    assert optical[-1, 0] == pytest.approx(-4.95, abs=0.01)
    assert optical[-1, 2] > 19


def test_the_grid_follows_its_parameters(ask, peer) -> None:
    for name, value in (('grid_length_m', 8.0), ('grid_width_m', 4.0), ('grid_resolution_m', 0.5)):
        assert peer.set_parameter(OUT, name, value) == ''
    message = ask(OccupancyGrid, 'free_space')
    assert (message.info.width, message.info.height) == (16, 8)
    assert len(message.data) == 128
    for name, value in (
        ('grid_length_m', 20.0),
        ('grid_width_m', 10.0),
        ('grid_resolution_m', 0.1),
    ):
        assert peer.set_parameter(OUT, name, value) == ''
    assert '101' in peer.set_parameter(OUT, 'walkable_cost', 101)


def test_diagnostics_tell_the_closest_obstacle_and_nothing_comes_closer(ask, peer) -> None:
    peer.subscribe(DiagnosticArray, '/diagnostics')
    seen = peer.received['/diagnostics']

    def values() -> dict[str, str]:
        newest = seen[-1].status[0].values if seen else []
        found = {v.key: v.value for v in newest}
        if 'closest obstacle (m)' not in found:
            ask(OccupancyGrid, 'free_space')
            return {}
        return found

    found = peer.wait_until(values, 'what is around')
    # The cars end at row 48 of 64: 16 pixels below the middle, the camera looks down.
    fall = math.atan((47.5 - 31.5) / 128) + 0.1
    ahead_m = 1.5 / math.tan(fall)
    assert ahead_m * 0.75 < float(found['closest obstacle (m)']) < ahead_m * 1.2
    assert not [key for key in found if key.startswith('time to collision')]


def test_diagnostics_tell_when_a_car_comes_closer(ask, peer, scene_bgr) -> None:
    peer.subscribe(DiagnosticArray, '/diagnostics')
    peer.subscribe(OccupancyGrid, OUT + 'free_space')
    approaching = scene_bgr.copy()
    approaching[:, 80:112] = scene_bgr[:, 64:65]  # only the left car

    def collisions() -> dict[str, float]:
        for foot in range(44, 63, 2):  # from 7.6 m to 4.4 m in a second
            approaching[16:, 16:48] = scene_bgr[63, 63]
            approaching[16:foot, 16:48] = scene_bgr[20, 20]
            approaching[32:40, 32:40] = scene_bgr[34, 34]  # the centre stays
            image = messages.image_message(approaching, peer.header(ahead_s=0.09))
            peer.exchange(IMAGE, image, OUT + 'free_space')
        seen = peer.received['/diagnostics']
        count = len(seen)
        peer.wait_until(lambda: len(seen) > count, 'diagnostics')
        return {
            v.key: float(v.value)
            for v in seen[-1].status[0].values
            if v.key.startswith('time to collision, car ')
        }

    found = peer.wait_until(collisions, 'a collision')
    (seconds,) = found.values()
    # At 3 to 4 m/s to 1.5 m: (4.4 - 1.5) m take about a second.
    assert 0.5 < seconds < 1.5


# ---- a grid in another frame ----


def test_the_pose_of_a_grid_in_the_optical_frame() -> None:
    camera, grid = CameraPose.over(GroundPlane(2.0)), Grid(0.5, (1.0, -3.0), (4, 12))
    place, turn_xyzw = ground_frame_origin(camera, grid)
    assert place == pytest.approx((3.0, 2.0, 1.0))
    rotation = Rotation.from_quat(turn_xyzw)
    # Ground: forward, left, up. Optical: right, down, forward.
    assert rotation.apply(np.eye(3)) == pytest.approx(
        np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]), abs=1e-9
    )


def turned(pose: CameraPose, yaw_rad: float, xy_m: tuple[float, float]) -> CameraPose:
    cos, sin = math.cos(yaw_rad), math.sin(yaw_rad)
    matrix = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ pose.matrix
    return CameraPose(tuple(map(tuple, matrix.tolist())), (*xy_m, pose.position_m[2]))


@settings(deadline=None)
@given(
    yaw_rad=st.floats(-3.2, 3.2),
    pitch_rad=st.floats(-0.5, 1.55),
    xy_m=st.tuples(st.floats(-30, 30), st.floats(-30, 30)),
)
def test_a_grid_in_a_target_frame_covers_what_is_ahead(
    yaw_rad: float, pitch_rad: float, xy_m: tuple[float, float]
) -> None:
    camera = turned(CameraPose.over(GroundPlane(1.5, pitch_rad)), yaw_rad, xy_m)
    grid = target_grid(camera, GRID)
    # 20 m ahead and 5 m to each side, whatever the frame's axes are.
    forward = np.array([math.cos(yaw_rad), math.sin(yaw_rad)])
    left = np.array([-forward[1], forward[0]])
    for ahead, aside in ((0.1, 4.9), (0.1, -4.9), (19.9, 4.9), (19.9, -4.9), (10, 0)):
        assert grid.cells((np.array(xy_m) + ahead * forward + aside * left)[None])[0] >= 0
    for value in grid.origin_xy_m:
        assert value / 0.1 == pytest.approx(round(value / 0.1), abs=1e-6)


def test_a_grid_in_base_footprint_is_that_of_the_camera_moved() -> None:
    camera = turned(CameraPose.over(GROUND), 0.0, (1.2, 0.0))
    grid = target_grid(camera, GRID)
    assert (grid.size_xy, grid.origin_xy_m) == ((200, 100), pytest.approx((1.2, -5.0)))


class FakeTf2:
    """Stands in for the module tf2_ros, with its names and arguments.

    After ros2/geometry2, rolling: tf2_ros_py/tf2_ros/buffer.py and transform_listener.py, and
    tf2_py/src/tf2_py.cpp for the errors, what a time is, and ``clear``; tf2/src/cache.cpp for what
    becomes of transforms that are older than those there are, whoever sends them.
    """

    class TransformException(Exception):
        """The base of all errors."""

    class LookupException(TransformException):
        """What a look-up raises for a frame that nobody has told of."""

    def __init__(self, transform: TransformStamped | None) -> None:
        self.transform = transform
        self.asked: list[tuple] = []
        self.registered = 0
        self.cleared = 0
        self.looked = 0
        self.late = 0  # so many looks before the transform is there
        tf2 = self

        class Buffer:
            def __init__(self, cache_time: Duration | None = None, node: Node | None = None):
                assert node is None  # it would make a service

            def lookup_transform(
                self,
                target_frame: str,
                source_frame: str,
                time: Time,
                timeout: Duration = Duration(),  # noqa: B008
            ) -> TransformStamped:
                assert isinstance(time.nanoseconds, int)
                assert timeout == Duration()  # it would sleep for 20 ms
                tf2.asked.append((target_frame, source_frame, time.nanoseconds))
                if tf2.transform is None:
                    raise tf2.LookupException(f'"{source_frame}" does not exist')
                return tf2.transform

            def can_transform(
                self,
                target_frame: str,
                source_frame: str,
                time: Time,
                timeout: Duration = Duration(),  # noqa: B008
                return_debug_tuple: bool = False,
            ) -> bool:
                assert timeout == Duration()
                tf2.looked += 1
                return tf2.transform is not None and tf2.looked > tf2.late

            def clear(self) -> None:
                tf2.cleared += 1

        class TransformListener:
            def __init__(
                self,
                buffer: Buffer,
                node: Node | None,
                *,
                spin_thread: bool = False,
                qos: object = None,
                static_qos: object = None,
            ) -> None:
                assert isinstance(buffer, Buffer)
                tf2.registered += 1

            def unregister(self) -> None:
                tf2.registered -= 1

        self.Buffer, self.TransformListener = Buffer, TransformListener


def header(sec: int = 12) -> Header:
    message = Header(frame_id='camera')
    message.stamp.sec, message.stamp.nanosec = sec, 34
    return message


def transform(pose: CameraPose) -> TransformStamped:
    message = TransformStamped()
    t, q = message.transform.translation, message.transform.rotation
    t.x, t.y, t.z = pose.position_m
    q.x, q.y, q.z, q.w = Rotation.from_matrix(pose.matrix).as_quat()
    return message


def test_a_pose_is_asked_of_tf2_for_the_image_s_stamp(monkeypatch) -> None:
    pose = turned(CameraPose.over(GROUND), 0.7, (3.0, -2.0))
    tf2 = FakeTf2(transform(pose))
    monkeypatch.setattr(frames, 'tf2_ros', tf2)
    listening = Frames(None, 'odom')
    assert tf2.registered == 1
    found = listening.camera_pose(header())
    assert tf2.asked == [('odom', 'camera', 12_000_000_034)]
    assert found.position_m == pytest.approx(pose.position_m)
    assert found.matrix == pytest.approx(pose.matrix)
    listening.destroy()
    assert tf2.registered == 0


def test_no_transform_and_a_camera_in_the_ground_are_said(monkeypatch) -> None:
    monkeypatch.setattr(frames, 'tf2_ros', FakeTf2(None))
    with pytest.raises(FrameError, match=r"no pose of 'camera' in target_frame 'odom'.*not exist"):
        Frames(None, 'odom').camera_pose(header())
    below = transform(CameraPose.over(GROUND))
    below.transform.translation.z = -1.0
    monkeypatch.setattr(frames, 'tf2_ros', FakeTf2(below))
    with pytest.raises(FrameError, match='expected the camera above the ground'):
        Frames(None, 'odom').camera_pose(header())
    with pytest.raises(FrameError, match='no pose'):  # a stamp that rclpy takes for none
        Frames(None, 'odom').camera_pose(header(sec=-1))


def test_a_transform_that_is_late_is_waited_for(monkeypatch) -> None:
    tf2 = FakeTf2(transform(CameraPose.over(GROUND)))
    tf2.late = 3
    monkeypatch.setattr(frames, 'tf2_ros', tf2)
    assert Frames(None, 'odom').camera_pose(header()).position_m[2] == 1.5
    assert (tf2.looked, len(tf2.asked)) == (4, 1)


def test_where_there_are_no_transforms_not_every_frame_waits(monkeypatch) -> None:
    tf2 = FakeTf2(None)
    monkeypatch.setattr(frames, 'tf2_ros', tf2)
    monkeypatch.setattr(frames, 'RETRY_S', 1e6)
    listening = Frames(None, 'odom')
    for sec in (12, 13, 14):
        with pytest.raises(FrameError):
            listening.camera_pose(header(sec))
        if sec == 12:
            waited = tf2.looked
    assert tf2.looked == waited > 1
    tf2.transform = transform(CameraPose.over(GROUND))
    listening.camera_pose(header(15))  # there at once
    tf2.late = tf2.looked + 2
    listening.camera_pose(header(16))  # and waited for again
    assert tf2.looked == tf2.late + 1


def test_what_is_known_is_forgotten_when_time_begins_anew(monkeypatch) -> None:
    tf2 = FakeTf2(transform(CameraPose.over(GROUND)))
    monkeypatch.setattr(frames, 'tf2_ros', tf2)
    listening = Frames(None, 'odom')
    for sec, cleared in ((100, 0), (101, 0), (100, 0), (40, 1), (41, 1)):
        listening.camera_pose(header(sec))
        assert tf2.cleared == cleared
    assert len(tf2.asked) == 5


def test_without_tf2_a_target_frame_is_refused(start_node, tiny_model) -> None:
    if frames.tf2_ros is not None:
        pytest.skip('tf2_ros is installed')
    with pytest.raises(ParameterError, match="target_frame is 'odom', which needs tf2_ros"):
        Frames(None, 'odom')
    node = start_node('-p', f'model:={tiny_model}', '-p', 'target_frame:=odom')
    assert node.wait() == 2
    assert "configure failed: parameter target_frame is 'odom', which needs tf2_ros" in node.log


def builder(monkeypatch, tf2: FakeTf2, warnings: list[str]) -> SurroundingsBuilder:
    monkeypatch.setattr(frames, 'tf2_ros', tf2)
    logger = SimpleNamespace(warning=lambda text, **_: warnings.append(text))
    return SurroundingsBuilder(SimpleNamespace(get_logger=lambda: logger), 'odom')


def result(segmented: tuple[Panoptic, Model]) -> SimpleNamespace:
    panoptic, model = segmented
    return SimpleNamespace(
        panoptic=panoptic,
        label_set=model.label_set,
        camera=CAMERA,
        ground=GROUND,
        depth_m=None,
        header=header(),
        tuning=Tuning(agent_margin_m=0.0),
    )


def test_a_grid_in_odom_is_aligned_with_it_and_shows_the_same_ground(
    monkeypatch, segmented
) -> None:
    yaw_rad, xy_m = 0.7, (30.0, -12.0)
    pose = turned(CameraPose.over(GROUND), yaw_rad, xy_m)
    warnings: list[str] = []
    surroundings = builder(monkeypatch, FakeTf2(transform(pose)), warnings)
    message = deserialize_message(surroundings.build(result(segmented)), OccupancyGrid)
    assert (message.header.frame_id, message.header.stamp) == ('odom', header().stamp)
    origin, turn = message.info.origin.position, message.info.origin.orientation
    assert (turn.x, turn.y, turn.z, turn.w, origin.z) == (0, 0, 0, 1, 0)
    alone = ground_view(CAMERA, CameraPose.over(GROUND), GRID, 60.0)
    panoptic, model = segmented
    rules = Traversability.of(model.label_set, 50)
    expected = free_space(panoptic, alone, rules).occupancy
    # The same places, whichever of the two grids is asked; cells at edges may differ.
    ahead = GRID.centres().reshape(-1, 2)
    cos, sin = math.cos(yaw_rad), math.sin(yaw_rad)
    places = ahead @ np.array([[cos, sin], [-sin, cos]]) + xy_m
    size_xy = message.info.width, message.info.height
    grid = Grid(0.1, (origin.x, origin.y), size_xy)
    found = array(message).ravel()[grid.cells(places)]
    for value in (-1, 0, 100):
        assert (found[expected.ravel() == value] == value).mean() > 0.8
    assert (found == expected.ravel()).mean() > 0.95
    assert surroundings.latest.closest_obstacle_m > 1
    assert warnings == []
    surroundings.destroy()


def test_without_a_transform_there_is_no_grid_and_a_warning(monkeypatch, segmented) -> None:
    warnings: list[str] = []
    surroundings = builder(monkeypatch, FakeTf2(None), warnings)
    assert surroundings.build(result(segmented)) is None
    (warning,) = warnings
    assert "~/free_space: no pose of 'camera' in target_frame 'odom'" in warning
    assert surroundings.latest is None
    without = result(segmented)
    without.camera = None
    assert surroundings.build(without) is None


def test_time_to_collision_is_known_if_every_other_image_has_depth(monkeypatch, segmented) -> None:
    # The pose is the camera's, so that what is behind the cars does not matter.
    pose = CameraPose.over(GROUND)
    surroundings = builder(monkeypatch, FakeTf2(transform(pose)), [])
    frame = result(segmented)
    is_car = segmented[0].instance > 0
    for number in range(12):
        frame.header = header(100)
        frame.header.stamp.nanosec = 80_000_000 * number
        near_m = 20.0 - 5.0 * 0.08 * number
        depth_m = np.where(is_car, near_m, 40.0).astype(np.float32)
        frame.depth_m = depth_m if number % 2 == 0 else None
        surroundings.build(frame)
        if number == 10:
            approaching = dict(surroundings.latest.time_to_collision_s)
    assert len(approaching) > 0
    # From 16 m at 5 m/s.
    assert min(approaching.values()) == pytest.approx((16.0 - 1.5) / 5.0, abs=0.5)


# ---- objects ----


def texts(answer: MarkerArray) -> list[str]:
    return sorted(m.text for m in answer.markers if m.text and m.action == Marker.ADD)


def test_objects_say_what_they_stand_on(ask) -> None:
    answer = ask(MarkerArray, 'objects')
    found = texts(answer)
    assert len(found) == 2
    assert all(text.startswith('car ') and text.endswith(', on road') for text in found)
    boxes = [m for m in answer.markers if m.type == Marker.CUBE and m.action == Marker.ADD]
    assert [box.ns for box in boxes] == ['car', 'car']


def test_objects_are_chosen_by_role(ask, peer) -> None:
    assert peer.set_parameter(OUT, 'object_roles', 'graspable, dynamic_agent') == ''
    assert len(texts(ask(MarkerArray, 'objects'))) == 2
    reason = peer.set_parameter(OUT, 'object_roles', 'graspable, edible')
    assert "object_roles is 'graspable, edible'; expected nothing or, with commas" in reason
    assert peer.set_parameter(OUT, 'object_roles', 'graspable') == ''
    objects = peer.received[OUT + 'objects']

    def are_gone() -> bool:
        ask(MarkerArray, 'support_surfaces')
        return not texts(objects[-1])

    peer.wait_until(are_gone, 'no objects')
    assert {m.action for m in objects[-1].markers} <= {Marker.DELETE}
    assert peer.set_parameter(OUT, 'object_roles', '') == ''


# ---- augmented reality ----


def test_the_road_is_a_support_surface(ask) -> None:
    (road,) = ask(MarkerArray, 'support_surfaces').markers
    assert (road.ns, road.id, road.type) == ('road', 0, Marker.CUBE)
    q, p = road.pose.orientation, road.pose.position
    normal = Rotation.from_quat([q.x, q.y, q.z, q.w]).apply([0, 0, 1])
    assert normal == pytest.approx(-GROUND.down, abs=1e-6)
    assert np.array([p.x, p.y, p.z]) @ GROUND.down == pytest.approx(1.5)
    assert min(road.scale.x, road.scale.y) > 1


def virtual(depth_m: np.ndarray):
    """Return what makes a virtual depth image for an image's header."""

    def make(header: Header) -> tuple[str, Image]:
        message = messages.image_message(depth_m.view(np.int32), header)
        message.encoding = '32FC1'
        return '/robot/virtual_depth', message

    return make


def test_near_cars_hide_far_virtual_things(ask, segmented) -> None:
    panoptic, _ = segmented
    depth_m = np.full(SIZE_WH[::-1], 30.0, np.float32)
    depth_m[:, :32] = math.nan
    answer = ask(Image, 'occlusion', virtual(depth_m))
    mask = np.frombuffer(answer.data, np.uint8).reshape(SIZE_WH[::-1])
    assert (answer.encoding, set(np.unique(mask))) == ('mono8', {0, 255})
    is_car = panoptic.instance > 0
    drawn = ~np.isnan(depth_m)
    assert (mask[is_car & drawn] == 255).all()
    assert (mask[~drawn] == 0).all()
    assert (mask[:16] == 0).all()  # sky hides nothing
    nothing = ask(Image, 'occlusion', virtual(np.full_like(depth_m, math.nan)))
    assert not np.frombuffer(nothing.data, np.uint8).any()
