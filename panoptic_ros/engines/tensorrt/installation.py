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


@dataclass(frozen=True)
class Library:
    """One of the two TensorRT libraries; everything in which they differ.

    Parameters
    ----------
    name
        Name of the engine and of the Python module.
    oldest
        The oldest version this package is checked against.
    install
        How to install it.
    is_portable
        Whether one plan runs on every GPU the library supports and can be built without a GPU.
    has_timing_cache
        Whether builds learn about the GPU: a library that builds without one does not.
    has_runtime_cache
        Whether kernels are compiled when a plan is first loaded, and the results can be kept.
    """

    name: str
    oldest: tuple[int, int]
    install: str
    is_portable: bool
    has_timing_cache: bool
    has_runtime_cache: bool


TENSORRT = Library(
    name='tensorrt',
    oldest=(10, 3),  # JetPack 6.1
    install='on Jetson apt install python3-libnvinfer (JetPack 6.1 or newer), on a desktop with '
    "an NVIDIA GPU pip install 'panoptic_ros[tensorrt]'",
    is_portable=False,
    has_timing_cache=True,
    has_runtime_cache=False,
)
TENSORRT_RTX = Library(
    name='tensorrt_rtx',
    oldest=(1, 2),
    install='pip install tensorrt-rtx on a desktop with a GeForce or RTX GPU (Turing or newer)',
    is_portable=True,
    has_timing_cache=False,
    has_runtime_cache=True,
)
LIBRARIES = {library.name: library for library in (TENSORRT, TENSORRT_RTX)}

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
    library
        Which of the two libraries ``trt`` is.
    """

    trt: ModuleType
    cuda: CudaRuntime
    device: Device
    library: Library = TENSORRT

    @classmethod
    def find(cls, library: Library = TENSORRT) -> 'Installation':
        """Find all three; raises EngineError that names what is missing and the way out."""
        trt = load_tensorrt(library)
        cuda = CudaRuntime()
        return cls(trt, cuda, cuda.device(), library)

    def __str__(self) -> str:
        return (
            f'{self.library.name} {self.trt.__version__}, {self.device.name} (compute capability '
            f'{self.device.compute_capability}), CUDA {self.device.runtime_version}'
        )


def load_tensorrt(library: Library = TENSORRT) -> ModuleType:
    """Import the library; raises EngineError if it is absent or too old."""
    try:
        trt = importlib.import_module(library.name)
    except (ImportError, OSError) as error:
        raise EngineError(
            f'{library.name} cannot be imported ({error}), expected version '
            f'{_dotted(library.oldest)} or newer: {library.install}'
        ) from error
    version = getattr(trt, '__version__', '0')
    if version_of(version) < library.oldest:
        raise EngineError(
            f'{library.name} {version} is installed, expected {_dotted(library.oldest)} or newer: '
            f'{library.install}'
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
