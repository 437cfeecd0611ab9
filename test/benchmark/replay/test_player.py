"""Replays: order, stamps and times of the frames; bytes published over DDS."""

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')
pytest.importorskip('rosbags', reason='rosbags reads the recordings')

from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from panoptic_ros.benchmark.bags import Frame, Message
from panoptic_ros.benchmark.cdr import FrameKey, header_stamp_ns, message_class
from panoptic_ros.benchmark.client import Client
from panoptic_ros.benchmark.frames import Frames
from panoptic_ros.benchmark.replay.player import (
    DEFAULT_PERIOD_NS,
    Player,
    ReplayFrame,
    as_recorded,
    at_rate,
    closed_loop,
    paced,
    replay_frames,
)
from panoptic_ros.errors import BagError
from panoptic_ros.ros.messages import image_message

S = 1_000_000_000
MS = 1_000_000


def header(stamp_ns):
    made = Header(frame_id='eye')
    made.stamp.sec, made.stamp.nanosec = divmod(stamp_ns, S)
    return made


def image_data(stamp_ns):
    return serialize_message(image_message(np.full((2, 4, 3), 7, np.uint8), header(stamp_ns)))


def info_data(stamp_ns):
    return serialize_message(CameraInfo(header=header(stamp_ns), width=4, height=2))


def frame(stamp_ns, time_ns=0):
    info = Message('/info', time_ns, info_data(stamp_ns))
    return Frame(Message('/image', time_ns, image_data(stamp_ns)), (info,))


def numbered(count):
    for number in range(count):
        yield ReplayFrame(None, number, number)


# Laps.


def test_first_lap_has_the_recorded_stamps():
    recorded = [frame(5 * S + n, time_ns=9 * S + n) for n in (0, 30, 90)]
    played = list(replay_frames(lambda: recorded, loop=False))
    assert [p.stamp_ns for p in played] == [5 * S, 5 * S + 30, 5 * S + 90]
    assert [p.time_ns for p in played] == [9 * S, 9 * S + 30, 9 * S + 90]
    assert [p.frame for p in played] == recorded


def test_laps_repeat_no_stamp_and_keep_the_distances():
    recorded = [frame(5 * S + n * 100) for n in range(4)]
    source = replay_frames(lambda: recorded, loop=True)
    stamps_ns = [next(source).stamp_ns for _ in range(12)]
    assert np.diff(stamps_ns).tolist() == [100] * 11


def test_laps_of_one_image_and_of_stamps_that_jump_back():
    source = replay_frames(lambda: [frame(7)], loop=True)
    assert [next(source).stamp_ns for _ in range(3)] == [
        *(7, 7 + DEFAULT_PERIOD_NS, 7 + 2 * DEFAULT_PERIOD_NS)
    ]
    source = replay_frames(lambda: [frame(500), frame(100), frame(300)], loop=True)
    stamps_ns = [next(source).stamp_ns for _ in range(9)]
    assert stamps_ns[:3] == [500, 100, 300]
    assert len(set(stamps_ns)) == 9


def test_stamps_of_0_and_repeated_ones_are_replaced_by_the_time_of_recording():
    recorded = [frame(0, time_ns=9 * S + n * 100) for n in range(3)]
    played = replay_frames(lambda: recorded, loop=True)
    stamps_ns = [next(played).stamp_ns for _ in range(6)]
    assert stamps_ns[0] == 9 * S
    assert np.diff(stamps_ns).tolist() == [100] * 5
    twice = [frame(5 * S, 5 * S), frame(5 * S, 5 * S + 40), frame(5 * S + 80, 5 * S + 80)]
    stamps_ns = [p.stamp_ns - 5 * S for p in replay_frames(lambda: twice, loop=False)]
    assert stamps_ns == [0, 40, 80]


def test_a_further_replay_continues_after_the_latest_stamp():
    (played,) = replay_frames(lambda: [frame(5)], loop=False, after_ns=1000)
    assert played.stamp_ns == 1000 + DEFAULT_PERIOD_NS


def test_part_without_an_image():
    with pytest.raises(BagError, match='no image in this part'):
        next(replay_frames(list, loop=True))


# Pace.


class FakeClock:
    """Time passes only while somebody sleeps, or by hand."""

    def __init__(self, stop_ns=None):
        self.time_ns = 1000
        self.stop_ns = stop_ns
        self.waited = []

    def now_ns(self):
        return self.time_ns

    def sleep_until(self, time_ns):
        self.waited.append(time_ns - 1000)
        self.time_ns = max(self.time_ns, time_ns)
        return self.stop_ns is None or self.time_ns < self.stop_ns


