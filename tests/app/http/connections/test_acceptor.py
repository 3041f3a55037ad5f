"""How a process accepts connections of a socket that it shares: in turn with others, but never waiting for one that is stuck."""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import pytest
import uvloop

from app.http.connections.acceptor import AFTER_YOU_TIMES, Acceptor

WITHIN_S = 20.0


class Balance:
    """What the others are said to have."""

    def __init__(self, least: int) -> None:
        self._least = least
        self.asked = 0
        self.told: list[int] = []
        self.has_left = False

    def tell(self, connections: int) -> None:
        self.told.append(connections)

    def leave(self) -> None:
        self.has_left = True

    def least(self) -> int:
        self.asked += 1
        return self._least


class Full(socket.socket):
    """A listening socket of a process that can open no file, once."""

    refusals = 1

    def accept(self) -> Any:
        if self.refusals:
            self.refusals -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def with_acceptor(
    balance: Balance, test: Callable[[list[asyncio.Protocol], Any], Awaitable[None]], kind: type = socket.socket
) -> None:
    """Run a test against an acceptor; it gets the connections that were made, and the address."""

    async def main() -> None:
        made: list[asyncio.Protocol] = []

        class Connection(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: ARG002 - asyncio's
                made.append(self)

        listener = kind()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = listener.getsockname()
        acceptor = Acceptor(listener, Connection, lambda: len(made), balance)
        try:
            async with asyncio.timeout(WITHIN_S):
                await test(made, address)
        finally:
            await acceptor.close()
        assert balance.has_left
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)

    uvloop.run(main())


async def until(condition: Callable[[], Any]) -> None:
    while not condition():  # noqa: ASYNC110 - the kernel has no event for it
        await asyncio.sleep(0.001)


def test_every_connection_is_accepted_and_told() -> None:
    balance = Balance(100)

    async def test(made: list[asyncio.Protocol], address: Any) -> None:
        callers = [socket.create_connection(address) for _ in range(5)]
        await until(lambda: len(made) == 5)
        assert max(balance.told) >= 5
        for caller in callers:
            caller.close()

    with_acceptor(balance, test)


def test_a_process_with_more_connections_lets_others_go_first_but_not_for_ever() -> None:
    balance = Balance(0)

    async def test(made: list[asyncio.Protocol], address: Any) -> None:
        for number in range(3):
            before = balance.asked
            with socket.create_connection(address):
                await until(lambda: len(made) > number)  # noqa: B023 - called at once
            assert (balance.asked - before > AFTER_YOU_TIMES) == (number == 2)

    with_acceptor(balance, test)


def test_connections_that_wait_when_it_is_closed_are_made_before_that_is_over() -> None:
    """The server then tells every connection to end: one that it cannot see would go on."""

    async def main() -> None:
        made: list[int] = []

        class Connection(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.append(1)
                transport.close()

        with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as callers:
            acceptor = Acceptor(listener, Connection, lambda: 0, Balance(100))
            for _ in range(3):
                callers.enter_context(socket.create_connection(listener.getsockname()))
            await acceptor.close()
            assert len(made) == 3

    uvloop.run(main())


def test_a_process_without_room_for_files_goes_on_when_there_is_some(caplog: pytest.LogCaptureFixture) -> None:
    async def test(made: list[asyncio.Protocol], address: Any) -> None:
        with socket.create_connection(address):
            await until(lambda: made)

    with_acceptor(Balance(0), test, Full)
    assert caplog.messages == ["no connection can be accepted: Too many open files"]
