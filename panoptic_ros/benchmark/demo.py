"""``python -m panoptic_ros.benchmark.demo``: a camera and the node over DDS, every topic checked.

Two processes of their own, the camera and the node, talk over DDS as they would on a robot; this
process listens to both, checks every message against what it promises, and ends with a table,
pictures and ``report.json``.
"""

import argparse
import importlib.util
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from tqdm import tqdm

from panoptic_ros import __version__
from panoptic_ros.benchmark.processes import Process, process_environment, signals_held_back
from panoptic_ros.datasets.street.scene import SyntheticStreet
from panoptic_ros.engines import ENGINES
from panoptic_ros.errors import PanopticRosError
from panoptic_ros.evaluation.report import as_json, summary_table, write_json
from panoptic_ros.labels import LabelSet
from panoptic_ros.model import Model
from panoptic_ros.ros.arguments import positive_number, size_wh
from panoptic_ros.sources import open_pictures
from panoptic_ros.visualize import free_space_picture, instance_color, panel, semantic_color

if TYPE_CHECKING:
    from panoptic_ros.benchmark.receiver import FrameBook, Sample

OK, FAILED, USER_ERROR = 0, 1, 2
"""Exit codes: all checks passed, some did not, what was asked for cannot be done."""

STREET = 'street'
RATE_HZ = 15.0
START_TIMEOUT_S = 120.0
MIN_ARRIVING = 0.8
"""Share of the frames sent that the node has to receive, and of those processed that have to
arrive on each topic. Images are best effort, and the first may pass before DDS has connected."""

GRID_M = 30.0

PREFETCH_BYTES = 512 << 20
BYTES_PER_PIXEL = 10  # of the messages of a frame of the street: image, truth, depth

STAGES = ('wait', 'decode', 'preprocess', 'inference', 'fusion', 'publish', 'total', 'age')
PERCENTILES = (50, 95, 99)
END_TO_END = 'end to end'
DEPTH_COUNTS = ('received', 'matched', 'bad', 'missed', 'late')


class DemoError(PanopticRosError):
    """The demo could not be carried out."""


@dataclass(frozen=True)
class Plan:
    """What is to be run: parameters of the two processes and how many frames are expected."""

    camera: dict[str, Any]
    node: dict[str, Any]
    frames: int
    rate_hz: float


