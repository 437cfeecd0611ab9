"""``panoptic segment SOURCE``: write overlays and COCO panoptic files of images or a video.

::

    OUT/overlay/NAME.jpg   (OUT/overlay.mp4 for a video or camera)
    OUT/panoptic/NAME.png  COCO panoptic: segment id as a colour
    OUT/panoptic.json      its images, segments and categories

In a video, objects keep their ids from frame to frame, and the overlay has the duration of the
source. Image files are segmented as stored: the EXIF orientation is ignored, as in every command.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from time import perf_counter_ns

import numpy as np
from tqdm import tqdm

from panoptic_ros.cli.overlay_video import OverlayVideo
from panoptic_ros.cluster import ModelChoice, SegmentImages, open_model
from panoptic_ros.datasets.coco_writer import CocoPanopticWriter
from panoptic_ros.engines import ENGINES, PRECISIONS
from panoptic_ros.errors import PanopticRosError, SourceError
from panoptic_ros.image_files import read_image, write_image
from panoptic_ros.model import Model
from panoptic_ros.ros.arguments import fraction, whole_number
from panoptic_ros.scene.tracking import Tracker
from panoptic_ros.sources import find_images_or_raise, open_pictures
from panoptic_ros.visualize import overlay

STAGES = ('read', 'preprocess', 'inference', 'fusion', 'tracking', 'write')


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        'source',
        help='an image, a folder (with its folders), a video, a camera (its number or '
        '/dev/video0) or a stream (rtsp://, http://)',
    )
    parser.add_argument('--model', default='street-lite', help='name or folder (%(default)s)')
    parser.add_argument('--engine', default='auto', choices=('auto', *ENGINES))
    parser.add_argument('--precision', default='auto', choices=PRECISIONS)
    parser.add_argument('--threads', type=int, default=0, help='0 for one per core')
    parser.add_argument(
        '--scheduler', metavar='ADDRESS', default='', help='of a dask cluster to run on'
    )
    parser.add_argument(
        '--out',
        type=Path,
        help='folder of the results (out/segment/SOURCE, with a number if that exists)',
    )
    parser.add_argument('--limit', type=whole_number, help='stop after this many images')
    parser.add_argument(
        '--opacity', type=fraction, default=0.5, help='of the overlay, 0..1 (%(default)s)'
    )
    parser.add_argument('--labels', action='store_true', help='write class names on the overlay')


def run(args: argparse.Namespace) -> int:
    """Segment all images of the source; return 1 if some could not be read."""
    out = args.out or _free_folder(_source_name(args.source))
    source = _open_source(args.source, out)
    model = Model.load(args.model)
    choice = ModelChoice(args.model, args.engine, args.precision, args.threads)
    with open_model(choice, args.scheduler) as (engine, segment):
        print(f'model {model.card.name}, engine {engine}', file=sys.stderr)
        if (out / 'panoptic.json').exists():
            print(f'panoptic: replacing the results in {out}', file=sys.stderr)
        started_ns = perf_counter_ns()
        try:
            table, failed = _segment_all(source, segment, model, out, args)
        except OSError as error:
            raise PanopticRosError(
                f'cannot write the results to {out} ({error.strerror or error}); choose another '
                'folder with --out'
            ) from error
        elapsed_ns = perf_counter_ns() - started_ns
    if not len(table):
        raise SourceError(f'nothing in {args.source!r} could be read; expected images')
    print(_report(table, elapsed_ns))
    print(f'results in {out}' + (f'; {failed} unreadable' if failed else ''))
    return 1 if failed else 0


def _source_name(source: str) -> str:
    """Return the name of a source for its results: only a file has a suffix to drop."""
    path = Path(source).expanduser().resolve()
    return (path.stem if path.is_file() else path.name) or 'source'


def _free_folder(name: str) -> Path:
    """Return ``out/segment/NAME``, or NAME-2, NAME-3 ... if a run left its results there."""
    folder = Path('out', 'segment', name)
    for number in count(2):
        if not folder.exists():
            return folder
        folder = folder.with_name(f'{name}-{number}')
    raise AssertionError


@dataclass(frozen=True, eq=False)
class _Frame:
    """One image: the name of its results, its own name, its pixels (None if unreadable)."""

    name: str
    file_name: str
    image_bgr: np.ndarray | None
    stamp_ns: int | None = None
    read_ns: int = 0


@dataclass(frozen=True)
class _Source:
    """All images of a source; ``count`` is an estimate, None if unknown."""

    frames: Iterator[_Frame]
    count: int | None
    is_video: bool


def _open_source(text: str, out: Path) -> _Source:
    path = Path(text).expanduser()
    if path.is_dir():
        return _open_folder(path, out.resolve())
    opened = open_pictures(text)
    frames = (
        _Frame(p.name, p.name if opened.is_video else path.name, p.image_bgr, p.stamp_ns)
        for p in opened
    )
    return _Source(frames, opened.count or None, opened.is_video)


def _open_folder(folder: Path, out: Path) -> _Source:
    paths = [
        path
        for path in find_images_or_raise(folder, recursive=True)
        if out not in (folder / path).resolve().parents
    ]
    frames = (
        _Frame(name, path.as_posix(), _read_or_none(folder / path))
        for name, path in zip(_names(paths), paths, strict=True)
    )
    return _Source(frames, len(paths), False)


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the paths without suffix, or with it if two would then have one name."""
    short = [path.with_suffix('').as_posix() for path in paths]
    return short if len(set(short)) == len(paths) else [path.as_posix() for path in paths]


