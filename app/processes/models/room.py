"""Whether there is memory for a bundle beside what is served, asked before anything is tried, and what one has taken."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from app.bundle.control_groups import memory_left_bytes
from app.bundle.files import Bundle
from app.bundle.manifest import Target, Variant
from app.engine.messages import Loaded
from app.errors import BundleError, NoRoom
from app.runtime.choice import choose_variant
from app.runtime.nvml import open_gpus
from app.settings import Settings

SPARE: Final = 1.4
BATCH_BYTES: Final = 64 << 20
"""What a model takes is its weights times the one and the other: ONNX Runtime lays some out anew, and a batch has its own tensors.
Measured on two cores: 417 MiB of weights took 467 to 636 (the least where sessions share them), 175 took 216 to 262, 65 took 87
to 134, 35 took 59 to 98."""
FREE_MEMORY: Final = "Unload another model first, or give the service more memory."
MAPPED: Final = Path("/proc/self/smaps_rollup")


def require_room(bundle: Bundle, settings: Settings, taken_bytes: int = 0, freed_bytes: int = 0) -> None:
    """Pass if a bundle fits into the memory that is left, as far as its files and the system tell.

    Args:
        bundle: The bundle.
        settings: Say where it is to run.
        taken_bytes: What one like it has taken, measured; 0 if that is not known.
        freed_bytes: What is unloaded before it is loaded.

    Raises:
        NoRoom: it does not.
    """
    gpus = None if settings.device == "cpu" else open_gpus()
    is_on_gpu = gpus is not None and any(variant.target == "cuda" for variant in bundle.manifest.variants)
    if gpus is not None and is_on_gpu:
        left = max((gpu.total_bytes - gpu.used_bytes for gpu in gpus()), default=None)
    else:
        left = memory_left_bytes()
    variant = _variant(bundle, "cuda" if is_on_gpu else "cpu", settings)
    weights = 0 if variant is None else variant.size_bytes
    # Requests that are answered meanwhile blur what is measured, but a model takes its weights at least.
    needed = max(weights, taken_bytes) if taken_bytes > 0 else int(SPARE * weights) + BATCH_BYTES
    if left is not None and needed > left + freed_bytes:
        where = "the GPU" if is_on_gpu else "this machine or its container"
        or_first = (
            " Or start it with --swap unload-first, which unloads a model before it loads the one that replaces it."
            if settings.swap == "beside"
            else ""
        )
        raise NoRoom(
            f"Bundle {bundle.name} needs about {-(-needed >> 20)} MiB beside what is served, and {where} has "
            f"{left + freed_bytes >> 20} MiB left. {FREE_MEMORY}{or_first}"
        )


def served_weights_bytes(bundle: Bundle, one: Loaded) -> int:
    """Return the size of the weights with which a bundle is served."""
    return next(variant.size_bytes for variant in bundle.manifest.servable if variant.name == one.variant)


def _variant(bundle: Bundle, target: Target, settings: Settings) -> Variant | None:
    """Return the variant that will be served, None if the load is going to say that there is none."""
    precisions = settings.precision_by_model
    for precision in (precisions.get(bundle.name, precisions[""]), "auto"):
        with suppress(BundleError):
            return choose_variant(bundle, target, precision)
    return None


def measure_memory(settings: Settings) -> Callable[[bool], int]:
    """Return a function that returns how many bytes more are in use than now, 0 if fewer: of the GPUs if called with True, else here."""
    gpus = None if settings.device == "cpu" else open_gpus()

    def in_use(*, is_on_gpu: bool) -> int:
        if not is_on_gpu:
            return _own_bytes()
        return 0 if gpus is None else sum(gpu.used_bytes for gpu in gpus())

    before = {is_on_gpu: in_use(is_on_gpu=is_on_gpu) for is_on_gpu in (False, True)}
    return lambda is_on_gpu: max(0, in_use(is_on_gpu=is_on_gpu) - before[is_on_gpu])


def _own_bytes() -> int:
    """Return what this process has in memory, bytes, its share of what others have, too; 0 if the system does not say."""
    try:
        lines = MAPPED.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)
