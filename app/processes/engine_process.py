"""The engine's process: loads the models, batches and runs what front ends ask for."""

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path

from app.bundle.files import find_bundles
from app.engine.local import LocalEngine
from app.engine.messages import Loaded
from app.ipc.engine_server import EngineServer
from app.processes.bad_bundles import BadBundles
from app.processes.exit_status import ExitStatus
from app.processes.garbage_collection import freeze_heap
from app.processes.loading import load_models, load_unless_stopped
from app.processes.reports import ModelsLoaded, SupervisorLink
from app.settings import Settings
from app.telemetry.metrics import Metrics


async def serve_engine(
    settings: Settings,
    socket_path: Path,
    supervisor: SupervisorLink,
    previous: Mapping[str, Loaded],
) -> ExitStatus:
    """Be the engine: the main coroutine of its process.

    Args:
        settings: As the service was started with.
        socket_path: Where to listen for front ends.
        supervisor: Gets a report when the models are loaded, and sees that this process works from then on.
        previous: How the engine before this one, if any, had loaded each model.

    Raises:
        StartupError: the service cannot start as it is set up.
        EngineLost: the device failed while the models were loading.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not stopped.done():
            stopped.set_result(None)

    loop.add_signal_handler(signal.SIGTERM, stop)
    supervisor.when_gone(stop)
    metrics = Metrics(memory=supervisor.memory)
    if supervisor.was_lost:
        metrics.engine_restarts.inc()
    engine = LocalEngine()
    bad = BadBundles(are_skipped=settings.skip_bad_bundles)
    loading = load_models(settings, find_bundles(settings.models, bad.skipping), engine, metrics, previous, bad=bad)
    loaded = await load_unless_stopped(loading, stopped)
    if loaded is None:
        return ExitStatus.STOPPED
    supervisor.report(ModelsLoaded(loaded))
    metrics.engine_up.set(1)
    freeze_heap()
    server = EngineServer(engine, loaded)
    async with asyncio.TaskGroup() as tasks:
        beating = tasks.create_task(supervisor.place.beat())
        serving = tasks.create_task(server.serve(socket_path))
        await asyncio.wait((stopped, engine.lost), return_when=asyncio.FIRST_COMPLETED)
        if not engine.lost.done():
            await server.until_alone()
        serving.cancel()
        await engine.close()
        beating.cancel()
    return ExitStatus.FAILED if engine.lost.done() else ExitStatus.STOPPED
