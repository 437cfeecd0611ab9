"""rviz 2 with config/segment_optical.rviz: ros2/rviz, rolling of October 2024.

Rules, below ``rviz_default_plugins/src/rviz_default_plugins/displays`` but the last:

* ``image/ros_image_texture.cpp``, ``setFormatAndNormalizeDataIfNecessary``: which encodings are
  shown; it throws UnsupportedImageEncoding for all others, 32SC1 among them.
* the same file, ``update``: pixels go to the renderer as width * height of them, whatever ``step``
  says.
* ``marker/marker_common.cpp``: no two markers of a message have one namespace and id; numbers are
  finite (``validateFloats``); actions are ADD, DELETE and DELETEALL; a lifetime above 0.1 ms
  counts.
* ``marker/markers/shape_marker.cpp``: a warning for a size of 0.
* ``rviz_common/src/rviz_common/properties/qos_profile_property.cpp``: the words for policies in
  the keys below ``Topic``.
"""

import math
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.resources import resource

OUT = '/robot/segment/'
BYTES_OF_ENCODING = {
    **dict.fromkeys(['mono8', '8UC1', '8SC1'], 1),
    **dict.fromkeys(['mono16', '16UC1', '16SC1'], 2),
    **dict.fromkeys(['rgb8', 'bgr8', '8UC3', '8SC3'], 3),
    **dict.fromkeys(['rgba8', 'bgra8', '8UC4', '8SC4', '32FC1'], 4),
}
TYPE_OF_DISPLAY = {
    'rviz_default_plugins/Image': Image,
    'rviz_default_plugins/MarkerArray': MarkerArray,
}
if find_spec('nav_msgs') is not None:
    from nav_msgs.msg import OccupancyGrid

    TYPE_OF_DISPLAY['rviz_default_plugins/Map'] = OccupancyGrid
POLICIES = {
    'History Policy': {
        'System Default': HistoryPolicy.SYSTEM_DEFAULT,
        'Keep Last': HistoryPolicy.KEEP_LAST,
        'Keep All': HistoryPolicy.KEEP_ALL,
    },
    'Reliability Policy': {
        'System Default': ReliabilityPolicy.SYSTEM_DEFAULT,
        'Reliable': ReliabilityPolicy.RELIABLE,
        'Best Effort': ReliabilityPolicy.BEST_EFFORT,
    },
    'Durability Policy': {
        'System Default': DurabilityPolicy.SYSTEM_DEFAULT,
        'Volatile': DurabilityPolicy.VOLATILE,
        'Transient Local': DurabilityPolicy.TRANSIENT_LOCAL,
    },
}


def displays() -> list[dict[str, Any]]:
    """Return the displays of topics that need no depth; both views have the same ones."""
    config = yaml.safe_load(resource('config', 'segment_optical.rviz').read_text(encoding='utf-8'))
    found = [d for d in config['Visualization Manager']['Displays'] if 'Topic' in d]
    return [d for d in found if d['Class'] in TYPE_OF_DISPLAY]


@pytest.mark.parametrize('view', ['segment_optical.rviz', 'segment_forward.rviz'])
def test_every_image_has_a_place_in_the_window(view: str) -> None:
    """rviz shows an image without a place as a dock of its own, and a dock that is shown enables
    its display (``visualization_frame.cpp``, ``addPane``; ``display.cpp``)."""
    config = yaml.safe_load(resource('config', view).read_text(encoding='utf-8'))
    state = bytes.fromhex(config['Window Geometry']['QMainWindow State'])
    names = [
        display['Name']
        for display in config['Visualization Manager']['Displays']
        if display['Class'] == 'rviz_default_plugins/Image'
    ]
    for name in (*names, 'Displays'):
        text = name.encode('utf-16-be')  # a QString: its length in bytes, then its characters
        assert len(text).to_bytes(4, 'big') + text in state, name
    assert len(names) == 5


def topic_of(display: dict[str, Any]) -> str:
    return '/robot' + display['Topic']['Value']


def qos_of(display: dict[str, Any]) -> QoSProfile:
    topic = display['Topic']
    history, reliability, durability = (words[topic[key]] for key, words in POLICIES.items())
    return QoSProfile(
        depth=topic['Depth'], history=history, reliability=reliability, durability=durability
    )


