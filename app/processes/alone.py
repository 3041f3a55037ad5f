"""`--workers 1`: HTTP and the models in one process."""

import asyncio
import logging
import os
from collections.abc import Sequence

from app.bundle.files import Bundle
from app.engine.local import LocalEngine
from app.engine.messages import Serving
from app.http.listening.ports import Ports
from app.processes.exit_status import ExitStatus
from app.processes.front_end import FrontEnd
from app.processes.models.ahead import Ahead
from app.processes.models.bad_bundles import BadBundles
from app.processes.models.loading import load_models, load_unless_stopped
from app.processes.models.models_folder import watch
from app.processes.models.repository import Repository
from app.processes.notify import ServiceManager
from app.processes.pushing import push_metrics
from app.processes.reread.again import Again
from app.processes.signals import stop_on_signals
from app.settings import Settings
from app.telemetry.log_writer import drain
from app.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


async def serve_alone(
    settings: Settings,
    ports: Ports,
    bundles: Sequence[Bundle],
    ahead: Ahead,
    *,
    bad: BadBundles,
    manager: ServiceManager,
) -> ExitStatus:
    """Serve the bundles, but for bad ones that are skipped, until a signal; return the exit status.

    Raises:
        StartupError: the service cannot start as it is set up.
        EngineLost: the device failed while the models were loading.
    """
    metrics = Metrics()
    engine = LocalEngine()
    front_end = FrontEnd(settings, bundles, engine, metrics, bad)
    loading: asyncio.Future[Repository] = asyncio.get_running_loop().create_future()

    async def reread() -> None:
        repository = await loading  # what changes while models load may have been read already
        await manager.reread(repository.refresh)

    def stop(why: str) -> None:
        manager.stopping()
        front_end.server.stop(why)

    stop_on_signals(stop, _end_now, [*front_end.looks, Again(reread).begin])
    alive = asyncio.create_task(manager.keep_alive())
    serving = asyncio.create_task(front_end.server.serve_on(ports))
    pushed = push_metrics(settings, metrics.families, ports)
    watching: asyncio.Task[None] | None = None
    # No task group: what fails here may not cut off the server, which still answers what it accepted.
    try:
        loaded = await load_unless_stopped(
            load_models(
                settings,
                front_end.bundles,
                engine,
                metrics,
                ahead=ahead,
                bad=bad,
                absent=() if front_end.bundles else settings.models_named,
            ),
            serving,
        )
        if loaded is None:
            return ExitStatus.STOPPED
        start = Serving(loaded, bad.names)
        front_end.engine_found(start)
        ports.open(is_ready=True)
        repository = Repository(settings, engine, metrics, front_end, bundles=front_end.bundles, serving=start)
        front_end.administration = repository
        manager.ready()
        loading.set_result(repository)
        if settings.watch_models:
            watching = asyncio.create_task(watch(settings.models, lambda: repository.served, repository.refresh))
        await asyncio.wait((serving, engine.lost), return_when=asyncio.FIRST_COMPLETED)
        if engine.lost.done():
            front_end.engine_lost()
            return ExitStatus.FAILED
    finally:
        if watching is not None:
            watching.cancel()
        front_end.server.should_exit = True
        await serving
        await engine.close()
        # Both at once: each may have to wait for a collector.
        await asyncio.gather(front_end.close(), *([asyncio.to_thread(pushed.close)] if pushed else []))
        alive.cancel()
    log.info("stopped")
    return ExitStatus.STOPPED


def _end_now(number: int) -> None:
    drain()
    os._exit(128 + number)  # waits for no device and no caller
