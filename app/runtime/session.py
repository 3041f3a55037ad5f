"""Make the session of a graph, on a CPU or on CUDA, or say what is wrong: with the graph, or with the device."""

import ctypes
import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidGraph
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from app.bundle.graph_inputs import INPUTS
from app.bundle.heads import head_of
from app.bundle.manifest import Target
from app.bundle.session import PROVIDERS
from app.errors import BundleError, OutOfDeviceMemory
from app.runtime.cuda import Cuda
from app.runtime.execution import DeviceExecution, Execution, HostExecution
from app.runtime.failures import first_line, is_out_of_memory
from app.runtime.options import CUDA_OPTIONS, session_options

log = logging.getLogger(__name__)

# Operators whose work grows with the tokens. ONNX Runtime gives what it has no CUDA kernel for to the CPU, as it does on
# purpose with the arithmetic of shapes; with one of these, a batch would wait for the CPU and two copies.
LARGE: Final = frozenset(
    {
        *("Gather", "Add", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "PackedMultiHeadAttention", "Softmax", "TopK"),
        *("LayerNormalization", "SkipLayerNormalization", "Gelu", "BiasGelu", "FastGelu", "Relu", "Tanh"),
    }
)
UNREADABLE: Final = "Load model from"
"""What every message about a file has that is no graph of this ONNX Runtime; the device is only tried after that."""


class DeviceUnavailable(Exception):
    """ONNX Runtime cannot use the device here; the message says what is missing."""


def require_provider(target: Target) -> None:
    """Raise if the installed ONNX Runtime was built without a device.

    Raises:
        DeviceUnavailable: it was.
    """
    if PROVIDERS[target] not in ort.get_available_providers():
        raise DeviceUnavailable(
            f"this onnxruntime has no {PROVIDERS[target]} (it has {', '.join(ort.get_available_providers())}); "
            "install the gpu extra instead of the cpu extra"
        )


def open_on_cpu(path: Path, *, threads: int) -> Execution:
    """Load a graph for the CPU.

    Raises:
        BundleError: it is not for this runtime.
        OutOfDeviceMemory: its weights do not fit into the memory of this process.
    """
    try:
        session = _session(path, session_options(threads, "cpu"), PROVIDERS["cpu"])
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfDeviceMemory(first_line(error)) from error
        raise _unloadable(path, error) from error
    _check_ends(path, session, "cpu")
    return HostExecution(session)


def open_on_cuda(path: Path, *, threads: int, memory_limit_bytes: int = 0) -> tuple[Execution, Sequence[str]]:
    """Load a graph for the current CUDA device.

    Args:
        path: The graph.
        threads: CPU threads, for what ONNX Runtime leaves to the CPU.
        memory_limit_bytes: The most that it takes of the device's memory, 0 for all that is left.

    Returns:
        How to run it, and those of its nodes that are in the wrong place, on the CPU: their operators and names.

    Raises:
        BundleError: it is not for this runtime.
        DeviceUnavailable: a part of CUDA is missing here.
    """
    with _telling_what_is_printed() as printed:
        try:
            with redirect_stdout(printed):
                ort.preload_dlls()  # finds CUDA's libraries in the nvidia-* wheels; the host needs the driver only
            cuda = Cuda(ort.cuda_version)
        except Exception as error:
            raise DeviceUnavailable(f"{first_line(error)}; check the driver with nvidia-smi") from error
        provider_options = CUDA_OPTIONS | {"user_compute_stream": str(cuda.stream)}
        if memory_limit_bytes:
            provider_options["gpu_mem_limit"] = str(memory_limit_bytes)
        try:
            session = _session(path, session_options(threads, "cuda"), PROVIDERS["cuda"], provider_options)
        except Exception as error:
            raise _why_no_session(path, error) from error
        if session.get_providers()[0] != PROVIDERS["cuda"]:
            raise DeviceUnavailable(_missing_library() or "ONNX Runtime fell back to the CPU and does not say why")
    _check_ends(path, session, "cuda")
    return DeviceExecution(session, cuda), _large_nodes_on_cpu(session)


def _session(path: Path, options: Any, provider: str, provider_options: dict[str, str] | None = None) -> Any:  # noqa: ANN401
    return ort.InferenceSession(path, options, providers=[(provider, provider_options or {})], enable_fallback=0)


def _check_ends(path: Path, session: Any, target: Target) -> None:  # noqa: ANN401
    unknown = sorted({node.name for node in session.get_inputs()} - INPUTS[target])
    outputs = [node.name for node in session.get_outputs()]
    if unknown or head_of(outputs) is None:
        difference = f"it wants {', '.join(unknown)}" if unknown else f"it gives {', '.join(outputs)}"
        raise BundleError(f"{path} was written by another version of the export: {difference}. Export the model again.")


def _large_nodes_on_cpu(session: Any) -> list[str]:  # noqa: ANN401
    try:
        parts = session.get_provider_graph_assignment_info()
    except Exception as error:  # it costs speed at most: nothing that a start should end for
        return [f"not known: {first_line(error)}"]
    return [
        f"{node.op_type} {node.name}"
        for part in parts
        if part.ep_name == PROVIDERS["cpu"]
        for node in part.get_nodes()
        if node.op_type in LARGE
    ]


@contextmanager
def _telling_what_is_printed() -> Iterator[io.StringIO]:
    """Put what ONNX Runtime prints of CUDA's libraries into the log, where every line is one of ours.

    It prints each library that does not load and why, where the error that follows names one. If CUDA works all the
    same, they were found elsewhere or nothing of the graph needs them.
    """
    printed, level = io.StringIO(), logging.DEBUG
    try:
        yield printed
    except DeviceUnavailable:
        level = logging.WARNING
        raise
    finally:
        lines = printed.getvalue().splitlines()
        if lines:
            log.log(level, "ONNX Runtime looked for CUDA's libraries: %s", "; ".join(lines))


def _why_no_session(path: Path, error: Exception) -> Exception:
    """Return whether the graph or the device is at fault: a session on CUDA was not made."""
    if UNREADABLE in str(error):
        return _unloadable(path, error)
    # A library that is missing shows as a graph whose attention the CPU, which it fell back to, does not know.
    missing = _missing_library()
    if missing is None and isinstance(error, InvalidGraph | NoKernel):
        return _unloadable(path, error)
    return DeviceUnavailable(missing or f"no session could be made on it: {first_line(error)}")


def _unloadable(path: Path, error: Exception) -> BundleError:
    return BundleError(
        f"{path} cannot be loaded by ONNX Runtime {ort.__version__}: {first_line(error)}. Export the model again."
    )


def _missing_library() -> str | None:
    """Return what the loader says of ONNX Runtime's CUDA library if it does not load: it names the one that is missing.

    To be called after ONNX Runtime has tried only: as it is loaded, the library looks for its host.
    """
    try:
        ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return f"{error}; install the gpu extra anew, it brings every library but the driver's"
    return None
