"""What uvicorn's protocol lacks: limits to what a caller may send, offers passed over, and an end that loses nothing."""

import asyncio
import json
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import uvicorn
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.server import ServerState

from app.errors import ServiceError
from app.http.asgi import READ_AT, ClientGone, answer_headers, read_body, render_error, respond
from app.http.callers import Callers
from app.http.connections import connection as protocol
from app.http.connections import transport
from app.http.connections.connection import HEAD_BYTES, HEADERS, PIPELINED, HttpProtocol
from app.http.finished import Finished
from app.http.listening.tcp import bind
from app.telemetry.metrics import Metrics
from tests.e2e.wire import Wire, head, message, wire
from tests.support import eventually, uncollected

READ_TIMEOUT_S = 60.0
LONG_S = 600.0


def finished() -> Finished:
    """Where refusals are told, in the log only."""
    return Finished(Metrics(), None, Callers(""))


class Echo:
    """An ASGI application that answers with what it was sent, and keeps what it saw."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.reads_bodies = True
        self.repeats = 1

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        try:
            body = await read_body(scope, receive, 2**20) if self.reads_bodies else b""
            if not self.may_answer.is_set():
                await asyncio.to_thread(self.may_answer.wait)
            body *= self.repeats
            await respond(send, 200, answer_headers(body, "id"), body)
        except ClientGone:
            pass
        except ServiceError as error:
            await respond(send, error.status, *render_error(error, "id"))


class Running:
    """uvicorn on a port of its own, in a thread."""

    def __init__(self, app: Echo, read_timeout_s: float) -> None:
        self.app = app
        [self._listener] = bind(["127.0.0.1"], 0)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        make: Any = partial(HttpProtocol, read_timeout_s=read_timeout_s, finished=finished())
        config = uvicorn.Config(
            app, http=make, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=30
        )
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=uvloop.run, args=(self._serve(),))
        self._thread.start()
        eventually(lambda: self.server.started)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self.server.serve(sockets=[self._listener])

    @property
    def connections(self) -> Sequence[Any]:
        return list(self.server.server_state.connections)

    def run_out(self) -> None:
        """Let the time be over that requests have to arrive."""

        async def run_out() -> None:
            for connection in self.connections:
                if connection._timer is not None:
                    connection._timer.cancel()
                    connection._time_is_up()

        eventually(lambda: any(one._timer is not None for one in self.connections))
        asyncio.run_coroutine_threadsafe(run_out(), self._loop).result(30)

    def stop(self) -> None:
        """Ask for the end, as a signal does."""
        self.server.should_exit = True

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


@contextmanager
def running(read_timeout_s: float = READ_TIMEOUT_S) -> Iterator[Running]:
    one = Running(Echo(), read_timeout_s)
    try:
        yield one
    finally:
        one.app.may_answer.set()
        one.stop()
        one.join()


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    with running() as one:
        yield one


@pytest.fixture
def line(shared: Running) -> Iterator[Wire]:
    with wire(shared.url) as line:
        yield line


def refusal(line: Wire, status: int, error_type: str) -> str:
    """What is told on a connection that is then closed."""
    reply = line.reply()
    assert reply.status == status
    assert reply.json["error_type"] == error_type
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["connection"] == "close"
    assert line.is_closed()
    return reply.error


def padded(size: int, *headers: str) -> bytes:
    """A head of this size: that of its target and its headers, as they are written."""
    plain = head("Content-Length: 2", *headers, "x-padding: ")
    lines = plain.split(b"\r\n")
    counted = len("/v1/classify") + sum(len(one) + 2 for one in lines[1:-2])
    return plain[:-4] + b"a" * (size - counted) + b"\r\n\r\n"


# What a request may take


def test_a_head_of_just_the_limit_is_read(line: Wire) -> None:
    for _ in range(2):
        line.send(padded(HEAD_BYTES) + b"{}")
        assert line.reply().body == b"{}"


def test_a_head_over_the_limit_is_refused(line: Wire) -> None:
    line.send(padded(HEAD_BYTES + 1) + b"{}")
    assert f"over {HEAD_BYTES} bytes" in refusal(line, 431, "head_too_large")


def test_a_large_body_in_the_same_piece_does_not_count_as_head(line: Wire) -> None:
    body = b"a" * 200_000
    line.send(message(body))
    assert line.reply().body == body


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(head()[:-2] + b"x-endless: ", id="a header"),
        pytest.param(b"POST /", id="a target"),
        pytest.param(head("Transfer-Encoding: chunked") + b"1\r\na\r\n0\r\nx-endless: ", id="a trailer"),
        pytest.param(head("Transfer-Encoding: chunked") + b"1;x=", id="an extension of a chunk"),
    ],
)
def test_endless_input_is_refused(line: Wire, begin: bytes) -> None:
    line.send(begin + b"a" * (10 * HEAD_BYTES))
    refusal(line, 431, "head_too_large")


def test_a_caller_that_goes_on_after_a_refusal_is_cut_off(line: Wire) -> None:
    def send_headers() -> None:
        while True:
            line.send(b"x: " + b"a" * 10_000 + b"\r\n")

    line.send(head()[:-2])
    with pytest.raises(OSError, match=r"reset|Broken"):
        send_headers()


@pytest.mark.parametrize("framing", ["Content-Length: 3000000", "Transfer-Encoding: chunked"])
def test_who_goes_on_sending_an_answered_body_sees_the_answer(framing: str) -> None:
    with running() as server, wire(server.url) as line:
        server.app.reads_bodies = False
        line.send(head(framing))
        eventually(lambda: server.app.scopes)
        line.send(b"not chunks" * 200_000)  # nothing parses it
        reply = line.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert line.is_closed()


def test_who_pours_in_an_answered_body_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "DISCARD_BYTES", 2**20)
    with running() as server, wire(server.url) as line:
        server.app.reads_bodies = False
        line.send(head("Content-Length: 100000000000"))
        assert line.reply().headers["connection"] == "close"
        with pytest.raises(OSError, match=r"reset|Broken"):
            line.send(b"a" * 2**26)


def test_an_answered_body_is_not_waited_for() -> None:
    with running() as server, wire(server.url) as line:
        server.app.reads_bodies = False
        line.send(head("Content-Length: 5"))
        assert line.reply().headers["connection"] == "close"
        assert line.is_closed()


def test_an_answer_to_a_whole_request_leaves_the_connection_open(line: Wire, shared: Running) -> None:
    for size in (0, 5, 300_000):
        line.send(message(b"a" * size))
        assert "connection" not in line.reply().headers


@pytest.mark.parametrize("in_one_piece", [False, True])
@pytest.mark.parametrize(("size", "is_read"), [(1, False), (4, False), (16, True), (1000, True)])
def test_chunks_may_not_take_much_more_than_what_they_hold(
    line: Wire, size: int, is_read: bool, in_one_piece: bool
) -> None:
    body = b"a" * (400_000 // size * size)
    chunks = b"%x\r\n%s\r\n" % (size, b"a" * size) * (len(body) // size)
    with_head = 60_000 if in_one_piece else 0
    line.send(head("Transfer-Encoding: chunked") + chunks[:with_head])
    line.send(chunks[with_head:] + b"0\r\n\r\n")
    if is_read:
        assert line.reply().body == body
    else:
        assert "Send larger chunks" in refusal(line, 431, "head_too_large")


def test_small_chunks_of_a_small_body_are_read(line: Wire) -> None:
    line.send(head("Transfer-Encoding: chunked") + b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n")
    assert line.reply().body == b"a" * 10_000


def test_headers_are_counted(line: Wire) -> None:
    def headers(count: int) -> bytes:
        return head("Content-Length: 2", *["a:"] * (count - 2)) + b"{}"

    line.send(headers(HEADERS))
    assert line.reply().body == b"{}"
    line.send(headers(HEADERS + 1))
    assert f"over {HEADERS} headers" in refusal(line, 431, "head_too_large")


def test_headers_after_a_body_are_not_kept(shared: Running, line: Wire) -> None:
    line.send(head("Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n" + b"x-trailer: 1\r\n" * 100 + b"\r\n")
    assert line.reply().body == b"{}"
    assert b"x-trailer" not in dict(shared.app.scopes[-1]["headers"])
    line.send(message(b"next"))
    assert line.reply().body == b"next"


def test_requests_that_wait_behind_another_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    with running() as server, wire(server.url) as line, wire(server.url) as greedy:
        server.app.may_answer.clear()
        line.send(message(b"a") * (PIPELINED + 1))
        greedy.send(message(b"a") * (PIPELINED + 2))
        assert "wait on this connection" in refusal(greedy, 400, "too_many_pipelined")
        server.app.may_answer.set()
        assert [line.reply().body for _ in range(PIPELINED + 1)] == [b"a"] * (PIPELINED + 1)
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # nor was there a fault in what was under way


# How long it may take


@pytest.mark.parametrize("how", ["closed", "reset", "refused", "half closed"])
def test_nothing_is_left_of_a_connection_that_is_lost(how: str) -> None:
    """Not even for the garbage collector, whose rounds are rare in a server."""
    with running() as server, uncollected():
        with wire(server.url) as line:
            eventually(lambda: server.connections)
            [left] = map(weakref.ref, server.connections)
            line.send(b"nonsense" if how == "refused" else message(b"text"))
            if how == "half closed":
                line.close_sending_side()
            line.reply()
            if how == "reset":
                line.reset_when_closed()
        eventually(lambda: left() is None)


def test_a_silent_connection_is_closed() -> None:
    with running(0.05) as server, wire(server.url) as line:
        assert line.is_closed()


@pytest.mark.parametrize("begin", [b"POST /v1/cl", head()[:-2]])
def test_a_head_that_does_not_end_is_a_timeout(begin: bytes) -> None:
    with running() as server, wire(server.url) as line:
        line.send(begin)
        eventually(lambda: [one._framing_bytes for one in server.connections] == [len(begin)])
        server.run_out()
        assert "BERT_READ_TIMEOUT_S" in refusal(line, 408, "timeout")


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_a_body_that_does_not_end_is_a_timeout(framing: str) -> None:
    with running() as server, wire(server.url) as line:
        line.send(head(framing) + b"2\r\n{}")
        eventually(lambda: server.app.scopes)
        server.run_out()
        assert "BERT_READ_TIMEOUT_S" in refusal(line, 408, "timeout")


def test_line_ends_between_requests_keep_no_connection_open() -> None:
    with running() as server, wire(server.url) as line:
        line.send(message(b"a"))
        assert line.reply().status == 200
        line.send(b"\r\n")
        server.run_out()
        assert line.is_closed()


def test_an_answer_is_not_cut_short_by_a_request_that_follows_too_slowly() -> None:
    with running() as server, wire(server.url) as line:
        server.app.may_answer.clear()
        line.send(message(b"a") + b"POST /")
        eventually(lambda: server.app.scopes)
        server.run_out()
        server.app.may_answer.set()
        reply = line.reply()
        assert (reply.body, reply.headers["connection"]) == (b"a", "close")
        assert line.is_closed()


def test_the_read_timeout_stops_while_the_server_works() -> None:
    with running() as server, wire(server.url) as line:

        def timed() -> list[bool]:
            return [one._timer is not None for one in server.connections]

        eventually(lambda: timed() == [True])  # its first request
        server.app.may_answer.clear()
        line.send(message(b"a"))
        eventually(lambda: timed() == [False])  # the answer
        server.app.may_answer.set()
        line.reply()
        eventually(lambda: server.connections[0].timeout_keep_alive_task is not None)
        assert timed() == [False]  # the next request, for which uvicorn has a timer
        line.send(b"POST")
        eventually(lambda: timed() == [True])
        line.send(message(b"b")[4:])
        assert line.reply().body == b"b"
        assert timed() == [False]


def test_a_request_has_arrived_with_its_last_byte() -> None:
    sent = message(b"abc")
    with running() as server, wire(server.url) as line:
        line.send(sent[:-1])
        eventually(lambda: server.app.scopes)
        [scope] = server.app.scopes
        assert READ_AT not in scope
        before = time.monotonic()
        line.send(sent[-1:])
        line.reply()
        assert before < scope[READ_AT] < time.monotonic()


# Offers of another protocol

OFFER = b"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk"


class Transport:
    """Takes what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def answered(pieces: Sequence[bytes]) -> tuple[bytes, Echo]:
    """What is answered to requests that are read in these pieces."""

    async def answered() -> tuple[bytes, Echo]:
        app, far_end = Echo(), Transport()
        config = uvicorn.Config(app, ws="none", lifespan="off", log_config=None)
        config.load()
        connection = HttpProtocol(config, ServerState(), {}, read_timeout_s=READ_TIMEOUT_S, finished=finished())
        connection.connection_made(far_end)  # type: ignore[arg-type]
        for piece in pieces:
            connection.data_received(piece)
            await asyncio.sleep(0)
        while connection.tasks:
            await asyncio.gather(*connection.tasks)
        await asyncio.sleep(0)
        connection.connection_lost(None)
        return far_end.written, app

    return asyncio.run(answered())


