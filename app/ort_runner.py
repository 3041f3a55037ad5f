"""Run packed batches of one model with ONNX Runtime.

The only module of the server that imports `onnxruntime`. A runner is made and runs in the engine's one thread, which
releases the GIL while the device works; another thread may prepare a batch meanwhile.
"""

import logging
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnxruntime as ort

from app.bundle import Bundle, Precision, Target, Variant
from app.cpus import has_exact_int8_products
from app.cuda import Cuda
from app.errors import BundleError, EngineLost, OutOfDeviceMemory, StartupError
from app.execution import DeviceExecution, Execution, HostExecution, RunOptions
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
)


class _DeviceUnavailable(Exception):
    """ONNX Runtime cannot use the device here; the message says what is missing."""


class OrtRunner:
    """One variant of one model in an ONNX Runtime session on one device."""

    def __init__(self, bundle: Bundle, variant: Variant, *, threads: int, gpu_memory_bytes: int = 0) -> None:
        """Load the graph.

        Raises:
            BundleError: the graph is missing, damaged or not for this runtime.
            StartupError: the weights are over the limit of the GPU's memory.
        """
        self.variant = variant
        self.provider: Final = PROVIDERS[variant.target]
        manifest = bundle.manifest
        self._head: Final = HEADS[manifest.task]
        self._position_offset: Final = manifest.position_offset
        path = bundle.verify_file(variant.graph)
        if variant.external_data is not None:
            bundle.verify_file(variant.external_data)
        if self.provider not in ort.get_available_providers():
            raise _DeviceUnavailable(
                f"this onnxruntime has no {self.provider} (it has {', '.join(ort.get_available_providers())}); "
                "install the gpu extra instead of the cpu extra"
            )
        options = _session_options(threads)
        if variant.target == "cpu":
            try:
                self._session = _session(path, options, self.provider)
            except Exception as error:
                raise BundleError(
                    f"{path} cannot be loaded by ONNX Runtime {ort.__version__}: {_first_line(error)}. Export the model again."
                ) from error
            _check_inputs(path, self._session, "cpu")
            self._execution: Execution = HostExecution(self._session)
        else:
            weights_bytes = variant.graph.size_bytes + (
                variant.external_data.size_bytes if variant.external_data else 0
            )
            if 0 < gpu_memory_bytes < weights_bytes:
                raise StartupError(
                    f"BERT_GPU_MEMORY_MIB is {gpu_memory_bytes >> 20}, but the weights of {bundle.name} alone take "
                    f"{-(-weights_bytes >> 20)}. Raise it, or set 0 for what the model needs."
                )
            try:
                ort.preload_dlls()  # finds CUDA's libraries in the nvidia-* wheels; the host needs the driver only
                cuda = Cuda(ort.cuda_version)
                provider_options = CUDA_OPTIONS | {"user_compute_stream": str(cuda.stream)}
                if gpu_memory_bytes:
                    provider_options["gpu_mem_limit"] = str(gpu_memory_bytes)
                self._session = _session(path, options, self.provider, provider_options)
            except Exception as error:
                raise _DeviceUnavailable(f"no session could be made on it ({_first_line(error)})") from error
            if self._session.get_providers()[0] != self.provider:
                raise _DeviceUnavailable(
                    "its driver or a CUDA library did not load, so the session fell back to the CPU"
                )
            _check_inputs(path, self._session, "cuda")
            self._execution = DeviceExecution(self._session, cuda)

    @property
    def variant_name(self) -> str:
        return self.variant.name

    @property
    def packs_ahead(self) -> bool:
        """Whether a batch should be prepared while another one runs."""
        return self._execution.packs_ahead

    def run(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        """Return the results of the sequences, in order. No result depends on the others in the batch.

        Raises:
            EngineLost: the device failed for good.
            OutOfDeviceMemory: the batch is too large for what is left of the device's memory.
        """
        return self.prepare(batch)()

    def trim(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        """Run a batch as `run` does, then give back the device's memory that no run needs now."""
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", ARENAS[self.variant.target])
        return self._prepare(batch, options)()

    def prepare(self, batch: Sequence[TokenSequence]) -> Callable[[], list[SequenceResult]]:
        """Pack a batch. What is returned runs it as `run` does, in the engine's thread, and may be called once."""
        return self._prepare(batch)

    def _prepare(
        self, batch: Sequence[TokenSequence], options: RunOptions = None
    ) -> Callable[[], list[SequenceResult]]:
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
            run = self._execution.prepare(feeds, outputs, options)
        except Exception as error:
            raise self._classified(error) from error

        def execute() -> list[SequenceResult]:
            try:
                values = run()
            except Exception as error:
                raise self._classified(error) from error
            return self._head.cut(dict(zip(outputs, values, strict=True)), batch, starts)

        return execute

    def _classified(self, error: Exception) -> Exception:
        message = str(error)
        if any(sign in message for sign in OUT_OF_MEMORY):
            return OutOfDeviceMemory(message)
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
        device: Where to run; `auto` takes CUDA where it works.
        precision: What to run in; `auto` takes the fastest that keeps the answers.
        threads: CPU threads of one run.
        gpu_memory_bytes: The most that the model takes of a GPU's memory, 0 for all that is left.

    Raises:
        BundleError: the bundle has no variant for the device and precision, or its graph is damaged.
        StartupError: CUDA was asked for and does not work here, or the installation is mixed.
    """
    _check_installation()
    if device in ("auto", "cuda"):
        try:
            variant = choose_variant(bundle, "cuda", precision)
            return OrtRunner(bundle, variant, threads=threads, gpu_memory_bytes=gpu_memory_bytes)
        except _DeviceUnavailable as missing:
            if device == "cuda":
                raise StartupError(
                    f"BERT_DEVICE is cuda, but CUDA cannot be used: {missing}. "
                    "Check the driver with nvidia-smi, or set BERT_DEVICE=cpu."
                ) from missing
            if PROVIDERS["cuda"] in ort.get_available_providers():
                log.warning("model %s runs on the CPU: CUDA cannot be used: %s", bundle.name, missing)
        except BundleError:
            if device == "cuda":
                raise
    return OrtRunner(bundle, choose_variant(bundle, "cpu", precision), threads=threads)


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
    raise BundleError(
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


def _session_options(threads: int) -> Any:  # noqa: ANN401 - onnxruntime has no types
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only; ours are logged with their cause
    # Threads that spin after a run take the cores from the front end and from other models' sessions: with six
    # sessions that took turns on 2 cores a short run went from 2.5 ms to 13.6 ms. They still spin during a run.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not has_exact_int8_products():  # then ONNX Runtime takes another kernel, exact and half as fast
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def _session(path: Path, options: Any, provider: str, provider_options: dict[str, str] | None = None) -> Any:  # noqa: ANN401
    return ort.InferenceSession(path, options, providers=[(provider, provider_options or {})], enable_fallback=0)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
