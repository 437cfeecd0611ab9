import math
import mmap
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import Header

from panoptic_ros.ros.diagnostics import (
    RATE_WINDOW_NS,
    STUCK_NS,
    WINDOW,
    FrameLog,
    FrameTimes,
    Situation,
    Work,
    diagnostics_message,
    percentiles_ms,
    resident_bytes,
    stage_times_ms,
    timing_message,
)

MS = 1_000_000
S = 1000 * MS
ACTIVE = Situation('active', '/camera/image', 2.0, '', 'street-lite', 'openvino ...', 'CPU')


def times(total_ms: float, age_ns: int | None = None) -> FrameTimes:
    return FrameTimes(0, 0, 0, 0, 0, 0, 0, 0, int(total_ms * MS), age_ns)


def status(log: FrameLog, now_ns: int, situation: Situation = ACTIVE) -> DiagnosticStatus:
    message = diagnostics_message('/robot/segment', Time(sec=5), now_ns, [(situation, log)])
    assert message.header.stamp.sec == 5
    (only,) = message.status
    return only


def values(log: FrameLog, now_ns: int = 0) -> dict[str, str]:
    return {entry.key: entry.value for entry in status(log, now_ns).values}


def test_percentiles() -> None:
    assert percentiles_ms(np.array([1, 2, 3]) * MS)[0] == 2.0
    assert percentiles_ms(np.arange(1, 102) * MS) == (51.0, 96.0, 100.0)
    assert all(math.isnan(value) for value in percentiles_ms(np.array([])))


def test_counts_add_up() -> None:
    log = FrameLog()
    for _ in range(5):
        log.count_received(0)
    log.count_dropped()
    log.count_unwatched()
    log.count_bad(0, 'bad')
    log.count_failed(0, 'failed')
    log.count_processed(0, times(1))
    found = values(log)
    kinds = ('processed', 'dropped', 'unwatched', 'bad', 'failed')
    assert [found[f'frames {kind}'] for kind in kinds] == ['1'] * 5
    assert found['frames received'] == '5'


def test_stage_percentiles_are_of_the_latest_frames() -> None:
    log = FrameLog()
    log.count_processed(
        0, FrameTimes(1 * MS, 2 * MS, 3 * MS, 4 * MS, 5 * MS, 6 * MS, 7 * MS, 8 * MS, 9 * MS, None)
    )
    found = values(log)
    stages = (
        'wait',
        'decode',
        'preprocess',
        'inference',
        'handover',
        'fusion',
        'tracking',
        'publish',
        'total',
    )
    for milliseconds, stage in enumerate(stages, start=1):
        for percentile in (50, 95, 99):
            assert found[f'{stage} p{percentile} (ms)'] == f'{milliseconds}.000'
    assert found['age p50 (ms)'] == 'nan'  # not stamped by this clock
    for milliseconds in (10, 20):
        for _ in range(WINDOW):
            log.count_processed(0, times(milliseconds, age_ns=30 * MS))
    found = values(log)
    assert found['total p50 (ms)'] == '20.000'
    assert found['age p50 (ms)'] == '30.000'


