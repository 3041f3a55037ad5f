"""What every answer is made of: request ids, the API key, bodies with a limit, and the one form of errors."""

import re
import secrets
from collections.abc import Iterable
from typing import Any, Final

from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.types import ASGIApp, Receive, Scope, Send

from app.engine.callers import Caller
from app.errors import ERRORS, InvalidHttp, PayloadTooLarge, RequestTimeout, ServiceError, Unauthorized
from app.http.keys import Keys

Application = ASGIApp
Header = tuple[bytes, bytes]

READ_AT: Final = "bert.read_at"
"""Key of a scope: when the request's last byte was read (monotonic clock); missing until then."""
STALLED: Final = "bert.stalled"
"""Key of a scope: true once the request's time to arrive is over."""
ENCODED: Final = "bert.encoded"
"""Key of a scope: true once a body was read that has a `Content-Encoding`, and may be compressed."""
TOLD_AS: Final = "bert.told_as"
"""Key of a scope: the API as which a request that the application answers is counted and logged; missing if it is not told of."""
CERTIFICATE: Final = "certificate"
"""The key, in the state of a connection, of who the caller's TLS certificate names."""
CHANGES: Final = "bert.changes"
"""Key of a scope: the model that an operator's request has loaded or unloaded, or could not; missing if there is none."""
CALLER: Final = "bert.caller"
"""Key of a scope: the name of the caller of a request that the application answers; missing if it has none."""
ERROR_TYPE: Final = "bert.error_type"
"""Key of a scope: the `error_type` that the application answered with."""

_LENGTH_DIGITS: Final = 20
"""The most digits of a length that fits into 64 bits. Python reads no integer of over 4,300."""
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class ErrorResponse(BaseModel):
    """The body of every error."""

    error: str = Field(description="What happened and what to do.")
    error_type: str = Field(json_schema_extra={"enum": [error.error_type for error in ERRORS]})
    request_id: str


def error_responses(*errors: type[ServiceError]) -> dict[int | str, Any]:
    """Return what OpenAPI says of the statuses of some errors: their meaning, and an example of each."""
    described: dict[int | str, Any] = {}
    for error in errors:
        meaning = (error.__doc__ or "").strip().partition("\n")[0]
        one = described.setdefault(str(error.status), {"model": ErrorResponse, "description": ""})
        one["description"] = f"{one['description']} {meaning}".strip()
        examples = one.setdefault("content", {"application/json": {"examples": {}}})["application/json"]["examples"]
        document = {
            "error": getattr(error, "default", meaning),
            "error_type": error.error_type,
            "request_id": "0a1b2c3d4e5f6071",
        }
        examples[error.error_type] = {"value": document}
    return described


class ClientGone(Exception):
    """The caller closed the connection before its answer."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first value of a header; `name` is lower case."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


def all_of(scope: Scope, name: bytes) -> str:
    """Return the values of a header that may come several times, with commas between; `name` is lower case."""
    return b",".join(value for key, value in scope["headers"] if key == name).decode("latin-1")


def new_request_id() -> str:
    """Return an id for a request that has none."""
    return secrets.token_hex(8)


def request_id_of(scope: Scope) -> str:
    """Return the caller's X-Request-Id if it is fit for a log, else a new one."""
    given = header(scope, b"x-request-id")
    return given.decode() if given is not None and _REQUEST_ID.fullmatch(given) else new_request_id()


def authorize(scope: Scope, keys: Keys | None, *, needs_scheme: bool = True) -> Caller | None:
    """Return whose key was sent, None if no key is needed; without `needs_scheme` also one without the word Bearer is one.

    Raises:
        Unauthorized: the key is missing or wrong.
    """
    if keys is None:
        return None
    sent = header(scope, b"authorization") or b""
    scheme, _, given = sent.partition(b" ")
    # Whatever its case, and with one space or more: RFC 9110, 11.1 and 11.4.
    if scheme.lower() == b"bearer":
        sent = given.lstrip(b" ")
    elif needs_scheme:
        raise Unauthorized(keys.refusal)
    return keys.caller_of(sent)


async def read_body(scope: Scope, receive: Receive, limit_bytes: int) -> bytes:
    """Return the whole body, and note in the scope if it is `ENCODED`.

    Raises:
        InvalidHttp: what it says of its length cannot be read.
        PayloadTooLarge: it is, or says it is, over the limit.
        RequestTimeout: its time to arrive is over.
        ClientGone: the connection closed first.
    """
    _check_head(scope, limit_bytes)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit_bytes:
            raise _too_large(limit_bytes)
        if not message.get("more_body", False):
            return chunk if not chunks else b"".join([*chunks, chunk])
        if STALLED in scope:
            raise RequestTimeout
        chunks.append(chunk)


def _check_head(scope: Scope, limit_bytes: int) -> None:
    """Check what a head says of the body. Raises as `read_body` does."""
    declared: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"content-length":
            declared = value
        elif name == b"content-encoding":
            scope[ENCODED] = True
    if declared is not None and declared.isdigit():
        if len(declared) > _LENGTH_DIGITS and declared.startswith(b"0"):
            raise InvalidHttp
        if len(declared) > _LENGTH_DIGITS or int(declared) > limit_bytes:
            raise _too_large(limit_bytes)


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The body is over {limit_bytes} bytes. Send fewer or shorter inputs, or raise BERT_MAX_BODY_BYTES."
    )


def answer_headers(body: bytes, request_id: str, content_type: bytes = b"application/json") -> list[Header]:
    """Return the headers of every answer."""
    return [
        (b"content-type", content_type),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", request_id.encode()),
    ]


def error_document(error: ServiceError, request_id: str) -> dict[str, str]:
    """Return the body that errors have, but for those of a dialect."""
    return {"error": error.message, "error_type": error.error_type, "request_id": request_id}


def render_error(error: ServiceError, request_id: str, document: object | None = None) -> tuple[list[Header], bytes]:
    """Return the headers and the body of an error's answer; `document` is the body if it has another form."""
    body = to_json(error_document(error, request_id) if document is None else document)
    return [*answer_headers(body, request_id), *error.headers], body


async def respond(send: Send, status: int, headers: Iterable[Header], body: bytes) -> None:
    """Send an answer."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
