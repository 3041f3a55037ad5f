"""How a session of ONNX Runtime is configured: the same in the server and where the export checks a graph.

Imports no ONNX Runtime: the caller passes the options in.
"""

from typing import Any, Final

from app.bundle.cpus import has_exact_int8_products
from app.bundle.manifest import Target

PROVIDERS: Final[dict[Target, str]] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
FATAL: Final = 4
"""The level of ONNX Runtime's own messages on stderr, past our log: a failure is raised as well, and logged once there."""

SPIN_US: Final = 100
"""How long a thread spins at the end of its part of an operator until it sleeps. If another program has the core of a thread, the others
would spin for as long: see docs/decisions/0025-threads-by-load.md."""

RECORDS_PLACEMENT: Final = "session.record_ep_graph_assignment_info"


def configure(options: Any, *, threads: int, target: Target) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Set the options of a session, and return them.

    Args:
        options: An `onnxruntime.SessionOptions`.
        threads: CPU threads of a run, 0 for one on each core.
        target: The kind of device that the graph was written for.
    """
    options.intra_op_num_threads = threads
    options.log_severity_level = FATAL
    if target == "cuda":
        # A pattern of one run's memory is kept by a number made of its shapes, and a later run of that number, whose
        # shapes may be others, takes all of it in one piece beside what it needs: it would double the arena.
        options.enable_mem_pattern = False
        options.add_session_config_entry(RECORDS_PLACEMENT, "1")
    # Threads that spin after a run take the cores from the front end and from other models' sessions: with six
    # sessions that took turns on 2 cores a short run went from 2.5 ms to 13.6 ms. They still spin during a run.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    if not has_exact_int8_products():  # then ONNX Runtime takes another kernel, exact and half as fast
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options
