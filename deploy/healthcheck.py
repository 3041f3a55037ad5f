# noqa: INP001 - scripts, not a package: each is run alone
"""Exit with 0 if the server in this container is ready, else with 1.

Run by the image's HEALTHCHECK with `python -I -S`: the standard library only, and as little of it as will do.
"""

import http.client
import os
import socket
import sys

EVERY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1"}  # noqa: S104 - nothing listens here
"""Where a server answers that listens on every interface."""


def address_of(hosts: str) -> str:
    """Return one of the addresses where a server answers that listens on these."""
    first, *others = hosts.split(",")
    if first == "::":  # beside others it is not for IPv4
        return "::1" if others else "127.0.0.1"
    return EVERY.get(first, first)


class UnixConnection(http.client.HTTPConnection):
    """A connection to the server of a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=2)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a port."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(2)
        self.sock.connect(self._path)


def connect(host: str, port: int, *, tls: bool) -> http.client.HTTPConnection:
    """Return a connection to a server of this machine, whose certificate may name it as only others know it."""
    if not tls:
        return http.client.HTTPConnection(host, port, timeout=2)
    import ssl  # noqa: PLC0415 - takes longer than all else

    return http.client.HTTPSConnection(host, port, timeout=2, context=ssl._create_unverified_context())  # noqa: S323, SLF001


def is_ready(connection: http.client.HTTPConnection) -> bool:
    """Ask the server of a connection whether it takes requests."""
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    # Of a Kubernetes Service of that name, such a variable has the address, which the server ignores. Which port 0 is, nobody knows.
    ports = {name: os.environ.get(name, "") for name in ("BERT_METRICS_PORT", "BERT_PORT")}
    found = next((name for name, port in ports.items() if port.isdigit() and int(port)), "")
    uds = os.environ.get("BERT_UDS")
    # The port of metrics has no TLS: on the other one callers may have to show a certificate.
    tls = bool(os.environ.get("BERT_SSL_CERTFILE")) and found != "BERT_METRICS_PORT"
    if tls and not uds and os.environ.get("BERT_SSL_CERT_REQS") in ("required", "2"):
        sys.exit(
            "The server asks for a certificate, and this check has none. Set BERT_METRICS_PORT, which it asks then."
        )
    host = address_of(os.environ.get("BERT_HOST", ""))
    if uds and found != "BERT_METRICS_PORT":
        connection: http.client.HTTPConnection = UnixConnection(uds)
    else:
        connection = connect(host, int(ports.get(found, "8000")), tls=tls)
    sys.exit(0 if is_ready(connection) else 1)
