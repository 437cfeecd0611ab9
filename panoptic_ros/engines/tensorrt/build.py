"""From a model's float16 ONNX to a plan, TensorRT's compiled network."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from types import ModuleType
from typing import Any

from panoptic_ros.engines.batching import MAX_BATCH, with_batch
from panoptic_ros.engines.tensorrt.installation import (
    TENSORRT,
    Library,
    logger_of,
    take_errors,
)
from panoptic_ros.errors import EngineError, ModelError, one_line
from panoptic_ros.model import Model
from panoptic_ros.model.card import TensorSpec

PRECISION = 'float16'
"""Which of a model's ONNX files is built."""

Progress = Callable[[str, int, int], None]
"""Called with a phase of the build, the steps done and the steps there are."""

_log = logging.getLogger('panoptic_ros.tensorrt')


@dataclass(frozen=True)
class BuildOptions:
    """Changes to the builder's defaults; part of the cache key.

    Parameters
    ----------
    builder_options
        Names and values of attributes of ``IBuilderConfig``, as text: whole numbers, ``true``,
        ``false`` or names of members of an enumeration. The name ``flag`` sets a ``BuilderFlag``,
        ``compute_capability`` the GPUs of a portable plan: names joined by ``+``, for example
        ``SM86+SM89`` or ``CURRENT``; by default all from Ampere on that the library knows.
    batch
        Number of images the plan computes at once.

    Raises EngineError if a value is out of range.
    """

    builder_options: tuple[tuple[str, str], ...] = ()
    batch: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= MAX_BATCH:
            raise EngineError(f'batch is {self.batch}; expected 1 to {MAX_BATCH}')

    def __str__(self) -> str:
        changed = [f'{name}={value}' for name, value in self.builder_options]
        if self.batch > 1:
            changed.append(f'batch={self.batch}')
        return ', '.join(changed) or 'default options'


@dataclass(frozen=True)
class BuiltPlan:
    """A plan, the timing cache after building it (empty if there is none), and the seconds."""

    plan: bytes
    timing_cache: bytes
    seconds: float


