import http.server
import os
import struct
import threading
from fractions import Fraction
from functools import partial
from itertools import islice, pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from panoptic_ros.errors import SourceError
from panoptic_ros.sources import Picture, Pictures, open_pictures

LEVELS = (0, 120, 240)
NOT_UTF8 = os.fsdecode(b'stra\xdfe')


@pytest.fixture
def folder(tmp_path):
    for number, level in enumerate(LEVELS):
        cv2.imwrite(str(tmp_path / f'{number}.png'), np.full((8, 12, 3), level, np.uint8))
    (tmp_path / 'notes.txt').write_text('not an image')
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


def stamps_ms(pictures):
    return [p.stamp_ns / 1e6 for p in pictures]


def write_container(path, codec, times_ms, rate=30, container=None, left=0):
    """Write one frame at each time; OpenCV writes constant rates only."""
    av = pytest.importorskip('av', reason='extra test')
    with av.open(str(path), 'w', format=container) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 32, 16, 'yuv420p'
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time_ms in enumerate(times_ms):
            image = np.full((16, 32, 3), number % 250, np.uint8)
            image[:, :16] += left
            frame = av.VideoFrame.from_ndarray(image, format='bgr24')
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


# --- image files --------------------------------------------------------------------------------


def test_a_folder_is_read_in_the_order_of_names(folder):
    pictures = open_pictures(folder)
    assert (pictures.count, pictures.rate_hz) == (3, 0.0)
    assert not pictures.is_live
    assert not pictures.is_video
    assert [p.name for p in pictures] == ['0', '1', '2']
    assert [p.stamp_ns for p in pictures] == [None] * 3
    assert levels(pictures) == list(LEVELS)


def test_numbers_in_names_are_compared_as_numbers(tmp_path):
    names = [f'frame{number}' for number in range(1, 12)]
    for name in reversed(names):
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.zeros((4, 4), np.uint8))
    assert [p.name for p in open_pictures(tmp_path)] == names


def test_hidden_files_and_companions_are_skipped(folder):
    for name in ('._0.png', '.hidden.jpg'):
        (folder / name).write_bytes(b'Mac OS X companion')
    assert levels(open_pictures(folder)) == list(LEVELS)


def test_a_single_picture(folder):
    pictures = open_pictures(folder / '1.png')
    assert pictures.count == 1
    (picture,) = pictures
    assert picture.image_bgr.shape == (8, 12, 3)
    assert picture.image_bgr.dtype == np.uint8


def test_a_grey_picture_becomes_colour(tmp_path):
    cv2.imwrite(str(tmp_path / 'grey.png'), np.full((4, 4), 7, np.uint8))
    (picture,) = open_pictures(tmp_path / 'grey.png')
    assert picture.image_bgr.shape == (4, 4, 3)


def test_names_that_are_not_utf8(folder):
    path = folder / f'{NOT_UTF8}.png'
    (folder / '1.png').rename(path)
    assert levels(open_pictures(path)) == [120]
    assert len(list(open_pictures(folder))) == 3


def test_folders_and_files_whose_name_is_a_number(folder, monkeypatch):
    (folder / '00').mkdir()
    (folder / '2.png').rename(folder / '00' / '2.png')
    monkeypatch.chdir(folder)
    assert levels(open_pictures('00')) == [240]


def test_an_empty_folder(tmp_path):
    with pytest.raises(SourceError, match='has no images'):
        open_pictures(tmp_path)


def spoil(path):
    """Make files that cannot be read, one of each kind, in a folder of images."""
    png = (path / '1.png').read_bytes()
    (path / '0a.png').write_bytes(b'')
    (path / '0b.jpg').write_text('not an image')
    (path / '0c.png').symlink_to(path / 'missing.png')
    (path / '1a.png').write_bytes(png[:20])
    return ['0a.png', '0b.jpg', '0c.png', '1a.png']


def skipped(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == 'WARNING']


def test_images_of_a_folder_that_cannot_be_read_are_named_once_and_skipped(folder, caplog):
    (folder / '0.png').rename(folder / '3.png')
    names = spoil(folder)
    pictures = open_pictures(folder)
    for _ in range(2):
        assert [p.name for p in pictures] == ['1', '2', '3']
    warnings = skipped(caplog)
    assert len(warnings) == len(names)
    for name, text in zip(names, warnings, strict=True):
        assert f"{name}' cannot be read" in text
        assert text.endswith('it is skipped')
    assert len(list(islice(pictures.forever(), 7))) == 7


def test_a_folder_without_a_readable_image(folder):
    spoil(folder)
    for path in folder.glob('?.png'):
        path.unlink()
    with pytest.raises(SourceError, match=r'none of the 4 images in folder .* can be read'):
        open_pictures(folder)


def test_a_picture_that_vanishes_is_named(folder, caplog):
    pictures = iter(open_pictures(folder))
    next(pictures)
    (folder / '1.png').unlink()
    assert next(pictures).name == '2'
    (warning,) = skipped(caplog)
    assert "1.png' cannot be read (No such file or directory); it is skipped" in warning


