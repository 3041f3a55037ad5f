"""Run packed batches of one model with ONNX Runtime.

The only module of the server that imports `onnxruntime`. A runner is made and launches batches in the engine's one thread; they
may be finished in another. Both release the GIL while the device works.
"""

import ctypes
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidGraph
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

from app.bundle import Bundle, Precision, Target, Variant
from app.cpus import has_exact_int8_products
from app.cuda import Cuda
from app.errors import BundleError, EngineLost, NotFinite, OutOfDeviceMemory, StartupError
from app.execution import DeviceExecution, Execution, HostExecution, RunOptions
from app.gpu import count_gpus
from app.heads import HEADS
from app.messages import SequenceResult, TokenSequence
from app.packing import INPUTS, pack

log = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
PROVIDERS: Final[dict[Target, str]] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CUDA_OPTIONS: Final = {
    # fp32 means fp32 (TF32 keeps 10 bits of the mantissa), and LayerNorm sums in fp32 whatever its inputs are.
    "use_tf32": "0",
    "enable_skip_layer_norm_strict_mode": "1",
    # Take what a batch needs, not the next power of two: warm-up has the largest batch run, and the arena stays there.
    "arena_extend_strategy": "kSameAsRequested",
}
ARENAS: Final[dict[Target, str]] = {"cpu": "cpu:0", "cuda": "gpu:0"}
# fp16 runs on tensor cores and halves the memory traffic; int8 changes answers, so it is served only when asked for.
PREFERENCE: Final[dict[Target, tuple[Precision, ...]]] = {"cpu": ("fp32", "int8"), "cuda": ("fp16", "fp32")}
# What ONNX Runtime's messages say when a CUDA context is beyond repair; running out of memory is not among them.
LOST_DEVICE: Final = ("CUDA failure", "CUDA error", "cudaError", "CUBLAS failure", "CUDNN failure", "cuDNN failure")
OUT_OF_MEMORY: Final = (
    "out of memory",
    "Failed to allocate",
    "is smaller than requested bytes",  # of an arena that has reached `gpu_mem_limit`
    "CUBLAS_STATUS_ALLOC_FAILED",
    "bad_alloc",  # on a CPU
)
NO_CODE: Final = (
    "no kernel image is available"  # CUDA failure 209, of the first run on a GPU that the build does not know
)
NOTHING_BUT_ITS_END: Final = 4
"""How much ONNX Runtime writes to stderr itself, past our log: what fails is raised as well, and told there once."""
RECORDS_PLACEMENT: Final = "session.record_ep_graph_assignment_info"
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


ort.set_default_logger_severity(NOTHING_BUT_ITS_END)


class _DeviceUnavailable(Exception):
    """ONNX Runtime cannot use the device here; the message says what is missing."""


class _NoVariant(BundleError):
    """The bundle is whole, and has nothing for the device and precision."""


