"""How providers and runs are configured, the same for every model. `app.bundle.session` configures sessions."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import onnxruntime as ort

from app.bundle.manifest import Target
from app.bundle.session import FATAL, configure

CUDA_OPTIONS: Final = {
    # fp32 means fp32 (TF32 keeps 10 bits of the mantissa), and LayerNorm sums in fp32 whatever its inputs are.
    "use_tf32": "0",
    "enable_skip_layer_norm_strict_mode": "1",
    # Take what a batch needs, not the next power of two: warm-up has the largest batch run, and the arena stays there.
    "arena_extend_strategy": "kSameAsRequested",
}
BF16_ON_ARM: Final = "mlas.enable_gemm_fastmath_arm64_bfloat16"
ARENAS: Final[dict[Target, str]] = {"cpu": "cpu:0", "cuda": "gpu:0"}

ort.set_default_logger_severity(FATAL)


def session_options(threads: int, target: Target, *, in_bf16: bool = False) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Return the `onnxruntime.SessionOptions` of a session whose runs take this many CPU threads, on ARM with products in bf16."""
    options = configure(ort.SessionOptions(), threads=threads, target=target)
    if in_bf16:
        options.add_session_config_entry(BF16_ON_ARM, "1")
    return options


def run_options(target: Target, *, shrinks_arena: bool = False) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Return the `onnxruntime.RunOptions` of a run, which may give back the memory that the arena does not need after it."""
    options = ort.RunOptions()
    if target == "cuda":
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")  # `finish` waits for the device
    if shrinks_arena:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", ARENAS[target])
    return options


def runtime_versions() -> str:
    """Return the versions of what runs models here; OpenVINO, which only some servers have, as it is installed, imported or not."""
    try:
        return f"onnxruntime {ort.__version__}, openvino {version('openvino')}"
    except PackageNotFoundError:
        return f"onnxruntime {ort.__version__}"
