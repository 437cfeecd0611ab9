"""The client over DDS, in the test's own process."""

import threading
from collections.abc import Iterator
from dataclasses import fields
from time import monotonic_ns
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy import subscription
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from panoptic_ros.benchmark.cdr import FrameKey
from panoptic_ros.benchmark.client import Client, Status
from panoptic_ros.benchmark.frames import Frames
from panoptic_ros.benchmark.processes import NodeLostError
from panoptic_ros.ros.diagnostics import FrameTimes, timing_message
from panoptic_ros.ros.messages import image_message

if TYPE_CHECKING:
    from support.ros import Peer

MS = 1_000_000
KEY = FrameKey(4, 1, 'eye')
TIMES = FrameTimes(**{field.name: MS for field in fields(FrameTimes)})


def header() -> Header:
    made = Header(frame_id=KEY.frame_id)
    made.stamp.sec, made.stamp.nanosec = KEY.sec, KEY.nanosec
    return made


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(Frames(('semantic', 'markers'), keep=('semantic',)), '/robot/segment') as client:
        yield client


@pytest.mark.parametrize('rclpy_of', ['kilted', 'humble'])
def test_outputs_and_times_are_recorded(
    client: Client, peer: 'Peer', monkeypatch: pytest.MonkeyPatch, rclpy_of: str
) -> None:
    if rclpy_of == 'humble':
        monkeypatch.delattr(subscription, 'MessageInfo')
    client.receive_outputs({'semantic': Image, 'markers': MarkerArray})
    client.receive_timing()
    client.publish(KEY, lambda: 7)
    answers = {
        'semantic': image_message(np.zeros((2, 2), np.uint8), header()),
        'markers': MarkerArray(markers=[Marker(header=header())]),
        'timing': timing_message('/segment', header(), TIMES),
    }
    record = client.frames[KEY]

    def arrived() -> bool:
        for topic, message in answers.items():
            peer.publish(f'/robot/segment/{topic}', message)
        return client.wait_until(
            lambda: client.frames.is_settled(KEY) and 'markers' in record.received_ns, 0.2
        )

    peer.wait_until(arrived, 'the answers')
    assert record.published_ns == 7
    assert record.stages_ms['inference'] == 1.0
    assert all(times[0] > 10**18 for times in record.received_ns.values())  # like time_ns
    assert record.messages.keys() == {'semantic'}
    assert deserialize_message(record.messages['semantic'], Image) == answers['semantic']


def test_images_that_somebody_else_publishes(client: Client, peer: 'Peer') -> None:
    client.receive('/camera_info', CameraInfo, publishes=True)

    def arrived() -> int:
        peer.publish('/camera_info', CameraInfo(header=header()))
        peer.spin(0.05)
        return client.frames.published

    peer.wait_until(arrived, 'the calibration')
    assert KEY in dict(client.frames.items())


def report(client: Client, state: str, stamp_s: float = 1.0, **counts: int) -> None:
    values = {f'frames {name}': str(count) for name, count in counts.items()}
    values |= {'state': state, 'cpu time (s)': '1.5', 'resident memory (MB)': 'nan'}
    client._take_status(Status(DiagnosticStatus.OK, 'text', values), stamp_s)


def test_the_report_before_a_deactivation_is_kept(client: Client) -> None:
    """A node that shuts down reports once more, with new counters."""
    report(client, 'active', received=16, processed=15)
    report(client, 'finalized', received=0, processed=0)
    assert client.status.count('received') == 0
    assert client.active_status.count('received') == 16
    assert client.active_status.count('processed') == 15
    assert client.reports == 2


def test_usage_is_collected_where_the_node_reports_it(client: Client) -> None:
    report(client, 'active', stamp_s=2.0)
    client._take_status(Status(), 3.0)
    ((stamp_s, cpu_s, memory_mb),) = client.usage
    assert (stamp_s, cpu_s) == (2.0, 1.5)
    assert np.isnan(memory_mb)


def test_stages_are_those_that_the_node_reports() -> None:
    values = {f'{s} p{p} (ms)': f'{p}.5' for s in ('wait', 'tracking') for p in (50, 95, 99)}
    assert Status(values={'rate in (1/s)': '3', **values}).stages_ms() == {
        stage: {'p50': 50.5, 'p95': 95.5, 'p99': 99.5} for stage in ('wait', 'tracking')
    }
    assert Status().count('received') == 0


def test_reports_of_other_nodes_do_not_count(client: Client, peer: 'Peer') -> None:
    message = DiagnosticArray(
        status=[
            DiagnosticStatus(name=name, values=[KeyValue(key='state', value=name)])
            for name in ('robot/segment: segmentation', 'segment: segmentation')
        ]
    )

    def arrived() -> str | None:
        peer.publish('/diagnostics', message)
        peer.spin(0.05)
        return client.status.values.get('state')

    assert peer.wait_until(arrived, 'a status') == 'robot/segment: segmentation'


def test_waiting_ends_with_the_condition_the_time_or_a_stop(client: Client) -> None:
    report(client, 'active')
    assert client.wait_until(lambda: client.reports == 1, 60)
    assert not client.wait_until(lambda: client.reports == 2, 0.01)
    threading.Timer(0.05, client.stop).start()
    assert not client.wait_until(lambda: False, 60)
    assert not client.sleep_until(monotonic_ns() + 600 * 10**9)


def test_sleep(client: Client) -> None:
    begin_ns = monotonic_ns()
    assert client.sleep_until(begin_ns + 5 * MS)
    assert monotonic_ns() >= begin_ns + 5 * MS
    assert client.sleep_until(begin_ns)  # in the past


def test_waiting_for_a_process_that_has_ended(client: Client) -> None:
    def require_running() -> None:
        raise NodeLostError('node ended with exit code 2')

    client.processes = [SimpleNamespace(require_running=require_running)]
    with pytest.raises(NodeLostError, match='exit code 2'):
        client.wait_until(lambda: False, 60)


def test_parameters_are_set_and_refused(client: Client, peer: 'Peer') -> None:
    seen = []

    def answer(
        request: SetParameters.Request, response: SetParameters.Response
    ) -> SetParameters.Response:
        seen.extend(request.parameters)
        response.results = [
            SetParametersResult(successful=p.value.double_value < 1) for p in request.parameters
        ]
        return response

    service = peer.node.create_service(SetParameters, '/robot/segment/set_parameters', answer)
    results: list[bool] = []

    def call() -> None:
        results.extend(client.set_parameters(overlay_opacity=v) for v in (0.5, 2.0))

    thread = threading.Thread(target=call)
    thread.start()
    peer.wait_until(lambda: len(results) == 2, 'the answers')
    thread.join()
    peer.node.destroy_service(service)
    assert results == [True, False]
    assert [p.name for p in seen] == ['overlay_opacity'] * 2


def test_a_service_that_is_not_there(client: Client) -> None:
    with pytest.raises(TimeoutError, match='/robot/segment/change_state is not there'):
        client.change_state('activate', timeout_s=0.1)
    assert client.parameters(timeout_s=0.1) == {}
