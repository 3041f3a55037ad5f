"""What a failure of ONNX Runtime or CUDA means. Only the messages of their errors differ."""

from typing import Final

import onnxruntime as ort

from app.bundle.manifest import Target
from app.errors import EngineLost, OutOfDeviceMemory, StartupError

# In ONNX Runtime's messages, these mean that the CUDA context is lost; running out of memory is not among them.
LOST_DEVICE: Final = ("CUDA failure", "CUDA error", "cudaError", "CUBLAS failure", "CUDNN failure", "cuDNN failure")
OUT_OF_MEMORY: Final = (
    "out of memory",
    "Failed to allocate",
    "is smaller than requested bytes",  # of an arena that has reached `gpu_mem_limit`
    "CUBLAS_STATUS_ALLOC_FAILED",
    "bad_alloc",  # on a CPU
)
NO_CODE: Final = "no kernel image is available"
"""CUDA failure 209, of the first run on a GPU that the build has no code for."""


class DeviceUnavailable(StartupError):
    """ONNX Runtime cannot use the device here; the message says what is missing."""


def classified(error: Exception, target: Target) -> Exception:
    """Return the catalogue's error for a failed run, or the error itself if it concerns this batch alone."""
    message = str(error)
    if is_out_of_memory(error):
        return OutOfDeviceMemory(message)
    if NO_CODE in message:
        return DeviceUnavailable(f"onnxruntime-gpu {ort.__version__} has no code for this GPU")
    if target == "cuda" and any(sign in message for sign in LOST_DEVICE):
        return EngineLost("The device failed and the engine is being replaced. Retry in a few seconds.")
    return error


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the run failed for want of memory."""
    return any(sign in str(error) for sign in OUT_OF_MEMORY)


def first_line(error: Exception) -> str:
    """Return an error's first line, without ONNX Runtime's source location."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