@pytest.fixture
def shown(module_node, peer, camera) -> dict[str, Any]:
    """Return the newest message of every display, by topic."""
    received: dict[str, Any] = {}
    for display in displays():
        topic = topic_of(display)
        peer.node.create_subscription(
            TYPE_OF_DISPLAY[display['Class']],
            topic,
            partial(received.__setitem__, topic),
            qos_of(display),
        )
    camera.film(len(displays()), lambda: len(received), 'a message for every display')
    return received


@pytest.mark.parametrize('display', displays(), ids=lambda d: d['Name'])
def test_quality_of_service_of_each_display(module_node, assert_compatible, display) -> None:
    assert_compatible(topic_of(display), qos_of(display))


def test_every_picture_is_one_that_rviz_draws(shown) -> None:
    images = {topic: m for topic, m in shown.items() if isinstance(m, Image)}
    assert len(images) == 5
    for topic, image in images.items():
        assert image.encoding in BYTES_OF_ENCODING, topic
        assert image.step == image.width * BYTES_OF_ENCODING[image.encoding], topic
        assert len(image.data) == image.step * image.height > 0, topic


def test_every_map_but_the_packed_one_can_be_added_by_hand(module_node, peer, camera) -> None:
    topics = [OUT + name for name in ('semantic', 'instance', 'confidence', 'mask', 'panoptic')]
    for topic in topics:
        peer.subscribe(Image, topic)
    camera.film(
        len(topics), lambda: sum(bool(peer.received[topic]) for topic in topics), 'five maps'
    )
    encodings = {topic: peer.received[topic][0].encoding for topic in topics}
    refused = {topic for topic, encoding in encodings.items() if encoding not in BYTES_OF_ENCODING}
    assert refused == {OUT + 'panoptic'}
    assert not refused & {topic_of(d) for d in displays()}


def greys(ids: np.ndarray) -> np.ndarray:
    """What ros_image_texture.cpp, ``normalize``, makes of the pixels of ``~/instance``."""
    (display,) = (d for d in displays() if d['Topic']['Value'] == '/segment/instance')
    low, high = display['Min Value'], display['Max Value']
    if display['Normalize Range']:
        low, high = ids.min(), ids.max()
    return (np.clip((ids - float(low)) / (float(high) - low), 0, 1) * 255).astype(np.uint8)


def test_object_ids_are_told_apart_by_their_grey(shown) -> None:
    ids = np.unique(np.frombuffer(shown[OUT + 'instance'].data, np.uint16))
    assert len(np.unique(greys(ids))) == len(ids) == 3


def test_object_ids_of_a_long_run_are_not_all_white() -> None:
    ids = np.array([0, 380, 395, 400], np.uint16)
    assert len(np.unique(greys(ids))) == 4


def test_markers_are_drawn_without_a_complaint(shown) -> None:
    arrays = [m for m in shown.values() if isinstance(m, MarkerArray)]
    assert len(arrays) == 3
    for message in arrays:
        named = [(m.ns, m.id) for m in message.markers]
        assert len(set(named)) == len(named) > 0
    for marker in (marker for message in arrays for marker in message.markers):
        assert marker.action in (Marker.ADD, Marker.DELETE, Marker.DELETEALL)
        assert marker.header.frame_id
        p, q, s, c = marker.pose.position, marker.pose.orientation, marker.scale, marker.color
        numbers = (p.x, p.y, p.z, q.x, q.y, q.z, q.w, s.x, s.y, s.z, c.r, c.g, c.b, c.a)
        assert all(map(math.isfinite, numbers))
        assert math.isclose(q.x**2 + q.y**2 + q.z**2 + q.w**2, 1.0, abs_tol=1e-6)
        assert c.a > 0
        assert marker.lifetime.sec * 1_000_000_000 + marker.lifetime.nanosec > 100_000
        if marker.type == Marker.TEXT_VIEW_FACING:
            assert marker.text
            assert s.z > 0
        else:
            assert marker.type == Marker.CUBE
            assert s.x * s.y * s.z > 0
