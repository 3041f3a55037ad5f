"""Make the session of a graph, on a CPU or on CUDA, or tell whether the graph or the device is at fault."""

import ctypes
import io
import logging
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidGraph
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from app.bundle.cpus import has_bf16_products
from app.bundle.graph_inputs import INPUTS
from app.bundle.heads import head_of
from app.bundle.manifest import Architecture, Target
from app.bundle.session import PROVIDERS
from app.errors import BundleError, OutOfDeviceMemory, StartupError
from app.runtime.cuda import Cuda, CudaError
from app.runtime.execution import DeviceExecution, Execution, HostExecution
from app.runtime.failures import DeviceUnavailable, classified, first_line, is_out_of_memory
from app.runtime.kept_weights import KeptWeights
from app.runtime.options import CUDA_OPTIONS, session_options
from app.runtime.shared_weights import FILES, laid_out

log = logging.getLogger(__name__)

# Operators whose work grows with the tokens. ONNX Runtime gives what it has no CUDA kernel for to the CPU, as it does on
# purpose with the arithmetic of shapes; with one of these, a batch would wait for the CPU and two copies.
LARGE: Final = frozenset(
    {
        *("Gather", "Add", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "PackedMultiHeadAttention", "Softmax", "TopK"),
        *("LayerNormalization", "SkipLayerNormalization", "Gelu", "BiasGelu", "FastGelu", "Relu", "Tanh"),
    }
)
OPENVINO: Final = "openvino>=2026.4,<2026.5"
"""The extra of that name. One release was tried, and it reads our graphs."""
UNREADABLE: Final = "Load model from"
"""Part of every message about a file that is no graph for this ONNX Runtime. Files are read before the device is used."""


def needs_openvino() -> bool:
    """Return whether products in bf16 need OpenVINO here, and it is missing."""
    return not _is_arm() and find_spec("openvino") is None


def _is_arm() -> bool:
    return platform.machine() in ("aarch64", "arm64")


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


def open_kept(kept: KeptWeights, *, threads: Sequence[int], in_bf16: bool) -> HostExecution | None:
    """Load for the CPU what `open_on_cpu` has kept in an earlier start, whose arguments these are; None if there is nothing whole."""
    found = kept.find()
    if found is None:
        return None
    graph, lock = found
    try:
        return HostExecution(_sessions(graph, threads, in_bf16=in_bf16), lock)
    except Exception as error:
        log.info("%s is not used: %s", graph, first_line(error))
        lock.close()
        kept.forget()
        return None


def open_on_cpu(
    path: Path, *, threads: Sequence[int], size_bytes: int, kept: KeptWeights | None = None, in_bf16: bool = False
) -> HostExecution:
    """Load a graph for the CPU.

    Args:
        path: The graph.
        threads: How many threads a run may have. For each number there is a session; where there is no room for the files by which
            they share the weights, there is one, with the most threads.
        size_bytes: The size of the graph's files.
        kept: Where those files are left for the next start, if they are.
        in_bf16: Whether products are in bf16, which ONNX Runtime does on ARM alone.

    Raises:
        BundleError: it is not for this runtime.
        OutOfDeviceMemory: its weights do not fit into the memory of this process.
    """
    sessions: dict[int, Any] = {}
    lock = None
    if kept is not None and not kept.has_room(FILES * size_bytes):
        kept = None
    if len(threads) > 1 or kept is not None:
        options = session_options(max(threads), "cpu", in_bf16=in_bf16)
        write = partial(_session, path, options, PROVIDERS["cpu"])
        try:
            with laid_out(write, options, size_bytes, within=None if kept is None else kept.folder) as graph:
                sessions = _sessions(graph, threads, in_bf16=in_bf16)
                lock = None if kept is None else kept.keep(graph.parent)
        except Exception as error:  # of a damaged graph, too, which is told below
            if len(threads) > 1:
                log.info("%s runs with %d threads whatever the load: %s", path, max(threads), first_line(error))
    if not sessions:
        try:
            sessions = _sessions(path, [max(threads)], in_bf16=in_bf16)
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfDeviceMemory(first_line(error)) from error
            raise _unloadable(path, error) from error
    one = sessions[max(threads)]
    _check_ends(path, _names(one.get_inputs()), _names(one.get_outputs()), "cpu")
    return HostExecution(sessions, lock)


def _sessions(graph: Path, threads: Sequence[int], *, in_bf16: bool) -> dict[int, Any]:
    """Return a session on the CPU for each number of threads."""
    return {
        count: _session(graph, session_options(count, "cpu", in_bf16=in_bf16), PROVIDERS["cpu"]) for count in threads
    }


