"""When callers can connect to a port, and what the log says of it."""

import socket

import pytest

from app.errors import StartupError
from app.http.listening.ports import Port, Ports
from app.http.listening.tcp import bind


def can_connect(port: Port) -> bool:
    try:
        socket.create_connection(port.sockets[0].getsockname(), timeout=20).close()
    except OSError:
        return False
    return True


def test_a_port_is_logged_when_callers_can_connect(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    early, late = (
        Port("metrics", bind(["127.0.0.1"], 0), "early"),
        Port("main", bind(["127.0.0.1"], 0), "late", waits=True),
    )
    ports = Ports([late, early])
    assert not can_connect(early)
    ports.open(is_ready=False)
    assert (can_connect(early), can_connect(late), caplog.messages) == (True, False, ["early"])
    for _ in range(2):
        ports.open(is_ready=True)
        assert (can_connect(late), caplog.messages) == (True, ["early", "late"])
    ports.close()


def test_two_servers_that_bind_at_once_do_not_both_listen() -> None:
    first = Port("main", bind(["127.0.0.1"], 0), "")
    number = first.sockets[0].getsockname()[1]
    second = Port("main", bind(["127.0.0.1"], number), "")
    Ports([first]).open(is_ready=True)
    with pytest.raises(StartupError, match=rf"Cannot listen on 127\.0\.0\.1:{number}: Address already in use"):
        Ports([second]).open(is_ready=True)
    for port in (first, second):
        Ports([port]).close()
