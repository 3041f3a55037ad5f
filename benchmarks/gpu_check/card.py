"""What the device is and how much memory is in use on it."""

import importlib
import os
import resource
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from app.bundle.manifest import Target
from benchmarks.gpu_check.bench import NotRun

_PACKAGES: Final = (
    *("onnxruntime", "onnxruntime-gpu", "numpy", "tokenizers", "uvicorn", "nvidia-cuda-runtime", "nvidia-cublas"),
    *("nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
)


def describe_card(device: Target) -> dict[str, Any]:
    """Return the card's name, its memory and its driver; of a CPU nothing but that it is one.

    Raises:
        NotRun: there is no GPU, or no way to ask for it.
    """
    if device == "cpu":
        return {"name": "cpu"}
    nvml, handle = _open()
    return {
        "name": nvml.nvmlDeviceGetName(handle),
        "memory_bytes": nvml.nvmlDeviceGetMemoryInfo(handle).total,
        "driver": nvml.nvmlSystemGetDriverVersion(),
    }


def used_bytes(device: Target) -> Callable[[], int]:
    """Return what reads the memory in use: on the card, by whatever process; of a CPU, by this process.

    Raises:
        NotRun: there is no GPU, or no way to ask for it.
    """
    if device == "cpu":
        return lambda: int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    nvml, handle = _open()
    return lambda: int(nvml.nvmlDeviceGetMemoryInfo(handle).used)


def versions() -> dict[str, str]:
    """Return the versions of what is measured, as far as it is installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _open() -> tuple[ModuleType, Any]:
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
