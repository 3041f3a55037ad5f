"""The address of a caller: that of the connection, or what trusted proxies say of it, and never anything else."""

from typing import Any

import pytest

from app.http.callers import Callers


def address(trusted: str, peer: str | None, *forwarded: str) -> str | None:
    scope: dict[str, Any] = {
        "client": None if peer is None else (peer, 1234),
        "headers": [(b"x-forwarded-for", one.encode("latin-1")) for one in forwarded],
    }
    return Callers(trusted).address_of(scope)


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "expected"),
    [
        ("127.0.0.1", "10.0.0.9", [], "10.0.0.9"),
        ("127.0.0.1", "10.0.0.9", ["1.2.3.4"], "10.0.0.9"),  # anybody can write that
        ("127.0.0.1", "127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("127.0.0.1", "127.0.0.1", ["6.6.6.6, 1.2.3.4"], "1.2.3.4"),  # the first is what the caller wrote itself
        ("127.0.0.1,10.0.0.0/8", "127.0.0.1", ["6.6.6.6, 1.2.3.4, 10.1.2.3"], "1.2.3.4"),
        ("127.0.0.1,10.0.0.0/8", "127.0.0.1", ["6.6.6.6", "1.2.3.4", "10.1.2.3"], "1.2.3.4"),  # in several headers
        ("10.0.0.0/8", "10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("*", "10.0.0.9", ["1.2.3.4, 5.6.7.8"], "1.2.3.4"),
        ("*", "::1", ["2001:db8::1"], "2001:db8::1"),
        ("", "127.0.0.1", ["1.2.3.4"], "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", ["1.2.3.4:5678"], "1.2.3.4"),
        ("127.0.0.1", "127.0.0.1", ["[2001:DB8::1]:5678"], "2001:db8::1"),
        ("127.0.0.1", "127.0.0.1", ["2001:db8::1"], "2001:db8::1"),
        ("127.0.0.1", "127.0.0.1", ["my secret"], "127.0.0.1"),
        ("127.0.0.1", "unix:", [], "unix:"),
        ("127.0.0.1", "unix:", ["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
        ("", "unix:", ["1.2.3.4"], "unix:"),
        ("127.0.0.1", "127.0.0.1", ["6.6.6.6, 1.2.3.4, unix:"], "1.2.3.4"),  # a proxy that was called by a Unix socket
        ("127.0.0.1", "127.0.0.1", ["6.6.6.6, unix:, 1.2.3.4"], "1.2.3.4"),
        ("127.0.0.1", "127.0.0.1", ["1.2.3.4, my secret"], "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", ["unknown, 1.2.3.4"], "1.2.3.4"),
        ("127.0.0.1", "127.0.0.1", [""], "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", ["caf\xe9" * 10_000], "127.0.0.1"),
        ("127.0.0.1", "::ffff:127.0.0.1", ["1.2.3.4"], "1.2.3.4"),  # a socket for IPv4 and IPv6
        ("::1", "::1", ["::ffff:1.2.3.4"], "1.2.3.4"),
        ("*", "10.0.0.9", ["fe80::1%my secret"], "fe80::1"),
        ("fe80::/10", "fe80::1%eth0", ["1.2.3.4"], "1.2.3.4"),
        ("10.0.0.0/8", "fe80::1%eth0", ["1.2.3.4"], "fe80::1"),
        ("*", "10.0.0.9", ["::" + "0" * 100], "10.0.0.9"),
        ("127.0.0.1", None, ["1.2.3.4"], None),
        ("*", "", ["1.2.3.4"], None),  # a Unix socket has no address
    ],
)
def test_the_address_is_that_of_the_last_hop_that_is_not_trusted(
    trusted: str, peer: str | None, forwarded: list[str], expected: str | None
) -> None:
    assert address(trusted, peer, *forwarded) == expected
