"""How the server takes connections."""

import asyncio
import contextlib
import resource
import socket

import pytest
import uvicorn
import uvloop

from app.http.connections.acceptor import ACCEPTS
from app.http.connections.server import Server, allow_connections
from app.http.listening.ports import Port
from app.http.listening.tcp import bind
from app.http.readiness import Readiness


@pytest.mark.parametrize(("most", "warnings"), [(64, 1), (4096, 0), (resource.RLIM_INFINITY, 0)])
def test_as_many_files_may_be_open_as_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, most: int, warnings: int
) -> None:
    limits = [(32, most)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    allow_connections()
    assert limits[-1] == (most, most)
    assert caplog.text.count(f"may open {most} files only") == len(caplog.records) == warnings


def test_many_connections_are_accepted_in_one_round_of_the_event_loop() -> None:
    """Rounds take milliseconds under load, and a connection that is not accepted is not even asked for its health."""

    async def rounds(count: int) -> int:
        ports = [Port("main", bind(["127.0.0.1"], 0), "")]
        config = uvicorn.Config(lambda: None, ws="none", lifespan="off", log_config=None)
        server = Server({"main": config}, Readiness())
        serving = asyncio.create_task(server.serve_on(ports))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0)
        rounds = 0
        with contextlib.ExitStack() as callers:
            for _ in range(count):
                callers.enter_context(socket.create_connection(ports[0].sockets[0].getsockname()))
            while len(server.server_state.connections) < count:
                await asyncio.sleep(0)
                rounds += 1
        server.should_exit = True
        await serving
        return rounds

    assert uvloop.run(rounds(10 * ACCEPTS)) < 2 * ACCEPTS
