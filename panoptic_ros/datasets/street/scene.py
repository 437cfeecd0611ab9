"""Synthetic street scenes: image, depth and exact panoptic truth.

Rendering is deferred: convex polygons are painted far to near into one map of face numbers, and
class, instance, depth, texture and colour of every pixel are looked up through that map. Image,
depth and truth therefore agree. The world (:mod:`.world`) is a closed-form function of seed and
time, so every frame can be rendered without the frames before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from panoptic_ros.datasets import Sample
from panoptic_ros.datasets.street.appearance import Appearance
from panoptic_ros.datasets.street.geometry import Camera, Ground
from panoptic_ros.datasets.street.painting import paint_faces, shadows
from panoptic_ros.datasets.street.polygons import street_polygons, thing_polygons
from panoptic_ros.datasets.street.style import generator, street_labels
from panoptic_ros.datasets.street.world import World
from panoptic_ros.errors import DatasetError
from panoptic_ros.panoptic import Panoptic


@dataclass(frozen=True, eq=False)
class StreetFrame:
    """One rendered camera frame with its truth, depth and camera.

    Parameters
    ----------
    image_rgb
        uint8 [H, W, 3].
    depth_m
        float32 [H, W], metres along the optical axis, NaN in the sky (REP 118).
    truth
        Class, instance and segments. An object keeps its instance id, which is also its
        ``segments.track_id``, while it is in the scene; ids are reused after kilometres.
    stamp_ns
        Time since frame 0, nanoseconds.
    camera_matrix
        float64 [3, 3], pinhole K without distortion; pixel centres lie at whole numbers.
    camera_height_m
        Height of the camera above the ground, which is a plane.
    camera_pitch_rad
        Angle of the optical axis below the horizon.
    """

    image_rgb: np.ndarray
    depth_m: np.ndarray
    truth: Panoptic
    stamp_ns: int
    camera_matrix: np.ndarray
    camera_height_m: float
    camera_pitch_rad: float

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.truth.size_wh


class SyntheticStreet:
    """An endless drive through one synthetic street, random access by frame number.

    Iterating yields frame 0, 1, 2, ... without end.

    Parameters
    ----------
    seed
        0 or more; the same seed gives the same bytes.
    size_wh
        Width and height of the image in pixels, each at least 32.
    frame_rate_hz
        Frames per second of scene time, 0.1 to 1000.
    horizontal_fov_deg
        Horizontal field of view, 10 to 150; the default is that of the Cityscapes camera.
    camera_height_m
        Height above the ground, 0.3 to 5.
    camera_pitch_rad
        Angle of the optical axis below the horizon, -0.5 to 0.5.

    Raises
    ------
    DatasetError
        If a parameter is out of its range.
    """

    def __init__(
        self,
        seed: int,
        size_wh: tuple[int, int] = (640, 320),
        frame_rate_hz: float = 10.0,
        *,
        horizontal_fov_deg: float = 48.7,
        camera_height_m: float = 1.3,
        camera_pitch_rad: float = 0.035,
    ) -> None:
        _check_whole('seed', seed)
        _check_size(size_wh)
        _check_range('frame_rate_hz', frame_rate_hz, 0.1, 1000.0)
        _check_range('horizontal_fov_deg', horizontal_fov_deg, 10.0, 150.0)
        _check_range('camera_height_m', camera_height_m, 0.3, 5.0)
        _check_range('camera_pitch_rad', camera_pitch_rad, -0.5, 0.5)
        self.frame_rate_hz = float(frame_rate_hz)
        self._camera = Camera(
            (int(size_wh[0]), int(size_wh[1])),
            float(horizontal_fov_deg),
            float(camera_height_m),
            float(camera_pitch_rad),
        )
        self._world = World(int(seed))
        self._ground = Ground(self._camera, self._world)
        self._look = Appearance(self._camera, self._world)

    def __iter__(self) -> Iterator[StreetFrame]:
        index = 0
        while True:
            yield self.frame(index)
            index += 1

    @property
    def camera_matrix(self) -> np.ndarray:
        """float64 [3, 3], the pinhole K of every frame."""
        return self._camera.matrix.copy()

    def frame(self, index: int) -> StreetFrame:
        """Render frame ``index``; raises DatasetError unless it is a whole number, 0 or more."""
        _check_whole('frame index', index)
        time_s = index / self.frame_rate_hz
        ego_s = self._world.ego_s(time_s)
        seen = self._world.seen(time_s)
        polygons = street_polygons(self._world, self._camera, self._ground, seen, ego_s)
        face = self._ground.faces(ego_s)
        faces = paint_faces(face, polygons, self._camera, self._ground)
        index_map = face.astype(np.intp)
        depth_m = faces.depth(index_map, self._camera)
        shadow = shadows(seen, self._world, self._camera, ego_s)
        image = self._look.image(index_map, faces, depth_m, shadow, self._ground, ego_s, index)
        truth = Panoptic.from_maps(
            faces.semantic.take(index_map), faces.instance.take(index_map), street_labels()
        )
        depth_m[face == 0] = np.nan
        return StreetFrame(
            image,
            depth_m,
            truth,
            round(time_s * 1e9),
            self._camera.matrix.copy(),
            self._camera.height_m,
            self._camera.pitch_rad,
        )

    def boxes(self, index: int) -> 'StreetBoxes':
        """Return boxes in space around the objects of frame ``index``."""
        _check_whole('frame index', index)
        time_s = index / self.frame_rate_hz
        seen, ego_s = self._world.seen(time_s), self._world.ego_s(time_s)
        polygons = thing_polygons(self._world, self._camera, seen, ego_s)
        count = np.diff(polygons.first, append=len(polygons.points))
        instance = np.repeat(polygons.instance, count)
        ids, row = np.unique(instance, return_inverse=True)
        low, high = np.full((len(ids), 3), np.inf), np.full((len(ids), 3), -np.inf)
        np.minimum.at(low, row, polygons.points)
        np.maximum.at(high, row, polygons.points)
        is_thing = ids > 0
        return StreetBoxes(ids[is_thing].astype(np.uint16), low[is_thing], high[is_thing])


@dataclass(frozen=True, eq=False)
class StreetBoxes:
    """Boxes around the sides of objects that face the camera, occluded or not.

    Parameters
    ----------
    id
        uint16 [n], instance ids, ascending, including objects outside the image.
    low_m, high_m
        float64 [n, 3], smallest and largest x, y and z in the optical frame.
    """

    id: np.ndarray
    low_m: np.ndarray
    high_m: np.ndarray


@dataclass(frozen=True)
class SyntheticSamples(Sequence[Sample]):
    """Independent labelled images, each from another street and camera.

    Each is rendered on access, with the same bytes every time. Raises DatasetError for bad
    parameters, IndexError beyond the end.
    """

    seed: int
    length: int
    size_wh: tuple[int, int] = (640, 320)

    def __post_init__(self) -> None:
        _check_whole('seed', self.seed)
        _check_whole('count', self.length)
        _check_size(self.size_wh)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Render one sample."""
        if not -self.length <= index < self.length:
            raise IndexError(f'sample {index} does not exist; there are {self.length}')
        index %= self.length
        rng = generator(self.seed, 5, index)
        street = SyntheticStreet(
            int(rng.integers(2**31)),
            self.size_wh,
            horizontal_fov_deg=float(rng.uniform(44, 58)),
            camera_height_m=float(rng.uniform(1.15, 1.5)),
            camera_pitch_rad=float(rng.uniform(0.0, 0.06)),
        )
        frame = street.frame(int(rng.integers(10000)))
        return Sample(
            f'synthetic_{self.seed}_{index}', frame.image_rgb, frame.truth, np.zeros(0, np.uint16)
        )


def synthetic_samples(
    seed: int, count: int, size_wh: tuple[int, int] = (640, 320)
) -> SyntheticSamples:
    """Return ``count`` independent labelled images for training and evaluation."""
    return SyntheticSamples(seed, count, size_wh)


def _check_whole(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise DatasetError(f'{name} is {value!r}; expected a whole number, 0 or more')


def _check_size(size_wh: tuple[int, int]) -> None:
    if (
        len(size_wh) != 2
        or not all(isinstance(v, int | np.integer) for v in size_wh)
        or not all(32 <= v <= 8192 for v in size_wh)
    ):
        raise DatasetError(
            f'size_wh is {size_wh!r}; expected whole numbers (width, height), each 32..8192'
        )


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise DatasetError(f'{name} is {value!r}; expected {low:g}..{high:g}')
