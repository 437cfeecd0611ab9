"""Camera images from a video, a folder, an image file, a camera or a network stream.

Image files are used as stored, without EXIF rotation (see :mod:`panoptic_ros.image_files`). Files
of a folder that cannot be read are skipped, with one warning for each. Videos
are rotated as their container asks, as video players do. A container's frame count and frame rate
are estimates: videos are read to their end, and every frame has the stamp of the container.
"""

import itertools
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic_ns
from urllib.parse import unquote, urlsplit

import cv2
import numpy as np

from panoptic_ros.errors import SourceError
from panoptic_ros.image_files import (
    IMAGE_SUFFIXES,
    find_images,
    is_image_name,
    opencv_path,
    read_image,
)

_log = logging.getLogger(__name__)

_DEFAULT_RATE_HZ = 25.0  # of videos that state neither stamps nor a rate; ffmpeg assumes the same
_PROBED_FRAMES = 12
_RATE_TOLERANCE = 0.05  # the stated rate counts if the measured one differs by less
_NETWORK_TIMEOUT_MS = 10_000
_ATTEMPTS = 250
"""Frames in a row that cannot be decoded before a video file counts as ended."""
_EXPECTED = (
    'a video, an image, a folder of images, a camera (its number or /dev/video0), or a stream '
    '(rtsp:// or http://)'
)


@dataclass(frozen=True, eq=False)
class Picture:
    """One camera image.

    Parameters
    ----------
    name
        Unique in its source.
    image_bgr
        uint8 [H, W, 3].
    stamp_ns
        Time since the first image, nanoseconds; None in sources without a clock (image files).
    """

    name: str
    image_bgr: np.ndarray
    stamp_ns: int | None = None


@dataclass(frozen=True, eq=False)
class Pictures(Iterable[Picture]):
    """The images of a source.

    Iterating again starts at the first image, or continues where the source is live.

    Parameters
    ----------
    name
        The source as the user wrote it.
    rate_hz
        Typical number of images per second; 0 where it is unknown.
    count
        Number of images; of a video an estimate, 0 where it is unknown.
    is_live
        True for cameras and streams without an end.
    is_video
        True if the images have stamps.
    read
        Starts reading.
    """

    name: str
    rate_hz: float
    count: int
    is_live: bool
    is_video: bool
    read: Callable[[], Iterator[Picture]]

    def __iter__(self) -> Iterator[Picture]:
        """Read from the first image on."""
        return self.read()

    def forever(self) -> Iterator[Picture]:
        """Start again at each end, with stamps that continue.

        Raises SourceError if there are no images to start again with.
        """
        start_ns = 0
        while True:
            last = None
            for picture in self:
                last = picture
                if picture.stamp_ns is not None:
                    last = replace(picture, stamp_ns=start_ns + picture.stamp_ns)
                yield last
            if last is None:
                raise SourceError(f'source {self.name!r} gives no more images')
            if last.stamp_ns is not None:
                start_ns = last.stamp_ns + round(1e9 / (self.rate_hz or _DEFAULT_RATE_HZ))


def open_pictures(source: str | Path) -> Pictures:
    """Open a source and check that an image of it can be read.

    Parameters
    ----------
    source
        A video, an image, a folder of images (read in natural order, hidden files skipped), a
        camera by its number or device (``/dev/video0``, ``/dev/v4l/by-id/...``), or the address
        of a stream. A file or folder whose name is a number is preferred to a camera.

    Raises SourceError if there is no such source or none of its images can be read.
    """
    text = str(source)
    scheme = re.match(r'([A-Za-z][A-Za-z0-9+.-]*)://', text)
    if scheme and scheme[1].lower() != 'file':
        return _open_stream(text)
    path = Path(unquote(urlsplit(text).path) if scheme else text).expanduser()
    if path.is_dir():
        return _open_folder(text, [path / name for name in find_images_or_raise(path)])
    if path.is_file():
        return _open_image(text, path) if is_image_name(path) else _open_video(text, path)
    if text.isdecimal():
        return _open_camera(text, int(text))
    if path.is_char_device() or path.is_relative_to('/dev'):
        return _open_device(text, path)
    raise SourceError(f'source {text!r} does not exist; expected {_EXPECTED}')


