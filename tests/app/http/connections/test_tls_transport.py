"""How a TLS connection ends, whose caller need not help."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from app.http.connections.tls_transport import TlsTransport
from app.http.listening.tcp import bind

TIME_S = 10.0


class Loop:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self._later: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, seconds: float, callback: Callable[..., None], *arguments: Any) -> None:
        self._later.append((self.now + seconds, lambda: callback(*arguments)))

    def run(self, seconds: float) -> None:
        ends_at = self.now + seconds
        while due := sorted((one for one in self._later if one[0] <= ends_at), key=lambda one: one[0]):
            self._later.remove(due[0])
            self.now = due[0][0]
            due[0][1]()
        self.now = ends_at


class Transport(asyncio.Transport):
    """As uvloop's of TLS, which waits for the caller once it is to close."""

    def __init__(self, connection: socket.socket | None) -> None:
        self.connection = connection
        self.was_aborted = self._is_closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.connection if name == "socket" else default

    def close(self) -> None:
        self._is_closing = True

    def abort(self) -> None:
        self.was_aborted = True

    def is_closing(self) -> bool:
        return self._is_closing

    def get_write_buffer_size(self) -> int:
        return 0


class Connection:
    is_amid_request = False

    def __init__(self) -> None:
        self.loop = Loop()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end of a connection, and the caller's."""
    [listener] = bind(["127.0.0.1"], 0)
    with listener:
        listener.listen()
        with socket.create_connection(listener.getsockname()) as caller:
            ours, _ = listener.accept()
            with ours:
                yield ours, caller


def closing(connection: socket.socket | None) -> tuple[Transport, Loop]:
    """Return a transport that is being closed, and its time."""
    transport, protocol = Transport(connection), Connection()
    wrapped = TlsTransport(transport, protocol, TIME_S)  # type: ignore[arg-type]
    wrapped.close()
    wrapped.close()
    return transport, protocol.loop


def test_a_connection_whose_caller_has_everything_is_closed_soon(pair: tuple[socket.socket, socket.socket]) -> None:
    transport, loop = closing(pair[0])
    loop.run(0.3)
    assert not transport.was_aborted
    loop.run(0.3)
    assert transport.was_aborted


def test_a_caller_has_its_time_to_take_an_answer(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    ours.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            ours.send(bytes(1 << 16))
    transport, loop = closing(ours)
    loop.run(TIME_S - 1)
    assert not transport.was_aborted
    loop.run(2)
    assert transport.was_aborted


def test_nothing_is_done_to_a_connection_that_is_closed() -> None:
    transport, loop = closing(None)
    loop.run(2 * TIME_S)
    assert not transport.was_aborted
