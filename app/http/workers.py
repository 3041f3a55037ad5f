"""Worker threads, for what takes too long for the event loop."""

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import TypeVar

from app.errors import NotReady

log = logging.getLogger(__name__)

T = TypeVar("T")


def submit(executor: Executor, work: Callable[[], T]) -> "Future[T]":
    """Have `work` done in a thread of an executor.

    Raises:
        NotReady: the system has no room for another thread.
    """
    try:
        return executor.submit(work)
    except RuntimeError as error:
        log.error("no thread can be started: %s; raise the limit of processes of this service", error)  # noqa: TRY400
        raise NotReady("The service has no room for another thread. Retry in a few seconds.") from error
