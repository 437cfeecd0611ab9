"""Each check of the soak fails for a node with the fault that it is there for.

The node is simulated: it answers the soak's calls at once, in the test's own process.
"""

import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed')

from std_msgs.msg import Header

from panoptic_ros.benchmark.cdr import FrameKey, frame_key
from panoptic_ros.benchmark.checks import Checks
from panoptic_ros.benchmark.client import Status
from panoptic_ros.benchmark.processes import NodeLostError
from panoptic_ros.benchmark.soak.accounts import Output, Usage
from panoptic_ros.benchmark.soak.phases import BAD_IMAGES, PHASES, Limits, Soak
from panoptic_ros.errors import FrameError
from panoptic_ros.ros.messages import decode_image, image_message

OUTPUTS = ('semantic', 'instance', 'overlay', 'camera_info', 'markers')
LIMITS = Limits(warm_ups=1, warm_up_cycles=0, min_cycles=2, timeout_s=1, start_timeout_s=1)


class SimulatedProcess:
    """A process that can be ended; a camera sends an image whenever the soak waits."""

    pid = 1

    def __init__(self, exit_code: int = 0) -> None:
        self.is_running, self.is_suspended = True, False
        self._exit_code = exit_code

    def send(self, number: signal.Signals) -> None:
        self.is_suspended = number == signal.SIGSTOP

    def kill(self) -> None:
        self.is_running = False

    def interrupt(self) -> int:
        self.is_running = False
        return self._exit_code

    def require_running(self) -> None:
        if not self.is_running:
            raise NodeLostError('it ended')

    def tail(self) -> str:
        return 'its log'


class SimulatedNode:
    """Stands for the robot and the node under test; ``faults`` are names of its misbehaviour."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        self.status, self.reports = Status(), 0
        self.processes: list[Any] = []
        self.camera: SimulatedProcess | None = None
        self.state = 'active'
        self._counts: Counter[str] = Counter()
        self._headers: dict[str, Counter[FrameKey]] = {}
        self._sent: set[FrameKey] = set()
        self._answered = 0
        self._images = 0
        self._resumed = False
        self.forget()

    def start(self, name: str, parameters: dict[str, Any]) -> SimulatedProcess:
        process = SimulatedProcess(3 if f'{name} ends with a code' in self.faults else 0)
        if name == 'camera':
            self.camera = process
        else:
            self._counts.clear()
            self.state = 'unconfigured' if 'never active' in self.faults else 'active'
        return process

    def _has(self, fault: str, every: int = 5) -> bool:
        return fault in self.faults and self._images % every == 0

    def send(self, image: Any, calibration: Any = None, *, is_good: bool = True) -> None:
        if is_good:
            self._sent.add(frame_key(image.header))
        self._take(frame_key(image.header), is_good)

    def _take(self, key: FrameKey, is_good: bool) -> None:
        self._images += 1
        if self._has('deaf') or self.state != 'active':
            return
        self._counts['received'] += 1
        if self._has('forgetful'):
            return
        if self._has('failing'):
            self._counts['failed'] += 1
        elif is_good and not self._has('picky'):
            self._answer(key)
        else:
            self._counts['bad'] += 1

    def _answer(self, key: FrameKey) -> None:
        self._counts['processed'] += 1
        self._answered += 1
        if self._has('strange header'):
            key = key._replace(nanosec=key.nanosec ^ 1)
        for topic in OUTPUTS:
            if topic == 'overlay' and self._has('silent'):
                continue
            self._headers[topic][key] += 2 if self._has('twice') else 1

    def counts(self) -> Counter[str]:
        return Counter(self._counts)

    def outputs(self) -> dict[str, Output]:
        return {
            topic: Output(
                len(headers), set(headers) - self._sent, [k for k, n in headers.items() if n > 1]
            )
            for topic, headers in self._headers.items()
        }

    def answered(self) -> int:
        return self._answered

    def forget(self) -> None:
        self._headers = {topic: Counter() for topic in OUTPUTS}
        self._sent.clear()

    def begin_camera(self) -> None:
        """The camera's images are answered without their headers."""

    def end_camera(self) -> None:
        self.camera = None

    def change_state(self, transition: str) -> bool:
        if f'refuses {transition}' in self.faults:
            return False
        stays_inactive = 'inactive' in self.faults and transition == 'activate'
        is_active = transition == 'activate' and not stays_inactive
        self.state = 'active' if is_active else 'inactive'
        if transition == 'configure':
            self._counts.clear()
        return True

    def set_parameters(self, **values: Any) -> bool:
        is_good = 'model' not in values and 'engine' not in values
        is_good &= values.get('overlay_opacity', 0) <= 1
        if 'accepts everything' in self.faults:
            return True
        return is_good and 'refuses everything' not in self.faults

    def wait_until(self, condition: Callable[[], Any], timeout_s: float) -> bool:
        for _ in range(20):
            for process in self.processes:
                process.require_running()
            if condition():
                return True
            self._pass_time()
        return False

    def _pass_time(self) -> None:
        if 'dies' in self.faults and self._images > 40:
            self.processes[0].is_running = False
        self._send_as_camera()
        if 'no reports' in self.faults and self._images > 0:
            return
        self.reports += 1
        message = '' if 'no complaint' in self.faults else 'no image for 1 s'
        self.status = Status(b'', message, {'state': self.state})

    def _send_as_camera(self) -> None:
        if self.camera is None or not self.camera.is_running or self.camera.is_suspended:
            return
        if 'ignores cameras' not in self.faults:
            self._counts['received'] += 1
            key = FrameKey(0, self._counts['received'], 'camera')
            self._sent.add(key)
            self._answer(key)


