"""How well ids follow their objects: the same masks with ids from several sources, in one pass.

The masks are the truth's, with ids that mean nothing beyond a frame, so that only who gives the
ids can be wrong; and those that a model predicts.
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
from panoptic_ros.evaluation.video import VideoQuality, VideoResult
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.scene.tracking import Tracker
from panoptic_ros.segmenter import Segmenter

TRUTH = 'truth'
"""What the masks are called where they are the truth's."""

Follow = Callable[[Panoptic, int], Panoptic]
"""Takes each frame of a video with its stamp in nanoseconds; returns it with ``track_id`` set."""


@dataclass(frozen=True)
class Follower:
    """Somebody who gives ids; ``start`` begins a video."""

    name: str
    start: Callable[[], Follow]


PER_FRAME = Follower('per frame', lambda: lambda panoptic, stamp_ns: panoptic)
TRACKED = Follower('tracked', lambda: Tracker().update)


@dataclass(frozen=True)
class Followed:
    """Figures of the masks of one source with the ids of one follower.

    Parameters
    ----------
    masks
        :data:`TRUTH`, or the model's name.
    ids
        The follower's name.
    result
        Quality over all videos.
    median_ms
        What the follower took for a frame.
    """

    masks: str
    ids: str
    result: VideoResult
    median_ms: float

    def as_json(self) -> dict[str, Any]:
        """Return all figures as plain values; null where one does not exist."""
        result = self.result
        windows = {
            str(k): {name: _finite(getattr(q, name)) for name in ('PQ', 'PQ_things', 'PQ_stuff')}
            for k, q in result.per_window.items()
        }
        names = ('VPQ', 'VPQ_things', 'VPQ_stuff', 'STQ', 'SQ', 'AQ')
        counts = ('id_switches', 'found', 'videos', 'frames')
        return {
            'masks': self.masks,
            'ids': self.ids,
            **{name: _finite(getattr(result, name)) for name in names},
            **{name: getattr(result, name) for name in counts},
            'per_window': windows,
            'median_ms': self.median_ms,
        }


@dataclass(eq=False)
class _Count:
    masks: str
    follower: Follower
    quality: VideoQuality
    times_ns: list[int] = field(default_factory=list)


def follow_videos(
    videos: Sequence[Video],
    label_set: LabelSet,
    followers: Sequence[Follower] = (PER_FRAME, TRACKED),
    segmenter: Segmenter | None = None,
    limit: int | None = None,
) -> list[Followed]:
    """Let followers give ids to the truth, and to a segmenter's predictions if there is one.

    ``limit`` takes no more than that many frames of each video. Raises DatasetError if the sizes
    of a prediction and its truth differ.
    """
    sources = [TRUTH] if segmenter is None else [TRUTH, segmenter.model.card.name]
    counts = [_Count(m, f, VideoQuality(label_set)) for m in sources for f in followers]
    rng = np.random.default_rng(0)
    frames = sum(min(len(v.samples), limit or len(v.samples)) for v in videos)
    with tqdm(total=frames, unit='frame', disable=None) as progress:
        for video in videos:
            with ExitStack() as stack:
                adds = [stack.enter_context(count.quality.video()) for count in counts]
                follows = [count.follower.start() for count in counts]
                for index, sample in enumerate(islice(video.samples, limit)):
                    masks = {TRUTH: shuffled(sample.truth, label_set, rng)}
                    if segmenter is not None:
                        predicted = segmenter.segment(sample.image_rgb, 'rgb8')
                        masks[sources[1]] = predicted.panoptic
                    for count, follow, add in zip(counts, follows, adds, strict=True):
                        started_ns = perf_counter_ns()
                        found = follow(masks[count.masks], video.stamp_ns(index))
                        count.times_ns.append(perf_counter_ns() - started_ns)
                        add(found, sample.truth, sample.crowd_ids)
                    progress.update()
    return [
        Followed(
            count.masks,
            count.follower.name,
            count.quality.result(),
            float(np.median(count.times_ns)) / 1e6 if count.times_ns else 0.0,
        )
        for count in counts
    ]


def shuffled(panoptic: Panoptic, label_set: LabelSet, rng: np.random.Generator) -> Panoptic:
    """Return the map with its things numbered 1, 2, ... by chance, also as ``track_id``."""
    ids = panoptic.segments.things.id
    new_id = np.zeros(int(ids.max(initial=0)) + 1, np.uint16)
    new_id[ids] = 1 + rng.permutation(len(ids))
    return Panoptic.from_maps(panoptic.semantic, new_id[panoptic.instance], label_set)


def follow_table(followed: Sequence[Followed]) -> str:
    """Return a line for the masks of each source with the ids of each follower."""
    masks_width = max(len(f.masks) for f in followed) + 2
    ids_width = max(len(f.ids) for f in followed) + 1
    windows = list(followed[0].result.per_window)
    lines = [
        f'{"masks":{masks_width}}{"ids":{ids_width}}|{"VPQ":>6}{"things":>8}'
        + ''.join(f'{f"k={k}":>6}' for k in windows)
        + f' |{"STQ":>6}{"AQ":>6}{"SQ":>6} |  id switches |    ms'
    ]
    lines.append('-' * len(lines[0]))
    for f in followed:
        r = f.result
        things = ''.join(f'{r.per_window[k].PQ_things:6.1f}' for k in windows)
        lines.append(
            f'{f.masks:{masks_width}}{f.ids:{ids_width}}|{r.VPQ:6.1f}{r.VPQ_things:8.1f}{things}'
            f' |{r.STQ:6.1f}{r.AQ:6.1f}{r.SQ:6.1f} |{r.id_switches:6d}/{r.found:<6d} |'
            f'{f.median_ms:6.2f}'
        )
    lines.append(
        f'{followed[0].result.videos} videos, {followed[0].result.frames} frames; VPQ of things '
        'by frames in a window (k); id switches of how often a true thing was found'
    )
    return '\n'.join(lines)


def _finite(value: float) -> float | None:
    return None if np.isnan(value) else value
