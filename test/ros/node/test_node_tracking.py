"""Ids of objects over DDS, from frame to frame, by the node as a process of its own."""

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.benchmark.checks import pixels
from panoptic_ros.ros import messages

IMAGE, CAMERA_INFO, OUT = '/robot/image', '/robot/camera_info', '/robot/segment/'
SIZE_WH = (128, 64)
CALIBRATION = CameraInfo(width=128, height=64, k=[64.0, 0.0, 63.5, 0.0, 64.0, 31.5, 0.0, 0.0, 1.0])
CALIBRATION.p = [64.0, 0.0, 63.5, 0.0, 0.0, 64.0, 31.5, 0.0, 0.0, 0.0, 1.0, 0.0]


class Street:
    """Sends the tiny scene's two cars, one of which may hide, and reads off their ids."""

    def __init__(self, peer, tiny_scene: Callable[..., np.ndarray]) -> None:
        self.peer = peer
        self.both = np.ascontiguousarray(tiny_scene(SIZE_WH)[..., ::-1])
        peer.subscribe(Image, OUT + 'instance')
        peer.subscribe(Image, OUT + 'panoptic')
        peer.subscribe(MarkerArray, OUT + 'markers')

    def show(self, *, left: bool = True, right: bool = True, late_s: float = 0.0):
        """Return the ids of the left and the right car, 0 where hidden, and the markers."""
        picture = self.both.copy()
        # Far left and far right there are only sky and road.
        if not left:
            picture[:, :64] = picture[:, :1]
        if not right:
            picture[:, 64:] = picture[:, -1:]
        image = messages.image_message(picture, self.peer.header(late_s))
        topics = [OUT + name for name in ('instance', 'panoptic', 'markers')]
        instance, panoptic, markers = self.peer.exchange(
            IMAGE, image, *topics, before=(CAMERA_INFO, CALIBRATION)
        )
        ids = pixels(instance)
        assert np.array_equal(pixels(panoptic) & 0xFFFF, ids)
        return (int(ids[32, 32]), int(ids[32, 96])), markers.markers


@pytest.fixture
def street(module_node, peer, tiny_scene) -> Street:
    street = Street(peer, tiny_scene)
    # The first calibration may arrive after the first image.
    peer.wait_until(lambda: street.show()[1], 'markers')
    return street


def shown(markers: list[Marker]) -> set[int]:
    return {m.id for m in markers if m.action == Marker.ADD}


def test_ids_stay_in_maps_and_markers(street: Street) -> None:
    first, _ = street.show()
    assert 0 < min(first) < max(first)
    for _ in range(3):
        ids, markers = street.show()
        assert ids == first
        assert shown(markers) == set(first)
    # Alone, the right car is the frame's only object; by itself it would have the id 1.
    ids, markers = street.show(left=False)
    assert ids == (0, first[1])
    assert shown(markers) == {first[1]}
    assert {m.id for m in markers if m.action == Marker.DELETE} == {first[0]}
    assert street.show()[0] == first


def test_out_of_sight_for_too_long_is_another(street: Street) -> None:
    (left, right), _ = street.show()
    ids, _ = street.show(left=False, late_s=0.5)
    assert ids == (0, right)
    ids, _ = street.show(late_s=1.0)
    assert ids[1] == right
    assert ids[0] not in {0, left}


def test_a_recording_that_starts_over_starts_new_tracks(street: Street) -> None:
    before, _ = street.show()
    after, _ = street.show(late_s=-1.5)
    assert not set(before) & set(after)


def test_switched_off_and_on_while_it_runs(street: Street) -> None:
    def switch(on: bool) -> None:
        assert street.peer.set_parameter(OUT, 'tracking', on) == ''

    before, _ = street.show()
    switch(False)
    street.show()
    assert street.show(left=False)[0] == (0, 1)
    switch(True)
    street.show(left=False)
    after, _ = street.show()
    assert not set(before) & set(after)
    assert street.show()[0] == after


def test_deactivating_forgets(street: Street) -> None:
    def change(transition: int) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        assert street.peer.call(ChangeState, OUT + 'change_state', request).success

    before, _ = street.show()
    change(Transition.TRANSITION_DEACTIVATE)
    change(Transition.TRANSITION_ACTIVATE)
    after, _ = street.show()
    assert not set(before) & set(after)
