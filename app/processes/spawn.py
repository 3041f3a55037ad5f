"""Start a child process."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess


def spawn(name: str, main: Callable[..., None], *arguments: object) -> SpawnProcess:
    """Start a process that runs `main` with these arguments, with SIGINT blocked.

    Args:
        name: Of the process.
        main: A function of a module: the child imports it.
        arguments: Whatever can be pickled.

    Raises:
        OSError: the system has no room for another process.
    """
    # Forking a process with threads, as ONNX Runtime's and tokenizers' are, is not safe.
    process = multiprocessing.get_context("spawn").Process(target=main, args=arguments, name=name)
    # It unblocks SIGINT in this process when it starts, so it starts before the signal is blocked.
    resource_tracker.ensure_running()
    with _sigint_blocked():
        process.start()
    return process


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block SIGINT, which a child inherits: a terminal sends Ctrl-C to every process, and the supervisor alone handles it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
