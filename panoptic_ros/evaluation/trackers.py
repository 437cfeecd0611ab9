"""Compare sources of object ids (trackers) on the same masks of labelled videos.

The masks are those of the truth, with ids shuffled in every frame so that only the tracker can
be wrong, and optionally those that a model predicts.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter_ns
from typing import Any

import numpy as np
from tqdm import tqdm

from panoptic_ros.datasets.videos import Video
from panoptic_ros.evaluation.report import finite_or_none
from panoptic_ros.evaluation.video import VideoQuality, VideoResult
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.scene.tracking import Tracker
from panoptic_ros.segmenter import Segmenter

TRUTH = 'truth'
"""Name of the masks that come from the truth."""

AssignIds = Callable[[Panoptic, int], Panoptic]
"""Take a frame and its stamp in nanoseconds; return the frame with ``track_id`` set."""


@dataclass(frozen=True)
class NamedTracker:
    """A tracker to compare; ``start`` returns a fresh one for each video."""

    name: str
    start: Callable[[], AssignIds]


PER_FRAME = NamedTracker('per frame', lambda: lambda panoptic, stamp_ns: panoptic)
TRACKED = NamedTracker('tracked', lambda: Tracker().update)


@dataclass(frozen=True)
class TrackerScore:
    """The results of one tracker on the masks of one source.

    Parameters
    ----------
    masks
        :data:`TRUTH`, or the name of the model.
    ids
        The name of the tracker.
    result
        Quality over all videos.
    median_ms
        Median time of the tracker per frame.
    """

    masks: str
    ids: str
    result: VideoResult
    median_ms: float

    def as_json(self) -> dict[str, Any]:
        """Return all results as plain values; null for NaN."""
        result = self.result
        windows = {
            str(k): {
                name: finite_or_none(getattr(q, name)) for name in ('PQ', 'PQ_things', 'PQ_stuff')
            }
            for k, q in result.per_window.items()
        }
        names = ('VPQ', 'VPQ_things', 'VPQ_stuff', 'STQ', 'SQ', 'AQ')
        counts = ('id_switches', 'found', 'videos', 'frames')
        return {
            'masks': self.masks,
            'ids': self.ids,
            **{name: finite_or_none(getattr(result, name)) for name in names},
            **{name: getattr(result, name) for name in counts},
            'per_window': windows,
            'median_ms': self.median_ms,
        }


@dataclass(eq=False)
class _Run:
    masks: str
    tracker: NamedTracker
    quality: VideoQuality
    times_ns: list[int] = field(default_factory=list)


def score_trackers(
    videos: Sequence[Video],
    label_set: LabelSet,
    trackers: Sequence[NamedTracker] = (PER_FRAME, TRACKED),
    segmenter: Segmenter | None = None,
    limit: int | None = None,
) -> list[TrackerScore]:
    """Run every tracker on the true masks, and on a segmenter's masks if there is one.

    ``limit`` is the largest number of frames of each video. Raises DatasetError if the sizes of a
    prediction and its truth differ.
    """
    sources = [TRUTH] if segmenter is None else [TRUTH, segmenter.model.card.name]
    runs = [_Run(m, t, VideoQuality(label_set)) for m in sources for t in trackers]
    rng = np.random.default_rng(0)
    frames = sum(min(len(v.samples), limit or len(v.samples)) for v in videos)
    with tqdm(total=frames, unit='frame', disable=None) as progress:
        for video in videos:
            with ExitStack() as stack:
                adds = [stack.enter_context(run.quality.video()) for run in runs]
                assigns = [run.tracker.start() for run in runs]
                for index, sample in enumerate(islice(video.samples, limit)):
                    masks = {TRUTH: with_shuffled_ids(sample.truth, label_set, rng)}
                    if segmenter is not None:
                        predicted = segmenter.segment(sample.image_rgb, 'rgb8')
                        masks[sources[1]] = predicted.panoptic
                    for run, assign_ids, add in zip(runs, assigns, adds, strict=True):
                        started_ns = perf_counter_ns()
                        tracked = assign_ids(masks[run.masks], video.stamp_ns(index))
                        run.times_ns.append(perf_counter_ns() - started_ns)
                        add(tracked, sample.truth, sample.crowd_ids)
                    progress.update()
    return [
        TrackerScore(
            run.masks,
            run.tracker.name,
            run.quality.result(),
            float(np.median(run.times_ns)) / 1e6 if run.times_ns else 0.0,
        )
        for run in runs
    ]


def with_shuffled_ids(
    panoptic: Panoptic, label_set: LabelSet, rng: np.random.Generator
) -> Panoptic:
    """Return the map with its things numbered 1, 2, ... in random order, also as ``track_id``."""
    ids = panoptic.segments.things.id
    new_id = np.zeros(int(ids.max(initial=0)) + 1, np.uint16)
    new_id[ids] = 1 + rng.permutation(len(ids))
    return Panoptic.from_maps(panoptic.semantic, new_id[panoptic.instance], label_set)


def tracking_table(scores: Sequence[TrackerScore]) -> str:
    """Return a table with one line for each tracker on the masks of each source."""
    masks_width = max(len(s.masks) for s in scores) + 2
    ids_width = max(len(s.ids) for s in scores) + 1
    windows = list(scores[0].result.per_window)
    lines = [
        f'{"masks":{masks_width}}{"ids":{ids_width}}|{"VPQ":>6}{"things":>8}'
        + ''.join(f'{f"k={k}":>6}' for k in windows)
        + f' |{"STQ":>6}{"AQ":>6}{"SQ":>6} |  id switches |    ms'
    ]
    lines.append('-' * len(lines[0]))
    for s in scores:
        r = s.result
        things = ''.join(f'{r.per_window[k].PQ_things:6.1f}' for k in windows)
        lines.append(
            f'{s.masks:{masks_width}}{s.ids:{ids_width}}|{r.VPQ:6.1f}{r.VPQ_things:8.1f}{things}'
            f' |{r.STQ:6.1f}{r.AQ:6.1f}{r.SQ:6.1f} |{r.id_switches:6d}/{r.found:<6d} |'
            f'{s.median_ms:6.2f}'
        )
    lines.append(
        f'{scores[0].result.videos} videos, {scores[0].result.frames} frames; k: VPQ of things '
        'with windows of k frames; id switches out of the times a true thing was found'
    )
    return '\n'.join(lines)
