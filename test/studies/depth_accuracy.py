"""``python test/studies/depth_accuracy.py``: accuracy of objects measured by depth.

The masks are the ground truth of the synthetic street, so that only the measurement is tested.
The depth is exact, or has the errors of depth cameras. Positions, sizes and velocities relative to
the camera are compared with the boxes of the street.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter_ns

import cv2
import numpy as np
from tqdm import tqdm

from panoptic_ros.datasets.street.scene import StreetBoxes, SyntheticStreet
from panoptic_ros.panoptic import Segments
from panoptic_ros.scene.depth import measure_objects
from panoptic_ros.scene.geometry import CameraModel
from panoptic_ros.scene.tracking import Tracker

KINDS = ('exact', 'camera', 'outliers')
"""Exact depth; with noise and flying pixels; with 30 % outliers and 20 % holes in addition."""

NOISE_PER_M = 0.001
"""Standard deviation of depth over its square, 1/m, as of a stereo camera."""

RANGES_M = (0.0, 10.0, 20.0, 40.0)
FRAME_RATE_HZ = 15.0
MIN_AREA_PX = 150
MIN_SHOWN = 0.8
"""Least visible share of an object, in width and in height."""


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors of the measurements, one row for each measured object of a frame.

    Parameters
    ----------
    distance_m
        float64 [n], depth of the object's near side.
    near_m
        float64 [n], error of the depth of the near side.
    across_m
        float64 [n, 2], error of the middle of the box to the right and down.
    size_ratio
        float64 [n, 2], measured width and height over the true ones.
    velocity_m_s
        float64 [n, 3], error of the velocity, NaN where it was not known.
    unknown
        Number of objects that could not be measured.
    median_ms
        Median time of :func:`panoptic_ros.scene.depth.measure_objects` per frame.
    """

    distance_m: np.ndarray
    near_m: np.ndarray
    across_m: np.ndarray
    size_ratio: np.ndarray
    velocity_m_s: np.ndarray
    unknown: int
    median_ms: float


