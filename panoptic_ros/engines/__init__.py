"""Inference engines: one picture in, the network's outputs out, behind one small protocol.

Each engine is a module of this package with two functions. Only that module imports the runtime,
and only when one of them is called:

``unavailable() -> str``
    Why the engine cannot run on this machine, empty if it can.
``open(model, *, threads=0, precision='auto', reason='') -> Engine``
    Verify the model file, load it, check its inputs and outputs, run the golden picture (which
    also warms the engine up). Raises ModelError or EngineError.

An engine is owned by one thread: neither ``infer`` nor ``close`` may run in two at once.
"""

import importlib
import logging
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from panoptic_ros.engines.batching import MAX_BATCH
from panoptic_ros.errors import EngineError, FrameError
from panoptic_ros.model import Model

ENGINES = ('tensorrt', 'tensorrt_rtx', 'openvino', 'onnxruntime')
"""Engine names, the fastest first."""

PRECISIONS = ('auto', 'float32', 'bf16', 'int8')
"""Arithmetic a caller may ask of a CPU engine. ``auto`` is the fastest that loses no quality worth
mentioning, so never int8, which also needs a file of its own in the model."""

FLOAT16_ENGINES = ('tensorrt', 'tensorrt_rtx')
"""Engines that compile the float16 file for a GPU and keep the result."""

BATCH_ENGINES = ('tensorrt', 'tensorrt_rtx', 'onnxruntime')
"""Engines that can compute several images at once; their ``open`` has an argument ``batch``."""

_log = logging.getLogger(__name__)

_X86 = ('x86_64', 'AMD64')


@dataclass(frozen=True)
class EngineDescription:
    """What runs where, for logs and diagnostics.

    Parameters
    ----------
    name
        One of :data:`ENGINES`.
    device
        The processor, in its maker's words where they are known.
    precision
        Arithmetic in use: ``float32``, ``bf16``, ``float16`` or ``int8``.
    version
        Version of the runtime.
    reason
        Why this engine and this precision.
    is_gpu
        Whether the device is a GPU.
    batch
        Number of images it computes at once; above 1 the engine is a :class:`BatchEngine`.
    """

    name: str
    device: str
    precision: str
    version: str
    reason: str
    is_gpu: bool = False
    batch: int = 1

    def __str__(self) -> str:
        text = f'{self.name} {self.version}, {self.precision}, on {self.device}'
        if self.batch > 1:
            text += f', {self.batch} images at once'
        return f'{text} ({self.reason})' if self.reason else text


