"""``~/free_space``: panoptic maps from above as nav_msgs/OccupancyGrid, and what comes close."""

from functools import lru_cache
from time import monotonic_ns
from typing import TYPE_CHECKING

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from panoptic_ros.collision import AgentMotion, time_to_collision_s
from panoptic_ros.errors import FrameError
from panoptic_ros.free_space import (
    CameraPose,
    FreeSpace,
    Grid,
    Traversability,
    free_space,
    ground_view,
)
from panoptic_ros.geometry import GroundPlane
from panoptic_ros.labels import LabelSet
from panoptic_ros.ros.diagnostics import Surroundings
from panoptic_ros.ros.frames import Frames, quaternion_xyzw
from panoptic_ros.ros.messages import stamp_ns

try:
    from nav_msgs.msg import MapMetaData, OccupancyGrid
except ModuleNotFoundError:  # a ROS without navigation
    OccupancyGrid = None

if TYPE_CHECKING:
    from panoptic_ros.ros.outputs import Result

WARN_PERIOD_S = 5.0
"""A warning about transforms is not repeated within so many seconds."""

HORIZON_S = 30.0
"""A collision that is farther off is none yet."""

KEPT_NS = 2_000_000_000
"""What was around is not reported for longer than this."""


def occupancy_message(
    occupancy: np.ndarray, grid: Grid, pose: Pose, header: Header
) -> 'OccupancyGrid':
    """Wrap a grid in a message; ``pose`` is that of its first cell's corner in the header's frame.

    Parameters
    ----------
    occupancy
        int8 [size y, size x].
    """
    width, height = grid.size_xy
    info = MapMetaData(
        map_load_time=header.stamp,
        resolution=grid.resolution_m,
        width=width,
        height=height,
        origin=pose,
    )
    message = OccupancyGrid(header=header, info=info)
    # Assigning checks it value by value.
    message.data.frombytes(np.ascontiguousarray(occupancy).data.cast('B'))
    return message


def ground_frame_origin(camera: CameraPose, grid: Grid) -> Pose:
    """Return where a grid in the camera's own ground frame lies in its optical frame."""
    x, y, z = camera.to_optical(np.array([*grid.origin_xy_m, 0.0])).tolist()
    turn_x, turn_y, turn_z, turn_w = quaternion_xyzw(camera.axes)
    return Pose(
        position=Point(x=x, y=y, z=z),
        orientation=Quaternion(x=turn_x, y=turn_y, z=turn_z, w=turn_w),
    )


@lru_cache(maxsize=1)
def _of_camera_alone(ground: GroundPlane, grid: Grid) -> tuple[CameraPose, Pose]:
    camera = CameraPose.over(ground)
    return camera, ground_frame_origin(camera, grid)


def target_grid(camera: CameraPose, ahead: Grid) -> Grid:
    """Return the grid in another frame that covers what ``ahead`` covers in front of the camera.

    Its axes are those of the frame, its cells lie at multiples of the resolution. A camera that
    looks straight down has its upper edge ahead.
    """
    forward = camera.matrix[:2] @ ([0.0, 0.0, 1.0] if abs(camera.axes[2][2]) < 0.9 else [0, -1, 0])
    forward /= np.linalg.norm(forward)
    left = np.array([-forward[1], forward[0]])
    corners = ahead.corners_xy_m
    return ahead.around(camera.position_m[:2] + corners[:, :1] * forward + corners[:, 1:] * left)


class SurroundingsBuilder:
    """Makes the grid of each frame, and keeps track of what comes closer.

    Parameters
    ----------
    node
        Logs, and listens to transforms if a target frame is wanted.
    target_frame
        The grid's frame; empty for that of the image.

    Raises ParameterError if a target frame is wanted and tf2 is not installed.
    """

    def __init__(self, node: LifecycleNode, target_frame: str) -> None:
        self._node = node
        self._frames = Frames(node, target_frame) if target_frame else None
        self._motion = AgentMotion()
        self._had_depth = False
        self._rules: tuple[LabelSet, int, Traversability] | None = None
        self._latest: tuple[int, Surroundings] | None = None

    @property
    def latest(self) -> Surroundings | None:
        """What was around lately; None if no grid was made lately."""
        latest = self._latest
        if latest is None or monotonic_ns() - latest[0] > KEPT_NS:
            return None
        return latest[1]

    def destroy(self) -> None:
        """Stop listening to transforms."""
        if self._frames is not None:
            self._frames.destroy()

    def build(self, result: 'Result') -> 'OccupancyGrid | None':
        """Return a frame's grid; None without a calibration or, with a warning, a transform."""
        if result.camera is None:
            return None
        tuning, header = result.tuning, result.header
        grid = Grid.ahead(tuning.grid_length_m, tuning.grid_width_m, tuning.grid_resolution_m)
        if self._frames is None:
            camera, origin = _of_camera_alone(result.ground, grid)
        else:
            try:
                camera = self._frames.camera_pose(header)
            except FrameError as error:
                self._node.get_logger().warning(
                    f'~/free_space: {error}; this image goes without',
                    throttle_duration_sec=WARN_PERIOD_S,
                )
                return None
            grid = target_grid(camera, grid)
            x, y = grid.origin_xy_m
            origin = Pose(position=Point(x=x, y=y))
            header = Header(stamp=header.stamp, frame_id=self._frames.target_frame)
        found = free_space(
            result.panoptic,
            ground_view(result.camera, camera, grid, tuning.ground_range_m),
            self._traversability(result.label_set, tuning.walkable_cost),
            agent_margin_m=tuning.agent_margin_m,
            obstacle_height_m=tuning.obstacle_height_m,
            depth_m=result.depth_m,
        )
        self._latest = monotonic_ns(), self._look_around(result, camera, found)
        return occupancy_message(found.occupancy, grid, origin, header)

    def _traversability(self, label_set: LabelSet, walkable_cost: int) -> Traversability:
        if self._rules is None or self._rules[:2] != (label_set, walkable_cost):
            rules = Traversability.of(label_set, walkable_cost)
            self._rules = label_set, walkable_cost, rules
        return self._rules[2]

    def _look_around(self, result: 'Result', camera: CameraPose, found: FreeSpace) -> Surroundings:
        tuning, agents = result.tuning, found.agents
        if not tuning.tracking:  # ids mean nothing beyond a frame
            self._motion.reset()
            return Surroundings(found.closest_obstacle_m, ())
        has_depth = result.depth_m is not None
        if has_depth != self._had_depth:  # what was assumed and what is measured are apart
            self._motion.reset()
        self._had_depth = has_depth
        position = agents.position_xy_m - camera.position_m[:2]
        velocity = self._motion.update(stamp_ns(result.header), agents.track_id, position)
        seconds = time_to_collision_s(position, velocity, tuning.collision_radius_m)
        names = result.label_set.names
        class_id = result.panoptic.segments.class_id[agents.row]
        return Surroundings(
            found.closest_obstacle_m,
            tuple(
                (f'{names[class_id[row]]} {agents.track_id[row]}', float(seconds[row]))
                for row in np.flatnonzero(seconds <= HORIZON_S).tolist()
            ),
        )
