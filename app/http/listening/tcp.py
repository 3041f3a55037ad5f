"""Sockets of addresses and a port."""

import errno
import logging
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any, Final

from app.errors import StartupError

log = logging.getLogger(__name__)

EVERY: Final = "::"
"""Alone it stands for every interface of IPv6 and of IPv4; beside other addresses, for those of IPv6 only, as these may be of IPv4."""
_EVERY_IPV4: Final = "0.0.0.0"  # noqa: S104 - whoever asks for every interface gets it
_NO_SUCH_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_REMEDIES: Final = {
    errno.EADDRINUSE: "Stop what uses it, set another port, or let no address of --host include another one there.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.EACCES: "Set a port of 1024 or more: this user may not listen on lower ones.",
}
"""What to do about an error of a port; all others are of the address."""

_Address = tuple[socket.AddressFamily, Any]


def bind(hosts: Iterable[str], port: int) -> list[socket.socket]:
    """Return a bound socket for every address of the hosts; port 0 is a free one, the same for all.

    Raises:
        StartupError: the port is taken or not allowed, or an address is not this machine's.
    """
    hosts = list(dict.fromkeys(hosts))
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        for host in hosts:
            for one in _bind(host, port, [one.getsockname() for one in sockets], only_ipv6=len(hosts) > 1):
                sockets.append(opened.enter_context(one))
                port = one.getsockname()[1]
        opened.pop_all()
    return sockets


def cannot_listen(address: Any, error: OSError) -> StartupError:  # noqa: ANN401 - of any family
    """Return why a server cannot listen on an address, and what to do."""
    remedy = "Set --host to an address of this machine, or to 0.0.0.0 or :: for all of them."
    if not isinstance(error, socket.gaierror):
        remedy = _REMEDIES.get(error.errno or 0, remedy)
    where = _place(*address[:2]) if isinstance(address, tuple) else address
    return StartupError(f"Cannot listen on {where}: {error.strerror}. {remedy}")


def url_of(one: socket.socket, scheme: str) -> str:
    """Return the address of a bound socket as a URL."""
    return f"{scheme}://{_place(*one.getsockname()[:2])}"


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(host: str, port: int, bound: Sequence[Any], *, only_ipv6: bool) -> list[socket.socket]:
    """Return the sockets of a host's addresses that are not bound yet.

    Those of a family that this machine has not are left out, unless the host has no others.
    """
    sockets: list[socket.socket] = []
    lacking: OSError | None = None
    where: Any = host, port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, address in dict.fromkeys((one[0], one[4]) for one in found):
            where = address[0], port, *address[2:]
            if where in bound:
                continue
            try:
                sockets.append(_bound((family, where), only_ipv6=only_ipv6))
            except OSError as error:
                if error.errno not in _NO_SUCH_FAMILY:
                    raise
                lacking = error
            else:
                port = sockets[0].getsockname()[1]
        if lacking is not None and not sockets:
            if host != EVERY or only_ipv6:
                raise lacking
            log.info("this machine has no IPv6: listening on %s", _EVERY_IPV4)
            sockets.append(_bound((socket.AF_INET, (_EVERY_IPV4, port)), only_ipv6=False))
    except OSError as error:
        for one in sockets:
            one.close()
        raise cannot_listen(where, error) from error
    return sockets


def _bound(where: _Address, *, only_ipv6: bool) -> socket.socket:
    """Return a bound socket.

    Raises:
        OSError: as `bind`.
    """
    family, address = where
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_ipv6)
        one.bind(address)
    except OSError:
        one.close()
        raise
    one.set_inheritable(True)
    return one
