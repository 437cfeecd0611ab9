"""Compare tracking with other projects: the same masks of the same frames, in one run.

``python test/peers/tracking.py [MODEL]``. The videos are synthetic streets; the masks are the
ground truth, and with MODEL also the predicted ones. The peers track boxes: ByteTrack and OC-SORT
of ``trackers``, and ``norfair``. They are not requirements of this package; a missing one is
listed and left out. All are configured to assign an id at once, because every pixel of a thing
needs one, to accept detections of any score, and to keep lost tracks as long as this package does;
other settings are defaults. A thing without an id from a peer gets a new one.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from time import perf_counter_ns
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from panoptic_ros.cli import run_alone
from panoptic_ros.cli.evaluate import match_label_sets
from panoptic_ros.datasets.street.style import street_labels
from panoptic_ros.datasets.videos import STREET_SEED, street_videos
from panoptic_ros.engines import open_engine
from panoptic_ros.errors import DatasetError
from panoptic_ros.evaluation.report import write_json
from panoptic_ros.evaluation.trackers import (
    PER_FRAME,
    TRACKED,
    AssignIds,
    NamedTracker,
    score_trackers,
    tracking_table,
)
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.panoptic import Panoptic, Segments
from panoptic_ros.scene.motion import TrackerSettings
from panoptic_ros.scene.tracking import Tracker
from panoptic_ros.segmenter import Segmenter

_MEMORY_S = TrackerSettings.max_gap_s
SPEED_FRAMES = 40
"""Number of different frames of a scene whose time is measured."""

_NEW_IDS = 1 << 20  # beyond those of any peer

TrackBoxes = Callable[[Segments, float], np.ndarray]
"""Takes the things of a frame and its time, seconds; returns their ids, below 0 for none."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; returns the exit status."""
    return run_alone('bench_tracking', 'Compare tracking with peers.', configure, run, argv)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        'model', nargs='?', help='name or folder of a model; truth only without it'
    )
    parser.add_argument('--limit', type=int, help='frames of each video')
    parser.add_argument(
        '--seed', type=int, default=STREET_SEED, help='of the first of the 8 streets (%(default)s)'
    )
    parser.add_argument('--rate', type=float, default=10.0, help='frames per second (%(default)s)')
    parser.add_argument(
        '--speed',
        action='store_true',
        help='only time the tracker of this package, by number of things and size',
    )
    parser.add_argument('--json', type=Path, help='write the table to this file')


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    if args.speed:
        print(speed_table())
        return 0
    if args.limit is not None and args.limit < 1:
        raise DatasetError(f'--limit is {args.limit}; expected 1 or more')
    cv2.setNumThreads(1)
    if args.seed < 0:
        raise DatasetError(f'--seed is {args.seed}; expected 0 or more')
    videos, label_set = street_videos(args.seed, args.rate), street_labels()
    candidates, missing = gather(args.rate)
    if args.model is None:
        scores = score_trackers(videos, label_set, candidates, limit=args.limit)
    else:
        model = Model.load(args.model)
        match_label_sets(model.label_set, label_set)
        with closing(open_engine(model)) as engine:
            segmenter = Segmenter(model, engine)
            scores = score_trackers(videos, label_set, candidates, segmenter, args.limit)
    print(tracking_table(scores))
    for name, reason in missing:
        print(f'{name}: left out, {reason}')
    if args.json:
        figures = [f.as_json() for f in scores]
        write_json(args.json, {'followed': figures, 'missing': [list(m) for m in missing]})
    return 0


def gather(rate_hz: float) -> tuple[list[NamedTracker], list[tuple[str, str]]]:
    """Return the trackers that are installed, and the reason for each missing one."""
    candidates, missing = [PER_FRAME, TRACKED], []
    for package, make in (('trackers', _trackers), ('norfair', _norfair)):
        try:
            module = importlib.import_module(package)
        except ImportError as error:
            missing.append((package, f'not installed ({error})'))
        else:
            candidates += make(module, rate_hz)
    return candidates, missing


def speed_table() -> str:
    """Return a table of the tracker's time on synthetic scenes."""
    lines = [f'{"things":>8}{"size":>11}{"p50 ms":>9}{"p95 ms":>9}', '-' * 37]
    for size_wh in ((640, 480), (1280, 720)):
        for things in (10, 50, 200):
            frames = drifting_ellipses(things, size_wh, SPEED_FRAMES)
            tracker = Tracker()
            times_ns = []
            for index, frame in enumerate(frames * 5):
                started_ns = perf_counter_ns()
                tracker.update(frame, index * 50_000_000)
                times_ns.append(perf_counter_ns() - started_ns)
            p50, p95 = np.percentile(times_ns, [50, 95]) / 1e6
            size = f'{size_wh[0]}x{size_wh[1]}'
            lines.append(f'{things:8d}{size:>11}{p50:9.2f}{p95:9.2f}')
    return '\n'.join(lines)


