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
import platform
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.special import expit, softmax

from panoptic_ros.errors import EngineError, FrameError
from panoptic_ros.model import Model

ENGINES = ('tensorrt', 'openvino', 'onnxruntime')
"""Engine names, the fastest first."""

PRECISIONS = ('auto', 'float32', 'bf16', 'int8')
"""Arithmetic a caller may ask of a CPU engine. ``auto`` is the fastest that loses no quality worth
mentioning, so never int8, which also needs a file of its own in the model."""

INT8_SLACK = 2.0
"""So many times as far as with another floating point arithmetic may results be off in int8, which
rounds to two or three digits. (street-lite2 in OpenVINO is off by 1.2 times as much, and loses
0.3 PQ.)"""

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
    """

    name: str
    device: str
    precision: str
    version: str
    reason: str

    def __str__(self) -> str:
        text = f'{self.name} {self.version}, {self.precision}, on {self.device}'
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


def open_engine(
    model: Model,
    name: str = 'auto',
    threads: int = 0,
    precision: str = 'auto',
    cache_folder: str = '',
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

    Raises EngineError for unknown names, or if no engine can run here; ModelError if the model's
    file is missing, changed, or not of its head kind.
    """
    if name != 'auto' and name not in ENGINES:
        raise EngineError(f'unknown engine {name!r}; expected auto or one of {", ".join(ENGINES)}')
    if threads < 0:
        raise EngineError(f'threads is {threads}; expected 0 (one a core) or more')
    if precision not in PRECISIONS:
        raise EngineError(
            f'unknown precision {precision!r}; expected one of {", ".join(PRECISIONS)}'
        )
    reason = 'asked for'
    if name == 'auto':
        name, reason = choose_engine()
    missing = _unavailable(name)
    if missing:
        raise EngineError(f'engine {name} cannot run here: {missing}')
    module = importlib.import_module(f'panoptic_ros.engines.{name}')
    options = {'cache_folder': cache_folder} if cache_folder and name == 'tensorrt' else {}
    return module.open(model, threads=threads, precision=precision, reason=reason, **options)


def choose_engine() -> tuple[str, str]:
    """Return the name of the fastest engine that can run here, and why it is that one.

    Raises EngineError if there is none.
    """
    machine = platform.machine()
    # Off x86 OpenVINO is not known to be faster, and ONNX Runtime is better tried there.
    order = ENGINES if machine in _X86 else ('tensorrt', 'onnxruntime', 'openvino')
    passed: list[tuple[str, str]] = []
    for name in order:
        missing = _unavailable(name)
        if not missing:
            return name, f'auto: fastest usable on {machine}' + ''.join(
                f'; {other}: {why}' for other, why in passed
            )
        passed.append((name, missing))
    raise EngineError(
        'no engine can run here: ' + '; '.join(f'{other}: {why}' for other, why in passed)
    )


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


@dataclass(frozen=True)
class GoldenDifference:
    """How far an engine's outputs for the golden picture are from the golden outputs.

    Parameters
    ----------
    semantic
        Share of the cells whose class differs.
    confidence
        Mean difference, of 255.
    centres
        Share of the golden centres that have no centre in the same or a neighbouring cell.
    offset
        Median length of the difference where the golden picture has things, cells. Elsewhere
        offsets mean nothing, and another arithmetic may change them as it likes.
    """

    semantic: float
    confidence: float
    centres: float
    offset: float

    def exceeded(self, slack: float = 1.0) -> str:
        """Say what is further off than another arithmetic explains, or nothing.

        ``slack`` is what the limits are multiplied by.
        """
        limits = GoldenDifference(semantic=0.05, confidence=8.0, centres=0.2, offset=0.5)
        return _exceeded(self, limits, slack)


