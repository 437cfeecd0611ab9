"""OpenVINO on the CPU: the fastest on x86, where it can compute in bfloat16."""

import sys
from typing import Any

import numpy as np

from panoptic_ros.engines import EngineDescription, check_image
from panoptic_ros.engines.golden import golden_fault, require_golden
from panoptic_ros.errors import EngineError, ModelError, one_line
from panoptic_ros.model import Model
from panoptic_ros.model.card import TensorSpec

# Left to itself, each import of openvino sends a message to an analytics service, from a process
# that it forks. Where this package of pip's is not there, it goes without.
sys.modules.setdefault('openvino_telemetry', None)  # type: ignore[arg-type]

_NAMES = {'f32': 'float32', 'bf16': 'bf16', 'f16': 'float16'}


def unavailable() -> str:
    """Say why OpenVINO cannot run here, or nothing."""
    try:
        import openvino
    except ImportError as error:
        return f'openvino cannot be imported ({error}); install it with pip'
    if 'CPU' not in openvino.Core().available_devices:
        return 'openvino has no CPU plugin; reinstall it'
    return ''


def open(  # noqa: A001
    model: Model, *, threads: int = 0, precision: str = 'auto', reason: str = ''
) -> 'OpenVinoEngine':
    """Load the model's float32 or int8 file; see :mod:`panoptic_ros.engines`.

    ``precision='auto'`` is bf16 where the processor computes in it and the golden picture comes
    out right, else float32; the description's reason tells which and why.
    """
    has_bf16 = _has_bf16()
    if precision == 'bf16' and not has_bf16:
        raise EngineError(
            'this processor does not compute in bf16; choose precision auto, float32 or int8'
        )
    if precision == 'auto':
        if has_bf16:
            engine = OpenVinoEngine(model, threads, 'bf16', f'{reason}; the processor has bf16')
            fault = golden_fault(engine, model)
            if not fault:
                return engine
            engine.close()
            reason = f'{reason}; not bf16: {fault}'
        else:
            reason = f'{reason}; the processor has no bf16'
    engine = OpenVinoEngine(
        model, threads, 'float32' if precision == 'auto' else precision, reason
    )
    require_golden(engine, model)
    return engine


class OpenVinoEngine:
    """See :class:`panoptic_ros.engines.Engine`."""

    def __init__(
        self, model: Model, threads: int = 0, precision: str = 'float32', reason: str = ''
    ) -> None:
        import openvino

        core = openvino.Core()
        file = 'int8' if precision == 'int8' else 'float32'
        path = model.onnx_path(file)
        # The precision is always said: left alone, OpenVINO takes bf16 where there is any. Of the
        # int8 file it is that of what is not in integers.
        options = {
            'PERFORMANCE_HINT': 'LATENCY',
            'INFERENCE_PRECISION_HINT': 'bf16' if precision == 'bf16' else 'f32',
            'INFERENCE_NUM_THREADS': threads,
        }
        try:
            network = core.read_model(path)
        except RuntimeError as error:
            raise ModelError(f'OpenVINO cannot read {path}: {one_line(error)}') from error
        model.check_io(file, _specs(network.inputs), _specs(network.outputs))
        try:
            compiled, note = _compile(core, network, options)
            self._request: openvino.InferRequest | None = compiled.create_infer_request()
        except RuntimeError as error:
            raise EngineError(
                f'OpenVINO cannot compile {path}: {one_line(error)}; choose engine onnxruntime'
            ) from error
        # Not any_name: the compiled network may know an output by several names.
        self._outputs = list(model.card.outputs(file))
        self._size_wh = model.card.size_wh
        used = compiled.get_property('INFERENCE_PRECISION_HINT').to_string()
        self.description = EngineDescription(
            name='openvino',
            device=core.get_property('CPU', 'FULL_DEVICE_NAME'),
            precision=file if file == 'int8' else _NAMES.get(used, used),
            version=openvino.__version__.split('-')[0],
            reason=f'{reason}; {note}' if note else reason,
        )

    def infer(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """See :meth:`panoptic_ros.engines.Engine.infer`."""
        if self._request is None:
            raise EngineError('the openvino engine is closed; open another one')
        check_image(image, self._size_wh)
        # Copied both ways: a shared tensor does not keep the caller's array alive, and the next
        # inference writes over the request's outputs. Half a megabyte takes microseconds.
        self._request.get_input_tensor().data[0] = image
        try:
            self._request.infer()
        except RuntimeError as error:
            raise EngineError(f'OpenVINO failed: {one_line(error)}') from error
        return {name: self._request.get_tensor(name).data[0].copy() for name in self._outputs}

    def close(self) -> None:
        """Free the network; a second call does nothing."""
        self._request = None


def _compile(core: Any, network: Any, options: dict[str, Any]) -> tuple[Any, str]:
    """Compile for the CPU; return the compiled network and a note for the description.

    The code generator of some releases fails in its pass ``ReduceDecomposition`` for Mask2Former
    and OneFormer. Those networks are compiled without it. Raises RuntimeError.
    """
    try:
        return core.compile_model(network, 'CPU', options), ''
    except RuntimeError as error:
        if 'ReduceDecomposition' not in str(error):
            raise
    compiled = core.compile_model(network, 'CPU', {**options, 'SNIPPETS_MODE': 'DISABLE'})
    return compiled, 'compiled without snippets'


def _has_bf16() -> bool:
    import openvino

    return 'BF16' in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')


def _specs(ports: list) -> dict[str, TensorSpec]:
    return {
        port.any_name: TensorSpec(
            port.element_type.to_dtype().name,
            tuple(size.get_length() if size.is_static else '?' for size in port.partial_shape),
        )
        for port in ports
    }
