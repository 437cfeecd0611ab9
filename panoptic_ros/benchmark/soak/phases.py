"""The phases of a soak, and the order in which the node goes through them."""

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from std_msgs.msg import Header

from panoptic_ros.benchmark.checks import OUTCOMES, Checks
from panoptic_ros.benchmark.client import Status
from panoptic_ros.benchmark.processes import NodeLostError, Process
from panoptic_ros.benchmark.soak.accounts import Usage, frame_faults
from panoptic_ros.benchmark.soak.robot import Robot
from panoptic_ros.datasets.street.scene import SyntheticStreet
from panoptic_ros.ros.camera import camera_info_message
from panoptic_ros.ros.messages import image_message

RATE_HZ = 10.0
SIZE_WH = (320, 160)
BURST = 30
RESEND_S = 0.2
FIRST_LIFE = 0.75
"""Share of the time after which the node is killed and started anew."""

BAD_IMAGES: tuple[dict[str, Any], ...] = (
    {'encoding': 'bgr9'},
    {'encoding': '32FC1'},
    {'step': 7},
    {'height': 2**32 - 1},
    {'width': 0},
    {'data': []},
    {'encoding': 'yuv422', 'width': 3, 'step': 2**31},
)
"""Fields that make an image message invalid."""

SIZES_WH = ((1, 1), (33, 17), (160, 320), (31, 200), (5000, 2), (64, 64))
"""None is larger than the usual size: DDS keeps buffers of the largest message that came."""


@dataclass(frozen=True)
class Limits:
    """How long a soak waits and how often it repeats.

    Parameters
    ----------
    warm_ups
        Reloads of the engine and bursts before anything counts, until allocators and queues
        have reached their size.
    warm_up_cycles
        Cycles through the phases after that which do not count either.
    min_cycles
        Cycles that count, at least; two are compared with two.
    timeout_s, start_timeout_s
        How long to wait for messages, and for the node to become active.
    """

    warm_ups: int = 8
    warm_up_cycles: int = 1
    min_cycles: int = 4
    timeout_s: float = 60.0
    start_timeout_s: float = 120.0


@dataclass
class Row:
    """One line of the table: a phase, how often and how long it ran, and what became of images."""

    phase: str
    runs: int = 0
    seconds: float = 0.0
    sent: int = 0
    counts: Counter[str] = field(default_factory=Counter)