def compare_golden(
    outputs: dict[str, np.ndarray],
    golden: dict[str, np.ndarray],
    centre_threshold: float,
    is_thing: np.ndarray,
) -> GoldenDifference:
    """Compare outputs of head kind ``centres``; the arrays are as :meth:`Engine.infer` gives.

    ``is_thing`` is bool [256], by class id.
    """
    confidence = outputs['confidence'].astype(np.float32) - golden['confidence']
    offset = outputs['offset_xy'].astype(np.float32) - golden['offset_xy']
    height, width = golden['confidence'].shape
    rows, columns = (
        np.arange(few) * many // few
        for few, many in zip((height, width), golden['semantic'].shape, strict=True)
    )
    off_cells = np.hypot(*offset)
    of_things = off_cells[is_thing[golden['semantic'][np.ix_(rows, columns)]]]
    wanted = golden['centre_index'][golden['centre_score'] >= centre_threshold]
    # Half the threshold: a centre that another arithmetic moves a little below it still counts.
    found = outputs['centre_index'][outputs['centre_score'] >= centre_threshold / 2]
    apart = np.maximum(
        abs(wanted[:, None] // width - found // width),
        abs(wanted[:, None] % width - found % width),
    )
    lost = ~(apart <= 1).any(axis=1)
    return GoldenDifference(
        semantic=float((outputs['semantic'] != golden['semantic']).mean()),
        confidence=float(abs(confidence).mean()),
        centres=float(lost.mean()) if len(wanted) else 0.0,
        offset=float(np.median(of_things)) if len(of_things) else 0.0,
    )


@dataclass(frozen=True)
class QueryDifference:
    """How far an engine's queries for the golden picture are from the golden ones.

    Parameters
    ----------
    classes
        Mean over the queries of the largest difference of a class probability.
    masks
        Mean difference of the mask probabilities.
    """

    classes: float
    masks: float

    def exceeded(self, slack: float = 1.0) -> str:
        """Say what is further off than another arithmetic explains, or nothing.

        ``slack`` is what the limits are multiplied by.
        """
        return _exceeded(self, QueryDifference(classes=0.05, masks=0.05), slack)


def compare_golden_queries(
    outputs: dict[str, np.ndarray], golden: dict[str, np.ndarray]
) -> QueryDifference:
    """Compare outputs of head kind ``queries``; the arrays are as :meth:`Engine.infer` gives."""
    sides = [{k: v.astype(np.float64) for k, v in side.items()} for side in (outputs, golden)]
    classes = np.subtract(*(softmax(side['class_logits'], axis=1) for side in sides))
    masks = np.subtract(*(expit(side['mask_logits']) for side in sides))
    return QueryDifference(
        classes=float(abs(classes).max(axis=1).mean()), masks=float(abs(masks).mean())
    )


def golden_fault(engine: Engine, model: Model) -> str:
    """Run the golden picture; say what is wrong with the engine's outputs, or nothing."""
    image, golden = model.golden()
    slack = INT8_SLACK if engine.description.precision == 'int8' else 1.0
    if model.card.head == 'queries':
        return compare_golden_queries(engine.infer(image), golden).exceeded(slack)
    threshold = float(model.card.fusion.get('centre_threshold', 0.1))
    is_thing = model.label_set.is_thing
    return compare_golden(engine.infer(image), golden, threshold, is_thing).exceeded(slack)


def require_golden(engine: Engine, model: Model) -> None:
    """Close the engine and raise EngineError unless it gives the model's golden outputs."""
    fault = golden_fault(engine, model)
    if fault:
        engine.close()
        raise EngineError(
            f'{engine.description} gives wrong results for the golden picture of model '
            f'{model.card.name!r}: {fault}; choose another engine or precision, or export the '
            'model again'
        )


def _exceeded(found: Any, limits: Any, slack: float) -> str:
    return ', '.join(
        f'{name} differs by {value:.3g} (at most {slack * vars(limits)[name]:g})'
        for name, value in vars(found).items()
        if not value <= slack * vars(limits)[name]  # so written that NaN is too much
    )
