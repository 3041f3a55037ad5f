"""Start a child process."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Final

_TERMINAL_SIGNALS: Final = (signal.SIGINT, signal.SIGHUP)


def spawn(name: str, main: Callable[..., None], *arguments: object, environment: Mapping[str, str]) -> SpawnProcess:
    """Start a process that runs `main` with these arguments, with SIGINT and SIGHUP blocked.

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
    # It unblocks SIGINT in this process when it starts, so it starts before the signals are blocked.
    resource_tracker.ensure_running()
    with _variables(environment), _terminal_signals_blocked():
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
def _terminal_signals_blocked() -> Iterator[None]:
    """Block what a terminal sends to every process, for Ctrl-C and when it is closed: the supervisor alone handles it.

    A child inherits that.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINAL_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _TERMINAL_SIGNALS)
