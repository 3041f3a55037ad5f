"""The machine and the device that are measured, and how fast and full they are now."""

import importlib
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np

from app.bundle.cpus import instruction_sets, usable_cpus
from app.bundle.manifest import Target

# The products of a BERT-base layer, [inputs, outputs]: query, key and value; attention output; feed-forward.
LAYER_PRODUCTS: Final = ((768, 2304), (768, 768), (768, 3072), (3072, 768))
_PACKAGES: Final = (
    *("onnxruntime", "onnxruntime-gpu", "numpy", "tokenizers", "uvicorn", "nvidia-cuda-runtime", "nvidia-cublas"),
    *("nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
)


class NotRun(Exception):
    """There is nothing to measure here; the message says why."""


def gemm_gflops(rows: int = 512, repeats: int = 5) -> float:
    """Return what NumPy's matrix product reaches now on the shapes of BERT-base: the machine's own speed."""
    random = np.random.default_rng(0)
    pairs = [(random.random((rows, k), np.float32), random.random((k, n), np.float32)) for k, n in LAYER_PRODUCTS]
    best_s = []
    for a, b in pairs:
        durations = []
        for _ in range(repeats):
            started_at = time.perf_counter()
            a @ b
            durations.append(time.perf_counter() - started_at)
        best_s.append(min(durations))
    return sum(2 * rows * k * n for k, n in LAYER_PRODUCTS) / sum(best_s) / 1e9


def describe_machine() -> dict[str, Any]:
    """Return what a reader must know of the machine to judge the figures."""
    return {
        "cpu": _cpu(),
        "cores": usable_cpus(),
        "gemm_gflops": round(gemm_gflops(), 1),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": versions(_PACKAGES) | {"Python": platform.python_version()},
    }


def describe_device(device: Target) -> dict[str, Any]:
    """Return the name of the device; of a processor its instruction sets and cores, of a GPU its memory and driver, too.

    Raises:
        NotRun: there is no GPU, or no way to ask for it.
    """
    if device == "cpu":
        return {"name": _cpu(), "instruction_sets": [*instruction_sets()], "cores": usable_cpus()}
    nvml, handle = _open_gpu()
    return {
        "name": nvml.nvmlDeviceGetName(handle),
        "memory_bytes": nvml.nvmlDeviceGetMemoryInfo(handle).total,
        "driver": nvml.nvmlSystemGetDriverVersion(),
    }


def used_bytes(device: Target) -> Callable[[], int]:
    """Return what reads the memory in use: on the GPU, by whatever process; of a CPU, by this process.

    Raises:
        NotRun: there is no GPU, or no way to ask for it.
    """
    if device == "cpu":
        return lambda: int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    nvml, handle = _open_gpu()
    return lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).used)


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed here."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.machine())


def _open_gpu() -> tuple[ModuleType, Any]:
    """Return NVIDIA's management library and the card that CUDA calls the first."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        raise NotRun("nvidia-ml-py is not installed: use the gpu environment") from error
    try:
        nvml.nvmlInit()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
        if visible.startswith(("GPU-", "MIG-")):
            return nvml, nvml.nvmlDeviceGetHandleByUUID(visible)
        return nvml, nvml.nvmlDeviceGetHandleByIndex(int(visible or 0))
    except Exception as error:  # NVMLError; the class cannot be named without the library
        raise NotRun(f"no GPU answers: {error}") from error
