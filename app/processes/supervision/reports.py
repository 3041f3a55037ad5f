"""What a child process reports to its supervisor, and the pipe between the two.

Every process has a pipe of its own, so one that is killed in the middle of a report damages no other's.
"""

import asyncio
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from app.engine.messages import Serving
from app.processes.supervision.board import Place
from app.telemetry.shared_values import SharedMemory


@dataclass(frozen=True, slots=True)
class ModelsServed:
    """The engine serves these models: those that it loaded when it started, or others since."""

    serving: Serving


@dataclass(frozen=True, slots=True)
class FrontEndReady:
    """A front end is connected to an engine, and has read what requests for its models need."""


@dataclass(frozen=True, slots=True)
class HasReread:
    """The engine has read anew what may have changed, as it was told to; front ends have what it serves."""


Report = ModelsServed | FrontEndReady | HasReread


@dataclass(frozen=True, slots=True)
class SupervisorLink:
    """A child's end of its pipe, its place on the board, and what all processes of the service share: a folder, metrics' memory.

    `was_lost` tells whether the process before it, in its slot, ended without having been told to.

    The supervisor sends nothing. When there is something to read, it is the end: the supervisor is gone.
    """

    pipe: Connection
    place: Place
    folder: Path
    memory: SharedMemory
    was_lost: bool

    def report(self, report: Report) -> None:
        """Send a report; none is needed any more by a supervisor that is gone."""
        with suppress(OSError):
            self.pipe.send(report)

    def when_gone(self, stop: Callable[[], None]) -> None:
        """Call `stop` once the supervisor is gone, even if it was killed, and remove the folder that it left behind."""

        def gone() -> None:
            asyncio.get_running_loop().remove_reader(self.pipe.fileno())
            shutil.rmtree(self.folder, ignore_errors=True)
            stop()

        when_readable(self.pipe, gone)


def when_readable(pipe: Connection, callback: Callable[[], None]) -> None:
    """Call `callback` on this event loop whenever a report, or the end of the pipe, can be read."""
    asyncio.get_running_loop().add_reader(pipe.fileno(), callback)
    # uvloop has just made it non-blocking, in which a `Connection` fails halfway through a long report.
    os.set_blocking(pipe.fileno(), True)
