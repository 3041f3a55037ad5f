"""What NVIDIA's management library tells of the GPUs, if there is one.

The only module that imports `pynvml` (nvidia-ml-py, part of the `gpu` extra). Asked whenever metrics are read.
"""

import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """Memory of one GPU, by any process that uses it."""

    gpu: str
    used_bytes: int
    total_bytes: int


def open_gpus() -> Callable[[], Sequence[GpuMemory]] | None:
    """Return a reader of every GPU's memory, or None where the library, the driver or a GPU is missing."""
    try:
        nvml: ModuleType = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handles = {str(i): nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())}
    except ImportError:
        return None
    except Exception as error:  # NVMLError; the class cannot be named without the library
        log.info("no GPU metrics: %s", error)
        return None

    def read() -> list[GpuMemory]:
        memory = {gpu: nvml.nvmlDeviceGetMemoryInfo(handle) for gpu, handle in handles.items()}
        return [GpuMemory(gpu, info.used, info.total) for gpu, info in memory.items()]

    return read if handles else None
