from itertools import islice

import cv2
import numpy as np
import pytest

from panoptic_ros.errors import SourceError
from panoptic_ros.sources import open_pictures

LEVELS = (0, 120, 240)


@pytest.fixture
def folder(tmp_path):
    for number, level in enumerate(LEVELS):
        cv2.imwrite(str(tmp_path / f'{number}.png'), np.full((8, 12, 3), level, np.uint8))
    (tmp_path / 'notes.txt').write_text('not a picture')
    return tmp_path


@pytest.fixture
def video(tmp_path):
    path = tmp_path / 'drive.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 12.0, (32, 16))
    for level in LEVELS:
        writer.write(np.full((16, 32, 3), level, np.uint8))
    writer.release()
    return path


def levels(pictures):
    return [round(float(p.image_bgr.mean())) for p in pictures]


def test_a_folder_is_read_in_the_order_of_names(folder):
    pictures = open_pictures(folder)
    assert (pictures.count, pictures.rate_hz) == (3, 0.0)
    assert [p.name for p in pictures] == ['0', '1', '2']
    assert levels(pictures) == list(LEVELS)


def test_a_single_picture(folder):
    pictures = open_pictures(folder / '1.png')
    assert pictures.count == 1
    (picture,) = pictures
    assert picture.image_bgr.shape == (8, 12, 3)
    assert picture.image_bgr.dtype == np.uint8


def test_a_video_says_its_rate_and_can_be_read_twice(video):
    pictures = open_pictures(video)
    assert (pictures.count, pictures.rate_hz) == (3, 12.0)
    for _ in range(2):
        assert np.allclose(levels(pictures), LEVELS, atol=3)
    assert [p.name for p in pictures] == [f'drive_{i:06d}' for i in range(3)]


def test_forever_starts_again(folder):
    assert levels(islice(open_pictures(folder).forever(), 7)) == [*LEVELS, *LEVELS, 0]


def test_forever_ends_where_nothing_is_left(folder):
    pictures = open_pictures(folder / '0.png')
    object.__setattr__(pictures, 'read', lambda: iter(()))
    with pytest.raises(SourceError, match='no more pictures'):
        next(pictures.forever())


def test_a_grey_picture_becomes_colour(tmp_path):
    cv2.imwrite(str(tmp_path / 'grey.png'), np.full((4, 4), 7, np.uint8))
    (picture,) = open_pictures(tmp_path / 'grey.png')
    assert picture.image_bgr.shape == (4, 4, 3)


def test_nothing_there(tmp_path):
    with pytest.raises(SourceError, match='does not exist; expected a video'):
        open_pictures(tmp_path / 'missing.mp4')


def test_an_empty_folder(tmp_path):
    with pytest.raises(SourceError, match='has no pictures'):
        open_pictures(tmp_path)


@pytest.mark.parametrize(
    ('name', 'what'), [('broken.mp4', 'video'), ('broken.png', 'picture'), ('broken', 'video')]
)
def test_damaged_files(tmp_path, name, what):
    (tmp_path / name).write_bytes(b'neither' * 100)
    with pytest.raises(SourceError, match=f'{what} .*{name}.* cannot be read'):
        open_pictures(tmp_path / name)


def test_a_camera_that_is_not_connected():
    with pytest.raises(SourceError, match='camera 97 cannot be read'):
        open_pictures('97')


def test_a_picture_that_vanishes_is_named(folder):
    pictures = iter(open_pictures(folder))
    next(pictures)
    (folder / '1.png').unlink()
    with pytest.raises(SourceError, match=r'1\.png'):
        next(pictures)
