"""One frame: the record that every message is built from."""

from dataclasses import dataclass, field
from enum import Flag, auto
from functools import cached_property

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic, Segments
from panoptic_ros.ros.messages.cdr import header_cdr, image_cdr
from panoptic_ros.ros.messages.images import Picture
from panoptic_ros.ros.parameters import Tuning
from panoptic_ros.scene.depth import ObjectDepths
from panoptic_ros.scene.free_space import FreeSpace
from panoptic_ros.scene.geometry import CameraModel, GroundPlane, Placement
from panoptic_ros.scene.ground_view import Grid
from panoptic_ros.segmenter import Segmentation


class Needs(Flag):
    """The parts of a :class:`Scene` that a message is built from."""

    NOTHING = 0
    DEPTH = auto()
    VIRTUAL_DEPTH = auto()
    OBJECTS = auto()
    GRID = auto()


@dataclass(frozen=True, eq=False)
class GroundGrid:
    """Free space on the ground, and where its grid lies.

    Parameters
    ----------
    header
        Stamp of the image, frame of the grid.
    grid
        Cells.
    origin_xyz_m, orientation_xyzw
        Pose of the first cell's corner in the header's frame.
    free_space
        Contents of the cells.
    """

    header: Header
    grid: Grid
    origin_xyz_m: tuple[float, ...]
    orientation_xyzw: tuple[float, ...]
    free_space: FreeSpace


@dataclass(frozen=True, eq=False)
class Scene:
    """The 3D part of a frame; None where it was not needed or is not known.

    Parameters
    ----------
    depth_m
        float32 [H, W], metres along the optical axis, NaN where unknown.
    virtual_depth_m
        The same for virtual objects (augmented reality).
    measured
        Objects measured by depth, a row for each thing.
    placement
        Objects placed by depth, else by the ground plane or their known height, a row for each
        thing.
    position_xy_m
        float64 [n, 2], objects on the ground plane relative to the camera, NaN where unknown.
    velocity_m_s
        float32 [n, 3], of the objects relative to the camera, NaN where unknown. The x-y plane of
        ``position_xy_m`` and ``velocity_m_s`` is the ground.
    ground_grid
        Free space.
    """

    depth_m: np.ndarray | None = None
    virtual_depth_m: np.ndarray | None = None
    measured: ObjectDepths | None = None
    placement: Placement | None = None
    position_xy_m: np.ndarray | None = None
    velocity_m_s: np.ndarray | None = None
    ground_grid: GroundGrid | None = None


@dataclass(frozen=True, eq=False)
class Frame:
    """One segmented image. Messages are functions of it; building one changes nothing.

    Parameters
    ----------
    header
        Header of the image, copied to all messages.
    picture
        Decoded image.
    segmentation
        Panoptic map (ids are those of the tracks) and confidence.
    label_set
        Classes of the map.
    calibration
        Calibration of the camera as received; None without a usable one.
    camera
        Camera model for the pixels of the maps; None without a calibration, or if it is not that
        of a pinhole camera. Without it nothing is placed in space.
    ground
        Ground plane below the camera.
    tuning
        Parameters this frame is processed with.
    scene
        3D part; empty until it was estimated.
    """

    header: Header
    picture: Picture
    segmentation: Segmentation
    label_set: LabelSet
    calibration: CameraInfo | None
    camera: CameraModel | None
    ground: GroundPlane
    tuning: Tuning
    scene: Scene = field(default_factory=Scene)

    @property
    def panoptic(self) -> Panoptic:
        """Panoptic map."""
        return self.segmentation.panoptic

    @cached_property
    def things(self) -> Segments:
        """Objects."""
        return self.panoptic.segments.things

    @cached_property
    def header_cdr(self) -> bytes:
        """Serialised header, the start of messages that are written as bytes."""
        return header_cdr(self.header)

    def image(self, array: np.ndarray) -> bytes:
        """Return an array as a serialised Image message with the header of the frame."""
        return image_cdr(self.header_cdr, array)
