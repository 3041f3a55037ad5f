"""One copy of a graph's weights for several sessions on a CPU.

A session lays the weights of its products out anew, as the processor's kernels read them, in memory of its own: a second session of
the same graph would double them. Here ONNX Runtime writes the graph with these weights to files once, and each session maps them.
The answers are the same, bit for bit (docs/decisions/0025-threads-by-load.md).
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from app.allocator import trim
from app.bundle.control_groups import memory_left_bytes

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
def laid_out(make_session: Callable[[Any], Any], options: Any, graph_bytes: int) -> Iterator[Path]:  # noqa: ANN401
    """Write a graph as a session has it, and yield the path of that. It is gone afterwards, but for those who have mapped it.

    Args:
        make_session: Makes a session of the graph with these options.
        options: The `onnxruntime.SessionOptions`, which are changed.
        graph_bytes: The size of the graph's files.

    Raises:
        NoRoom: memory or disk do not suffice.
        OSError: there is no folder for temporary files.
        Exception: what `make_session` raises: the graph is damaged, or the disk became full.
    """
    left = memory_left_bytes()
    if left is not None and left < MEMORY * graph_bytes:
        raise NoRoom(f"{left >> 20} MiB of memory are left")
    with _folder() as folder:
        if (free := shutil.disk_usage(folder).free) < FILES * graph_bytes:
            raise NoRoom(f"{folder.parent} has {free >> 20} MiB left")
        graph = folder / "graph.onnx"
        options.optimized_model_filepath = str(graph)
        for key, value in (
            ("session.save_external_prepacked_constant_initializers", "1"),
            ("session.optimized_model_external_initializers_file_name", "weights"),
            ("session.optimized_model_external_initializers_min_size_in_bytes", str(SMALL_BYTES)),
        ):
            options.add_session_config_entry(key, value)
        make_session(options)
        trim()  # of the weights of that session, which is gone
        yield graph


@contextmanager
def _folder() -> Iterator[Path]:
    """Yield a folder of this process alone, after removing those of processes that were killed while they loaded a model."""
    temporary = Path(tempfile.gettempdir())
    for leftover in temporary.glob(f"{PREFIX}*"):
        with suppress(OSError), _locked(leftover):  # unless it is another user's, or in use
            shutil.rmtree(leftover)
    new = Path(tempfile.mkdtemp(prefix=f"new-{PREFIX}"))
    try:
        with _locked(new):
            new = new.rename(temporary / new.name.removeprefix("new-"))  # locked, before others look for it
            yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
