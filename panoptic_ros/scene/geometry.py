"""Pinhole camera, ground plane, and boxes in space without depth.

All positions are in the camera's optical frame (REP 103): x right, y down, z forward, metres.
Pixel coordinates are those of sensor_msgs/CameraInfo: (0, 0) is the centre of the top left pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from math import cos, isfinite, sin

import numpy as np
from scipy.spatial.transform import Rotation

from panoptic_ros.errors import FrameError


@dataclass(frozen=True)
class CameraModel:
    """A pinhole camera without lens distortion, as of rectified images.

    Parameters
    ----------
    fx, fy
        Focal lengths in pixels.
    cx, cy
        Principal point in pixels.
    size_wh
        Width and height of the image in pixels.

    Raises FrameError for a value that is not finite, a focal length or size that is not above 0.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    size_wh: tuple[int, int]

    def __post_init__(self) -> None:
        values = (self.fx, self.fy, self.cx, self.cy)
        if not (all(map(isfinite, values)) and self.fx > 0 and self.fy > 0):
            raise FrameError(
                f'camera has fx={self.fx} fy={self.fy} cx={self.cx} cy={self.cy}; expected finite '
                'numbers with fx and fy above 0: calibrate the camera, or correct the matrix K '
                'of its camera_info'
            )
        if len(self.size_wh) != 2 or not all(value > 0 for value in self.size_wh):
            raise FrameError(
                f'camera has size_wh {self.size_wh}; expected width and height above 0: correct '
                'width and height of its camera_info'
            )

    @classmethod
    def from_k(cls, k: Sequence[float] | np.ndarray, size_wh: tuple[int, int]) -> 'CameraModel':
        """Make a camera of the nine values of CameraInfo.k, row by row; raises FrameError."""
        values = np.asarray(k, np.float64).ravel()
        if values.shape != (9,):
            raise FrameError(f'camera matrix K has {len(values)} values; expected 9, row by row')
        fx, _, cx, _, fy, cy = values[:6].tolist()
        return cls(fx, fy, cx, cy, size_wh)

    def rays(self, pixel_xy: np.ndarray) -> np.ndarray:
        """Return the viewing ray of each pixel [..., 2], float64 [..., 3] with z = 1."""
        pixel_xy = np.asarray(pixel_xy, np.float64)
        ray = np.ones((*pixel_xy.shape[:-1], 3))
        ray[..., 0] = (pixel_xy[..., 0] - self.cx) / self.fx
        ray[..., 1] = (pixel_xy[..., 1] - self.cy) / self.fy
        return ray

    def project(self, point_m: np.ndarray) -> np.ndarray:
        """Return the pixel of each point [..., 3] in front of the camera, float64 [..., 2]."""
        x, y, z = np.moveaxis(np.asarray(point_m, np.float64), -1, 0)
        return np.stack([self.fx * x / z + self.cx, self.fy * y / z + self.cy], -1)


@dataclass(frozen=True)
class GroundPlane:
    """Flat ground below a camera that does not roll.

    Parameters
    ----------
    camera_height_m
        Metres from the ground up to the camera, above 0.
    pitch_rad
        Angle of the optical axis below the horizon, -pi/2..pi/2; negative looks up.
    max_range_m
        Distance from the camera up to which the plane is used, above 0. Towards the horizon a
        pixel covers more and more ground, and real ground is not flat.

    Raises ValueError if a value is out of range.
    """

    camera_height_m: float
    pitch_rad: float = 0.0
    max_range_m: float = 60.0

    def __post_init__(self) -> None:
        for name in ('camera_height_m', 'max_range_m'):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise ValueError(f'{name} is {value}; expected metres above 0')
        if not abs(self.pitch_rad) <= np.pi / 2:
            raise ValueError(
                f'pitch_rad is {self.pitch_rad}; expected radians from -pi/2 (straight up) to '
                'pi/2 (straight down)'
            )

    @property
    def down(self) -> np.ndarray:
        """The unit vector towards the ground in the optical frame, float64 [3]."""
        return np.array([0.0, cos(self.pitch_rad), sin(self.pitch_rad)])

    def depth_m(self, rays: np.ndarray) -> np.ndarray:
        """Return the depth z at which rays [..., 3] with z = 1 meet the ground, float64 [...].

        NaN at and above the horizon, and beyond ``max_range_m``.
        """
        slope = rays @ self.down
        depth = np.divide(
            self.camera_height_m, slope, out=np.full(slope.shape, np.nan), where=slope > 0
        )
        square = np.einsum('...i,...i', rays, rays)
        depth[depth * depth * square > self.max_range_m**2] = np.nan
        return depth


class PlacedBy(IntEnum):
    """The source of the position of a box."""

    NOTHING = 0
    """Unknown: neither the ground nor a known height gives a position; position, size are NaN."""
    GROUND = 1
    """Its lower edge stands on the ground plane."""
    KNOWN_HEIGHT = 2
    """Its depth is that at which an object of the usual height of its class appears as tall."""
    DEPTH = 3
    """It encloses the points of the object in a depth image."""


