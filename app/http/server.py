"""The HTTP server: its socket and its end. Runs on the main thread's event loop."""

import asyncio
import contextlib
import errno
import logging
import resource
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, cast

import uvicorn

from app.errors import StartupError
from app.http.acceptor import ALONE, Acceptor, Balance
from app.http.readiness import Readiness

log = logging.getLogger(__name__)

FEW_FILES: Final = 1024
_REMEDIES: Final = {
    errno.EADDRINUSE: "Stop what uses the port, or set --port and --host.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.EACCES: "Set --port to 1024 or more: this user may not listen on lower ones.",
}
"""What to do about an error of a port; all others are of the address."""


class Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to its process, and whose readiness ends when it is told to stop.

    Within 0.1 s uvicorn then closes the listening sockets and tells each connection (`HttpProtocol.shutdown`).
    """

    def __init__(self, config: uvicorn.Config, readiness: Readiness) -> None:
        super().__init__(config)
        self._readiness = readiness
        self._acceptor: Acceptor | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def serve_on(self, listener: socket.socket, balance: Balance = ALONE) -> None:
        """Serve connections of a socket until told to stop.

        Args:
            listener: Bound; closed in the end.
            balance: With the other processes that accept from the socket.
        """
        self.config.load()
        listener.listen(self.config.backlog)
        make_protocol = partial(
            cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class),
            config=self.config,
            server_state=self.server_state,
            app_state={},
        )
        self._acceptor = Acceptor(listener, make_protocol, lambda: len(self.server_state.connections), balance)
        try:
            await self.serve(sockets=[])
        finally:
            await self._acceptor.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._acceptor is not None:
            await self._acceptor.close()
        await super().shutdown(sockets)

    def stop(self, why: str, level: int = logging.INFO) -> None:
        """Stop being ready, and end once every accepted request is answered."""
        self._readiness.is_draining = True
        self.should_exit = True
        log.log(level, "%s: finishing what was accepted", why)


def allow_connections() -> None:
    """Raise the limit of open files, which this process and its children have, to its maximum: each connection is a file.

    Shells and container engines often start with 1,024, for programs that call `select`. At the limit connections wait.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError):  # macOS calls its limit infinite, and takes less
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if most != resource.RLIM_INFINITY and most < FEW_FILES:
        log.warning(
            "a process may open %d files only, and each connection is one: raise the hard limit of open files", most
        )


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket.

    Raises:
        StartupError: the port is taken or not allowed, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        remedy = "Set --host to an address of this machine, or to 0.0.0.0 or :: for all of them."
        if not isinstance(error, socket.gaierror):
            remedy = _REMEDIES.get(error.errno or 0, remedy)
        raise StartupError(f"Cannot listen on {host}:{port}: {error.strerror}. {remedy}") from error
    listener.set_inheritable(True)
    return listener
