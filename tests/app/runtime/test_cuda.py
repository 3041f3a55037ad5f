"""What is asked of CUDA's runtime, told by a stand-in for its library: this machine need not have a GPU."""

import ctypes
from typing import Any

import numpy as np
import pytest

from app.runtime.cuda import Cuda, CudaError


class Runtime:
    """libcudart with host memory. A function named in `failing` returns its error."""

    def __init__(self) -> None:
        self.failing: dict[str, int] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.memory: dict[int, Any] = {}
        self.cudaGetErrorString = _ErrorString()
        self._does: dict[str, Any] = {
            "cudaStreamCreateWithFlags": self.make_stream,
            "cudaHostAlloc": self.allocate_host,
            "cudaFreeHost": self.free,
            "cudaMalloc": self.allocate,
            "cudaFree": self.free,
            "cudaMemcpyAsync": self.copy,
            "cudaEventCreateWithFlags": self.make_event,
        }

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append((name, *arguments))
            status = self.failing.get(name, 0)
            if not status:
                self._does.get(name, lambda *_: None)(*arguments)
            return status

        return call

    def make_stream(self, stream: Any, flags: Any) -> None:
        assert flags.value == 1
        stream._obj.value = 77

    def make_event(self, event: Any, flags: Any) -> None:
        assert flags.value == 2
        event._obj.value = 88

    def allocate_host(self, address: Any, size: Any, flags: Any) -> None:
        assert flags.value == 0
        self.allocate(address, size)

    def allocate(self, address: Any, size: Any) -> None:
        block = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(block)
        self.memory[address._obj.value] = block

    def free(self, address: Any) -> None:
        del self.memory[address.value]

    def copy(self, to: Any, source: Any, size: Any, kind: Any, stream: Any) -> None:
        assert kind.value in (1, 2)
        assert stream.value == 77
        ctypes.memmove(to.value, source.value, size.value)


class _ErrorString:
    restype: Any = None

    def __call__(self, status: int) -> bytes:
        assert self.restype is ctypes.c_char_p
        return {2: b"out of memory", 100: b"no CUDA-capable device is detected"}[status]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    runtime = Runtime()

    def load(name: str) -> Runtime:
        assert name == "libcudart.so.13"
        return runtime

    monkeypatch.setattr(ctypes, "CDLL", load)
    return runtime


def test_memory_is_allocated_copied_and_freed(runtime: Runtime) -> None:
    device = Cuda("13.0")
    assert device.stream == 77
    host, address = device.allocate_host(1000), device.allocate_device(1000)
    assert host.shape == (1000,)
    host[:] = np.arange(1000) % 251
    device.upload(host[:600], address)
    device.wait()
    copied = np.frombuffer(runtime.memory[address], np.uint8)
    np.testing.assert_array_equal(copied[:600], host[:600])
    assert not copied[600:].any()
    back, event = device.allocate_host(600), device.create_event()
    device.download(address, back)
    device.record_event(event)
    device.synchronize_event(event)
    np.testing.assert_array_equal(back, host[:600])
    copies = [call[4].value for call in runtime.calls if call[0] == "cudaMemcpyAsync"]
    assert copies == [1, 2], "to the device, to the host"
    assert [(call[0], call[1].value) for call in runtime.calls[-2:]] == [
        ("cudaEventRecord", 88),
        ("cudaEventSynchronize", 88),
    ]
    device.wait()
    device.free_host(host)
    device.free_host(back)
    device.free_device(address)
    assert not runtime.memory
    assert runtime.calls[-4][0] == "cudaStreamSynchronize"


@pytest.mark.parametrize(
    ("function", "status", "message"),
    [
        ("cudaStreamCreateWithFlags", 100, r"CUDA failure 100: no CUDA-capable device.*cudaStreamCreateWithFlags"),
        ("cudaMalloc", 2, r"CUDA failure 2: out of memory \(cudaMalloc\)"),
    ],
)
def test_failures_carry_cudas_number_and_text(runtime: Runtime, function: str, status: int, message: str) -> None:
    runtime.failing[function] = status
    with pytest.raises(CudaError, match=message):
        Cuda("13.0").allocate_device(10)
    assert runtime.calls[-1] == ("cudaGetLastError",)  # read, so that no later call is blamed for it


@pytest.mark.skipif("any(__import__('pathlib').Path('/usr').rglob('libcudart.so.1'))", reason="there is such a library")
def test_a_missing_library_is_named() -> None:
    with pytest.raises(OSError, match=r"libcudart\.so\.1"):
        Cuda("1.0")
