"""Publishers that are stand-ins: what is built, when, and what the parameters offer."""

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image
from support.pipeline import CAR, ROAD, Bench, calibration, street
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.ros.frame import Needs
from panoptic_ros.ros.messages.images import decode_compressed_image
from panoptic_ros.ros.outputs import OUTPUTS
from panoptic_ros.ros.parameters import Structure, Tuning
from panoptic_ros.ros.publishing import FramePublisher, offered

SIZE_WH = (8, 6)
BOX = (2, 2, 5, 5)


def array(message: bytes) -> np.ndarray:
    image = deserialize_message(message, Image)
    dtype = {'mono8': np.uint8, '16UC1': np.uint16, '32SC1': np.int32}[image.encoding]
    return np.frombuffer(image.data, dtype).reshape(image.height, image.width)


def publish(topic: str, **tuning: object) -> np.ndarray:
    """Return the map that a small street gives on a topic."""
    bench = Bench([topic], tuning=Tuning(tracking=False, **tuning))
    ((sent_topic, message),) = bench.process(street([BOX], SIZE_WH), 0)
    assert sent_topic == f'~/{topic}'
    return array(message)


IS_CAR = np.zeros(SIZE_WH[::-1], bool)
IS_CAR[2:5, 2:5] = True


def test_maps() -> None:
    panoptic = street([BOX], SIZE_WH)
    assert np.array_equal(publish('semantic'), panoptic.semantic)
    assert np.array_equal(publish('instance'), IS_CAR)
    assert np.array_equal(publish('mask'), 255 * IS_CAR)
    is_road = panoptic.semantic == ROAD
    assert np.array_equal(publish('mask', mask_role='drivable'), 255 * is_road)
    things = np.where(IS_CAR, CAR << 16 | 1, 0)
    assert np.array_equal(publish('panoptic', panoptic_packing='thing_instance'), things)


def test_confidence_is_zero_where_void() -> None:
    bench = Bench(['confidence'], tuning=Tuning(tracking=False))
    panoptic = street([], SIZE_WH)
    panoptic.semantic[0, :3] = 255
    ((_, message),) = bench.process(panoptic, 0)
    expected = np.full(SIZE_WH[::-1], 200)
    expected[0, :3] = 0
    assert np.array_equal(array(message), expected)


def test_needs_are_those_of_the_subscribed_topics() -> None:
    subscribed = set()

    class Publisher:
        def __init__(self, output) -> None:
            self.topic = output.topic

        def get_subscription_count(self) -> int:
            return self.topic in subscribed

    publisher = FramePublisher(Structure(virtual_depth=True), Publisher)
    assert (publisher.is_subscribed, publisher.needs) == (False, Needs.NOTHING)
    subscribed.add('~/semantic')
    assert (publisher.is_subscribed, publisher.needs) == (True, Needs.NOTHING)
    subscribed.update(['~/free_space', '~/occlusion'])
    assert publisher.needs == Needs.GRID | Needs.OBJECTS | Needs.VIRTUAL_DEPTH


def test_topics_offered_by_the_parameters() -> None:
    installed = {o.topic for o in OUTPUTS if o.message_type is not None}
    optional = {'~/points', '~/detections_3d', '~/occlusion'} & installed
    assert {o.topic for o in offered(Structure())} == installed - optional
    assert {o.topic for o in offered(Structure(depth=True, virtual_depth=True))} == installed


def test_markers_are_deleted_once_when_their_object_is_gone() -> None:
    size_wh = (320, 240)
    bench = Bench(['markers'])
    bench.pipeline.take_camera_info('/camera_info', calibration(size_wh, 250.0))
    near, far = (60, 100, 120, 180), (200, 110, 230, 150)

    def actions(boxes: list[tuple[int, int, int, int]], stamp_ns: int) -> list[tuple[int, int]]:
        ((_, data),) = bench.process(street(boxes, size_wh), stamp_ns)
        markers = deserialize_message(data, MarkerArray).markers
        return sorted((m.action, m.id) for m in markers if m.ns == 'car')

    assert actions([near, far], 0) == [(Marker.ADD, 1), (Marker.ADD, 2)]
    assert actions([near], 10**8) == [(Marker.ADD, 1), (Marker.DELETE, 2)]
    assert actions([near], 2 * 10**8) == [(Marker.ADD, 1)]


@pytest.mark.parametrize('packing', ['class_instance', 'thing_instance', 'segment_id'])
def test_compressed_maps_are_lossless(packing: str) -> None:
    tuning = Tuning(panoptic_packing=packing)
    topics = ['semantic', 'instance', 'panoptic']
    bench = Bench([*topics, *(f'{topic}/compressed' for topic in topics)], tuning=tuning)
    panoptic = street([BOX], SIZE_WH)
    panoptic.semantic[0] = 255
    sent = dict(bench.process(panoptic, 0))
    for topic in topics:
        message = sent[f'~/{topic}/compressed']
        assert message.header.frame_id == 'camera'
        png = np.frombuffer(message.data, np.uint8)
        pixels = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
        if topic == 'panoptic':
            assert message.format == 'rgb8; png compressed bgr8'
            blue, green, red = np.moveaxis(pixels.astype(int), -1, 0)
            pixels = red + 256 * green + 65536 * blue
        assert np.array_equal(pixels, array(sent[f'~/{topic}']))
    assert sent['~/instance/compressed'].format == '16UC1; png compressed '
    # The node reads what it writes.
    semantic = decode_compressed_image(sent['~/semantic/compressed'])
    assert np.array_equal(semantic.pixels, array(sent['~/semantic']))


def test_the_compressed_overlay_is_a_jpeg() -> None:
    bench = Bench(['overlay/compressed'])
    ((_, message),) = bench.process(street([BOX], SIZE_WH), 0)
    assert message.format == 'bgr8; jpeg compressed bgr8'
    assert decode_compressed_image(message).pixels.shape == (6, 8, 3)
