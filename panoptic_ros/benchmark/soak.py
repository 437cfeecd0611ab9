"""``panoptic soak --minutes N``: all kinds of input for long; the node has to stay as it is.

The node runs as a process of its own, as on a robot. This process plays the camera, in phases:
good frames, bursts, a real camera that is frozen and killed, bad frames, sizes that change,
pauses, parameters, the whole lifecycle; again and again, then the node is killed and started
anew. After each phase every frame has to be accounted for; in the end memory, threads and file
handles have to be what they were after the first cycles. Both ways are made reliable, so that
nothing but the node can lose a frame.
"""

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from panoptic_ros import __version__
from panoptic_ros.benchmark.processes import Process, process_environment
from panoptic_ros.datasets.street.scene import SyntheticStreet
from panoptic_ros.engines import ENGINES
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.ros.arguments import positive_number

if TYPE_CHECKING:
    from sensor_msgs.msg import CameraInfo

    from panoptic_ros.benchmark.checks import Checks
    from panoptic_ros.benchmark.soak_driver import Driver

OK, FAILED = 0, 1
"""Exit codes: everything held, something did not."""

MAX_GROWTH = 0.01
"""Share by which the node's memory may have grown since the warm-up."""

MIN_CYCLES = 4
"""Two are compared with two."""

WARM_UPS = 8
"""So many reloads of the engine, and bursts, until allocators and queues have taken their fill."""

WARM_UP_CYCLES = 1
"""Cycles after that which do not count either: whatever comes later has then been there once."""

RATE_HZ = 10.0
SIZE_WH = (320, 160)
BURST = 30
CYCLE_S = 30.0  # of frames; what else is in a cycle takes about as long again
FIRST_LIFE = 0.75  # of the time; then the node is killed and started anew
START_TIMEOUT_S = 120.0
SERVICE_TIMEOUT_S = 60.0  # to load an engine is one
TIMEOUT_S = 60.0
ENDS = ('processed', 'dropped', 'unwatched', 'bad', 'failed')

MODULES = {name: f'panoptic_ros.ros.{name}' for name in ('node', 'camera')}
"""What runs."""


class SoakError(PanopticRosError):
    """The soak cannot go on."""


@dataclass(frozen=True)
class Usage:
    """What a process holds: memory, threads, open file handles.

    Parameters
    ----------
    memory_mib
        All that is resident, which is what counts: memory of every kind can leak. Pages of files
        (libraries, the model) are in it, and what is shared: the 64 MiB of its own in which Fast
        DDS hands out messages, and of each peer's what was read, until the peer is gone.
    own_mib
        The anonymous part, which is this process's alone: tells where it grew.
    threads, handles
        How many.
    """

    memory_mib: float
    own_mib: float
    threads: int
    handles: int

    @classmethod
    def of(cls, pid: int) -> 'Usage':
        """Read it from ``/proc``; raises SoakError if there is no such process."""
        proc = Path('/proc', str(pid))
        try:
            lines = (proc / 'status').read_text().splitlines()
            status = dict(line.split(':', 1) for line in lines)
            return cls(
                memory_mib=int(status['VmRSS'].split()[0]) / 1024,
                own_mib=int(status['RssAnon'].split()[0]) / 1024,
                threads=int(status['Threads']),
                handles=len(list((proc / 'fd').iterdir())),
            )
        except (OSError, KeyError) as error:
            raise SoakError(f'process {pid} is gone') from error

    @classmethod
    def least(cls, readings: Sequence['Usage']) -> 'Usage':
        """Return the least of each: what is held for a moment only does not count."""
        return cls(*(min(getattr(r, f.name) for r in readings) for f in fields(cls)))


