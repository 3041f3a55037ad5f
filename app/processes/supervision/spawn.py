"""Start a child process."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Final

from app.processes.signals import RELOAD

_BLOCKED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, RELOAD)


def spawn(name: str, main: Callable[..., None], *arguments: object) -> SpawnProcess:
    """Start a process that runs `main` with these arguments, with SIGINT, SIGTERM, SIGHUP and `RELOAD` blocked.

    Args:
        name: Of the process.
        main: A function of a module: the child imports it.
        arguments: Whatever can be pickled.

    Raises:
        OSError: the system has no room for another process.
    """
    # Forking a process with threads, as ONNX Runtime's and tokenizers' are, is not safe.
    process = multiprocessing.get_context("spawn").Process(target=main, args=arguments, name=name)
    with _signals_blocked():  # the tracker's process inherits it, too: SIGHUP would end it
        resource_tracker.ensure_running()
    with _signals_blocked():  # again, as the start of the tracker unblocks SIGINT and SIGTERM
        process.start()
    return process


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block what may be sent to every process: the supervisor alone handles it.

    A terminal sends it for Ctrl-C and when it is closed, a service manager and `timeout` to stop the service. Block, too, what the
    supervisor may send before a child handles it. A child inherits that.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)
