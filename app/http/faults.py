"""What becomes of a request that this service fails on, whatever was raised."""

import asyncio
import logging

from app.errors import Internal
from app.telemetry.unquoted import unquoted

log = logging.getLogger(__name__)


def internal(error: BaseException, request_id: str, **fields: object) -> Internal:
    """Log a fault, and return the error that the caller gets.

    Raises:
        BaseException: it is no fault, but the end of the task or of the process.
    """
    if isinstance(error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt | SystemExit):
        raise error
    log.error("request failed", exc_info=unquoted(error), extra={"request_id": request_id, **fields})
    return Internal()
