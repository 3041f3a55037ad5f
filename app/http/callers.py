"""Who a request comes from: the address of the connection, or the one that a trusted proxy names."""

from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from starlette.types import Scope

from app.http.asgi import all_of, header

UNIX: Final = "unix:"
"""Stands for the address of a caller of a Unix socket, as in nginx. It is a proxy that is trusted, unless none is: whoever may connect
is decided by the folder of the socket."""
_KNOWN: Final = 4096
"""The number of addresses of which it is remembered whether they are trusted."""
_LONGEST: Final = 64
"""Characters of an address: the rest of a header is not remembered."""


class Callers:
    """Tells the addresses of callers. Nothing but an address comes out, whatever a header holds."""

    def __init__(self, trusted: str) -> None:
        """Take the proxies that are trusted: addresses and networks with commas between, or `*` for all."""
        networks = (
            ["0.0.0.0/0", "::/0"] if trusted == "*" else [one.strip() for one in trusted.split(",") if one.strip()]
        )
        self._networks: Final = [ip_network(network, strict=False) for network in networks]
        self._read: Final = lru_cache(_KNOWN)(self._read_address)

    def address_of(self, scope: Scope) -> str | None:
        """Return the address of a request's caller; None if the connection was gone before it was asked."""
        client = scope.get("client")
        if client is None:
            return None
        address, is_trusted = self._read(client[0])
        if is_trusted and header(scope, b"x-forwarded-for") is not None:
            return self._forwarded(scope) or address
        return address

    def _forwarded(self, scope: Scope) -> str | None:
        """Return the last address that no trusted proxy has: each proxy appends the one that it was called from.

        If all are trusted, it is the first; what stands before something that is no address is not believed.
        """
        believed = None
        for hop in reversed(all_of(scope, b"x-forwarded-for").split(",")):
            text = _without_port(hop.strip())
            address, is_trusted = self._read(text) if len(text) <= _LONGEST else (None, False)
            if address is None:
                break
            believed = address
            if not is_trusted:
                break
        return believed

    def _read_address(self, text: str) -> tuple[str | None, bool]:
        """Return an address in its usual form, or None if it is none, and whether it is trusted."""
        if text == UNIX:
            return UNIX, bool(self._networks)
        try:
            address = ip_address(text)
        except ValueError:
            return None, False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:  # a socket for both kinds has these
            address = address.ipv4_mapped
        # The zone that may follow a link-local address is any text.
        return str(address).partition("%")[0], any(address in network for network in self._networks)


def _without_port(hop: str) -> str:
    """Return the address of `1.2.3.4:5678` and of `[::1]:5678`, which some proxies write."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 and hop != UNIX else hop
