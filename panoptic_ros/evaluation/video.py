"""Quality of panoptic video: VPQ and STQ, computed from intersections like PQ.

VPQ (Kim et al., Video Panoptic Segmentation, CVPR 2020): in every window of k consecutive frames
the masks of an object form a tube. VPQ is the PQ of the tubes, with the IoU over space and time,
averaged over several k. STQ (Weber et al., STEP: Segmenting and Tracking Every Pixel, NeurIPS
2021) is the geometric mean of the segmentation quality SQ, which is the mean IoU, and the
association quality AQ, the overlap of true and predicted tracks.

Segments of different frames are one object if they have the same class and ``track_id``, in the
truth and in the prediction. Id switches are counted as in the MOT metrics (Bernardin and
Stiefelhagen, 2008), on masks: a switch is a true object that is found (IoU above one half, of any
class) with another ``track_id`` than the last time.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from panoptic_ros.evaluation.intersections import NO_CLASS, Intersections
from panoptic_ros.evaluation.overlap import ClassOverlap
from panoptic_ros.evaluation.quality import PanopticQuality, QualityResult
from panoptic_ros.labels import LabelSet
from panoptic_ros.panoptic import Panoptic, Segments

WINDOWS = (1, 5, 10, 15)
"""Frames in a window of VPQ."""

_TRACK_BITS = 32


@dataclass(frozen=True)
class VideoResult:
    """Results over a set of videos in percent; NaN where nothing occurs.

    Parameters
    ----------
    VPQ, VPQ_things, VPQ_stuff
        Means over the window lengths that fit into a video.
    per_window
        The result for each window length in frames; those that fit into no video are left out.
    STQ, SQ, AQ
        Segmentation and tracking quality, segmentation quality, association quality.
    id_switches, found
        Number of id switches, and how often a true object was found, over all frames.
    videos, frames
        Numbers of videos and frames.
    """

    VPQ: float
    VPQ_things: float
    VPQ_stuff: float
    per_window: dict[int, QualityResult]
    STQ: float
    SQ: float
    AQ: float
    id_switches: int
    found: int
    videos: int
    frames: int


class VideoQuality:
    """VPQ and STQ of a stream of videos.

    Parameters
    ----------
    label_set
        The classes of predictions and truth.
    windows
        Frames in a window of VPQ, each 1 or more (ValueError).
    """

    def __init__(self, label_set: LabelSet, windows: Sequence[int] = WINDOWS) -> None:
        if not windows or min(windows) < 1:
            raise ValueError(f'windows are {tuple(windows)}; expected numbers of frames above 0')
        self.label_set = label_set
        self.videos = 0
        self.frames = 0
        self._quality = {k: PanopticQuality(label_set) for k in windows}
        self._overlap = ClassOverlap(label_set)
        self._association_sum = 0.0
        self._tracks = 0
        self._id_switches = 0
        self._found = 0

    def update_video(
        self, frames: Iterable[tuple[Panoptic, Panoptic, np.ndarray | Sequence[int]]]
    ) -> None:
        """Count one video.

        Parameters
        ----------
        frames
            Prediction, truth and ids of the truth's groups of each frame, in order.

        Raises DatasetError if the sizes of a frame differ.
        """
        with self.video() as add:
            for frame in frames:
                add(*frame)

    @contextmanager
    def video(self) -> Iterator[Callable[[Panoptic, Panoptic, np.ndarray | Sequence[int]], None]]:
        """Count one video, frame by frame.

        Yields the function that takes the next frame: prediction, truth and ids of the truth's
        groups. The video counts when the context ends without an error.
        """
        recent: deque[_Frame] = deque(maxlen=max(self._quality))
        pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        last_id: dict[int, int] = {}

        def add(
            prediction: Panoptic, truth: Panoptic, crowd_ids: np.ndarray | Sequence[int]
        ) -> None:
            frame = _Frame.of(prediction, truth, crowd_ids)
            recent.append(frame)
            self._overlap.add(frame.image)
            pairs.append(frame.association_pairs())
            self._count_switches(frame, last_id)
            self.frames += 1
            for window, quality in self._quality.items():
                if len(recent) >= window:
                    quality.add(_tubes(list(recent)[-window:]))

        yield add
        self._associate(pairs)
        self.videos += 1

    def result(self) -> VideoResult:
        """Return the result over all videos so far."""
        per_window = {k: q.result() for k, q in self._quality.items() if q.images}
        vpq, things, stuff = (
            float(np.mean([getattr(r, name) for r in per_window.values()]))
            if per_window
            else float('nan')
            for name in ('PQ', 'PQ_things', 'PQ_stuff')
        )
        sq = self._overlap.result().mean_iou
        aq = 100 * self._association_sum / self._tracks if self._tracks else float('nan')
        return VideoResult(
            VPQ=vpq,
            VPQ_things=things,
            VPQ_stuff=stuff,
            per_window=per_window,
            STQ=float(np.sqrt(sq * aq)),
            SQ=sq,
            AQ=aq,
            id_switches=self._id_switches,
            found=self._found,
            videos=self.videos,
            frames=self.frames,
        )

    def _count_switches(self, frame: '_Frame', last_id: dict[int, int]) -> None:
        for truth_key, track_id in frame.found_things():
            self._found += 1
            self._id_switches += last_id.get(truth_key, track_id) != track_id
            last_id[truth_key] = track_id

    def _associate(self, pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        """Add the association quality of each true track of a video."""
        if not pairs:
            return
        truth_key, prediction_key, area = (
            np.concatenate(column) for column in zip(*pairs, strict=True)
        )
        truth_keys, truth_row = np.unique(truth_key, return_inverse=True)
        prediction_keys, prediction_row = np.unique(prediction_key, return_inverse=True)
        truth_size = np.bincount(truth_row, weights=area, minlength=len(truth_keys))
        prediction_size = np.bincount(prediction_row, weights=area, minlength=len(prediction_keys))
        cell, at = np.unique(
            truth_row * len(prediction_keys) + prediction_row, return_inverse=True
        )
        shared = np.bincount(at, weights=area, minlength=len(cell))
        rows, columns = np.divmod(cell, max(len(prediction_keys), 1))
        both = (truth_keys[rows] >= 0) & (prediction_keys[columns] >= 0)
        rows, columns, shared = rows[both], columns[both], shared[both]
        union = truth_size[rows] + prediction_size[columns] - shared
        self._association_sum += float((shared**2 / union / truth_size[rows]).sum())
        self._tracks += int((truth_keys >= 0).sum())


@dataclass(frozen=True, eq=False)
class _Frame:
    """Intersections of a frame, and the object of each row and column.

    The keys are int64, ``class << 32 | track``, -1 for void.
    """

    image: Intersections
    truth_key: np.ndarray
    prediction_key: np.ndarray

    @classmethod
    def of(
        cls, prediction: Panoptic, truth: Panoptic, crowd_ids: np.ndarray | Sequence[int]
    ) -> '_Frame':
        image = Intersections.of(prediction, truth, crowd_ids)
        return cls(image, _keys(truth.segments), _keys(prediction.segments))

    def association_pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the keys of true and predicted tracks that share pixels, and their number.

        The key is -1 where there is no thing. Pixels of true groups are left out.
        """
        area = np.where(self.image.truth_is_crowd[:, None], 0, self.image.area)
        rows, columns = np.nonzero(area)
        # Stuff has no track: its key ends in zeros.
        truth_key = np.where(self._is_track(self.truth_key), self.truth_key, -1)
        prediction_key = np.where(self._is_track(self.prediction_key), self.prediction_key, -1)
        return truth_key[rows], prediction_key[columns], area[rows, columns]

    def found_things(self) -> list[tuple[int, int]]:
        """Return the key of each true thing that was found, and the ``track_id`` it had."""
        union = self.image.truth_area[:, None] + self.image.prediction_area - self.image.area
        is_found = 2 * self.image.area > union
        is_found &= (self._is_track(self.truth_key) & ~self.image.truth_is_crowd)[:, None]
        rows, columns = np.nonzero(is_found & self._is_track(self.prediction_key))
        track_id = self.prediction_key[columns] & ((1 << _TRACK_BITS) - 1)
        return list(zip(self.truth_key[rows].tolist(), track_id.tolist(), strict=True))

    @staticmethod
    def _is_track(key: np.ndarray) -> np.ndarray:
        return (key >= 0) & ((key & ((1 << _TRACK_BITS) - 1)) > 0)


