"""Ends the wait for work whose caller has closed the connection, so that the work is dropped."""

import asyncio
from collections.abc import Awaitable
from typing import Final, TypeVar

from starlette.types import Receive

from app.http.asgi import ClientGone

T = TypeVar("T")

# A task that watches the connection costs more than most requests wait, so only those that wait longer get one.
WATCH_AFTER_S: Final = 0.05


class Disconnects:
    """Watches the connections of requests that wait. Use it on one event loop.

    One timer serves all of them: one for each request would take as long as tokenizing a short text.
    """

    def __init__(self) -> None:
        self._waits: Final[set[_Wait]] = set()
        self._is_ticking = False

    async def unless_gone(self, work: Awaitable[T], receive: Receive) -> T:
        """Wait for work, and cancel it if the caller closes the connection.

        Raises:
            ClientGone: the caller closed the connection.
        """
        this = asyncio.current_task()
        assert this is not None  # a coroutine runs in a task
        wait = _Wait(this, receive)
        self._waits.add(wait)
        if not self._is_ticking:
            self._is_ticking = True
            asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._tick)
        try:
            return await work
        except asyncio.CancelledError:
            if wait.is_gone and not this.uncancel():
                raise ClientGone from None
            raise
        finally:
            self._waits.discard(wait)
            if wait.watcher is not None:
                wait.watcher.cancel()
                wait.watcher = None  # its last frame has `wait`, and would keep the connection until a round of the garbage collector

    def _tick(self) -> None:
        """Watch the connections of requests that have waited for a whole tick."""
        loop = asyncio.get_running_loop()
        for wait in self._waits:
            if wait.is_old and wait.watcher is None:
                wait.watcher = loop.create_task(wait.watch())
            wait.is_old = True
        self._is_ticking = bool(self._waits)
        if self._is_ticking:
            loop.call_later(WATCH_AFTER_S, self._tick)


class _Wait:
    """A request that waits."""

    __slots__ = ("is_gone", "is_old", "receive", "task", "watcher")

    def __init__(self, task: "asyncio.Task[object]", receive: Receive) -> None:
        self.task = task
        self.receive = receive
        self.is_old = self.is_gone = False
        self.watcher: asyncio.Task[None] | None = None

    async def watch(self) -> None:
        """Cancel the request when its caller closes the connection."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        self.task.cancel()
