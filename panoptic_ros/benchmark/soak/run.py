"""Run a soak and report it."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from panoptic_ros.benchmark.checks import OUTCOMES, Checks
from panoptic_ros.benchmark.figures import machine
from panoptic_ros.benchmark.processes import (
    NodeLostError,
    Process,
    Processes,
    process_environment,
)
from panoptic_ros.benchmark.soak.accounts import usage_faults
from panoptic_ros.benchmark.soak.phases import PHASES, Limits, Soak
from panoptic_ros.benchmark.soak.robot import CAMERA_QOS, NODE_QOS, Robot

CYCLE_S = 30.0
"""Images of a cycle at full length; everything else takes about as long again."""


@dataclass(frozen=True)
class Options:
    """What is soaked and for how long.

    Parameters
    ----------
    out
        Folder for logs.
    minutes
        Length; at least :attr:`Limits.min_cycles` cycles are run.
    model, engine
        Parameters of the node.
    phases
        Names of :data:`PHASES`.
    limits
        Waiting and repetitions.
    """

    out: Path
    minutes: float = 10.0
    model: str = 'street-lite'
    engine: str = 'auto'
    phases: tuple[str, ...] = tuple(PHASES)
    limits: Limits = Limits()  # noqa: RUF009, it is immutable


def run(options: Options) -> dict[str, Any]:
    """Soak the node; returns the report as plain values, with ``passed`` among them."""
    os.environ.update(process_environment())  # before the first ROS context
    checks = Checks()
    seconds = 60 * options.minutes
    scale = min(1.0, max(0.1, seconds / options.limits.min_cycles / CYCLE_S / 2))
    with Processes(options.out) as processes, Robot() as robot:

        def start(name: str, parameters: dict[str, Any]) -> Process:
            qos = CAMERA_QOS if name == 'camera' else NODE_QOS
            log = f'{name}_{len(processes.logs):03d}'
            return processes.start(f'panoptic_ros.ros.{name}', parameters | qos, log=log)

        parameters = {'model': options.model, 'engine': options.engine}
        soak = Soak(robot, start, parameters, checks, scale, options.limits)
        fault = ''
        try:
            soak.run(options.phases, seconds)
        except (NodeLostError, TimeoutError) as error:
            fault = str(error)
        checks['the node stays alive and answers'].add(fault)
        for cycles in soak.lives:
            if len(cycles) >= options.limits.min_cycles:
                for check, growth in usage_faults(cycles).items():
                    checks[check].add(growth)
        engine = robot.status.values.get('engine', '')
    for log in processes.logs:
        checks['the logs have no errors'].add(log_fault(log))
    return {
        **{key: value for key, value in machine().items() if key != 'processors'},
        'minutes': options.minutes,
        'model': options.model,
        'engine': engine,
        'phases': [
            {
                'phase': row.phase,
                'runs': row.runs,
                'seconds': round(row.seconds, 1),
                'sent': row.sent,
                **{name: row.counts[name] for name in ('received', *OUTCOMES)},
            }
            for row in soak.rows.values()
            if row.runs
        ],
        'lives': [[asdict(usage) for usage in cycles] for cycles in soak.lives],
        'checks': [check.as_json() for check in checks],
        'passed': checks.passed,
    }


def log_fault(log: Path) -> str:
    """Return the first error in a log; empty if there is none."""
    lines = log.read_text(encoding='utf-8', errors='replace').splitlines()
    words = ('[ERROR]', '[FATAL]', 'Traceback')
    first = next((line for line in lines if any(word in line for word in words)), '')
    return f'{log}: {first}' if first else ''


def text(report: dict[str, Any]) -> str:
    """Return the tables of a report."""
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
    lines += Checks.from_json(report['checks']).lines()
    lines += ['', 'every check passed' if report['passed'] else 'SOME CHECKS FAILED']
    return '\n'.join(lines)