def offering(body: bytes, offer: bytes = OFFER) -> bytes:
    plain = message(body)
    return plain.replace(b"\r\nHost", offer + b"\r\nHost", 1)


@pytest.mark.parametrize("name", [b"Upgrade", b"upgrade", b"UPGRADE"])
@pytest.mark.parametrize("value", [b"h2c", b"websocket", b"TLS/1.0"])
def test_an_offer_is_ignored_in_pieces_of_any_size(name: bytes, value: bytes) -> None:
    offer = b"\r\nConnection: Upgrade\r\n" + name + b": " + value
    plain, _ = answered([message(b"{}")])
    request = offering(b"{}", offer)
    for i in range(1, len(request)):
        told, app = answered([request[:i], request[i:]])
        assert told == plain
        headers = dict(app.scopes[0]["headers"])
        assert b"upgrade" not in headers
        assert headers[b"content-length"] == b"2"
        assert app.scopes[0]["path"] == "/v1/classify"


def test_every_request_of_a_connection_may_offer() -> None:
    chunked = head("Transfer-Encoding: chunked").replace(b"\r\nHost", OFFER + b"\r\nHost", 1) + b"2\r\n{}\r\n0\r\n\r\n"
    requests = [offering(b"one"), chunked, message(b"three"), offering(b""), offering(b"five")]
    told, app = answered([b"".join(requests)])
    assert [part.split(b"\r\n\r\n")[-1] for part in told.split(b"HTTP/1.1 200 OK")[1:]] == [
        b"one", b"{}", b"three", b"", b"five",
    ]  # fmt: skip
    assert len(app.scopes) == len(requests)


