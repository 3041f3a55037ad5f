"""How sessions and their runs are configured, the same for every model. Why stands at each option."""

from typing import Any, Final

import onnxruntime as ort

from app.bundle.cpus import has_exact_int8_products
from app.bundle.manifest import Target

PROVIDERS: Final[dict[Target, str]] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CUDA_OPTIONS: Final = {
    # fp32 means fp32 (TF32 keeps 10 bits of the mantissa), and LayerNorm sums in fp32 whatever its inputs are.
    "use_tf32": "0",
    "enable_skip_layer_norm_strict_mode": "1",
    # Take what a batch needs, not the next power of two: warm-up has the largest batch run, and the arena stays there.
    "arena_extend_strategy": "kSameAsRequested",
}
ARENAS: Final[dict[Target, str]] = {"cpu": "cpu:0", "cuda": "gpu:0"}
NOTHING_BUT_ITS_END: Final = 4
"""How much ONNX Runtime writes to stderr itself, past our log: what fails is raised as well, and told there once."""
RECORDS_PLACEMENT: Final = "session.record_ep_graph_assignment_info"

ort.set_default_logger_severity(NOTHING_BUT_ITS_END)


def session_options(threads: int, target: Target) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Return the `onnxruntime.SessionOptions` of a session whose runs take this many CPU threads."""
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


def run_options(target: Target, *, shrinks_arena: bool = False) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Return the `onnxruntime.RunOptions` of a run, which may give back the memory that the arena does not need after it."""
    options = ort.RunOptions()
    if target == "cuda":
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")  # whoever finishes the run waits
    if shrinks_arena:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", ARENAS[target])
    return options