def drifting_ellipses(things: int, size_wh: tuple[int, int], frames: int) -> list[Panoptic]:
    """Return frames of drifting cars that occlude each other and cover a third of the image."""
    label_set = LabelSet.load('cityscapes')
    road, car = label_set.class_id('road'), label_set.class_id('car')
    rng = np.random.default_rng(0)
    size = np.array(size_wh)
    radius = float(np.sqrt(0.35 * size.prod() / things / np.pi))
    start = rng.uniform((0, 0), size, (things, 2))
    velocity = rng.normal(0, radius / 10, (things, 2))
    painted = []
    for number in range(frames):
        instance = np.zeros(size[::-1] // 2, np.uint16)
        for place, instance_id in enumerate(rng.permutation(things) + 1):
            x, y = (start[place] + velocity[place] * number) % size / 2
            axes = (max(2, int(0.35 * radius)), max(2, int(0.5 * radius)))
            cv2.ellipse(instance, (int(x), int(y)), axes, 0, 0, 360, int(instance_id), -1)
        instance = cv2.resize(instance, size_wh, interpolation=cv2.INTER_NEAREST)
        semantic = np.where(instance > 0, car, road).astype(np.uint8)
        painted.append(Panoptic.from_maps(semantic, instance, label_set))
    return painted


def _of_boxes(start: Callable[[], TrackBoxes]) -> Callable[[], AssignIds]:
    """Make a tracker of panoptic maps from a tracker of boxes."""

    def begin() -> AssignIds:
        track_boxes = start()
        new_ids = count(_NEW_IDS)

        def assign_ids(panoptic: Panoptic, stamp_ns: int) -> Panoptic:
            segments = panoptic.segments
            ids = track_boxes(segments.things, stamp_ns / 1e9)
            track_id = segments.track_id.copy()
            track_id[segments.is_thing] = [i if i >= 0 else next(new_ids) for i in ids.tolist()]
            return panoptic.with_track_ids(track_id)

        return assign_ids

    return begin


def _trackers(trackers: ModuleType, rate_hz: float) -> list[NamedTracker]:
    supervision = importlib.import_module('supervision')
    common = {
        'lost_track_buffer': round(_MEMORY_S * 30),  # scaled by frame_rate / 30
        'frame_rate': rate_hz,
        'minimum_consecutive_frames': 1,
    }

    def begin(make: Callable[..., Any], **options: float) -> TrackBoxes:
        tracker = make(**common, **options)

        def track(things: Segments, time_s: float) -> np.ndarray:
            detections = supervision.Detections(
                things.box_xyxy.astype(np.float64),
                confidence=things.score,
                class_id=things.class_id.astype(int),
                data={'row': np.arange(len(things))},
            )
            found = tracker.update(detections)
            ids = np.full(len(things), -1)
            if len(found):
                ids[found.data['row']] = found.tracker_id
            # The first id is 0, which here means no track.
            return np.where(ids >= 0, ids + 1, -1)

        return track

    byte_track = {'track_activation_threshold': 0.0, 'high_conf_det_threshold': 0.25}
    return [
        NamedTracker(
            'ByteTrack (trackers)',
            _of_boxes(lambda: begin(trackers.ByteTrackTracker, **byte_track)),
        ),
        NamedTracker(
            'OC-SORT (trackers)',
            _of_boxes(lambda: begin(trackers.OCSORTTracker, high_conf_det_threshold=0.0)),
        ),
    ]


def _norfair(norfair: ModuleType, rate_hz: float) -> list[NamedTracker]:
    def begin() -> TrackBoxes:
        tracker = norfair.Tracker(
            distance_function='iou',
            distance_threshold=0.7,
            initialization_delay=0,
            hit_counter_max=max(1, round(_MEMORY_S * rate_hz)),
        )

        def track(things: Segments, time_s: float) -> np.ndarray:
            detections = [
                norfair.Detection(
                    box.reshape(2, 2).astype(np.float64), data=row, label=int(class_id)
                )
                for row, (box, class_id) in enumerate(
                    zip(things.box_xyxy, things.class_id, strict=True)
                )
            ]
            ids = np.full(len(things), -1)
            for tracked in tracker.update(detections):
                latest = tracked.last_detection
                if any(latest is detection for detection in detections):
                    ids[latest.data] = tracked.id
            return ids

        return track

    return [NamedTracker('norfair, IoU of boxes', _of_boxes(begin))]


if __name__ == '__main__':
    sys.exit(main())
