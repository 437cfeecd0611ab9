"""Image files: which files count as images, their order, and how they are read and written.

Pixels are used as stored. The EXIF orientation is ignored everywhere in this package, because
annotations refer to stored pixels and a camera driver does not rotate images either.

Python reads and writes the bytes, and OpenCV only decodes and encodes them: OpenCV crashes on a
file name that is not valid UTF-8.
"""

import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

IMAGE_SUFFIXES = (
    '.bmp', '.jfif', '.jpe', '.jpeg', '.jpg', '.pgm', '.png', '.pnm', '.ppm', '.tif', '.tiff',
    '.webp',
)  # fmt: skip

# Folders in which archive tools and network storage keep companions of images.
_COMPANION_FOLDERS = frozenset({'__MACOSX', '@eaDir'})


def is_image_name(path: Path) -> bool:
    """Return whether the suffix is that of an image file."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_hidden(path: Path) -> bool:
    """Return whether a relative path names a hidden file, or a companion such as ``._a.jpg``."""
    return any(part.startswith('.') or part in _COMPANION_FOLDERS for part in path.parts)


def natural_key(path: Path) -> tuple[list[list[int | str]], str]:
    """Return a sort key that puts ``frame2.png`` before ``frame10.png``, also in folder names."""
    parts = [
        [int(text) if index % 2 else text for index, text in enumerate(re.split('([0-9]+)', part))]
        for part in path.parts
    ]
    return parts, path.as_posix()


def find_images(folder: Path, *, recursive: bool = False) -> list[Path]:
    """Return the image files in a folder in natural order, relative to it, without hidden ones.

    Broken links are included, so that they are reported; pipes and devices are not, because
    reading them may never end.

    Raises OSError if the folder cannot be read.
    """
    paths = folder.rglob('*') if recursive else folder.iterdir()
    relative: Iterable[Path] = (path.relative_to(folder) for path in paths)
    chosen = (
        path
        for path in relative
        if is_image_name(path) and not is_hidden(path) and _may_be_file(folder / path)
    )
    return sorted(chosen, key=natural_key)


def _may_be_file(path: Path) -> bool:
    return path.is_file() or (path.is_symlink() and not path.exists())


def read_image(path: Path, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """Read an image file as stored, or return None if OpenCV cannot decode it.

    Parameters
    ----------
    flags
        OpenCV's; uint8 [H, W, 3] BGR by default. The EXIF orientation is never applied.

    Raises OSError if the file cannot be read.
    """
    data = np.frombuffer(path.read_bytes(), np.uint8)
    if not data.size:
        return None
    if flags != cv2.IMREAD_UNCHANGED:  # which never applies it
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        return cv2.imdecode(data, flags)
    except cv2.error:  # for example an image of more pixels than OpenCV accepts
        return None


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image (BGR, grey or BGRA) in the format of the suffix; make its folder.

    Raises OSError if the file cannot be written.
    """
    _, data = cv2.imencode(path.suffix, image)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


@contextmanager
def opencv_path(path: Path) -> Iterator[str]:
    """Give a name by which OpenCV can open a file, also to write it, while the context lasts.

    The name is absolute, because ffmpeg takes the beginning of ``12:30.mp4`` for a protocol. A
    name that is not valid UTF-8, on which OpenCV crashes, is replaced by a symbolic link. A file
    that OpenCV has opened stays open after the context.
    """
    path = path.absolute()
    try:
        str(path).encode()
    except UnicodeEncodeError:
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder, 'file').with_suffix(path.suffix if path.suffix.isascii() else '')
            link.symlink_to(path)
            yield str(link)
    else:
        yield str(path)
