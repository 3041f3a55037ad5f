"""HTTP by hand, for what no client library would send."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.support import Reply

CLASSIFY = "/v1/classify"


def head(*headers: str, method: str = "POST", path: str = CLASSIFY) -> bytes:
    """The head of a request, to its empty line."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", *headers, "", ""]).encode("latin-1")


def message(body: bytes, *headers: str, method: str = "POST", path: str = CLASSIFY) -> bytes:
    """A whole request."""
    return head(f"Content-Length: {len(body)}", *headers, method=method, path=path) + body


class Wire:
    """A connection on which anything can be written."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = connection.makefile("rb")

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def close_sending_side(self) -> None:
        """Send nothing more, and go on reading."""
        self._connection.shutdown(socket.SHUT_WR)

    def wait(self) -> None:
        """Wait for the first byte, and leave it to be read."""
        self._received.peek(1)

    def reply(self, *, without_body: bool = False) -> Reply:
        """Read one answer, which must say how long it is."""
        status_line = self._received.readline().decode()
        headers = {}
        while line := self._received.readline().decode().strip():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        size = 0 if without_body else int(headers.get("content-length", 0))
        return Reply(int(status_line.split()[1]), headers, self._received.read(size))

    def is_closed(self) -> bool:
        """Wait for the server to close, and say whether it did so without another word."""
        return self._received.read() == b""

    def reset_when_closed(self) -> None:
        """Have the other side see a reset instead of an end."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        self._received.close()
        self._connection.close()


@contextmanager
def wire(url: str, timeout_s: float = 30.0) -> Iterator[Wire]:
    """Open a connection and close it at the end."""
    where = urlsplit(url)
    assert where.port is not None
    line = Wire(socket.create_connection((where.hostname, where.port), timeout_s))
    try:
        yield line
    finally:
        line.close()