@given(st.binary(), st.lists(st.integers(0, 400), max_size=4))
def test_a_body_is_left_as_it_is(body: bytes, cuts: list[int]) -> None:
    body += b"\r\nUpgrade: h2c\r\n" + body
    request = offering(body)
    places = [0, *sorted(min(cut, len(request)) for cut in cuts), len(request)]
    told, _ = answered([request[a:b] for a, b in pairwise(places) if a < b])
    assert told.endswith(b"\r\n\r\n" + body)


def test_an_offer_does_not_hide_a_long_head(line: Wire) -> None:
    line.send(padded(HEAD_BYTES + 1, "Connection: Upgrade", "Upgrade: h2c") + b"{}")
    refusal(line, 431, "head_too_large")


def test_connect_is_refused(line: Wire) -> None:
    line.send(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
    refusal(line, 400, "invalid_http")


# The end


def test_while_draining_a_request_in_flight_is_answered_with_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LINGER_S", LONG_S)
    with running() as server, wire(server.url) as used, wire(server.url) as fresh, wire(server.url) as amid:
        used.send(message(b"a"))
        assert used.reply().body == b"a"
        amid.send(b"POST /v1/cl")
        eventually(lambda: sorted(one._framing_bytes for one in server.connections) == [0, 0, 11])
        server.stop()
        eventually(lambda: all(one._is_draining for one in server.connections))
        used.send(message(b"b"))
        fresh.send(message(b"c"))
        amid.send(message(b"d").removeprefix(b"POST /v1/cl"))
        for line, body in ((used, b"b"), (fresh, b"c"), (amid, b"d")):
            reply = line.reply()
            assert (reply.body, reply.headers["connection"]) == (body, "close")
            assert line.is_closed()
        server.join()


def test_while_draining_pipelined_requests_are_answered() -> None:
    with running() as server, wire(server.url) as line:
        server.app.may_answer.clear()
        line.send(message(b"a") + message(b"b"))
        eventually(lambda: len(server.connections) == 1 and len(server.connections[0].pipeline) == 1)
        server.stop()
        eventually(lambda: server.connections[0]._is_draining)
        server.app.may_answer.set()
        replies = [line.reply(), line.reply()]
        assert [reply.body for reply in replies] == [b"a", b"b"]
        assert replies[1].headers["connection"] == "close"
        assert line.is_closed()


def test_an_idle_connection_does_not_delay_the_end() -> None:
    with running() as server, wire(server.url) as used, wire(server.url) as fresh:
        used.send(message(b"a"))
        used.reply()
        server.stop()
        assert used.is_closed()
        assert fresh.is_closed()
        server.join()


def test_the_rest_of_an_answered_body_does_not_delay_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LINGER_S", LONG_S)
    with running() as server, wire(server.url) as line:
        server.app.reads_bodies = False
        line.send(head("Content-Length: 5"))
        assert line.reply().status == 200
        server.stop()
        assert line.is_closed()
        server.join()


def test_protocol_errors_have_the_form_of_all_errors(line: Wire) -> None:
    line.send(b"nonsense\r\n\r\n")
    reply = line.reply()
    assert set(json.loads(reply.body)) == {"error", "error_type", "request_id"}
    assert reply.headers["x-request-id"] == reply.json["request_id"]


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
def test_a_caller_that_takes_no_answer_is_cut_off(connection: str, caplog: pytest.LogCaptureFixture) -> None:
    with running(read_timeout_s=1.0) as one:
        one.app.repeats = 2**24  # far more than the kernel buffers
        with wire(one.url) as line:
            line.send(message(b"{}", f"Connection: {connection}") * 2)
            eventually(lambda: one.app.scopes)
            eventually(lambda: not one.connections)
    assert not caplog.records
