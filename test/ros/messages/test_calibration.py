import math

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from builtin_interfaces.msg import Time
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

from panoptic_ros.errors import FrameError
from panoptic_ros.ros.messages import (
    check_camera_info,
    fit_camera,
    fit_camera_info,
)
from panoptic_ros.ros.messages.calibration import check_pinhole, check_shape, matrix_warning
from panoptic_ros.scene.geometry import CameraModel, GroundPlane, place_boxes

HEADER = Header(stamp=Time(sec=7, nanosec=8), frame_id='camera_optical')


def camera_info(**changes: object) -> CameraInfo:
    info = CameraInfo(
        width=640,
        height=480,
        distortion_model='plumb_bob',
        d=[0.1, 0.0, 0.0, 0.0, 0.0],
        k=[500.0, 0.0, 319.5, 0.0, 400.0, 239.5, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[500.0, 0.0, 319.5, -50.0, 0.0, 400.0, 239.5, 0.0, 0.0, 0.0, 1.0, 0.0],
    )
    for name, value in changes.items():
        setattr(info, name, value)
    return info


def test_camera_info_of_the_images_size_only_gets_the_header() -> None:
    info = camera_info()
    fitted = fit_camera_info(info, HEADER, (640, 480))
    assert fitted.header is HEADER
    fitted.header = info.header
    assert fitted == info


def test_camera_info_scales() -> None:
    fitted = fit_camera_info(camera_info(), HEADER, (320, 480))
    assert (fitted.width, fitted.height) == (320, 480)
    assert fitted.k.tolist() == [250.0, 0.0, 159.5, 0.0, 400.0, 239.5, 0.0, 0.0, 1.0]
    assert fitted.p.tolist()[:8] == [250.0, 0.0, 159.5, -25.0, 0.0, 400.0, 239.5, 0.0]
    assert fitted.d.tolist() == camera_info().d.tolist()


def test_camera_info_of_a_cropped_and_binned_image() -> None:
    roi = RegionOfInterest(x_offset=120, y_offset=40, width=400, height=200)
    info = camera_info(roi=roi, binning_x=2, binning_y=2)
    fitted = fit_camera_info(info, HEADER, (200, 100))
    # The pixel of the full image at the principal point, cropped, then two pixels to one.
    assert fitted.k.tolist() == [250.0, 0.0, 99.5, 0.0, 200.0, 99.5, 0.0, 0.0, 1.0]
    assert (fitted.binning_x, fitted.roi.width) == (0, 0)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'k': [math.nan, *[0.0] * 8]}, ['camera_info.k', 'nan', 'finite']),
        ({'d': [math.inf]}, ['camera_info.d', 'inf']),
        ({'p': [math.nan] * 12}, ['camera_info.p']),
        ({'k': [0.0] * 9, 'p': [0.0] * 12}, ['camera_info.k', 'focal', '0.0']),
        ({'p': [-5.0, *[0.0] * 11]}, ['camera_info.p', '-5.0']),
        ({'k': [500.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0]}, ['-1.0', '0.01 pixels']),
        ({'k': [1e300, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]}, ['1e+300', 'up to 1e+09']),
        ({'width': 0}, ['0x480']),
        ({'k': [50.0, 0, 31.5, 0, 50.0, 15.5, 1.0, 0, 0]}, ['[1.0, 0.0, 0.0]', '[0.0, 0.0, 1.0]']),
    ],
)
def test_camera_info_that_cannot_be_used(changes: dict[str, object], words: list[str]) -> None:
    check_camera_info(camera_info())
    with pytest.raises(FrameError) as caught:
        check_camera_info(camera_info(**changes))
    for word in words:
        assert word in str(caught.value)


numbers = st.floats() | st.sampled_from([0.0, 0.01, 1.0, 500.0, -1e9, 1e9])
sizes = st.integers(0, 2**32 - 1) | st.integers(0, 2000)


@settings(max_examples=300, deadline=None)
@given(
    k=st.lists(numbers, min_size=9, max_size=9),
    p=st.lists(numbers, min_size=12, max_size=12),
    size_wh=st.tuples(sizes, sizes),
    roi=st.tuples(sizes, sizes, sizes, sizes),
    image_wh=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
)
def test_any_camera_info_is_refused_or_stays_finite(
    k: list[float],
    p: list[float],
    size_wh: tuple[int, int],
    roi: tuple[int, int, int, int],
    image_wh: tuple[int, int],
) -> None:
    x, y, width, height = roi
    info = camera_info(k=k, p=p, width=size_wh[0], height=size_wh[1])
    info.roi = RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height)
    try:
        check_camera_info(info)
    except FrameError:
        return
    fitted = fit_camera_info(info, HEADER, image_wh)
    assert np.isfinite(fitted.k).all()
    assert np.isfinite(fitted.p).all()
    whole_image = np.array([[0, 0, *image_wh], [0, 0, 1, 1]])
    camera = CameraModel.from_k(fitted.k, image_wh)
    assert fit_camera(info, image_wh) == camera
    placed = place_boxes(whole_image, camera, GroundPlane(1.5, 0.3), np.array([1.7, np.nan]))
    has_place = placed.method > 0
    assert np.isfinite(placed.position_m[has_place]).all()
    assert np.isfinite(placed.size_m[has_place]).all()


