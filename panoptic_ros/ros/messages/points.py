"""Labelled point cloud: one point a pixel, ``sensor_msgs/PointCloud2``.

``sensor_msgs_py`` builds and reads the message where it is installed.
"""

from types import ModuleType

import cv2
import numpy as np
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

from panoptic_ros.panoptic import Panoptic
from panoptic_ros.ros.messages.cdr import header_cdr, point_cloud_cdr
from panoptic_ros.ros.messages.images import Picture
from panoptic_ros.ros.messages.optional import point_cloud2
from panoptic_ros.scene.geometry import CameraModel

POINT = np.dtype(
    [
        ('x', np.float32),
        ('y', np.float32),
        ('z', np.float32),
        ('rgb', np.uint32),
        ('label', np.uint32),
        ('instance', np.uint32),
    ]
)
"""Layout of a point: metres in the optical frame, 0x00RRGGBB, class id, instance id.

Names and types are those of PCL's PointXYZRGBL, which reads ``rgb`` as a float.
"""

FIELDS = [
    PointField(
        name=name,
        offset=POINT.fields[name][1],
        datatype=PointField.UINT32 if name in ('label', 'instance') else PointField.FLOAT32,
        count=1,
    )
    for name in POINT.names
]
"""The same layout, for the message."""

_TO_BGRA = {
    'bgr8': cv2.COLOR_BGR2BGRA,
    'rgb8': cv2.COLOR_RGB2BGRA,
    'mono8': cv2.COLOR_GRAY2BGRA,
}
# With alpha 0 the colour is never NaN as a float; readers skip NaN.
_NO_ALPHA = np.int32(0x00FFFFFF)


def point_cloud(
    header: Header,
    camera: CameraModel,
    depth_m: np.ndarray,
    panoptic: Panoptic,
    picture: Picture,
    module: ModuleType | None = point_cloud2,
) -> PointCloud2 | bytes:
    """Return a frame as an organised PointCloud2; serialised if ``module`` is None.

    Width and height are those of the map, and each point is at the index of its pixel. Where depth
    is unknown, x, y and z are NaN.

    Parameters
    ----------
    header
        Of the frame.
    camera
        Camera model for the pixels of the map.
    depth_m
        float32 [H, W], metres, NaN where unknown.
    panoptic, picture
        Map and image of that size.
    module
        The module ``sensor_msgs_py.point_cloud2``, None where it is not installed.
    """
    width, height = panoptic.size_wh
    x_per_m = ((np.arange(width) - camera.cx) / camera.fx).astype(np.float32)
    y_per_m = ((np.arange(height) - camera.cy) / camera.fy).astype(np.float32)
    bgra = cv2.cvtColor(picture.pixels, _TO_BGRA[picture.encoding])
    rgb = np.bitwise_and(bgra.view(np.int32)[..., 0], _NO_ALPHA)
    columns = (
        depth_m * x_per_m,
        depth_m * y_per_m[:, None],
        depth_m,
        rgb.view(np.float32),
        panoptic.semantic.astype(np.int32).view(np.float32),
        panoptic.instance.astype(np.int32).view(np.float32),
    )
    points = cv2.merge(columns)  # faster than writing the columns of a structured array
    if module is None:
        return point_cloud_cdr(header_cdr(header), FIELDS, points)
    flat = points.reshape(-1).view(module.dtype_from_fields(FIELDS, POINT.itemsize))
    cloud = module.create_cloud(header, FIELDS, flat, POINT.itemsize)
    # Of an array [H, W] it would take the height for the width.
    cloud.height, cloud.width, cloud.row_step = height, width, width * POINT.itemsize
    return cloud


def read_points(cloud: PointCloud2, module: ModuleType | None = point_cloud2) -> np.ndarray:
    """Return the points of a cloud of :func:`point_cloud`, :data:`POINT` [H, W].

    ``module`` is as for :func:`point_cloud`.
    """
    points = np.frombuffer(cloud.data, POINT) if module is None else module.read_points(cloud)
    return points.view(POINT).reshape(cloud.height, cloud.width)
