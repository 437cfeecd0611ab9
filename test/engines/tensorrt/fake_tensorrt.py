"""A module ``tensorrt`` without TensorRT: every use is checked, ONNX Runtime computes.

What it has, and with which signatures, is the record that ``surface.py`` made of the real bindings
of one version; anything else is an AttributeError or a TypeError, as it would be there.
A plan is the ONNX with a header that names version and GPU and a checksum behind it.
"""

import ctypes
import enum
import hashlib
import inspect
import json
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime

_ORT_TYPES = {
    'tensor(uint8)': 'UINT8',
    'tensor(int32)': 'INT32',
    'tensor(int64)': 'INT64',
    'tensor(float)': 'FLOAT',
    'tensor(float16)': 'HALF',
    'tensor(bool)': 'BOOL',
}
_ONNX_TYPES = {1: 'FLOAT', 2: 'UINT8', 6: 'INT32', 7: 'INT64', 9: 'BOOL', 10: 'HALF'}
_LAYER_TYPES = {
    'Conv': 'CONVOLUTION',
    'ConvTranspose': 'DECONVOLUTION',
    'MatMul': 'MATRIX_MULTIPLY',
}
_KERNEL = ctypes.CFUNCTYPE(None)


@dataclass
class World:
    """What the test wants to go wrong, and what was done."""

    cudart: ctypes.CDLL
    parser_errors: list[tuple[str, str, str]] = field(default_factory=list)  # name, kind, text
    build_fails: bool = False
    context_fails: bool = False
    timing_cache_fits: bool = True
    runs_before_failure: int = -1
    spoil: bool = False  # wrong results
    dla_cores: int = 0
    during_build: Any = None  # called once, in the middle
    builds: int = 0
    last_config: Any = None
    last_flags: int = 0
    sessions: dict[str, onnxruntime.InferenceSession] = field(default_factory=dict)

    def session(self, content: bytes) -> onnxruntime.InferenceSession:
        """Return the session of an ONNX; one for each, because making it takes long."""
        key = hashlib.sha256(content).hexdigest()
        if key not in self.sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self.sessions[key] = onnxruntime.InferenceSession(
                content, options, ['CPUExecutionProvider']
            )
        return self.sessions[key]