def find_images_or_raise(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Return the images in a folder as :func:`find_images` does.

    Raises SourceError if there are none or the folder cannot be read.
    """
    try:
        paths = find_images(folder, recursive=recursive)
    except OSError as error:
        raise SourceError(f'folder {str(folder)!r} cannot be read ({error.strerror})') from error
    if not paths:
        raise SourceError(
            f'folder {str(folder)!r} has no images{", nor have its folders" * recursive}; '
            f'expected files ending in {", ".join(IMAGE_SUFFIXES)}, or the path of a single video'
        )
    return paths


def _open_image(name: str, path: Path) -> Pictures:
    _read_file(path)
    return Pictures(name, 0.0, 1, False, False, lambda: iter([_read_file(path)]))


def _open_folder(name: str, paths: list[Path]) -> Pictures:
    reported: set[Path] = set()

    def read() -> Iterator[Picture]:
        for path in paths:
            try:
                yield _read_file(path)
            except SourceError as error:
                if path not in reported:
                    _log.warning('%s; it is skipped', error)
                reported.add(path)

    if next(read(), None) is None:
        raise SourceError(
            f'none of the {len(paths)} images in folder {name!r} can be read; expected files in '
            'the format that their suffix states'
        )
    return Pictures(name, 0.0, len(paths), False, False, read)


def _read_file(path: Path) -> Picture:
    try:
        image_bgr = read_image(path)
    except OSError as error:
        raise SourceError(f'image {str(path)!r} cannot be read ({error.strerror})') from error
    if image_bgr is None:
        raise SourceError(f'image {str(path)!r} cannot be read; expected an image file')
    return Picture(path.stem, image_bgr)


def _open_video(name: str, path: Path) -> Pictures:
    what = f'video {name!r}'
    capture = _open_video_file(path, what)
    count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    rate_hz = _measure_rate_hz(capture)
    capture.release()

    def read() -> Iterator[Picture]:
        capture = _open_video_file(path, what)
        return _read_video(capture, path.stem, rate_hz, _ATTEMPTS)

    return Pictures(name, rate_hz, count, False, True, read)


def _open_video_file(path: Path, what: str) -> cv2.VideoCapture:
    with opencv_path(path) as name:
        return _open_capture(name, what, _ATTEMPTS)


def _open_stream(address: str) -> Pictures:
    capture = _open_address(address)
    name = Path(urlsplit(address).path).stem or 'stream'
    count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    if not count:
        rate_hz = _stated_rate_hz(capture)
        return Pictures(
            address, rate_hz, 0, True, True, lambda: _read_video(capture, name, rate_hz)
        )
    rate_hz = _measure_rate_hz(capture)
    capture.release()

    def read() -> Iterator[Picture]:
        return _read_video(_open_address(address), name, rate_hz)

    return Pictures(address, rate_hz, count, False, True, read)


def _open_address(address: str) -> cv2.VideoCapture:
    timeouts = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC)
    options = [value for key in timeouts for value in (key, _NETWORK_TIMEOUT_MS)]
    capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, options)
    if not capture.isOpened() or not capture.grab():
        capture.release()
        raise SourceError(
            f'stream {address!r} cannot be opened; check the address and the network, or let a '
            'ROS driver publish it and give the node its topic'
        )
    return capture


def _open_device(name: str, path: Path) -> Pictures:
    number = re.fullmatch('/dev/video([0-9]+)', str(path.resolve()))
    if number is None or not path.exists():
        known = ', '.join(sorted(map(str, Path('/dev').glob('video[0-9]*')))) or 'none'
        raise SourceError(
            f'device {name!r} {"is not a camera" if path.exists() else "does not exist"}; cameras '
            f'that are connected: {known}'
        )
    return _open_camera(name, int(number[1]))


def _open_camera(name: str, number: int) -> Pictures:
    capture = _open_capture(number, f'camera {name}')

    def read() -> Iterator[Picture]:
        start_ns = monotonic_ns()
        for picture in _read_video(capture, Path(name).name, 0.0):
            yield replace(picture, stamp_ns=monotonic_ns() - start_ns)

    return Pictures(name, _stated_rate_hz(capture), 0, True, True, read)


def _open_capture(source: int | str, what: str, attempts: int = 1) -> cv2.VideoCapture:
    """Open a source with OpenCV and grab the first image, which proves that there is one."""
    capture = cv2.VideoCapture(source)
    if not capture.isOpened() or not _grab(capture, attempts):
        capture.release()
        raise SourceError(
            f'{what} cannot be read; expected something OpenCV opens, such as an .mp4 file or a '
            'connected camera'
        )
    return capture


def _stated_rate_hz(capture: cv2.VideoCapture) -> float:
    rate_hz = capture.get(cv2.CAP_PROP_FPS)
    return rate_hz if 0 < rate_hz <= 1000 else 0.0


def _measure_rate_hz(capture: cv2.VideoCapture) -> float:
    """Return the stated rate if the stamps of the first images agree with it, else theirs."""
    stated_hz = _stated_rate_hz(capture)
    stamps_ms = [capture.get(cv2.CAP_PROP_POS_MSEC)]
    while len(stamps_ms) < _PROBED_FRAMES and capture.grab():
        stamps_ms.append(capture.get(cv2.CAP_PROP_POS_MSEC))
    intervals_ms = np.diff(stamps_ms)
    intervals_ms = intervals_ms[intervals_ms > 0]
    if not len(intervals_ms):
        return stated_hz
    measured_hz = 1000 / float(np.median(intervals_ms))
    agrees = abs(stated_hz - measured_hz) <= _RATE_TOLERANCE * measured_hz
    return stated_hz if agrees else measured_hz


def _grab(capture: cv2.VideoCapture, attempts: int) -> bool:
    """Grab the next image that can be read; returns whether there is one."""
    return any(capture.grab() for _ in range(attempts))


def _read_video(
    capture: cv2.VideoCapture, name: str, rate_hz: float, attempts: int = 1
) -> Iterator[Picture]:
    """Read a capture whose first image is grabbed, to its end.

    The end is where ``attempts`` frames in a row cannot be read: in a damaged file, some cannot,
    and others follow.
    """
    interval_ms = 1000 / (rate_hz or _DEFAULT_RATE_HZ)
    start_ms = last_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
    for index in itertools.count():
        ok, image_bgr = capture.retrieve()
        if ok:
            yield Picture(f'{name}_{index:06d}', image_bgr, round((last_ms - start_ms) * 1e6))
        if not _grab(capture, attempts):
            capture.release()
            return
        # Raw streams have no stamps, and damaged ones go back: one interval later then.
        stamp_ms = capture.get(cv2.CAP_PROP_POS_MSEC)
        last_ms = stamp_ms if stamp_ms > last_ms else last_ms + interval_ms
