"""Accepts connections from a socket, so that those that come at once are accepted soon, and by processes that share it in turn.

uvloop accepts one connection in each round of its event loop, which takes milliseconds under load: of thousands, the last would
wait for half a minute. This accepts many, but lets other processes go first while it has more connections than one of them.
"""

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Protocol

log = logging.getLogger(__name__)

ACCEPTS: Final = 64
"""The most connections that are accepted in one round of the event loop."""
AFTER_YOU_S: Final = 0.001
AFTER_YOU_TIMES: Final = 5
"""How long others may go first, and how often in succession. One that is busy, or hangs, does not take the connection; then this
process does."""
LEAD: Final = 1
"""So many connections more than another process, or an eighth more, are as good as equally many."""
MADE_WITHIN_S: Final = 0.5
"""How long to wait at the end for connections that are not made yet: a TLS handshake is the caller's turn."""
NO_ROOM_S: Final = 0.1
"""How long to wait when this process, or the system, can open no more files."""


Connect = Callable[[Callable[[], asyncio.Protocol], socket.socket], Coroutine[Any, Any, object]]


class Balance(Protocol):
    """What the processes let each other know of their connections."""

    def tell(self, connections: int) -> None:
        """Let the others know how many this process has."""

    def leave(self) -> None:
        """Let the others know that this process accepts no more."""

    def least(self) -> int:
        """Return how many the process has that has the fewest."""


class Alone:
    """There is no other process."""

    def tell(self, connections: int) -> None:
        pass

    def leave(self) -> None:
        pass

    def least(self) -> int:
        return sys.maxsize


ALONE: Final = Alone()


class Acceptor:
    """Accepts connections for one process, from when it is made until it is closed."""

    def __init__(
        self,
        listener: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        connections: Callable[[], int],
        balance: Balance,
        connect: Connect | None = None,
    ) -> None:
        """Begin to accept.

        Args:
            listener: The socket that is shared.
            make_protocol: Called for each connection.
            connections: Returns how many this process has.
            balance: With the others.
            connect: Makes a connection of an accepted socket; the event loop's way if it is None.
        """
        self._listener = listener
        self._make_protocol = make_protocol
        self._connections = connections
        self._balance = balance
        self._loop = asyncio.get_running_loop()
        self._connect: Connect = connect or self._loop.connect_accepted_socket
        self._pause: asyncio.TimerHandle | None = None
        self._starting: set[asyncio.Task[object]] = set()
        self._times_waited = 0
        balance.tell(connections())
        listener.setblocking(False)
        self._loop.add_reader(listener.fileno(), self._on_readable)

    async def close(self) -> None:
        """Accept what waits, close this process's end of the socket, and wait until every connection is made.

        Whoever tells connections to end would miss one that is not made yet, and the system resets one that nobody accepts. Once
        is enough.
        """
        if self._listener.fileno() >= 0:
            if self._pause is None:
                self._loop.remove_reader(self._listener.fileno())
            else:
                self._pause.cancel()
            with suppress(OSError):
                while self._take():
                    pass
            self._listener.close()
            self._balance.leave()
        if self._starting:
            _, late = await asyncio.wait(self._starting, timeout=MADE_WITHIN_S)
            for one in late:
                one.cancel()

    def _on_readable(self) -> None:
        self._balance.tell(self._mine())
        for _ in range(ACCEPTS):
            least = self._balance.least()
            if self._mine() - least > LEAD + least // 8 and self._times_waited < AFTER_YOU_TIMES:
                self._times_waited += 1
                self._wait(AFTER_YOU_S)
                return
            self._times_waited = 0
            try:
                if not self._take():
                    return
            except OSError as error:
                log.error("no connection can be accepted: %s", error.strerror)  # noqa: TRY400
                self._wait(NO_ROOM_S)
                return

    def _mine(self) -> int:
        return self._connections() + len(self._starting)  # those that are accepted, but have no protocol yet, count too

    def _take(self) -> bool:
        """Accept a connection; return whether there was one.

        Raises:
            OSError: there is no room for it.
        """
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            return False  # there is none, another process has it, or its caller has left
        connection.setblocking(False)
        task = asyncio.ensure_future(self._connect(self._make_protocol, connection))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        self._balance.tell(self._mine())
        return True

    def _wait(self, seconds: float) -> None:
        """Look away for a while: the loop would call this again and again as long as a connection waits."""
        self._loop.remove_reader(self._listener.fileno())
        self._pause = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener.fileno(), self._on_readable)
