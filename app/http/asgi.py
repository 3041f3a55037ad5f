"""Small ASGI pieces: headers, a body with a limit, a JSON answer."""

import re
import secrets
from collections.abc import Sequence
from hmac import compare_digest
from typing import Any, Final

from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from app.errors import MethodNotAllowed, Overloaded, PayloadTooLarge, ServiceError, TooSlow, Unauthorized

READ_AT: Final = "bert.read_at"
"""When its last byte was read (monotonic clock); missing until then."""
STALLED: Final = "bert.stalled"
"""True once its time to arrive is over."""

RETRY_SOON_S: Final = 2
DROP_UP_TO: Final = 10
"""So many times the limit of a body is read before the connection is cut."""
REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")
Headers = Sequence[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The caller closed the connection before its answer."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first value of a header; `name` is lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def request_id_of(scope: Scope) -> str:
    """Return the caller's X-Request-Id if it is fit for a log, else a new one."""
    given = header(scope, b"x-request-id")
    return given.decode() if given is not None and REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def authorize(scope: Scope, api_key: str | None) -> None:
    """Pass if no key is needed or the right one was sent.

    Raises:
        Unauthorized: the key is missing or wrong.
    """
    if api_key is None:
        return
    scheme, _, given = (header(scope, b"authorization") or b"").partition(b" ")
    # Whatever its case, and with one space or more: RFC 9110, 11.1 and 11.4.
    if scheme.lower() != b"bearer" or not compare_digest(given.lstrip(b" "), api_key.encode()):
        raise Unauthorized("The API key is missing or wrong. Send it as 'Authorization: Bearer KEY'.")


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """Return the whole body.

    A body over the limit is read on and dropped, as most callers read no answer before they have written everything:
    all they would see is a reset connection. One that is far over it, or whose caller asks first, is refused at once.

    Raises:
        PayloadTooLarge: it is, or says it is, over the limit.
        TooSlow: its time to arrive is over.
        ClientGone: the connection closed first.
    """
    too_large = PayloadTooLarge(
        f"The body is over {limit_bytes} bytes. Send fewer or shorter inputs, or raise BERT_MAX_BODY_BYTES."
    )
    declared = header(scope, b"content-length")
    expected = int(declared) if declared is not None and declared.isdigit() else 0
    if expected > DROP_UP_TO * limit_bytes or (expected > limit_bytes and header(scope, b"expect") is not None):
        raise too_large
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit_bytes:
            chunks.clear()
            if message.get("more_body", False) and size <= DROP_UP_TO * limit_bytes and STALLED not in scope:
                continue
            raise too_large
        if message.get("more_body", False) and STALLED in scope:
            raise TooSlow("The body had not arrived after BERT_READ_TIMEOUT_S.")
        if not message.get("more_body", False):
            return chunk if not chunks else b"".join([*chunks, chunk])
        chunks.append(chunk)


async def respond(send: Send, status: int, body: bytes, request_id: str, *headers: tuple[bytes, bytes]) -> None:
    """Send a JSON answer."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"x-request-id", request_id.encode()),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


def error_body(error: ServiceError, request_id: str) -> bytes:
    """Return the one shape of every error."""
    document: dict[str, Any] = {
        "error": error.message,
        "error_type": error.error_type,
        "request_id": request_id,
    }
    return to_json(document)


def error_headers(error: ServiceError) -> Headers:
    """Return the headers that go with an error."""
    if isinstance(error, Overloaded):
        return [(b"retry-after", str(error.retry_after_s).encode())]
    if error.status == 503:
        return [(b"retry-after", str(RETRY_SOON_S).encode())]
    if error.status == 401:
        return [(b"www-authenticate", b"Bearer")]
    if isinstance(error, MethodNotAllowed):
        return [(b"allow", error.allowed.encode())]
    if error.status in (408, 413):
        return [(b"connection", b"close")]  # the rest of the body may not have been read
    return []