def make_fake(version: str, record: dict[str, Any], world: World) -> ModuleType:
    """Return a fake of one version."""
    trt = ModuleType('tensorrt')
    trt.__version__ = version
    for dotted, members in record['enums'].items():
        if '.' not in dotted:
            setattr(trt, dotted, enum.IntEnum(dotted, members))
    severity = enum.IntEnum('Severity', record['enums']['ILogger.Severity'])

    class Checked:
        """Lets through what the record has, to methods called ``do_X`` and ``get_X``."""

        def __getattribute__(self, name: str) -> Any:
            if name.startswith(('_', 'do_', 'get__')):
                return object.__getattribute__(self, name)
            described = self._describe(name)
            if 'overloads' in described:
                method = getattr(self, f'do_{name}')

                def call(*args: Any, **kwargs: Any) -> Any:
                    return method(*bind(f'{type(self).__name__}.{name}', described, args, kwargs))

                return call
            getter = f'get__{name}'
            if hasattr(type(self), getter):
                return getattr(self, getter)()
            return self.__dict__.get(f'_value_{name}')

        def __setattr__(self, name: str, value: Any) -> None:
            if name.startswith('_'):
                object.__setattr__(self, name, value)
                return
            described = self._describe(name)
            if not described.get('settable'):
                raise AttributeError(f'{type(self).__name__}.{name} cannot be set')
            if not fits(value, described['type']):
                raise TypeError(f'{name} wants {described["type"]}, not {value!r}')
            self.__dict__[f'_value_{name}'] = value

        def _describe(self, name: str) -> dict[str, Any]:
            kind = type(self).__name__
            try:
                return record['classes'][kind][name]
            except KeyError:
                raise AttributeError(f'{kind} of TensorRT {version} has no {name}') from None

    def fits(value: Any, kind: str) -> bool:
        if kind == 'buffer':
            return isinstance(value, bytes | bytearray | memoryview)
        if kind in ('int', 'str', 'bool'):
            wanted = {'int': int, 'str': str, 'bool': bool}[kind]
            return isinstance(value, wanted) and not isinstance(value, enum.Enum)
        found = getattr(trt, kind, None) or classes.get(kind)
        return found is not None and isinstance(value, found)

    def bind(name: str, described: dict[str, Any], args: tuple, kwargs: dict) -> tuple:
        for overload in described['overloads']:
            parameters = overload['arguments']
            names = [parameter['name'] for parameter in parameters]
            given = dict(zip(names, args, strict=False)) | kwargs
            needed = {p['name'] for p in parameters if not p['optional']}
            kinds = {p['name']: p['type'] for p in parameters}
            if (
                len(args) <= len(names)
                and needed <= set(given) <= set(names)
                and all(fits(value, kinds[key]) for key, value in given.items())
            ):
                return tuple(given[key] for key in names if key in given)
        raise TypeError(f'{name} of TensorRT {version} cannot be called with {args} {kwargs}')

    class _Base:
        """A class to derive from: overrides must have the recorded parameters."""

        def __init_subclass__(cls) -> None:
            base = next(k for k in cls.__mro__ if k.__name__ in record['classes'])
            for method, described in record['classes'][base.__name__].items():
                if method == '__init__':
                    continue
                wanted = [p['name'] for p in described['overloads'][0]['arguments']]
                if base is cls:
                    continue
                found = list(inspect.signature(getattr(cls, method)).parameters)[1:]
                assert found == wanted, f'{cls.__name__}.{method}{found}, expected {wanted}'

        def __init__(self) -> None:
            self.initialised = True

    class ILogger(_Base):
        Severity = severity

    class IProgressMonitor(_Base):
        pass

    class IProfiler(_Base):
        pass

    def report_error(logger: ILogger, text: str) -> None:
        assert logger.initialised
        logger.log(severity.ERROR, text)

    class ITensor(Checked):
        def __init__(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
            self.__dict__['_value_name'] = name
            self.__dict__['_value_dtype'] = trt.DataType[dtype]
            self.__dict__['_value_shape'] = shape

    class ILayer(Checked):
        def __init__(self, kind: str, output: ITensor, name: str) -> None:
            self.__dict__['_value_type'] = trt.LayerType[kind]
            self.__dict__['_value_name'] = name
            self._output = output

        def do_get_output(self, index: int) -> ITensor:
            assert index == 0
            return self._output

    class INetworkDefinition(Checked):
        def __init__(self) -> None:
            self._content = b''
            self._inputs: list[ITensor] = []
            self._outputs: list[ITensor] = []
            self._layers: list[ILayer] = []

        def get__num_inputs(self) -> int:
            return len(self._inputs)

        def get__num_outputs(self) -> int:
            return len(self._outputs)

        def get__num_layers(self) -> int:
            return len(self._layers)

        def do_get_input(self, index: int) -> ITensor:
            return self._inputs[index]

        def do_get_output(self, index: int) -> ITensor:
            return self._outputs[index]

        def do_get_layer(self, index: int) -> ILayer:
            return self._layers[index]

    class ParserError(Checked):
        def __init__(self, name: str, kind: str, text: str) -> None:
            self._name, self._kind, self._text = name, kind, text

        def do_node_name(self) -> str:
            return self._name

        def do_node_operator(self) -> str:
            return self._kind

        def do_desc(self) -> str:
            return self._text

        def do_node(self) -> int:
            return 7

    class OnnxParser(Checked):
        def __init__(self, *args: Any) -> None:
            described = record['classes']['OnnxParser']['__init__']
            self._network, self._logger = bind('OnnxParser', described, args, {})

        def do_parse(self, model: bytes) -> bool:
            if world.parser_errors:
                return False
            try:
                graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
                session = world.session(model)
            except Exception as error:  # noqa: BLE001  # as TensorRT: any file, one answer
                report_error(self._logger, f'not an ONNX: {error}')
                return False
            network = self._network
            network._content = model
            for tensors, nodes in (
                (network._inputs, session.get_inputs()),
                (network._outputs, session.get_outputs()),
            ):
                for node in nodes:
                    tensors.append(ITensor(node.name, _ORT_TYPES[node.type], tuple(node.shape)))
            types = {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
            for node in graph.node:
                dtype = _ONNX_TYPES.get(types.get(node.output[0], 10), 'HALF')
                kind = _LAYER_TYPES.get(node.op_type, 'IDENTITY')
                output = ITensor(node.output[0], dtype, ())
                network._layers.append(ILayer(kind, output, node.name or node.output[0]))
            return True

        def get__num_errors(self) -> int:
            return len(world.parser_errors)

        def do_get_error(self, index: int) -> ParserError:
            return ParserError(*world.parser_errors[index])

    class ITimingCache(Checked):
        def __init__(self, content: bytes) -> None:
            self._content = content

        def do_serialize(self) -> bytes:
            return self._content + b'+'

    class IBuilderConfig(Checked):
        def __init__(self) -> None:
            self._set: list[Any] = []
            self._cache: ITimingCache | None = None
            self.__dict__['_value_builder_optimization_level'] = 3  # TensorRT's default

        def do_set_flag(self, flag: Any) -> None:
            self._set.append(flag)

        def do_create_timing_cache(self, content: bytes) -> ITimingCache:
            return ITimingCache(bytes(content))

        def do_set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            if not world.timing_cache_fits and cache._content:
                return False
            self._cache = cache
            return True

        def do_get_timing_cache(self) -> ITimingCache | None:
            return self._cache

    class Builder(Checked):
        def __init__(self, *args: Any) -> None:
            (self._logger,) = bind('Builder', record['classes']['Builder']['__init__'], args, {})

        def get__num_DLA_cores(self) -> int:
            return world.dla_cores

        def do_create_network(self, flags: int = 0) -> INetworkDefinition:
            world.last_flags = flags
            return INetworkDefinition()

        def do_create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def do_build_serialized_network(
            self, network: INetworkDefinition, config: IBuilderConfig
        ) -> memoryview | None:
            world.builds += 1
            world.last_config = config
            assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
            if not self._report_progress(config.progress_monitor):
                return None
            if world.build_fails:
                report_error(self._logger, 'Could not find any implementation for node {Conv_1}')
                return None
            return memoryview(pack_plan(version, network._content))

        def _report_progress(self, monitor: IProgressMonitor) -> bool:
            assert monitor.initialised
            monitor.phase_start('Building', None, 2)
            goes_on = monitor.step_complete('Building', 0)
            monitor.phase_start('Timing', 'Building', 1)
            if world.during_build is not None:
                world.during_build()
            goes_on = monitor.step_complete('Timing', 0) and goes_on
            monitor.phase_finish('Timing')
            goes_on = goes_on and monitor.step_complete('Building', 1)
            monitor.phase_finish('Building')
            return goes_on

    class IExecutionContext(Checked):
        def __init__(self, session: onnxruntime.InferenceSession, tensors: list[ITensor]) -> None:
            self._session, self._tensors = session, {t.name: t for t in tensors}
            self._addresses: dict[str, int] = {}
            self._kernel = _KERNEL(self._compute)

        def do_set_tensor_address(self, name: str, memory: int) -> bool:
            tensor = self._tensors[name]
            if memory % 256 or not world.cudart.stub_is_device(memory, _nbytes(tensor)):
                return False
            self._addresses[name] = memory
            return True

        def do_execute_async_v3(self, stream_handle: int) -> bool:
            assert set(self._addresses) == set(self._tensors), 'a tensor without an address'
            if world.runs_before_failure == 0:
                return False
            world.runs_before_failure -= 1
            return world.cudart.stub_enqueue(stream_handle, self._kernel) == 0

        def _compute(self) -> None:
            image = self._tensors['image']
            raw = ctypes.string_at(self._addresses['image'], _nbytes(image))
            given = np.frombuffer(raw, np.uint8).reshape(image.shape)
            names = [output.name for output in self._session.get_outputs()]
            for name, array in zip(names, self._session.run(names, {'image': given}), strict=True):
                array = np.ascontiguousarray(array)
                if world.spoil and name == 'semantic':
                    array = (array + 1) % 19
                assert array.nbytes == _nbytes(self._tensors[name])
                ctypes.memmove(self._addresses[name], array.ctypes.data, array.nbytes)
            profiler = self.__dict__.get('_value_profiler')
            if profiler is not None:
                profiler.report_layer_time('first', 0.25)
                profiler.report_layer_time('second', 0.5)

    class EngineInspector(Checked):
        def do_get_engine_information(self, format: Any) -> str:  # noqa: A002
            output = {'Name': 'x', 'Dimensions': [1, 8], 'Format/Datatype': 'Half'}
            record = {'Name': 'first', 'LayerType': 'Convolution', 'Outputs': [output]}
            return json.dumps({'Layers': [record, 'second'], 'Bindings': []})

    class ICudaEngine(Checked):
        def __init__(self, content: bytes) -> None:
            self._session = world.session(content)
            self._tensors = [
                ITensor(node.name, _ORT_TYPES[node.type], tuple(node.shape))
                for node in (*self._session.get_inputs(), *self._session.get_outputs())
            ]
            self._inputs = len(self._session.get_inputs())

        def get__num_io_tensors(self) -> int:
            return len(self._tensors)

        def do_get_tensor_name(self, index: int) -> str:
            return self._tensors[index].name

        def do_get_tensor_dtype(self, name: str) -> Any:
            return self._named(name).dtype

        def do_get_tensor_shape(self, name: str) -> Any:
            return self._named(name).shape

        def do_get_tensor_mode(self, name: str) -> Any:
            is_input = self._tensors.index(self._named(name)) < self._inputs
            return trt.TensorIOMode.INPUT if is_input else trt.TensorIOMode.OUTPUT

        def do_create_execution_context(self) -> IExecutionContext | None:
            if world.context_fails:
                return None
            return IExecutionContext(self._session, self._tensors)

        def do_create_engine_inspector(self) -> EngineInspector:
            return EngineInspector()

        def _named(self, name: str) -> ITensor:
            return next(tensor for tensor in self._tensors if tensor.name == name)

    class Runtime(Checked):
        def __init__(self, *args: Any) -> None:
            (self._logger,) = bind('Runtime', record['classes']['Runtime']['__init__'], args, {})

        def do_deserialize_cuda_engine(self, plan: bytes) -> ICudaEngine | None:
            fault = plan_fault(version, bytes(plan))
            if fault:
                report_error(self._logger, fault)
                return None
            return ICudaEngine(bytes(plan).split(b'\n', 1)[1][:-32])

    classes = {
        kind.__name__: kind
        for kind in (
            ILogger, IProgressMonitor, IProfiler, ITensor, ILayer, INetworkDefinition, ParserError,
            OnnxParser, ITimingCache, IBuilderConfig, Builder, IExecutionContext, EngineInspector,
            ICudaEngine, Runtime,
        )
    }  # fmt: skip
    for name in ('ILogger', 'IProgressMonitor', 'IProfiler', 'OnnxParser', 'Builder', 'Runtime'):
        setattr(trt, name, classes[name])
    return trt


def pack_plan(version: str, content: bytes) -> bytes:
    """Return a plan of the fake."""
    body = json.dumps({'version': version}).encode() + b'\n' + content
    return body + hashlib.sha256(body).digest()


def plan_fault(version: str, plan: bytes) -> str:
    """Say why a plan cannot be loaded, or nothing."""
    if hashlib.sha256(plan[:-32]).digest() != plan[-32:]:
        return 'Serialization assertion safeVersionRead == kSAFE_SERIALIZATION_VERSION failed.'
    built_with = json.loads(plan.split(b'\n', 1)[0])['version']
    if built_with != version:
        return f'The engine plan file is not compatible: built with {built_with}, not {version}'
    return ''


def _nbytes(tensor: Any) -> int:
    size = {'FLOAT': 4, 'HALF': 2, 'INT32': 4, 'INT64': 8, 'UINT8': 1, 'BOOL': 1}
    return int(np.prod(tensor.shape)) * size[tensor.dtype.name]