class Engine(Protocol):
    """A loaded network. One thread owns it."""

    description: EngineDescription

    def infer(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Run the network on one picture.

        Parameters
        ----------
        image
            uint8 [H, W, 3] RGB, C-contiguous, of the model's ``size_wh``.

        Returns
        -------
        The outputs by name, without the batch axis; the arrays are the caller's to keep.

        Raises FrameError if the picture is not as above, EngineError if the engine is closed or
        its runtime fails.
        """

    def close(self) -> None:
        """Free the network; a second call does nothing."""


class BatchEngine(Engine, Protocol):
    """A loaded network that computes several images at once."""

    def infer_batch(self, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Run the network on 1 to ``description.batch`` pictures; see :meth:`Engine.infer`.

        Fewer pictures take as long as all.
        """


def infer_images(engine: Engine, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Run the network on pictures, as many at once as the engine can."""
    batch = engine.description.batch
    if batch == 1:
        return [engine.infer(image) for image in images]
    several = cast(BatchEngine, engine)
    starts = range(0, len(images), batch)
    return [out for start in starts for out in several.infer_batch(images[start : start + batch])]


def open_engine(
    model: Model,
    name: str = 'auto',
    threads: int = 0,
    precision: str = 'auto',
    cache_folder: str = '',
    batch: int = 1,
) -> Engine:
    """Load a model into an engine.

    Parameters
    ----------
    model
        The model; its file is verified before it is used.
    name
        One of :data:`ENGINES`, or ``auto`` for the fastest that can run here.
    threads
        CPU threads, 0 for one a core.
    precision
        One of :data:`PRECISIONS`.
    cache_folder
        Where an engine that compiles for this machine (TensorRT) keeps what it compiled; empty
        for its default. The others keep nothing.
    batch
        Number of images to compute at once; an engine that is none of :data:`BATCH_ENGINES`
        computes one.

    Raises EngineError for unknown names, or if no engine can run here; ModelError if the model's
    file is missing, changed, or not of its head kind.
    """
    if name != 'auto' and name not in ENGINES:
        raise EngineError(f'unknown engine {name!r}; expected auto or one of {", ".join(ENGINES)}')
    if threads < 0:
        raise EngineError(f'threads is {threads}; expected 0 (one a core) or more')
    if not 1 <= batch <= MAX_BATCH:
        raise EngineError(f'batch is {batch}; expected 1 to {MAX_BATCH}')
    if precision not in PRECISIONS:
        raise EngineError(
            f'unknown precision {precision!r}; expected one of {", ".join(PRECISIONS)}'
        )
    if name != 'auto':
        missing = _unavailable(name)
        if missing:
            raise EngineError(f'engine {name} cannot run here: {missing}')
        return _open(model, name, 'asked for', threads, precision, cache_folder, batch)
    failed = [
        (candidate, 'the model has no float16 file')
        for candidate in FLOAT16_ENGINES
        if 'float16' not in model.card.files
    ]
    while True:
        name, reason = choose_engine(failed)
        try:
            return _open(model, name, reason, threads, precision, cache_folder, batch)
        except EngineError as error:
            _log.warning('engine %s cannot be used, trying the next: %s', name, error)
            failed.append((name, str(error)))


def _open(
    model: Model,
    name: str,
    reason: str,
    threads: int,
    precision: str,
    cache_folder: str,
    batch: int,
) -> Engine:
    module = importlib.import_module(f'panoptic_ros.engines.{name}')
    has_cache = cache_folder and name in FLOAT16_ENGINES
    options: dict[str, Any] = {'cache_folder': cache_folder} if has_cache else {}
    if batch > 1 and name in BATCH_ENGINES:
        options['batch'] = batch
    return module.open(model, threads=threads, precision=precision, reason=reason, **options)


def engine_order() -> tuple[str, ...]:
    """Return the engine names as ``auto`` tries them: GPUs first, then CPUs."""
    # Off x86 OpenVINO is not known to be faster, and ONNX Runtime is better tried there.
    on_cpu = ['onnxruntime', 'openvino']
    if platform.machine() in _X86 and not _onnxruntime_has_cuda():
        on_cpu.reverse()
    return (*FLOAT16_ENGINES, *on_cpu)


def _onnxruntime_has_cuda() -> bool:
    if _unavailable('onnxruntime'):
        return False
    return bool(importlib.import_module('panoptic_ros.engines.onnxruntime').has_cuda())


def choose_engine(failed: Sequence[tuple[str, str]] = ()) -> tuple[str, str]:
    """Return the first engine that can run here, and the reason.

    ``failed`` are engines that were tried and why they failed. Raises EngineError if no other is
    left.
    """
    why_failed = dict(failed)
    passed: list[tuple[str, str]] = []
    for name in engine_order():
        missing = why_failed.get(name) or _unavailable(name)
        if not missing:
            return name, f'auto: fastest usable on {platform.machine()}' + ''.join(
                f'; {other}: {why}' for other, why in passed
            )
        passed.append((name, missing))
    raise EngineError(
        'no engine can run here: ' + '; '.join(f'{other}: {why}' for other, why in passed)
    )


def unavailable_gpu_engines() -> dict[str, str]:
    """Return for each engine that can use a GPU why it cannot here; empty texts if it can."""
    found = {name: _unavailable(name) for name in FLOAT16_ENGINES}
    has_cuda = _onnxruntime_has_cuda()
    found['onnxruntime'] = '' if has_cuda else 'onnxruntime is built without CUDA'
    return found


def _unavailable(name: str) -> str:
    module_name = f'panoptic_ros.engines.{name}'
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        return 'not part of this version'
    return module.unavailable()


def check_image(image: np.ndarray, size_wh: tuple[int, int]) -> None:
    """Raise FrameError unless the picture is what :meth:`Engine.infer` takes."""
    shape = (size_wh[1], size_wh[0], 3)
    if image.dtype != np.uint8 or image.shape != shape or not image.flags.c_contiguous:
        layout = 'contiguous' if image.flags.c_contiguous else 'not contiguous'
        raise FrameError(
            f'the engine was given {image.dtype} {image.shape}, {layout}; expected uint8 '
            f'{shape} RGB, C-contiguous'
        )
