import cv2
import numpy as np
import pytest

from panoptic_ros.cli.overlay_video import OverlayVideo


def write(path, stamps_ms):
    """Write an image for each stamp, each unlike the one before."""
    video = OverlayVideo(path)
    for number, stamp_ms in enumerate(stamps_ms):
        image = np.full((32, 64, 3), 20 + 20 * (number % 12), np.uint8)
        video.add(image, round(stamp_ms * 1e6))
    video.close()


def read(path):
    """Return the times at which the image changes, and the time of the last frame, ms."""
    video, changes, level, time_ms = cv2.VideoCapture(str(path)), [], -99, 0
    while True:
        ok, image = video.read()
        if not ok:
            return changes, time_ms
        time_ms = video.get(cv2.CAP_PROP_POS_MSEC)
        if abs(image.mean() - level) > 10:
            level = image.mean()
            changes.append(time_ms)


@pytest.mark.parametrize(
    'stamps_ms',
    [
        [0, 100, 200],
        [0, 33, 66, 100, 133, 1133, 2133, 2166],
        [0, 1000, 3000],
        [0],
    ],
)
def test_images_appear_at_their_stamps(tmp_path, stamps_ms):
    path = tmp_path / 'a.mp4'
    write(path, stamps_ms)
    changes, last_ms = read(path)
    assert changes == pytest.approx(stamps_ms, abs=20)
    assert last_ms == pytest.approx(stamps_ms[-1], abs=20)


def test_a_video_keeps_its_duration(tmp_path):
    """Frames 33 ms apart, as in a file that claims 1000 frames a second."""
    write(tmp_path / 'a.mp4', [33 * number for number in range(40)])
    _, last_ms = read(tmp_path / 'a.mp4')
    assert last_ms == pytest.approx(39 * 33, abs=20)


def test_a_gap_is_limited(tmp_path):
    write(tmp_path / 'a.mp4', [0, 1000, 2000, 1_000_000, 1_001_000])
    changes, _ = read(tmp_path / 'a.mp4')
    assert changes == pytest.approx([0, 1000, 2000, 62_000, 63_000])


def test_a_rate_is_limited(tmp_path):
    write(tmp_path / 'a.mp4', [number / 10 for number in range(10)])
    assert cv2.VideoCapture(str(tmp_path / 'a.mp4')).get(cv2.CAP_PROP_FPS) == 120


def test_no_image_no_video(tmp_path):
    write(tmp_path / 'a.mp4', [])
    assert not (tmp_path / 'a.mp4').exists()


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(OSError, match='cannot write the video'):
        write(tmp_path / 'nowhere' / 'a.mp4', [0])
