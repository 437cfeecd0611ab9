"""Augmented reality: occlusion of virtual objects, and planes to place them on.

Depth is along the optical axis, metres, NaN where unknown. Points are in the optical frame
(REP 103).
"""

from dataclasses import dataclass

import numpy as np

from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import NO_INSTANCE, Panoptic
from panoptic_ros.scene.geometry import CameraModel, GroundPlane

DEPTH_TOLERANCE = 0.02
"""Relative depth difference up to which a nearer real surface does not occlude."""

BIN_M = 0.02
"""Thickness of the layers in which surfaces are searched for."""

MAX_HEIGHT_M = 4.0
"""Largest height of a surface above or below the ground."""

MIN_POINTS = 30
"""Smallest number of points on a plane."""

MIN_INLIERS = 0.15
"""Smallest fraction of the points of a segment that lie on its plane."""

MAX_TILT = np.cos(np.radians(15))
"""Cosine of the largest tilt of a supporting surface."""

DEPTH_COLUMNS = 160
"""Number of columns of pixels from which points are sampled; rows have the same spacing."""


def occlusion_mask(virtual_depth_m: np.ndarray, real_depth_m: np.ndarray) -> np.ndarray:
    """Return which pixels of a virtual image are hidden by real surfaces, bool [H, W].

    Parameters
    ----------
    virtual_depth_m
        float [H, W], NaN, infinite or not above 0 where nothing is drawn.
    real_depth_m
        float [H, W], a depth image or :func:`scene_depth`; nothing is hidden where it is unknown.

    Raises ValueError if the sizes differ.
    """
    if virtual_depth_m.shape != real_depth_m.shape:
        raise ValueError(
            f'virtual_depth_m is {virtual_depth_m.shape}; expected {real_depth_m.shape}, the '
            'size of real_depth_m'
        )
    is_drawn = np.isfinite(virtual_depth_m) & (virtual_depth_m > 0)
    return is_drawn & (real_depth_m < virtual_depth_m * (1 - DEPTH_TOLERANCE))


def scene_depth(
    panoptic: Panoptic,
    label_set: LabelSet,
    camera: CameraModel,
    ground: GroundPlane,
    object_depth_m: np.ndarray,
) -> np.ndarray:
    """Approximate a depth image: objects as planes parallel to the image, flat ground.

    Parameters
    ----------
    panoptic
        The map.
    label_set
        The classes; ground is what is drivable or walkable.
    camera
        The camera of the map.
    ground
        The ground plane.
    object_depth_m
        float [n], depth of each row of ``segments.things``; NaN where unknown.

    Returns
    -------
    float32 [H, W], NaN for sky and for stuff that is not ground.
    """
    things = panoptic.segments.things
    if np.shape(object_depth_m) != (len(things),):
        raise ValueError(
            f'object_depth_m has shape {np.shape(object_depth_m)}; expected {(len(things),)}'
        )
    of_id = np.full(int(things.id.max(initial=NO_INSTANCE)) + 1, np.nan, np.float32)
    of_id[things.id] = object_depth_m
    is_ground = label_set.with_role('drivable') | label_set.with_role('walkable')
    is_ground = (is_ground & ~label_set.is_thing).take(panoptic.semantic)
    # Without roll, the ground has one depth in each image row.
    row = np.arange(len(is_ground))
    depth_of_row = ground.depth_m(camera.rays(np.stack([np.full(len(row), camera.cx), row], -1)))
    return np.where(
        is_ground, depth_of_row[:, None].astype(np.float32), of_id.take(panoptic.instance)
    )


@dataclass(frozen=True, eq=False)
class Planes:
    """Level surfaces to place objects on, one per row, in the optical frame.

    Parameters
    ----------
    row
        intp [n], the row of the segment in the panoptic map.
    normal
        float64 [n, 3], unit vectors that point up.
    centre_m
        float64 [n, 3], centre of the visible part of the plane.
    size_m
        float64 [n, 2], extent of the visible part along :attr:`across`, and away from the camera.
    across
        float64 [n, 3], unit vectors in the plane that point to the right.
    inliers
        float32 [n], 0..1, fraction of the segment that lies on the plane.
    """

    row: np.ndarray
    normal: np.ndarray
    centre_m: np.ndarray
    size_m: np.ndarray
    across: np.ndarray
    inliers: np.ndarray

    def __len__(self) -> int:
        return len(self.row)