def test_a_single_picture_that_vanishes_is_an_error(folder):
    pictures = open_pictures(folder / '1.png')
    (folder / '1.png').unlink()
    with pytest.raises(SourceError, match=r"1\.png' cannot be read"):
        list(pictures)


# --- videos -------------------------------------------------------------------------------------


def test_a_video_has_a_rate_and_can_be_read_twice(video):
    pictures = open_pictures(video)
    assert (pictures.count, pictures.rate_hz) == (3, 12.0)
    assert pictures.is_video
    for _ in range(2):
        assert np.allclose(levels(pictures), LEVELS, atol=3)
    assert [p.name for p in pictures] == [f'drive_{i:06d}' for i in range(3)]
    assert stamps_ms(pictures) == pytest.approx([0, 1000 / 12, 2000 / 12])


@pytest.mark.parametrize('suffix', ['mp4', 'mkv'])
def test_stamps_of_a_variable_rate_are_those_of_the_container(tmp_path, suffix):
    times_ms = [0, 33, 66, 100, 133, 1133, 2133, 2166]
    pictures = open_pictures(write_container(tmp_path / f'phone.{suffix}', 'mpeg4', times_ms))
    assert stamps_ms(pictures) == pytest.approx(times_ms, abs=0.5)
    assert 28 < pictures.rate_hz < 32


def test_a_rate_that_the_stamps_contradict_does_not_count(tmp_path):
    times_ms = [33 * number for number in range(40)]
    path = write_container(tmp_path / 'claims.webm', 'libvpx', times_ms, rate=1000)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS) == 1000
    pictures = open_pictures(path)
    assert pictures.rate_hz == pytest.approx(1000 / 33)
    assert stamps_ms(pictures) == pytest.approx(times_ms, abs=0.5)