RECTIFIED = {
    'width': 640,
    'height': 320,
    'k': [883.85, 0.0, 331.5, 0.0, 883.85, 159.5, 0.0, 0.0, 1.0],
    'd': [-0.32, 0.11, 0.0, 0.0, 0.0],
    'p': [707.08, 0.0, 319.5, 0.0, 0.0, 707.08, 159.5, 0.0, 0.0, 0.0, 1.0, 0.0],
}


@pytest.mark.parametrize(
    ('choice', 'changes', 'x_m'),
    [
        ('auto', {}, 1.361),  # the rectified image: P
        ('P', {}, 1.361),
        ('K', {}, 1.042),  # the raw image
        ('auto', {'k': [0.0] * 9}, 1.361),
        ('K', {'k': [0.0] * 9}, 1.361),
        ('auto', {'p': [0.0] * 12}, 1.042),
        ('P', {'p': [0.0] * 12}, 1.042),
    ],
)
def test_p_counts_where_it_is_filled_in(
    choice: str, changes: dict[str, object], x_m: float
) -> None:
    info = camera_info(**RECTIFIED | changes)
    check_camera_info(info)
    camera = fit_camera(info, (640, 320), choice)
    assert 3.43 * camera.rays(np.array([600.0, 250.0]))[0] == pytest.approx(x_m, abs=1e-3)


def test_matrices_that_differ_much_are_reported_unless_chosen() -> None:
    info = camera_info(**RECTIFIED)
    assert 'P (fx 707.1, cx 319.5) and K (fx 883.9, cx 331.5)' in matrix_warning(info)
    assert matrix_warning(info, 'P') == matrix_warning(info, 'K') == ''
    assert matrix_warning(camera_info()) == ''
    assert matrix_warning(camera_info(p=[0.0] * 12)) == ''


FISHEYE = {'distortion_model': 'equidistant', 'd': [0.0] * 4}


@pytest.mark.parametrize(
    ('changes', 'choice', 'words'),
    [
        (FISHEYE, 'auto', "distortion_model 'equidistant'"),
        (FISHEYE, 'K', "distortion_model 'equidistant'"),
        ({'distortion_model': 'fov'}, 'auto', "distortion_model 'fov'"),
        ({'distortion_model': 'Kannala-Brandt'}, 'auto', "distortion_model 'Kannala-Brandt'"),
        ({**RECTIFIED, 'distortion_model': 'radtan'}, 'K', 'moves pixels by up to'),
        (RECTIFIED, 'K', 'moves pixels by up to'),
        ({**RECTIFIED, 'p': [0.0] * 12}, 'auto', 'moves pixels by up to'),
        (
            {**RECTIFIED, 'distortion_model': 'rational_polynomial', 'd': [2.0] * 8},
            'K',
            'moves pixels by up to',
        ),
    ],
)
def test_lenses_that_are_no_pinhole_are_refused(
    changes: dict[str, object], choice: str, words: str
) -> None:
    info = camera_info(**changes)
    with pytest.raises(FrameError, match=words) as caught:
        check_pinhole(info, choice)
    assert 'rectify the images' in str(caught.value)


@pytest.mark.parametrize(
    ('changes', 'choice'),
    [
        ({}, 'auto'),
        (RECTIFIED, 'auto'),
        (RECTIFIED, 'P'),
        (FISHEYE, 'P'),
        ({'d': [0.01, 0.0, 0.0, 0.0, 0.0], 'p': [0.0] * 12}, 'auto'),
        ({'d': [], 'p': [0.0] * 12, 'distortion_model': ''}, 'auto'),
        ({'d': [], 'distortion_model': 'none'}, 'auto'),
        ({'d': [], 'distortion_model': 'pinhole'}, 'auto'),
        ({'distortion_model': 'Brown Conrady'}, 'auto'),
        ({'distortion_model': 'PLUMB_BOB'}, 'auto'),
        ({'distortion_model': 'no distortion'}, 'auto'),
    ],
)
def test_rectified_images_and_weak_distortion_are_accepted(
    changes: dict[str, object], choice: str
) -> None:
    check_pinhole(camera_info(**changes), choice)


@pytest.mark.parametrize('size_wh', [(640, 480), (1280, 960), (321, 240)])
def test_images_of_the_same_proportions_are_accepted(size_wh: tuple[int, int]) -> None:
    check_shape(camera_info(width=640, height=480), size_wh)


def test_images_of_other_proportions_than_the_calibration_are_refused() -> None:
    words = 'camera_info is for images of 640x480, and they are 1280x720, other proportions'
    with pytest.raises(FrameError, match=words):
        check_shape(camera_info(width=640, height=480), (1280, 720))
    cropped = camera_info(width=640, height=480)
    cropped.roi.width, cropped.roi.height = 640, 360
    check_shape(cropped, (1280, 720))