def test_rates_are_of_the_latest_seconds() -> None:
    log = FrameLog()
    for i in range(10):
        log.count_received(i * S // 10)
    for i in range(5):
        log.count_processed(i * S // 5, times(1))
    found = values(log, S)
    assert (found['rate in (1/s)'], found['rate out (1/s)']) == ('10.0', '5.0')
    assert values(log, S + RATE_WINDOW_NS)['rate in (1/s)'] == '0.0'


def test_camera_that_never_sent() -> None:
    found = status(FrameLog(), 100 * S)
    assert (found.level, found.message) == (DiagnosticStatus.WARN, 'waiting for the first image')
    assert found.name == 'robot/segment: segmentation'
    assert found.hardware_id == 'CPU'


@pytest.mark.parametrize(
    ('work', 'problem'),
    [
        (Work.ENGINE, 'the engine has not answered for 9.0 s'),
        (Work.PUBLISHING, 'publishing has not ended for 9.0 s'),
    ],
)
def test_frame_that_is_in_work_for_too_long(work: Work, problem: str) -> None:
    log = FrameLog()
    log.count_received(0)
    other = Work.PUBLISHING if work is Work.ENGINE else Work.ENGINE
    with log.at_work(work, 0):
        with log.at_work(other, 0):
            pass  # another image, which comes to an end
        assert status(log, STUCK_NS).level != DiagnosticStatus.ERROR
        found = status(log, STUCK_NS + S)
        assert (found.level, found.message) == (DiagnosticStatus.ERROR, problem)
    assert status(log, STUCK_NS + S).level != DiagnosticStatus.ERROR


def test_camera_that_stopped() -> None:
    log = FrameLog()
    log.count_received(0)
    log.count_processed(0, times(1))
    assert status(log, 2 * S).level == DiagnosticStatus.OK
    found = status(log, 3 * S)
    assert (found.level, found.message) == (DiagnosticStatus.WARN, 'no image for 3.0 s')


def test_bad_image_warns_for_a_while() -> None:
    log = FrameLog()
    log.count_received(0)
    log.count_bad(0, '/camera/image: it is upside down')
    found = status(log, 1 * S)
    assert found.level == DiagnosticStatus.WARN
    assert found.message == '/camera/image: it is upside down'
    log.count_received(RATE_WINDOW_NS)
    log.count_processed(RATE_WINDOW_NS, times(1))
    assert status(log, RATE_WINDOW_NS).level == DiagnosticStatus.OK
    assert values(log)['last trouble'] == '/camera/image: it is upside down'


def test_engine_that_fails_is_an_error_until_it_works() -> None:
    log = FrameLog()
    log.count_received(0)
    log.count_failed(0, 'the engine lost its GPU')
    log.count_received(100 * S)
    found = status(log, 100 * S)
    assert (found.level, found.message) == (DiagnosticStatus.ERROR, 'the engine lost its GPU')
    log.count_processed(100 * S, times(1))
    assert status(log, 100 * S).level == DiagnosticStatus.OK


def test_nobody_subscribes() -> None:
    log = FrameLog()
    log.count_received(0)
    log.count_unwatched()
    found = status(log, 0)
    assert found.level == DiagnosticStatus.OK
    assert 'no subscribers' in found.message
    log.count_received(0)
    log.count_processed(0, times(1))
    assert status(log, 0).message == 'segmenting'
    log.count_received(0)
    log.count_unwatched()
    assert 'no subscribers' in status(log, 0).message


def test_node_that_is_not_active() -> None:
    found = status(FrameLog(), 0, Situation('inactive', '/image', 2.0))
    assert (found.level, found.message) == (DiagnosticStatus.OK, 'the node is inactive')
    problem = Situation('unconfigured', '/image', 2.0, problem='configure failed: no model')
    found = status(FrameLog(), 0, problem)
    assert (found.level, found.message) == (DiagnosticStatus.ERROR, 'configure failed: no model')


def test_each_camera_has_a_status() -> None:
    logs = FrameLog(), FrameLog()
    logs[1].count_received(0)
    cameras = [
        (replace(ACTIVE, camera=name, image_topic=f'/{name}/image'), log)
        for name, log in zip(('front', 'left'), logs, strict=True)
    ]
    message = diagnostics_message('/robot/segment', Time(), 0, cameras)
    assert [(s.name, s.message) for s in message.status] == [
        ('robot/segment: segmentation front', 'waiting for the first image'),
        ('robot/segment: segmentation left', 'segmenting'),
    ]
    topics = [{v.key: v.value for v in s.values}['image topic'] for s in message.status]
    assert topics == ['/front/image', '/left/image']


def test_timing_has_the_header_and_a_value_for_every_field_that_is_known() -> None:
    header = Header(stamp=Time(sec=7, nanosec=1), frame_id='eye')
    every = {field.name: number * MS for number, field in enumerate(fields(FrameTimes), start=1)}
    message = timing_message('/robot/segment', header, FrameTimes(**every))
    assert message.header == header
    assert message.status[0].name == 'robot/segment: timing'
    assert stage_times_ms(message) == {
        name.removesuffix('_ns'): value / MS for name, value in every.items()
    }
    unknown_age = timing_message('/segment', header, FrameTimes(**every | {'age_ns': None}))
    assert stage_times_ms(unknown_age).keys() == stage_times_ms(message).keys() - {'age'}


def test_timing_is_in_the_order_of_the_fields_to_the_nanosecond() -> None:
    message = timing_message('/segment', Header(), replace(times(0), total_ns=1_000_001))
    stages = stage_times_ms(message)
    assert list(stages)[:2] == ['wait', 'decode']
    assert stages['total'] == 1.000001


def test_what_the_process_uses() -> None:
    situation = replace(ACTIVE, cpu_s=2.5, resident_bytes=150_000_000)
    found = {entry.key: entry.value for entry in status(FrameLog(), 0, situation).values}
    assert (found['cpu time (s)'], found['resident memory (MB)']) == ('2.500', '150.0')
    assert values(FrameLog())['resident memory (MB)'] == 'nan'


@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux has /proc/self/statm')
def test_resident_memory_grows_with_what_is_held() -> None:
    before = resident_bytes()
    # Pages of its own: the allocator may have some left that are resident already.
    with mmap.mmap(-1, 20_000_000) as held:
        held.write(b'1' * len(held))
        assert resident_bytes() - before > len(held) // 2
