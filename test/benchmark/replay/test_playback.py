"""The parts of the replay: order, stamps, pace; bytes out and bytes in over DDS."""

import threading
from dataclasses import fields

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')
pytest.importorskip('rosbags', reason='rosbags reads the recordings')

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.context import Context
from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, String
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.benchmark.bags import Frame, Message, header_stamp_ns
from panoptic_ros.benchmark.replay import playback
from panoptic_ros.benchmark.replay.playback import (
    DEFAULT_PERIOD_NS,
    Cue,
    Listener,
    Player,
    Records,
    SteadyClock,
    as_recorded,
    at_rate,
    begins_with_header,
    cues,
    in_step,
    message_class,
    paced,
    stamp_reader,
)
from panoptic_ros.errors import BagError
from panoptic_ros.ros.diagnostics import FrameTimes, timing_message
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
        yield Cue(None, number, number)


# Laps.


def test_first_lap_has_the_stamps_recorded():
    made = [frame(5 * S + n, time_ns=9 * S + n) for n in (0, 30, 90)]
    played = list(cues(lambda: made, loop=False))
    assert [cue.stamp_ns for cue in played] == [5 * S, 5 * S + 30, 5 * S + 90]
    assert [cue.time_ns for cue in played] == [9 * S, 9 * S + 30, 9 * S + 90]
    assert [cue.frame for cue in played] == made


def test_laps_have_no_stamp_twice_and_keep_their_distances():
    made = [frame(5 * S + n * 100) for n in range(4)]
    source = cues(lambda: made, loop=True)
    stamps_ns = [next(source).stamp_ns for _ in range(12)]
    assert np.diff(stamps_ns).tolist() == [100] * 11


def test_laps_of_one_image_and_of_stamps_that_jump_back():
    source = cues(lambda: [frame(7)], loop=True)
    assert [next(source).stamp_ns for _ in range(3)] == [
        *(7, 7 + DEFAULT_PERIOD_NS, 7 + 2 * DEFAULT_PERIOD_NS)
    ]
    source = cues(lambda: [frame(500), frame(100), frame(300)], loop=True)
    stamps_ns = [next(source).stamp_ns for _ in range(9)]
    assert stamps_ns[:3] == [500, 100, 300]
    assert len(set(stamps_ns)) == 9


def test_another_replay_goes_on_after_the_stamps_of_the_one_before():
    (cue,) = cues(lambda: [frame(5)], loop=False, after_ns=1000)
    assert cue.stamp_ns == 1000 + DEFAULT_PERIOD_NS


def test_a_part_without_an_image():
    with pytest.raises(BagError, match='no image in this part'):
        next(cues(list, loop=True))


# Pace.


class FakeClock:
    """Time passes only while somebody waits, or is made to pass."""

    def __init__(self, stop_ns=None):
        self.time_ns = 1000
        self.stop_ns = stop_ns
        self.waited = []

    def now_ns(self):
        return self.time_ns

    def wait_until(self, time_ns):
        self.waited.append(time_ns - 1000)
        self.time_ns = max(self.time_ns, time_ns)
        return self.stop_ns is None or self.time_ns < self.stop_ns


def test_fixed_rate_neither_drifts_nor_depends_on_the_recording():
    clock = FakeClock()
    played = list(paced(numbered(5), at_rate(30.0), clock, None))
    assert [cue.stamp_ns for cue in played] == list(range(5))
    assert clock.waited == [0, 33333333, 66666667, 100000000, 133333333]


def test_recorded_rate_is_that_of_the_recording():
    clock = FakeClock()
    source = iter([Cue(None, n, time_ns) for n, time_ns in enumerate((50, 80, 200))])
    assert len(list(paced(source, as_recorded(), clock, None))) == 3
    assert clock.waited == [0, 30, 150]


def test_late_frames_come_at_once_and_those_after_are_in_time_again():
    clock = FakeClock()
    late = []
    for cue in paced(numbered(5), at_rate(10.0), clock, None):
        late.append(clock.time_ns - 1000 - cue.stamp_ns * 100 * MS)
        if cue.stamp_ns == 1:
            clock.time_ns += 150 * MS  # publishing took long
    assert late == [0, 0, 50 * MS, 0, 0]


@pytest.mark.parametrize(('seconds', 'count'), [(0.5, 5), (0.51, 6), (10, 8), (None, 8)])
def test_so_many_seconds_are_so_many_frames(seconds, count):
    played = list(paced(numbered(8), at_rate(10.0), FakeClock(), seconds))
    assert len(played) == count


def test_stop_ends_the_wait_for_the_next_frame():
    clock = FakeClock(stop_ns=1000 + 250 * MS)
    assert len(list(paced(numbered(9), at_rate(10.0), clock, None))) == 3


def test_steady_clock_waits_and_is_stopped():
    clock = SteadyClock()
    begin_ns = clock.now_ns()
    assert clock.wait_until(begin_ns + 5 * MS)
    assert clock.now_ns() >= begin_ns + 5 * MS
    assert clock.wait_until(begin_ns)  # over
    threading.Timer(0.05, clock.stopped.set).start()
    assert not clock.wait_until(begin_ns + 600 * S)


