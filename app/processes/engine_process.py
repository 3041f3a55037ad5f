"""The engine's process: loads the models, batches and runs what front ends ask for."""

import asyncio
from pathlib import Path

from app.bundle.files import find_bundles
from app.engine.local import LocalEngine
from app.engine.messages import Serving
from app.ipc.engine_server import EngineServer
from app.processes.exit_status import ExitStatus
from app.processes.garbage_collection import freeze_heap
from app.processes.models.ahead import Ahead
from app.processes.models.bad_bundles import bad_bundles
from app.processes.models.loading import load_models, load_unless_stopped
from app.processes.models.models_folder import watch
from app.processes.models.repository import Repository
from app.processes.models.small_files import SmallFiles
from app.processes.models.succession import as_before, to_serve
from app.processes.remote_front_ends import RemoteFrontEnds
from app.processes.reread.again import Again
from app.processes.signals import FINISH, reread_when_told
from app.processes.supervision.reports import HasReread, ModelsServed, SupervisorLink
from app.settings import Settings
from app.telemetry.metrics import Metrics


async def serve_engine(
    settings: Settings,
    socket_path: Path,
    supervisor: SupervisorLink,
    previous: Serving | None,
) -> ExitStatus:
    """Be the engine: the main coroutine of its process.

    Args:
        settings: As the service was started with.
        socket_path: Where to listen for front ends.
        supervisor: Gets a report when the models are loaded, and sees that this process works from then on.
        previous: What the engine before this one, if any, served.

    Raises:
        StartupError: the service cannot start as it is set up.
        EngineLost: the device failed while the models were loading.
    """
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()

    def stop() -> None:
        if not stopped.done():
            stopped.set_result(None)

    loop.add_signal_handler(FINISH, stop)
    supervisor.when_gone(stop)
    metrics = Metrics(memory=supervisor.memory)
    if supervisor.was_lost:
        metrics.engine_restarts.inc()
    engine = LocalEngine()
    is_successor = previous is not None
    bad = bad_bundles(settings, is_successor=is_successor)
    found = find_bundles(settings.models, bad.skipping, may_be_empty=settings.waits_for_models)
    files = SmallFiles(supervisor.folder)
    bundles = to_serve(found, settings, files, bad, previous)
    known = as_before(bundles, previous)
    absent = () if previous is None and bundles else settings.models_named
    loaded = await load_unless_stopped(
        load_models(
            settings,
            bundles,
            engine,
            metrics,
            known,
            ahead=Ahead(settings, () if is_successor else bundles),
            bad=bad,
            absent=absent,
            may_lack=[one.name for one in bundles] if is_successor else (),  # rather than serve nothing
            is_successor=is_successor,
        ),
        stopped,
    )
    if loaded is None:
        return ExitStatus.STOPPED
    start = Serving(loaded, bad.names, () if previous is None else previous.unloaded)
    files.keep_only(start.keys)
    server = EngineServer(engine, start, files.put_back)
    repository = Repository(
        settings, engine, metrics, RemoteFrontEnds(server, supervisor, files), bundles=bundles, serving=start
    )
    server.administration = repository

    async def reread() -> None:
        try:
            await repository.refresh()
        finally:
            supervisor.report(HasReread())

    reread_when_told([Again(reread).begin])
    supervisor.report(ModelsServed(start))
    metrics.engine_up.set(1)
    freeze_heap()
    async with asyncio.TaskGroup() as tasks:
        beating = tasks.create_task(supervisor.place.beat())
        serving = tasks.create_task(server.serve(socket_path))
        if settings.watch_models:
            watching = tasks.create_task(watch(settings.models, lambda: repository.served, repository.refresh))
            stopped.add_done_callback(lambda _: watching.cancel())
            engine.lost.add_done_callback(lambda _: watching.cancel())
        await asyncio.wait((stopped, engine.lost), return_when=asyncio.FIRST_COMPLETED)
        if not engine.lost.done():
            await server.until_alone()
        serving.cancel()
        await engine.close()
        beating.cancel()
    return ExitStatus.FAILED if engine.lost.done() else ExitStatus.STOPPED
