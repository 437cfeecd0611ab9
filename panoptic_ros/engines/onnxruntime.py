"""ONNX Runtime: on a GPU where onnxruntime-gpu finds CUDA, else on the CPU."""

import io
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_ros.engines import EngineDescription, check_image
from panoptic_ros.engines.batching import with_batch
from panoptic_ros.engines.golden import require_golden
from panoptic_ros.engines.grid_samples import widen_grid_samples
from panoptic_ros.errors import EngineError, ModelError, one_line
from panoptic_ros.model import Model
from panoptic_ros.model.card import TensorSpec

CUDA = 'CUDAExecutionProvider'
CPU = 'CPUExecutionProvider'
CUDA_OPTIONS = {'use_tf32': '0'}
"""float32 files compute in float32: TF32, the default of the provider, has 10 bits only and can
change classes. The fast file is the float16 one."""

_DTYPES = {
    'tensor(uint8)': 'uint8',
    'tensor(int32)': 'int32',
    'tensor(int64)': 'int64',
    'tensor(float)': 'float32',
    'tensor(float16)': 'float16',
}

_log = logging.getLogger(__name__)


def unavailable() -> str:
    """Say why ONNX Runtime cannot run here, or nothing."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError as error:
        return f'onnxruntime cannot be imported ({error}); install it with pip'
    return ''


def has_cuda() -> bool:
    """Return whether the installed ONNX Runtime is built with CUDA."""
    import onnxruntime

    return CUDA in onnxruntime.get_available_providers()


def load_cuda_libraries() -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels, in which the CUDA provider does not search.

    Does nothing where there are no such wheels, or where ONNX Runtime is older than 1.21.
    """
    import onnxruntime

    messages = io.StringIO()
    preload = getattr(onnxruntime, 'preload_dlls', None)
    if preload is not None:
        with redirect_stdout(messages):
            preload()
    for message in messages.getvalue().splitlines():
        _log.debug('%s', message)


def open(  # noqa: A001
    model: Model,
    *,
    threads: int = 0,
    precision: str = 'auto',
    reason: str = '',
    batch: int = 1,
) -> 'OnnxRuntimeEngine':
    """Load a file of the model, for ``batch`` images at once; see :mod:`panoptic_ros.engines`.

    With CUDA, ``auto`` takes the float16 file if the model has one. Where CUDA is installed but
    does not load, the CPU is used and the reason tells so.
    """
    if precision not in ('auto', 'float32', 'int8'):
        raise EngineError(
            f'engine onnxruntime cannot compute in {precision}; expected auto, float32 or int8, '
            'or take the engine openvino'
        )
    if has_cuda() and precision != 'int8':
        load_cuda_libraries()
        on_gpu = 'float16' if precision == 'auto' and 'float16' in model.card.files else 'float32'
        engine = OnnxRuntimeEngine(model, threads, on_gpu, reason, use_cuda=True, batch=batch)
        if engine.is_on_gpu:
            require_golden(engine, model)
            return engine
        engine.close()
        why_cpu = 'the CUDA provider does not load, see the log of ONNX Runtime'
        reason = f'{reason}; {why_cpu}' if reason else why_cpu
    engine = OnnxRuntimeEngine(
        model, threads, 'int8' if precision == 'int8' else 'float32', reason, batch=batch
    )
    require_golden(engine, model)
    return engine


