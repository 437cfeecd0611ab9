"""Free space, objects, surfaces and occlusion over DDS, by the node as a second process."""

import math

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')
pytest.importorskip('nav_msgs', reason='nav_msgs is not installed')

from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import OccupancyGrid
from rclpy.serialization import serialize_message
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.engines import open_engine
from panoptic_ros.model import Model
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.ros import messages
from panoptic_ros.ros.inputs import transforms
from panoptic_ros.scene.free_space import Traversability, free_space
from panoptic_ros.scene.geometry import CameraModel, GroundPlane
from panoptic_ros.scene.ground_view import CameraPose, Grid, GroundView
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
    view = GroundView(CAMERA, CameraPose.over(GROUND), GRID, 60.0)
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


def test_without_tf2_a_target_frame_is_refused(start_node, tiny_model) -> None:
    if transforms.tf2_ros is not None:
        pytest.skip('tf2_ros is installed')
    node = start_node('-p', f'model:={tiny_model}', '-p', 'target_frame:=odom')
    assert node.wait() == 2
    assert "configure failed: parameter target_frame is 'odom', which needs tf2_ros" in node.log


# ---- objects ----


def texts(answer: MarkerArray) -> list[str]:
    return sorted(m.text for m in answer.markers if m.text and m.action == Marker.ADD)


def test_objects_say_what_they_stand_on(ask) -> None:
    answer = ask(MarkerArray, 'objects')
    found = texts(answer)
    assert len(found) == 2
    assert all(text.startswith('car ') and text.endswith('\non road') for text in found)
    boxes = [m for m in answer.markers if m.type == Marker.CUBE and m.action == Marker.ADD]
    assert [box.ns for box in boxes] == ['car', 'car']


def test_objects_are_chosen_by_role(ask, peer) -> None:
    assert peer.set_parameter(OUT, 'object_roles', 'graspable, dynamic_agent') == ''
    assert len(texts(ask(MarkerArray, 'objects'))) == 2
    reason = peer.set_parameter(OUT, 'object_roles', 'graspable, edible')
    assert (
        "object_roles is 'graspable, edible'; expected nothing or, separated by commas" in reason
    )
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
