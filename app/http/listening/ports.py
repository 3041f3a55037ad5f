"""The ports of a service. Whoever starts it binds and opens them; its processes share their sockets."""

import logging
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from app.http.listening.tcp import cannot_listen
from app.http.listening.unix import SocketFile

log = logging.getLogger(__name__)

BACKLOG: Final = 2048
"""The connections that wait until they are accepted; the system may allow fewer."""

Purpose = Literal["main", "metrics", "admin"]
"""What is answered on a port: all that has no port of its own, or one thing. Health is on each."""


@dataclass(frozen=True, slots=True)
class Port:
    """Bound sockets on which the same is answered."""

    purpose: Purpose
    sockets: Sequence[socket.socket]
    told: str
    """The line of the log once callers can connect."""
    is_secure: bool = False
    """Whether callers speak TLS."""
    waits: bool = False
    """Whether callers can connect only when the models are loaded."""
    file: SocketFile | None = None
    """That of a Unix socket."""

    def listen(self) -> None:
        """Let callers connect. A second time changes nothing.

        Raises:
            StartupError: another program has come first.
        """
        for one in self.sockets:
            try:
                one.listen(BACKLOG)
            except OSError as error:
                raise cannot_listen(one.getsockname(), error) from error


class Ports:
    """All ports of a service. Can be sent to another process, which gets sockets of its own."""

    def __init__(self, ports: Sequence[Port]) -> None:
        self._ports: Final = ports
        self._open: Final[set[Purpose]] = set()

    def __iter__(self) -> Iterator[Port]:
        return iter(self._ports)

    @property
    def name(self) -> str:
        """What tells this service from others of its machine: its main port's number, or the path of its socket."""
        address = self._ports[0].sockets[0].getsockname()
        return str(address if isinstance(address, str) else address[1])

    def open(self, *, is_ready: bool) -> None:
        """Let callers connect, and log where; to the ports that wait only if the models are loaded.

        Raises:
            StartupError: another program listens there.
        """
        for port in self._ports:
            if port.purpose not in self._open and (is_ready or not port.waits):
                port.listen()
                if port.file is not None:
                    port.file.show()
                self._open.add(port.purpose)
                log.info("%s", port.told)

    def close(self) -> None:
        """Close this process's ends of the sockets, and remove their files. Callers cannot connect once all processes have."""
        for port in self._ports:
            if port.file is not None:
                port.file.remove()
            for one in port.sockets:
                one.close()
