"""``~/free_space``: panoptic maps from above as nav_msgs/OccupancyGrid, and what comes close."""

from collections.abc import Callable
from functools import lru_cache, partial
from time import monotonic_ns
from typing import TYPE_CHECKING

import numpy as np
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from panoptic_ros.errors import FrameError
from panoptic_ros.labels import LabelSet
from panoptic_ros.ros.diagnostics import Surroundings
from panoptic_ros.ros.messages import stamp_ns
from panoptic_ros.ros.messages.cdr import NOT_TURNED_XYZW, occupancy_grid_cdr
from panoptic_ros.ros.transforms import Frames, quaternion_xyzw
from panoptic_ros.scene.collision import AgentMotion, time_to_collision_s
from panoptic_ros.scene.free_space import (
    CameraPose,
    FreeSpace,
    Grid,
    Traversability,
    free_space,
    ground_view,
)
from panoptic_ros.scene.geometry import GroundPlane

try:
    from nav_msgs.msg import OccupancyGrid
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


def ground_frame_origin(camera: CameraPose, grid: Grid) -> tuple[list[float], list[float]]:
    """Return where a grid in the camera's own ground frame lies in its optical frame.

    Its position x y z, metres, and its orientation, a quaternion x y z w.
    """
    position = camera.to_optical(np.array([*grid.origin_xy_m, 0.0]))
    return position.tolist(), quaternion_xyzw(camera.axes)


@lru_cache(maxsize=1)
def _of_camera_alone(
    ground: GroundPlane, grid: Grid
) -> tuple[CameraPose, tuple[list[float], list[float]]]:
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
        # With depth and without: what is measured and what is assumed are apart, and depth may
        # come with every other image only.
        self._motions = {True: AgentMotion(), False: AgentMotion()}
        self._rules: tuple[LabelSet, int, Traversability] | None = None
        self._latest: tuple[int, Callable[[], Surroundings]] | None = None

    @property
    def latest(self) -> Surroundings | None:
        """What was around lately; None if no grid was made lately."""
        latest = self._latest
        if latest is None or monotonic_ns() - latest[0] > KEPT_NS:
            return None
        return latest[1]()

    def destroy(self) -> None:
        """Stop listening to transforms."""
        if self._frames is not None:
            self._frames.destroy()

    def build(self, result: 'Result') -> bytes | None:
        """Return a frame's grid, a nav_msgs/OccupancyGrid, serialised.

        None without a calibration or, with a warning, a transform.
        """
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
            origin = (*grid.origin_xy_m, 0.0), NOT_TURNED_XYZW
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
        return occupancy_grid_cdr(header, grid.resolution_m, *origin, found.occupancy)

    def _traversability(self, label_set: LabelSet, walkable_cost: int) -> Traversability:
        if self._rules is None or self._rules[:2] != (label_set, walkable_cost):
            rules = Traversability.of(label_set, walkable_cost)
            self._rules = label_set, walkable_cost, rules
        return self._rules[2]

    def _look_around(
        self, result: 'Result', camera: CameraPose, found: FreeSpace
    ) -> Callable[[], Surroundings]:
        """Follow the agents; what is around is worked out when somebody asks, which is rare."""
        tuning, agents = result.tuning, found.agents
        if not tuning.tracking:  # ids mean nothing beyond a frame
            for motion in self._motions.values():
                motion.reset()
            return partial(Surroundings, found.closest_obstacle_m, ())
        motion = self._motions[result.depth_m is not None]
        position = agents.position_xy_m - camera.position_m[:2]
        velocity = motion.update(stamp_ns(result.header), agents.track_id, position)
        class_id = result.panoptic.segments.class_id[agents.row]
        return partial(
            _what_comes_close,
            found.closest_obstacle_m,
            [result.label_set.names[k] for k in class_id.tolist()],
            agents.track_id,
            (position, velocity, tuning.collision_radius_m),
        )


def _what_comes_close(
    closest_obstacle_m: float,
    names: list[str],
    track_id: np.ndarray,
    motion: tuple[np.ndarray, np.ndarray, float],
) -> Surroundings:
    seconds = time_to_collision_s(*motion)
    return Surroundings(
        closest_obstacle_m,
        tuple(
            (f'{names[row]} {track_id[row]}', float(seconds[row]))
            for row in np.flatnonzero(seconds <= HORIZON_S).tolist()
        ),
    )
