"""Isaac ROS nvblox in people mode: NVIDIA-ISAAC-ROS/isaac_ros_nvblox, main of March 2026.

Rules, all below ``nvblox_ros/src/lib`` but the last:

* ``nvblox_node.cpp``, ``subscribeToTopics``: colour, its camera_info, mask and its camera_info go
  through ExactTime with a queue of 10, depth and mask through ApproximateTime. Quality of service
  is SYSTEM_DEFAULT.
* ``conversions/image_conversions.cpp``, ``monoImageFromNitrosViewAsync``: the mask is mono8 and
  nothing else; it is copied as height * width bytes, so rows have no padding.
* ``colorImageFromNitrosViewAsync`` there: the camera's own colour image is rgb8 or bgra8.
* ``cameraFromMessage`` there: of camera_info count fx, fy, cx, cy of ``k``, width and height;
  distortion is passed over, so images have to be rectified.
* nvidia-isaac/nvblox, ``nvblox/src/semantics/image_masker.cu``: the mask lies on the colour image
  pixel by pixel and has the size of its own camera (both are checked, and end the process); every
  value but 0 is masked.
"""

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from panoptic_ros.labels import LabelSet
from panoptic_ros.resources import resource

IMAGE, CAMERA_INFO, OUT = '/robot/image', '/robot/camera_info', '/robot/segment/'
MASK, MASK_INFO = OUT + 'mask', OUT + 'camera_info'
SYSTEM_DEFAULT = QoSProfile(depth=10, reliability=ReliabilityPolicy.SYSTEM_DEFAULT)
NODE_ARGUMENTS = ('--params-file', str(resource('config', 'consumers', 'nvblox.yaml')))


@pytest.fixture
def frame(module_node, camera, synchronise) -> dict[str, Image | CameraInfo]:
    """Return the first set of messages that nvblox would take."""
    topics = {IMAGE: Image, CAMERA_INFO: CameraInfo, MASK: Image, MASK_INFO: CameraInfo}
    sync = synchronise(topics, SYSTEM_DEFAULT, 10)
    camera.film(3, lambda: len(sync.sets), 'sets of colour, mask and both camera_info')
    return sync.sets[-1]


def test_quality_of_service(module_node, assert_compatible) -> None:
    for reliability in ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT:
        for topic in MASK, MASK_INFO:
            assert_compatible(topic, QoSProfile(depth=10, reliability=reliability))


def test_mask_is_mono8_without_padding_and_of_the_image_s_size(frame) -> None:
    mask, colour = frame[MASK], frame[IMAGE]
    assert mask.encoding == 'mono8'
    assert (mask.width, mask.height) == (colour.width, colour.height)
    assert mask.step == mask.width
    assert len(mask.data) == mask.width * mask.height


def test_both_can_be_transformed_alike(frame) -> None:
    # processDepthImage looks the mask's own frame and stamp up in tf.
    assert frame[MASK].header == frame[IMAGE].header == frame[MASK_INFO].header
    assert frame[MASK].header.frame_id


def test_camera_of_the_mask_is_that_of_the_image(frame) -> None:
    mask, colour = frame[MASK_INFO], frame[CAMERA_INFO]
    for index in 0, 4, 2, 5:
        assert mask.k[index] == colour.k[index]
    assert (mask.width, mask.height) == (frame[MASK].width, frame[MASK].height)


def test_what_moves_is_masked_and_nothing_else(frame, scene_bgr) -> None:
    mask = np.frombuffer(frame[MASK].data, np.uint8).reshape(scene_bgr.shape[:2])
    # The scene's classes are painted in its red: 13 levels a class.
    shown = scene_bgr[..., 2] // 13
    moves = LabelSet.load('cityscapes').with_role('dynamic_agent')[shown]
    assert 0 < moves.mean() < 0.5
    assert np.array_equal(mask != 0, moves)


def test_class_ids_would_not_do_as_a_mask(module_node, camera, synchronise) -> None:
    # Why there is ~/mask: road is class 0, all others and void are not, so all but road is masked.
    sync = synchronise({OUT + 'semantic': Image}, SYSTEM_DEFAULT, 10)
    camera.film(1, lambda: len(sync.sets), 'a semantic map')
    semantic = np.frombuffer(sync.sets[-1][OUT + 'semantic'].data, np.uint8)
    sky = LabelSet.load('cityscapes').class_id('sky')
    assert (semantic[semantic != 0] == sky).any()


@pytest.mark.parametrize('encoding', ['rgb8', 'bgra8'])
def test_the_colours_nvblox_reads_are_segmented_too(
    module_node, peer, scene_bgr, encoding: str
) -> None:
    from panoptic_ros.ros.messages import image_message

    code = {'rgb8': cv2.COLOR_BGR2RGB, 'bgra8': cv2.COLOR_BGR2BGRA}[encoding]
    pixels = cv2.cvtColor(scene_bgr, code)
    message = image_message(scene_bgr, peer.header())
    message.encoding, message.step = encoding, pixels.strides[0]
    del message.data[:]
    message.data.frombytes(pixels.tobytes())
    peer.subscribe(Image, MASK)
    (mask,) = peer.exchange(IMAGE, message, MASK)
    assert set(mask.data) == {0, 255}
