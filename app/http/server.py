"""The HTTP server: its socket, its signals and its end. Runs on the main thread's event loop."""

import asyncio
import contextlib
import errno
import logging
import os
import resource
import signal
import socket
from collections.abc import Iterator
from typing import Final

import uvicorn

from app.errors import StartupError
from app.http.readiness import Readiness

log = logging.getLogger(__name__)

FEW_FILES: Final = 1024
ACCEPTS: Final = 64
"""The most connections that are accepted in one round of the event loop."""
_REMEDIES: Final = {
    errno.EADDRINUSE: "Stop what uses the port, or set --port and --host.",
    errno.EACCES: "Set --port to 1024 or more: this user may not listen on lower ones.",
}
"""What to do about an error of a port; all others are of the address."""


class Server(uvicorn.Server):
    """uvicorn's server, whose readiness ends with the first signal, and which does not raise that signal again at its end.

    Within 0.1 s uvicorn then closes the listening sockets and tells each connection (`HttpProtocol.shutdown`).
    """

    def __init__(self, config: uvicorn.Config, readiness: Readiness) -> None:
        super().__init__(config)
        self._readiness = readiness
        self._listeners: list[socket.socket] = []
        self._accepting: set[asyncio.Task[object]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and accept what uvloop leaves.

        It accepts one connection in each round of the event loop, which takes milliseconds under load: of thousands that open at
        once, the last would wait for half a minute.
        """
        await super().startup(sockets)
        loop = asyncio.get_running_loop()
        for one in sockets or ():
            listener = one.dup()
            self._listeners.append(listener)
            # After uvloop's turn, which is the cheaper one and enough for a single connection.
            loop.add_reader(listener, loop.call_soon, self._accept_more, listener)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
        await super().shutdown(sockets)

    def _accept_more(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPTS - 1):
            try:
                connection, _ = listener.accept()
            except OSError:  # there is no more, or this is the end
                return
            task = loop.create_task(loop.connect_accepted_socket(self._make_connection, connection))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    def _make_connection(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        if self.should_exit and number == signal.SIGINT:
            log.warning("SIGINT again: stopping without what was accepted")
            os._exit(128 + number)  # waits for no device and no caller
        self.stop(signal.Signals(number).name)

    def stop(self, why: str, level: int = logging.INFO) -> None:
        """Stop being ready, and end once every accepted request is answered."""
        self._readiness.is_draining = True
        self.should_exit = True
        log.log(level, "%s: finishing what was accepted", why)


def allow_connections() -> None:
    """Raise the limit of open files, which this process and its children have, to its maximum: each connection is a file.

    Shells and container engines often start with 1,024, for programs that call `select`. At the limit uvloop accepts
    connections, closes them at once, and logs nothing.
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
