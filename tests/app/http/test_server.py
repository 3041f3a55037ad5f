"""The listening socket, and why there may be none."""

import asyncio
import contextlib
import resource
import socket

import pytest
import uvicorn
import uvloop

from app.errors import StartupError
from app.http.acceptor import ACCEPTS
from app.http.readiness import Readiness
from app.http.server import Server, allow_connections, listen


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_free_port_is_found(host: str) -> None:
    with listen(host, 0) as listener:
        assert listener.getsockname()[1] > 0


def test_two_servers_cannot_share_a_port() -> None:
    with listen("127.0.0.1", 0) as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(
            StartupError, match=rf"Cannot listen on 127\.0\.0\.1:{port}: Address already in use.*--port and --host"
        ):
            listen("127.0.0.1", port)


def test_a_port_is_free_again_at_once() -> None:
    """Though connections of its last owner may still be waiting for their last packets."""
    with listen("127.0.0.1", 0) as first:
        first.listen()
        address = first.getsockname()
        with socket.create_connection(address) as client:
            server_side, _ = first.accept()
            server_side.close()  # the server closes first, so that it is the one that waits
            assert client.recv(1) == b""
    with listen("127.0.0.1", address[1]) as second:
        assert second.getsockname() == address


@pytest.mark.parametrize("host", ["203.0.113.1", "nowhere.invalid", "not a host"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(StartupError, match=f"Cannot listen on {host}:0: .*--host"):
        listen(host, 0)


def test_other_processes_may_inherit_the_socket() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.get_inheritable()


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
        listener = listen("127.0.0.1", 0)
        config = uvicorn.Config(lambda: None, ws="none", lifespan="off", log_config=None)
        server = Server(config, Readiness())
        serving = asyncio.create_task(server.serve_on(listener))
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0)
        rounds = 0
        with contextlib.ExitStack() as callers:
            for _ in range(count):
                callers.enter_context(socket.create_connection(listener.getsockname()))
            while len(server.server_state.connections) < count:
                await asyncio.sleep(0)
                rounds += 1
        server.should_exit = True
        await serving
        return rounds

    assert uvloop.run(rounds(10 * ACCEPTS)) < 2 * ACCEPTS