class Soak:
    """Takes the node through the phases.

    Parameters
    ----------
    robot
        Talks to the node.
    start
        Starts a process, ``'node'`` or ``'camera'``, with parameters.
    parameters
        Parameters of the node.
    checks
        Where faults are counted.
    scale
        Length of the phases, 1 for their full length.
    limits
        Waiting and repetitions.
    read_usage
        Returns what the process with an id holds.
    sleep
        Waits for some seconds.

    Attributes
    ----------
    rows
        By phase.
    lives
        For each start of the node, what it held in each cycle that counts.
    """

    def __init__(
        self,
        robot: Robot,
        start: Callable[[str, dict[str, Any]], Process],
        parameters: dict[str, Any],
        checks: Checks,
        scale: float = 1.0,
        limits: Limits = Limits(),
        read_usage: Callable[[int], Usage] = Usage.of,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.rows = {name: Row(name) for name in ('start', *PHASES)}
        self.lives: list[list[Usage]] = []
        self._robot = robot
        self._start = start
        self._parameters = parameters
        self._checks = checks
        self._scale = scale
        self._limits = limits
        self._read_usage = read_usage
        self._sleep = sleep
        street = SyntheticStreet(0, SIZE_WH, RATE_HZ)
        frames = [street.frame(10 * index) for index in range(8)]
        self._pictures = [cv2.cvtColor(f.image_rgb, cv2.COLOR_RGB2BGR) for f in frames]
        self._camera_matrix = frames[0].camera_matrix
        self._stamp_ns = time.time_ns()
        self._base: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._camera_sends = False

    # The order.

    def run(self, phases: Sequence[str], seconds: float) -> None:
        """Repeat the phases for some time; after most of it, kill the node and start it anew.

        Raises NodeLostError if the node ends or does not answer.
        """
        began_s = time.monotonic()

        def is_over(share: float) -> bool:
            return time.monotonic() >= began_s + share * seconds

        self._begin_life(phases)
        while len(self.lives[0]) < self._limits.min_cycles or not is_over(FIRST_LIFE):
            self._cycle(phases)
        self._robot.processes = []
        self._process.kill()
        self._begin_life(phases)
        self._cycle(phases)
        while not is_over(1):
            self._cycle(phases)
        self._robot.processes = []
        code = self._process.interrupt()
        self._checks['the node ends with exit code 0'].add(f'{code}' if code else '')

    def _begin_life(self, phases: Sequence[str]) -> None:
        self.lives.append([])
        self._phase('start', Soak._warm_up)
        for name in self._limits.warm_up_cycles * tuple(phases):
            self._phase(name, PHASES[name])

    def _cycle(self, phases: Sequence[str]) -> None:
        readings = [self._phase(name, PHASES[name]) for name in phases]
        self.lives[-1].append(Usage.least(readings))

    def _phase(self, name: str, act: Callable[['Soak'], None]) -> Usage:
        row, began_s = self.rows[name], time.monotonic()
        self._sent.clear()
        act(self)
        self._settle(name, row)
        row.runs += 1
        row.seconds += time.monotonic() - began_s
        return self._read_usage(self._process.pid)

    # The phases.

    def steady(self) -> None:
        """Good images at a camera's rate."""
        for _ in self._ticks(8.0):
            self._send_good()

    def burst(self) -> None:
        """Many images at once, then none."""
        for number, _ in enumerate(self._ticks(6.0)):
            if number % 20 == 0:
                for _ in range(BURST):
                    self._send_good()

    def bad(self) -> None:
        """A bad image after each good one."""
        for number, _ in enumerate(self._ticks(4.0)):
            self._send_good()
            message = image_message(self._pictures[0], self._header())
            for name, value in BAD_IMAGES[number % len(BAD_IMAGES)].items():
                setattr(message, name, value)
            self._robot.send(message, is_good=False)
            self._sent['bad'] += 1

    def sizes(self) -> None:
        """Another size for every image, also grey, with a calibration of yet another size."""
        for number, _ in enumerate(self._ticks(4.0)):
            picture = cv2.resize(self._pictures[0], SIZES_WH[number % len(SIZES_WH)])
            self._send_good(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) if number % 2 else picture)

    def pause(self) -> None:
        """No images: the node has to report it, and to go on afterwards."""
        self._set_parameters(image_timeout_s=0.5)
        self._send_good()
        warns = self._wait_until(lambda: self._robot.status.message.startswith('no image for'))
        said = f'the node reports {self._robot.status.message!r}'
        self._checks['a pause is reported'].add('' if warns else said)
        self._set_parameters(image_timeout_s=2.0)
        self._send_good()

    def parameters(self) -> None:
        """Thresholds change between images; values out of range and fixed ones are refused."""
        rng = np.random.default_rng(len(self.lives[-1]))
        for _ in range(max(2, round(8 * self._scale))):
            self._set_parameters(
                overlay_opacity=float(rng.uniform()),
                centre_threshold=float(rng.uniform(0.05, 0.5)),
                camera_height_m=float(rng.uniform(0.5, 3)),
            )
            self._send_good()
            bad: dict[str, Any] = {'overlay_opacity': 2.0, 'model': 'another', 'engine': 'no'}
            for name, value in bad.items():
                accepted = self._robot.set_parameters(**{name: value})
                self._checks['bad parameters are refused'].add(
                    f'{name} = {value!r} was accepted' if accepted else ''
                )
        self._set_parameters(overlay_opacity=0.5, centre_threshold=-1.0, camera_height_m=1.5)

    def lifecycle(self) -> None:
        """Deactivate and activate; then the same with cleanup and configure in between."""
        self._change_states('deactivate', 'activate')
        self._connect()
        self._change_states('deactivate', 'cleanup', 'configure', 'activate')
        self._connect()

    def camera(self) -> None:
        """A camera process that is suspended for a while, killed, started again, and ended."""
        self._camera_sends = True
        for ending in ('kill', 'interrupt'):
            self._robot.begin_camera()
            width, height = SIZE_WH
            camera = self._start(
                'camera', {'width': width, 'height': height, 'rate_hz': RATE_HZ, 'prefetch': 3}
            )
            self._require_answers('a camera has started')
            camera.send(signal.SIGSTOP)
            self._sleep(1 + self._scale)
            camera.send(signal.SIGCONT)
            self._require_answers('a suspended camera goes on')
            if ending == 'kill':
                camera.kill()
            else:
                code = camera.interrupt()
                self._checks['the camera ends with exit code 0'].add(f'{code}' if code else '')
            self._robot.end_camera()
        self._require_answers('the cameras have ended', self._send_good)

    # Parts of them.

    def _warm_up(self) -> None:
        self._process = self._start('node', self._parameters)
        self._robot.processes = [self._process]
        self._robot.status = Status()
        if not self._wait_until(
            lambda: self._robot.status.values.get('state') == 'active',
            self._limits.start_timeout_s,
        ):
            raise NodeLostError(f'the node does not become active; {self._process.tail()}')
        for _ in range(self._limits.warm_ups):
            for _ in range(BURST):
                self._send_good()
            self._sleep(self._scale)
            self._change_states('deactivate', 'cleanup', 'configure', 'activate')
        self._connect()

    def _change_states(self, *transitions: str) -> None:
        for transition in transitions:
            done = self._robot.change_state(transition)
            self._checks['transitions succeed'].add('' if done else f'{transition} failed')

    def _connect(self) -> None:
        """Send images until the node answers, then begin an account: the first may get lost."""
        self._camera_sends = True
        self._require_answers('the node was started or activated', self._send_good)
        reports = self._robot.reports
        self._wait_until(lambda: self._robot.reports > reports + 2 and self._is_quiet())
        self._sent.clear()
        self._begin_account()

    def _is_quiet(self) -> bool:
        counts = self._robot.counts()
        return counts['received'] == sum(counts[outcome] for outcome in OUTCOMES)

    def _require_answers(self, what: str, send: Callable[[], None] | None = None) -> None:
        """Wait for two further answers, sending images if no camera does."""
        target = self._robot.answered() + 2
        answered = False
        for _ in range(max(1, round(self._limits.timeout_s / RESEND_S))):
            if send is not None:
                send()
            answered = self._wait_until(lambda: self._robot.answered() >= target, RESEND_S)
            if answered:
                break
        self._checks[f'frames are answered after {what}'].add('' if answered else 'they are not')

    def _settle(self, name: str, row: Row) -> None:
        """Wait until all images are accounted for, count the faults, and begin a new account."""
        seen, faults = self._robot.reports, {}

        def is_settled() -> bool:
            nonlocal seen, faults
            if self._robot.reports > seen:
                seen = self._robot.reports
                sent = None if self._camera_sends else self._sent
                faults = frame_faults(self._counts(), self._robot.outputs(), sent)
                return not any(faults.values())
            return False

        self._wait_until(is_settled)
        if not faults:
            raise NodeLostError(f'the node sends no diagnostics; {self._process.tail()}')
        for check, fault in faults.items():
            self._checks[check].add(f'{name}: {fault}' if fault else '')
        row.sent += self._sent.total()
        row.counts.update(self._counts())
        self._begin_account()

    def _counts(self) -> Counter[str]:
        counts = self._robot.counts()
        return Counter({name: counts[name] - self._base[name] for name in counts})

    def _begin_account(self) -> None:
        self._base = self._robot.counts()
        self._camera_sends = False
        self._robot.forget()

    def _ticks(self, seconds: float) -> Iterator[None]:
        for _ in range(max(3, round(seconds * self._scale * RATE_HZ))):
            yield
            self._sleep(1 / RATE_HZ)

    def _header(self) -> Header:
        self._stamp_ns = max(self._stamp_ns + 1_000_001, time.time_ns())
        header = Header(frame_id=f'caméra_{self._stamp_ns % 7}')
        header.stamp.sec, header.stamp.nanosec = divmod(self._stamp_ns, 1_000_000_000)
        return header

    def _send_good(self, picture: np.ndarray | None = None) -> None:
        if picture is None:
            picture = self._pictures[self._sent['good'] % len(self._pictures)]
        calibration = camera_info_message(self._camera_matrix, SIZE_WH)
        self._robot.send(image_message(picture, self._header()), calibration)
        self._sent['good'] += 1

    def _set_parameters(self, **values: Any) -> None:
        accepted = self._robot.set_parameters(**values)
        self._checks['good parameters are accepted'].add('' if accepted else f'{values} refused')

    def _wait_until(self, condition: Callable[[], Any], timeout_s: float | None = None) -> bool:
        return self._robot.wait_until(condition, timeout_s or self._limits.timeout_s)


PHASES: dict[str, Callable[[Soak], None]] = {
    'steady': Soak.steady,
    'burst': Soak.burst,
    'camera': Soak.camera,
    'bad': Soak.bad,
    'sizes': Soak.sizes,
    'pause': Soak.pause,
    'parameters': Soak.parameters,
    'lifecycle': Soak.lifecycle,
}
