"""The functions of the CUDA runtime that an engine needs, called through ctypes.

``libcudart`` is loaded directly, as in NVIDIA's Polygraphy, so no Python binding has to match the
installed CUDA version. Every status code is checked. The signatures hold for CUDA 11.4 to 13.
"""

import ctypes
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_ros.errors import EngineError

LIBRARY_VARIABLE = 'PANOPTIC_CUDART'
"""Environment variable with the path of libcudart, for places that are not searched."""

_LIBRARIES = ('libcudart.so.13', 'libcudart.so.12', 'libcudart.so')
# Paths in NVIDIA's wheels, relative to the folder of the package nvidia.
_WHEEL_LIBRARIES = ('cu13/lib/libcudart.so.13', 'cuda_runtime/lib/libcudart.so.12')
_SYSTEM_FOLDERS = ('/usr/local/cuda/lib64',)

_HANDLE, _OUT_HANDLE = c_void_p, POINTER(c_void_p)
SIGNATURES: dict[str, tuple[Any, ...]] = {
    'cudaRuntimeGetVersion': (POINTER(c_int),),
    'cudaDriverGetVersion': (POINTER(c_int),),
    'cudaGetDeviceCount': (POINTER(c_int),),
    'cudaGetDeviceProperties': (c_void_p, c_int),
    'cudaDeviceGetAttribute': (POINTER(c_int), c_int, c_int),
    'cudaSetDevice': (c_int,),
    'cudaDeviceReset': (),
    'cudaMemGetInfo': (POINTER(c_size_t), POINTER(c_size_t)),
    'cudaMalloc': (_OUT_HANDLE, c_size_t),
    'cudaFree': (_HANDLE,),
    'cudaHostAlloc': (_OUT_HANDLE, c_size_t, c_uint),
    'cudaFreeHost': (_HANDLE,),
    'cudaStreamCreateWithFlags': (_OUT_HANDLE, c_uint),
    'cudaStreamDestroy': (_HANDLE,),
    'cudaStreamSynchronize': (_HANDLE,),
    'cudaMemcpyAsync': (_HANDLE, _HANDLE, c_size_t, c_int, _HANDLE),
    'cudaStreamBeginCapture': (_HANDLE, c_int),
    'cudaStreamEndCapture': (_HANDLE, _OUT_HANDLE),
    'cudaGraphInstantiateWithFlags': (_OUT_HANDLE, _HANDLE, c_ulonglong),
    'cudaGraphLaunch': (_HANDLE, _HANDLE),
    'cudaGraphExecDestroy': (_HANDLE,),
    'cudaGraphDestroy': (_HANDLE,),
    'cudaGetLastError': (),
}
"""The functions in use and their argument types; each returns a cudaError_t."""

# Constants of the CUDA runtime's headers, the same in all supported versions.
_STREAM_NON_BLOCKING = 1
_HOST_ALLOC_DEFAULT = 0
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_CAPTURE_THREAD_LOCAL = 1
_ATTRIBUTE_MAJOR, _ATTRIBUTE_MINOR = 75, 76
_PROPERTIES_BYTES = 16384  # cudaDeviceProp is about 1 KiB; its first 256 bytes are the name

_OUT_OF_MEMORY = 2
_DRIVER_TOO_OLD = 35
_NO_DEVICE = 100
# Errors after which every call fails until the device is reset: invalid memory accesses, failed
# launches, ECC errors, a lost device.
_LOST = frozenset({46, 214, 219, 220, 226, 700, 702, 709, 710, *range(714, 720), 999})

_log = logging.getLogger(__name__)


class CudaError(EngineError):
    """A call of the CUDA runtime failed.

    Parameters
    ----------
    function
        Name of the function.
    code
        The cudaError_t it returned.
    name, description
        Name and description of the error, from the runtime.
    """

    def __init__(self, function: str, code: int, name: str, description: str) -> None:
        self.code = code
        advice = {
            _OUT_OF_MEMORY: '; the GPU is out of memory: close other programs or choose '
            'a smaller model',
            _DRIVER_TOO_OLD: '; the NVIDIA driver is missing or older than this CUDA runtime: '
            'install or update the driver (on Jetson: flash a newer JetPack)',
            _NO_DEVICE: '; no GPU is visible: check nvidia-smi and CUDA_VISIBLE_DEVICES',
        }.get(code, '')
        if self.is_lost:
            advice = (
                '; the GPU cannot be used any more until the engine is closed and opened again '
                '(in ROS: cleanup, then configure; if that fails too, restart the process)'
            )
        super().__init__(f'{function} failed with {name} ({code}): {description}{advice}')

    @property
    def is_lost(self) -> bool:
        """Whether the device must be reset before any further use."""
        return self.code in _LOST


