import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from panoptic_ros.benchmark import frames as frames_module
from panoptic_ros.benchmark.cdr import FrameKey
from panoptic_ros.benchmark.frames import IMAGES_KEPT, Frames


def key(sec: int, frame_id: str = 'eye') -> FrameKey:
    return FrameKey(sec, 0, frame_id)


def test_records_are_in_the_order_of_publication() -> None:
    frames = Frames(('semantic', 'overlay'))
    for sec in (30, 10, 20):
        frames.publish(key(sec), 1000 + sec)
    frames.receive('semantic', key(10), 2000, b'')
    frames.receive('semantic', key(99), 2001, b'')  # of no image
    frames.receive('markers', None, 2002, b'')  # an empty MarkerArray
    assert [record.published_ns for record in frames] == [1030, 1010, 1020]
    assert [record.received_ns for record in frames] == [{}, {'semantic': [2000]}, {}]
    assert frames.received == {'semantic': 2, 'markers': 1}
    assert frames.published == 3


def test_an_image_is_answered_when_everything_has_come() -> None:
    frames = Frames(('semantic', 'instance', 'overlay'), keep=('semantic', 'instance'))
    frames.publish(key(1))
    steps = [
        lambda: frames.receive('semantic', key(1), 5, b'semantic'),
        lambda: frames.receive('instance', key(1), 5, b'instance'),
        lambda: frames.time(key(1), {'total': 1.0}),
    ]
    for step in steps:
        assert not frames.is_settled(key(1))
        assert frames.last_answer_ns == 0
        step()
    assert frames.is_settled(key(1))
    assert frames.answered == 1
    assert frames.last_answer_ns > 0
    assert frames[key(1)].messages == {'semantic': b'semantic', 'instance': b'instance'}
    assert not frames.is_settled(key(2))


def test_an_image_is_settled_when_a_later_one_was_answered() -> None:
    frames = Frames(('semantic',))
    for sec in (30, 20, 10):  # in the order of publication, not of stamps
        frames.publish(key(sec))
    frames.receive('semantic', key(20), 5, b'')
    frames.time(key(20), {'total': 1.0})
    assert [frames.is_settled(key(sec)) for sec in (30, 20, 10)] == [True, True, False]
    assert frames.answered == 1


def test_an_image_with_the_header_of_another_is_counted() -> None:
    frames = Frames(('semantic',))
    frames.publish(key(1), 100)
    frames.publish(key(1), 200)
    assert frames.duplicates == 1
    assert [record.published_ns for record in frames] == [100]


def test_headers_that_nobody_published_and_that_came_twice() -> None:
    frames = Frames(('semantic',))
    frames.receive('semantic', key(1), 5, b'')
    assert frames.unpublished('semantic') == {key(1)}
    frames.publish(key(1))  # the camera's own message may come later
    assert frames.unpublished('semantic') == set()
    assert frames.repeated('semantic') == set()
    frames.receive('semantic', key(1), 6, b'')
    frames.receive('semantic', key(1, 'other'), 6, b'')
    assert frames.repeated('semantic') == {key(1)}
    assert frames.unpublished('semantic') == {key(1, 'other')}
    assert frames.unpublished('overlay') == set()


def test_forget_keeps_what_was_published_since_the_last_time() -> None:
    frames = Frames(('semantic',))
    frames.publish(key(1))
    frames.forget()
    assert frames.items() == []
    frames.receive('semantic', key(1), 5, b'')
    assert frames.unpublished('semantic') == set()
    assert list(frames) == []  # it does not count any more
    frames.forget()
    frames.receive('semantic', key(1), 5, b'')
    assert frames.unpublished('semantic') == {key(1)}


def test_an_answer_from_before_forget_settles_nothing() -> None:
    frames = Frames(('semantic',))
    frames.publish(key(1))
    frames.forget()
    frames.publish(key(2))
    frames.receive('semantic', key(1), 5, b'')
    frames.time(key(1), {'total': 1.0})
    assert not frames.is_settled(key(2))


def test_only_the_latest_records_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_module, 'FRAMES_KEPT', 3)
    frames = Frames(('semantic',))
    for sec in range(10):
        frames.publish(key(sec), 100 + sec)
    assert [record.published_ns for record in frames] == [107, 108, 109]


def test_large_messages_of_old_images_are_dropped() -> None:
    frames = Frames(('overlay',), keep=('overlay', '/camera_info'))
    for sec in range(IMAGES_KEPT + 1):
        frames.receive('overlay', key(sec), 5, bytes(10_000))
        frames.receive('/camera_info', key(sec), 5, bytes(400))
    assert frames[key(0)].messages.keys() == {'/camera_info'}
    assert frames[key(1)].messages.keys() == {'/camera_info', 'overlay'}
