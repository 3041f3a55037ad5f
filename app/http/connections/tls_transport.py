"""What a TLS connection writes to."""

import array
import fcntl
import socket
import termios
from typing import Final

from app.http.connections.transport import CoalescingTransport

LOOK_EVERY_S: Final = 0.25


class TlsTransport(CoalescingTransport):
    """Ends a connection without the caller's help.

    TLS cannot close one direction alone. When it closes both, it waits for the caller to say so, too, which one that keeps an idle
    connection for later does only when it uses it again.
    """

    def write_eof(self) -> None:
        """Write nothing more. The caller learns from the answer that it is the last."""
        self._flush()
        self._has_ended = True

    def close(self) -> None:
        """Close once the caller has taken what was written, or when its time for that is over."""
        was_closing = self._transport.is_closing()
        super().close()
        if self._transport.is_closing() and not was_closing:
            self._look_again(self._loop.time() + self._close_within_s, was_taken=False)

    def _look_again(self, ends_at: float, *, was_taken: bool) -> None:
        self._loop.call_later(LOOK_EVERY_S, self._look, ends_at, was_taken)

    def _look(self, ends_at: float, was_taken: bool) -> None:
        """Close at once if all has been taken. Twice, as the event loop may have had no time to give more to the system."""
        connection = self._transport.get_extra_info("socket")
        if connection is None:
            return  # closed by now
        is_taken = _unsent_bytes(connection) == 0
        if (is_taken and was_taken) or self._loop.time() >= ends_at:
            self._transport.abort()
        else:
            self._look_again(ends_at, was_taken=is_taken)


def _unsent_bytes(connection: socket.socket) -> int | None:
    """Return how much the system has that the caller has not taken; None if it does not tell."""
    count = array.array("i", [0])
    try:
        fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, count)
    except OSError:
        return None
    return count[0]
