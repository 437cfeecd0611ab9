"""ONNX Runtime: on a GPU where onnxruntime-gpu finds CUDA, else on the CPU."""

import platform
from collections.abc import Sequence
from typing import Any

import numpy as np

from panoptic_ros.engines import EngineDescription, check_image
from panoptic_ros.engines.batching import with_batch
from panoptic_ros.engines.golden import require_golden
from panoptic_ros.errors import EngineError, ModelError
from panoptic_ros.model import Model
from panoptic_ros.model.card import TensorSpec

CUDA = 'CUDAExecutionProvider'
CPU = 'CPUExecutionProvider'
_DTYPES = {
    'tensor(uint8)': 'uint8',
    'tensor(int32)': 'int32',
    'tensor(int64)': 'int64',
    'tensor(float)': 'float32',
    'tensor(float16)': 'float16',
}


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
        on_gpu = 'float16' if precision == 'auto' and 'float16' in model.card.files else 'float32'
        engine = OnnxRuntimeEngine(model, threads, on_gpu, reason, use_cuda=True, batch=batch)
        if engine.is_on_gpu:
            require_golden(engine, model)
            return engine
        engine.close()
        reason = f'{reason}; the CUDA provider does not load, see the log of ONNX Runtime'
    engine = OnnxRuntimeEngine(
        model, threads, 'int8' if precision == 'int8' else 'float32', reason, batch=batch
    )
    require_golden(engine, model)
    return engine


class OnnxRuntimeEngine:
    """See :class:`panoptic_ros.engines.Engine`."""

    def __init__(
        self,
        model: Model,
        threads: int = 0,
        precision: str = 'float32',
        reason: str = '',
        *,
        use_cuda: bool = False,
        batch: int = 1,
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Worker threads may spin within a frame, not between frames: at 10 Hz that is half the
        # processor time for the same latency (measured: 42 instead of 82 ms a frame; no spinning
        # at all costs a tenth of the latency).
        options.add_session_config_entry('session.force_spinning_stop', '1')
        providers = [CUDA, CPU] if use_cuda else [CPU]
        path = model.onnx_path(precision)
        self._errors = _runtime_errors()
        try:
            network = path if batch == 1 else with_batch(path, batch)
            session = onnxruntime.InferenceSession(network, options, providers)
        except self._errors as error:
            raise ModelError(
                f'ONNX Runtime cannot load {path}: {" ".join(str(error).split())}'
            ) from error
        inputs, outputs = _specs(session.get_inputs()), _specs(session.get_outputs())
        model.check_io(precision, inputs, outputs, batch)
        self._session: onnxruntime.InferenceSession | None = session
        self._outputs = [output.name for output in session.get_outputs()]
        self.is_on_gpu = session.get_providers()[0] == CUDA
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
            if self.is_on_gpu:
                outputs = run_bound(self._session, self._outputs, batch)
            else:
                outputs = self._session.run(self._outputs, {'image': batch})
        except self._errors as error:
            raise EngineError(f'ONNX Runtime failed: {" ".join(str(error).split())}') from error
        return [
            {name: array[row] for name, array in zip(self._outputs, outputs, strict=True)}
            for row in range(len(images))
        ]

    def close(self) -> None:
        """Free the network; a second call does nothing."""
        self._session = None


def run_bound(session: Any, names: list[str], image: np.ndarray) -> list[np.ndarray]:
    """Run with bound inputs and outputs: one copy to the device, one back for each output."""
    binding = session.io_binding()
    binding.bind_cpu_input('image', image)
    for name in names:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()


def _runtime_errors() -> tuple[type[Exception], ...]:
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
