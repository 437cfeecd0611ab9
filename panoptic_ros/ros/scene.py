"""The 3D part of a frame: depth, objects in space and their velocities, free space.

All state of it is here: the velocity estimates of the tracker advance once a frame, whatever is
built from the result.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
from std_msgs.msg import Header

from panoptic_ros.errors import FrameError
from panoptic_ros.labels import LabelSet
from panoptic_ros.ros.diagnostics import Proximity
from panoptic_ros.ros.frame import Frame, GroundGrid, Needs, Scene
from panoptic_ros.ros.messages.cdr import IDENTITY_XYZW
from panoptic_ros.ros.parameters import Tuning
from panoptic_ros.scene.collision import time_to_collision_s
from panoptic_ros.scene.depth import ObjectDepths, measure_objects
from panoptic_ros.scene.free_space import Traversability, free_space
from panoptic_ros.scene.geometry import (
    CameraModel,
    GroundPlane,
    PlacedBy,
    Placement,
    place_boxes,
    quaternion_xyzw,
)
from panoptic_ros.scene.ground_view import CameraPose, Grid, GroundView
from panoptic_ros.scene.tracking import Tracker

DEPTH_NOISE = 0.02
"""Standard deviation of the position of a measured object, as a share of its depth."""

LOWER_EDGE_NOISE_PX = 2.0
"""Standard deviation of the lower edge of a mask, which places an object on the ground."""

MAX_OFF_PLANE = 0.5
"""Share of the ground with another depth than the plane above which the pose is taken as wrong."""

COLLISION_HORIZON_S = 30.0
"""Collisions farther in the future are not reported."""

FindDepth = Callable[[Frame], np.ndarray | None]
FindPose = Callable[[Header, Tuning], CameraPose]


class SceneEstimator:
    """Estimates the 3D part of each frame.

    Parameters
    ----------
    label_set
        Classes of the frames.
    tracker
        Tracker that assigned the ids of the frames.
    find_depth, find_virtual_depth
        Return the depth image of a frame, float32 [H, W], or None; they may wait for one that is
        on its way. None if the node takes no depth.
    find_pose
        Returns the pose of the camera in ``target_frame`` at a header's stamp, or raises
        FrameError. None for the pose that the parameters give, in the camera's own frame.
    target_frame
        Frame of the grid, used with ``find_pose``.
    warn
        Logs a warning.
    """

    def __init__(
        self,
        label_set: LabelSet,
        tracker: Tracker,
        *,
        find_depth: FindDepth | None = None,
        find_virtual_depth: FindDepth | None = None,
        find_pose: FindPose | None = None,
        target_frame: str = '',
        warn: Callable[[str], None] = print,
    ) -> None:
        self._traversability = lru_cache(maxsize=1)(partial(Traversability.of, label_set))
        # One camera has the same view in every frame unless its pose changes.
        self._ground_view = lru_cache(maxsize=1)(GroundView)
        self._tracker = tracker
        self._find_depth = find_depth
        self._find_virtual_depth = find_virtual_depth
        self._find_pose = find_pose
        self._target_frame = target_frame
        self._warn = warn

    def estimate(self, frame: Frame, needs: Needs) -> Scene:
        """Return the parts of the scene that are needed; call it at most once a frame."""
        if not needs:
            return Scene()
        depth_m = self._find_depth(frame) if self._find_depth else None
        virtual_depth_m = None
        if Needs.VIRTUAL_DEPTH in needs and self._find_virtual_depth:
            virtual_depth_m = self._find_virtual_depth(frame)
        if frame.camera is None or not needs & (Needs.OBJECTS | Needs.GRID):
            return Scene(depth_m, virtual_depth_m)
        pose = self._pose(frame)
        measured = placement = position_xy_m = velocity_m_s = grid = None
        if Needs.OBJECTS in needs:
            measured, placement = place_objects(frame, frame.camera, depth_m)
            position_xy_m, velocity_m_s = self._follow(
                frame, frame.camera, pose, measured, placement
            )
        if Needs.GRID in needs and pose is not None:
            grid = self._free_space(frame, frame.camera, pose, depth_m)
        return Scene(
            depth_m, virtual_depth_m, measured, placement, position_xy_m, velocity_m_s, grid
        )

    def _pose(self, frame: Frame) -> CameraPose | None:
        """Return the pose of the camera above the ground; None, with a warning, without one."""
        if self._find_pose is None:
            return _pose_over(frame.ground)
        try:
            return self._find_pose(frame.header, frame.tuning)
        except FrameError as error:
            self._warn(f'{error}; this image has no ~/free_space and no velocities')
            return None

    def _follow(
        self,
        frame: Frame,
        camera: CameraModel,
        pose: CameraPose | None,
        measured: ObjectDepths | None,
        placement: Placement,
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Advance the velocity estimates by this frame; returns positions and velocities.

        Measured positions and those on an assumed ground plane differ by more than their noise,
        so a node that takes depth uses only the first.
        """
        if pose is None:
            return None, None
        # Relative to the camera, but with the axes of the ground frame: with a target frame a
        # turning camera does not make a standing object move.
        position_m = placement.position_m @ pose.matrix.T
        if not frame.tuning.tracking:
            return position_m[:, :2], None
        if self._find_depth is None:
            is_used = placement.method == PlacedBy.GROUND
            depth_m = placement.base_m[:, 2]
            per_pixel = LOWER_EDGE_NOISE_PX / (camera.fy * frame.ground.camera_height_m)
            noise_m = DEPTH_NOISE * depth_m + per_pixel * depth_m**2
        elif measured is not None:
            is_used = measured.boxes.method == PlacedBy.DEPTH
            noise_m = DEPTH_NOISE * measured.depth_m
        else:
            is_used, noise_m = np.zeros(len(position_m), bool), np.ones(len(position_m))
        located_m = np.where(is_used[:, None], position_m, np.nan)
        self._tracker.locate(located_m, noise_m)
        return position_m[:, :2], self._tracker.tracks.supported_velocity_m_s

    def _free_space(
        self, frame: Frame, camera: CameraModel, pose: CameraPose, depth_m: np.ndarray | None
    ) -> GroundGrid:
        tuning, header = frame.tuning, frame.header
        grid = Grid.ahead(tuning.grid_length_m, tuning.grid_width_m, tuning.grid_resolution_m)
        if self._find_pose is None:
            origin_xyz_m, orientation_xyzw = grid_in_optical_frame(pose, grid)
        else:
            grid = grid_in_target_frame(pose, grid)
            origin_xyz_m, orientation_xyzw = (*grid.origin_xy_m, 0.0), IDENTITY_XYZW
            header = Header(stamp=header.stamp, frame_id=self._target_frame)
        found = free_space(
            frame.panoptic,
            self._ground_view(camera, pose, grid, tuning.ground_range_m, tuning.pose_tolerance),
            self._traversability(tuning.walkable_cost),
            agent_margin_m=tuning.agent_margin_m,
            obstacle_height_m=tuning.obstacle_height_m,
            depth_m=depth_m,
        )
        if found.off_plane > MAX_OFF_PLANE:
            self._warn(
                f'the depth of {found.off_plane:.0%} of the ground does not lie on the ground '
                'plane, so ~/free_space is unknown there; set camera_height_m and '
                'camera_pitch_rad, or publish the pose of the camera on /tf_static'
            )
        return GroundGrid(header, grid, origin_xyz_m, orientation_xyzw, found)


