"""Nav2's semantic segmentation layer: kiwicampus/semantic_segmentation_layer, rolling, April 2026.

Rules:

* ``src/semantic_segmentation_layer.cpp``, ``onInitialize``: mask, confidence and cloud are
  subscribed best effort with depth 50, labels reliable and transient local with depth 5; exact
  synchronisation has a queue of 1000. (The branches for Humble and Jazzy have the same.)
* ``syncSegmConfPointcloudCb`` there: the mask has as many pixels as the cloud has points, and at
  least a byte a pixel; a frame before the first LabelInfo is dropped.
* ``src/segmentation_buffer.cpp``, ``createSegmentationCostMultimap``: a class of LabelInfo that
  the parameters do not name is an error in the log and is ignored.
* ``bufferSegmentation`` there: bytes of mask and confidence are indexed by v * width + u without
  a look at encoding or step, together with the cloud's points in their order; a point whose z is
  not finite or whose distance is out of range is passed over; of the pixels on a tile the one
  with the highest ``max_cost`` (or the highest confidence) speaks for it, the first if several
  have it.
* ``include/semantic_segmentation_layer/segmentation_buffer.hpp``, ``getCostById``: a class
  without a cost has cost 0; ``hasClassId``: it is then not put into the map.
"""

import math
from dataclasses import dataclass, field
from textwrap import indent
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header

from panoptic_ros.consumers import nav2_layer
from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.resources import resource
from panoptic_ros.ros import messages

OUT = '/robot/segment/'
SEMANTIC, CONFIDENCE, LABEL_INFO = OUT + 'semantic', OUT + 'confidence', OUT + 'label_info'
POINTS = OUT + 'points'
CAMERA_POINTS = '/robot/camera/points'
SENSOR_DATA = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
RESOLUTION_M = 0.05
LABELS = LabelSet.load('cityscapes')
NODE_ARGUMENTS = (
    *('--params-file', str(resource('config', 'consumers', 'nav2.yaml'))),
    *('-p', 'min_stuff_area_fraction:=0.35'),  # sky becomes void
)
Tile = tuple[int, int]


