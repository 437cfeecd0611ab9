"""``panoptic soak --minutes N``: run the node for long on all kinds of input.

The node runs as a child process; this process plays the robot, in phases: good images, bursts, a
camera process that is suspended and killed, bad images, changing sizes, pauses, parameters, the
lifecycle; again and again, then the node is killed and started anew. After each phase every image
has to be accounted for. At the end memory, threads and file handles have to be what they were
after the first cycles. DDS is reliable in both directions, so that only the node can lose images.
"""

import argparse
import signal
import sys
from pathlib import Path

from panoptic_ros.benchmark.soak.phases import PHASES
from panoptic_ros.benchmark.soak.run import Options, text
from panoptic_ros.benchmark.soak.run import run as run_soak
from panoptic_ros.engines import ENGINES
from panoptic_ros.evaluation.report import write_json
from panoptic_ros.ros.arguments import positive_number

OK, FAILED = 0, 1
"""Exit codes: every check passed, a check failed."""


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
    """Soak the node; returns :data:`FAILED` if a check failed."""
    # SIGTERM, like Ctrl-C, has to end the child processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    print(f'soaking for {args.minutes:g} minutes; logs in {args.out}', file=sys.stderr)
    report = run_soak(Options(args.out, args.minutes, args.model, args.engine, args.phases))
    if args.json is not None:
        write_json(args.json, report)
    print(text(report))
    return OK if report['passed'] else FAILED


def _phases(text: str) -> tuple[str, ...]:
    names = tuple(text.split(','))
    unknown = [name for name in names if name not in PHASES]
    if unknown:
        raise argparse.ArgumentTypeError(
            f'{unknown[0]!r} is not a phase; expected some of {", ".join(PHASES)}'
        )
    return names
