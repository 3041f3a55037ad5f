"""Memory and work of GPUs, told by a stand-in for NVIDIA's library: this machine need not have a GPU."""

import ctypes
import sys
from types import ModuleType, SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from app.runtime.nvml import GpuState, count_gpus, open_gpus
from app.telemetry.metrics import Metrics


def nvml(count: int) -> ModuleType:
    module = ModuleType("pynvml")
    module.nvmlInit = lambda: None  # type: ignore[attr-defined]
    module.nvmlDeviceGetCount = lambda: count  # type: ignore[attr-defined]
    module.nvmlDeviceGetHandleByIndex = lambda i: i  # type: ignore[attr-defined]
    module.nvmlDeviceGetMemoryInfo = lambda i: SimpleNamespace(used=100 + i, total=1000)  # type: ignore[attr-defined]
    module.nvmlDeviceGetUtilizationRates = lambda i: SimpleNamespace(gpu=50 + i)  # type: ignore[attr-defined]
    return module


def test_each_gpu_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(2))
    read = open_gpus()
    assert read is not None
    assert read() == [GpuState("0", 100, 1000, 0.5), GpuState("1", 101, 1000, 0.51)]
    page = Metrics(CollectorRegistry()).render().decode()
    assert 'bert_gpu_memory_used_bytes{gpu="1"} 101.0' in page
    assert 'bert_gpu_memory_total_bytes{gpu="0"} 1000.0' in page
    assert 'bert_gpu_utilization_ratio{gpu="1"} 0.51' in page


def test_a_gpu_that_stops_responding_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nvml(2)

    def memory(i: int) -> SimpleNamespace:
        if i == 0:
            raise RuntimeError("GPU is lost")
        return SimpleNamespace(used=1, total=2)

    module.nvmlDeviceGetMemoryInfo = memory  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", module)
    page = Metrics(CollectorRegistry()).render().decode()
    assert 'bert_gpu_memory_used_bytes{gpu="1"} 1.0' in page
    assert 'gpu="0"' not in page
    assert "bert_engine_up" in page


@pytest.mark.parametrize("missing", ["library", "driver", "gpu"])
def test_without_library_or_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    module = nvml(0)
    if missing == "driver":

        def fail() -> None:
            raise RuntimeError("Driver Not Loaded")

        module.nvmlInit = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", None if missing == "library" else module)
    assert open_gpus() is None
    assert b"bert_gpu" not in Metrics(CollectorRegistry()).render()


@pytest.mark.parametrize(
    ("missing", "expected"), [(None, 3), ("driver's library", 0), ("nvmlInit_v2", 0), ("nvmlDeviceGetCount_v2", 0)]
)
def test_gpus_are_counted_with_the_driver_alone(
    monkeypatch: pytest.MonkeyPatch, missing: str | None, expected: int
) -> None:
    def count(address: "ctypes._CArgObject") -> int:
        address._obj.value = 3  # type: ignore[attr-defined]
        return 999 if missing == "nvmlDeviceGetCount_v2" else 0

    ended: list[int] = []
    library = SimpleNamespace(
        nvmlInit_v2=lambda: 9 if missing == "nvmlInit_v2" else 0,
        nvmlDeviceGetCount_v2=count,
        nvmlShutdown=lambda: ended.append(1),
    )

    def load(name: str) -> SimpleNamespace:
        assert name == "libnvidia-ml.so.1"
        if missing == "driver's library":
            raise OSError("no such library")
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert count_gpus() == expected
    assert bool(ended) == (missing in (None, "nvmlDeviceGetCount_v2")), "what was begun is ended"