@dataclass
class Layer:
    """What the layer does with a frame, in a map frame that is the camera's, turned upright."""

    parameters: dict[str, Any]
    cost_of_id: dict[int, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def take_label_info(self, label_info: Any) -> None:
        cost_of_name = {
            name: self.parameters[kind]['max_cost']
            for kind in self.parameters['class_types']
            for name in self.parameters[kind]['classes']
        }
        for entry in label_info.class_map:
            if entry.class_name in cost_of_name:
                self.cost_of_id[entry.class_id] = cost_of_name[entry.class_name]
            else:
                self.log.append(f'class {entry.class_name} is not in the parameters')

    def take(self, mask: Image, confidence: Image, cloud: PointCloud2) -> dict[Tile, int]:
        """Return the class that speaks for each tile."""
        pixels = mask.width * mask.height
        if pixels != cloud.width * cloud.height:
            self.log.append('mask and cloud differ in size')
            return {}
        if len(mask.data) < pixels:
            self.log.append('the mask is too short')
            return {}
        if not self.cost_of_id:
            self.log.append('no label info yet')
            return {}
        best: dict[Tile, int] = {}
        x, y, z = (values_of(cloud, name) for name in 'xyz')
        for i in np.flatnonzero(np.isfinite(z)).tolist():
            distance_m = math.sqrt(float(x[i]) ** 2 + float(y[i]) ** 2 + float(z[i]) ** 2)
            near_m = self.parameters['min_obstacle_distance']
            if not near_m < distance_m < self.parameters['max_obstacle_distance']:
                continue
            # z of the optical frame is forward, x is right.
            tile = (math.floor(z[i] / RESOLUTION_M), math.floor(-x[i] / RESOLUTION_M))
            if tile not in best or self._is_better(mask, confidence, i, best[tile]):
                best[tile] = i
        classes = {tile: mask.data[i] for tile, i in best.items()}
        return {tile: c for tile, c in classes.items() if c in self.cost_of_id}

    def _is_better(self, mask: Image, confidence: Image, i: int, other: int) -> bool:
        if self.parameters['use_cost_selection']:
            cost = self.cost_of_id.get
            return cost(mask.data[i], 0) > cost(mask.data[other], 0)
        return confidence.data[i] > confidence.data[other]


def values_of(cloud: PointCloud2, name: str) -> np.ndarray:
    """Read a field as sensor_msgs' PointCloud2ConstIterator<float> does: by its offset alone."""
    (offset,) = (f.offset for f in cloud.fields if f.name == name)
    count = cloud.width * cloud.height
    return np.ndarray((count,), np.float32, cloud.data, offset, (cloud.point_step,))


def parameters(**changes: Any) -> dict[str, Any]:
    layer = yaml.safe_load(nav2_layer(LABELS))['semantic_segmentation_layer']
    return layer['camera'] | changes


def label_info() -> Any:
    """Return what the node says of its labels, in a stand-in if there is no vision_msgs."""
    if messages.vision_msgs is not None:
        return messages.label_info_message(LABELS, Header())
    stand_in = SimpleNamespace(LabelInfo=SimpleNamespace, VisionClass=SimpleNamespace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages.detections, 'vision_msgs', stand_in)
        return messages.label_info_message(LABELS, Header())


def camera_points(header: Header, depth_m: np.ndarray) -> PointCloud2:
    """Return the cloud of a depth camera whose points lie on the pixels."""
    height, width = depth_m.shape
    focal_px = width / 2
    xyz = np.empty((height, width, 3), np.float32)
    xyz[..., 0] = (np.arange(width) - (width / 2 - 0.5)) / focal_px * depth_m
    xyz[..., 1] = (np.arange(height) - (height / 2 - 0.5))[:, None] / focal_px * depth_m
    xyz[..., 2] = depth_m
    cloud = PointCloud2(
        header=header,
        width=width,
        height=height,
        fields=[
            PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
            for i, name in enumerate('xyz')
        ],
        point_step=12,
        row_step=12 * width,
        is_dense=False,
    )
    cloud.data.frombytes(xyz.tobytes())
    return cloud


@pytest.fixture
def frame(module_node, camera, synchronise, scene_depth_m) -> dict[str, Any]:
    """Return what the layer's synchronisation hands over, with a depth camera's own cloud."""
    camera.others[CAMERA_POINTS] = lambda header: camera_points(header, scene_depth_m)
    topics = {SEMANTIC: Image, CONFIDENCE: Image, CAMERA_POINTS: PointCloud2}
    sync = synchronise(topics, SENSOR_DATA, 1000)
    camera.film(2, lambda: len(sync.sets), 'sets of mask, confidence and cloud')
    return sync.sets[-1]


def test_quality_of_service(module_node, assert_compatible) -> None:
    for topic in SEMANTIC, CONFIDENCE, POINTS:
        assert_compatible(topic, SENSOR_DATA)


def test_label_info_waits_for_late_subscribers(module_node, peer, assert_compatible) -> None:
    vision_msgs = pytest.importorskip(
        'vision_msgs.msg', reason='vision_msgs is not installed: the node has no ~/label_info'
    )
    # The node published it when it was activated, long before this subscription.
    received = []
    peer.node.create_subscription(vision_msgs.LabelInfo, LABEL_INFO, received.append, LATCHED)
    peer.wait_until(lambda: received, 'the label info')
    assert_compatible(LABEL_INFO, LATCHED)
    assert received[0].class_map == label_info().class_map
    layer = Layer(parameters())
    layer.take_label_info(received[0])
    assert layer.cost_of_id.keys() == set(range(len(LABELS)))


def test_label_info_names_every_class_and_void() -> None:
    said = {entry.class_id: entry.class_name for entry in label_info().class_map}
    assert said == dict(enumerate(LABELS.names)) | {VOID: 'void'}


def test_every_class_has_a_cost_but_void() -> None:
    layer = Layer(parameters())
    layer.take_label_info(label_info())
    assert layer.log == ['class void is not in the parameters']
    assert layer.cost_of_id.keys() == set(range(len(LABELS)))
    assert VOID not in layer.cost_of_id


@pytest.mark.parametrize('name', ['cityscapes', 'coco', 'vistas', 'ade20k'])
def test_ros_reads_the_parameters_as_they_are_meant(peer, tmp_path, name: str) -> None:
    # rcl's YAML is 1.1, in which some words are booleans, and lists are of one type.
    text = nav2_layer(LabelSet.load(name))
    path = tmp_path / 'layer.yaml'
    path.write_text('/**:\n  ros__parameters:\n' + indent(text, '    '))
    node = Node(
        'costmap',
        context=peer.node.context,
        cli_args=['--ros-args', '--params-file', str(path)],
        automatically_declare_parameters_from_overrides=True,
        enable_rosout=False,
    )
    prefix = 'semantic_segmentation_layer.camera.'
    (layer,) = yaml.safe_load(text).values()
    for kind in layer['camera']['class_types']:
        classes = node.get_parameter(f'{prefix}{kind}.classes').value
        assert list(classes) == layer['camera'][kind]['classes']
    assert node.get_parameter(prefix + 'max_obstacle_distance').value == 10.0
    node.destroy_node()


LAYER_PARAMETERS = {
    'enabled': bool,
    'combination_method': int,
    'observation_sources': str,
    'publish_debug_topics': bool,
    'use_approximate_time_sync': bool,
}
SOURCE_PARAMETERS = {
    **dict.fromkeys(['segmentation_topic', 'confidence_topic', 'labels_topic'], str),
    'pointcloud_topic': str,
    **dict.fromkeys(['observation_persistence', 'expected_update_rate'], float),
    'class_types': list,
    **dict.fromkeys(['max_obstacle_distance', 'min_obstacle_distance'], float),
    'tile_map_decay_time': float,
    **dict.fromkeys(['visualize_tile_map', 'use_cost_selection'], bool),
}
KIND_PARAMETERS = {
    'classes': list,
    **dict.fromkeys(['base_cost', 'max_cost', 'mark_confidence', 'samples_to_max_cost'], int),
    'dominant_priority': bool,
}


@pytest.mark.parametrize('name', ['cityscapes', 'coco', 'vistas', 'ade20k'])
def test_parameters_are_those_the_layer_declares_in_type_too(name: str) -> None:
    label_set = LabelSet.load(name)
    (layer,) = yaml.safe_load(nav2_layer(label_set)).values()
    # pluginlib's own, and the sources, are not declared by the layer.
    assert layer.pop('plugin') == 'semantic_segmentation_layer::SemanticSegmentationLayer'
    source = layer.pop(layer['observation_sources'])
    kinds = {kind: source.pop(kind) for kind in source['class_types']}
    for given, declared in (
        (layer, LAYER_PARAMETERS),
        (source, SOURCE_PARAMETERS),
        *((kind, KIND_PARAMETERS) for kind in kinds.values()),
    ):
        for key, value in given.items():
            assert type(value) is declared[key], key
    for kind in kinds.values():
        assert kind.keys() == KIND_PARAMETERS.keys()
        assert all(0 <= kind[cost] <= 254 for cost in ('base_cost', 'max_cost'))
    names = [c for kind in kinds.values() for c in kind['classes']]
    assert sorted(names) == sorted(label_set.names)
    assert kinds['agent']['dominant_priority']  # what moves is not outvoted by the road of before


def test_a_frame_before_the_labels_is_dropped(frame) -> None:
    layer = Layer(parameters())
    assert not layer.take(frame[SEMANTIC], frame[CONFIDENCE], frame[CAMERA_POINTS])
    assert layer.log == ['no label info yet']


def test_mask_and_confidence_are_one_byte_a_pixel_without_padding(frame) -> None:
    for topic in SEMANTIC, CONFIDENCE:
        image = frame[topic]
        assert image.encoding == 'mono8'
        assert image.step == image.width
        assert len(image.data) == image.width * image.height


def test_confidence_is_zero_where_there_is_no_class(frame) -> None:
    # Else void, if it is sure of itself, would speak for tiles that have a class.
    semantic = np.frombuffer(frame[SEMANTIC].data, np.uint8)
    confidence = np.frombuffer(frame[CONFIDENCE].data, np.uint8)
    assert (semantic == VOID).any()
    assert not confidence[semantic == VOID].any()
    assert (confidence[semantic != VOID] > 0).all()


def assert_costmap(frame: dict[str, Any], points: str, cost_selection: bool) -> None:
    """Check that cars are lethal where they stand, road is free, and void is nowhere."""
    layer = Layer(parameters(use_cost_selection=cost_selection))
    layer.take_label_info(label_info())
    layer.log.clear()
    tiles = layer.take(frame[SEMANTIC], frame[CONFIDENCE], frame[points])
    assert not layer.log
    car, road = LABELS.class_id('car'), LABELS.class_id('road')
    assert set(tiles.values()) == {car, road}
    six_metres = math.floor(6.0 / RESOLUTION_M)
    cars = {tile for tile, class_id in tiles.items() if class_id == car}
    assert {forward for forward, _ in cars} == {six_metres}
    sides = {left > 0 for _, left in cars}
    assert sides == {True, False}  # a car left and a car right of the axis
    assert {layer.cost_of_id[tiles[tile]] for tile in cars} == {254}
    assert layer.cost_of_id[road] == 0
    roads = [forward for (forward, _), class_id in tiles.items() if class_id == road]
    assert min(roads) * RESOLUTION_M < 4.0
    assert max(roads) * RESOLUTION_M > 8.0


@pytest.mark.parametrize('cost_selection', [True, False])
def test_costmap_with_a_depth_camera_s_cloud(frame, cost_selection: bool) -> None:
    assert_costmap(frame, CAMERA_POINTS, cost_selection)


@pytest.mark.parametrize('cost_selection', [True, False])
def test_costmap_with_our_cloud(
    module_node, depth_camera, synchronise, cost_selection: bool
) -> None:
    topics = {SEMANTIC: Image, CONFIDENCE: Image, POINTS: PointCloud2}
    sync = synchronise(topics, SENSOR_DATA, 1000)
    depth_camera.film(1, lambda: len(sync.sets), 'sets of mask, confidence and our cloud')
    assert_costmap(sync.sets[-1], POINTS, cost_selection)