def make_plan(args: argparse.Namespace) -> Plan:
    """Work out the parameters; raises SourceError or DatasetError if the source is no good."""
    camera = {'source': args.source, 'wait_for_subscribers': 2, 'seed': args.seed}
    # The last diagnostics come after the last image and are to be about the run.
    node = {'model': args.model, 'engine': args.engine, 'image_timeout_s': 60.0}
    node['depth'] = args.source == STREET
    node |= {'grid_length_m': GRID_M, 'grid_width_m': GRID_M}
    width, height = args.size or (0, 0)
    camera |= {'width': width, 'height': height}
    if args.source == STREET:
        rate_hz = args.rate or RATE_HZ
        street = SyntheticStreet(args.seed, args.size or (640, 320), rate_hz).frame(0)
        node['camera_height_m'] = street.camera_height_m
        node['camera_pitch_rad'] = street.camera_pitch_rad
        node['turn_boxes'] = True
        frames = args.frames or round(args.seconds * rate_hz)
        width, height = street.size_wh
        ahead = PREFETCH_BYTES // (width * height * BYTES_PER_PIXEL)
        camera['prefetch'] = max(1, min(frames, ahead))
    else:
        pictures = open_pictures(args.source)
        rate_hz = args.rate or pictures.rate_hz or RATE_HZ
        frames = args.frames or round(args.seconds * rate_hz)
        is_video = pictures.rate_hz > 0 and pictures.count > 0
        if is_video and not args.frames:
            frames = min(frames, pictures.count)
        camera |= {'loop': True, 'horizontal_fov_deg': args.fov}
        node['camera_height_m'] = args.camera_height
        node['camera_pitch_rad'] = args.camera_pitch
    camera |= {'rate_hz': float(rate_hz), 'frames': frames}
    return Plan(camera, node, frames, rate_hz)


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns :data:`OK` if every check passed."""
    if importlib.util.find_spec('rclpy') is None:
        raise DemoError(
            f'there is no ROS 2 in this Python ({platform.system()} {platform.machine()}, '
            f'{platform.python_version()}): its wheels exist for Linux x86_64 and Python 3.11 to '
            '3.14; elsewhere install ROS 2 and build with colcon (see the README)'
        )
    plan = make_plan(args)
    label_set = Model.load(args.model).label_set
    args.out.mkdir(parents=True, exist_ok=True)
    for old in [*args.out.glob('panel_*.png'), args.out / 'report.json']:
        old.unlink(missing_ok=True)
    report = _run_processes(args, plan, label_set)
    write_json(args.out / 'report.json', report.as_json())
    print(report.text())
    print(f'report     {args.out / "report.json"}')
    if report.passed:
        return OK
    for process in report.processes:
        print(f'\n--- end of {process.log}\n{process.tail()}')
    return FAILED


def _run_processes(args: argparse.Namespace, plan: Plan, label_set: LabelSet) -> 'Report':
    environment = process_environment()
    # For this process too, and before ROS looks at it.
    os.environ.update(environment)
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from panoptic_ros.benchmark.receiver import FrameBook, Receiver

    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    with ExitStack() as stack:
        stack.callback(rclpy.try_shutdown)
        book = FrameBook(label_set, sample_every=max(1, plan.frames // 5))
        receiver = Receiver(book, takes_points=plan.node['depth'] and args.points)
        closing = stack.enter_context(ExitStack())
        closing.callback(receiver.close)

        def start(name: str, parameters: dict[str, Any]) -> Process:
            module, log = f'panoptic_ros.ros.{name}', args.out / f'{name}.log'
            with signals_held_back():
                process = Process(module, parameters, environment, log)
                stack.callback(process.interrupt)
            return process

        print(f'starting the node with model {args.model} ...', flush=True)
        node = start('node', plan.node)
        _wait(lambda: _state(book) == 'active', [node], START_TIMEOUT_S, 'the node to start')
        print(f'starting the camera, {plan.frames} frames of {args.source} ...', flush=True)
        camera = start('camera', plan.camera)
        _watch(book, camera, node, plan)
        codes = {'camera': camera.interrupt()}
        # Two more reports of the node, so that the last one is about all frames.
        newest = book.received['diagnostics']
        _wait(lambda: book.received['diagnostics'] > newest + 1, [node], 10, 'diagnostics')
        codes['node'] = node.interrupt()
        closing.close()
        return Report(args, plan, book, receiver.topics, codes, [camera, node])


def _state(book: 'FrameBook') -> str:
    return next((v.value for v in book.status.values if v.key == 'state'), '')


def _wait(
    condition: Callable[[], bool], processes: Sequence[Process], timeout_s: float, what: str
) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        for process in processes:
            if process.exit_code is not None:
                raise DemoError(
                    f'{process.log.stem} ended with exit code {process.exit_code} while the demo '
                    f'waited for {what}; the end of {process.log}:\n{process.tail()}'
                )
        if time.monotonic() > end_s:
            tails = '\n'.join(f'{p.log}:\n{p.tail()}' for p in processes)
            raise DemoError(f'waited {timeout_s:.0f} s in vain for {what}; {tails}')
        time.sleep(0.05)


def _watch(book: 'FrameBook', camera: Process, node: Process, plan: Plan) -> None:
    """Show progress until the camera has sent everything."""
    with tqdm(total=plan.frames, unit='frame', disable=None) as progress:

        def ended() -> bool:
            progress.update(book.frames_sent - progress.n)
            return camera.exit_code is not None

        _wait(ended, [node], START_TIMEOUT_S + 2 * plan.frames / plan.rate_hz, 'the camera')


class Report:
    """What came of a run: the table, the pictures, the JSON.

    Parameters
    ----------
    args, plan
        What was asked for.
    book
        What was received and checked.
    topics
        Of the node.
    codes
        Exit codes by process.
    processes
        For the ends of their logs.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        plan: Plan,
        book: 'FrameBook',
        topics: Sequence[str],
        codes: dict[str, int],
        processes: Sequence[Process],
    ) -> None:
        self.processes = processes
        self._args = args
        self._plan = plan
        self._book = book
        self._topics = topics
        self._values = {v.key: v.value for v in book.status.values}
        self._add_final_checks(codes)
        self._pictures = [
            _write_panel(args.out / f'panel_{number}.png', sample, book.label_set)
            for number, sample in enumerate(book.samples, start=1)
        ]

    def _add_final_checks(self, codes: dict[str, int]) -> None:
        from panoptic_ros.benchmark.checks import diagnostics_fault

        checks, received = self._book.checks, self._book.received
        sent, processed = self._count('sent'), self._count('processed')
        for what, came, whole in (
            ('camera: all frames are sent', sent, self._plan.frames),
            ('node: receives what is sent', self._count('received'), MIN_ARRIVING * sent),
            *(
                (f'{topic}: arrives', received[topic], MIN_ARRIVING * processed)
                for topic in self._topics
            ),
        ):
            is_enough = came > 0 and came >= whole
            checks[what].add('' if is_enough else f'{came} of {whole:.0f} at least')
        checks['diagnostics: OK, all frames accounted for'].add(
            diagnostics_fault(self._book.status)
        )
        for name, code in codes.items():
            checks[f'{name}: ends with exit code 0'].add(f'{code}' if code else '')

    def _count(self, what: str) -> int:
        if what == 'sent':
            return self._book.frames_sent
        return int(self._values.get(f'frames {what}', 0))

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return self._book.checks.passed

    def _rate_hz(self) -> float:
        times_ns = self._book.semantic_times_ns
        if len(times_ns) < 2:
            return 0.0
        return (len(times_ns) - 1) * 1e9 / (times_ns[-1] - times_ns[0])

    def _milliseconds(self) -> dict[str, list[float]]:
        """Return p50, p95 and p99 by stage, as the node and this process measured them."""
        table = {
            stage: [float(self._values.get(f'{stage} p{p} (ms)', 'nan')) for p in PERCENTILES]
            for stage in STAGES
        }
        latencies_ns = self._book.latencies_ns or [float('nan')]
        table[END_TO_END] = (np.percentile(latencies_ns, PERCENTILES) / 1e6).tolist()
        return table

    def text(self) -> str:
        """Return the tables that end the demo."""
        width, height = self._book.size_wh
        lines = [
            '',
            f'source     {self._args.source}, {width}x{height} at {self._plan.rate_hz:.4g} Hz',
            f'model      {self._args.model} on {self._values.get("engine", "?")}',
            f'frames     {self._count("sent")} sent, {self._count("received")} received, '
            f'{self._count("processed")} processed, {self._count("dropped")} dropped; '
            f'{self._rate_hz():.1f} frames/s',
            *self._depth_line(),
            '',
            f'{"ms":<12}' + ''.join(f'{f"p{p}":>9}' for p in PERCENTILES),
        ]
        for stage, values in self._milliseconds().items():
            lines.append(f'{stage:<12}' + ''.join(f'{value:>9.2f}' for value in values))
        lines.append(
            'total: image in the node to last topic out; age: stamp to last topic out; '
            f'{END_TO_END}: stamp to ~/semantic received in another process'
        )
        if self._book.quality.images:
            quality = self._book.quality.result()
            lines += ['', f'quality on {quality.images} frames', summary_table(quality)]
        lines.append('')
        for check in self._book.checks:
            mark = 'skip' if check.skipped else 'ok' if check.passed else 'FAIL'
            detail = f': {check.skipped}' if check.skipped else ''
            lines.append(f'{mark:<5}{check.looked:>6}  {check.name}{detail}')
            lines += [f'{"":13}{check.broken} times: {e}' for e in check.examples]
        verdict = 'every check passed' if self.passed else 'SOME CHECKS FAILED'
        lines += ['', verdict, f'pictures   {" ".join(map(str, self._pictures)) or "none"}']
        return '\n'.join(lines)

    def _depth_line(self) -> list[str]:
        if not self._plan.node['depth']:
            return []
        counts = {name: self._values.get(f'depth {name}', '0') for name in DEPTH_COUNTS}
        return ['depth      ' + ', '.join(f'{count} {name}' for name, count in counts.items())]

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        book = self._book
        stages = {
            stage: {f'p{p}': value for p, value in zip(PERCENTILES, values, strict=True)}
            for stage, values in self._milliseconds().items()
            if np.isfinite(values).all()
        }
        has_truth = book.quality.images > 0
        return {
            'version': __version__,
            'platform': platform.platform(),
            'processors': os.cpu_count(),
            'source': self._args.source,
            'size_wh': list(book.size_wh),
            'rate_hz': self._plan.rate_hz,
            'model': self._args.model,
            'engine': self._values.get('engine', ''),
            'device': self._values.get('device', ''),
            'frames': {
                what: self._count(what) for what in ('sent', 'received', 'processed', 'dropped')
            },
            'received': {topic: book.received[topic] for topic in self._topics},
            'frames_per_second': self._rate_hz(),
            'milliseconds': stages,
            'quality': as_json(book.quality.result(), book.overlap.result())
            if has_truth
            else None,
            'passed': self.passed,
            'checks': [
                {
                    'name': check.name,
                    'passed': check.passed,
                    'looked': check.looked,
                    'broken': check.broken,
                    'examples': check.examples,
                    'skipped': check.skipped,
                }
                for check in book.checks
            ],
            'pictures': [path.name for path in self._pictures],
        }


