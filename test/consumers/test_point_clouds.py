"""Readers of ~/points: PCL and with it octomap_server, Hydra, rviz.

Rules:

* PointCloudLibrary/pcl, ``common/include/pcl/conversions.h`` and ``impl/point_types.hpp``,
  ``FieldMatches``: fields are found by name, datatype and count; x, y, z are FLOAT32, ``rgb`` is
  FLOAT32 or UINT32, ``label`` is UINT32 (PointXYZRGB, PointXYZRGBA, PointXYZRGBL). What does not
  match is left out with a warning. Bytes of a point lie at row * row_step + column * point_step.
* PCL, ``PointCloud::is_dense``: false where any point is not finite.
* OctoMap/octomap_mapping, ros2, ``octomap_server/src/octomap_server.cpp``: the cloud is subscribed
  best effort with depth 5; pcl::PassThrough takes out what is not finite; colours of
  ColorOctomapServer are PointXYZRGB's.
* MIT-SPARK/Hydra-ROS, ``hydra_ros/src/input/pointcloud_adaptor.cpp``: x, y, z are FLOAT32 or
  FLOAT64, ``rgb`` FLOAT32 or UINT32 with blue in the lowest byte, ``label`` any integer.
* ros2/rviz, ``displays/pointcloud/point_cloud2_display.cpp``: x, y and z exist; the data is
  width * height * point_step bytes; points that are not finite are passed over.
"""

import sys

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2, PointField

from panoptic_ros.labels import LabelSet
from panoptic_ros.resources import resource

IMAGE, OUT = '/robot/image', '/robot/segment/'
POINTS, SEMANTIC, INSTANCE = OUT + 'points', OUT + 'semantic', OUT + 'instance'
SENSOR_DATA = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
LABELS = LabelSet.load('cityscapes')
NODE_ARGUMENTS = ('--params-file', str(resource('config', 'consumers', 'octomap.yaml')))

DTYPES = {
    PointField.INT8: np.int8,
    PointField.UINT8: np.uint8,
    PointField.INT16: np.int16,
    PointField.UINT16: np.uint16,
    PointField.INT32: np.int32,
    PointField.UINT32: np.uint32,
    PointField.FLOAT32: np.float32,
    PointField.FLOAT64: np.float64,
}
PCL_FIELDS = {
    'x': {PointField.FLOAT32},
    'y': {PointField.FLOAT32},
    'z': {PointField.FLOAT32},
    'rgb': {PointField.FLOAT32, PointField.UINT32},
    'label': {PointField.UINT32},
}


@pytest.fixture
def frame(module_node, depth_camera, synchronise) -> dict[str, Image | PointCloud2]:
    topics = {IMAGE: Image, SEMANTIC: Image, INSTANCE: Image, POINTS: PointCloud2}
    sync = synchronise(topics, SENSOR_DATA, 10)
    depth_camera.film(1, lambda: len(sync.sets), 'image, maps and cloud of one frame')
    return sync.sets[-1]


def read(cloud: PointCloud2, name: str) -> np.ndarray:
    """Read a field by its offset and the steps, [H, W], as all of these readers do."""
    (found,) = (f for f in cloud.fields if f.name == name)
    return np.ndarray(
        (cloud.height, cloud.width),
        DTYPES[found.datatype],
        cloud.data,
        found.offset,
        (cloud.row_step, cloud.point_step),
    )


def test_quality_of_service(module_node, assert_compatible) -> None:
    assert_compatible(POINTS, SENSOR_DATA)


def test_fields_match_those_of_pcl(frame) -> None:
    fields = {f.name: f for f in frame[POINTS].fields}
    assert len(fields) == len(frame[POINTS].fields)
    for name, datatypes in PCL_FIELDS.items():
        assert fields[name].datatype in datatypes, name
        assert fields[name].count == 1, name
    assert 'rgba' not in fields  # readers would have to choose


def test_bytes_are_where_the_message_says(frame) -> None:
    cloud = frame[POINTS]
    assert cloud.is_bigendian == (sys.byteorder == 'big')
    assert len(cloud.data) == cloud.width * cloud.height * cloud.point_step
    assert cloud.row_step == cloud.width * cloud.point_step
    ends = [f.offset + np.dtype(DTYPES[f.datatype]).itemsize * f.count for f in cloud.fields]
    assert max(ends) <= cloud.point_step
    begins = sorted(f.offset for f in cloud.fields)
    assert all(a <= b for a, b in zip(sorted(ends)[:-1], begins[1:], strict=True)), 'they overlap'
    # C++ readers take the address of a float.
    assert all(f.offset % 4 == 0 for f in cloud.fields)
    assert cloud.point_step % 4 == 0


def test_cloud_is_organised_as_the_image(frame) -> None:
    cloud = frame[POINTS]
    assert (cloud.width, cloud.height) == (frame[IMAGE].width, frame[IMAGE].height)
    assert cloud.header == frame[IMAGE].header


def test_points_are_where_the_camera_measured_them(frame, scene_depth_m) -> None:
    cloud = frame[POINTS]
    height, width = scene_depth_m.shape
    x, y, z = (read(cloud, name) for name in 'xyz')
    np.testing.assert_allclose(z, scene_depth_m)
    v, u = np.indices((height, width))
    np.testing.assert_allclose(x, (u - (width / 2 - 0.5)) / 64.0 * scene_depth_m, rtol=1e-5)
    np.testing.assert_allclose(y, (v - (height / 2 - 0.5)) / 64.0 * scene_depth_m, rtol=1e-5)


def test_points_without_depth_are_not_finite_and_the_cloud_says_so(frame, scene_depth_m) -> None:
    cloud = frame[POINTS]
    unknown = ~np.isfinite(scene_depth_m)
    assert unknown.any()
    for name in 'xyz':
        np.testing.assert_array_equal(np.isnan(read(cloud, name)), unknown)
    assert not cloud.is_dense


def test_colours_are_those_of_the_picture(frame, scene_bgr) -> None:
    packed = read(frame[POINTS], 'rgb').view(np.uint32)
    bgr = np.stack([packed >> shift & 0xFF for shift in (0, 8, 16)], axis=-1)
    np.testing.assert_array_equal(bgr, scene_bgr)


def test_labels_and_instances_are_those_of_the_maps(frame) -> None:
    cloud, shape = frame[POINTS], (frame[POINTS].height, frame[POINTS].width)
    semantic = np.frombuffer(frame[SEMANTIC].data, np.uint8).reshape(shape)
    instance = np.frombuffer(frame[INSTANCE].data, np.uint16).reshape(shape)
    np.testing.assert_array_equal(read(cloud, 'label'), semantic)
    np.testing.assert_array_equal(read(cloud, 'instance'), instance)
    assert set(np.unique(instance).tolist()) == {0, 1, 2}
    assert LABELS.class_id('car') in semantic
