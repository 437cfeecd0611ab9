from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from panoptic_ros.labels import VOID, LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.ros.messages import Picture
from panoptic_ros.ros.messages.optional import point_cloud2
from panoptic_ros.ros.messages.points import POINT, point_cloud, read_points
from panoptic_ros.scene.geometry import CameraModel

LABELS = LabelSet.load('cityscapes')
CAR = LABELS.class_id('car')
CAMERA = CameraModel(fx=2.0, fy=4.0, cx=1.0, cy=0.5, size_wh=(3, 2))
HEADER = Header(frame_id='camera_optical')


def read(cloud: PointCloud2) -> np.ndarray:
    """Read a cloud by what it says of itself, as sensor_msgs_py does."""
    kinds = {PointField.FLOAT32: 'f4', PointField.UINT32: 'u4'}
    dtype = np.dtype(
        {
            'names': [f.name for f in cloud.fields],
            'formats': [('<>'[cloud.is_bigendian]) + kinds[f.datatype] for f in cloud.fields],
            'offsets': [f.offset for f in cloud.fields],
            'itemsize': cloud.point_step,
        }
    )
    assert cloud.row_step == cloud.width * cloud.point_step
    assert len(cloud.data) == cloud.height * cloud.row_step
    return np.frombuffer(cloud.data, dtype).reshape(cloud.height, cloud.width)


def as_message(data: bytes) -> PointCloud2:
    return deserialize_message(data, PointCloud2)


class StandIn:
    """Stands in for the module sensor_msgs_py.point_cloud2; takes unorganised points only."""

    @staticmethod
    def dtype_from_fields(fields: list[PointField], point_step: int) -> np.dtype:
        kinds = {PointField.FLOAT32: np.float32, PointField.UINT32: np.uint32}
        return np.dtype(
            {
                'names': [f.name for f in fields],
                'formats': [kinds[f.datatype] for f in fields],
                'offsets': [f.offset for f in fields],
                'itemsize': point_step,
            }
        )

    @classmethod
    def create_cloud(
        cls, header: Header, fields: list[PointField], points: np.ndarray, point_step: int
    ) -> PointCloud2:
        assert points.dtype == cls.dtype_from_fields(fields, point_step)
        cloud = PointCloud2(header=header, fields=fields, point_step=point_step)
        cloud.height, (cloud.width,) = 1, points.shape
        cloud.row_step = cloud.width * point_step
        cloud.data.frombytes(points.tobytes())
        return cloud

    @classmethod
    def read_points(cls, cloud: PointCloud2) -> np.ndarray:
        return np.frombuffer(cloud.data, cls.dtype_from_fields(cloud.fields, cloud.point_step))


def small_frame(encoding: str = 'bgr8') -> tuple:
    semantic = np.array([[CAR, 0, VOID], [CAR, 0, 0]], np.uint8)
    instance = np.array([[65535, 0, 0], [65535, 0, 0]], np.uint16)
    depth_m = np.array([[2, 4, np.nan], [8, np.nan, 1]], np.float32)
    pixels = np.array([[[1, 2, 200]] * 3, [[255, 254, 253]] * 3], np.uint8)
    picture = Picture(pixels[..., 0] if encoding == 'mono8' else pixels, encoding)
    panoptic = Panoptic.from_maps(semantic, instance, LABELS)
    return HEADER, CAMERA, depth_m, panoptic, picture


def small_cloud(encoding: str = 'bgr8') -> PointCloud2:
    return as_message(point_cloud(*small_frame(encoding), module=None))


