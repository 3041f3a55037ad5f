"""Compress large answers for callers that accept it."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, overload

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ServiceError
from app.http.api import Raw
from app.http.asgi import Header, all_of
from app.http.compression.zstd import zstd
from app.http.large_work import LargeWork

LEAST_BYTES: Final = 2048
"""Smaller answers fit into a packet or two anyway."""
INLINE_BYTES: Final = 65536
"""Larger ones, which take over about 0.5 ms, are compressed in a thread."""
_LEVEL: Final = 1
"""Of both: higher ones take several times as long for a few percent (docs/decisions/0022-compressed-answers.md)."""


def _gzip(body: bytes) -> bytes:
    return zlib.compress(body, _LEVEL, wbits=zlib.MAX_WBITS + 16)


def _zstd(body: bytes) -> bytes:
    return zstd.compress(body, _LEVEL)


_CODINGS: Final[Mapping[str, Callable[[bytes], bytes]]] = {"zstd": _zstd, "gzip": _gzip}
"""The first that a caller likes most is used."""


class Compressor:
    """Compresses answers. Use it on the event loop."""

    def __init__(self, large: LargeWork) -> None:
        """Take the threads for what is large."""
        self._large: Final = large

    @overload
    async def compressed(self, scope: Scope, answer: Raw) -> Raw: ...
    @overload
    async def compressed(self, scope: Scope, answer: bytes | Raw) -> bytes | Raw: ...

    async def compressed(self, scope: Scope, answer: bytes | Raw) -> bytes | Raw:
        """Return an answer as the caller likes it: compressed, or as it is if it is small, an error, or nothing else is accepted.

        Args:
            scope: Of the request.
            answer: JSON, or anything else.
        """
        body, status = (answer.body, answer.status) if isinstance(answer, Raw) else (answer, 200)
        if len(body) < LEAST_BYTES or status != 200:
            return answer
        if not isinstance(answer, Raw):
            answer = Raw(body, b"application/json")
        coding = accepted(scope)
        if coding is None:
            return Raw(body, answer.content_type, [*answer.headers, _VARY])
        compress = partial(_CODINGS[coding], body)
        if len(body) <= INLINE_BYTES:
            body = compress()
        else:
            try:
                body = await self._large.compress(compress, len(body))
            except ServiceError:  # there is no room for another thread, or it is late: the answer is right without
                return Raw(body, answer.content_type, [*answer.headers, _VARY])
        encoded = (b"content-encoding", coding.encode())
        return Raw(body, answer.content_type, [*map(_weakened, answer.headers), _VARY, encoded])


class CompressingApplication:
    """An ASGI application whose answers are compressed, but for those that it sends in parts."""

    def __init__(self, application: ASGIApp, compressor: Compressor) -> None:
        self._application: Final = application
        self._compressor: Final = compressor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message | None = None

        async def send_compressed(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if start is not None:
                if not message.get("more_body", False):
                    message = {**message, "body": await self._compress(scope, start, message.get("body", b""))}
                await send(start)
                start = None
            await send(message)

        await self._application(scope, receive, send_compressed)

    async def _compress(self, scope: Scope, start: Message, body: bytes) -> bytes:
        """Return the body of an answer, and change its headers."""
        headers: Sequence[Header] = start["headers"]
        others = [one for one in headers if one[0] not in (b"content-length", b"content-encoding")]
        if len(others) != len(headers) - 1:  # it is compressed already
            return body
        answer = await self._compressor.compressed(scope, Raw(body, b"", others, start["status"]))
        start["headers"] = [*answer.headers, (b"content-length", str(len(answer.body)).encode())]
        return answer.body


def accepted(scope: Scope) -> str | None:
    """Return the coding that `Accept-Encoding` prefers, zstd or gzip; None for none."""
    qualities: dict[str, float] = {}
    for item in all_of(scope, b"accept-encoding").lower().split(","):
        name, _, parameter = item.partition(";")
        qualities[name.strip().removeprefix("x-")] = _quality(parameter)
    rest = qualities.get("*", 0.0)
    best = max(_CODINGS, key=lambda coding: qualities.get(coding, rest))
    quality = qualities.get(best, rest)
    return best if quality > 0 and quality >= qualities.get("identity", 0.0) else None


def _quality(parameter: str) -> float:
    """Return the weight of an item, from 0 to 1, which is 0 if it cannot be read."""
    name, _, number = parameter.partition("=")
    if not name.strip():
        return 1.0
    number = number.strip()
    is_read = name.strip() == "q" and number.replace(".", "", 1).isdecimal() and number.isascii() and len(number) <= 5
    return float(number) if is_read else 0.0


def _weakened(header: Header) -> Header:
    """Return a header; an ETag as a weak one, as the same is sent in other bytes."""
    name, value = header
    return (name, b"W/" + value) if name == b"etag" and not value.startswith(b"W/") else header


_VARY: Final[Header] = (b"vary", b"Accept-Encoding")
