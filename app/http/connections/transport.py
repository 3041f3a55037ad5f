"""What a connection writes to, and what reads from it once nothing more is to be answered."""

import asyncio
from typing import Any, Final, Protocol, cast

SILENCE_S: Final = 0.5
"""How long a caller says nothing before a connection is closed on which a request was answered that has not arrived completely."""
DISCARD_BYTES: Final = 64 * 2**20
"""The most that is read after such an answer: 16 times the default limit of a body. Most callers read no answer before they have
sent everything, and closing with unread input would reset the connection before they see it."""
REST_S: Final = 0.02
"""The pause after each piece that is discarded, of at most 256 KiB: who pours in what nobody reads is held up, and nobody else."""

_BEGINNING: Final = b"HTTP/1.1 "
"""Of every answer."""


class Connection(Protocol):
    """What is known here of a connection."""

    loop: asyncio.AbstractEventLoop

    @property
    def is_amid_request(self) -> bool:
        """Whether a request has arrived in part."""

    def linger(self) -> None:
        """Write nothing more, discard what the caller still sends, and close."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note of the end."""


class Discard(asyncio.Protocol):
    """Reads and discards what the caller still sends, until it closes, is silent, or has sent too much or for too long."""

    def __init__(self, connection: Connection, transport: asyncio.Transport, for_s: float) -> None:
        self._connection = connection
        self._transport = transport
        self._ends_at = connection.loop.time() + for_s
        self._left = DISCARD_BYTES
        self._is_silent = True
        self._timer = connection.loop.call_later(SILENCE_S, self._tick)

    def data_received(self, data: bytes) -> None:
        self._is_silent = False
        self._left -= len(data)
        if self._left < 0:
            self._transport.abort()
        else:
            self._transport.pause_reading()
            self._connection.loop.call_later(REST_S, self._transport.resume_reading)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._connection.connection_lost(exc)

    def _tick(self) -> None:
        loop = self._connection.loop
        if self._is_silent or loop.time() > self._ends_at:
            self._transport.close()
        else:
            self._is_silent = True
            self._timer = loop.call_later(SILENCE_S, self._tick)


class CoalescingTransport:
    """Joins the writes of one iteration of the event loop; everything else is the real transport's.

    uvicorn writes head and body separately, and uvloop sends each write at once: two system calls, and two reads for the
    caller. What that costs: docs/decisions/0007-plain-asgi.md.
    """

    def __init__(self, transport: asyncio.BaseTransport, connection: Connection, close_within_s: float) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connection: Connection | None = connection
        self._loop = connection.loop
        self._close_within_s = close_within_s
        self._pieces: list[bytes] = []
        self._has_ended = False
        self._is_ahead = False

    def write(self, data: bytes) -> None:
        self._pieces.append(data)
        if len(self._pieces) == 1:
            self._loop.call_soon(self._flush)

    def write_ahead(self) -> None:
        """Write what the next answer begins with, unless that has been done."""
        if not self._is_ahead and not self._pieces:
            self._is_ahead = True
            self._transport.write(_BEGINNING)

    def write_eof(self) -> None:
        """Write nothing more, not even the answer of a request that still runs."""
        self._flush()
        self._transport.write_eof()
        self._has_ended = True

    def close(self) -> None:
        """Close once the caller has taken what was written, or when its time for that is over."""
        if self._connection is not None and self._connection.is_amid_request and not self.is_closing():
            self._connection.linger()
            return
        self._flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(self._close_within_s, self._transport.abort)

    def lost(self) -> None:
        """Let go of a connection that is lost. With TLS it has 60 KiB, which would else wait for the garbage collector."""
        self._connection = None

    def is_closing(self) -> bool:
        return self._has_ended or self._transport.is_closing()

    def _flush(self) -> None:
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            if not self._has_ended and not self._transport.is_closing():
                self._transport.write(b"".join(pieces)[len(_BEGINNING) if self._is_ahead else 0 :])
                self._is_ahead = False

    def abort(self) -> None:
        self._transport.abort()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the real transport has
        return getattr(self._transport, name)
