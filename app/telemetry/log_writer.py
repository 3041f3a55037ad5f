"""Write the log in a thread of its own, so that nothing that logs waits for what reads the log.

A pipe that nobody reads, a stopped terminal and a slow disk block the thread that writes to them: on an event loop, they
would stop every request, health and signals. The lines wait in memory instead, up to a limit; further ones are dropped and
counted, and a line tells how many once writing goes on. The same holds for a disk that is full and a reader that is gone.
"""

import io
import logging
import os
import select
import stat
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Condition, RLock, Thread
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

log = logging.getLogger(__name__)

CAPACITY_BYTES: Final = 1 << 20
"""Of the lines that wait to be written: some 4,000 of the access log."""
DRAIN_WITHIN_S: Final = 1.0
"""How long a process that ends waits for its last lines to be written."""
_LOOK_EVERY_MS: Final = 500


class LogWriter(io.RawIOBase):
    """A stream whose `write` never waits. A thread writes to a descriptor what was written to it."""

    def __init__(self, descriptor: int) -> None:
        """Start the thread.

        Args:
            descriptor: Where to write.
        """
        self._descriptor: Final = descriptor
        # One that the same thread may take again: a finalizer that warns can run anywhere, also in `write`.
        self._changed: Final = Condition(RLock())
        self._lines: Final[deque[bytes]] = deque()
        self._size = 0
        """Bytes that wait, or are just being written."""
        self._is_idle = False
        self._untold = 0
        """Dropped lines that no line has told of."""
        self._uncounted = 0
        """Dropped lines that no metric has counted."""
        self._is_torn = False
        """Whether the last line was written in part only."""
        self._count: Callable[[int], object] | None = None
        Thread(target=self._run, name="log", daemon=True).start()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: "ReadableBuffer", /) -> int:
        """Take a line, or drop it if too much waits."""
        line = bytes(data)
        with self._changed:
            if self._size + len(line) > CAPACITY_BYTES:
                self._drop(1)
            else:
                self._lines.append(line)
                self._size += len(line)
                if self._is_idle:
                    self._is_idle = False
                    self._changed.notify_all()
        return len(line)

    def count_dropped(self, count: Callable[[int], object]) -> None:
        """Call `count`, in the thread, with each number of lines that were dropped."""
        self._count = count

    def drain(self, within_s: float) -> None:
        """Wait until all lines are written or dropped, but no longer than `within_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self._size == 0, within_s)

    def _drop(self, lines: int) -> None:
        self._untold += lines
        self._uncounted += lines

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines:
                    self._is_idle = True
                    self._changed.wait()
                lines = self._take()
            is_written = self._write_out(b"".join(lines))
            with self._changed:
                self._size -= sum(map(len, lines))
                untold = 0
                if is_written:
                    untold, self._untold = self._untold, 0
                else:
                    self._drop(len(lines))
                if not self._size:
                    self._changed.notify_all()
            self._count_now()
            if untold:
                log.warning("%d lines of the log were dropped: what it is written to was full, slow or gone", untold)

    def _take(self) -> list[bytes]:
        """Return the next lines: as many as a pipe takes whole beside the lines of other processes, or a longer one."""
        lines = [self._lines.popleft()]
        room = select.PIPE_BUF - len(lines[0])
        while self._lines and (room := room - len(self._lines[0])) >= 0:
            lines.append(self._lines.popleft())
        return lines

    def _write_out(self, content: bytes) -> bool:
        """Write it, however long that takes; return whether it could be written."""
        rest = memoryview(b"\n" + content if self._is_torn else content)
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        try:
            while rest:
                while not poll.poll(_LOOK_EVERY_MS):
                    self._count_now()
                with suppress(BlockingIOError):
                    rest = rest[os.write(self._descriptor, rest) :]
                    self._is_torn = bool(rest)
        except OSError:
            return False
        return True

    def _count_now(self) -> None:
        if self._count is not None and self._uncounted:
            with self._changed:
                uncounted, self._uncounted = self._uncounted, 0
            self._count(uncounted)


_writers: Final[list[LogWriter]] = []
"""That of this process, once it has one."""


def write_in_background() -> None:
    """Make `sys.stderr` a stream that never waits. What native libraries print past it does not wait either: it is lost."""
    if sys.stderr is None:  # the process was started without; its number must not become that of a connection
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            _never_wait(stream.fileno())
    writer = LogWriter(sys.stderr.fileno())
    sys.stderr = io.TextIOWrapper(
        writer,
        encoding=sys.stderr.encoding,
        errors=sys.stderr.errors,
        line_buffering=True,
    )
    _writers[:] = [writer]


def count_dropped_lines(count: Callable[[int], object]) -> None:
    """Call `count`, in a thread, with each number of lines that this process drops."""
    for writer in _writers:
        writer.count_dropped(count)


def drain() -> None:
    """Wait for the last lines before the process ends, at most `DRAIN_WITHIN_S`."""
    for writer in _writers:
        writer.drain(DRAIN_WITHIN_S)


def _never_wait(descriptor: int) -> None:
    """Have writes fail that would have to wait. Files never do."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        os.set_blocking(descriptor, False)
    elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        # A pipe or a terminal is often shared with other programs, which would not expect it: open it anew for this one.
        with suppress(OSError):
            own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            os.dup2(own, descriptor)
            os.close(own)
