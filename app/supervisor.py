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
from multiprocessing.context import SpawnProcess
from pathlib import Path
from socket import socket
from typing import Any, Final

from app.metrics import MULTIPROCESS_FOLDER, forget_process
from app.settings import Settings

log = logging.getLogger(__name__)

EXIT_CONFIGURATION: Final = 1
EXIT_ENGINE_LOST: Final = 70
"""EX_SOFTWARE of sysexits.h: whoever watches this service should start it again."""
RESTARTS: Final = 5
RESTARTS_WITHIN_S: Final = 60.0
"""A process that dies more often than this will not get better by being started again."""


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
        self._parent_end, self._own_end = self._context.Pipe(duplex=False)
        self._deaths: list[float] = []
        self._engine_restarts = 0
        self._stop: Final[asyncio.Future[int]] = asyncio.get_running_loop().create_future()

    async def run(self) -> int:
        """Serve until a signal; return the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        with tempfile.TemporaryDirectory(prefix="bert-") as folder:
            self._socket_path = Path(folder) / "engine.sock"
            self._metrics_folder = Path(folder) / "metrics"
            self._metrics_folder.mkdir()
            # Read when prometheus_client is imported: every process that is started from here shares its counts.
            os.environ[MULTIPROCESS_FOLDER] = str(self._metrics_folder)
            engine = asyncio.create_task(self._keep("engine", self._start_engine))
            front_ends = [
                asyncio.create_task(self._keep(f"front end {i}", self._start_front_end))
                for i in range(self._settings.workers)
            ]
            status = await self._stop
            for task in front_ends:
                task.cancel()
            await asyncio.gather(*front_ends, return_exceptions=True)
            engine.cancel()
            await asyncio.gather(engine, return_exceptions=True)
            return status

    def _on_signal(self, number: int) -> None:
        log.info("%s: finishing what was accepted", signal.Signals(number).name)
        self._end(0)

    def _end(self, status: int) -> None:
        if not self._stop.done():
            self._stop.set_result(status)

    def _start_engine(self) -> SpawnProcess:
        arguments = (self._settings, self._socket_path, self._engine_restarts, self._parent_end)
        self._engine_restarts += 1
        return self._started("engine", self._run_engine, arguments)

    def _start_front_end(self) -> SpawnProcess:
        arguments = (self._settings, self._listener, self._socket_path, self._parent_end)
        return self._started("front end", self._run_front_end, arguments)

    def _started(self, name: str, target: Callable[..., None], arguments: tuple[Any, ...]) -> SpawnProcess:
        process = self._context.Process(target=target, args=arguments, name=name)
        process.start()
        return process

    async def _keep(self, name: str, start: Callable[[], SpawnProcess]) -> None:
        """Start a process again whenever it ends; when cancelled, end it."""
        while True:
            process = start()
            ended = self._ended(process)
            try:
                await asyncio.shield(ended)
            except asyncio.CancelledError:
                await self._terminate(name, process, ended)
                raise
            forget_process(process.pid, self._metrics_folder)
            if process.exitcode == EXIT_CONFIGURATION:
                self._end(EXIT_CONFIGURATION)
                return
            now = time.monotonic()
            self._deaths = [*(at for at in self._deaths if at > now - RESTARTS_WITHIN_S), now]
            if len(self._deaths) > RESTARTS:
                log.critical("%s ended with status %s, again and again: giving up", name, process.exitcode)
                self._end(EXIT_ENGINE_LOST)
                return
            log.error("%s ended with status %s; starting another", name, process.exitcode)

    async def _terminate(self, name: str, process: SpawnProcess, ended: "asyncio.Future[None]") -> None:
        process.terminate()
        try:
            # A little more than the process gives itself.
            await asyncio.wait_for(ended, self._settings.shutdown_timeout_s + 5)
        except TimeoutError:
            log.error("%s did not end in time: killed", name)  # noqa: TRY400
            process.kill()

    def _ended(self, process: SpawnProcess) -> "asyncio.Future[None]":
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def on_exit() -> None:
            loop.remove_reader(process.sentinel)
            process.join()
            if not ended.done():
                ended.set_result(None)

        loop.add_reader(process.sentinel, on_exit)
        return ended
