"""One worker slot of the supervisor: a process, and the successors that take its place. Lives on the supervisor's loop."""

import asyncio
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from enum import Enum
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Final

from app.processes.signals import FINISH
from app.processes.supervision.reports import Report, when_readable

log = logging.getLogger(__name__)

RESTARTS: Final = 5
RESTARTS_WITHIN_S: Final = 60.0
"""A process that ends more often than this will not get better by being started again."""
FIRST_PAUSE_S: Final = 0.5
"""Before the second restart; the first one is at once, and every pause is twice as long as the one before it."""


class SlotState(Enum):
    """What the process of a slot does, or how the last one ended."""

    VACANT = "no process runs: none was started yet, or the last one ended in order"
    LOST = "no process runs: the last one ended without having been told to"
    RUNNING = "a process runs"
    HUNG = "a process was killed because it hung"
    STOPPED = "a process, if any, finishes what it accepted; no successor is started"


class RestartLimit:
    """Counts the restarts of one process for one reason."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def exceeded(self) -> bool:
        """Count a restart; return whether there were too many of them lately."""
        now = time.monotonic()
        self._times = [*(at for at in self._times if at > now - RESTARTS_WITHIN_S), now]
        return len(self._times) > RESTARTS

    @property
    def pause_s(self) -> float:
        """How long to wait before the restart that was counted last."""
        return FIRST_PAUSE_S * 2.0 ** (len(self._times) - 2) if len(self._times) > 1 else 0.0


class WorkerSlot:
    """A process that is started again whenever it ends."""

    def __init__(
        self,
        name: str,
        spawn: Callable[[Connection], SpawnProcess],
        handle: Callable[[Report], None],
        finish_within_s: float,
    ) -> None:
        """Start nothing yet.

        Args:
            name: For the log.
            spawn: Starts a process with this end of its pipe.
            handle: Called with each report of the process.
            finish_within_s: How long it may take to end once it is told to; then it is killed.
        """
        self.name: Final = name
        self._spawn = spawn
        self._handle = handle
        self._finish_within_s = finish_within_s
        self.state = SlotState.VACANT
        self.process: SpawnProcess
        """The one that was started last."""
        self.number = -1
        """The place of that process in the order in which all were started: one with a smaller number has read older files."""
        self.ended: asyncio.Future[None]
        """Done when that process has ended and its reports are handled."""
        self.deaths: Final = RestartLimit()
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def has_process(self) -> bool:
        """Whether a process runs."""
        return self.number >= 0 and not self.ended.done()

    @property
    def is_stopped(self) -> bool:
        """Whether no successor is to be started."""
        return self.state is SlotState.STOPPED

    def start(self, number: int) -> None:
        """Start a process in this slot.

        Raises:
            OSError: the system has no room for another process.
        """
        ours, theirs = multiprocessing.Pipe()
        with theirs:  # the child has its own copy, and this one would keep the pipe from ending with it
            try:
                self.process = self._spawn(theirs)
            except OSError:
                ours.close()
                raise
        loop = asyncio.get_running_loop()
        when_readable(ours, partial(self._read_report, ours))
        loop.add_reader(self.process.sentinel, self._on_end, ours)
        self.ended = loop.create_future()
        self.number = number
        self.state = SlotState.RUNNING

    def _read_report(self, pipe: Connection) -> None:
        try:
            report = pipe.recv()
        except (EOFError, OSError):  # the process has ended, perhaps in the middle of a report
            asyncio.get_running_loop().remove_reader(pipe.fileno())
            pipe.close()
        else:
            self._handle(report)

    def _on_end(self, pipe: Connection) -> None:
        asyncio.get_running_loop().remove_reader(self.process.sentinel)
        self.process.join()
        while not pipe.closed and pipe.poll():
            self._read_report(pipe)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if not self.ended.done():
            self.ended.set_result(None)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs."""
        # Once it has ended, whoever asked first has its status, and the number may be that of another process.
        if self.has_process and self.process.exitcode is None and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def stop(self, within_s: float | None = None) -> None:
        """Have the process finish what it accepted and end, sooner than usual if asked for; no successor is to be started."""
        if self.state is SlotState.RUNNING:
            self._finish(self._finish_within_s if within_s is None else within_s)
        self.state = SlotState.STOPPED

    def _finish(self, within_s: float) -> None:
        self.send(FINISH)
        self._deadline = asyncio.get_running_loop().call_later(within_s, self._kill_late)

    def _kill_late(self) -> None:
        log.error("%s did not end in time: killed", self.name)
        self.process.kill()

    def kill_hung(self) -> None:
        """End a process that does not answer; a successor is to be started, unless it was stopped."""
        if not self.is_stopped:
            self.state = SlotState.HUNG
        self.process.kill()

    def stop_now(self) -> None:
        """End the process, if any, without what it accepted; no successor is to be started."""
        self.state = SlotState.STOPPED
        if self.number >= 0:
            self.process.kill()

    @property
    def how_it_ended(self) -> str:
        """How the process ended, in words."""
        status = self.process.exitcode
        if status is None or status >= 0:
            return f"ended with status {status}"
        how = f"ended with status {status}, killed by {signal.Signals(-status).name}"
        if status == -signal.SIGKILL:
            how += " as it had hung" if self.state is SlotState.HUNG else ", often by the kernel for want of memory"
        return how
