"""Run a plan on the GPU: one stream, buffers bound once, one CUDA graph launch per frame."""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from panoptic_ros.engines import EngineDescription, check_image
from panoptic_ros.engines.tensorrt.build import PRECISION, tensor_spec
from panoptic_ros.engines.tensorrt.cuda import CudaError, Graph, MirroredBuffer, Stream
from panoptic_ros.engines.tensorrt.installation import Installation, logger_of, take_errors
from panoptic_ros.errors import EngineError
from panoptic_ros.model import Model
from panoptic_ros.model.card import TensorSpec

_ALIGNMENT = 256  # bytes, the alignment that cudaMalloc guarantees

_log = logging.getLogger('panoptic_ros.tensorrt')


class PlanError(EngineError):
    """A plan cannot be loaded on this machine; building it again may help."""


@dataclass(frozen=True)
class Layer:
    """One layer of a plan, from TensorRT's inspector and profiler.

    Parameters
    ----------
    name, kind
        Name and type; the type is empty if the plan stores names only.
    outputs
        Data type, format and size of each output, as text from TensorRT.
    milliseconds
        Mean time of one run, NaN if not measured.
    """

    name: str
    kind: str
    outputs: tuple[str, ...]
    milliseconds: float


@dataclass(eq=False)
class _Region:
    """The layout of tensors in one buffer: offsets and total size in bytes."""

    specs: dict[str, TensorSpec]
    offsets: dict[str, int] = field(init=False)
    nbytes: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.offsets = {}
        for name, spec in self.specs.items():
            self.offsets[name] = self.nbytes
            size = int(np.prod(spec.sizes)) * np.dtype(spec.dtype).itemsize
            self.nbytes += -(-size // _ALIGNMENT) * _ALIGNMENT

    def views(self, buffer: MirroredBuffer) -> dict[str, np.ndarray]:
        """Return views of the pinned host memory by tensor name, with the batch axis."""
        return {
            name: buffer.host_view(self.offsets[name], np.dtype(spec.dtype), spec.sizes)
            for name, spec in self.specs.items()
        }

    def bind(self, context: Any, buffer: MirroredBuffer) -> None:
        """Set the device address of each tensor."""
        for name, offset in self.offsets.items():
            if not context.set_tensor_address(name, buffer.device_address + offset):
                raise EngineError(
                    f'TensorRT refuses the address of {name}; build the engine again'
                )


class TensorRtEngine:
    """See :class:`panoptic_ros.engines.Engine`.

    Parameters
    ----------
    here
        TensorRT, CUDA and the GPU.
    plan
        The compiled network.
    model
        The model of the plan; its inputs and outputs are checked.
    reason
        Part of the description.
    use_graph
        Capture a CUDA graph. Without one, or if the capture fails, the copies and kernels of each
        frame are enqueued one by one.
    runtime_cache
        Kernels compiled by an earlier load, for libraries with a runtime cache. The attribute of
        the same name holds the kernels of this load.

    The attribute ``graph_fault`` is the reason why there is no CUDA graph, empty if there is one.

    Raises PlanError if TensorRT rejects the plan, EngineError if CUDA fails, ModelError if the
    inputs and outputs differ from those of the model.
    """

    def __init__(
        self,
        here: Installation,
        plan: bytes,
        model: Model,
        reason: str = '',
        *,
        use_graph: bool = True,
        runtime_cache: bytes = b'',
    ) -> None:
        self.runtime_cache = runtime_cache
        self._here = here
        self._size_wh = model.card.size_wh
        self._lost = False
        self._runtime: Any = None
        self._kernels: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._resources = ExitStack()
        self._is_open = True
        # If a step fails, the resources of the steps before it are freed.
        with self._resources:
            self._load(plan)
            self._bind(model)
            self.graph_fault = self._prepare(use_graph)
            self._resources = self._resources.pop_all()
        how = 'CUDA graph' if not self.graph_fault else f'no CUDA graph: {self.graph_fault}'
        self.description = EngineDescription(
            name=here.library.name,
            device=here.device.name,
            precision=PRECISION,
            version=here.trt.__version__,
            reason=f'{reason}; {how}' if reason else how,
            is_gpu=True,
            batch=len(self._images),
        )

    def infer(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """See :meth:`panoptic_ros.engines.Engine.infer`."""
        return self.infer_batch([image])[0]

    def infer_batch(self, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """See :meth:`panoptic_ros.engines.BatchEngine.infer_batch`."""
        if not self._is_open:
            raise EngineError(f'the {self.description.name} engine is closed; open another one')
        for row, image in enumerate(images):
            check_image(image, self._size_wh)
            np.copyto(self._images[row], image)
        self._run(self._launch)  # further rows have earlier images; nobody reads their outputs
        return [
            {name: view[row].copy() for name, view in self._outputs.items()}
            for row in range(len(images))
        ]

    def layers(self, runs: int = 0) -> list[Layer]:
        """Describe the layers of the plan; time them over ``runs`` frames without CUDA graph."""
        trt = self._here.trt
        inspector = self._engine.create_engine_inspector()
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        profiler = _profiler(trt)
        if runs:
            self._context.profiler = profiler
        for _ in range(runs):
            self._run(self._enqueue)
        return [_layer(entry, profiler.milliseconds, runs) for entry in json.loads(text)['Layers']]

    def close(self) -> None:
        """Free all resources. Never raises; a second call does nothing."""
        if not self._is_open:
            return
        self._is_open = False
        self._resources.close()
        if self._lost:
            # The reset frees TensorRT's memory too, so it comes last.
            self._here.cuda.reset_device()

    def _load(self, plan: bytes) -> None:
        trt = self._here.trt
        self._resources.callback(self._drop)
        self._runtime = trt.Runtime(logger_of(trt))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise PlanError(f'TensorRT {trt.__version__} cannot load the plan: {take_errors(trt)}')
        if self._here.library.has_runtime_cache:
            config = self._engine.create_runtime_config()
            self._kernels = config.create_runtime_cache()
            if self.runtime_cache:
                # TensorRT-RTX rejects and replaces the cache of another driver.
                self._kernels.deserialize(self.runtime_cache)
            config.set_runtime_cache(self._kernels)
            self._context = self._engine.create_execution_context(config)
        else:
            self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(
                f'TensorRT cannot create an execution context ({take_errors(trt)}); most often '
                'the GPU is out of memory: close other programs'
            )

    def _bind(self, model: Model) -> None:
        cuda = self._here.cuda
        inputs, outputs = self._io()
        batch = max(spec.sizes[0] for spec in inputs.values())
        model.check_io(PRECISION, inputs, outputs, batch)
        self._stream = Stream(cuda)
        self._resources.callback(self._stream.close)
        regions = []
        for specs in (inputs, outputs):
            region = _Region(specs)
            buffer = MirroredBuffer(cuda, region.nbytes)
            self._resources.callback(buffer.close)
            region.bind(self._context, buffer)
            regions.append((region, buffer))
        (into, self._upload_buffer), (out, self._download_buffer) = regions
        (self._images,) = into.views(self._upload_buffer).values()
        self._outputs = out.views(self._download_buffer)

    def _io(self) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
        trt, engine = self._here.trt, self._engine
        inputs: dict[str, TensorSpec] = {}
        outputs: dict[str, TensorSpec] = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            spec = tensor_spec(trt, engine.get_tensor_dtype(name), engine.get_tensor_shape(name))
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (inputs if is_input else outputs)[name] = spec
        return inputs, outputs

    def _prepare(self, use_graph: bool) -> str:
        """Warm up and capture a graph; return the reason if there is none, else an empty text."""
        self._launch: Callable[[], None] = self._enqueue
        # TensorRT allocates memory in the first run; a capture does not allow that.
        self._images[:] = 0
        self._run(self._enqueue)
        if self._kernels is not None:
            self.runtime_cache = bytes(self._kernels.serialize())
        if not use_graph:
            return 'not asked for'
        try:
            graph = Graph(self._here.cuda, self._stream, self._enqueue)
        except CudaError as error:
            if error.is_lost:
                raise
            return str(error)
        except EngineError as error:
            return str(error)
        self._resources.callback(graph.close)
        self._launch = graph.launch
        return ''

    def _enqueue(self) -> None:
        self._upload_buffer.upload(self._stream)
        if not self._context.execute_async_v3(self._stream.handle):
            raise EngineError(f'TensorRT cannot run the engine: {take_errors(self._here.trt)}')
        self._download_buffer.download(self._stream)

    def _run(self, launch: Callable[[], None]) -> None:
        try:
            launch()
            self._stream.synchronize()
        except CudaError as error:
            self._lost = self._lost or error.is_lost
            raise

    def _drop(self) -> None:
        # The order matters: each object uses the next one.
        self._context = None
        self._kernels = None
        self._engine = None
        self._runtime = None


def _profiler(trt: Any) -> Any:
    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.milliseconds: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.milliseconds[layer_name] = self.milliseconds.get(layer_name, 0.0) + ms

    return Profiler()


def _layer(entry: Any, milliseconds: dict[str, float], runs: int) -> Layer:
    # A plan built without detailed verbosity stores layer names instead of records.
    record: dict[str, Any] = {'Name': entry} if isinstance(entry, str) else entry
    name = record.get('Name', '?')
    total = milliseconds.get(name, np.nan)
    return Layer(
        name=name,
        kind=record.get('LayerType', ''),
        outputs=tuple(
            f'{output.get("Format/Datatype", "?")} {output.get("Dimensions", "?")}'
            for output in record.get('Outputs', ())
        ),
        milliseconds=float(total / runs) if runs else float('nan'),
    )
