"""What NVIDIA's management library tells of the GPUs, if there is one.

The only module that imports `pynvml` (nvidia-ml-py, part of the `gpu` extra). Asked whenever metrics are read, and when a
model is about to run on the CPU.
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
    """Memory and work of one GPU, by any process that uses it.

    `utilization` is the share of the last moments (up to a second) in which a kernel ran. It says nothing of how full
    the card was.
    """

    gpu: str
    used_bytes: int
    total_bytes: int
    utilization: float


def open_gpus() -> Callable[[], Sequence[GpuState]] | None:
    """Return a reader of every GPU's state, or None where the library, the driver or a GPU is missing.

    A GPU that does not answer is left out of what is read.
    """
    try:
        nvml: ModuleType = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handles = {str(i): nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())}
    except ImportError:
        return None
    except Exception as error:  # NVMLError; the class cannot be named without the library
        log.info("no GPU metrics: %s", error)
        return None

    def read() -> list[GpuState]:
        states = []
        for gpu, handle in handles.items():
            try:
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                percent = nvml.nvmlDeviceGetUtilizationRates(handle).gpu
            except Exception as error:  # it fell off the bus, or its driver is replaced: all other metrics go on
                log.warning("GPU %s does not answer: %s", gpu, error)
                continue
            states.append(GpuState(gpu, memory.used, memory.total, percent / 100))
        return states

    return read if handles else None


def count_gpus() -> int:
    """Return how many GPUs the driver shows to this process, whatever is installed beside the driver.

    The library is the driver's own, so it is there without the `gpu` extra. Functions: NVML API reference.
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