def support_planes(
    panoptic: Panoptic,
    label_set: LabelSet,
    camera: CameraModel,
    ground: GroundPlane,
    depth_m: np.ndarray | None = None,
) -> Planes:
    """Fit a plane to every segment with the role ``support_surface``.

    With depth, the most frequent height of a segment's points separates a table top from its legs.
    A plane is fitted to the points near that height by least squares, and refined twice. Without
    depth, ground classes lie on the ground plane, and other segments have no plane.

    Parameters
    ----------
    panoptic
        The map.
    label_set
        The classes, with the roles of surfaces and of ground.
    camera
        The camera of the map.
    ground
        Gives the vertical; with depth, height and pitch need not be exact.
    depth_m
        float32 [H, W] of the map's size, or None.

    Raises ValueError if map, camera and depth differ in size.
    """
    shape = panoptic.semantic.shape
    if camera.size_wh != panoptic.size_wh or (depth_m is not None and depth_m.shape != shape):
        raise ValueError(
            f'the map is {panoptic.size_wh}, the camera {camera.size_wh}, depth '
            f'{None if depth_m is None else depth_m.shape[::-1]}; expected one size'
        )
    wanted = label_set.with_role('support_surface')
    if depth_m is None:
        wanted &= label_set.with_role('drivable') | label_set.with_role('walkable')
    step = max(1, shape[1] // DEPTH_COLUMNS)
    row, column = (step * index for index in np.nonzero(wanted[panoptic.semantic[::step, ::step]]))
    ray = camera.rays(np.stack([column, row], -1))
    depth = ground.depth_m(ray) if depth_m is None else depth_m[row, column].astype(np.float64)
    known = np.flatnonzero(np.isfinite(depth))
    owner = panoptic.rows_at(row[known] * shape[1] + column[known])
    # Points sorted by segment; radix sort for 16 bits.
    order = np.argsort(owner.astype(np.uint16), kind='stable')
    known = known[order]
    groups = _Groups.of(owner[order])
    point = np.ascontiguousarray(ray[known].T) * depth[known]

    up = -ground.down
    height = ground.camera_height_m + up @ point
    level = groups.mode(height) - ground.camera_height_m
    normal, centre = np.tile(up, (len(groups), 1)), level[:, None] * up
    # Depth is less accurate far away.
    exactness = np.maximum(1, point[2] / 2)
    moments = _moments(point)
    for tolerance_m in (2 * BIN_M, BIN_M, BIN_M):
        off = groups.dot(normal, point) - groups.each((normal * centre).sum(1))
        near = np.abs(off) <= tolerance_m * exactness
        sums = groups.sum(moments * near)
        normal, centre = _fit(sums, up)
    inliers = sums[0]
    share = inliers / np.maximum(groups.size, 1)
    good = (inliers >= MIN_POINTS) & (share >= MIN_INLIERS) & (normal @ up >= MAX_TILT)
    across, centre, size = _extent(groups, point, near, normal, centre)
    return Planes(
        groups.owner[good],
        normal[good],
        centre[good],
        size[good],
        across[good],
        share[good].astype(np.float32),
    )


@dataclass(frozen=True, eq=False)
class _Groups:
    """Points sorted by segment; ``owner`` intp [n] are the segments."""

    owner: np.ndarray
    start: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, owner: np.ndarray) -> '_Groups':
        """Group by the segment of each point, sorted."""
        start = np.flatnonzero(np.diff(owner, prepend=-1))
        return cls(owner[start], start, np.diff(start, append=len(owner)))

    def __len__(self) -> int:
        return len(self.owner)

    def each(self, values: np.ndarray) -> np.ndarray:
        """Return the value [n] of its segment for each point."""
        return np.repeat(values, self.size)

    def dot(self, vectors: np.ndarray, point: np.ndarray) -> np.ndarray:
        """Return the dot product of each point [3, k] with the vector [n, 3] of its segment."""
        return sum(self.each(vectors[:, k]) * point[k] for k in range(3))

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum values [m, k] by segment, [m, n]."""
        return np.add.reduceat(values, self.start, axis=1) if len(self) else values[:, :0]

    def mode(self, height: np.ndarray) -> np.ndarray:
        """Return the most frequent height [k] of each segment, float64 [n]."""
        bins = round(2 * MAX_HEIGHT_M / BIN_M)
        layer = np.floor((height + MAX_HEIGHT_M) / BIN_M)
        inside = (layer >= 0) & (layer < bins)
        key = (self.each(np.arange(len(self)) * bins) + layer)[inside].astype(np.intp)
        votes = np.bincount(key, minlength=len(self) * bins).reshape(len(self), bins)
        # Neighbouring layers are added for planes that are tilted or between two layers.
        votes[:, 1:-1] = votes[:, :-2] + votes[:, 1:-1] + votes[:, 2:]
        return (votes.argmax(1) + 0.5) * BIN_M - MAX_HEIGHT_M


_PAIRS = np.triu_indices(3)


def _moments(point: np.ndarray) -> np.ndarray:
    """Return 1, x, y, z and their products xx, xy, xz, yy, yz, zz of points [3, k]: [10, k]."""
    i, j = _PAIRS
    return np.concatenate([np.ones((1, point.shape[1])), point, point[i] * point[j]])


def _fit(sums: np.ndarray, up: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the upward normals and the centres of planes from sums of moments [10, n]."""
    number = np.maximum(sums[0], 1)
    centre = (sums[1:4] / number).T
    i, j = _PAIRS
    scatter = np.zeros((len(number), 3, 3))
    scatter[:, i, j] = scatter[:, j, i] = sums[4:].T - sums[1:4].T[:, i] * centre[:, j]
    normal = np.linalg.eigh(scatter)[1][:, :, 0]  # of the smallest eigenvalue
    return np.where((normal @ up < 0)[:, None], -normal, normal), centre


def _extent(
    groups: _Groups, point: np.ndarray, near: np.ndarray, normal: np.ndarray, centre: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the directions across, and the centres and sizes of the planes' rectangles.

    Only points that are ``near``, bool [k], count.
    """
    right = np.array([1.0, 0.0, 0.0])
    across = right - normal * normal[:, :1]
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
    middle_m, size_m = np.zeros((2, len(groups), 2))
    if len(groups):
        for axis, direction in enumerate((across, np.cross(normal, across))):
            along = groups.dot(direction, point) - groups.each((direction * centre).sum(1))
            low = np.minimum.reduceat(np.where(near, along, np.inf), groups.start)
            high = np.maximum.reduceat(np.where(near, along, -np.inf), groups.start)
            with np.errstate(invalid='ignore'):  # of segments without such points
                middle_m[:, axis], size_m[:, axis] = (low + high) / 2, high - low
            centre = centre + middle_m[:, axis, None] * direction
    return across, centre, size_m
