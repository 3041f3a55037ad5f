"""How a request ends: with its answer, with an error, or without its caller."""

import asyncio
from collections.abc import Awaitable

from app.errors import NotReady, ServiceError
from app.http.api import Api, render_for
from app.http.asgi import ClientGone, Header
from app.http.faults import internal
from app.telemetry.record import CLIENT_GONE, RequestRecord


async def outcome(
    answering: Awaitable[tuple[list[Header], bytes]], api: Api, record: RequestRecord
) -> tuple[list[Header], bytes] | None:
    """Return the headers and the body that the caller gets, be it the answer or an error; None if the caller is gone.

    The record gets the status and the type of an error.
    """
    try:
        return await answering
    except ServiceError as error:
        # Not kept in a variable: with its traceback, which has this frame, it would be a cycle, and the garbage collector
        # would take as long for each refusal as a whole answer does.
        return _refused(error, api, record)
    except ClientGone:
        record.status, record.error_type = CLIENT_GONE, "client_gone"
        return None
    except asyncio.CancelledError:  # the server is stopping, and the time to finish requests is over
        return _refused(NotReady("The service stopped before it could answer. Retry in a few seconds."), api, record)
    except BaseException as error:
        return _refused(internal(error, record.request_id, model=record.model), api, record)


def _refused(error: ServiceError, api: Api, record: RequestRecord) -> tuple[list[Header], bytes]:
    record.error_type = error.error_type
    record.status, headers, body = render_for(api, error, record.request_id)
    return headers, body
