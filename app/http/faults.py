"""What becomes of a request that this service fails on, whatever was raised."""

import asyncio
import logging

from app.errors import Internal

log = logging.getLogger(__name__)


def internal(error: BaseException, request_id: str, **fields: object) -> Internal:
    """Log a fault, and return the error that the caller gets.

    A panic in a library's Rust code, as those that tokenize and validate have, is no `Exception`. It is logged without its own
    message, which may quote the text that it came by.

    Raises:
        BaseException: it is no fault, but the end of the task or of the process.
    """
    if isinstance(error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt | SystemExit):
        raise error
    if not isinstance(error, Exception):
        panic = RuntimeError("a panic in a library that is not written in Python")
        error = panic.with_traceback(error.__traceback__)
    log.error("request failed", exc_info=error, extra={"request_id": request_id, **fields})
    return Internal()
