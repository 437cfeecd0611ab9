import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from panoptic_ros.image_files import find_images, read_image, write_image

RED = np.full((4, 6, 3), (0, 0, 250), np.uint8)


def exif_turned(jpeg: bytes, orientation: int = 6) -> bytes:
    """Add an EXIF orientation to a JPEG."""
    tiff = b'II*\0' + struct.pack('<IHHHIHHI', 8, 1, 0x112, 3, 1, orientation, 0, 0)
    body = b'Exif\0\0' + tiff
    return jpeg[:2] + b'\xff\xe1' + struct.pack('>H', len(body) + 2) + body + jpeg[2:]


def test_names_are_ordered_by_their_numbers(tmp_path: Path) -> None:
    names = [f'frame{n}.png' for n in range(1, 12)] + ['run2/a1.jpg', 'run10/a1.jpg']
    for name in reversed(names):
        write_image(tmp_path / name, RED)
    assert [p.as_posix() for p in find_images(tmp_path)] == names[:11]
    assert [p.as_posix() for p in find_images(tmp_path, recursive=True)] == names


def test_hidden_files_and_companions_are_no_images(tmp_path: Path) -> None:
    for name in (
        'a.png',
        '._a.png',
        '.hidden/b.png',
        '__MACOSX/._a.png',
        '@eaDir/a.jpg',
        'd.png/x',
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    assert find_images(tmp_path, recursive=True) == [Path('a.png')]


def test_pipes_are_no_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'a.png')
    (tmp_path / 'b.JFIF').touch()
    assert find_images(tmp_path) == [Path('b.JFIF')]


def test_a_broken_link_is_listed_so_that_it_is_reported(tmp_path: Path) -> None:
    (tmp_path / 'a.png').symlink_to(tmp_path / 'gone')
    assert find_images(tmp_path) == [Path('a.png')]
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / 'a.png')


def test_a_name_that_is_not_utf8_is_read_and_written(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b'/stra\xdfe.png'))
    write_image(path, RED)
    assert [os.fsencode(p) for p in find_images(tmp_path)] == [b'stra\xdfe.png']
    np.testing.assert_array_equal(read_image(path), RED)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_ignored(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / 'a.jpg'
    write_image(path, RED)
    path.write_bytes(exif_turned(path.read_bytes(), orientation))
    assert cv2.imread(str(path)).shape == ((6, 4, 3) if orientation > 4 else (4, 6, 3))
    assert read_image(path).shape == (4, 6, 3)
    assert read_image(path, cv2.IMREAD_UNCHANGED).shape == (4, 6, 3)


@pytest.mark.parametrize('content', [b'', b'no image', b'\x89PNG\r\n\x1a\n'])
def test_what_is_no_image_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / 'a.png').write_bytes(content)
    assert read_image(tmp_path / 'a.png') is None


def test_an_image_of_too_many_pixels_is_none(tmp_path: Path) -> None:
    write_image(tmp_path / 'a.png', RED)
    data = bytearray((tmp_path / 'a.png').read_bytes())
    data[16:24] = struct.pack('>II', 1 << 30, 1 << 30)
    (tmp_path / 'a.png').write_bytes(data)
    assert read_image(tmp_path / 'a.png') is None
