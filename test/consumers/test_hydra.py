"""Hydra's closed-set camera input, and the instance images of its sister package.

Rules:

* MIT-SPARK/Hydra-ROS, ``hydra_ros/src/input/image_receiver.cpp``: colour, depth and labels are
  three images of one size; labels are converted by cv_bridge without a target encoding.
* MIT-SPARK/Hydra, ``src/input/input_conversion.cpp``, ``convertLabels``: one channel of integers
  (8U, 16U, 32S), widened to 32S.
* MIT-SPARK/Hydra, ``src/reconstruction/semantic_integrator.cpp``: a label not below
  ``total_semantic_labels`` is an error in the log and is not integrated;
  ``src/active_window/reconstruction_module.cpp``: pixels of ``invalid_labels`` and of
  ``dynamic_labels`` are left out before that.
* MIT-SPARK/Hydra, ``src/common/label_space_config.cpp``: the keys of a label space.
* MIT-SPARK/semantic_inference, ``docs/instance_seg.md``,
  ``semantic_inference_ros/app/instance_segmentation_node``: instances are 32SC1,
  ``category << 16 | instance``, instances from 1, and 0 where no object is.
"""

import numpy as np
import pytest
import yaml

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from panoptic_ros.consumers import hydra_label_space
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.resources import resource

IMAGE, DEPTH, OUT = '/robot/image', '/robot/depth', '/robot/segment/'
SEMANTIC, PANOPTIC = OUT + 'semantic', OUT + 'panoptic'
RELIABLE = QoSProfile(depth=10)
LABELS = LabelSet.load('cityscapes')
# Road is most of the scene and sky too little to count, so part of the map is void.
NODE_ARGUMENTS = (
    *('--params-file', str(resource('config', 'consumers', 'hydra.yaml'))),
    *('-p', 'min_stuff_area_fraction:=0.35'),
)
KEYS = {
    *('total_semantic_labels', 'dynamic_labels', 'invalid_labels', 'object_labels'),
    *('surface_places_labels', 'label_names'),
}


@pytest.fixture
def frame(module_node, depth_camera, synchronise) -> dict[str, Image]:
    del depth_camera.others[DEPTH + '/camera_info']  # nobody here takes that
    sync = synchronise(dict.fromkeys([IMAGE, DEPTH, SEMANTIC, PANOPTIC], Image), RELIABLE, 10)
    depth_camera.film(1, lambda: len(sync.sets), 'colour, depth, labels and instances')
    return sync.sets[-1]


@pytest.fixture
def label_space() -> dict:
    return yaml.safe_load(hydra_label_space(LABELS))


def labels_of(message: Image) -> np.ndarray:
    """Do what cv_bridge and ``convertLabels`` do: one channel of integers, as 32S."""
    dtype = {'mono8': np.uint8, '8UC1': np.uint8, '16UC1': np.uint16, '32SC1': np.int32}
    pixels = np.frombuffer(message.data, dtype[message.encoding])
    return pixels.reshape(message.height, message.width).astype(np.int32)


def test_quality_of_service(module_node, assert_compatible) -> None:
    assert_compatible(SEMANTIC, RELIABLE)
    assert_compatible(PANOPTIC, RELIABLE)


def test_labels_have_the_size_of_colour_and_depth(frame) -> None:
    sizes = {(message.width, message.height) for message in frame.values()}
    assert sizes == {(128, 64)}
    assert frame[SEMANTIC].header == frame[IMAGE].header == frame[DEPTH].header


def test_every_label_is_integrated_or_left_out_on_purpose(frame, label_space) -> None:
    labels = labels_of(frame[SEMANTIC])
    left_out = {*label_space['invalid_labels'], *label_space['dynamic_labels']}
    integrated = labels[~np.isin(labels, list(left_out))]
    assert integrated.size
    assert integrated.max() < label_space['total_semantic_labels']
    assert VOID in labels, 'the scene does not show what becomes of void'
    car = LABELS.class_id('car')
    assert car in labels
    assert car in left_out


def test_label_space_has_hydra_s_keys(label_space) -> None:
    assert label_space.keys() == KEYS
    assert label_space['total_semantic_labels'] == len(LABELS)
    names = {entry['label']: entry['name'] for entry in label_space['label_names']}
    assert names == dict(enumerate(LABELS.names))


@pytest.mark.parametrize('name', ['cityscapes', 'coco', 'vistas', 'ade20k'])
def test_no_label_has_two_parts(name: str) -> None:
    space = yaml.safe_load(hydra_label_space(LabelSet.load(name)))
    kinds = ('dynamic_labels', 'object_labels', 'surface_places_labels')
    listed = [label for kind in kinds for label in space[kind]]
    assert len(set(listed)) == len(listed) > 0
    assert all(0 <= label < space['total_semantic_labels'] for label in listed)


def test_instances_are_packed_as_semantic_inference_does(frame) -> None:
    assert frame[PANOPTIC].encoding == '32SC1'
    packed = labels_of(frame[PANOPTIC])
    category, instance = packed >> 16, packed & 0xFFFF
    assert np.unique(instance).tolist() == [0, 1, 2]
    assert set(category[instance > 0].tolist()) == {LABELS.class_id('car')}
    assert not packed[instance == 0].any()
