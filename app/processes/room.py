"""Whether there is memory for a bundle beside what is served. Asked before anything is tried."""

from typing import Final

from app.bundle.control_groups import memory_left_bytes
from app.bundle.files import Bundle
from app.errors import NoRoom
from app.runtime.nvml import open_gpus
from app.settings import Settings

SPARE: Final = 1.2
"""How much more than its weights a model takes, at least: ONNX Runtime lays some out anew, and a batch has its own tensors."""


def require_room(bundle: Bundle, settings: Settings) -> None:
    """Pass if a bundle fits into the memory that is left, as far as its files and the system tell.

    Raises:
        NoRoom: it does not.
    """
    manifest = bundle.manifest
    gpus = None if settings.device == "cpu" else open_gpus()
    device = "cpu" if gpus is None else "cuda"
    sizes = [
        variant.graph.size_bytes + (variant.external_data.size_bytes if variant.external_data else 0)
        for variant in manifest.variants
        if variant.target == device
    ]
    if gpus is not None and sizes:
        left = max((gpu.total_bytes - gpu.used_bytes for gpu in gpus()), default=None)
    else:
        left = memory_left_bytes()
    needed = int(SPARE * min(sizes, default=0))
    if left is not None and needed > left:
        where = "the GPU" if device == "cuda" else "this machine or its container"
        raise NoRoom(
            f"Bundle {bundle.name} needs about {-(-needed >> 20)} MiB beside what is served, and {where} has {left >> 20} MiB left. "
            "Unload another model first, give the service more memory, or start it with --swap unload-first, which unloads a "
            "model before it loads the one that replaces it."
        )
