"""uvicorn's HTTP protocol with six changes.

- The head and body of a response are sent in one write. uvicorn writes them separately: two system calls and two packets.
- A connection has limits: the size of a request's head and of what frames its body, the time for a request to arrive and for an
  answer to be taken, and the number of pipelined requests.
- An answer to a request that has not arrived completely ends the connection. What its caller still sends is read no further than
  so that the caller sees the answer, and is not parsed.
- A caller that closes its sending side still gets the answers to what it has sent, unless it speaks TLS.
- The header `Upgrade` is ignored.
- While the server shuts down, requests on open connections are still answered, each with `Connection: close`.
- Input that is not valid HTTP gets an error of the same JSON form as all others.
"""

import asyncio
from collections.abc import Iterable
from time import monotonic
from typing import Any, Final, NoReturn, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.errors import HeadTooLarge, RequestTimeout, ServiceError, TooManyPipelined
from app.http.asgi import CERTIFICATE, READ_AT, STALLED, new_request_id, render_error
from app.http.callers import UNIX
from app.http.connections.half_closed import HalfClosed
from app.http.connections.no_http import no_http
from app.http.connections.tls_transport import TlsTransport
from app.http.connections.transport import CoalescingTransport, Discard
from app.http.finished import Finished
from app.http.listening.tls import name_in