def place_objects(
    frame: Frame, camera: CameraModel, depth_m: np.ndarray | None
) -> tuple[ObjectDepths | None, Placement]:
    """Return what depth measures of the objects (None without depth), and where they are."""
    measured = None
    if depth_m is not None:
        ground = frame.ground if frame.tuning.turn_boxes else None
        measured = measure_objects(frame.panoptic, depth_m, camera, ground)
        if (measured.boxes.method == PlacedBy.DEPTH).all():
            return measured, measured.boxes
    things = frame.things
    heights_m = frame.label_set.heights_m[things.class_id]
    assumed = place_boxes(things.box_xyxy, camera, frame.ground, heights_m)
    return measured, assumed if measured is None else measured.boxes.otherwise(assumed)


def proximity(frame: Frame) -> Proximity:
    """Return the nearest obstacle and the objects that come closer."""
    scene, grid = frame.scene, frame.scene.ground_grid
    closest_m = None if grid is None else grid.free_space.closest_obstacle_m
    if scene.velocity_m_s is None or scene.position_xy_m is None:
        return Proximity(closest_m, ())
    things, names = frame.things, frame.label_set.names
    rows = np.flatnonzero(frame.label_set.with_role('dynamic_agent')[things.class_id])
    seconds = time_to_collision_s(
        scene.position_xy_m[rows], scene.velocity_m_s[rows, :2], frame.tuning.collision_radius_m
    )
    return Proximity(
        closest_m,
        tuple(
            (f'{names[class_id]} {track_id}', second)
            for class_id, track_id, second in zip(
                things.class_id[rows].tolist(),
                things.track_id[rows].tolist(),
                seconds.tolist(),
                strict=True,
            )
            if second <= COLLISION_HORIZON_S
        ),
    )


def grid_in_optical_frame(
    pose: CameraPose, grid: Grid
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the pose of a grid below the camera in the camera's optical frame.

    Position x y z of the grid's first corner, metres, and orientation, a quaternion x y z w.
    """
    corner_m = np.array([*grid.origin_xy_m, 0.0])
    return tuple(pose.to_optical(corner_m).tolist()), tuple(quaternion_xyzw(pose.matrix))


def grid_in_target_frame(pose: CameraPose, ahead: Grid) -> Grid:
    """Return the grid in another frame that covers what ``ahead`` covers in front of the camera.

    Its axes are those of the frame, its cells lie at multiples of the resolution. It is a square
    as long as the diagonal of ``ahead``: its size does not depend on the camera's pose. If the
    camera looks straight down, the upper edge of the image counts as ahead.
    """
    looks_down = abs(pose.axes[2][2]) >= 0.9
    forward = pose.matrix[:2] @ ([0.0, -1.0, 0.0] if looks_down else [0.0, 0.0, 1.0])
    forward /= np.linalg.norm(forward)
    left = np.array([-forward[1], forward[0]])
    corners = ahead.corners_xy_m
    centre = corners.mean(0)
    centre_m = pose.position_m[:2] + centre[0] * forward + centre[1] * left
    diagonal_m, resolution_m = np.linalg.norm(corners[2] - corners[0]), ahead.resolution_m
    cells = int(np.ceil(diagonal_m / resolution_m - 1e-6)) + 1
    low = np.floor((centre_m - diagonal_m / 2) / resolution_m + 1e-6)
    x, y = (low * resolution_m).tolist()
    return Grid(resolution_m, (x, y), (cells, cells))


@lru_cache(maxsize=8)  # cameras
def _pose_over(ground: GroundPlane) -> CameraPose:
    return CameraPose.over(ground)
