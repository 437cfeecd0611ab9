"""The labelled cloud: one point for each pixel, as sensor_msgs/PointCloud2."""

import cv2
import numpy as np
from sensor_msgs.msg import PointField

from panoptic_ros.panoptic import Panoptic
from panoptic_ros.ros.messages import Picture
from panoptic_ros.ros.messages.cdr import point_cloud_cdr
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
"""One point: metres in the optical frame, 0x00RRGGBB, class id, instance id.

Names and types are those of PCL's PointXYZRGBL, which takes ``rgb`` for a float.
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
"""The same as the message says it."""

_TO_BGRA = {
    'bgr8': cv2.COLOR_BGR2BGRA,
    'rgb8': cv2.COLOR_RGB2BGRA,
    'mono8': cv2.COLOR_GRAY2BGRA,
}
# The byte of alpha is 0: as a float the colour then is a number, never NaN, which readers skip.
_NO_ALPHA = np.int32(0x00FFFFFF)


class CloudBuilder:
    """Makes clouds, in memory that is kept: at VGA it is 7 MB, and new memory costs time."""

    def __init__(self) -> None:
        self._points = np.zeros((0, 0, len(FIELDS)), np.float32)
        self._columns = np.zeros((len(FIELDS), 0, 0), np.float32)

    def build(
        self,
        header: bytes,
        camera: CameraModel,
        depth_m: np.ndarray,
        panoptic: Panoptic,
        picture: Picture,
    ) -> bytes:
        """Return the cloud of a frame, serialised.

        It is organised: width and height are the map's, and the point of a pixel lies where the
        pixel does. Where depth is not known, x, y and z are NaN.

        Parameters
        ----------
        header
            From :func:`cdr.header_cdr`.
        camera
            The camera of the map's pixels.
        depth_m
            float32 [H, W], metres, NaN where it is not known.
        panoptic, picture
            The map and the picture, of the same size.
        """
        width, height = panoptic.size_wh
        shape = (height, width, len(FIELDS))
        if self._points.shape != shape:
            self._points = np.empty(shape, np.float32)
            self._columns = np.empty((len(FIELDS), height, width), np.float32)
        x_per_m = ((np.arange(width) - camera.cx) / camera.fx).astype(np.float32)
        y_per_m = ((np.arange(height) - camera.cy) / camera.fy).astype(np.float32)
        bgra = cv2.cvtColor(picture.pixels, _TO_BGRA[picture.encoding])
        x, y, _, rgb, label, instance = self._columns
        np.multiply(depth_m, x_per_m, out=x)
        np.multiply(depth_m, y_per_m[:, None], out=y)
        np.bitwise_and(bgra.view(np.int32)[..., 0], _NO_ALPHA, out=rgb.view(np.int32))
        label.view(np.int32)[:] = panoptic.semantic
        instance.view(np.int32)[:] = panoptic.instance
        cv2.merge((x, y, depth_m, rgb, label, instance), self._points)
        return point_cloud_cdr(header, FIELDS, self._points)
