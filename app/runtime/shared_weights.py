"""One copy of a graph's weights for several sessions on a CPU.

A session lays the weights of its products out anew, as the processor's kernels read them, in memory of its own: a second session of
the same graph would double them. Here ONNX Runtime writes the graph with these weights to files once, and each session maps them,
those of later starts too, if the files are kept. The answers are the same, bit for bit (docs/decisions/0025-threads-by-load.md).
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from app.allocator import trim
from app.bundle.control_groups import memory_left_bytes
from app.runtime.folder_lock import FolderLock, remove_unused
from app.runtime.kept_weights import GRAPH

PREFIX: Final = "bert-weights-"
FILES: Final = 2
"""The files take up to so many times the size of the graph (BERT-base: 1.8 in fp32, 1.6 in int8), whose weights they have twice."""
MEMORY: Final = 4
"""While they are written, memory holds the weights as they were and as they are laid out, and the files, if their folder is in memory."""
SMALL_BYTES: Final = 1024
"""Smaller tensors stay in the graph."""


class NoRoom(Exception):
    """The memory or the disk is too small; the message says which."""


@contextmanager
def laid_out(
    write: Callable[[], object],
    options: Any,  # noqa: ANN401
    graph_bytes: int,
    within: Path | None,
) -> Iterator[Path]:
    """Write a graph as a session has it, and yield the path of that.

    Its folder is gone afterwards, but for those who have mapped the files, unless it has been moved.

    Args:
        write: Makes a session of the graph with the options.
        options: The `onnxruntime.SessionOptions`, which are changed before.
        graph_bytes: The size of the graph's files.
        within: The folder of that folder; None is where the system has temporary files.

    Raises:
        NoRoom: memory or disk do not suffice.
        OSError: there is no folder for temporary files.
        Exception: what `write` raises: the graph is damaged, or the disk became full.
    """
    left = memory_left_bytes()
    if left is not None and left < MEMORY * graph_bytes:
        raise NoRoom(f"{left >> 20} MiB of memory are left")
    with _folder(within or Path(tempfile.gettempdir())) as folder:
        if (free := shutil.disk_usage(folder).free) < FILES * graph_bytes:
            raise NoRoom(f"{folder.parent} has {free >> 20} MiB left")
        graph = folder / GRAPH
        options.optimized_model_filepath = str(graph)
        for key, value in (
            ("session.save_external_prepacked_constant_initializers", "1"),
            ("session.optimized_model_external_initializers_file_name", "weights"),
            ("session.optimized_model_external_initializers_min_size_in_bytes", str(SMALL_BYTES)),
        ):
            options.add_session_config_entry(key, value)
        write()
        trim()  # of the weights of that session, which is gone
        yield graph


@contextmanager
def _folder(within: Path) -> Iterator[Path]:
    """Yield a folder of this process alone, after removing those of processes that were killed while they loaded a model."""
    for leftover in within.glob(f"{PREFIX}*"):
        remove_unused(leftover)
    new = Path(tempfile.mkdtemp(prefix=f"new-{PREFIX}", dir=within))
    try:
        with closing(FolderLock(new)):
            new = new.rename(within / new.name.removeprefix("new-"))  # locked, before others look for it
            yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)
