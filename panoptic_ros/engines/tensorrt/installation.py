"""What is installed here: the TensorRT module, the CUDA runtime and the GPU."""

import functools
import importlib
import logging
from collections import deque
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from panoptic_ros.engines.tensorrt.cuda import CudaRuntime, Device
from panoptic_ros.errors import EngineError

OLDEST_VERSION = (10, 3)
"""The oldest TensorRT this package is checked against (JetPack 6.1)."""

_log = logging.getLogger('panoptic_ros.tensorrt')


@dataclass(frozen=True)
class Installation:
    """TensorRT, the CUDA runtime, and the GPU they are going to use.

    Parameters
    ----------
    trt
        The module ``tensorrt``.
    cuda
        The CUDA runtime.
    device
        The GPU.
    """

    trt: ModuleType
    cuda: CudaRuntime
    device: Device

    @classmethod
    def find(cls) -> 'Installation':
        """Look for all three; raises EngineError that says what is missing and what to do."""
        trt = load_tensorrt()
        cuda = CudaRuntime()
        return cls(trt, cuda, cuda.device())

    def __str__(self) -> str:
        return (
            f'TensorRT {self.trt.__version__}, {self.device.name} (compute capability '
            f'{self.device.compute_capability}), CUDA {self.device.runtime_version}'
        )


def load_tensorrt() -> ModuleType:
    """Import TensorRT; raises EngineError if it is not there or too old."""
    try:
        trt = importlib.import_module('tensorrt')
    except (ImportError, OSError) as error:
        raise EngineError(
            f'tensorrt cannot be imported ({error}), expected version '
            f'{_dotted(OLDEST_VERSION)} or newer: on Jetson apt install python3-libnvinfer, on a '
            "desktop with an NVIDIA GPU pip install 'panoptic_ros[tensorrt]'"
        ) from error
    version = getattr(trt, '__version__', '0')
    if version_of(version) < OLDEST_VERSION:
        raise EngineError(
            f'TensorRT {version} is installed, expected {_dotted(OLDEST_VERSION)} or newer: on '
            "Jetson flash JetPack 6.1 or newer, on a desktop pip install 'panoptic_ros[tensorrt]'"
        )
    return trt


def version_of(text: str) -> tuple[int, int]:
    """Return the first two numbers of a version."""
    major, minor, *_ = [int(part) for part in text.split('.')[:2] if part.isdigit()] + [0, 0]
    return major, minor


def _dotted(version: tuple[int, int]) -> str:
    return '.'.join(map(str, version))


@functools.cache
def logger_of(trt: ModuleType) -> Any:
    """Return the one ``ILogger`` of this process.

    It passes all on to :mod:`logging` and keeps the last errors for :func:`take_errors`:
    TensorRT's own calls say only that they failed. TensorRT holds on to the first logger it is
    given, hence the cache.
    """

    class Logger(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=5)

        def log(self, severity: Any, msg: str) -> None:
            levels = {
                trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
                trt.ILogger.Severity.ERROR: logging.ERROR,
                trt.ILogger.Severity.WARNING: logging.WARNING,
                trt.ILogger.Severity.INFO: logging.DEBUG,
                trt.ILogger.Severity.VERBOSE: logging.DEBUG,
            }
            level = levels[severity]
            if level == logging.ERROR:
                # It becomes part of an exception, so it need not be in the log twice.
                self.errors.append(' '.join(msg.split()))
                level = logging.INFO
            _log.log(level, '%s', msg)

    return Logger()


def take_errors(trt: ModuleType) -> str:
    """Return what TensorRT complained about since the last call, ready to end a sentence."""
    errors = logger_of(trt).errors
    text = '; '.join(errors) or 'it gave no reason'
    errors.clear()
    return text