def build_plan(
    trt: ModuleType,
    model: Model,
    options: BuildOptions,
    *,
    library: Library = TENSORRT,
    compute_capability: str = '',
    timing_cache: bytes = b'',
    on_progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> BuiltPlan:
    """Parse and build; takes half a minute to many minutes.

    Parameters
    ----------
    trt
        The module of TensorRT or TensorRT-RTX.
    model
        Its float16 file is built.
    options
        Changes to the builder's defaults.
    library
        Describes ``trt``.
    compute_capability
        Of the GPU of this machine, for example ``8.9``; empty without one.
    timing_cache
        Kernel timings of an earlier build on this GPU; empty for none.
    on_progress
        See :data:`Progress`; called on the thread of the build.
    cancel
        Set it to stop the build. On the main thread, Ctrl-C also stops it.

    Raises EngineError if TensorRT cannot parse or build, if it lacks an option or if the network
    computes in float32; ModelError if the file is missing, damaged or not of its head kind;
    KeyboardInterrupt if cancelled.
    """
    path = model.onnx_path(PRECISION)
    onnx = path.read_bytes() if options.batch == 1 else with_batch(path, options.batch)
    logger = logger_of(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    # Owns the weights until the plan is built.
    _parser = _parse(trt, network, onnx, model, options.batch)
    config = builder.create_builder_config()
    _configure(trt, config, options)
    if library.is_portable and 'compute_capability' not in dict(options.builder_options):
        _target_gpus(trt, config, _portable_gpus(trt, compute_capability))
    if library.has_timing_cache:
        known = config.create_timing_cache(timing_cache)
        if not config.set_timing_cache(known, False):
            # It belongs to another GPU or version: start an empty one.
            config.set_timing_cache(config.create_timing_cache(b''), False)
    started = monotonic()
    with _interrupt_sets(cancel or threading.Event()) as cancelled:
        config.progress_monitor = _monitor(trt, cancelled, on_progress or _ignore)
        plan = builder.build_serialized_network(network, config)
        if cancelled.is_set():
            raise KeyboardInterrupt
    if plan is None:
        raise EngineError(
            f'TensorRT {trt.__version__} cannot build model {model.card.name!r} '
            f'({options}): {take_errors(trt)}'
        )
    timings = config.get_timing_cache() if library.has_timing_cache else None
    return BuiltPlan(
        plan=bytes(plan),
        timing_cache=bytes(timings.serialize()) if timings is not None else b'',
        seconds=monotonic() - started,
    )


def _network_flags(trt: ModuleType) -> int:
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, 'STRONGLY_TYPED', None)
    # Releases that are always strongly typed may drop the flag.
    return 0 if strongly_typed is None else 1 << int(strongly_typed)


def _parse(trt: ModuleType, network: Any, onnx: bytes, model: Model, batch: int) -> Any:
    parser = trt.OnnxParser(network, logger_of(trt))
    parsed = parser.parse(onnx)
    faults = [
        f'node {error.node_name() or error.node()} ({error.node_operator()}): {error.desc()}'
        for error in map(parser.get_error, range(parser.num_errors))
    ]
    if not parsed or faults:
        listed = '; '.join(' '.join(fault.split()) for fault in faults)
        raise EngineError(
            f'TensorRT {trt.__version__} cannot parse the {PRECISION} file of model '
            f'{model.card.name!r}: {listed or take_errors(trt)}; export the model again'
        )
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    model.check_io(PRECISION, _specs(trt, inputs), _specs(trt, outputs), batch)
    wide = _wide_layers(trt, network)
    if wide:
        raise EngineError(
            f'the {PRECISION} file of model {model.card.name!r} computes in float32 in '
            f'{len(wide)} layers, first {wide[0]}: its weights are not float16; export the model '
            'again'
        )
    return parser


def _wide_layers(trt: ModuleType, network: Any) -> list[str]:
    """Name the layers with weights that compute in float32."""
    kinds = (
        trt.LayerType.CONVOLUTION,
        trt.LayerType.DECONVOLUTION,
        trt.LayerType.MATRIX_MULTIPLY,
    )
    layers = map(network.get_layer, range(network.num_layers))
    return [
        layer.name
        for layer in layers
        if layer.type in kinds and layer.get_output(0).dtype == trt.DataType.FLOAT
    ]


def _configure(trt: ModuleType, config: Any, options: BuildOptions) -> None:
    # Costs nothing at run time and gives inspect-engine the types of layers.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for name, text in options.builder_options:
        _set_option(trt, config, name, text)


def _set_option(trt: ModuleType, config: Any, name: str, text: str) -> None:
    """Set one attribute or flag of a builder configuration by name."""
    try:
        if name == 'flag':
            config.set_flag(getattr(trt.BuilderFlag, text))
            return
        if name == 'compute_capability':
            _target_gpus(trt, config, text.split('+'))
            return
        current = getattr(config, name)
        value: Any
        if isinstance(current, bool):
            value = {'true': True, 'false': False}[text]
        elif isinstance(current, int):
            value = int(text)
        else:
            value = getattr(type(current), text)
        setattr(config, name, value)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EngineError(
            f'TensorRT {trt.__version__} has no builder option {name}={text} '
            f'({one_line(error)}); see IBuilderConfig in its documentation'
        ) from error


def _portable_gpus(trt: ModuleType, compute_capability: str) -> list[str]:
    """Name the GPUs of a portable plan: all from Ampere on, or the one here if it is no such."""
    names = [name for name in trt.ComputeCapability.__members__ if name.startswith('SM')]
    # Turing makes the plan of street-lite 220 MB instead of 6 MB.
    names.remove('SM75')
    here = f'SM{compute_capability.replace(".", "")}'
    return names if here in ('SM', *names) else ['CURRENT']


def _target_gpus(trt: ModuleType, config: Any, names: list[str]) -> None:
    """Build for GPUs of some compute capabilities, present here or not."""
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(trt.ComputeCapability.__members__[name], index)


def _specs(trt: ModuleType, tensors: list[Any]) -> dict[str, TensorSpec]:
    return {tensor.name: tensor_spec(trt, tensor.dtype, tensor.shape) for tensor in tensors}


def tensor_spec(trt: ModuleType, dtype: Any, shape: Any) -> TensorSpec:
    """Translate a TensorRT type and shape; a free size is ``'?'``.

    Raises ModelError for a type that no head kind has.
    """
    names = {
        trt.DataType.FLOAT: 'float32',
        trt.DataType.HALF: 'float16',
        trt.DataType.INT32: 'int32',
        trt.DataType.INT64: 'int64',
        trt.DataType.UINT8: 'uint8',
    }
    if dtype not in names:
        raise ModelError(
            f'a network input or output is of type {dtype}; expected one of '
            f'{", ".join(names.values())}: export the model again'
        )
    return TensorSpec(names[dtype], tuple(int(size) if size >= 0 else '?' for size in shape))


def _monitor(trt: ModuleType, cancelled: threading.Event, on_progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined]
        """Called from within TensorRT: nothing may escape from here as an exception."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            # The phases within a phase come and go in their hundreds.
            if not parent_phase:
                self.steps[phase_name] = num_steps
                on_progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                on_progress(phase_name, step + 1, self.steps[phase_name])
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            steps = self.steps.pop(phase_name, None)
            if steps is not None:
                on_progress(phase_name, steps, steps)

    return Monitor()


def _ignore(phase: str, done: int, steps: int) -> None:
    _log.debug('%s: %d of %d', phase, done, steps)


@contextmanager
def _interrupt_sets(event: threading.Event) -> Iterator[threading.Event]:
    """Let Ctrl-C set the event: a KeyboardInterrupt inside TensorRT's callbacks would abort."""
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = signal.signal(signal.SIGINT, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
