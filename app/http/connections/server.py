"""The HTTP server: what it accepts, and its end. Runs on the main thread's event loop."""

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final, cast

import uvicorn

from app.http.connections.acceptor import ALONE, Acceptor, Balance
from app.http.listening.ports import Port, Purpose
from app.http.listening.tls import Tls
from app.http.readiness import Readiness

log = logging.getLogger(__name__)

FEW_FILES: Final = 1024


class Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to its process, and whose readiness ends when it is told to stop.

    Within 0.1 s uvicorn then closes the listening sockets and tells each connection (`HttpProtocol.shutdown`).
    """

    def __init__(self, configs: Mapping[Purpose, uvicorn.Config], readiness: Readiness, tls: Tls | None = None) -> None:
        """Take what answers on each port; all have the same limits. Ports that are secure need `tls`."""
        super().__init__(configs["main"])
        self._configs: Final = configs
        self._readiness = readiness
        self._tls: Final = tls
        self._ports: Iterable[Port] = ()
        self._balance: Balance = ALONE
        self._acceptors: Final[dict[Purpose, list[Acceptor]]] = {}

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def serve_on(self, ports: Iterable[Port], balance: Balance = ALONE) -> None:
        """Serve connections of ports until told to stop.

        Args:
            ports: Bound; their sockets are closed in the end. Those that wait are not served before the engine is ready.
            balance: With the other processes that accept from the sockets.

        Raises:
            StartupError: another program listens on one.
        """
        self._ports, self._balance = ports, balance
        try:
            self.accept()
            await self.serve(sockets=[])
        finally:
            await self._close()

    def accept(self) -> None:
        """Accept connections from the ports of which there is no reason to wait.

        Raises:
            StartupError: another program listens on one.
        """
        if self.should_exit:
            return
        for port in self._ports:
            if port.purpose in self._acceptors or (port.waits and self._readiness.engine == "starting"):
                continue
            config = self._configs[port.purpose]
            if not config.loaded:
                config.load()
            port.listen()
            make_protocol = partial(
                cast("Callable[..., asyncio.Protocol]", config.http_protocol_class),
                config=config,
                server_state=self.server_state,
                app_state={},
            )
            connect = None
            if port.is_secure:
                assert self._tls is not None  # else callers would be answered in the clear
                connect = self._tls.connect
            self._acceptors[port.purpose] = [
                Acceptor(one, make_protocol, lambda: len(self.server_state.connections), self._balance, connect)
                for one in port.sockets
            ]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._close()
        await super().shutdown(sockets)

    async def _close(self) -> None:
        # All at once: each closes its socket first, then waits for connections that are being made.
        await asyncio.gather(*(one.close() for acceptors in self._acceptors.values() for one in acceptors))
        for port in self._ports:
            for one in port.sockets:
                one.close()

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