def test_a_small_cloud() -> None:
    cloud = small_cloud()
    assert cloud.header == HEADER
    assert (cloud.width, cloud.height, cloud.is_dense) == (3, 2, False)
    assert [f.name for f in cloud.fields] == ['x', 'y', 'z', 'rgb', 'label', 'instance']
    assert [f.offset for f in cloud.fields] == [0, 4, 8, 12, 16, 20]
    assert [f.count for f in cloud.fields] == [1] * 6
    assert [f.datatype for f in cloud.fields] == [PointField.FLOAT32] * 4 + [PointField.UINT32] * 2
    assert cloud.point_step == POINT.itemsize == 24
    points = read(cloud)
    nan = np.nan
    for name, expected in (
        ('x', [[-1, 0, nan], [-4, nan, 0.5]]),
        ('y', [[-0.25, -0.5, nan], [1, nan, 0.125]]),
        ('z', [[2, 4, nan], [8, nan, 1]]),
    ):
        assert np.array_equal(points[name], np.float32(expected), equal_nan=True)
    assert points['label'].tolist() == [[CAR, 0, VOID], [CAR, 0, 0]]
    assert points['instance'].tolist() == [[65535, 0, 0], [65535, 0, 0]]
    bits = points['rgb'].view(np.uint32)
    assert bits.tolist() == [[0xC80201] * 3, [0xFDFEFF] * 3]
    # Readers that leave out points with a NaN anywhere leave out none for its colour.
    assert not np.isnan(points['rgb']).any()


@pytest.mark.parametrize(
    ('encoding', 'expected'), [('rgb8', [0x0102C8, 0xFFFEFD]), ('mono8', [0x010101, 0xFFFFFF])]
)
def test_other_pictures(encoding: str, expected: list[int]) -> None:
    points = read(small_cloud(encoding))
    assert points['rgb'].view(np.uint32)[:, 0].tolist() == expected


@settings(deadline=None, max_examples=30)
@given(width=st.integers(1, 9), height=st.integers(1, 9))
def test_every_pixel_has_its_point(width: int, height: int) -> None:
    rng = np.random.default_rng(width * 10 + height)
    camera = CameraModel(3.0, 5.0, width / 2, height / 3, (width, height))
    instance = rng.integers(0, 3, (height, width)).astype(np.uint16)
    panoptic = Panoptic.from_maps(
        np.where(instance > 0, CAR, 1).astype(np.uint8), instance, LABELS
    )
    depth_m = rng.uniform(0.1, 50, (height, width)).astype(np.float32)
    depth_m[rng.random((height, width)) < 0.3] = np.nan
    picture = Picture(rng.integers(0, 256, (height, width, 3), np.uint8), 'bgr8')
    cloud = point_cloud(HEADER, camera, depth_m, panoptic, picture, module=None)
    points = read(as_message(cloud))
    known = ~np.isnan(depth_m)
    xyz = np.stack([points[name] for name in 'xyz'], -1)
    assert np.array_equal(np.isnan(xyz).any(-1), ~known)
    y, x = np.nonzero(known)
    assert camera.project(xyz[known]) == pytest.approx(np.stack([x, y], -1), abs=1e-3)
    assert np.array_equal(points['instance'], instance)
    assert np.array_equal(points['label'], panoptic.semantic)
    red = points['rgb'].view(np.uint32) >> 16
    assert np.array_equal(red, picture.pixels[..., 2])


@pytest.mark.parametrize(
    'module',
    [
        StandIn,
        pytest.param(
            point_cloud2,
            marks=pytest.mark.skipif(
                point_cloud2 is None, reason='sensor_msgs_py is not installed'
            ),
            id='sensor_msgs_py',
        ),
    ],
)
def test_sensor_msgs_py_builds_and_reads_the_same_bytes(module: Any) -> None:
    serialized = point_cloud(*small_frame(), module=None)
    cloud = point_cloud(*small_frame(), module=module)
    # Not the serialised bytes: those between the fields of CDR have no defined value.
    assert as_message(serialize_message(cloud)) == as_message(serialized)
    points = read_points(cloud, module)
    assert points.dtype == POINT
    assert points.shape == (2, 3)
    assert points.tobytes() == read_points(cloud, None).tobytes() == read(cloud).tobytes()
