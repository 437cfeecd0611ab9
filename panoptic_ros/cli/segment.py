"""``panoptic segment SOURCE``: pictures or a video in, overlays and COCO panoptic files out.

::

    OUT/overlay/NAME.jpg   (OUT/overlay.mp4 for a video or camera)
    OUT/panoptic/NAME.png  COCO panoptic: segment id as a colour
    OUT/panoptic.json      its images, segments and categories

In a video, objects keep their ids from frame to frame.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from panoptic_ros.engines import ENGINES, PRECISIONS, open_engine
from panoptic_ros.errors import PanopticRosError, SourceError
from panoptic_ros.model import Model
from panoptic_ros.packing import coco_categories, to_coco
from panoptic_ros.panoptic import Panoptic
from panoptic_ros.scene.tracking import Tracker
from panoptic_ros.segmenter import Segmenter
from panoptic_ros.sources import IMAGE_SUFFIXES, open_pictures
from panoptic_ros.visualize import overlay

STAGES = ('read', 'preprocess', 'inference', 'fusion', 'tracking', 'write')


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument('source', help='a picture, a folder, a video, or the number of a camera')
    parser.add_argument('--model', default='street-lite', help='name or folder (%(default)s)')
    parser.add_argument('--engine', default='auto', choices=('auto', *ENGINES))
    parser.add_argument('--precision', default='auto', choices=PRECISIONS)
    parser.add_argument('--threads', type=int, default=0, help='0 for one a core')
    parser.add_argument('--out', type=Path, help='folder for the results (out/segment/SOURCE)')
    parser.add_argument('--limit', type=_count, help='stop after this many pictures')
    parser.add_argument(
        '--opacity', type=_fraction, default=0.5, help='of the overlay, 0..1 (%(default)s)'
    )
    parser.add_argument('--labels', action='store_true', help='write class names on the overlay')


def run(args: argparse.Namespace) -> int:
    """Segment all pictures of the source; return 1 if some could not be read."""
    name = Path(args.source).resolve().stem
    out = args.out or Path('out', 'segment', name)
    source = _open_source(args.source, out)
    model = Model.load(args.model)
    # OpenCV's threads would fight the engine's for the same cores.
    cv2.setNumThreads(1)
    with closing(open_engine(model, args.engine, args.threads, args.precision)) as engine:
        print(f'model {model.card.name}, engine {engine.description}', file=sys.stderr)
        segmenter = Segmenter(model, engine)
        try:
            with closing(_Results(out, model, source.video_rate_hz)) as results:
                table, failed = _segment_all(source, segmenter, results, args)
        except OSError as error:
            raise PanopticRosError(
                f'cannot write the results to {out} ({error.strerror or error}); choose another '
                'folder with --out'
            ) from error
    if not len(table):
        raise SourceError(f'nothing in {args.source!r} could be read; expected pictures')
    print(_report(table))
    print(f'results in {out}' + (f'; {failed} unreadable' if failed else ''))
    return 1 if failed else 0


@dataclass(frozen=True, eq=False)
class _Frame:
    """One picture: name of its results, name of itself, and pixels (None if unreadable)."""

    name: str
    file_name: str
    image_bgr: np.ndarray | None


@dataclass(frozen=True)
class _Source:
    """All frames; how many there are and how fast they come, where that is known."""

    frames: Iterator[_Frame]
    count: int | None
    video_rate_hz: float | None


def _open_source(text: str, out: Path) -> _Source:
    path = Path(text).expanduser()
    if path.is_dir():
        return _open_folder(path, out.resolve())
    opened = open_pictures(text)
    is_picture = path.suffix.lower() in IMAGE_SUFFIXES
    frames = (_Frame(p.name, path.name if is_picture else p.name, p.image_bgr) for p in opened)
    return _Source(frames, opened.count or None, None if is_picture else opened.rate_hz or 25.0)


def _open_folder(folder: Path, out: Path) -> _Source:
    paths = sorted(
        path.relative_to(folder)
        for path in folder.rglob('*')
        if path.suffix.lower() in IMAGE_SUFFIXES and out not in path.resolve().parents
    )
    if not paths:
        raise SourceError(
            f'folder {str(folder)!r} has no pictures, nor have the folders in it; expected files '
            f'ending in {", ".join(IMAGE_SUFFIXES)}'
        )
    frames = (
        _Frame(name, path.as_posix(), _imread(folder / path))
        for name, path in zip(_names(paths), paths, strict=True)
    )
    return _Source(frames, len(paths), None)


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the paths without suffix, or with it if two would then have one name."""
    short = [path.with_suffix('').as_posix() for path in paths]
    return short if len(set(short)) == len(paths) else [path.as_posix() for path in paths]


def _imread(path: Path) -> np.ndarray | None:
    try:
        return cv2.imread(str(path), cv2.IMREAD_COLOR)
    except cv2.error:  # for example more pixels than it accepts
        return None


