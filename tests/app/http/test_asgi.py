"""The small pieces of the HTTP layer, by hand-made ASGI messages."""

import asyncio
import json
from typing import Any

import pytest

from app.errors import (
    EngineLost,
    Internal,
    InvalidHttp,
    MethodNotAllowed,
    NotFound,
    NotReady,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
    ServiceError,
    Unauthorized,
    ValidationFailed,
)
from app.http.asgi import ClientGone, ErrorResponse, authorize, read_body, render_error, request_id_of
from app.http.keys import Keys, digest_of

LIMIT = 100


def scope(**headers: str) -> dict[str, Any]:
    return {"headers": [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]}


class Body:
    """What a server hands on of a body, and how much of it was taken."""

    def __init__(self, *chunks: bytes | None) -> None:
        self._chunks = list(chunks)
        self.taken = 0

    async def receive(self) -> dict[str, Any]:
        chunk = self._chunks[self.taken]
        self.taken += 1
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": self.taken < len(self._chunks)}

    def read(self, **headers: str) -> bytes:
        return asyncio.run(read_body(scope(**headers), self.receive, LIMIT))


@pytest.mark.parametrize(
    "chunks", [[b""], [b"abc"], [b"a", b"b", b"c"], [b"", b"a", b""], [b"x" * LIMIT], [b"x"] * LIMIT]
)
def test_a_body_is_all_its_chunks(chunks: list[bytes]) -> None:
    body = Body(*chunks)
    assert body.read() == b"".join(chunks)
    assert body.taken == len(chunks)


@pytest.mark.parametrize(
    ("chunks", "taken"), [([b"x" * (LIMIT + 1)], 1), ([b"x" * LIMIT, b"x"], 2), ([b"x" * LIMIT] * 9, 2)]
)
def test_a_body_is_read_no_further_than_its_limit(chunks: list[bytes], taken: int) -> None:
    body = Body(*chunks)
    with pytest.raises(PayloadTooLarge, match=f"over {LIMIT} bytes.*BERT_MAX_BODY_BYTES"):
        body.read()
    assert body.taken == taken


@pytest.mark.parametrize("length", [str(LIMIT + 1), "9" * 40])
def test_a_body_announced_over_the_limit_is_not_read(length: str) -> None:
    body = Body(b"x" * (LIMIT + 1))
    with pytest.raises(PayloadTooLarge):
        body.read(content_length=length)
    assert body.taken == 0


def test_a_length_of_thousands_of_zeros_is_no_length() -> None:
    assert Body(b"abc").read(content_length="0003") == b"abc"
    with pytest.raises(InvalidHttp):
        Body(b"abc").read(content_length="0" * 5000 + "3")


def test_a_body_that_lies_about_its_length_is_counted() -> None:
    with pytest.raises(PayloadTooLarge):
        Body(b"x" * (LIMIT + 1)).read(content_length="5")
    assert Body(b"abc").read(content_length="many") == b"abc"


@pytest.mark.parametrize("chunks", [[None], [b"a", None]])
def test_a_disconnected_caller_ends_the_read(chunks: list[bytes | None]) -> None:
    with pytest.raises(ClientGone):
        Body(*chunks).read()


@pytest.mark.parametrize("given", ["a", "A-b_c.9", "x" * 128])
def test_a_valid_request_id_is_kept(given: str) -> None:
    assert request_id_of(scope(x_request_id=given)) == given


@pytest.mark.parametrize("given", ["", " ", "a b", "x" * 129, "caf\xe9", "a\n", "a\nb", '"', "a/b", "\x1b[31m"])
def test_any_other_request_id_is_replaced(given: str) -> None:
    made = request_id_of(scope(x_request_id=given))
    assert made != given
    assert len(made) == 16
    assert int(made, 16) >= 0
    assert made != request_id_of(scope(x_request_id=given))


KEYS = Keys({digest_of("s3cret"): None})


def test_without_a_key_every_request_is_authorized() -> None:
    authorize(scope(), None)
    authorize(scope(authorization="Bearer anything"), None)


@pytest.mark.parametrize("given", ["Bearer s3cret", "bearer s3cret", "BEARER s3cret", "Bearer  s3cret"])
def test_the_right_key_passes(given: str) -> None:
    authorize(scope(authorization=given), KEYS)


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3crett", "Bearer S3cret", "s3cret", "Basic s3cret", "Bearer\ts3cret",
     "Bearers3cret", "Bearer s3cret Bearer s3cret", "Bearer \xe9"],
)  # fmt: skip
def test_any_other_key_is_refused(given: str) -> None:
    with pytest.raises(Unauthorized, match="Authorization: Bearer KEY"):
        authorize(scope(authorization=given), KEYS)
    with pytest.raises(Unauthorized):
        authorize(scope(), KEYS)


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (Overloaded("full", 7), {"retry-after": "7"}),
        (NotReady("starting"), {"retry-after": "2"}),
        (EngineLost(), {"retry-after": "2"}),
        (Unauthorized(), {"www-authenticate": "Bearer"}),
        (MethodNotAllowed("GET, POST"), {"allow": "GET, POST"}),
        (RequestTimeout(), {"connection": "close"}),
        (PayloadTooLarge("big"), {"connection": "close"}),
        (NotFound(), {}),
        (ValidationFailed("no"), {}),
        (Internal(), {}),
    ],
)
def test_errors_have_the_headers_of_their_status(error: ServiceError, headers: dict[str, str]) -> None:
    rendered, body = render_error(error, "id-1")
    assert {name.decode(): value.decode() for name, value in rendered} == {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "x-request-id": "id-1",
        **headers,
    }


def test_errors_have_one_form() -> None:
    _, body = render_error(NotFound('no "café"'), "id-1")
    assert json.loads(body) == {"error": 'no "café"', "error_type": "not_found", "request_id": "id-1"}
    assert list(json.loads(body)) == list(ErrorResponse.model_fields)