def _write_panel(path: Path, sample: 'Sample', label_set: LabelSet) -> Path:
    pictures = {
        'image': sample.image_bgr,
        'semantic': semantic_color(sample.panoptic.semantic, label_set),
        'instance': instance_color(sample.panoptic, label_set),
        'overlay': sample.overlay_bgr,
    }
    if sample.occupancy is not None:
        title = f'free space, {GRID_M:g} m ahead'
        pictures[title] = free_space_picture(sample.occupancy, sample.panoptic.size_wh)
    cv2.imwrite(str(path), panel(list(pictures.values()), list(pictures), columns=2))
    return path


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog='python -m panoptic_ros.benchmark.demo',
        description='Run a camera and the node as two processes over DDS and check every topic.',
    )
    parser.add_argument(
        'source',
        nargs='?',
        default=STREET,
        help='street (synthetic), a video, a folder of pictures, a picture or a camera number',
    )
    parser.add_argument('--out', type=Path, default=Path('out', 'demo'), help='(%(default)s)')
    parser.add_argument('--model', default='street-lite', help='name or folder (%(default)s)')
    parser.add_argument('--engine', default='auto', choices=('auto', *ENGINES))
    parser.add_argument('--seconds', type=positive_number, default=20.0, help='(%(default)s)')
    parser.add_argument('--frames', type=int, help='instead of seconds')
    parser.add_argument('--rate', type=positive_number, help="Hz (a video's own, else 15)")
    parser.add_argument('--size', type=size_wh, help="WIDTHxHEIGHT (the source's own)")
    parser.add_argument('--seed', type=int, default=0, help='which street (%(default)s)')
    parser.add_argument(
        '--points',
        action=argparse.BooleanOptionalAction,
        default=True,
        help="take the street's clouds too, the largest of the messages",
    )
    parser.add_argument(
        '--fov',
        type=float,
        default=60.0,
        help='degrees, the field of view assumed of videos and pictures (%(default)s)',
    )
    parser.add_argument(
        '--camera-height',
        type=positive_number,
        default=1.5,
        help='metres above the ground, likewise (%(default)s)',
    )
    parser.add_argument(
        '--camera-pitch',
        type=float,
        default=0.0,
        help='radians that the camera looks down, likewise (%(default)s)',
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit code."""
    args = make_parser().parse_args(argv)
    # SIGTERM has to end the other processes as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    cv2.setNumThreads(1)
    try:
        return run(args)
    except PanopticRosError as error:
        print(f'demo: {error}', file=sys.stderr)
        return FAILED if isinstance(error, DemoError) else USER_ERROR
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == '__main__':
    sys.exit(main())