def test_in_step_asks_for_room_before_every_frame():
    log = []

    def wait_for_room():
        log.append('room')
        return True

    for cue in in_step(numbered(2), wait_for_room, FakeClock(), None):
        log.append(cue.stamp_ns)
    assert log == ['room', 0, 'room', 1, 'room']


def test_in_step_ends_with_its_time_or_when_stopped():
    clock = FakeClock()
    count = 0
    for _ in in_step(numbered(100), lambda: True, clock, 1.0):
        clock.time_ns += 300 * MS
        count += 1
    assert count == 4
    assert list(in_step(numbered(100), lambda: False, clock, 1.0)) == []


# Messages as bytes.


def test_message_classes():
    assert message_class('sensor_msgs/msg/Image') is Image
    for unknown in ('acme_msgs/msg/Image', 'sensor_msgs/msg/Immage', 'nonsense'):
        with pytest.raises(BagError, match=f'message type {unknown} is not installed'):
            message_class(unknown)


def test_which_messages_begin_with_a_header():
    assert begins_with_header(Image)
    assert begins_with_header(CameraInfo)
    assert not begins_with_header(String)
    assert not begins_with_header(MarkerArray)


def test_stamps_of_outputs():
    assert stamp_reader(Image)(image_data(3 * S + 5)) == 3 * S + 5
    markers = MarkerArray(markers=[Marker(header=header(S + n)) for n in range(2)])
    read = stamp_reader(MarkerArray)
    assert read(serialize_message(markers)) == S
    assert read(serialize_message(MarkerArray())) is None
    with pytest.raises(BagError, match='String have no header'):
        stamp_reader(String)


# What is known of frames.


def test_records_of_a_trial():
    records = Records(('semantic', 'overlay'))
    for stamp_ns in (10, 20, 30):
        records.sent(stamp_ns)
        records.published(stamp_ns, 1000 + stamp_ns)
    records.received(0, 10, 2000, b'')
    records.received(0, 10, 2999, b'')  # another copy
    records.received(1, 20, 2001, b'')
    records.received(0, 99, 2002, b'')  # of no frame
    records.received(1, None, 2003, b'')  # of none, an empty MarkerArray
    records.timed(10, {'inference': 1.5, 'age': 3.0})
    records.timed(30, {'inference': 2.5})
    records.timed(99, {'inference': 9.0})
    trial = records.trial('a', 10.0, [(0.0, 1.0, 2.0)])
    assert trial.published_ns.tolist() == [1010, 1020, 1030]
    assert trial.received_ns.tolist() == [[2000, 0], [0, 2001], [0, 0]]
    assert trial.stages == ('inference', 'age')
    expected = [[1.5, 3.0], [np.nan, np.nan], [2.5, np.nan]]
    assert np.array_equal(trial.stage_ms, expected, equal_nan=True)
    assert trial.usage.tolist() == [[0, 1, 2]]
    records.forget()
    assert records.trial('b', None, ()).published == 0


def test_frame_is_answered_when_all_has_come():
    records = Records(('semantic', 'instance'))
    records.keep = ('semantic', 'instance')
    records.sent(1)
    steps = [
        lambda: records.received(0, 1, 5, b'semantic'),
        lambda: records.received(1, 1, 5, b'instance'),
        lambda: records.timed(1, {'total': 1.0}),
    ]
    for step in steps:
        assert not records.is_settled(1)
        step()
    assert records.is_settled(1)
    assert records.answered == 1
    assert records.take(1) == {'semantic': b'semantic', 'instance': b'instance'}
    assert records.take(1) == {}
    assert not records.is_settled(2)


def test_frame_that_a_later_one_overtook_is_not_waited_for():
    records = Records(('semantic',))
    for stamp_ns in (30, 20, 10):  # in the order of publication, not of stamps
        records.sent(stamp_ns)
    records.received(0, 20, 5, b'')
    records.timed(20, {'total': 1.0})
    assert [records.is_settled(stamp_ns) for stamp_ns in (30, 20, 10)] == [True, True, False]
    assert records.answered == 1


def test_stamps_that_come_twice_are_counted_and_measured_once():
    records = Records(('semantic',))
    for published_ns in (100, 200):
        records.sent(1)
        records.published(1, published_ns)
    assert records.doubled == 1
    assert records.trial('', None, ()).published_ns.tolist() == [100]


def test_an_endless_replay_remembers_the_latest_frames(monkeypatch):
    monkeypatch.setattr(playback, 'FRAMES_KEPT', 3)
    records = Records(('semantic',))
    for stamp_ns in range(10):
        records.sent(stamp_ns)
        records.published(stamp_ns, 100 + stamp_ns)
    assert records.trial('', None, ()).published_ns.tolist() == [107, 108, 109]


