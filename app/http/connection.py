"""uvicorn's HTTP protocol with six changes.

- The head and body of a response are sent in one write. uvicorn writes them separately: two system calls and two packets.
- A connection has limits: the size of a request's head, the time for a request to arrive and for an answer to be taken, and the
  number of pipelined requests.
- A caller that closes its sending side still gets the answers to what it has sent.
- The header `Upgrade` is ignored.
- While the server shuts down, requests on open connections are still answered, each with `Connection: close`.
- Input that is not valid HTTP gets an error of the same JSON form as all others.
"""

import asyncio
import logging
from time import monotonic
from typing import Any, Final, NoReturn, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.errors import HeadTooLarge, InvalidHttp, RequestTimeout, ServiceError, TooManyPipelined
from app.http.asgi import READ_AT, STALLED, new_request_id, render_error
from app.http.half_closed import HalfClosed

log = logging.getLogger(__name__)

HEAD_BYTES: Final = 64 * 1024
"""The maximum size of a head, and of any other input that yields neither a head nor body data (trailers, chunk extensions)."""
PIPELINED: Final = 128
"""The maximum number of requests that wait for the response to an earlier one: each takes kilobytes, but few bytes to send."""
LINGER_S: Final = 0.5
"""How long a connection stays open before it is closed: during a shutdown, for requests that are already in flight; after a
refusal, so that a TCP reset does not discard the response before the caller has read it."""


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, read_timeout_s: float, **options: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(*arguments, **options)
        self._read_timeout_s = read_timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._latest: RequestResponseCycle | None = None  # of the last head
        self._is_between = True  # no request has arrived in part
        self._idle_bytes = 0  # read since the last head or body data
        self._fault: ServiceError | None = None  # why a callback stopped the parser
        self._is_draining = False
        self._half_closed: HalfClosed | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(
            cast("asyncio.Transport", _CoalescingTransport(transport, self.loop, self._read_timeout_s))
        )
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_unread_timer()
        if self._half_closed is not None:
            self._half_closed.stop()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's says nothing, which closes the connection
        """Keep the connection if the caller has sent whole requests and waits for their answers."""
        if not self._is_between or self._latest is None or self._latest.response_complete:
            self.transport.close()  # after the answer that was just written
            return False
        self._latest.keep_alive = False
        self._half_closed = HalfClosed(cast("_CoalescingTransport", self.transport), self._is_answer_next)
        return True

    def _is_answer_next(self) -> bool:
        return self._latest is not None and not self._latest.response_started and not self.pipeline

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(self._read_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_unread_timer()

    def _stop_unread_timer(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._idle_bytes += len(data)
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stopped:
                self._parse_without_upgrade(data[stopped.args[0] :])
        except httptools.HttpParserError:
            self._refuse(self._fault or _NO_HTTP)
            return
        if self._is_between and self._latest is not None and not self._latest.response_complete:
            if self._timer is not None:
                self._stop_timer()  # the server's turn
        elif self._idle_bytes > HEAD_BYTES:
            self._refuse(_HEAD_TOO_LARGE)
        elif self._timer is None:
            self._start_timer()

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Parse a head again without its `Upgrade`, and then `rest`, which the parser took for another protocol's data.

        Java's HttpClient offers h2c this way, on requests with a body.
        """
        while True:
            head = self._head_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            data = head + rest
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stopped:
                rest = data[stopped.args[0] :]
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            raise httptools.HttpParserError
        headers = b"".join(b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade")
        return b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, version, headers)

    # Callbacks of the parser. Some replace uvicorn's instead of calling them: the calls would cost as much as the methods do.

    def on_url(self, url: bytes) -> None:
        self._is_between = False
        self.url += url

    def on_headers_complete(self) -> None:
        if self._idle_bytes > HEAD_BYTES and self._head_bytes() > HEAD_BYTES:
            self._stop_parser(_HEAD_TOO_LARGE)
        super().on_headers_complete()
        if self.cycle is self._latest:
            return  # it has an `Upgrade`, and will be parsed again
        self._latest = self.cycle
        self._idle_bytes = 0
        self.headers = _NO_TRAILERS
        if self.pipeline and len(self.pipeline) > PIPELINED:
            self._stop_parser(_TOO_MANY)
        if self._is_draining:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._idle_bytes = 0
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._is_between = True
        self.scope[READ_AT] = monotonic()  # type: ignore[typeddict-unknown-key]
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def _should_upgrade(self) -> bool:
        return True  # so uvicorn does not start a request

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _stop_parser(self, fault: ServiceError) -> NoReturn:
        self._fault = fault
        raise httptools.HttpParserError

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self._read_timeout_s, self._time_is_up)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _time_is_up(self) -> None:
        cycle = self._latest
        is_its_body = cycle is not None and cycle.scope is self.scope
        if self.flow.read_paused:
            self._start_timer()  # the server has paused it
        elif cycle is not None and not cycle.response_complete:
            if is_its_body:
                self.scope[STALLED] = True  # type: ignore[typeddict-unknown-key]
                cycle.message_event.set()  # wakes who waits for the rest of the body
            else:
                cycle.keep_alive = False
        elif self._is_between or is_its_body:
            self.transport.close()
        else:
            self._refuse(RequestTimeout())

    def _refuse(self, error: ServiceError) -> None:
        """Send an error, ignore all further input, and close."""
        request_id = new_request_id()
        log.warning("refused input: %s", error.message, extra={"request_id": request_id})
        headers, body = render_error(error, request_id)
        head = b"".join(b"%s: %s\r\n" % header for header in {**dict(headers), b"connection": b"close"}.items())
        self.transport.write(b"%s%s\r\n%s" % (STATUS_LINE[error.status], head, body))
        self.transport.write_eof()
        self.pipeline.clear()
        if self._latest is not None:
            self._latest.disconnected = True
            self._latest.message_event.set()
        self.flow.resume_reading()
        self.transport.set_protocol(_Discard(self))
        self._stop_timer()
        self._timer = self.loop.call_later(LINGER_S, self.transport.close)

    def shutdown(self) -> None:
        """Answer what is in flight with `Connection: close`, and close the connection once it is idle."""
        self._is_draining = True
        if self._latest is not None and not self._latest.response_complete:
            self._latest.keep_alive = False
        elif self._is_between:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(LINGER_S, self.timeout_keep_alive_handler)
        elif self._latest is not None and self._latest.scope is self.scope:
            self.transport.close()  # already answered, only the rest of its body is missing


class _Discard(asyncio.Protocol):
    """Reads and discards what the caller still sends: closing with unread input would reset the connection."""

    def __init__(self, connection: HttpProtocol) -> None:
        self._connection = connection

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)


class _NoTrailers(list[tuple[bytes, bytes]]):
    """Receives the headers of trailers, which nobody reads and whose number is not limited."""

    def append(self, header: tuple[bytes, bytes], /) -> None:
        pass


class _CoalescingTransport:
    """Joins the writes of one iteration of the event loop; everything else is the real transport's.

    uvicorn writes head and body separately, and uvloop sends each write at once: two system calls, and two reads for the
    caller. What that costs: docs/decisions/0007-plain-asgi.md.
    """

    def __init__(
        self, transport: asyncio.BaseTransport, loop: asyncio.AbstractEventLoop, close_within_s: float
    ) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._loop = loop
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
        self._flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(self._close_within_s, self._transport.abort)

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


_BEGINNING: Final = b"HTTP/1.1 "
"""Of every answer."""
_NO_TRAILERS: Final = _NoTrailers()
_NO_HTTP: Final = InvalidHttp()
_HEAD_TOO_LARGE: Final = HeadTooLarge(f"The head is over {HEAD_BYTES} bytes. Send fewer or shorter headers.")
_TOO_MANY: Final = TooManyPipelined(f"Over {PIPELINED} requests wait on this connection. Read their answers first.")
