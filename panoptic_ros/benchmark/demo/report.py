"""The results of a demo: a table, ``report.json`` and pictures."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from panoptic_ros.benchmark.checks import diagnostics_fault
from panoptic_ros.benchmark.client import Status
from panoptic_ros.benchmark.demo.observer import Observer, Sample
from panoptic_ros.benchmark.demo.plan import GRID_M, STREET, Plan
from panoptic_ros.benchmark.figures import (
    P_COLUMNS,
    distribution,
    machine,
    mean_rate_hz,
    percentile_table,
)
from panoptic_ros.benchmark.frames import Frames
from panoptic_ros.benchmark.processes import Process
from panoptic_ros.evaluation.report import as_json, finite_or_none, summary_table
from panoptic_ros.labels import LabelSet
from panoptic_ros.visualize import free_space_picture, instance_color, panel, semantic_color

MIN_ARRIVING = 0.8
"""Share of the images sent that the node has to receive, and of those processed for which each
output has to arrive. Images are best effort, and DDS may still be connecting when the first is
published."""

MIN_STREET_PQ = {'street-lite': 25.0, 'street-lite2': 25.0}
"""PQ that an embedded model has to reach on the street; wrong colours or sizes stay below."""

END_TO_END = 'end to end'
DEPTH_COUNTS = ('received', 'matched', 'bad', 'missed', 'late')


class Report:
    """The results of a run as text, as JSON, and as pictures.

    Parameters
    ----------
    args, plan
        What was asked for.
    observer, frames
        What was checked and received.
    status
        The node's last report from the active state.
    topics
        Outputs expected for every image.
    codes
        Exit codes by process.
    processes
        The camera and the node.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        plan: Plan,
        observer: Observer,
        frames: Frames,
        status: Status,
        topics: Sequence[str],
        codes: Mapping[str, int],
        processes: Sequence[Process],
    ) -> None:
        self.processes = processes
        self._args = args
        self._plan = plan
        self._observer = observer
        self._status = status
        self._received = {topic: frames.received[topic] for topic in topics}
        self._sent = frames.published
        answers = sorted(
            (record.received_ns['semantic'][0], key.stamp_ns)
            for key, record in frames.items()
            if 'semantic' in record.received_ns
        )
        self._received_ns = [received_ns for received_ns, _ in answers]
        self._latency_ms = [(received_ns - stamp_ns) / 1e6 for received_ns, stamp_ns in answers]
        self._add_final_checks(codes)
        self._pictures = [
            _write_panel(args.out / f'panel_{number}.png', sample, observer.label_set)
            for number, sample in enumerate(observer.samples, start=1)
        ]

    def _add_final_checks(self, codes: Mapping[str, int]) -> None:
        checks, processed = self._observer.checks, self._count('processed')
        for what, came, expected in (
            ('camera: all frames are sent', self._sent, self._plan.frames),
            ('node: receives what is sent', self._count('received'), MIN_ARRIVING * self._sent),
            *(
                (f'{topic}: arrives', came, MIN_ARRIVING * processed)
                for topic, came in self._received.items()
            ),
        ):
            is_enough = came > 0 and came >= expected
            checks[what].add('' if is_enough else f'{came} of {expected:.0f} at least')
        checks['diagnostics: OK, all frames accounted for'].add(diagnostics_fault(self._status))
        min_pq = self._args.min_pq
        if min_pq is None and self._args.source == STREET:
            min_pq = MIN_STREET_PQ.get(self._args.model)
        if min_pq is not None:
            images = self._observer.quality.images
            pq = self._observer.quality.result().PQ if images else float('nan')
            checks[f'quality: PQ is at least {min_pq:g}'].add(
                '' if pq >= min_pq else f'PQ {pq:.1f} on {images} frames'
            )
        for name, code in codes.items():
            checks[f'{name}: ends with exit code 0'].add(f'{code}' if code else '')

    def _count(self, what: str) -> int:
        return self._sent if what == 'sent' else self._status.count(what)

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return self._observer.checks.passed

    def _rate_hz(self) -> float:
        return finite_or_none(mean_rate_hz(self._received_ns)) or 0.0

    def _milliseconds(self) -> dict[str, Any]:
        """Return p50, p95 and p99 by stage, from the node's report, and end to end."""
        figures = distribution(self._latency_ms)
        return self._status.stages_ms() | {
            END_TO_END: {column: figures[column] for column in P_COLUMNS}
        }

    def text(self) -> str:
        """Return the tables that end the demo."""
        (width, height), quality = self._observer.size_wh, self._observer.quality
        counts = (f'{self._count(w)} {w}' for w in ('sent', 'received', 'processed', 'dropped'))
        lines = [
            '',
            f'source     {self._args.source}, {width}x{height} at {self._plan.rate_hz:.4g} Hz',
            f'model      {self._args.model} on {self._status.values.get("engine", "?")}',
            f'frames     {", ".join(counts)}; {self._rate_hz():.1f} frames/s',
        ]
        if self._plan.node['depth']:
            depth = (f'{self._status.values.get(f"depth {n}", 0)} {n}' for n in DEPTH_COUNTS)
            lines.append(f'depth      {", ".join(depth)}')
        lines += [
            '',
            percentile_table('ms', self._milliseconds()),
            'total: image received by the node to last output published; age: stamp to last '
            f'output published; {END_TO_END}: stamp to ~/semantic received in another process',
        ]
        if quality.images:
            table = summary_table(quality.result())
            lines += ['', f'quality on {quality.images} frames', table]
        lines += ['', *self._observer.checks.lines()]
        verdict = 'every check passed' if self.passed else 'SOME CHECKS FAILED'
        lines += ['', verdict, f'pictures   {" ".join(map(str, self._pictures)) or "none"}']
        return '\n'.join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        observer = self._observer
        has_truth = observer.quality.images > 0
        return machine() | {
            'source': self._args.source,
            'size_wh': list(observer.size_wh),
            'rate_hz': self._plan.rate_hz,
            'model': self._args.model,
            'engine': self._status.values.get('engine', ''),
            'device': self._status.values.get('device', ''),
            'frames': {
                what: self._count(what) for what in ('sent', 'received', 'processed', 'dropped')
            },
            'received': self._received,
            'frames_per_second': self._rate_hz(),
            'milliseconds': {
                stage: figures
                for stage, figures in self._milliseconds().items()
                if None not in figures.values() and np.isfinite(list(figures.values())).all()
            },
            'quality': as_json(observer.quality.result(), observer.overlap.result())
            if has_truth
            else None,
            'passed': self.passed,
            'checks': [check.as_json() for check in observer.checks],
            'pictures': [path.name for path in self._pictures],
        }


def _write_panel(path: Path, sample: Sample, label_set: LabelSet) -> Path:
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