def test_waiting_ends_with_what_is_waited_for():
    records = Records(('semantic',))
    records.sent(1)
    timer = threading.Timer(0.05, records.timed, (1, {'total': 1.0}))
    records.received(0, 1, 5, b'')
    timer.start()
    assert records.wait_for(lambda: records.is_settled(1), 60)
    assert not records.wait_for(lambda: records.is_settled(2), 0.01)


def test_reports_of_the_node():
    records = Records(('semantic',))
    values = {'cpu time (s)': '1.5', 'resident memory (MB)': 'nan', 'state': 'active'}
    entries = [KeyValue(key=key, value=value) for key, value in values.items()]
    records.reported(DiagnosticStatus(values=entries), 2 * S)
    assert records.value('state') == 'active'
    assert records.value('nothing') == ''
    ((seconds, cpu_s, memory_mb),) = records.usage
    assert (seconds, cpu_s) == (2.0, 1.5)
    assert np.isnan(memory_mb)
    records.reported(DiagnosticStatus(), 3 * S)  # an older node, which does not tell
    assert len(records.usage) == 1


# Over DDS.


@pytest.fixture
def node():
    context = Context()
    rclpy.init(context=context)
    node = Node('replay', context=context, enable_rosout=False)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


TARGETS = {
    '/image': ('/eye/image_raw', 'sensor_msgs/msg/Image'),
    '/info': ('/eye/camera_info', 'sensor_msgs/msg/CameraInfo'),
}


def test_player_publishes_what_was_recorded_byte_for_byte(node, peer):
    received = {
        name: peer.subscribe_raw(message_class(kind), name) for name, kind in TARGETS.values()
    }
    player = Player(node, TARGETS)
    assert player.stamped == {'/image', '/info'}
    peer.wait_until(lambda: all(map(node.count_subscribers, received)), 'subscriptions')
    original = frame(5 * S + 3)
    extra = Message('/other', 0, b'is not published')
    original = Frame(original.image, (*original.companions, extra))

    def publish_until_received(stamp_ns, expected):
        def arrived():
            player.publish(original, stamp_ns)
            peer.spin(0.1)
            return all(expected[name] in found for name, found in received.items())

        peer.wait_until(arrived, 'the frame')

    publish_until_received(
        5 * S + 3,
        {'/eye/image_raw': original.image.data, '/eye/camera_info': info_data(5 * S + 3)},
    )
    moved_ns = 6 * S + 4
    publish_until_received(
        moved_ns, {'/eye/image_raw': image_data(moved_ns), '/eye/camera_info': info_data(moved_ns)}
    )


def test_player_moves_companions_as_far_as_the_image(node, peer):
    received = peer.subscribe_raw(CameraInfo, '/eye/camera_info')
    player = Player(node, TARGETS)
    earlier = Message('/info', 0, info_data(5 * S - 7))
    made = Frame(frame(5 * S).image, (earlier,))

    def arrived():
        player.publish(made, 8 * S)
        peer.spin(0.1)
        return received

    peer.wait_until(arrived, 'the calibration')
    assert header_stamp_ns(received[0]) == 8 * S - 7


TIMES = FrameTimes(**{field.name: MS for field in fields(FrameTimes)})


def test_listener_notes_outputs_times_and_ends(node, peer):
    records = Records(('semantic', 'markers'))
    listener = Listener(
        node, '/robot/segment', {'semantic': Image, 'markers': MarkerArray}, records
    )
    spinner = playback.Spinner(node)
    stamp_ns = 4 * S + 1
    records.sent(stamp_ns)
    records.published(stamp_ns, 1)
    answers = {
        'semantic': image_message(np.zeros((2, 2), np.uint8), header(stamp_ns)),
        'markers': MarkerArray(markers=[Marker(header=header(stamp_ns))]),
        'timing': timing_message('/segment', header(stamp_ns), TIMES),
    }

    def arrived():
        for topic, message in answers.items():
            peer.publish(f'/robot/segment/{topic}', message)
        return records.is_settled(stamp_ns) and records.trial('', None, ()).received_ns.all()

    peer.wait_until(arrived, 'the answers')
    trial = records.trial('', None, ())
    assert 'inference' in trial.stages
    assert (trial.received_ns > 10**18).all()  # of this machine's clock, like time_ns
    listener.close()
    spinner.close()
    assert not [s for s in node.subscriptions if 'segment' in s.topic_name]


def test_status_of_another_node_does_not_count(node, peer):
    records = Records(('semantic',))
    playback.listen_to_status(node, '/robot/segment', records)
    spinner = playback.Spinner(node)

    def status(name):
        values = [KeyValue(key='state', value=name)]
        return DiagnosticStatus(name=name, values=values)

    message = DiagnosticArray(
        status=[status('robot/segment: segmentation'), status('segment: segmentation')]
    )

    def arrived():
        peer.publish('/diagnostics', message)
        return records.value('state')

    assert peer.wait_until(arrived, 'a status') == 'robot/segment: segmentation'
    spinner.close()