@dataclass(frozen=True, eq=False)
class Placement:
    """Boxes in space, one per row, in the optical frame.

    Parameters
    ----------
    position_m
        float64 [n, 3], the centre of the box, half its height above ``base_m``. Without depth it
        is on the visible side of the object, not inside.
    base_m
        float64 [n, 3], the centre of the lower edge; without depth, on the viewing ray of that
        pixel.
    size_m
        float64 [n, 3], extent along the box's x (right), y (down) and z (away from the camera).
        Without depth z is unknown and assumed equal to x.
    orientation_xyzw
        float64 [n, 4], quaternion from the box's axes to the optical frame's.
    method
        uint8 [n], a :class:`PlacedBy`.
    """

    position_m: np.ndarray
    base_m: np.ndarray
    size_m: np.ndarray
    orientation_xyzw: np.ndarray
    method: np.ndarray

    def where(self, rows: np.ndarray) -> 'Placement':
        """Return the rows chosen by a mask or an index array."""
        return Placement(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def otherwise(self, other: 'Placement') -> 'Placement':
        """Return these boxes, with those of another placement where the method is NOTHING."""
        rows = np.flatnonzero(self.method == PlacedBy.NOTHING)
        joined = {f.name: getattr(self, f.name).copy() for f in fields(self)}
        for name, values in joined.items():
            values[rows] = getattr(other, name)[rows]
        return Placement(**joined)


def upright_xyzw(pitch_rad: float, yaw_rad: np.ndarray) -> np.ndarray:
    """Return the orientation of upright boxes that are turned about the vertical by angles [n].

    Quaternions x y z w, float64 [n, 4], to the optical frame of a camera that looks down by
    ``pitch_rad``. A box with a small positive yaw shows its left side.
    """
    half_yaw = np.asarray(yaw_rad, np.float64) / 2
    cos_yaw, sin_yaw = np.cos(half_yaw), np.sin(half_yaw)
    cos_pitch, sin_pitch = cos(pitch_rad / 2), sin(pitch_rad / 2)
    xyzw = np.empty((*half_yaw.shape, 4))
    np.multiply(sin_pitch, cos_yaw, out=xyzw[..., 0])
    np.multiply(cos_pitch, sin_yaw, out=xyzw[..., 1])
    np.multiply(sin_pitch, sin_yaw, out=xyzw[..., 2])
    np.multiply(cos_pitch, cos_yaw, out=xyzw[..., 3])
    return xyzw


def quaternion_xyzw(axes: np.ndarray) -> list[float]:
    """Return the orientation of a frame as a unit quaternion x y z w.

    ``axes`` is [3, 3]: the rows are the frame's x, y and z axes in the parent frame.
    """
    return Rotation.from_matrix(np.asarray(axes).T).as_quat().tolist()


def place_boxes(
    boxes_xyxy: np.ndarray, camera: CameraModel, ground: GroundPlane, heights_m: np.ndarray
) -> Placement:
    """Place boxes of an image in space without depth.

    The depth is that at which the ray through the centre of the lower edge meets the ground plane.
    If it does not meet it within range, the depth follows from the usual height of the object
    (``fy * height / box height`` without pitch). A box at the lower border of the image is cut
    off: both depths are then too large, and the smaller one is used.

    Parameters
    ----------
    boxes_xyxy
        Real [n, 4], pixels, x0 y0 inclusive, x1 y1 exclusive (as in ``Segments.box_xyxy``).
    camera
        The camera of the image.
    ground
        The ground plane.
    heights_m
        Real [n], usual height of each object in metres, NaN where unknown
        (``LabelSet.heights_m[class_id]``).

    Raises ValueError for other shapes.
    """
    box = np.asarray(boxes_xyxy, np.float64)
    height = np.asarray(heights_m, np.float64)
    if box.ndim != 2 or box.shape[1] != 4:
        raise ValueError(f'boxes_xyxy has shape {box.shape}; expected [n, 4]')
    if height.shape != box.shape[:1]:
        raise ValueError(f'heights_m has shape {height.shape}; expected {box.shape[:1]}')
    x0, y0, x1, y1 = box.T
    _, down_y, down_z = ground.down.tolist()
    # The edge of a box is half a pixel before the centre of its first pixel.
    right = ((x0 + x1) / 2 - 0.5 - camera.cx) / camera.fx
    low, high = ((y - 0.5 - camera.cy) / camera.fy for y in (y1, y0))
    # An upright object of height h at depth z: low z - h down, seen along the ray high, gives
    # h = z * rise.
    with np.errstate(divide='ignore', invalid='ignore'):
        rise = (low - high) / (down_y - high * down_z)
        rise[~(down_y > high * down_z)] = np.nan
        by_height = np.where(rise > 0, height / rise, np.nan)
    rays = np.stack([right, low, np.ones(len(box))], -1)
    by_ground = ground.depth_m(rays)
    cut_off = y1 >= camera.size_wh[1]
    use_height = np.isnan(by_ground) | (cut_off & (by_height < by_ground))
    depth = np.where(use_height, by_height, by_ground)
    method = np.where(use_height, PlacedBy.KNOWN_HEIGHT, PlacedBy.GROUND).astype(np.uint8)
    is_nowhere = ~(np.isfinite(depth) & (depth > 0) & (rise > 0) & (x1 > x0))
    method[is_nowhere] = PlacedBy.NOTHING
    depth[is_nowhere] = np.nan

    base = rays * depth[:, None]
    across = (x1 - x0) / camera.fx * depth
    tall = rise * depth
    return Placement(
        position_m=base - tall[:, None] / 2 * ground.down,
        base_m=base,
        size_m=np.stack([across, tall, across], -1),
        orientation_xyzw=upright_xyzw(ground.pitch_rad, np.zeros(len(box))),
        method=method,
    )
