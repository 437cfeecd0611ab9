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
        ({'k': [0.0] * 9}, ['focal', '0.0']),
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