def _segment_all(
    source: _Source, segmenter: Segmenter, results: '_Results', args: argparse.Namespace
) -> tuple[np.ndarray, int]:
    """Return the nanoseconds of each stage, int64 [frames, stages], and the unreadable files."""
    rows, failed = [], 0
    total = min(source.count or sys.maxsize, args.limit or sys.maxsize)
    label_set = segmenter.model.label_set
    progress = tqdm(
        islice(source.frames, args.limit),
        total=None if total == sys.maxsize else total,
        unit='frame',
        disable=None,
    )
    tracker = Tracker()
    started_ns = perf_counter_ns()
    for frame in progress:
        if frame.image_bgr is None:
            failed += 1
            tqdm.write(f'panoptic: {frame.file_name} is not a readable picture', sys.stderr)
            continue
        read_ns = perf_counter_ns()
        result = segmenter.segment(frame.image_bgr)
        panoptic = result.panoptic
        segmented_ns = perf_counter_ns()
        if source.video_rate_hz is not None:
            panoptic = tracker.update(panoptic, round(len(rows) * 1e9 / source.video_rate_hz))
        tracked_ns = perf_counter_ns()
        drawn = overlay(frame.image_bgr, panoptic, label_set, args.opacity, args.labels)
        results.add(frame, drawn, panoptic)
        stages = result.stages_ns
        ended_ns = perf_counter_ns()
        rows.append(
            (
                read_ns - started_ns,
                stages.preprocess_ns,
                stages.inference_ns,
                stages.fusion_ns,
                tracked_ns - segmented_ns,
                ended_ns - tracked_ns,
            )
        )
        started_ns = ended_ns
    return np.array(rows, np.int64).reshape(-1, len(STAGES)), failed


class _Results:
    """Writes overlays and COCO panoptic files; :meth:`close` completes them."""

    def __init__(self, out: Path, model: Model, video_rate_hz: float | None) -> None:
        self._out = out
        self._model = model
        self._video_rate_hz = video_rate_hz
        self._video: cv2.VideoWriter | None = None
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        (out / 'panoptic').mkdir(parents=True, exist_ok=True)

    def add(self, frame: _Frame, drawn_bgr: np.ndarray, panoptic: Panoptic) -> None:
        """Write one frame; raises OSError where that is not possible."""
        if self._video_rate_hz is None:
            _imwrite(self._out / 'overlay' / f'{frame.name}.jpg', drawn_bgr)
        else:
            self._write_video(drawn_bgr)
        rgb, segments_info = to_coco(panoptic, self._model.label_set)
        picture = f'{frame.name}.png'
        _imwrite(self._out / 'panoptic' / picture, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        image_id = len(self._images) + 1
        width, height = panoptic.size_wh
        self._images.append(
            {'id': image_id, 'file_name': frame.file_name, 'width': width, 'height': height}
        )
        self._annotations.append(
            {'image_id': image_id, 'file_name': picture, 'segments_info': segments_info}
        )

    def close(self) -> None:
        """Finish the video and write the JSON, also of a run that was interrupted."""
        if self._video is not None:
            self._video.release()
        content = {
            'info': {'description': f'panoptic_ros, model {self._model.card.name}'},
            'images': self._images,
            'annotations': self._annotations,
            'categories': coco_categories(self._model.label_set),
        }
        (self._out / 'panoptic.json').write_text(json.dumps(content), encoding='utf-8')

    def _write_video(self, drawn_bgr: np.ndarray) -> None:
        if self._video is None:
            path = self._out / 'overlay.mp4'
            size_wh = drawn_bgr.shape[1::-1]
            self._video = cv2.VideoWriter(
                str(path), cv2.VideoWriter.fourcc(*'mp4v'), self._video_rate_hz, size_wh
            )
            if not self._video.isOpened():
                raise OSError(f'OpenCV cannot write the video {path}')
        self._video.write(drawn_bgr)


def _imwrite(path: Path, image_bgr: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Encoded first: cv2.imwrite does not say why it could not write.
    _, data = cv2.imencode(path.suffix, image_bgr)
    path.write_bytes(data)


def _report(table_ns: np.ndarray) -> str:
    """Return the table that ends the command, from int64 [frames, stages]."""
    segmentation = table_ns[:, 1:4].sum(axis=1)
    columns = [
        *zip(STAGES, table_ns.T, strict=True),
        ('segmentation', segmentation),
        ('total', table_ns.sum(axis=1)),
    ]
    lines = [f'{"stage":<14}{"p50 ms":>9}{"p95 ms":>9}']
    for name, values in columns:
        p50, p95 = np.percentile(values, [50, 95]) / 1e6
        lines.append(f'{name:<14}{p50:>9.2f}{p95:>9.2f}')
    frames = len(table_ns)
    lines.append(
        f'{frames} frames; {frames / table_ns.sum() * 1e9:.1f} frames/s with reading and '
        f'writing, {frames / segmentation.sum() * 1e9:.1f} frames/s segmentation alone'
    )
    return '\n'.join(lines)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number of 1 or more')
    return int(text)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float('nan')
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number between 0 and 1')
    return value