@dataclass(frozen=True)
class Device:
    """A GPU: its name, compute capability, and the CUDA versions of runtime and driver."""

    name: str
    compute_capability: str
    runtime_version: str
    driver_version: str


class CudaRuntime:
    """The CUDA runtime library.

    Raises EngineError if it is not found or lacks a function.
    """

    def __init__(self) -> None:
        self._library, self.path = _load_library()
        for name, argument_types in SIGNATURES.items():
            try:
                function = getattr(self._library, name)
            except AttributeError as error:
                raise EngineError(
                    f'{self.path} has no function {name}: expected CUDA 11.4 to 13; name another '
                    f'libcudart in the environment variable {LIBRARY_VARIABLE}'
                ) from error
            function.argtypes, function.restype = argument_types, c_int
        for name in ('cudaGetErrorName', 'cudaGetErrorString'):
            function = getattr(self._library, name)
            function.argtypes, function.restype = (c_int,), c_char_p

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function. Raises CudaError if it fails."""
        code = getattr(self._library, name)(*arguments)
        if code:
            raise self._error(name, code)

    def release(self, name: str, *arguments: Any) -> None:
        """Call a function that frees a resource. A failure is logged, not raised."""
        code = getattr(self._library, name)(*arguments)
        if code:
            _log.warning('%s', self._error(name, code))

    def new_handle(self, name: str, *arguments: Any) -> int:
        """Call a function that returns a handle or address through its first argument."""
        handle = c_void_p()
        self.call(name, byref(handle), *arguments)
        if handle.value is None:
            raise EngineError(f'{name} succeeded but returned no handle; restart the process')
        return handle.value

    def clear_error(self) -> None:
        """Clear the last error, so that the next call does not report it."""
        self._library.cudaGetLastError()

    def integer(self, name: str, *arguments: Any) -> int:
        """Call a function that returns an int through its first argument."""
        value = c_int()
        self.call(name, byref(value), *arguments)
        return value.value

    def device(self) -> Device:
        """Select device 0 for this thread and describe it.

        Raises CudaError if there is no GPU, or the driver is missing or older than the runtime.
        """
        # Without a driver this call gives the clearest error, so it comes first.
        if self.integer('cudaGetDeviceCount') == 0:
            raise self._error('cudaGetDeviceCount', _NO_DEVICE)
        self.call('cudaSetDevice', 0)
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self.call('cudaGetDeviceProperties', properties, 0)
        major = self.integer('cudaDeviceGetAttribute', _ATTRIBUTE_MAJOR, 0)
        minor = self.integer('cudaDeviceGetAttribute', _ATTRIBUTE_MINOR, 0)
        return Device(
            name=properties.value.decode(errors='replace'),
            compute_capability=f'{major}.{minor}',
            runtime_version=_dotted(self.integer('cudaRuntimeGetVersion')),
            driver_version=_dotted(self.integer('cudaDriverGetVersion')),
        )

    def memory(self) -> tuple[int, int]:
        """Return free and total device memory in bytes."""
        free, total = c_size_t(), c_size_t()
        self.call('cudaMemGetInfo', byref(free), byref(total))
        return free.value, total.value

    def reset_device(self) -> None:
        """Free everything of this process on the device and make the device usable again."""
        self.release('cudaDeviceReset')
        self.clear_error()

    def _error(self, function: str, code: int) -> CudaError:
        name = self._library.cudaGetErrorName(code) or b'?'
        description = self._library.cudaGetErrorString(code) or b'?'
        return CudaError(function, code, name.decode(), description.decode())


class Stream:
    """A CUDA stream that does not synchronise with the default stream."""

    def __init__(self, cuda: CudaRuntime) -> None:
        self._cuda = cuda
        self.handle = cuda.new_handle('cudaStreamCreateWithFlags', _STREAM_NON_BLOCKING)

    def synchronize(self) -> None:
        """Wait until all work in the stream is done. Raises CudaError if it failed."""
        self._cuda.call('cudaStreamSynchronize', self.handle)

    def close(self) -> None:
        """Destroy the stream. Work in it may still run."""
        self._cuda.release('cudaStreamDestroy', self.handle)


class MirroredBuffer:
    """A buffer on the device and a pinned buffer of the same size on the host.

    Parameters
    ----------
    cuda
        Allocates both.
    nbytes
        Size of each, bytes.
    """

    def __init__(self, cuda: CudaRuntime, nbytes: int) -> None:
        self._cuda = cuda
        self.nbytes = nbytes
        self.device_address = cuda.new_handle('cudaMalloc', nbytes)
        try:
            self._host_address = cuda.new_handle('cudaHostAlloc', nbytes, _HOST_ALLOC_DEFAULT)
        except CudaError:
            cuda.release('cudaFree', self.device_address)
            raise

    def host_view(self, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """Return a view of the pinned buffer from a byte offset, valid until :meth:`close`."""
        count = int(np.prod(shape))
        if offset + count * dtype.itemsize > self.nbytes:
            raise ValueError(f'{dtype} {shape} at {offset} exceeds the {self.nbytes} bytes')
        raw = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(self._host_address + offset)
        return np.frombuffer(memoryview(raw), dtype).reshape(shape)

    def upload(self, stream: Stream) -> None:
        """Enqueue the copy of the whole buffer to the device."""
        self._copy(self.device_address, self._host_address, _HOST_TO_DEVICE, stream)

    def download(self, stream: Stream) -> None:
        """Enqueue the copy of the whole buffer to the host."""
        self._copy(self._host_address, self.device_address, _DEVICE_TO_HOST, stream)

    def close(self) -> None:
        """Free both buffers."""
        self._cuda.release('cudaFree', self.device_address)
        self._cuda.release('cudaFreeHost', self._host_address)

    def _copy(self, target: int, source: int, kind: int, stream: Stream) -> None:
        self._cuda.call('cudaMemcpyAsync', target, source, self.nbytes, kind, stream.handle)


class Graph:
    """A CUDA graph: work that is captured once and launched with one call.

    Parameters
    ----------
    cuda, stream
        The stream in which the work is captured and launched.
    enqueue
        Enqueues the work; called once, during the capture. The capture is thread-local: CUDA calls
        of other threads are not captured and do not invalidate it.

    Raises EngineError if the work cannot be captured; the stream stays usable.
    """

    def __init__(self, cuda: CudaRuntime, stream: Stream, enqueue: Callable[[], None]) -> None:
        self._cuda, self._stream = cuda, stream
        graph = _capture(cuda, stream, enqueue)
        try:
            self._executable = cuda.new_handle('cudaGraphInstantiateWithFlags', graph, 0)
        finally:
            cuda.release('cudaGraphDestroy', graph)

    def launch(self) -> None:
        """Enqueue the captured work."""
        self._cuda.call('cudaGraphLaunch', self._executable, self._stream.handle)

    def close(self) -> None:
        """Free the graph."""
        self._cuda.release('cudaGraphExecDestroy', self._executable)


def _capture(cuda: CudaRuntime, stream: Stream, enqueue: Callable[[], None]) -> int:
    cuda.call('cudaStreamBeginCapture', stream.handle, _CAPTURE_THREAD_LOCAL)
    graph = c_void_p()
    try:
        enqueue()
    except EngineError:
        # The stream is usable only after the capture has ended, also with an error.
        with _errors_cleared(cuda):
            cuda.call('cudaStreamEndCapture', stream.handle, byref(graph))
        if graph.value is not None:
            cuda.release('cudaGraphDestroy', graph)
        raise
    cuda.call('cudaStreamEndCapture', stream.handle, byref(graph))
    return graph.value or 0


@contextmanager
def _errors_cleared(cuda: CudaRuntime) -> Iterator[None]:
    try:
        yield
    except CudaError as error:
        _log.debug('%s', error)
    finally:
        cuda.clear_error()


def _load_library() -> tuple[ctypes.CDLL, str]:
    named = os.environ.get(LIBRARY_VARIABLE)
    candidates = [named] if named else [*_wheel_paths(), *_LIBRARIES, *_system_paths()]
    for candidate in candidates:
        try:
            return ctypes.CDLL(candidate), candidate
        except OSError as error:
            _log.debug('%s: %s', candidate, error)
    if named:
        raise EngineError(
            f'{named}, which the environment variable {LIBRARY_VARIABLE} names, cannot be loaded; '
            'expected the path of a libcudart'
        )
    raise EngineError(
        'the CUDA runtime (libcudart) of CUDA 12 or 13 is not installed; on Jetson: apt install '
        'cuda-cudart-12-6 (JetPack 6) or cuda-cudart-13-0 (JetPack 7); on a desktop: pip install '
        f'nvidia-cuda-runtime; or name the file in the environment variable {LIBRARY_VARIABLE}'
    )


def _wheel_paths() -> list[str]:
    try:
        import nvidia
    except ImportError:
        return []
    paths = [Path(folder, name) for name in _WHEEL_LIBRARIES for folder in nvidia.__path__]
    return [str(path) for path in paths if path.is_file()]


def _system_paths() -> list[str]:
    return [str(Path(folder, name)) for folder in _SYSTEM_FOLDERS for name in _LIBRARIES]


def _dotted(version: int) -> str:
    return f'{version // 1000}.{version % 1000 // 10}'
