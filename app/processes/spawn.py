"""Start a child process."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess


def spawn(name: str, main: Callable[..., None], *arguments: object, environment: Mapping[str, str]) -> SpawnProcess:
    """Start a process that runs `main` with these arguments, with SIGINT blocked.

    Args:
        name: Of the process.
        main: A function of a module: the child imports it.
        arguments: Whatever can be pickled.
        environment: Variables that the child has in addition to those of this process.

    Raises:
        OSError: the system has no room for another process.
    """
    # Forking a process with threads, as ONNX Runtime's and tokenizers' are, is not safe.
    process = multiprocessing.get_context("spawn").Process(target=main, args=arguments, name=name)
    # It unblocks SIGINT in this process when it starts, so it starts before the signal is blocked.
    resource_tracker.ensure_running()
    with _variables(environment), _sigint_blocked():
        process.start()
    return process


@contextmanager
def _variables(added: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process's environment: multiprocessing lets a child inherit them, and takes none of its own."""
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block SIGINT, which a child inherits: a terminal sends Ctrl-C to every process, and the supervisor alone handles it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
