"""The few functions of the CUDA runtime that an engine needs, through ctypes on ``libcudart``.

No binding package has to match the installed CUDA this way; NVIDIA's Polygraphy does the same.
Every status is checked and named. All signatures are those of CUDA 11.4 to 13.
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
"""Environment variable that names the libcudart to load, where the search does not find it."""

_LIBRARIES = ('libcudart.so.13', 'libcudart.so.12', 'libcudart.so')
# Where pip's CUDA packages put it, relative to the folder of the package nvidia.
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
"""Functions in use and the types of their arguments; each returns a cudaError_t."""

# Values of the CUDA runtime's headers, which have not changed since they came.
_STREAM_NON_BLOCKING = 1
_HOST_ALLOC_DEFAULT = 0
_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
_CAPTURE_THREAD_LOCAL = 1
_ATTRIBUTE_MAJOR, _ATTRIBUTE_MINOR = 75, 76
_PROPERTIES_BYTES = 16384  # cudaDeviceProp is about 1 KiB; its first 256 bytes are the name

_OUT_OF_MEMORY = 2
_DRIVER_TOO_OLD = 35
_NO_DEVICE = 100
# Errors after which every call fails until the device is reset: broken memory accesses, failed
# launches, ECC errors, a device that is gone.
_LOST = frozenset({46, 214, 219, 220, 226, 700, 702, 709, 710, *range(714, 720), 999})

_log = logging.getLogger(__name__)


class CudaError(EngineError):
    """A call of the CUDA runtime failed.

    Parameters
    ----------
    function
        The call's name.
    code
        The cudaError_t it returned.
    name, description
        What the runtime calls that.
    """

    def __init__(self, function: str, code: int, name: str, description: str) -> None:
        self.code = code
        advice = {
            _OUT_OF_MEMORY: '; the GPU has no memory left for this: close other programs or take '
            'a smaller model',
            _DRIVER_TOO_OLD: '; the NVIDIA driver is missing or older than this CUDA runtime: '
            'install or update the driver (on Jetson: flash a newer JetPack)',
            _NO_DEVICE: '; no GPU can be seen: check nvidia-smi and CUDA_VISIBLE_DEVICES',
        }.get(code, '')
        if self.is_lost:
            advice = (
                '; the GPU cannot be used any more until the engine is closed and opened again '
                '(in ROS: cleanup, then configure; if that fails too, restart the process)'
            )
        super().__init__(f'{function} failed with {name} ({code}): {description}{advice}')

    @property
    def is_lost(self) -> bool:
        """Whether the device must be reset before it can be used again."""
        return self.code in _LOST


@dataclass(frozen=True)
class Device:
    """A GPU: its name, compute capability, and the CUDA versions of runtime and driver."""

    name: str
    compute_capability: str
    runtime_version: str
    driver_version: str


class CudaRuntime:
    """The loaded library.

    Raises EngineError if it cannot be found or lacks a function.
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
        """Call a function; raises CudaError unless it succeeds."""
        code = getattr(self._library, name)(*arguments)
        if code:
            raise self._error(name, code)

    def release(self, name: str, *arguments: Any) -> None:
        """Call a function that frees something; a failure is logged, not raised."""
        code = getattr(self._library, name)(*arguments)
        if code:
            _log.warning('%s', self._error(name, code))

    def new_handle(self, name: str, *arguments: Any) -> int:
        """Call a function that puts a handle or address into its first argument."""
        handle = c_void_p()
        self.call(name, byref(handle), *arguments)
        if handle.value is None:
            raise EngineError(f'{name} succeeded and gave no handle; restart the process')
        return handle.value

    def clear_error(self) -> None:
        """Forget the last error, which the next call would report otherwise."""
        self._library.cudaGetLastError()

    def integer(self, name: str, *arguments: Any) -> int:
        """Call a function that puts an int into its first argument."""
        value = c_int()
        self.call(name, byref(value), *arguments)
        return value.value

    def device(self) -> Device:
        """Take device 0 for this thread and describe it.

        Raises CudaError if there is none, or the driver is missing or too old for this runtime.
        """
        # The count is what fails first where there is no driver, with the clearest error.
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
        """Return the free and the total bytes of device memory."""
        free, total = c_size_t(), c_size_t()
        self.call('cudaMemGetInfo', byref(free), byref(total))
        return free.value, total.value

    def reset_device(self) -> None:
        """Throw away all this process has on the device, to be able to use it again."""
        self.release('cudaDeviceReset')
        self.clear_error()

    def _error(self, function: str, code: int) -> CudaError:
        name = self._library.cudaGetErrorName(code) or b'?'
        description = self._library.cudaGetErrorString(code) or b'?'
        return CudaError(function, code, name.decode(), description.decode())


class Stream:
    """A stream of its own, which does not wait for the default stream."""

    def __init__(self, cuda: CudaRuntime) -> None:
        self._cuda = cuda
        self.handle = cuda.new_handle('cudaStreamCreateWithFlags', _STREAM_NON_BLOCKING)

    def synchronize(self) -> None:
        """Wait until all that was put into the stream is done; raises CudaError if it failed."""
        self._cuda.call('cudaStreamSynchronize', self.handle)

    def close(self) -> None:
        """Destroy the stream; what is in it may still run."""
        self._cuda.release('cudaStreamDestroy', self.handle)


class MirroredBuffer:
    """Bytes on the device and as many, pinned, on the host.

    Parameters
    ----------
    cuda, nbytes
        Where, and how many.
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
        """Return an array over the pinned bytes from ``offset``; valid until :meth:`close`."""
        count = int(np.prod(shape))
        if offset + count * dtype.itemsize > self.nbytes:
            raise ValueError(f'{dtype} {shape} at {offset} exceeds the {self.nbytes} bytes')
        raw = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(self._host_address + offset)
        return np.frombuffer(memoryview(raw), dtype).reshape(shape)

    def upload(self, stream: Stream) -> None:
        """Put the copy of all bytes to the device into the stream."""
        self._copy(self.device_address, self._host_address, _HOST_TO_DEVICE, stream)

    def download(self, stream: Stream) -> None:
        """Put the copy of all bytes from the device into the stream."""
        self._copy(self._host_address, self.device_address, _DEVICE_TO_HOST, stream)

    def close(self) -> None:
        """Free both."""
        self._cuda.release('cudaFree', self.device_address)
        self._cuda.release('cudaFreeHost', self._host_address)

    def _copy(self, target: int, source: int, kind: int, stream: Stream) -> None:
        self._cuda.call('cudaMemcpyAsync', target, source, self.nbytes, kind, stream.handle)


class Graph:
    """Work that was captured once and is launched as one.

    Parameters
    ----------
    cuda, stream
        Where it is captured and launched.
    enqueue
        Puts the work into the stream; it is called once, while the stream captures. The capture
        is thread-local: what other threads do with CUDA neither joins nor breaks it.

    Raises EngineError if the work cannot be captured; the stream is usable all the same.
    """

    def __init__(self, cuda: CudaRuntime, stream: Stream, enqueue: Callable[[], None]) -> None:
        self._cuda, self._stream = cuda, stream
        graph = _capture(cuda, stream, enqueue)
        try:
            self._executable = cuda.new_handle('cudaGraphInstantiateWithFlags', graph, 0)
        finally:
            cuda.release('cudaGraphDestroy', graph)

    def launch(self) -> None:
        """Put the captured work into the stream."""
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
        # The capture must end for the stream to be usable; that it fails is no news.
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