class OrtRunner:
    """One variant of one model in an ONNX Runtime session on one device."""

    def __init__(self, bundle: Bundle, variant: Variant, *, threads: int, gpu_memory_bytes: int = 0) -> None:
        """Load the graph.

        Raises:
            BundleError: the graph is missing, damaged or not for this runtime.
            OutOfDeviceMemory: the weights do not fit into the memory of this process.
            StartupError: the weights are over the limit of the GPU's memory.
        """
        self.variant = variant
        self.threads: Final = threads if variant.target == "cpu" else None
        self.provider: Final = PROVIDERS[variant.target]
        manifest = bundle.manifest
        self._head: Final = HEADS[manifest.task]
        self._position_offset: Final = manifest.position_offset
        self._options: Final = _run_options(variant.target)
        self.nodes_on_cpu: Sequence[str] = ()
        """Of a session on CUDA, the nodes that are in the wrong place: their operators and names."""
        # First, as it decides whether the files matter.
        if self.provider not in ort.get_available_providers():
            raise _DeviceUnavailable(
                f"this onnxruntime has no {self.provider} (it has {', '.join(ort.get_available_providers())}); "
                "install the gpu extra instead of the cpu extra"
            )
        path = bundle.verify_file(variant.graph)
        if variant.external_data is not None:
            bundle.verify_file(variant.external_data)
        options = _session_options(threads, variant.target)
        if variant.target == "cpu":
            try:
                self._session = _session(path, options, self.provider)
            except Exception as error:
                if any(sign in str(error) for sign in OUT_OF_MEMORY):
                    raise OutOfDeviceMemory(_first_line(error)) from error
                raise _unloadable(path, error) from error
            _check_inputs(path, self._session, "cpu")
            self._execution: Execution = HostExecution(self._session)
        else:
            self._session, cuda = _session_on_cuda(bundle, variant, path, options, gpu_memory_bytes)
            _check_inputs(path, self._session, "cuda")
            self.nodes_on_cpu = _large_nodes_on_cpu(self._session)
            if self.nodes_on_cpu:
                log.warning(
                    "model %s is slower than it could be: ONNX Runtime runs %d of its nodes on the CPU, the first %s. Report "
                    "this with the variant, %s, and the version of onnxruntime-gpu, %s",
                    *(bundle.name, len(self.nodes_on_cpu), self.nodes_on_cpu[0], variant.name, ort.__version__),
                )
            self._execution = DeviceExecution(self._session, cuda)

    @property
    def variant_name(self) -> str:
        return self.variant.name

    @property
    def launches_ahead(self) -> bool:
        """Whether a batch should be launched while another one runs."""
        return self._execution.launches_ahead

    def run(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        """Return the results of the sequences, in order. No result depends on the others in the batch.

        Raises:
            EngineLost: the device failed for good.
            OutOfDeviceMemory: the batch is too large for what is left of the device's memory.
            StartupError: ONNX Runtime has no code for the GPU, which the first run tells.
            NotFinite: the model answers with NaN or infinity.
        """
        return self.launch(batch)()

    def trim(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        """Run a batch as `run` does, then give back the device's memory that no run needs now."""
        try:
            return self._launch(batch, _run_options(self.variant.target, shrinks_arena=True))()
        except (EngineLost, OutOfDeviceMemory):
            raise
        except Exception as error:  # it finds no arena: more memory than need be is held, and all else is well
            log.warning("the memory that warm-up took is kept: %s", _first_line(error))
            return self.run(batch)

    def launch(self, batch: Sequence[TokenSequence]) -> Callable[[], list[SequenceResult]]:
        """Begin to run a batch. What is returned must be called once, in any thread: it returns or raises what `run` does."""
        return self._launch(batch, self._options)

    def _launch(self, batch: Sequence[TokenSequence], options: RunOptions) -> Callable[[], list[SequenceResult]]:
        lengths = np.fromiter(map(len, batch), np.int64, len(batch))
        feeds = pack(
            np.concatenate([sequence.input_ids for sequence in batch]),
            np.concatenate([sequence.token_type_ids for sequence in batch]),
            lengths,
            target=self.variant.target,
            position_offset=self._position_offset,
        )
        starts = feeds["cls_index"].astype(np.int64, copy=False)
        feeds |= self._head.inputs(batch, starts)
        outputs = self._head.outputs(batch)
        try:
            finish = self._execution.launch(feeds, outputs, options)
        except Exception as error:
            raise self._classified(error) from error

        def results() -> list[SequenceResult]:
            try:
                values = finish()
            except Exception as error:
                raise self._classified(error) from error
            if not all(np.isfinite(value).all() for value in values):
                raise NotFinite("the model answers with NaN or infinity")
            return self._head.cut(dict(zip(outputs, values, strict=True)), batch, starts)

        return results

    def _classified(self, error: Exception) -> Exception:
        message = str(error)
        if any(sign in message for sign in OUT_OF_MEMORY):
            return OutOfDeviceMemory(message)
        if NO_CODE in message:
            return StartupError(
                f"onnxruntime-gpu {ort.__version__} has no code for this GPU ({_first_line(error)}). "
                "Use another card or version, or set BERT_DEVICE=cpu."
            )
        if self.variant.target == "cuda" and any(sign in message for sign in LOST_DEVICE):
            return EngineLost("The device failed and the engine is being replaced. Retry in a few seconds.")
        return error


def open_runner(
    bundle: Bundle,
    *,
    device: Device,
    precision: Precision | Literal["auto"],
    threads: int,
    gpu_memory_bytes: int = 0,
) -> OrtRunner:
    """Return a runner for the best variant of a bundle on the best device that works.

    Args:
        bundle: The model.
        device: Where to run; `auto` takes CUDA where it works, and says so if it does not where there is a GPU.
        precision: What to run in; `auto` takes the fastest that keeps the answers.
        threads: CPU threads of one run.
        gpu_memory_bytes: The most that the model takes of a GPU's memory, 0 for all that is left.

    Raises:
        BundleError: the bundle has no variant for the device and precision, or its graph is damaged.
        StartupError: CUDA was asked for and does not work here, or the installation is mixed.
    """
    _check_installation()
    if device != "cpu":
        try:
            variant = choose_variant(bundle, "cuda", precision)
            return OrtRunner(bundle, variant, threads=threads, gpu_memory_bytes=gpu_memory_bytes)
        except _DeviceUnavailable as missing:
            if device == "cuda":
                raise StartupError(
                    f"BERT_DEVICE is cuda, but CUDA cannot be used: {missing}. Mend that, or set BERT_DEVICE=cpu."
                ) from missing
            _warn_of_cpu(bundle, f"{missing}.")
        except _NoVariant as missing:
            if device == "cuda":
                raise
            _warn_of_cpu(bundle, str(missing))
    return OrtRunner(bundle, choose_variant(bundle, "cpu", precision), threads=threads)


def _warn_of_cpu(bundle: Bundle, missing: str) -> None:
    """Say that a model does not run on the GPU, where somebody may believe that it does."""
    gpus = count_gpus()
    if gpus:
        reason = f"this machine has {gpus} GPU{'s' if gpus > 1 else ''}"
    elif PROVIDERS["cuda"] in ort.get_available_providers():
        reason = "onnxruntime-gpu is installed"
    else:
        return
    log.warning(
        "model %s does not run on CUDA, although %s: %s BERT_DEVICE=cuda stops the start instead, BERT_DEVICE=cpu asks for "
        "the CPU.",
        bundle.name,
        reason,
        missing,
    )


def choose_variant(bundle: Bundle, target: Target, precision: Precision | Literal["auto"]) -> Variant:
    """Return the variant of a bundle to serve on a kind of device.

    Raises:
        BundleError: it has none.
    """
    wanted = PREFERENCE[target] if precision == "auto" else (precision,)
    by_precision = {variant.precision: variant for variant in bundle.manifest.variants if variant.target == target}
    for candidate in wanted:
        if candidate in by_precision:
            return by_precision[candidate]
    held = ", ".join(variant.name for variant in bundle.manifest.variants)
    raise _NoVariant(
        f"Bundle {bundle.name} has no variant {target}-{' or '.join(wanted)}; it has {held}. "
        "Export it again with --variants, or change BERT_DEVICE or BERT_PRECISION."
    )


def _check_installation() -> None:
    """Refuse both extras at once: their packages are two builds of one, and whichever came last lies over the other.

    Raises:
        StartupError: both are installed.
    """
    found = []
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    if len(found) > 1:
        raise StartupError(
            f"Both {' and '.join(found)} are installed, and one has overwritten the other. Make a new environment with "
            "one of the extras, cpu or gpu, or run: pip uninstall --yes onnxruntime onnxruntime-gpu, then install it."
        )


def _check_inputs(path: Path, session: Any, target: Target) -> None:  # noqa: ANN401
    unknown = {node.name for node in session.get_inputs()} - INPUTS[target]
    if unknown:
        raise BundleError(
            f"{path} was written by another version of the export: it wants {', '.join(sorted(unknown))}. "
            "Export the model again."
        )


def _large_nodes_on_cpu(session: Any) -> list[str]:  # noqa: ANN401
    try:
        parts = session.get_provider_graph_assignment_info()
    except Exception as error:  # it costs speed at most: nothing that a start should end for
        return [f"not known: {_first_line(error)}"]
    return [
        f"{node.op_type} {node.name}"
        for part in parts
        if part.ep_name == PROVIDERS["cpu"]
        for node in part.get_nodes()
        if node.op_type in LARGE
    ]


def _unloadable(path: Path, error: Exception) -> BundleError:
    return BundleError(
        f"{path} cannot be loaded by ONNX Runtime {ort.__version__}: {_first_line(error)}. Export the model again."
    )


def _session_on_cuda(
    bundle: Bundle,
    variant: Variant,
    path: Path,
    options: Any,  # noqa: ANN401
    gpu_memory_bytes: int,
) -> tuple[Any, Cuda]:
    """Return a session and the device that it computes on, or say what is missing."""
    weights_bytes = variant.graph.size_bytes + (variant.external_data.size_bytes if variant.external_data else 0)
    if 0 < gpu_memory_bytes < weights_bytes:
        raise StartupError(
            f"BERT_GPU_MEMORY_MIB is {gpu_memory_bytes >> 20}, but the weights of {bundle.name} alone take "
            f"{-(-weights_bytes >> 20)}. Raise it, or set 0 for what the model needs."
        )
    with _telling_what_is_printed() as printed:
        try:
            with redirect_stdout(printed):
                ort.preload_dlls()  # finds CUDA's libraries in the nvidia-* wheels; the host needs the driver only
            cuda = Cuda(ort.cuda_version)
        except Exception as error:
            raise _DeviceUnavailable(f"{_first_line(error)}; check the driver with nvidia-smi") from error
        provider_options = CUDA_OPTIONS | {"user_compute_stream": str(cuda.stream)}
        if gpu_memory_bytes:
            provider_options["gpu_mem_limit"] = str(gpu_memory_bytes)
        try:
            session = _session(path, options, PROVIDERS["cuda"], provider_options)
        except Exception as error:
            raise _why_no_session(path, error) from error
        if session.get_providers()[0] != PROVIDERS["cuda"]:
            raise _DeviceUnavailable(_missing_library() or "ONNX Runtime fell back to the CPU and does not say why")
        return session, cuda


@contextmanager
def _telling_what_is_printed() -> Iterator[io.StringIO]:
    """Put what ONNX Runtime prints of CUDA's libraries into the log, where every line is one of ours.

    It prints each library that does not load and why, where the error that follows names one. If CUDA works all the
    same, they were found elsewhere or nothing of the graph needs them.
    """
    printed, level = io.StringIO(), logging.DEBUG
    try:
        yield printed
    except _DeviceUnavailable:
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
    return _DeviceUnavailable(missing or f"no session could be made on it: {_first_line(error)}")


def _missing_library() -> str | None:
    """Return what the loader says of ONNX Runtime's CUDA library if it does not load: it names the one that is missing.

    To be called after ONNX Runtime has tried only: as it is loaded, the library looks for its host.
    """
    try:
        ctypes.CDLL(str(Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return f"{error}; install the gpu extra anew, it brings every library but the driver's"
    return None


def _run_options(target: Target, *, shrinks_arena: bool = False) -> Any:  # noqa: ANN401 - onnxruntime has no types
    options = ort.RunOptions()
    if target == "cuda":
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")  # whoever finishes the run waits
    if shrinks_arena:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", ARENAS[target])
    return options


def _session_options(threads: int, target: Target) -> Any:  # noqa: ANN401 - onnxruntime has no types
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if target == "cuda":
        # A pattern of one run's memory is kept by a number made of its shapes, and a later run of that number, whose
        # shapes may be others, takes all of it in one piece beside what it needs: it would double the arena.
        options.enable_mem_pattern = False
        options.add_session_config_entry(RECORDS_PLACEMENT, "1")
    options.log_severity_level = NOTHING_BUT_ITS_END
    # Threads that spin after a run take the cores from the front end and from other models' sessions: with six
    # sessions that took turns on 2 cores a short run went from 2.5 ms to 13.6 ms. They still spin during a run.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not has_exact_int8_products():  # then ONNX Runtime takes another kernel, exact and half as fast
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _session(path: Path, options: Any, provider: str, provider_options: dict[str, str] | None = None) -> Any:  # noqa: ANN401
    return ort.InferenceSession(path, options, providers=[(provider, provider_options or {})], enable_fallback=0)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