def rotated_by_90_degrees(path):
    """Set the display matrix of an MP4 as phones do: clockwise by 90 degrees (ISO 14496-12)."""
    data = bytearray(path.read_bytes())
    at = data.index(b'tkhd') + 4 + 40  # past version, times, id, duration, layer, volume
    one = 1 << 16
    data[at : at + 36] = struct.pack('>9i', 0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def test_a_video_is_rotated_as_its_container_asks(tmp_path):
    times_ms = [0, 33, 133]
    path = write_container(tmp_path / 'phone.mp4', 'mpeg4', times_ms, left=200)
    (stored, *_) = open_pictures(path)
    rotated_by_90_degrees(path)
    pictures = open_pictures(path)
    (shown, *_) = pictures
    assert shown.image_bgr.shape == (32, 16, 3)
    assert np.array_equal(shown.image_bgr, np.rot90(stored.image_bgr, -1))
    assert shown.image_bgr[:12].mean() > 180
    assert shown.image_bgr[20:].mean() < 20
    assert stamps_ms(pictures) == pytest.approx(times_ms, abs=0.5)


def test_a_row_of_jpegs_is_read_to_its_end(tmp_path):
    jpeg = cv2.imencode('.jpg', np.full((16, 32, 3), 90, np.uint8))[1].tobytes()
    (tmp_path / 's.mjpeg').write_bytes(600 * jpeg)
    found = stamps_ms(open_pictures(tmp_path / 's.mjpeg'))
    assert len(found) == 600
    assert found[-1] == pytest.approx(599 * 40)


@pytest.mark.parametrize(('name', 'codec'), [('s.h264', 'libx264'), ('s.m4v', 'mpeg4')])
def test_raw_streams_are_read_to_their_end(tmp_path, name, codec):
    times_ms = range(0, 300 * 40, 40)
    path = write_container(tmp_path / name, codec, times_ms, 25, Path(name).suffix[1:])
    found = stamps_ms(open_pictures(path))
    assert len(found) == 300
    assert found == pytest.approx(list(times_ms), abs=1)


@pytest.mark.parametrize('change', ['wrong', 'missing'])
def test_a_duration_is_an_estimate(tmp_path, change):
    """Write another duration into a webm, or none, as an interrupted recording leaves it."""
    path = write_container(tmp_path / 'cut.webm', 'libvpx', range(0, 4000, 40), 25)
    data = bytearray(path.read_bytes())
    at = data.index(b'\x44\x89\x88')  # Matroska: Duration, a float of 8 bytes
    if change == 'wrong':
        data[at + 3 : at + 11] = np.float64(1000).astype('>f8').tobytes()
    else:
        data[at : at + 2] = b'\xec\x89'  # Void, of the same length
        data[at + 1] = 0x89
    path.write_bytes(data)
    assert len(list(open_pictures(path))) == 100


def test_a_video_whose_name_is_not_utf8(video, tmp_path):
    path = video.rename(tmp_path / f'{NOT_UTF8}.avi')
    assert len(list(open_pictures(path))) == 3


def test_a_name_that_looks_like_a_protocol(video, tmp_path, monkeypatch):
    video.rename(tmp_path / '12:30.avi')
    monkeypatch.chdir(tmp_path)
    assert len(list(open_pictures('12:30.avi'))) == 3


def test_stamps_rise_also_when_those_of_the_container_go_back(tmp_path):
    pictures = open_pictures(write_container(tmp_path / 'a.mkv', 'mpeg4', [0, 40, 80, 120]))
    found = [p.stamp_ns for p in islice(pictures.forever(), 11)]
    assert all(earlier < later for earlier, later in pairwise(found))
    assert found[4] / 1e6 == pytest.approx(160)


@pytest.mark.parametrize('first', [0, 20])
def test_frames_that_are_damaged_do_not_end_a_video(tmp_path, first):
    av = pytest.importorskip('av', reason='extra test')
    path = write_container(tmp_path / 'a.mp4', 'mpeg4', range(0, 3000, 50))
    with av.open(str(path)) as file:
        packets = [(p.pos, p.size) for p in file.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for start, size in packets[first : first + 6]:
        data[start : start + size] = bytes(size)
    path.write_bytes(data)
    found = stamps_ms(open_pictures(path))
    assert 48 <= len(found) <= 60
    assert found[:first] == pytest.approx(np.arange(first) * 50)
    assert np.diff(found[-30:]) == pytest.approx(50)


def test_forever_starts_again(folder):
    assert levels(islice(open_pictures(folder).forever(), 7)) == [*LEVELS, *LEVELS, 0]


def test_forever_ends_where_nothing_is_left():
    gone = Pictures('gone', 0.0, 0, False, False, lambda: iter(()))
    with pytest.raises(SourceError, match="'gone' gives no more images"):
        next(gone.forever())


@pytest.mark.parametrize(
    ('name', 'what'), [('broken.mp4', 'video'), ('broken.png', 'image'), ('broken', 'video')]
)
def test_damaged_files(tmp_path, name, what):
    (tmp_path / name).write_bytes(b'neither' * 100)
    with pytest.raises(SourceError, match=f'{what} .*{name}.* cannot be read'):
        open_pictures(tmp_path / name)


# --- cameras and streams ------------------------------------------------------------------------


def test_nothing_there(tmp_path):
    with pytest.raises(SourceError, match=r'does not exist; expected a video, .*rtsp://'):
        open_pictures(tmp_path / 'missing.mp4')


def test_a_camera_that_is_not_connected():
    with pytest.raises(SourceError, match='camera 97 cannot be read'):
        open_pictures('97')


@pytest.mark.parametrize('source', ['/dev/video97', '/dev/v4l/by-id/usb-none-index0'])
def test_a_device_that_is_not_connected(source):
    with pytest.raises(SourceError, match=rf"device '{source}' does not exist; cameras that are"):
        open_pictures(source)


def test_a_device_that_is_no_camera():
    with pytest.raises(SourceError, match="device '/dev/null' is not a camera; cameras that are"):
        open_pictures('/dev/null')


class FakeCapture:
    """A camera of one image."""

    opened: list

    def __init__(self, source):
        self.opened.append(source)

    def isOpened(self):
        return True

    def grab(self):
        return True

    def retrieve(self):
        return True, np.zeros((4, 6, 3), np.uint8)

    def get(self, key):
        return {cv2.CAP_PROP_FPS: 30.0}.get(key, 0.0)


def test_a_camera_is_opened_by_number_or_link(monkeypatch, tmp_path):
    FakeCapture.opened = []
    monkeypatch.setattr(cv2, 'VideoCapture', FakeCapture)
    link = tmp_path / 'by-id'
    link.symlink_to('/dev/video3')
    monkeypatch.setattr(Path, 'exists', lambda self: True)
    monkeypatch.setattr(Path, 'is_char_device', lambda self: str(self) == str(link))
    for source in ('3', str(link), '/dev/video3'):
        pictures = open_pictures(source)
        assert pictures.is_live
        assert pictures.rate_hz == 30
        first, second = islice(pictures, 2)
        assert isinstance(first, Picture)
        assert 0 <= first.stamp_ns <= second.stamp_ns
    assert FakeCapture.opened == [3, 3, 3]


@pytest.fixture
def server(tmp_path):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{running.server_port}'
        running.shutdown()


def test_a_video_on_the_network_is_read(video, server):
    pictures = open_pictures(f'{server}/{video.name}')
    assert pictures.is_video
    for _ in range(2):
        assert [p.name for p in pictures] == [f'drive_{i:06d}' for i in range(3)]


def test_a_file_address_is_a_file(folder):
    assert len(list(open_pictures(folder.as_uri()))) == 3


@pytest.mark.parametrize(
    'address', ['rtsp://127.0.0.1:9/camera', 'http://127.0.0.1:9/a.mp4', 'x://y']
)
def test_a_stream_that_cannot_be_opened(address):
    with pytest.raises(SourceError, match=rf"stream '{address}' cannot be opened; check the"):
        open_pictures(address)