def soak(*faults: str, phases: tuple[str, ...] = tuple(PHASES)) -> tuple[Soak, Checks]:
    node, checks = SimulatedNode(*faults), Checks()
    usage = Usage(1.0, 1.0, 1, 1)
    subject = Soak(
        *(node, node.start, {}, checks, 0.1, LIMITS),
        read_usage=lambda pid: usage,
        sleep=lambda seconds: None,
    )
    subject.run(phases, 0)
    return subject, checks


def failed(checks: Checks) -> set[str]:
    return {check.name for check in checks if not check.passed}


def test_a_good_node_passes() -> None:
    subject, checks = soak()
    assert failed(checks) == set()
    assert all(check.looked for check in checks)
    assert {name: row.runs for name, row in subject.rows.items()} == {
        'start': 2,
        **dict.fromkeys(PHASES, 3),
    }
    assert [len(cycles) for cycles in subject.lives] == [2, 1]
    rows = subject.rows
    assert rows['bad'].counts['bad'] == rows['bad'].sent / 2 > 0
    assert rows['steady'].counts['processed'] == rows['steady'].sent > 0
    assert rows['camera'].counts['processed'] > 0


RECEIVED, SENT = 'frames received are accounted for', 'frames sent are received'
HEADERS = '{}: headers are those of frames sent, each once'
ANSWERED = 'frames are answered after {}'


@pytest.mark.parametrize(
    ('fault', 'phases', 'failing'),
    [
        ('deaf', ['steady'], {SENT}),
        ('forgetful', ['steady'], {RECEIVED}),
        ('failing', ['steady'], {'no frame fails'}),
        ('picky', ['steady'], {'bad frames, and no others, are counted as bad or dropped'}),
        (
            'strange header',
            ['steady'],
            {HEADERS.format(topic) for topic in OUTPUTS},
        ),
        ('twice', ['steady'], {HEADERS.format(topic) for topic in OUTPUTS}),
        ('silent', ['steady'], {'overlay: comes for every frame processed'}),
        ('no complaint', ['pause'], {'a pause is reported'}),
        ('accepts everything', ['parameters'], {'bad parameters are refused'}),
        ('refuses everything', ['parameters'], {'good parameters are accepted'}),
        ('refuses cleanup', ['lifecycle'], {'transitions succeed'}),
        (
            'ignores cameras',
            ['camera'],
            {
                ANSWERED.format('a camera has started'),
                ANSWERED.format('a suspended camera goes on'),
            },
        ),
        ('camera ends with a code', ['camera'], {'the camera ends with exit code 0'}),
        ('node ends with a code', ['steady'], {'the node ends with exit code 0'}),
    ],
)
def test_each_check_fails_for_its_fault(fault: str, phases: list[str], failing: set[str]) -> None:
    _, checks = soak(fault, phases=tuple(phases))
    assert failed(checks) == failing
    assert all(check.examples for check in checks if check.name in failing)


@pytest.mark.parametrize('fields', BAD_IMAGES, ids=str)
def test_bad_images_are_those_that_the_node_refuses(fields: dict[str, Any]) -> None:
    message = image_message(np.zeros((160, 320, 3), np.uint8), Header())
    for name, value in fields.items():
        setattr(message, name, value)
    with pytest.raises(FrameError):
        decode_image(message)


def test_a_node_that_answers_no_more() -> None:
    _, checks = soak('inactive', phases=('lifecycle',))
    assert ANSWERED.format('the node was started or activated') in failed(checks)


@pytest.mark.parametrize(
    ('fault', 'match'),
    [
        ('dies', 'it ended'),
        ('never active', 'does not become active; its log'),
        ('no reports', 'sends no diagnostics; its log'),
    ],
)
def test_a_node_that_is_lost_ends_the_soak(fault: str, match: str) -> None:
    with pytest.raises(NodeLostError, match=match):
        soak(fault, phases=('steady',))
