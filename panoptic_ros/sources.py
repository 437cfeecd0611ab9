"""Pictures from a video, a folder, a single file or a camera, all read in the same way."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from panoptic_ros.errors import SourceError

IMAGE_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture, uint8 [H, W, 3] BGR, and a name that is unique in its source."""

    name: str
    image_bgr: np.ndarray


@dataclass(frozen=True, eq=False)
class Pictures(Iterable[Picture]):
    """Pictures that can be read again and again; a camera goes on where it is.

    Parameters
    ----------
    name
        What the user called the source.
    rate_hz
        Frames a second as recorded; 0 where it is not known.
    count
        How many there are; 0 where it is not known.
    read
        Starts reading.
    """

    name: str
    rate_hz: float
    count: int
    read: Callable[[], Iterator[Picture]]

    def __iter__(self) -> Iterator[Picture]:
        """Read from the first picture on; raises SourceError at a file that cannot be read."""
        return self.read()

    def forever(self) -> Iterator[Picture]:
        """Start again at each end; raises SourceError if there is nothing to start again with."""
        while True:
            found_any = False
            for picture in self:
                found_any = True
                yield picture
            if not found_any:
                raise SourceError(f'source {self.name!r} gives no more pictures')


def open_pictures(source: str | Path) -> Pictures:
    """Open a video, a folder of pictures (by name order), a picture, or a camera by its number.

    Raises SourceError if there is nothing at that place, or nothing that OpenCV can read; that
    is found out here, not at the first picture.
    """
    text = str(source)
    path = Path(text).expanduser()
    if text.isdecimal():
        capture = _open_capture(int(text), f'camera {text}')
        return Pictures(text, _rate_hz(capture), 0, lambda: _read_capture(capture, text))
    if path.is_dir():
        paths = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise SourceError(
                f'folder {text!r} has no pictures; expected files ending in '
                f'{", ".join(IMAGE_SUFFIXES)}'
            )
    elif not path.is_file():
        raise SourceError(
            f'source {text!r} does not exist; expected a video, a folder of pictures, a picture '
            'or the number of a camera'
        )
    elif path.suffix.lower() in IMAGE_SUFFIXES:
        paths = [path]
    else:
        what = f'video {text!r}'
        capture = _open_capture(str(path), what)
        count = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        rate_hz = _rate_hz(capture)
        capture.release()
        return Pictures(
            text, rate_hz, count, lambda: _read_capture(_open_capture(str(path), what), path.stem)
        )
    _read_file(paths[0])
    return Pictures(text, 0.0, len(paths), lambda: map(_read_file, paths))


def _read_file(path: Path) -> Picture:
    image_bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image_bgr is None:
        raise SourceError(f'picture {str(path)!r} cannot be read; expected an image file')
    return Picture(path.stem, image_bgr)


def _open_capture(source: int | str, what: str) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(source)
    if not capture.isOpened() or not capture.grab():
        capture.release()
        raise SourceError(
            f'{what} cannot be read; expected something OpenCV opens, such as an .mp4 file or a '
            'connected camera'
        )
    return capture


def _rate_hz(capture: cv2.VideoCapture) -> float:
    rate_hz = capture.get(cv2.CAP_PROP_FPS)
    return rate_hz if 0 < rate_hz <= 1000 else 0.0


def _read_capture(capture: cv2.VideoCapture, name: str) -> Iterator[Picture]:
    # Opening has grabbed the first picture, which proves that there is one.
    for index in itertools.count():
        ok, image_bgr = capture.retrieve()
        if ok:
            yield Picture(f'{name}_{index:06d}', image_bgr)
        if not capture.grab():
            capture.release()
            return
