"""Nav2's static layer with ~/free_space: ros-navigation/navigation2, main of August 2026.

Rules:

* ``nav2_costmap_2d/plugins/static_layer.cpp``, ``onInitialize``: the map is subscribed reliable
  and, unless ``map_subscribe_transient_local`` is false, transient local with depth 3.
* ``nav2_ros_common/include/nav2_ros_common/validate_messages.hpp``: a map is rejected whose
  frame_id is empty, whose stamp has a second's nanoseconds or more, whose numbers are not finite,
  whose resolution is below 1e-6, whose origin's quaternion has not length 1, which has no cell or
  more than 32767 in a row or column, or whose data is not width * height long.
* ``static_layer.cpp``, ``processMap``: cells are row-major; of the origin only x and y count.
* there, ``interpretValue``: bytes are read as unsigned; 255 (-1) is unknown, or free without
  ``track_unknown_space``; 99 is inscribed; from ``lethal_cost_threshold`` on lethal; below it in
  proportion, or free with ``trinary_costmap``.
* there, ``updateCosts``: a rolling costmap asks tf for the map's frame, and ``worldToMap`` of
  ``costmap_2d.cpp`` says which cell a point is in.
"""

import math

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')
pytest.importorskip('nav_msgs', reason='nav_msgs is not installed: the node has no ~/free_space')

from nav_msgs.msg import OccupancyGrid
from rclpy.qos import (
    DurabilityPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
)

from panoptic_ros.resources import resource

FREE_SPACE = '/segment/free_space'
LATCHED = QoSProfile(
    depth=3,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
PRESET = resource('config', 'consumers', 'nav2_free_space.yaml')
FREE, INSCRIBED, LETHAL, UNKNOWN = 0, 253, 254, 255


def is_valid(grid: OccupancyGrid) -> bool:
    info, p, q = grid.info, grid.info.origin.position, grid.info.origin.orientation
    return (
        bool(grid.header.frame_id)
        and grid.header.stamp.nanosec < 1_000_000_000
        and all(map(math.isfinite, (p.x, p.y, p.z, q.x, q.y, q.z, q.w, info.resolution)))
        and abs(q.x**2 + q.y**2 + q.z**2 + q.w**2 - 1) < 1e-4
        and info.resolution >= 1e-6
        and 0 < info.width <= 32767
        and 0 < info.height <= 32767
        and len(grid.data) == info.width * info.height
    )


def interpret(value: int, trinary: bool = False, track_unknown: bool = True) -> int:
    if value == 255:
        return UNKNOWN if track_unknown else FREE
    if value == 99:
        return INSCRIBED
    if value >= 100:
        return LETHAL
    return FREE if trinary else int(value / 100 * LETHAL)


class Costmap:
    """What the layer makes of a map."""

    def __init__(self, grid: OccupancyGrid) -> None:
        assert is_valid(grid)
        self._info = grid.info
        cells = np.frombuffer(grid.data, np.uint8)
        self.cost = np.array([interpret(value) for value in cells.tolist()])

    def at(self, x_m: float, y_m: float) -> int:
        """Return the cost of a point of the map's frame."""
        info, origin = self._info, self._info.origin.position
        column = int((x_m - origin.x) / info.resolution)
        row = int((y_m - origin.y) / info.resolution)
        assert x_m >= origin.x
        assert y_m >= origin.y
        assert column < info.width
        assert row < info.height
        return int(self.cost[row * info.width + column])


@pytest.fixture
def node(start_node, tiny_model, camera_in_odom) -> None:
    process = start_node(
        *('--params-file', str(PRESET), '-r', 'image:=/robot/image'),
        *('-r', 'camera_info:=/robot/camera_info'),
        *('-p', f'model:={tiny_model}', '-p', 'engine:=onnxruntime'),
    )
    process.wait_for_log('waiting for images')


@pytest.fixture
def grid(node, peer, camera) -> OccupancyGrid:
    received: list[OccupancyGrid] = []
    peer.node.create_subscription(OccupancyGrid, FREE_SPACE, received.append, LATCHED)
    camera.film(1, lambda: len(received), 'a grid')
    return received[-1]


def test_transient_local_is_what_the_layer_asks_for(node, assert_compatible) -> None:
    assert_compatible(FREE_SPACE, LATCHED)
    # A volatile publisher would not match the layer.
    volatile = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
    compatibility, _ = qos_check_compatible(volatile, LATCHED)
    assert compatibility == QoSCompatibility.ERROR


def test_map_lies_along_the_axes_of_odom(grid) -> None:
    assert is_valid(grid)
    assert grid.header.frame_id == 'odom'
    q = grid.info.origin.orientation
    assert (q.x, q.y, q.z, q.w) == (0.0, 0.0, 0.0, 1.0)
    assert grid.info.origin.position.z == 0.0
    # "Costmap origin coordinates are not perfectly aligned with the resolution" is a warning.
    for origin_m in grid.info.origin.position.x, grid.info.origin.position.y:
        assert abs(math.remainder(origin_m, grid.info.resolution)) < 1e-4


def test_cars_are_lethal_road_is_free_and_the_rest_unknown(grid, camera_in_odom) -> None:
    costmap = Costmap(grid)
    assert set(np.unique(costmap.cost).tolist()) == {FREE, LETHAL, UNKNOWN}
    x_m, y_m, _ = camera_in_odom
    # Flat ground, so the cars stand where their lower edge is seen: row 47 of 64, 64 px focal
    # length, 1.5 m below the camera. Left of the optical axis is +y.
    cars_m = 1.5 * 64 / (47.5 - 31.5)
    for left_m in +2.9, -2.9:
        beside = costmap.at(x_m + cars_m + 0.1, y_m + left_m)
        assert beside == LETHAL, f'{left_m} m left of the axis'
    assert costmap.at(x_m + 4.0, y_m) == FREE
    assert costmap.at(x_m + 0.5, y_m) == UNKNOWN  # below the picture's lower edge
    assert costmap.at(x_m + cars_m + 6.0, y_m + 4.0) != FREE  # behind a car


def test_what_track_unknown_space_and_trinary_costmap_would_do() -> None:
    # Why the preset's comment asks for the one and against the other.
    assert interpret(255) == UNKNOWN
    assert interpret(255, track_unknown=False) == FREE
    assert 0 < interpret(50) < INSCRIBED
    assert interpret(50, trinary=True) == FREE
