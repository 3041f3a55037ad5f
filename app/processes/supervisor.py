"""Start the front ends and the engine as processes, replace those that die, and end them in order.

Runs on the event loop of the process that was started. It answers nothing itself, so it has little to fail at.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable
from itertools import count
from multiprocessing.context import SpawnProcess
from pathlib import Path
from socket import socket
from typing import Any, Final

from app.engine.messages import Loaded
from app.errors import StartupError
from app.processes.slot import Child, SupervisorPipes
from app.settings import Settings
from app.telemetry.metrics import MULTIPROCESS_FOLDER, forget_process

log = logging.getLogger(__name__)

EXIT_CONFIGURATION: Final = 1
EXIT_INTERRUPTED: Final = 128 + signal.SIGINT
EXIT_ENGINE_LOST: Final = 70
"""EX_SOFTWARE of sysexits.h: whoever watches this service should start it again."""
EXIT_OTHER_BUNDLES: Final = 75
"""EX_TEMPFAIL: a front end that met an engine with other bundles than it has read. No death: the next one reads them anew."""
RESTARTS: Final = 5
RESTARTS_WITHIN_S: Final = 60.0
"""A process that dies more often than this will not get better by being started again."""
START_AGAIN_AFTER_S: Final = 1.0
"""When there was no room for a process: there may be when another one has ended."""
LONGEST_SOCKET_PATH: Final = 107
"""In bytes, of a Unix socket: `sun_path` in unix(7)."""


class Supervisor:
    """Keeps one engine and `settings.workers` front ends running."""

    def __init__(
        self,
        settings: Settings,
        listener: socket,
        run_engine: Callable[..., None],
        run_front_end: Callable[..., None],
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._run_engine = run_engine
        self._run_front_end = run_front_end
        # Forking a process with threads, as ONNX Runtime's and tokenizers' are, is not safe.
        self._context: Final = multiprocessing.get_context("spawn")
        parent, self._own_end = self._context.Pipe(duplex=False)
        self._reports, reports = self._context.Pipe(duplex=False)
        self._pipes: Final = SupervisorPipes(parent, reports)
        self._engine: Final = Child("engine", self._make_engine)
        self._front_ends: Final = [Child(f"front end {i}", self._make_front_end) for i in range(settings.workers)]
        self._numbers: Final = count()
        # A little more than a process gives itself.
        self._end_within_s: Final = settings.shutdown_timeout_s + 5
        # What the last engine measured of each model, for the one that replaces it.
        self._loaded: dict[str, Loaded] = {}
        self._is_interrupted = False
        self._stop: Final[asyncio.Future[int]] = asyncio.get_running_loop().create_future()

    async def run(self) -> int:
        """Serve until a signal; return the exit status.

        Raises:
            StartupError: the folder for temporary files has too long a path.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_reader(self._reports.fileno(), self._on_report)
        with tempfile.TemporaryDirectory(prefix="bert-") as folder:
            self._socket_path = Path(folder) / "engine.sock"
            if len(os.fsencode(self._socket_path)) > LONGEST_SOCKET_PATH:
                raise StartupError(f"{folder} is too long a path for a Unix socket. Set TMPDIR to a shorter one.")
            self._metrics_folder = Path(folder) / "metrics"
            self._metrics_folder.mkdir()
            # Read when prometheus_client is imported: every process that is started from here shares its counts.
            os.environ[MULTIPROCESS_FOLDER] = str(self._metrics_folder)
            engine = asyncio.create_task(self._keep(self._engine))
            front_ends = [asyncio.create_task(self._keep(child)) for child in self._front_ends]
            status = await self._stop
            # Once the front ends have closed theirs too, a new connection is refused at once instead of waiting for nobody.
            self._listener.close()
            for task in front_ends:
                task.cancel()
            await asyncio.gather(*front_ends, return_exceptions=True)
            engine.cancel()
            await asyncio.gather(engine, return_exceptions=True)
            return EXIT_INTERRUPTED if self._is_interrupted else status

    def _on_signal(self, number: int) -> None:
        if self._stop.done() and number == signal.SIGINT:
            log.warning("SIGINT again: stopping without what was accepted")
            self._is_interrupted = True
            for child in (*self._front_ends, self._engine):
                child.kill()
            return
        log.info("%s: finishing what was accepted", signal.Signals(number).name)
        self._end(0)

    def _end(self, status: int) -> None:
        if not self._stop.done():
            self._stop.set_result(status)

    def _on_report(self) -> None:
        """Hear of a child: what an engine has loaded, or, from a front end, the process of one that hangs and is to be killed."""
        report: dict[str, Loaded] | int = self._reports.recv()
        if isinstance(report, dict):
            self._loaded = report
        elif report == self._engine.process.pid and not self._engine.was_hung:
            log.error("the engine hangs: killing it")
            self._engine.was_hung = True
            self._engine.kill()

    def _make_engine(self) -> SpawnProcess:
        arguments = (self._settings, self._socket_path, self._engine.was_lost, self._loaded, self._pipes)
        return self._process("engine", self._run_engine, arguments)

    def _make_front_end(self) -> SpawnProcess:
        arguments = (self._settings, self._listener, self._socket_path, self._pipes)
        return self._process("front end", self._run_front_end, arguments)

    def _process(self, name: str, target: Callable[..., None], arguments: tuple[Any, ...]) -> SpawnProcess:
        return self._context.Process(target=target, args=arguments, name=name)

    async def _keep(self, child: Child) -> None:
        """Start a process again whenever it ends; when cancelled, end it."""
        try:
            await self._keep_going(child)
        except Exception:
            log.critical("the supervisor failed", exc_info=True)
            self._end(EXIT_ENGINE_LOST)

    async def _keep_going(self, child: Child) -> None:
        while True:
            try:
                child.start(next(self._numbers))
            except OSError as error:
                if _too_often(child.deaths):
                    log.critical("%s cannot be started, again and again: giving up: %s", child.name, error)
                    self._end(EXIT_ENGINE_LOST)
                    return
                log.error("%s cannot be started: %s; trying again", child.name, error)  # noqa: TRY400
                await asyncio.sleep(START_AGAIN_AFTER_S)
                continue
            try:
                await asyncio.shield(child.ended)
            except asyncio.CancelledError:
                await child.terminate(self._end_within_s)
                raise
            if self._is_interrupted:
                return
            forget_process(child.process.pid, self._metrics_folder)
            status = self._status_after(child)
            if status is not None:
                self._end(status)
                return

    def _status_after(self, child: Child) -> int | None:
        """Return with which status the service has to end as this process has ended; None if another is started."""
        child.was_lost = False
        if child.is_replaced:
            log.info("%s has ended to be replaced; starting another", child.name)
            return None
        # Once all has been well, it is a passing fault, such as of a bundle that is just being copied.
        if child.process.exitcode == EXIT_CONFIGURATION and not self._loaded:
            return EXIT_CONFIGURATION
        if child.process.exitcode == EXIT_OTHER_BUNDLES:
            self._replace_older(child)
            times = child.mismatches
        else:
            child.was_lost = True
            times = child.deaths
        if _too_often(times):
            log.critical("%s %s, again and again: giving up", child.name, child.how_it_ended)
            return EXIT_ENGINE_LOST
        if child.was_lost:
            log.error("%s %s; starting another", child.name, child.how_it_ended)
        return None

    def _replace_older(self, front_end: Child) -> None:
        """Replace what read the bundles before a front end did that met an engine with other ones.

        If that is the engine, the front ends that agree with it go too, and finish what they accepted before the engine ends.
        Else it is this front end alone, and the others that are as old will find out for themselves. Of an engine and a front
        end that disagree the older one goes, so that once the files stay as they are, two rounds at most make all agree.
        """
        if self._engine.number > front_end.number or self._engine.is_replaced:
            return
        log.warning(
            "the engine has read bundles that are no longer there: replacing it, and the front ends from before"
        )
        for child in (*self._front_ends, self._engine):
            if child.number < front_end.number:
                child.replace(self._end_within_s)


def _too_often(times: list[float]) -> bool:
    """Add the present to the times of something that shall not happen often, and return whether it does."""
    now = time.monotonic()
    times[:] = [*(at for at in times if at > now - RESTARTS_WITHIN_S), now]
    return len(times) > RESTARTS
