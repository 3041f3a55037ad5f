"""Tells what a connection begins with that is no HTTP/1.1."""

from typing import Final

from app.errors import InvalidHttp

_BEGINNINGS: Final = {
    b"\x16\x03": "This is TLS, and this port speaks plain HTTP/1.1. Use http:// here, set --ssl-certfile, or put a proxy that ends TLS in front.",
    b"PRI * HTTP/2": "This is HTTP/2 without an offer before it, as gRPC sends. Use HTTP/1.1.",
    b"PROXY ": "This is the PROXY protocol. Turn it off in the load balancer: HTTP/1.1 alone is read here.",
    b"\r\n\r\n\x00\r\nQUIT\n": "This is the PROXY protocol. Turn it off in the load balancer: HTTP/1.1 alone is read here.",
}


def no_http(beginning: bytes) -> InvalidHttp:
    """Return the error of what a connection began with, or of any other input that is no HTTP/1.1."""
    return InvalidHttp(next((hint for known, hint in _BEGINNINGS.items() if beginning.startswith(known)), None))
