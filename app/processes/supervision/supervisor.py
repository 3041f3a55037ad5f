"""Start the front ends and the engine as processes, replace those that die, and end them in order.

Runs on the event loop of the process that was started. It serves no requests itself, so little can fail in it.
"""

import asyncio
import logging
import math
import os
import tempfile
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Final

from app.engine.messages import Serving
from app.errors import StartupError
from app.http.listening.ports import Ports
from app.processes.exit_status import ChildMain, ExitStatus, run_child
from app.processes.notify import NO_MANAGER, ServiceManager
from app.processes.pushing import push_metrics
from app.processes.signals import RELOAD, stop_on_signals
from app.processes.supervision.board import BEAT_EVERY_S, Board, Place, Silence
from app.processes.supervision.reports import FrontEndReady, HasReread, ModelsServed, Report, SupervisorLink
from app.processes.supervision.slot import SlotState, WorkerSlot
from app.processes.supervision.spawn import spawn
from app.settings import Settings
from app.telemetry.metrics import all_processes
from app.telemetry.shared_values import SharedMemory, SlotMemory

log = logging.getLogger(__name__)

SILENCE_S: Final = 10.0
"""A process whose event loop has not come round for this long hangs. With too much to do that may take it a second or two."""
START_WITHIN_S: Final = 600.0
"""A front end that does not serve after this long hangs, if others could: it reads tokenizers only, which they have read, too, and
no caller waits for it. How long an engine loads its models, and the first front ends of a service on a slow disk, nobody can say."""
FINISH_WITHIN_S: Final = 5.0
"""So much longer than a process gives itself to finish what it accepted may it take to end."""
LONGEST_SOCKET_PATH: Final = 107
"""In bytes, of a Unix socket: `sun_path` in unix(7)."""


