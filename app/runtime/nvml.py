"""Read the state of the GPUs from NVIDIA's management library, if there is one.

The only module that imports `pynvml` (nvidia-ml-py, part of the `gpu` extra). Called whenever metrics are read, and before a
model runs on the CPU.
"""

import ctypes
import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GpuState:
    """Memory and utilization of one GPU, by all processes together.

    `utilization` is the share of the last moments (up to a second) in which a kernel ran. It does not show how much of
    the card the kernel used.
    """

    gpu: str
    used_bytes: int
    total_bytes: int
    utilization: float


def open_gpus() -> Callable[[], Sequence[GpuState]] | None:
    """Return a function that reads every GPU's state, or None if the library, the driver or a GPU is missing.

    The function leaves out a GPU that does not respond.
    """
    try:
        nvml: ModuleType = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handles = {str(i): nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())}
    except ImportError:
        return None
    except Exception as error:  # NVMLError, which exists only in the library
        log.info("no GPU metrics: %s", error)
        return None

    def read() -> list[GpuState]:
        states = []
        for gpu, handle in handles.items():
            try:
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                percent = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
            except Exception as error:  # it is gone, or its driver is being replaced: the other metrics stay
                log.warning("GPU %s does not respond: %s", gpu, error)
                continue
            states.append(GpuState(gpu, memory.used, memory.total, percent / 100))
        return states

    return read if handles else None


def count_gpus() -> int:
    """Return how many GPUs the driver shows to this process, whatever else is installed.

    The library is part of the driver, so the `gpu` extra is not needed. Functions: NVML API reference.
    """
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return 0
    if nvml.nvmlInit_v2():
        return 0
    count = ctypes.c_uint(0)
    status = nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    nvml.nvmlShutdown()
    return 0 if status else count.value