def open_in_bf16(
    path: Path, architecture: Architecture, *, threads: Sequence[int], size_bytes: int, kept: KeptWeights | None = None
) -> tuple[Execution, str]:
    """Load the fp32 graph of a CPU with products in bf16: on ARM in ONNX Runtime, on x86, where that has none, in OpenVINO.

    Args:
        path: The graph.
        architecture: The network's.
        threads: How many CPU threads a run may have, as in `open_on_cpu`.
        size_bytes: The size of the graph's files.
        kept: As in `open_on_cpu`.

    Returns:
        How to run it, and what does.

    Raises:
        BundleError: it is not for this runtime.
        OutOfDeviceMemory: its weights do not fit into the memory of this process.
        StartupError: this processor has no products in bf16, or OpenVINO is missing.
    """
    if not has_bf16_products():
        raise StartupError(
            "BERT_PRECISION is bf16, but this processor does not multiply bf16 (/proc/cpuinfo has none of amx_bf16, "
            "avx512_bf16 and, on ARM, bf16). Set it to auto, fp32 or int8."
        )
    if _is_arm():
        return open_on_cpu(path, threads=threads, size_bytes=size_bytes, kept=kept, in_bf16=True), PROVIDERS["cpu"]
    try:
        openvino = import_module("app.runtime.openvino")
    except ImportError as error:
        raise StartupError(
            f"BERT_PRECISION is bf16, which runs in OpenVINO on x86, and that cannot be imported ({first_line(error)}). "
            f"Run pip install '{OPENVINO}', or set BERT_PRECISION to auto, fp32 or int8."
        ) from error
    try:
        execution = openvino.OpenVinoExecution(path, architecture, threads=threads)
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfDeviceMemory(first_line(error)) from error
        raise _unloadable(path, error, openvino.PROVIDER) from error
    _check_ends(path, execution.inputs, execution.outputs, "cpu")
    return execution, openvino.PROVIDER


def open_on_cuda(path: Path, *, threads: int, memory_limit_bytes: int = 0) -> tuple[DeviceExecution, Sequence[str]]:
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
        EngineLost: the device failed for good.
        OutOfDeviceMemory: its weights do not fit into what is left of the device's memory.
    """
    with _logging_what_is_printed() as printed:
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
    _check_ends(path, _names(session.get_inputs()), _names(session.get_outputs()), "cuda")
    try:
        execution = DeviceExecution(session, cuda)
    except CudaError as error:
        raise classified(error, "cuda") from error
    return execution, _large_nodes_on_cpu(session)


def _session(path: Path, options: Any, provider: str, provider_options: dict[str, str] | None = None) -> Any:  # noqa: ANN401
    return ort.InferenceSession(path, options, providers=[(provider, provider_options or {})], enable_fallback=0)


def _names(ends: Sequence[Any]) -> list[str]:
    return [node.name for node in ends]


def _check_ends(path: Path, inputs: Sequence[str], outputs: Sequence[str], target: Target) -> None:
    unknown = sorted(set(inputs) - INPUTS[target])
    if unknown or head_of(outputs) is None:
        difference = f"it wants {', '.join(unknown)}" if unknown else f"it gives {', '.join(outputs)}"
        raise BundleError(f"{path} was written by another version of the export: {difference}. Export the model again.")


def _large_nodes_on_cpu(session: Any) -> list[str]:  # noqa: ANN401
    try:
        parts = session.get_provider_graph_assignment_info()
    except Exception as error:  # a wrong place costs speed at most, so the start goes on
        return [f"not known: {first_line(error)}"]
    return [
        f"{node.op_type} {node.name}"
        for part in parts
        if part.ep_name == PROVIDERS["cpu"]
        for node in part.get_nodes()
        if node.op_type in LARGE
    ]


@contextmanager
def _logging_what_is_printed() -> Iterator[io.StringIO]:
    """Log what ONNX Runtime prints about CUDA's libraries, so that every line on stderr is one of the log.

    It prints each library that does not load, and why; the error that follows names only one. If CUDA works nevertheless,
    they were found elsewhere, or no graph needs them.
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
    """Return the error for a failed session on CUDA: the graph or the device is at fault."""
    if UNREADABLE in str(error):
        return _unloadable(path, error)
    if is_out_of_memory(error):
        return OutOfDeviceMemory(first_line(error))
    # If a library is missing, ONNX Runtime falls back to the CPU, which does not know the graph's attention.
    missing = _missing_library()
    if missing is None and isinstance(error, InvalidGraph | NoKernel):
        return _unloadable(path, error)
    return DeviceUnavailable(missing or f"no session could be made on it: {first_line(error)}")


def _unloadable(path: Path, error: Exception, by: str = f"ONNX Runtime {ort.__version__}") -> BundleError:
    return BundleError(f"{path} cannot be loaded by {by}: {first_line(error)}. Export the model again.")


def _missing_library() -> str | None:
    """Return the loader's error if ONNX Runtime's CUDA library does not load: it names the library that is missing.

    Call it only after ONNX Runtime has tried: when loaded, the library looks for its host.
    """
    try:
        ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return f"{error}; install the gpu extra anew, it brings every library but the driver's"
    return None
