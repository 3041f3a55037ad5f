"""The sockets of addresses, and why there may be none."""

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from app.errors import StartupError
from app.http.listening.tcp import bind, url_of


@contextmanager
def bound(*hosts: str, port: int = 0) -> Iterator[list[socket.socket]]:
    sockets = bind(hosts, port)
    try:
        yield sockets
    finally:
        for one in sockets:
            one.close()


def can_connect(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=20).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_free_port_is_found(host: str) -> None:
    with bound(host) as sockets:
        assert all(one.getsockname()[1] > 0 for one in sockets)


def test_two_servers_cannot_share_a_port() -> None:
    with bound("127.0.0.1") as [first]:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(
            StartupError, match=rf"Cannot listen on 127\.0\.0\.1:{port}: Address already in use.*another port"
        ):
            bind(["127.0.0.1"], port)


def test_a_port_is_free_again_at_once() -> None:
    """Though connections of its last owner may still be waiting for their last packets."""
    with bound("127.0.0.1") as [first]:
        first.listen()
        address = first.getsockname()
        with socket.create_connection(address) as client:
            server_side, _ = first.accept()
            server_side.close()  # the server closes first, so that it is the one that waits
            assert client.recv(1) == b""
    with bound("127.0.0.1", port=address[1]) as [second]:
        assert second.getsockname() == address


@pytest.mark.parametrize("host", ["203.0.113.1", "nowhere.invalid", "not a host"])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(StartupError, match=f"Cannot listen on {host}:\\d+: .*--host"):
        bind(["127.0.0.1", host], 0)


def test_other_processes_may_inherit_the_socket() -> None:
    with bound("127.0.0.1") as [one]:
        assert one.get_inheritable()


def test_every_address_of_a_list_has_the_same_port() -> None:
    with bound("127.0.0.1", "::1", "127.0.0.2") as sockets:
        assert [url_of(one, "http").rpartition(":")[0] for one in sockets] == [
            "http://127.0.0.1",
            "http://[::1]",
            "http://127.0.0.2",
        ]
        assert len({one.getsockname()[1] for one in sockets}) == 1


def test_a_name_stands_for_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET6, 1, 6, "", ("::1", 0, 0, 0)), (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with bound("localhost") as sockets:
        assert [one.getsockname()[0] for one in sockets] == ["::1", "127.0.0.1"]
        assert len({one.getsockname()[1] for one in sockets}) == 1


def test_an_address_that_is_named_twice_is_bound_once() -> None:
    with bound("127.0.0.1", "localhost", "127.1") as sockets:
        assert [one.getsockname()[0] for one in sockets].count("127.0.0.1") == 1


@pytest.mark.parametrize("hosts", [("::",), ("0.0.0.0", "::"), ("::", "0.0.0.0")])
def test_callers_of_both_families_can_connect(hosts: tuple[str, ...]) -> None:
    with bound(*hosts) as sockets:
        for one in sockets:
            one.listen()
        port = sockets[0].getsockname()[1]
        assert can_connect("127.0.0.1", port)
        assert can_connect("::1", port)


def test_ipv6_alone_is_served_beside_an_address_of_ipv4() -> None:
    with bound("::", "127.0.0.2") as sockets:
        for one in sockets:
            one.listen()
        port = sockets[0].getsockname()[1]
        assert can_connect("::1", port)
        assert not can_connect("127.0.0.1", port)


@pytest.fixture
def no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kernel that was started with ipv6.disable=1, which only a start of the machine can change, answers."""
    real: Callable[..., socket.socket] = socket.socket

    def make(family: int, *rest: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *rest)

    monkeypatch.setattr(socket, "socket", make)


@pytest.mark.usefixtures("no_ipv6")
def test_every_interface_is_served_where_there_is_no_ipv6() -> None:
    with bound("::") as [one], closing(one):
        assert one.getsockname()[0] == "0.0.0.0"


@pytest.mark.usefixtures("no_ipv6")
@pytest.mark.parametrize("hosts", [("::1",), ("127.0.0.1", "::")])
def test_an_address_of_ipv6_is_refused_where_there_is_none(hosts: tuple[str, ...]) -> None:
    with pytest.raises(StartupError, match=r"Cannot listen on \[::.*Address family not supported"):
        bind(hosts, 0)
