"""What the package uses of TensorRT, and how to read it off the real bindings.

Run as a program in a process of its own (one version a process): ``surface.py FOLDER`` imports
``tensorrt_bindings`` from FOLDER and prints the record of that version as JSON.
"""

import importlib
import json
import re
import sys
from types import ModuleType
from typing import Any

VERSIONS = {
    '10.3.0': 'tensorrt-cu12-bindings',
    '10.13.3.9': 'tensorrt-cu12-bindings',
    '10.16.1.11': 'tensorrt-cu12-bindings',
    '11.4.0.106': 'tensorrt-cu13-bindings',
}

# Absent from these versions, and guarded in the source by looking the name up.
GUARDED = {
    'BuilderFlag.FP16': {'11.4.0.106'},
    'HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY': {'10.3.0'},
}

ENUMS = {
    'BuilderFlag': ('FP16', 'GPU_FALLBACK'),
    'DataType': ('FLOAT', 'HALF', 'INT32', 'INT64', 'UINT8', 'BOOL'),
    'DeviceType': ('DLA',),
    'HardwareCompatibilityLevel': ('AMPERE_PLUS', 'SAME_COMPUTE_CAPABILITY'),
    'ILogger.Severity': ('INTERNAL_ERROR', 'ERROR', 'WARNING', 'INFO', 'VERBOSE'),
    'LayerInformationFormat': ('JSON',),
    'LayerType': ('CONVOLUTION', 'DECONVOLUTION', 'MATRIX_MULTIPLY', 'IDENTITY'),
    'MemoryPoolType': ('WORKSPACE',),
    'NetworkDefinitionCreationFlag': ('STRONGLY_TYPED',),
    'ProfilingVerbosity': ('DETAILED',),
    'TensorIOMode': ('INPUT', 'OUTPUT'),
}

CLASSES = {
    'Builder': (
        '__init__',
        'build_serialized_network',
        'create_builder_config',
        'create_network',
        'num_DLA_cores',
    ),
    'EngineInspector': ('get_engine_information',),
    'IBuilderConfig': (
        'DLA_core',
        'builder_optimization_level',
        'create_timing_cache',
        'default_device_type',
        'get_timing_cache',
        'hardware_compatibility_level',
        'profiling_verbosity',
        'progress_monitor',
        'set_flag',
        'set_memory_pool_limit',
        'set_timing_cache',
    ),
    'ICudaEngine': (
        'create_engine_inspector',
        'create_execution_context',
        'get_tensor_dtype',
        'get_tensor_mode',
        'get_tensor_name',
        'get_tensor_shape',
        'num_io_tensors',
    ),
    'IExecutionContext': ('execute_async_v3', 'profiler', 'set_tensor_address'),
    'ILayer': ('get_output', 'name', 'type'),
    'ILogger': ('__init__', 'log'),
    'INetworkDefinition': (
        'get_input',
        'get_layer',
        'get_output',
        'num_inputs',
        'num_layers',
        'num_outputs',
    ),
    'IProfiler': ('__init__', 'report_layer_time'),
    'IProgressMonitor': ('__init__', 'phase_finish', 'phase_start', 'step_complete'),
    'ITensor': ('dtype', 'name', 'shape'),
    'ITimingCache': ('serialize',),
    'OnnxParser': ('__init__', 'get_error', 'num_errors', 'parse'),
    'ParserError': ('desc', 'node', 'node_name', 'node_operator'),
    'Runtime': ('__init__', 'deserialize_cuda_engine'),
}

_SIGNATURE = re.compile(r'^(?:\d+\. )?\w*\((?P<arguments>.*)\) -> (?P<result>.+)$')
_TYPES = {
    'typing.SupportsInt': 'int',
    'typing.SupportsFloat': 'float',
    'typing_extensions.Buffer': 'buffer',
    'nvonnxparser::IParserError': 'ParserError',
}


def record(trt: ModuleType) -> dict[str, Any]:
    """Return enums (name -> number) and classes (method -> overloads, property -> type)."""
    return {
        'enums': {
            enum: {n: int(v) for n, v in _members(trt, enum).items() if n in names}
            for enum, names in ENUMS.items()
        },
        'classes': {
            name: {
                member: _describe(getattr(_find(trt, name), member))
                for member in members
                if hasattr(_find(trt, name), member)
            }
            for name, members in CLASSES.items()
        },
    }


def _find(trt: ModuleType, dotted: str) -> Any:
    found = trt
    for part in dotted.split('.'):
        found = getattr(found, part)
    return found


def _members(trt: ModuleType, enum: str) -> dict[str, Any]:
    return _find(trt, enum).__members__


def _describe(member: Any) -> dict[str, Any]:
    if isinstance(member, property):
        return {
            'type': _type(_SIGNATURE.match(member.fget.__doc__.strip())['result']),
            'settable': member.fset is not None,
        }
    matches = filter(None, map(_SIGNATURE.match, member.__doc__.splitlines()))
    overloads = [
        {'arguments': _arguments(match['arguments']), 'result': _type(match['result'])}
        for match in matches
        if match['arguments'] != '*args, **kwargs'
    ]
    return {'overloads': overloads}


def _arguments(text: str) -> list[dict[str, Any]]:
    found = []
    for argument in re.split(r', (?=\w+: )', text):
        name, _, kind = argument.partition(': ')
        kind, _, default = kind.partition(' = ')
        if name != 'self':
            found.append({'name': name, 'type': _type(kind), 'optional': bool(default)})
    return found


def _type(text: str) -> str:
    text = re.sub(r'tensorrt(_bindings)?\.tensorrt\.', '', text.strip())
    return _TYPES.get(text, text)


if __name__ == '__main__':
    sys.path.insert(0, sys.argv[1])
    print(json.dumps(record(importlib.import_module('tensorrt_bindings'))))