HEAD_BYTES: Final = 64 * 1024
"""The maximum size of a head; and how much more than a body what frames it may take (sizes of chunks, their extensions, trailers):
parsing a chunk of one byte takes as long as parsing one of 64 KiB."""
HEADERS: Final = 1000
"""The maximum number of headers: they are searched for several times, and 64 KiB hold 16,000."""
PIPELINED: Final = 128
"""The maximum number of requests that wait for the response to an earlier one: each takes kilobytes, but few bytes to send."""
LINGER_S: Final = 0.5
"""How long an idle connection stays open during a shutdown, for requests that are already in flight."""


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        *arguments: Any,  # noqa: ANN401 - uvicorn's
        read_timeout_s: float,
        finished: Finished,
        **options: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*arguments, **options)
        self._finished = finished
        self._read_timeout_s = read_timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._latest: RequestResponseCycle | None = None  # of the last head
        self._is_between = True  # no request has arrived in part
        self._framing_bytes = (
            0  # read since the last head, less twice those of the body: once as such, once as its allowance
        )
        self._with_head_bytes = 0  # of the latest head and of what came in one piece with it, until the first chunk
        self._may_stay = False  # whether the connection stays open once the latest request has arrived
        self._fault: ServiceError | None = None  # why a callback stopped the parser
        self._is_draining = False
        self._half_closed: HalfClosed | None = None
        self._discard: Discard | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        secured = transport.get_extra_info("sslcontext") is not None
        kind = TlsTransport if secured else CoalescingTransport
        super().connection_made(cast("asyncio.Transport", kind(transport, self, self._read_timeout_s)))
        if self.client is None and self.server is not None and self.server[1] is None:
            self.client = (UNIX, 0)
        if secured and (name := name_in(transport.get_extra_info("peercert"))):
            self.app_state = {CERTIFICATE: name}  # which uvicorn hands over with each request
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_unread_timer()
        if self._half_closed is not None:
            self._half_closed.stop()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves it to its time if the connection was reset
        cast("CoalescingTransport", self.transport).lost()
        self._half_closed = self._discard = None

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's says nothing, which closes the connection
        """Keep the connection if the caller has sent whole requests and waits for their answers, which TLS cannot."""
        if self.scheme == "https" or not self._is_between or self._latest is None or self._latest.response_complete:
            self.transport.close()  # after the answer that was just written
            return False
        self._latest.keep_alive = False
        self._half_closed = HalfClosed(cast("CoalescingTransport", self.transport), self._is_answer_next)
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
        self._framing_bytes += len(data)
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stopped:
                self._parse_without_upgrade(data[stopped.args[0] :])
        except httptools.HttpParserError:
            self._refuse(self._fault or no_http(b"" if self._latest is not None else data))
            return
        if self._is_between and self._latest is not None and not self._latest.response_complete:
            if self._timer is not None:
                self._stop_timer()  # the server's turn
        elif self._framing_bytes > HEAD_BYTES:
            self._refuse(_FRAMING_TOO_LARGE if self._is_amid_body else _HEAD_TOO_LARGE)
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
        if self._framing_bytes > HEAD_BYTES and self._head_bytes(self.headers) > HEAD_BYTES:
            self._stop_parser(_HEAD_TOO_LARGE)
        if len(self.headers) > HEADERS:
            self._stop_parser(_TOO_MANY_HEADERS)
        super().on_headers_complete()
        if self.cycle is self._latest:
            return  # it has an `Upgrade`, and will be parsed again
        self._latest = self.cycle
        if self._framing_bytes > HEAD_BYTES:
            # What else has come with it in one piece may be of its body, and is counted with that.
            self._framing_bytes -= self._head_bytes(self.headers)
            self._with_head_bytes = 0
        else:
            self._with_head_bytes, self._framing_bytes = self._framing_bytes, 0
        self.headers = _NO_TRAILERS
        if self.pipeline and len(self.pipeline) > PIPELINED:
            self._stop_parser(_TOO_MANY)
        self._may_stay = self.cycle.keep_alive and not self._is_draining
        self.cycle.keep_alive = False  # until it has arrived completely

    def on_chunk_header(self) -> None:
        if self._with_head_bytes:
            self._framing_bytes += self._with_head_bytes - self._head_bytes(self.scope["headers"])
            self._with_head_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._framing_bytes -= 2 * len(body)
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
        self._framing_bytes = max(self._framing_bytes, 0)
        self.scope[READ_AT] = monotonic()  # type: ignore[typeddict-unknown-key]
        cycle = self.cycle
        if not cycle.response_complete:
            if not cycle.response_started:
                cycle.keep_alive = self._may_stay
            cycle.more_body = False
            cycle.message_event.set()

    def _should_upgrade(self) -> bool:
        return True  # so uvicorn does not start a request

    def _head_bytes(self, headers: Iterable[tuple[bytes, bytes]]) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in headers)

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
        if self.flow.read_paused:
            self._start_timer()  # the server has paused it
        elif cycle is not None and not cycle.response_complete:
            if self._is_amid_body:
                self.scope[STALLED] = True  # type: ignore[typeddict-unknown-key]
                cycle.message_event.set()  # wakes who waits for the rest of the body
            else:
                cycle.keep_alive = False
        elif self._is_between:
            self.transport.close()
        else:
            self._refuse(RequestTimeout())

    def _refuse(self, error: ServiceError) -> None:
        """Send an error, ignore all further input, and close."""
        request_id = new_request_id()
        self._finished.input(self.client, error, request_id)
        headers, body = render_error(error, request_id)
        head = b"".join(b"%s: %s\r\n" % header for header in {**dict(headers), b"connection": b"close"}.items())
        self.transport.write(b"%s%s\r\n%s" % (STATUS_LINE[error.status], head, body))
        self.linger()

    @property
    def is_amid_request(self) -> bool:
        """Whether a request has arrived in part."""
        return not self._is_between

    @property
    def _is_amid_body(self) -> bool:
        return not self._is_between and self._latest is not None and self._latest.scope is self.scope

    def linger(self) -> None:
        """Write nothing more, discard what the caller still sends, and close."""
        self.transport.write_eof()
        self.pipeline.clear()
        if self._latest is not None:
            self._latest.disconnected = True
            self._latest.message_event.set()
        self.flow.resume_reading()
        self._stop_timer()
        self._discard = Discard(self, self.transport, self._read_timeout_s)
        self.transport.set_protocol(self._discard)

    def shutdown(self) -> None:
        """Answer what is in flight with `Connection: close`, and close the connection once it is idle."""
        self._is_draining = True
        self._may_stay = False
        if self._discard is not None:
            self.transport.close()
        elif self._latest is not None and not self._latest.response_complete:
            self._latest.keep_alive = False
        elif self._is_between:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(LINGER_S, self.timeout_keep_alive_handler)


class _NoTrailers(list[tuple[bytes, bytes]]):
    """Receives the headers of trailers, which nobody reads and whose number is not limited."""

    def append(self, header: tuple[bytes, bytes], /) -> None:
        pass


_NO_TRAILERS: Final = _NoTrailers()
_HEAD_TOO_LARGE: Final = HeadTooLarge(f"The head is over {HEAD_BYTES} bytes. Send fewer or shorter headers.")
_FRAMING_TOO_LARGE: Final = HeadTooLarge(
    f"What frames the body is over {HEAD_BYTES} bytes more than the body. Send larger chunks, or a Content-Length."
)
_TOO_MANY_HEADERS: Final = HeadTooLarge(f"The head has over {HEADERS} headers. Send fewer.")
_TOO_MANY: Final = TooManyPipelined(f"Over {PIPELINED} requests wait on this connection. Read their answers first.")
