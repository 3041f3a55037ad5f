"""The process of a front end: reads requests, and has an engine's process run them."""

import asyncio
import logging
from functools import partial
from pathlib import Path

from app.bundle.files import load_bundle
from app.engine.admission import Admission
from app.engine.messages import Serving
from app.errors import StartupError
from app.http.listening.ports import Ports
from app.ipc.remote_engine import RemoteEngine
from app.processes.exit_status import ExitStatus
from app.processes.front_end import FrontEnd
from app.processes.models.bad_bundles import bad_bundles
from app.processes.models.small_files import folder_of
from app.processes.reread.certificates import open_certificates
from app.processes.reread.changes import until_right
from app.processes.reread.keys import open_admin_key, open_callers_keys
from app.processes.signals import FINISH, reread_when_told
from app.processes.supervision.reports import FrontEndReady, SupervisorLink
from app.settings import Settings
from app.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


async def serve_front_end(
    settings: Settings,
    socket_path: Path,
    supervisor: SupervisorLink,
    ports: Ports,
) -> ExitStatus:
    """Be a front end and nothing else: the main coroutine of its process.

    Args:
        settings: As the service was started with.
        socket_path: Where the engine listens.
        supervisor: Gets a report when this front end is ready, and sees that it works.
        ports: With the sockets that all front ends accept connections from.

    Raises:
        StartupError: the service cannot start as it is set up.
    """
    if not await _files_are_right(settings, supervisor):
        return ExitStatus.STOPPED
    bad = bad_bundles(settings)
    engine = RemoteEngine(socket_path, admission=Admission(settings.max_queue_s, settings.request_timeout_s))
    metrics = Metrics(memory=supervisor.memory)
    if supervisor.was_lost:
        metrics.front_end_restarts.inc()
    # The engine says which models it has: the folder may have others by now.
    front_end = FrontEnd(settings, [], engine, metrics, bad)
    front_end.administration = engine
    asyncio.get_running_loop().add_signal_handler(FINISH, front_end.server.stop, "the service stops")
    reread_when_told(front_end.looks)
    supervisor.when_gone(partial(front_end.server.stop, "the supervisor has died", logging.ERROR))
    async with asyncio.TaskGroup() as tasks:
        beating = tasks.create_task(supervisor.place.beat())
        connection = tasks.create_task(_stay_connected(front_end, engine, supervisor))
        await front_end.server.serve_on(ports, supervisor.place)
        connection.cancel()
        await front_end.close()
        beating.cancel()
    return ExitStatus.STOPPED if connection.cancelled() else connection.result()


async def _files_are_right(settings: Settings, supervisor: SupervisorLink) -> bool:
    """Wait until keys and certificates can be read; return False if this process is to end instead."""
    opens = (open_callers_keys, open_admin_key, open_certificates)
    waiting = asyncio.create_task(until_right(lambda: [open_one(settings) for open_one in opens]))
    told_to_end = asyncio.Event()

    def end() -> None:
        told_to_end.set()  # all may be right by now
        waiting.cancel()

    asyncio.get_running_loop().add_signal_handler(FINISH, end)
    supervisor.when_gone(end)
    await asyncio.wait((waiting,))
    return not told_to_end.is_set()


async def _stay_connected(front_end: FrontEnd, engine: RemoteEngine, supervisor: SupervisorLink) -> ExitStatus:
    """Keep the front end connected to the engine; if that fails, stop it and return its exit status."""

    async def prepare(key: str) -> None:
        await front_end.prepare(await asyncio.to_thread(load_bundle, folder_of(supervisor.folder, key)))

    async def engine_found(serving: Serving) -> None:
        await front_end.adopt(supervisor.folder, serving)
        supervisor.report(FrontEndReady())

    try:
        await engine.stay_connected(prepare, engine_found, front_end.engine_lost)
    except StartupError as error:
        log.critical("cannot start: %s", error)
        front_end.server.stop(str(error), logging.ERROR)
        return ExitStatus.CONFIGURATION
    except Exception as error:
        log.critical("a fault of this service", exc_info=True)
        front_end.server.stop(str(error), logging.ERROR)
        return ExitStatus.FAILED