def _read_or_none(path: Path) -> np.ndarray | None:
    try:
        return read_image(path)
    except OSError:
        return None


def _segment_all(
    source: _Source, segment: SegmentImages, model: Model, out: Path, args: argparse.Namespace
) -> tuple[np.ndarray, int]:
    """Return the nanoseconds of each stage, int64 [frames, stages], and the unreadable files."""
    rows: list[tuple[int, ...]] = []
    failed: list[str] = []
    total = min(source.count or sys.maxsize, args.limit or sys.maxsize)
    tracker = Tracker()
    with ExitStack() as stack:
        info = {'description': f'panoptic_ros, model {model.card.name}'}
        writer = stack.enter_context(CocoPanopticWriter(out, model.label_set, info))
        video = None
        if source.is_video:
            video = stack.enter_context(closing(OverlayVideo(out / 'overlay.mp4')))
        progress = tqdm(
            islice(source.frames, args.limit),
            total=None if total == sys.maxsize else total,
            unit='frame',
            disable=None,
        )
        frames = ((frame, frame.image_bgr) for frame in _readable(iter(progress), failed))
        for frame, result in segment(frames, 'bgr8'):
            panoptic = result.panoptic
            segmented_ns = perf_counter_ns()
            if frame.stamp_ns is not None:
                panoptic = tracker.update(panoptic, frame.stamp_ns)
            tracked_ns = perf_counter_ns()
            drawn_bgr = overlay(
                frame.image_bgr, panoptic, model.label_set, args.opacity, args.labels
            )
            if video is None:
                write_image(out / 'overlay' / f'{frame.name}.jpg', drawn_bgr)
            else:
                video.add(drawn_bgr, frame.stamp_ns)
            writer.add(panoptic, frame.name, file_name=frame.file_name)
            stages = result.stages_ns
            rows.append(
                (
                    frame.read_ns,
                    stages.preprocess_ns,
                    stages.inference_ns,
                    stages.fusion_ns,
                    tracked_ns - segmented_ns,
                    perf_counter_ns() - tracked_ns,
                )
            )
    return np.array(rows, np.int64).reshape(-1, len(STAGES)), len(failed)


def _readable(frames: Iterator[_Frame], failed: list[str]) -> Iterator[_Frame]:
    """Yield the frames that have pixels, with the time to read them; name the others."""
    while True:
        started_ns = perf_counter_ns()
        frame = next(frames, None)
        if frame is None:
            return
        if frame.image_bgr is None:
            failed.append(frame.file_name)
            tqdm.write(f'panoptic: {frame.file_name} is not a readable image', sys.stderr)
        else:
            yield replace(frame, read_ns=perf_counter_ns() - started_ns)


def _report(table_ns: np.ndarray, elapsed_ns: int) -> str:
    """Return the table of stage times, from int64 [frames, stages], and the frame rates."""
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
        f'{frames} frames; {frames / elapsed_ns * 1e9:.1f} frames/s with reading and '
        f'writing, {frames / segmentation.sum() * 1e9:.1f} frames/s segmentation alone'
    )
    return '\n'.join(lines)
