"""One place of a supervisor's: a process, and the one that is started there when it ends. Lives on the supervisor's loop."""

import asyncio
import logging
import signal
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Final, NamedTuple

log = logging.getLogger(__name__)


class SupervisorPipes(NamedTuple):
    """A child's ends of two pipes: one closes when the supervisor ends, on the other the child reports to it."""

    parent: Connection
    reports: Connection


class Child:
    """What is known of the process that has this place now."""

    def __init__(self, name: str, make: Callable[[], SpawnProcess]) -> None:
        self.name: Final = name
        self._make = make
        self.process: SpawnProcess
        """The one that was started last."""
        self.ended: asyncio.Future[None]
        self.number = -1
        """The place of this process in the order in which all were started: what has a smaller one has read older files."""
        self.is_replaced = False
        """Whether it ends because another one is wanted: that is no death."""
        self.was_hung = False
        self.was_lost = False
        """Whether the process before it ended without being told to."""
        self.deaths: Final[list[float]] = []
        self.mismatches: Final[list[float]] = []
        self._ending: asyncio.Task[None] | None = None

    def start(self, number: int) -> None:
        """Start a process in this place.

        Raises:
            OSError: the system has no room for another one.
        """
        process = self._make()
        # A terminal sends Ctrl-C to every process. What then becomes of the children, their supervisor says: from its first
        # moment on a child has the signal blocked. The tracker unblocks it when it starts, so it comes first.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        self.process, self.ended = process, self._end_of(process)
        self.number, self.is_replaced, self.was_hung = number, False, False

    def _end_of(self, process: SpawnProcess) -> "asyncio.Future[None]":
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def on_exit() -> None:
            loop.remove_reader(process.sentinel)
            process.join()
            if not ended.done():
                ended.set_result(None)

        loop.add_reader(process.sentinel, on_exit)
        return ended

    def replace(self, within_s: float) -> None:
        """Have the process end in order, so that another one is started."""
        if not self.is_replaced:
            self.is_replaced = True
            self._ending = asyncio.create_task(self.terminate(within_s))

    async def terminate(self, within_s: float) -> None:
        """Have the process finish what it accepted and end."""
        self.process.terminate()
        try:
            await asyncio.wait_for(asyncio.shield(self.ended), within_s)
        except TimeoutError:
            log.error("%s did not end in time: killed", self.name)  # noqa: TRY400
            self.process.kill()

    def kill(self) -> None:
        """End the process at once, if one was started."""
        if self.number >= 0:
            self.process.kill()

    @property
    def how_it_ended(self) -> str:
        """How the process ended, in words."""
        status = self.process.exitcode
        if status is None or status >= 0:
            return f"ended with status {status}"
        told = f"ended with status {status}, killed by {signal.Signals(-status).name}"
        if status == -signal.SIGKILL:
            told += " as it had hung" if self.was_hung else ", often by the kernel for want of memory"
        return told