def _keys(segments: Segments) -> np.ndarray:
    track = np.where(segments.is_thing, segments.track_id, 0).astype(np.int64)
    key = segments.class_id.astype(np.int64) << _TRACK_BITS | track
    return np.concatenate((np.array([-1]), key))


def _tubes(frames: Sequence[_Frame]) -> Intersections:
    """Sum the intersections of the same objects over several frames."""
    truth_keys = np.unique(np.concatenate([f.truth_key for f in frames]))
    prediction_keys = np.unique(np.concatenate([f.prediction_key for f in frames]))
    area = np.zeros((len(truth_keys), len(prediction_keys)), np.int64)
    is_crowd = np.zeros(len(truth_keys), bool)
    for frame in frames:
        # Void is -1 and therefore comes first, as in Intersections.
        rows = np.searchsorted(truth_keys, frame.truth_key)
        columns = np.searchsorted(prediction_keys, frame.prediction_key)
        np.add.at(area, (rows[:, None], columns[None, :]), frame.image.area)
        is_crowd[rows] |= frame.image.truth_is_crowd
    return Intersections(
        area,
        _classes(truth_keys),
        _classes(prediction_keys),
        is_crowd,
        area.sum(axis=1),
    )


def _classes(keys: np.ndarray) -> np.ndarray:
    return np.where(keys < 0, NO_CLASS, keys >> _TRACK_BITS).astype(np.int32)
