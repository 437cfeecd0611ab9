"""What came of a replay: tables, plots, ``replay.json``."""

import argparse
import importlib.util
import os
import platform
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import rclpy
from rclpy.serialization import deserialize_message

from panoptic_ros import __version__
from panoptic_ros.benchmark.bags import IMAGE
from panoptic_ros.benchmark.latency import (
    MAX_DROPPED,
    Trial,
    finite,
    output_table,
    rate_table,
    stage_table,
)
from panoptic_ros.benchmark.replay.ends import Recording, Segment
from panoptic_ros.benchmark.replay.playback import Records, message_class
from panoptic_ros.benchmark.replay.session import Session
from panoptic_ros.errors import ModelError
from panoptic_ros.model import Model
from panoptic_ros.ros.messages import decode_compressed_image

_PACKAGES = ('numpy', 'opencv-python-headless', 'onnxruntime', 'openvino', 'rosbags')


class Report:
    """What came of a run: the tables, the plots, the JSON."""

    def __init__(
        self,
        args: argparse.Namespace,
        recording: Recording,
        segment: Segment,
        session: Session,
        records: Records,
    ) -> None:
        self._args = args
        self._recording = recording
        self._segment = segment
        self._session = session
        self._records = records
        self._bag_sha256 = recording.bag.sha256()
        self._bag_notes = recording.bag.notes
        first = recording.bag.first(recording.image.name).data
        self._encoding, self._size_wh = _describe(first, recording.image.type)
        self._model_sha256, self._model_reason = _model_sha256(segment)

    @property
    def _title(self) -> str:
        width, height = self._size_wh
        return (
            f'{Path(self._args.bag).name}, {width}x{height} {self._encoding}; '
            f'{self._records.value("model")} on '
            f'{self._records.value("engine").partition(" (")[0]}'
        )

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        args, session, recording = self._args, self._session, self._recording
        usage = self._records.value
        return {
            'version': __version__,
            'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
            'arguments': {
                name: str(value) if isinstance(value, Path) else value
                for name, value in vars(args).items()
            },
            'interrupted': session.is_interrupted,
            'platform': {
                'system': platform.platform(),
                'machine': platform.machine(),
                'processor': _processor(),
                'processors': os.cpu_count(),
            },
            'versions': _versions(),
            'bag': {
                'name': Path(args.bag).name,
                'sha256': self._bag_sha256,
                'notes': dict(self._bag_notes),
                'image_topic': recording.image.name,
                'image_type': recording.image.type,
                'encoding': self._encoding,
                'size_wh': list(self._size_wh),
                'seconds': (recording.stop_ns - recording.start_ns) / 1e9,
            },
            'node': {
                'name': self._segment.name,
                'started_here': self._segment.process is not None,
                'engine': usage('engine'),
                'device': usage('device'),
                'parameters': dict(self._segment.parameters),
            },
            'model': {
                'name': usage('model'),
                'sha256': self._model_sha256,
                'sha256_reason': self._model_reason,
            },
            'published': {name: target for name, (target, _) in session.targets.items()},
            'outputs': list(self._records.topics),
            'peak_rate_hz': session.peak_hz,
            'peak_max_dropped_percent': 100 * MAX_DROPPED,
            'peak_search': [
                {'rate_hz': t.asked_hz, 'dropped_percent': finite(100 * t.dropped_fraction)}
                for t in session.tried
            ],
            'trials': [trial.as_json() for trial in session.trials],
            'quality': session.quality.figures,
            'quality_reason': session.quality.reason,
            'notes': session.notes,
        }

    def text(self) -> str:
        """Return the tables that end the run."""
        session, shown = self._session, self._detailed
        lines = ['', self._title]
        if session.trials:
            lines += ['', rate_table(session.trials)]
            lines.append(
                f'latency of ~/{self._records.topics[0]}, publication to receipt; dropped: none '
                'came; CPU: the node, 100 is one core'
            )
        if shown is not None:
            lines += ['', f'{shown.name}:', output_table(shown), '', stage_table(shown)]
        if session.quality.figures is not None:
            images = session.quality.figures['images']
            lines += ['', f'quality on {images} frames, each answered', session.quality.table]
        elif self._recording.has_truth:
            lines += ['', f'no quality: {session.quality.reason}']
        lines += ['', *session.notes]
        if session.is_interrupted:
            lines.append('interrupted: these are the results until then')
        return '\n'.join(lines)

    @property
    def _detailed(self) -> Trial | None:
        """The trial whose outputs and stages are shown: 30 Hz, or else the last."""
        trials = [trial for trial in self._session.trials if trial.answered]
        at_30 = [trial for trial in trials if trial.asked_hz == 30.0 and 'peak' not in trial.name]
        return (at_30 or trials or [None])[-1]

    def write_plots(self) -> list[Path]:
        """Write the plots, where matplotlib is installed, and return their paths."""
        if not any(trial.answered for trial in self._session.trials):
            return []
        if importlib.util.find_spec('matplotlib') is None:
            print('no plots: matplotlib is not installed (pip install matplotlib)')
            return []
        from panoptic_ros.benchmark.latency_plots import write_plots

        return write_plots(self._args.out, self._session.trials, self._title)


def _describe(data: bytes, message_type: str) -> tuple[str, tuple[int, int]]:
    message = deserialize_message(data, message_class(message_type))
    if message_type == IMAGE:
        return message.encoding, (message.width, message.height)
    return message.format, decode_compressed_image(message).size_wh


def _model_sha256(segment: Segment) -> tuple[dict[str, str], str]:
    try:
        card = Model.load(str(segment.parameters.get('model', ''))).card
    except ModelError as error:
        return {}, str(error)
    return {entry.path: entry.sha256 for entry in card.files.values()}, ''


def _versions() -> dict[str, str]:
    found = {'python': platform.python_version(), 'ros_distro': os.environ.get('ROS_DISTRO', '')}
    found['rmw'] = rclpy.get_rmw_implementation_identifier()
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()
