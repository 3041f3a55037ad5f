"""The part of CUDA's runtime that the runner needs: page-locked host memory, device memory, one stream and events.

Called in the engine's threads. Loads NVIDIA's `libcudart` with ctypes, which releases the GIL during calls;
imports nothing of the project. Functions and constants: CUDA Runtime API reference, sections 6.4, 6.5 and 6.9 to 6.10.
"""

import ctypes
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

_TO_DEVICE: Final = 1
_TO_HOST: Final = 2
_STREAM_NON_BLOCKING: Final = 1
_EVENT_DISABLE_TIMING: Final = 2
_CAPABILITY_MAJOR: Final = 75
_CAPABILITY_MINOR: Final = 76
_PROPERTIES_BYTES: Final = 1 << 13
"""More than any version's `cudaDeviceProp` takes. It begins with the name."""


class CudaError(RuntimeError):
    """A call of CUDA's runtime failed. The message has CUDA's number and text, like ONNX Runtime's messages."""


class Cuda:
    """Memory of the current device, and the stream for copies and runs."""

    name = "cuda"
    """As ONNX Runtime calls the device."""

    def __init__(self, version: str) -> None:
        """Load the runtime and make a stream.

        Args:
            version: The version of CUDA, such as 13.0, that ONNX Runtime was built for and loads from the nvidia-* wheels.

        Raises:
            OSError: the library is missing.
            CudaError: there is no device, or it is broken.
        """
        self._library = ctypes.CDLL(f"libcudart.so.{version.partition('.')[0]}")
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(stream), ctypes.c_uint(_STREAM_NON_BLOCKING))
        self.stream: Final = stream.value or 0

    @property
    def card(self) -> str:
        """The name and the compute capability of the device."""
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self._call("cudaGetDeviceProperties", properties, ctypes.c_int(0))
        numbers = [ctypes.c_int(0), ctypes.c_int(0)]
        for number, attribute in zip(numbers, (_CAPABILITY_MAJOR, _CAPABILITY_MINOR), strict=True):
            self._call("cudaDeviceGetAttribute", ctypes.byref(number), ctypes.c_int(attribute), ctypes.c_int(0))
        major, minor = (number.value for number in numbers)
        return f"{properties.value.decode(errors='replace')} of compute capability {major}.{minor}"

    def allocate_host(self, size: int) -> Bytes:
        """Return page-locked memory of this many bytes. It stays allocated until `free_host`."""
        address = self._allocated("cudaHostAlloc", size, ctypes.c_uint(0))
        return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8)), (size,))

    def free_host(self, memory: Bytes) -> None:
        """Free page-locked memory."""
        self._call("cudaFreeHost", ctypes.c_void_p(memory.ctypes.data))

    def allocate_device(self, size: int) -> int:
        """Return the address of this many bytes on the device, aligned to 256."""
        return self._allocated("cudaMalloc", size)

    def free_device(self, address: int) -> None:
        """Free device memory, after all work on the device is done."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def upload(self, source: Bytes, address: int) -> None:
        """Queue a copy to the device on the stream. `source` must not change until it is done."""
        self._copy(address, source.ctypes.data, source.nbytes, _TO_DEVICE)

    def download(self, address: int, destination: Bytes) -> None:
        """Queue a copy to page-locked memory on the stream. It is done when a later event is reached."""
        self._copy(destination.ctypes.data, address, destination.nbytes, _TO_HOST)

    def create_event(self) -> int:
        """Return a new event, which can be recorded again and again."""
        event = ctypes.c_void_p()
        self._call("cudaEventCreateWithFlags", ctypes.byref(event), ctypes.c_uint(_EVENT_DISABLE_TIMING))
        return event.value or 0

    def record_event(self, event: int) -> None:
        """Record an event on the stream, after everything that is on it now."""
        self._call("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(self.stream))

    def synchronize_event(self, event: int) -> None:
        """Wait until the stream reaches an event."""
        self._call("cudaEventSynchronize", ctypes.c_void_p(event))

    def wait(self) -> None:
        """Wait for everything on the stream."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(self.stream))

    def _copy(self, to: int, source: int, size: int, direction: int) -> None:
        self._call(
            "cudaMemcpyAsync",
            ctypes.c_void_p(to),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size),
            ctypes.c_int(direction),
            ctypes.c_void_p(self.stream),
        )

    def _allocated(self, function: str, size: int, *flags: ctypes.c_uint) -> int:
        address = ctypes.c_void_p()
        self._call(function, ctypes.byref(address), ctypes.c_size_t(size), *flags)
        return address.value or 0

    def _call(self, function: str, *arguments: object) -> None:
        call: Callable[..., int] = getattr(self._library, function)
        status = call(*arguments)
        if status:
            # The error stays set in this thread until it is read; otherwise the next kernel would be blamed for it.
            self._library.cudaGetLastError()
            text: bytes = self._library.cudaGetErrorString(status)
            raise CudaError(f"CUDA failure {status}: {text.decode(errors='replace')} ({function})")