def usage_faults(cycles: Sequence[Usage]) -> dict[str, str]:
    """Say what is more in the second half of the cycles than in the first; empty texts if nothing.

    Memory is that of the smallest cycle of each half: allocators keep more or less from one
    reload of the engine to the next. For threads and handles the last cycle counts.
    """
    first, second = cycles[: len(cycles) // 2], cycles[len(cycles) // 2 :]
    before, after = (min(usage.memory_mib for usage in half) for half in (first, second))
    growth = after / before - 1
    faults = {
        'memory grows by 1 % at most': f'{before:.1f} MiB in the first half, {after:.1f} MiB in '
        f'the second: {growth:+.2%}'
        if growth > MAX_GROWTH
        else ''
    }
    for name in ('threads', 'handles'):
        most, last = max(getattr(usage, name) for usage in first), getattr(cycles[-1], name)
        faults[f'no {name} are left'] = (
            f'{most} in the first half, {last} at the end' if last > most else ''
        )
    return faults


@dataclass
class Row:
    """One line of the table: a phase, how often and how long it ran, and what became of frames."""

    phase: str
    runs: int = 0
    seconds: float = 0.0
    sent: int = 0
    counts: Counter[str] = field(default_factory=Counter)


class Soak:
    """Drives the node through the phases.

    Parameters
    ----------
    driver
        The camera and the ears.
    start
        Starts a process: short name of the module, parameters.
    parameters
        Of the node.
    checks
        Where faults go.
    scale
        How long phases last, 1 for their full length.

    Attributes
    ----------
    rows
        By phase.
    lives
        Of each life of the node, what it held in each cycle after its warm-up.
    node
        The node's process.
    """

    def __init__(
        self,
        driver: 'Driver',
        start: Callable[[str, dict[str, Any]], Process],
        parameters: dict[str, Any],
        checks: 'Checks',
        scale: float,
    ) -> None:
        self.rows = {name: Row(name) for name in ('start', *PHASES)}
        self.lives: list[list[Usage]] = []
        self._driver = driver
        self._start = start
        self._parameters = parameters
        self._checks = checks
        self._scale = scale
        street = SyntheticStreet(0, SIZE_WH, RATE_HZ)
        frames = [street.frame(10 * index) for index in range(8)]
        self._pictures = [cv2.cvtColor(f.image_rgb, cv2.COLOR_RGB2BGR) for f in frames]
        self._camera_matrix = frames[0].camera_matrix
        self._stamp_ns = time.time_ns()
        self._base: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._others_send = False
        self.node: Process | None = None

    # What happens.

    def run(self, phases: Sequence[str], seconds: float) -> None:
        """Go through the phases until the time is over, with a new life of the node in between."""
        began_s = time.monotonic()
        self._begin_life(phases)
        while len(self.lives[0]) < MIN_CYCLES or time.monotonic() < began_s + FIRST_LIFE * seconds:
            self._cycle(phases)
        self.node.kill()
        self._begin_life(phases)
        self._cycle(phases)
        while time.monotonic() < began_s + seconds:
            self._cycle(phases)
        code = self.node.interrupt()
        self._checks['the node ends with exit code 0'].add(f'{code}' if code else '')

    def _begin_life(self, phases: Sequence[str]) -> None:
        self.lives.append([])
        self._phase('start', Soak._warm_up)
        for name in WARM_UP_CYCLES * tuple(phases):
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
        return Usage.of(self.node.pid)

    def steady(self) -> None:
        """Good frames at a camera's rate."""
        for _ in self._ticks(8.0):
            self._send_good()

    def burst(self) -> None:
        """Many frames at once, then none."""
        for number, _ in enumerate(self._ticks(6.0)):
            if number % 20 == 0:
                for _ in range(BURST):
                    self._send_good()

    def bad(self) -> None:
        """A bad frame after each good one."""
        from panoptic_ros.ros.messages import image_message

        bad_frames = [
            {'encoding': 'bgr9'},
            {'encoding': '16UC1'},
            {'step': 7},
            {'height': 2**32 - 1},
            {'width': 0},
            {'data': []},
            {'encoding': 'yuv422', 'width': 3, 'step': 2**31},
        ]
        for number, _ in enumerate(self._ticks(4.0)):
            self._send_good()
            message = image_message(self._pictures[0], self._header())
            for name, value in bad_frames[number % len(bad_frames)].items():
                setattr(message, name, value)
            self._driver.send(message, is_good=False)
            self._sent['bad'] += 1

    def sizes(self) -> None:
        """Another size every frame, grey among them, with a calibration of yet another size.

        None is larger than the others: DDS keeps buffers of the largest message that came.
        """
        sizes = [(1, 1), (33, 17), (160, 320), (31, 200), (5000, 2), (64, 64)]
        for number, _ in enumerate(self._ticks(4.0)):
            picture = cv2.resize(self._pictures[0], sizes[number % len(sizes)])
            self._send_good(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) if number % 2 else picture)

    def pause(self) -> None:
        """No frames: the node has to say so, and to go on afterwards."""
        self._set_parameters(image_timeout_s=0.5)
        self._send_good()
        warns = self._wait_until(lambda: self._driver.message.startswith('no image for'))
        self._checks['a pause is reported'].add('' if warns else self._driver.message)
        self._set_parameters(image_timeout_s=2.0)
        self._send_good()

    def parameters(self) -> None:
        """Thresholds change between frames; what is out of range or fixed is refused."""
        rng = np.random.default_rng(len(self.lives[-1]))
        for _ in range(max(2, round(8 * self._scale))):
            self._set_parameters(
                overlay_opacity=float(rng.uniform()),
                centre_threshold=float(rng.uniform(0.05, 0.5)),
                camera_height_m=float(rng.uniform(0.5, 3)),
            )
            self._send_good()
            for name, value in (('overlay_opacity', 2.0), ('model', 'another'), ('engine', 'no')):
                taken = self._driver.set_parameters(**{name: value})
                self._checks['bad parameters are refused'].add(
                    f'{name} = {value!r} was taken' if taken else ''
                )
        self._set_parameters(overlay_opacity=0.5, centre_threshold=-1.0, camera_height_m=1.5)

    def lifecycle(self) -> None:
        """Down to where it was before it was configured, by two ways, and up again."""
        self._change_states('deactivate', 'activate')
        self._connect()
        self._change_states('deactivate', 'cleanup', 'configure', 'activate')
        self._connect()

    def camera(self) -> None:
        """A real camera that stops for a while, is killed, started anew, and ends as it should."""
        self._others_send = True
        for ending in (Process.kill, Process.interrupt):
            self._driver.begin_camera()
            camera = self._start('camera', self._camera_parameters())
            self._require_frames('a camera has started')
            camera.send(signal.SIGSTOP)
            time.sleep(1 + self._scale)
            camera.send(signal.SIGCONT)
            self._require_frames('a camera that stood still goes on')
            code = ending(camera)
            self._driver.end_camera()
            self._checks['the camera ends with exit code 0'].add(f'{code}' if code else '')
        self._require_frames('cameras are gone', self._send_good)

    # What it is made of.

    def _warm_up(self) -> None:
        self.node = self._start('node', self._parameters)
        self._driver.values = {}
        if not self._wait_until(
            lambda: self._driver.values.get('state') == 'active', START_TIMEOUT_S
        ):
            raise SoakError(f'the node does not become active; {self.node.tail()}')
        for _ in range(WARM_UPS):
            for _ in range(BURST):
                self._send_good()
            time.sleep(self._scale)
            self._change_states('deactivate', 'cleanup', 'configure', 'activate')
        self._connect()

    def _change_states(self, *transitions: str) -> None:
        for transition in transitions:
            done = self._driver.change_state(transition)
            self._checks['transitions succeed'].add('' if done else f'{transition} failed')

    def _connect(self) -> None:
        """Send frames until the node answers, and count from there: the first may get lost."""
        self._others_send = True
        self._require_frames('the node was started or activated', self._send_good)
        reports = self._driver.reports
        self._wait_until(lambda: self._driver.reports > reports + 2 and self._is_quiet())
        self._sent.clear()
        self._count_from_here()

    def _is_quiet(self) -> bool:
        counts = self._counts()
        return counts['received'] == sum(counts[end] for end in ENDS)

    def _require_frames(self, what: str, send: Callable[[], None] | None = None) -> None:
        """Wait for two new answers."""
        heard = self._driver.heard['overlay']
        before = heard.total()

        def goes_on() -> bool:
            if send is not None and heard.total() < before + 2:
                send()
                time.sleep(0.2)
            return heard.total() >= before + 2

        good = self._wait_until(goes_on)
        self._checks[f'frames are answered after {what}'].add('' if good else 'they are not')

    def _settle(self, name: str, row: Row) -> None:
        """Wait until all frames are accounted for, note what is not, and begin a new account."""
        seen, faults = self._driver.reports, {}

        def is_settled() -> bool:
            nonlocal seen, faults
            if self._driver.reports > seen:
                seen = self._driver.reports
                faults = self._account()
                return not any(faults.values())
            return False

        self._wait_until(is_settled)
        if not faults:
            raise SoakError(f'the node sends no diagnostics; {self.node.tail()}')
        for check, fault in faults.items():
            self._checks[check].add(f'{name}: {fault}' if fault else '')
        counts = self._counts()
        row.sent += self._sent.total()
        row.counts.update({k: counts[k] - self._base[k] for k in counts})
        self._count_from_here()

    def _account(self) -> dict[str, str]:
        """Say what is wrong with the frames of this phase; empty texts if nothing is."""
        counts, driver = self._counts(), self._driver
        grown = {kind: counts[kind] - self._base[kind] for kind in counts}
        ended = sum(grown[end] for end in ENDS)
        faults = {
            'frames received are accounted for': f'{grown["received"]} received, {ended} ended'
            if ended != grown['received']
            else '',
            'no frame fails': f'{grown["failed"]} failed' if grown['failed'] else '',
        }
        if not self._others_send:
            sent = self._sent.total()
            faults |= {
                'frames sent are received': f'{sent} sent, {grown["received"]} received'
                if sent != grown['received']
                else '',
                'bad frames, and no others, are counted as bad or dropped': self._bad_fault(grown),
            }
        for topic in COUNTED:
            heard = len(driver.heard[topic])
            faults[f'{topic}: comes for every frame processed'] = (
                f'{grown["processed"]} processed, {heard} came'
                if heard != grown['processed']
                else ''
            )
        for topic, heard in driver.heard.items():
            strange = sorted(driver.strangers(topic))
            twice = sorted(key for key, times in list(heard.items()) if times > 1)
            faults[f'{topic}: headers are those of frames sent, each once'] = (
                f'{strange[0]} was never sent'
                if strange
                else f'{twice[0]} came twice'
                if twice
                else ''
            )
        return faults

    def _bad_fault(self, grown: dict[str, int]) -> str:
        bad, dropped, sent = grown['bad'], grown['dropped'], self._sent['bad']
        if bad <= sent <= bad + dropped:
            return ''
        return f'{sent} bad frames sent, {bad} counted as bad, {dropped} as dropped'

    def _counts(self) -> Counter[str]:
        values = self._driver.values
        return Counter({k: int(values.get(f'frames {k}', 0)) for k in ('received', *ENDS)})

    def _count_from_here(self) -> None:
        self._base = self._counts()
        self._others_send = False
        self._driver.forget()

    def _ticks(self, seconds: float) -> Iterator[None]:
        for _ in range(max(3, round(seconds * self._scale * RATE_HZ))):
            yield
            time.sleep(1 / RATE_HZ)

    def _header(self) -> Any:
        from std_msgs.msg import Header

        self._stamp_ns = max(self._stamp_ns + 1_000_001, time.time_ns())
        header = Header(frame_id=f'caméra_{self._stamp_ns % 7}')
        header.stamp.sec, header.stamp.nanosec = divmod(self._stamp_ns, 1_000_000_000)
        return header

    def _send_good(self, picture: np.ndarray | None = None) -> None:
        from panoptic_ros.ros.messages import image_message

        number = self._sent['good']
        picture = self._pictures[number % len(self._pictures)] if picture is None else picture
        self._driver.send(image_message(picture, self._header()), self._calibration())
        self._sent['good'] += 1

    def _calibration(self) -> 'CameraInfo':
        from panoptic_ros.ros.camera import camera_info_message

        return camera_info_message(self._camera_matrix, SIZE_WH)

    def _camera_parameters(self) -> dict[str, Any]:
        from panoptic_ros.benchmark.soak_driver import CAMERA_QOS

        width, height = SIZE_WH
        return {'width': width, 'height': height, 'rate_hz': RATE_HZ, 'prefetch': 3} | CAMERA_QOS

    def _set_parameters(self, **values: Any) -> None:
        taken = self._driver.set_parameters(**values)
        self._checks['good parameters are taken'].add('' if taken else f'{values} refused')

    def _wait_until(self, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        from panoptic_ros.benchmark.soak_driver import wait_until

        def holds_or_dead() -> bool:
            if self.node.exit_code is not None:
                raise SoakError(
                    f'the node ended with exit code {self.node.exit_code}; {self.node.tail()}'
                )
            return condition()

        return wait_until(holds_or_dead, timeout_s or TIMEOUT_S)


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

COUNTED = ('semantic', 'instance', 'overlay')
"""Topics that come for every frame."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument('--minutes', type=positive_number, default=10.0, help='(%(default)s)')
    parser.add_argument('--model', default='street-lite', help='name or folder (%(default)s)')
    parser.add_argument('--engine', default='auto', choices=('auto', *ENGINES))
    parser.add_argument(
        '--phases',
        type=_phases,
        default=tuple(PHASES),
        help=f'some of {",".join(PHASES)} (all)',
    )
    parser.add_argument(
        '--out', type=Path, default=Path('out', 'soak'), help='folder for logs (%(default)s)'
    )
    parser.add_argument('--json', type=Path, help='write the figures to this file')


def run(args: argparse.Namespace) -> int:
    """Soak the node; returns :data:`FAILED` if anything did not hold."""
    environment = process_environment()
    os.environ.update(environment)  # for this process too, and before ROS looks at it
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from panoptic_ros.benchmark.checks import Checks
    from panoptic_ros.benchmark.soak_driver import NODE_QOS, Driver

    # SIGTERM has to end the other processes as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    args.out.mkdir(parents=True, exist_ok=True)
    checks, logs = Checks(), []
    with ExitStack() as stack:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        stack.callback(rclpy.try_shutdown)
        driver = Driver(SERVICE_TIMEOUT_S)
        stack.callback(driver.close)

        def start(name: str, parameters: dict[str, Any]) -> Process:
            log = args.out / f'{name}_{len(logs):03d}.log'
            process = Process(MODULES[name], parameters, environment, log)
            logs.append(log)
            stack.callback(process.interrupt)
            return process

        parameters = {'model': args.model, 'engine': args.engine} | NODE_QOS
        scale = min(1.0, max(0.1, args.minutes * 60 / MIN_CYCLES / CYCLE_S / 2))
        print(f'soaking for {args.minutes:g} minutes; logs in {args.out}', file=sys.stderr)
        soak = Soak(driver, start, parameters, checks, scale)
        alive = ''
        try:
            soak.run(args.phases, args.minutes * 60)
        except (SoakError, TimeoutError) as error:
            alive = str(error)
        checks['the node stays alive and answers'].add(alive)
        for cycles in soak.lives:
            if len(cycles) >= MIN_CYCLES:
                for check, fault in usage_faults(cycles).items():
                    checks[check].add(fault)
        engine = driver.values.get('engine', '')
    for log in logs:
        checks['the logs have no errors'].add(_log_fault(log))
    report = _as_json(args, soak, checks, engine)
    if args.json is not None:
        args.json.write_text(json.dumps(report, indent=2) + '\n')
    print(_as_text(report))
    return OK if checks.passed else FAILED


def _log_fault(log: Path) -> str:
    lines = log.read_text(encoding='utf-8', errors='replace').splitlines()
    words = ('[ERROR]', '[FATAL]', 'Traceback')
    first = next((line for line in lines if any(word in line for word in words)), '')
    return f'{log}: {first}' if first else ''


def _as_json(
    args: argparse.Namespace, soak: Soak, checks: 'Checks', engine: str
) -> dict[str, Any]:
    rows = [row for row in soak.rows.values() if row.runs]
    return {
        'version': __version__,
        'platform': platform.platform(),
        'minutes': args.minutes,
        'model': args.model,
        'engine': engine,
        'phases': [
            {
                'phase': row.phase,
                'runs': row.runs,
                'seconds': round(row.seconds, 1),
                'sent': row.sent,
                **{kind: row.counts[kind] for kind in ('received', *ENDS)},
            }
            for row in rows
        ],
        'lives': [[asdict(usage) for usage in cycles] for cycles in soak.lives],
        'checks': [asdict(check) | {'passed': check.passed} for check in checks],
        'passed': checks.passed,
    }


def _as_text(report: dict[str, Any]) -> str:
    columns = ('runs', 'seconds', 'sent', 'received', 'processed', 'dropped', 'bad', 'failed')
    lines = [
        f'model {report["model"]} on {report["engine"]}',
        '',
        f'{"phase":<12}' + ''.join(f'{column:>10}' for column in columns),
    ]
    for row in report['phases']:
        lines.append(f'{row["phase"]:<12}' + ''.join(f'{row[c]:>10}' for c in columns))
    lines += ['', f'{"cycle":<12}{"MiB":>10}{"own MiB":>10}{"threads":>10}{"handles":>10}']
    for life, cycles in enumerate(report['lives'], start=1):
        for number, usage in enumerate(cycles, start=1):
            lines.append(
                f'{f"{life}.{number}":<12}{usage["memory_mib"]:>10.1f}{usage["own_mib"]:>10.1f}'
                f'{usage["threads"]:>10}{usage["handles"]:>10}'
            )
    lines.append('')
    for check in report['checks']:
        lines.append(
            f'{"ok" if check["passed"] else "FAIL":<5}{check["looked"]:>6}  {check["name"]}'
        )
        lines += [f'{"":13}{check["broken"]} times: {e}' for e in check['examples']]
    lines += ['', 'everything held' if report['passed'] else 'SOMETHING DID NOT HOLD']
    return '\n'.join(lines)


def _phases(text: str) -> tuple[str, ...]:
    names = tuple(text.split(','))
    unknown = [name for name in names if name not in PHASES]
    if unknown:
        raise argparse.ArgumentTypeError(f'{unknown[0]!r} is none of {", ".join(PHASES)}')
    return names
