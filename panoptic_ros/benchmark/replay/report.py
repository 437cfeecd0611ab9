"""The results of a replay benchmark: tables, plots, ``replay.json``."""

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
from panoptic_ros.benchmark.cdr import message_class
from panoptic_ros.benchmark.client import Client
from panoptic_ros.benchmark.replay.node import NodeUnderTest
from panoptic_ros.benchmark.replay.options import Options
from panoptic_ros.benchmark.replay.recording import Recording
from panoptic_ros.benchmark.replay.session import Session
from panoptic_ros.benchmark.replay.trial import (
    MAX_DROPPED,
    Trial,
    output_table,
    rate_table,
    stage_table,
)
from panoptic_ros.errors import ModelError
from panoptic_ros.evaluation.report import finite_or_none
from panoptic_ros.model import Model
from panoptic_ros.ros.messages import decode_compressed_image

_PACKAGES = ('numpy', 'opencv-python-headless', 'onnxruntime', 'openvino', 'rosbags')


class Report:
    """The results of a run as text, as JSON and as plots."""

    def __init__(
        self,
        options: Options,
        recording: Recording,
        node: NodeUnderTest,
        session: Session,
        client: Client,
    ) -> None:
        self._options = options
        self._recording = recording
        self._node = node
        self._session = session
        self._outputs = client.frames.outputs
        self._values = client.status.values
        self._bag_sha256 = recording.bag.sha256()
        self._bag_notes = recording.bag.notes
        first = recording.bag.first(recording.image.name).data
        self._encoding, self._size_wh = _describe(first, recording.image.type)
        self._model_sha256, self._model_reason = _model_sha256(node)

    @property
    def _title(self) -> str:
        width, height = self._size_wh
        return (
            f'{Path(self._options.bag).name}, {width}x{height} {self._encoding}; '
            f'{self._values.get("model", "")} on '
            f'{self._values.get("engine", "").partition(" (")[0]}'
        )

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        session, recording, values = self._session, self._recording, self._values
        return {
            'version': __version__,
            'date': datetime.now(timezone.utc).isoformat(timespec='seconds'),
            'arguments': {
                name: str(value) if isinstance(value, Path) else value
                for name, value in vars(self._options).items()
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
                'name': Path(self._options.bag).name,
                'sha256': self._bag_sha256,
                'notes': dict(self._bag_notes),
                'image_topic': recording.image.name,
                'image_type': recording.image.type,
                'encoding': self._encoding,
                'size_wh': list(self._size_wh),
                'seconds': (recording.stop_ns - recording.start_ns) / 1e9,
            },
            'node': {
                'name': self._node.name,
                'started_here': self._node.process is not None,
                'engine': values.get('engine', ''),
                'device': values.get('device', ''),
                'parameters': dict(self._node.parameters),
            },
            'model': {
                'name': values.get('model', ''),
                'sha256': self._model_sha256,
                'sha256_reason': self._model_reason,
            },
            'published': {name: target for name, (target, _) in session.targets.items()},
            'outputs': list(self._outputs),
            'peak_rate_hz': session.peak_hz,
            'peak_max_dropped_percent': 100 * MAX_DROPPED,
            'peak_search': [
                {
                    'rate_hz': t.asked_hz,
                    'dropped_percent': finite_or_none(100 * t.dropped_fraction),
                }
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
                f'latency of ~/{self._outputs[0]}, publication to receipt; dropped: not '
                'answered; CPU: the node, 100 is one core'
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
        """The trial whose outputs and stages are shown: 30 Hz, otherwise the last."""
        trials = [trial for trial in self._session.trials if trial.answered]
        at_30 = [trial for trial in trials if trial.asked_hz == 30.0 and 'peak' not in trial.name]
        return next(reversed(at_30 or trials), None)

    def write_plots(self) -> list[Path]:
        """Write the plots, where matplotlib is installed, and return their paths."""
        if not any(trial.answered for trial in self._session.trials):
            return []
        if importlib.util.find_spec('matplotlib') is None:
            print('no plots: matplotlib is not installed (pip install matplotlib)')
            return []
        from panoptic_ros.benchmark.replay.plots import write_plots

        return write_plots(self._options.out, self._session.trials, self._title)


def _describe(data: bytes, message_type: str) -> tuple[str, tuple[int, int]]:
    message: Any = deserialize_message(data, message_class(message_type))
    if message_type == IMAGE:
        return message.encoding, (message.width, message.height)
    return message.format, decode_compressed_image(message).size_wh


def _model_sha256(node: NodeUnderTest) -> tuple[dict[str, str], str]:
    try:
        card = Model.load(str(node.parameters.get('model', ''))).card
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
