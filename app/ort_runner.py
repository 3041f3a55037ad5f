"""Run packed batches of one model with ONNX Runtime.

The only module of the server that imports `onnxruntime`. A runner is made and called in the engine's one thread;
`run` releases the GIL while the device works.
"""

import logging
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import onnxruntime as ort

from app.bundle import Bundle, Precision, Target, Variant
from app.cpus import has_exact_int8_products
from app.errors import BundleError, EngineLost, StartupError
from app.heads import HEADS
from app.messages import SequenceResult, TokenSequence
from app.packing import pack

log = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
PROVIDERS: Final[dict[Target, str]] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# fp32 means fp32 (TF32 keeps 10 bits of the mantissa), and LayerNorm sums in fp32 whatever its inputs are.
PROVIDER_OPTIONS: Final[dict[Target, dict[str, str]]] = {
    "cpu": {},
    "cuda": {"use_tf32": "0", "enable_skip_layer_norm_strict_mode": "1"},
}
# fp16 runs on tensor cores and halves the memory traffic; int8 changes answers, so it is served only when asked for.
PREFERENCE: Final[dict[Target, tuple[Precision, ...]]] = {"cpu": ("fp32", "int8"), "cuda": ("fp16", "fp32")}
# What ONNX Runtime's messages say when a CUDA context is beyond repair; running out of memory is not among them.
LOST_DEVICE: Final = ("CUDA failure", "CUDA error", "cudaError", "CUBLAS failure", "CUDNN failure", "cuDNN failure")
OUT_OF_MEMORY: Final = ("out of memory", "Failed to allocate", "CUBLAS_STATUS_ALLOC_FAILED")


class _DeviceUnavailable(Exception):
    """ONNX Runtime cannot use the device here; the message says what is missing."""


class OrtRunner:
    """One variant of one model in an ONNX Runtime session on one device."""

    def __init__(self, bundle: Bundle, variant: Variant, *, threads: int) -> None:
        """Load the graph.

        Raises:
            BundleError: the graph is missing, damaged or not for this runtime.
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
        if variant.target == "cuda":
            ort.preload_dlls()  # finds CUDA's libraries in the nvidia-* wheels; the host needs the driver only
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only; ours are logged with their cause
        # Threads that spin after a run take the cores from the front end and from other models' sessions: with six
        # sessions that took turns on 2 cores a short run went from 2.5 ms to 13.6 ms. They still spin during a run.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if not has_exact_int8_products():  # then ONNX Runtime takes another kernel, exact and half as fast
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session = ort.InferenceSession(
                path, options, providers=[(self.provider, PROVIDER_OPTIONS[variant.target])], enable_fallback=0
            )
        except Exception as error:
            if variant.target == "cuda":
                raise _DeviceUnavailable(f"no session could be made on it ({_first_line(error)})") from error
            raise BundleError(
                f"{path} cannot be loaded by ONNX Runtime {ort.__version__}: {_first_line(error)}. Export the model again."
            ) from error
        if self._session.get_providers()[0] != self.provider:
            raise _DeviceUnavailable("its driver or a CUDA library did not load, so the session fell back to the CPU")
        self._input_names: Final = [node.name for node in self._session.get_inputs()]

    @property
    def variant_name(self) -> str:
        return self.variant.name

    def run(self, batch: Sequence[TokenSequence]) -> list[SequenceResult]:
        """Return the results of the sequences, in order. No result depends on the others in the batch.

        Raises:
            EngineLost: the device failed for good.
        """
        lengths = np.fromiter(map(len, batch), np.int64, len(batch))
        feeds = pack(
            np.concatenate([sequence.input_ids for sequence in batch]),
            np.concatenate([sequence.token_type_ids for sequence in batch]),
            lengths,
            target=self.variant.target,
            position_offset=self._position_offset,
        )
        feeds |= self._head.inputs(batch, feeds["cls_index"].astype(np.int64, copy=False))
        names = self._head.outputs(batch)
        try:
            values = self._session.run(names, {name: feeds[name] for name in self._input_names})
        except Exception as error:
            raise self._classified(error) from error
        return self._head.cut(dict(zip(names, values, strict=True)), batch)

    def _classified(self, error: Exception) -> Exception:
        message = str(error)
        is_lost = self.variant.target == "cuda" and any(sign in message for sign in LOST_DEVICE)
        if is_lost and not any(sign in message for sign in OUT_OF_MEMORY):
            return EngineLost("The device failed and the engine is being replaced. Retry in a few seconds.")
        return error


def open_runner(bundle: Bundle, *, device: Device, precision: Precision | Literal["auto"], threads: int) -> OrtRunner:
    """Return a runner for the best variant of a bundle on the best device that works.

    Raises:
        BundleError: the bundle has no variant for the device and precision, or its graph is damaged.
        StartupError: CUDA was asked for and does not work here.
    """
    if device in ("auto", "cuda"):
        try:
            return OrtRunner(bundle, choose_variant(bundle, "cuda", precision), threads=threads)
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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
