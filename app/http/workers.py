"""Worker threads, for what takes too long for the event loop."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from app.errors import NotReady

log = logging.getLogger(__name__)

T = TypeVar("T")


def in_thread(work: Callable[[], T], executor: Executor | None = None) -> asyncio.Future[T]:
    """Run `work` in a thread of an executor, or else of the event loop's own.

    Raises:
        NotReady: the system has no room for another thread.
    """
    try:
        return asyncio.get_running_loop().run_in_executor(executor, work)
    except RuntimeError as error:
        log.error("no thread can be started: %s; raise the limit of processes of this service", error)  # noqa: TRY400
        raise NotReady("The service has no room for another thread. Retry in a few seconds.") from error
