"""uvicorn's HTTP protocol, with three things otherwise.

An answer's head and body leave in one piece: uvicorn writes them one after the other, which is two system calls here and
two packets on the way. An offer of another protocol is passed over, and what is no HTTP at all is told in the shape of
every other error.
"""

import asyncio
import re
import secrets
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.errors import InvalidJson
from app.schemas import ErrorResponse

# Java's HttpClient offers h2c with every request. httptools would stop there and skip the body.
_OFFER: Final = re.compile(rb"\r\nupgrade:", re.IGNORECASE)
_IGNORED: Final = b"\r\nx-offer:"
"""As long as the offer. In a JSON body neither can stand: a line break is not allowed in a string."""


class WholeAnswers(HttpToolsProtocol):
    """Joins what is written in one turn of the event loop."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast("asyncio.Transport", _JoiningTransport(transport, self.loop)))

    def data_received(self, data: bytes) -> None:
        super().data_received(_OFFER.sub(_IGNORED, data))

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        error = ErrorResponse(
            error="This cannot be read as an HTTP/1.1 request. Check its Content-Length, its headers and its path.",
            error_type=InvalidJson.error_type,
            request_id=secrets.token_hex(8),
        )
        body = error.model_dump_json().encode()
        self.transport.write(
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"x-request-id: %s\r\ncontent-length: %d\r\n\r\n%s" % (error.request_id.encode(), len(body), body)
        )
        self.transport.close()


class _JoiningTransport:
    """A transport that writes at the end of the turn; everything else is the real one's."""

    def __init__(self, transport: asyncio.BaseTransport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loop = loop
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._pieces.append(data)
        if len(self._pieces) == 1:
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            self._transport.write(b"".join(pieces))

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the real transport has
        return getattr(self._transport, name)