def paced_by(clock, source, schedule, seconds=None):
    return paced(source, schedule, clock.sleep_until, seconds, clock.now_ns)


def test_fixed_rate_neither_drifts_nor_depends_on_the_recording():
    clock = FakeClock()
    played = list(paced_by(clock, numbered(5), at_rate(30.0)))
    assert [p.stamp_ns for p in played] == list(range(5))
    assert clock.waited == [0, 33333333, 66666667, 100000000, 133333333]


def test_recorded_rate():
    clock = FakeClock()
    source = iter([ReplayFrame(None, n, time_ns) for n, time_ns in enumerate((50, 80, 200))])
    assert len(list(paced_by(clock, source, as_recorded()))) == 3
    assert clock.waited == [0, 30, 150]


def test_a_late_frame_does_not_delay_the_following_ones():
    clock = FakeClock()
    late = []
    for played in paced_by(clock, numbered(5), at_rate(10.0)):
        late.append(clock.time_ns - 1000 - played.stamp_ns * 100 * MS)
        if played.stamp_ns == 1:
            clock.time_ns += 150 * MS  # publishing took long
    assert late == [0, 0, 50 * MS, 0, 0]


@pytest.mark.parametrize(('seconds', 'count'), [(0.5, 5), (0.51, 6), (10, 8), (None, 8)])
def test_seconds_determine_the_number_of_frames(seconds, count):
    played = list(paced_by(FakeClock(), numbered(8), at_rate(10.0), seconds))
    assert len(played) == count


def test_stop_ends_the_wait_for_the_next_frame():
    clock = FakeClock(stop_ns=1000 + 250 * MS)
    assert len(list(paced_by(clock, numbered(9), at_rate(10.0)))) == 3


def test_closed_loop_waits_before_every_frame():
    log = []

    def wait_for_answer():
        log.append('wait')
        return True

    for played in closed_loop(numbered(2), wait_for_answer, None):
        log.append(played.stamp_ns)
    assert log == ['wait', 0, 'wait', 1, 'wait']


def test_closed_loop_ends_with_its_time_or_when_stopped():
    clock = FakeClock()
    count = 0
    for _ in closed_loop(numbered(100), lambda: True, 1.0, clock.now_ns):
        clock.time_ns += 300 * MS
        count += 1
    assert count == 4
    assert list(closed_loop(numbered(100), lambda: False, 1.0)) == []


# Over DDS.

TARGETS = {
    '/image': ('/eye/image_raw', 'sensor_msgs/msg/Image'),
    '/info': ('/eye/camera_info', 'sensor_msgs/msg/CameraInfo'),
}


@pytest.fixture
def client():
    with Client(Frames(('semantic',))) as client:
        yield client


def test_player_publishes_the_recorded_bytes(client, peer):
    received = {
        name: peer.subscribe_raw(message_class(kind), name) for name, kind in TARGETS.values()
    }
    player = Player(client, TARGETS)
    peer.wait_until(lambda: all(map(client.node.count_subscribers, received)), 'subscriptions')
    original = frame(5 * S + 3)
    extra = Message('/other', 0, b'is not published')
    original = Frame(original.image, (*original.companions, extra))

    def publish_until_received(stamp_ns, expected):
        def arrived():
            key = player.publish(original, stamp_ns)
            assert key == FrameKey(*divmod(stamp_ns, S), 'eye')
            assert client.frames[key].published_ns > 10**18  # like time_ns
            peer.spin(0.1)
            return all(expected[name] in found for name, found in received.items())

        peer.wait_until(arrived, 'the frame')

    publish_until_received(
        5 * S + 3,
        {'/eye/image_raw': original.image.data, '/eye/camera_info': info_data(5 * S + 3)},
    )
    shifted_ns = 6 * S + 4
    publish_until_received(
        shifted_ns,
        {'/eye/image_raw': image_data(shifted_ns), '/eye/camera_info': info_data(shifted_ns)},
    )


def test_player_shifts_all_stamps_of_a_frame_alike(client, peer):
    received = peer.subscribe_raw(CameraInfo, '/eye/camera_info')
    player = Player(client, TARGETS)
    earlier = Message('/info', 0, info_data(5 * S - 7))
    original = Frame(frame(5 * S).image, (earlier,))

    def arrived():
        player.publish(original, 8 * S)
        peer.spin(0.1)
        return received

    peer.wait_until(arrived, 'the calibration')
    assert header_stamp_ns(received[0]) == 8 * S - 7