def degrade(depth_m: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return a depth image, float32 [H, W], with the errors of one of :data:`KINDS`."""
    if kind == 'exact':
        return depth_m
    noise = rng.standard_normal(depth_m.shape, np.float32)
    degraded = depth_m + noise * np.float32(NOISE_PER_M) * depth_m**2
    # Pixels across an edge are an average of both sides.
    known_m = np.nan_to_num(depth_m, nan=1000.0)
    kernel = np.ones((3, 3), np.uint8)
    near, far = cv2.erode(known_m, kernel), cv2.dilate(known_m, kernel)
    flies = far > 1.05 * near + 0.3
    degraded[flies] = (near + (far - near) * rng.random(depth_m.shape, np.float32))[flies]
    if kind == 'outliers':
        chance = rng.random(depth_m.shape)
        outliers = chance < 0.3
        degraded[outliers] = rng.uniform(1, 80, np.count_nonzero(outliers))
        degraded[chance > 0.8] = np.nan
    return degraded


def measure_errors(kind: str, seeds: Iterable[int], frames: int) -> Errors:
    """Measure all sufficiently visible objects of some streets.

    Parameters
    ----------
    kind
        One of :data:`KINDS`.
    seeds
        Seeds of the streets.
    frames
        Number of frames of each, at :data:`FRAME_RATE_HZ`.
    """
    rows: list[np.ndarray] = []
    unknown, took_ns = 0, []
    for seed in seeds:
        street, tracker = SyntheticStreet(seed, (640, 480), FRAME_RATE_HZ), Tracker()
        rng = np.random.default_rng(seed)
        camera = CameraModel.from_k(street.camera_matrix, (640, 480))
        before: StreetBoxes | None = None
        for index in range(frames):
            frame, boxes = street.frame(index), street.boxes(index)
            panoptic = tracker.update(frame.truth, frame.stamp_ns)
            depth_m = degrade(frame.depth_m, kind, rng)
            start_ns = perf_counter_ns()
            found = measure_objects(panoptic, depth_m, camera)
            took_ns.append(perf_counter_ns() - start_ns)
            tracker.locate(found.boxes.position_m, 0.02 * found.depth_m)
            things = panoptic.segments.things
            true_id = np.zeros(int(things.id.max(initial=0)) + 1, np.uint16)
            true_id[panoptic.instance] = frame.truth.instance
            ids = true_id[things.id]
            row = np.searchsorted(boxes.id, ids)
            low_m, high_m = boxes.low_m[row], boxes.high_m[row]
            counts = _is_seen_well(things, low_m, high_m, camera)
            is_known = np.isfinite(found.depth_m)
            unknown += int((counts & ~is_known).sum())
            middle_m, size_m = found.boxes.position_m, found.boxes.size_m
            velocity_m_s = _velocities(boxes, before, ids)
            table = np.column_stack(
                [
                    low_m[:, 2],
                    found.nearest_m - low_m[:, 2],
                    (middle_m - (low_m + high_m) / 2)[:, :2],
                    (size_m / (high_m - low_m))[:, :2],
                    tracker.tracks.velocity_m_s - velocity_m_s,
                ]
            )
            rows.append(table[counts & is_known])
            before = boxes
    table = np.concatenate(rows)
    return Errors(
        distance_m=table[:, 0],
        near_m=table[:, 1],
        across_m=table[:, 2:4],
        size_ratio=table[:, 4:6],
        velocity_m_s=table[:, 6:],
        unknown=unknown,
        median_ms=float(np.median(took_ns)) / 1e6,
    )


def _is_seen_well(
    things: Segments, low_m: np.ndarray, high_m: np.ndarray, camera: CameraModel
) -> np.ndarray:
    corner = np.indices((2, 2, 2)).reshape(3, -1).T  # which end along each axis
    corners_m = np.where(corner, high_m[:, None], low_m[:, None])
    corners_m[..., 2] = np.maximum(corners_m[..., 2], 0.1)
    size_px = np.ptp(camera.project(corners_m), axis=1)
    box = things.box_xyxy
    shown = (box[:, 2:] - box[:, :2]) / size_px
    inside = (box[:, :2] > 0).all(1) & (box[:, 2:] < camera.size_wh).all(1)
    return inside & (shown > MIN_SHOWN).all(1) & (things.area >= MIN_AREA_PX)


def _velocities(boxes: StreetBoxes, before: StreetBoxes | None, ids: np.ndarray) -> np.ndarray:
    """Return the velocities of the centres of boxes since the previous frame, float64 [n, 3]."""
    velocity_m_s = np.full((len(ids), 3), np.nan)
    if before is not None:
        both, now, then = np.intersect1d(boxes.id, before.id, return_indices=True)
        moved_m = (boxes.low_m + boxes.high_m)[now] / 2 - (before.low_m + before.high_m)[then] / 2
        place = np.searchsorted(both, ids).clip(max=max(len(both) - 1, 0))
        is_there = both[place] == ids if len(both) else np.zeros(len(ids), bool)
        velocity_m_s[is_there] = moved_m[place[is_there]] * FRAME_RATE_HZ
    return velocity_m_s


def table_text(kind: str, errors: Errors) -> str:
    """Return rows of medians and 90th percentiles of the errors by distance."""
    lines = []
    for low_m, high_m in pairwise(RANGES_M):
        rows = (errors.distance_m >= low_m) & (errors.distance_m < high_m)
        if not rows.any():
            continue
        speed = np.linalg.norm(errors.velocity_m_s[rows], axis=1)
        columns = [
            errors.near_m[rows],
            *errors.across_m[rows].T,
            speed[np.isfinite(speed)],
        ]
        cells = [_median_and_p90(abs(column)) for column in columns]
        ratios = [f'{value:5.2f}' for value in np.median(errors.size_ratio[rows], axis=0)]
        lines.append(
            f'| {kind:8} | {low_m:2.0f}-{high_m:2.0f} m | {rows.sum():5} | '
            + ' | '.join([*cells[:3], *ratios, cells[3]])
            + ' |'
        )
    return '\n'.join(lines)


def _median_and_p90(values: np.ndarray) -> str:
    if not len(values):
        return '-'
    return f'{np.median(values):.2f} / {np.quantile(values, 0.9):.2f}'


HEAD = (
    '| depth    | distance | count | near side, m | right, m    | down, m     | width | height '
    '| velocity, m/s |\n'
    '|---|---|---|---|---|---|---|---|---|'
)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; median / 90th percentile of absolute errors, medians of size ratios."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument('--streets', type=int, default=4, help='(%(default)s)')
    parser.add_argument('--frames', type=int, default=60, help='of each, 15 Hz (%(default)s)')
    args = parser.parse_args(argv)
    if args.streets < 1 or args.frames < 1:
        parser.error('expected at least one street and one frame')
    cv2.setNumThreads(1)
    print(HEAD)
    lines = []
    for kind in tqdm(KINDS, disable=None):
        errors = measure_errors(kind, range(args.streets), args.frames)
        print(table_text(kind, errors), flush=True)
        lines.append(
            f'{kind}: {len(errors.near_m)} measured, {errors.unknown} not; '
            f'measure_objects {errors.median_ms:.2f} ms a frame (median)'
        )
    print('\n' + '\n'.join(lines))
    return 0


if __name__ == '__main__':
    sys.exit(main())
