"""A caller that has closed its sending side while it waits for its answer.

It may only have nothing more to send, or be gone: TCP says the same of both, until something is sent to them. One that is gone
answers with a reset. So the bytes that every answer begins with are sent ahead of it.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, Protocol

EVERY_S: Final = 0.1
"""How often to look. Most answers come sooner than the first look, and are sent in one piece."""


class Ahead(Protocol):
    """A transport that can send the first bytes of an answer before the rest is there."""

    def write_ahead(self) -> None: ...

    def abort(self) -> None: ...

    def get_extra_info(self, name: str) -> socket.socket: ...


class HalfClosed:
    """Aborts the connection of a caller that is gone."""

    def __init__(self, transport: Ahead, is_answer_next: Callable[[], bool]) -> None:
        """Look from now on, until stopped.

        Args:
            transport: Of the connection.
            is_answer_next: Tells whether an answer begins with the next byte that is sent, and no other waits behind it.
        """
        self._transport = transport
        self._is_answer_next = is_answer_next
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(EVERY_S, self._look)

    def stop(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        if self._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._transport.abort()
            return
        if self._is_answer_next():
            self._transport.write_ahead()
        self._timer = self._loop.call_later(EVERY_S, self._look)