class OnnxRuntimeEngine:
    """See :class:`panoptic_ros.engines.Engine`.

    Parameters
    ----------
    model, threads, precision, reason, batch
        See :func:`open`; ``precision`` names a file of the model.
    use_cuda
        Run on the GPU if the CUDA provider loads.
    use_graph
        Capture a CUDA graph if the CUDA provider can run all nodes.

    Raises ModelError if ONNX Runtime cannot load the file.
    """

    def __init__(
        self,
        model: Model,
        threads: int = 0,
        precision: str = 'float32',
        reason: str = '',
        *,
        use_cuda: bool = False,
        use_graph: bool = True,
        batch: int = 1,
    ) -> None:
        import onnxruntime

        self._errors = runtime_errors()
        path = model.onnx_path(precision)
        network = path if batch == 1 else with_batch(path, batch)
        try:
            session, how = _create_session(network, threads, use_cuda, use_graph, self._errors)
        except self._errors as error:
            raise ModelError(f'ONNX Runtime cannot load {path}: {one_line(error)}') from error
        inputs, outputs = _specs(session.get_inputs()), _specs(session.get_outputs())
        model.check_io(precision, inputs, outputs, batch)
        self.is_on_gpu = session.get_providers()[0] == CUDA
        self._session: onnxruntime.InferenceSession | None = session
        self._outputs = list(outputs)
        self._run = _runner(session, inputs, outputs, self.is_on_gpu)
        if self.is_on_gpu:
            reason = f'{reason}; {how}' if reason else how
        self._size_wh = model.card.size_wh
        self.description = EngineDescription(
            name='onnxruntime',
            device='CUDA GPU 0' if self.is_on_gpu else f'CPU ({platform.machine()})',
            precision=precision,
            version=onnxruntime.__version__,
            reason=reason,
            is_gpu=self.is_on_gpu,
            batch=batch,
        )

    def infer(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """See :meth:`panoptic_ros.engines.Engine.infer`."""
        return self.infer_batch([image])[0]

    def infer_batch(self, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """See :meth:`panoptic_ros.engines.BatchEngine.infer_batch`."""
        if self._session is None:
            raise EngineError('the onnxruntime engine is closed; open another one')
        for image in images:
            check_image(image, self._size_wh)
        missing = self.description.batch - len(images)
        batch = np.stack([*images, *[images[-1]] * missing])
        try:
            outputs = self._run(batch)
        except self._errors as error:
            raise EngineError(f'ONNX Runtime failed: {one_line(error)}') from error
        return [
            {name: array[row] for name, array in zip(self._outputs, outputs, strict=True)}
            for row in range(len(images))
        ]

    def close(self) -> None:
        """Free the network; a second call does nothing."""
        self._session = None
        self._run = _closed


class FixedBuffers:
    """Run a session with its input and outputs at fixed addresses, as a CUDA graph needs them.

    Parameters
    ----------
    session
        The loaded network.
    inputs, outputs
        Their specifications by name; one input, and no free sizes.
    device
        Where the buffers are: ``cuda`` or ``cpu``.
    """

    def __init__(
        self,
        session: Any,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        device: str,
    ) -> None:
        from onnxruntime import OrtValue

        def allocate(spec: TensorSpec) -> Any:
            return OrtValue.ortvalue_from_shape_and_type(
                spec.sizes, np.dtype(spec.dtype), device, 0
            )

        self._session = session
        self._binding = session.io_binding()
        ((name, spec),) = inputs.items()
        self._input = allocate(spec)
        self._binding.bind_ortvalue_input(name, self._input)
        self._outputs = [allocate(spec) for spec in outputs.values()]
        for name, value in zip(outputs, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(name, value)

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for an image with the batch axis.

        On a GPU they are copies, on a CPU they are overwritten by the next call.
        """
        self._input.update_inplace(image)
        self._session.run_with_iobinding(self._binding)
        return [value.numpy() for value in self._outputs]


def run_bound(session: Any, names: Sequence[str], image: np.ndarray) -> list[np.ndarray]:
    """Run with bound inputs and outputs: one copy to the device, one back for each output."""
    binding = session.io_binding()
    binding.bind_cpu_input('image', image)
    for name in names:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()


def _create_session(
    network: Path | bytes,
    threads: int,
    use_cuda: bool,
    use_graph: bool,
    errors: tuple[type[Exception], ...],
) -> tuple[Any, str]:
    """Return a session and how it runs on the GPU: with a CUDA graph, or why without."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Worker threads may spin within a frame, not between frames: at 10 Hz that is half the
    # processor time for the same latency (measured: 42 instead of 82 ms a frame; no spinning
    # at all costs a tenth of the latency).
    options.add_session_config_entry('session.force_spinning_stop', '1')
    if not use_cuda:
        return onnxruntime.InferenceSession(network, options, [CPU]), ''
    why_not = 'not asked for'
    with_graph = [(CUDA, {**CUDA_OPTIONS, 'enable_cuda_graph': '1'}), CPU]
    for change in (None, widen_grid_samples) if use_graph else ():
        changed = change(network) if change else network
        if changed is None:
            continue
        network = changed
        try:
            session = onnxruntime.InferenceSession(network, options, with_graph)
        except errors as error:
            # Nodes that the CUDA provider cannot run make a graph impossible.
            why_not = one_line(error)
        else:
            if _has_fixed_sizes(_specs(session.get_outputs())):
                return session, 'CUDA graph'
            why_not = 'the sizes of its outputs change'
            break
    session = onnxruntime.InferenceSession(network, options, [(CUDA, CUDA_OPTIONS), CPU])
    return session, f'no CUDA graph: {why_not}'


def _runner(
    session: Any,
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
    is_on_gpu: bool,
) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Return the function from an image with the batch axis to the outputs."""
    names = list(outputs)
    if not is_on_gpu:
        return lambda image: session.run(names, {'image': image})
    if _has_fixed_sizes(outputs):
        return FixedBuffers(session, inputs, outputs, 'cuda')
    return lambda image: run_bound(session, names, image)


def _has_fixed_sizes(outputs: Mapping[str, TensorSpec]) -> bool:
    return all(isinstance(size, int) for spec in outputs.values() for size in spec.shape)


def _closed(image: np.ndarray) -> list[np.ndarray]:
    raise EngineError('the onnxruntime engine is closed; open another one')


def runtime_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of ONNX Runtime."""
    # They have no base of their own, so all of them are named by taking them from their module.
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(
        member
        for member in vars(state).values()
        if isinstance(member, type) and issubclass(member, Exception)
    )


def _specs(nodes: list) -> dict[str, TensorSpec]:
    return {
        node.name: TensorSpec(
            _DTYPES.get(node.type, node.type),
            tuple(size if isinstance(size, int) else '?' for size in node.shape),
        )
        for node in nodes
    }