class Supervisor:
    """Keeps one engine and `settings.workers` front ends running."""

    def __init__(
        self,
        settings: Settings,
        ports: Ports,
        serve_engine: ChildMain,
        serve_front_end: ChildMain,
        manager: ServiceManager = NO_MANAGER,
    ) -> None:
        """Start nothing yet.

        Args:
            settings: Of the service.
            ports: With the sockets that front ends accept connections from.
            serve_engine: Main coroutine of the engine's process.
            serve_front_end: Main coroutine of a front end's process.
            manager: Is told what the service does.
        """
        self._settings = settings
        self._ports = ports
        self._serve_engine = serve_engine
        self._serve_front_end = serve_front_end
        self._manager = manager
        finish_within_s = settings.shutdown_timeout_s + FINISH_WITHIN_S
        self._engine: Final = WorkerSlot("engine", self._spawn_engine, self._handle, finish_within_s)
        self._front_ends: Final = [
            WorkerSlot(f"front end {i}", partial(self._spawn_front_end, 1 + i), self._handle, finish_within_s)
            for i in range(settings.workers)
        ]
        self._slots: Final = (self._engine, *self._front_ends)
        self._memory: Final = tuple(SlotMemory() for _ in self._slots)
        """Of the metrics of each. Whatever becomes of a process and of disks, it is there until this process ends."""
        self._board: Final = Board(len(self._slots))
        self._silence: Final = Silence(self._board)
        self._numbers: Final = count()
        self._serving: Serving | None = None
        """What the last engine served, and how fast: the next one need not measure again."""
        self._was_ready = False
        """Whether the service has ever been ready."""
        self._times_ready = 0
        """How often a front end has become ready."""
        self._cut_short: ExitStatus | None = None
        self._stop: Final[asyncio.Future[ExitStatus]] = asyncio.get_running_loop().create_future()

    async def run(self) -> ExitStatus:
        """Serve until a signal, or until a process fails again and again; return the exit status.

        Raises:
            StartupError: there is no folder for temporary files, or its path is too long.
        """
        stop_on_signals(self._finish, self._stop_now, [self._reload])
        with _temporary_folder() as folder:
            self._folder = Path(folder)
            if len(os.fsencode(self._socket_path)) > LONGEST_SOCKET_PATH:
                raise StartupError(f"{folder} is too long a path for a Unix socket. Set TMPDIR to a shorter one.")
            pushed = push_metrics(self._settings, all_processes(self._memory, os.getpid()).collect, self._ports)
            async with asyncio.TaskGroup() as watch:
                watching = watch.create_task(self._watch())
                alive = watch.create_task(self._manager.keep_alive())
                status = await self._keep_all()
                watching.cancel()
                if pushed is not None:  # what the processes counted is still there
                    await asyncio.to_thread(pushed.close)
                alive.cancel()
        status = self._cut_short or status
        log.info("stopped with status %d", status)
        return status

    async def _keep_all(self) -> ExitStatus:
        """Keep the processes running until the service is to stop, then end them in order; return the status to end with."""
        async with asyncio.TaskGroup() as engine:
            engine.create_task(self._keep(self._engine))
            async with asyncio.TaskGroup() as front_ends:
                for slot in self._front_ends:
                    front_ends.create_task(self._keep(slot))
                status = await self._stop
                # Once the front ends have closed theirs too, a new connection is refused at once instead of waiting for nobody.
                self._ports.close()
                for slot in self._front_ends:
                    slot.stop()
            # Only now, as the front ends needed it for what they had accepted. It has nothing left to finish.
            self._engine.stop(FINISH_WITHIN_S)
        return status

    @property
    def _socket_path(self) -> Path:
        return self._folder / "engine.sock"

    def _finish(self, why: str) -> None:
        log.info("%s: finishing what was accepted", why)
        self._manager.stopping()
        self._end(ExitStatus.STOPPED)

    def _reload(self) -> None:
        """Have the processes read anew what may have changed."""
        if self._is_serving:
            self._manager.rereading()
        for slot in self._slots:
            slot.send(RELOAD)

    def _stop_now(self, number: int) -> None:
        self._cut_short = ExitStatus(128 + number)
        for slot in self._slots:
            slot.stop_now()

    def _end(self, status: ExitStatus) -> None:
        if not self._stop.done():
            self._stop.set_result(status)

    def _handle(self, report: Report) -> None:
        """Handle a report: served models, a ready front end, or what has changed that was read anew."""
        match report:
            case ModelsServed(serving):
                self._serving = serving
            case FrontEndReady():
                self._was_ready = True
                self._open_ports()
                self._times_ready += 1
                if self._is_serving:
                    self._manager.ready()
            case HasReread():
                if self._is_serving:
                    self._manager.ready()

    @property
    def _is_serving(self) -> bool:
        """Whether every front end has been ready: until then, a new connection may be one's that is not."""
        return self._times_ready >= len(self._front_ends)

    def _open_ports(self) -> None:
        try:
            self._ports.open(is_ready=True)
        except StartupError as error:  # another server was faster
            log.critical("cannot start: %s", error)
            self._end(ExitStatus.CONFIGURATION)

    def _spawn_engine(self, pipe: Connection) -> SpawnProcess:
        return self._spawn(0, self._serve_engine, pipe, self._serving)

    def _spawn_front_end(self, index: int, pipe: Connection) -> SpawnProcess:
        return self._spawn(index, self._serve_front_end, pipe, self._ports)

    def _spawn(self, index: int, main: ChildMain, pipe: Connection, *arguments: object) -> SpawnProcess:
        self._silence.forget(index)
        memory = SharedMemory(self._memory[index], self._memory)
        slot = self._slots[index]
        link = SupervisorLink(
            pipe, Place(self._board, index), self._folder, memory, was_lost=slot.state is SlotState.LOST
        )
        return spawn(slot.name, run_child, main, self._settings, self._socket_path, link, *arguments)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(BEAT_EVERY_S)
            self._look()

    def _look(self) -> None:
        """Kill processes that hang. Called every `BEAT_EVERY_S`."""
        for index, times in enumerate(self._silence.times()):
            if self._slots[index].has_process and times * BEAT_EVERY_S >= self._patience_s(index):
                self._kill_hung(index)

    def _patience_s(self, index: int) -> float:
        """Return for how long a process may show nothing."""
        if self._board.beats[index]:
            return SILENCE_S
        is_known = self._was_ready and self._slots[index] is not self._engine
        return START_WITHIN_S if is_known else math.inf

    def _kill_hung(self, index: int) -> None:
        slot = self._slots[index]
        log.error("the %s hangs: killing it", slot.name)
        slot.kill_hung()
        self._silence.forget(index)  # that is said once

    async def _keep(self, slot: WorkerSlot) -> None:
        """Start a process whenever the one before it has ended, until the slot is stopped."""
        try:
            await self._restart(slot)
        except Exception:
            log.critical("the supervisor failed", exc_info=True)
            self._end(ExitStatus.FAILED)

    async def _restart(self, slot: WorkerSlot) -> None:
        while not slot.is_stopped:
            try:
                slot.start(next(self._numbers))
            except OSError as error:
                if slot.deaths.exceeded():
                    log.critical("%s cannot be started, again and again: giving up: %s", slot.name, error)
                    self._end(ExitStatus.FAILED)
                    return
                log.error("%s cannot be started: %s; trying again", slot.name, error)  # noqa: TRY400
                await self._pause(slot)
                continue
            await slot.ended
            if slot.is_stopped:
                return
            self._memory[self._slots.index(slot)].forget_gauges()
            status = self._status_after(slot)
            if status is not None:
                self._end(status)
                return
            if slot.state is SlotState.LOST and self._was_ready:  # a start that fails is to fail soon
                await self._pause(slot)

    async def _pause(self, slot: WorkerSlot) -> None:
        """Wait the longer before a successor is started, the more have died lately, unless the service stops meanwhile."""
        if slot.deaths.pause_s:
            await asyncio.wait((self._stop,), timeout=slot.deaths.pause_s)

    def _status_after(self, slot: WorkerSlot) -> ExitStatus | None:
        """Return the status with which the service must end because a process ended; None if another one is to be started."""
        status = slot.process.exitcode
        # Once all has been well, it is a passing fault, such as of a bundle that is just being copied.
        if status == ExitStatus.CONFIGURATION and not self._was_ready:
            return ExitStatus.CONFIGURATION
        how = slot.how_it_ended
        slot.state = SlotState.LOST
        if slot.deaths.exceeded():
            log.critical("%s %s, again and again: giving up", slot.name, how)
            return ExitStatus.FAILED
        log.error("%s %s; starting another", slot.name, how)
        self._manager.status(f"{slot.name} {how}; starting another")
        return None


def _temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    """Make the folder of the socket between the processes.

    Raises:
        StartupError: no folder for temporary files can be written to.
    """
    try:
        return tempfile.TemporaryDirectory(prefix="bert-")
    except OSError as error:
        raise StartupError(
            f"No folder for the socket between the processes: {error.strerror}. With --workers of two or more, mount a folder "
            "that this user can write to at /tmp (--tmpfs /tmp, or an emptyDir), make room in it, or set TMPDIR to another."
        ) from error
