"""Serve as the settings say: all in this process, or front ends and an engine in processes of their own.

The composition root. `launch` runs in the main thread of the process that was started; `run_front_end` and
`run_engine` are the main functions of the processes that `supervisor` starts for `--workers` of two or more.
"""

import asyncio
import logging
import os
import shutil
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from prometheus_client import CollectorRegistry

from app import __version__
from app.bundle.files import find_bundles
from app.engine.admission import Admission
from app.engine.local import LocalEngine
from app.engine.messages import Loaded
from app.errors import EngineLost, OtherBundles, StartupError
from app.http.server import allow_connections, listen
from app.ipc.client import RemoteEngine
from app.ipc.server import EngineServer
from app.processes.front_end import FrontEnd
from app.processes.garbage_collection import freeze_heap
from app.processes.loading import load_models
from app.processes.slot import SupervisorPipes
from app.processes.supervisor import EXIT_CONFIGURATION, EXIT_ENGINE_LOST, EXIT_OTHER_BUNDLES, Supervisor
from app.settings import Settings, unknown_variables
from app.telemetry.logs import configure
from app.telemetry.metrics import Metrics
from app.telemetry.tracing import require_opentelemetry

log = logging.getLogger(__name__)

_Future = asyncio.Future[Any]


def launch(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    configure(settings.log_level, settings.log_format)
    # Those that look like a setting have ended the start in `__main__`; these may be another program's.
    if unknown := unknown_variables(os.environ):
        log.warning("not a setting of this server, and ignored: %s", ", ".join(unknown))
    allow_connections()
    return _run(_serve_alone(settings) if settings.workers == 1 else _supervise(settings))


def _run(main: Coroutine[Any, Any, int]) -> int:
    try:
        return uvloop.run(main)
    except StartupError as error:
        log.critical("cannot start: %s", error)
        return EXIT_CONFIGURATION
    except EngineLost as error:
        log.critical("the device failed while the models were loading: %s", error.__cause__ or error)
        return EXIT_ENGINE_LOST
    except Exception:  # Python would end with the status of a wrong configuration
        log.critical("a fault of this service", exc_info=True)
        return EXIT_ENGINE_LOST


async def _serve_alone(settings: Settings) -> int:
    """Serve HTTP and run the models in this process."""
    listener = _listen(settings)
    bundles = find_bundles(settings.models)
    metrics = Metrics(CollectorRegistry())
    engine = LocalEngine()
    front_end = FrontEnd(settings, bundles, engine, metrics)
    serving = asyncio.create_task(front_end.server.serve(sockets=[listener]))
    try:
        loading = asyncio.create_task(load_models(settings, bundles, engine, metrics))
        await asyncio.wait({serving, loading}, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            log.info("stopped while the models were loading")
            return 0
        front_end.engine_found(loading.result())
        waiting: set[_Future] = {serving, engine.lost}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if engine.lost.done():
            front_end.engine_lost()
            return EXIT_ENGINE_LOST
    finally:
        front_end.server.should_exit = True
        await serving
        await engine.close()
        await front_end.close()
    log.info("stopped")
    return 0


async def _supervise(settings: Settings) -> int:
    """Start the other processes and keep them running."""
    listener = _listen(settings)
    # What is wrong is told once, and before any process is started.
    find_bundles(settings.models)
    if settings.otlp_endpoint is not None:
        require_opentelemetry()
    status = await Supervisor(settings, listener, run_engine, run_front_end).run()
    log.info("stopped with status %d", status)
    return status


def run_front_end(settings: Settings, listener: socket.socket, socket_path: Path, pipes: SupervisorPipes) -> None:
    """Be a front end: read HTTP, tokenize, ask the engine at `socket_path`."""
    configure(settings.log_level, settings.log_format)
    raise SystemExit(_run(_serve_front_end(settings, listener, socket_path, pipes)))


async def _serve_front_end(
    settings: Settings, listener: socket.socket, socket_path: Path, pipes: SupervisorPipes
) -> int:
    bundles = find_bundles(settings.models)
    engine = RemoteEngine(
        socket_path,
        admission=Admission(settings.max_queue_s, settings.request_timeout_s),
        identities={bundle.name: bundle.identity for bundle in bundles},
        # The front end needs its engine first, and is told of it later.
        connected=lambda loaded: front_end.engine_found(loaded),  # noqa: PLW0108
        lost=lambda: front_end.engine_lost(),  # noqa: PLW0108
        hangs=partial(_report, pipes),
    )
    front_end = FrontEnd(settings, bundles, engine, Metrics(CollectorRegistry()))
    stop = partial(front_end.server.stop, "the supervisor has died", logging.ERROR)
    _end_with(pipes, socket_path.parent, stop)
    serving = asyncio.create_task(front_end.server.serve(sockets=[listener]))
    connection = asyncio.create_task(engine.stay_connected())
    try:
        await asyncio.wait({serving, connection}, return_when=asyncio.FIRST_COMPLETED)
        if connection.done():
            front_end.server.stop(str(connection.exception()), logging.WARNING)
        await serving
        if connection.done():
            await connection
    except OtherBundles:
        return EXIT_OTHER_BUNDLES  # and the next one reads those that are there now
    finally:
        connection.cancel()
        await asyncio.gather(connection, return_exceptions=True)
        await front_end.close()
    return 0


def run_engine(
    settings: Settings,
    socket_path: Path,
    was_lost: bool,
    previous: Mapping[str, Loaded],
    pipes: SupervisorPipes,
) -> None:
    """Be the engine: load the models, batch and run what front ends ask for at `socket_path`."""
    configure(settings.log_level, settings.log_format)
    status = _run(_serve_engine(settings, socket_path, was_lost, previous, pipes))
    os._exit(status)  # as in `__main__`: a thread may be loading a model, or be stuck in a lost device


async def _serve_engine(
    settings: Settings,
    socket_path: Path,
    was_lost: bool,
    previous: Mapping[str, Loaded],
    pipes: SupervisorPipes,
) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    _end_with(pipes, socket_path.parent, stopping.set)
    metrics = Metrics(CollectorRegistry())
    if was_lost:
        metrics.engine_restarts.inc()
    engine = LocalEngine()
    loading = asyncio.create_task(load_models(settings, find_bundles(settings.models), engine, metrics, previous))
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait({loading, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        log.info("stopped while the models were loading")
        return 0
    loaded = loading.result()
    _report(pipes, loaded)
    server = EngineServer(engine, loaded)
    metrics.engine_up.set(1)
    freeze_heap()
    serving = asyncio.create_task(server.serve(socket_path))
    waiting: set[_Future] = {serving, stopped, engine.lost}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if engine.lost.done():
            return EXIT_ENGINE_LOST
        if serving.done():
            serving.result()  # which is an error: it listens until cancelled
        await server.until_alone()
    finally:
        for task in (serving, stopped):
            task.cancel()
        await asyncio.gather(serving, stopped, return_exceptions=True)
        await engine.close()
    return 0


def _listen(settings: Settings) -> socket.socket:
    listener = listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    log.info("listening on http://%s:%d (version %s, workers %d)", host, port, __version__, settings.workers)
    return listener


def _report(pipes: SupervisorPipes, what: object) -> None:
    """Tell the supervisor something."""
    with suppress(OSError):  # it has died, and replaces nothing
        pipes.reports.send(what)


def _end_with(pipes: SupervisorPipes, folder: Path, stop: Callable[[], None]) -> None:
    """Stop this process when its parent is gone, however that came.

    Args:
        pipes: To its supervisor.
        folder: Of all processes of this start, which would be left behind: what each needs of it, it has open.
        stop: Has it finish what it accepted.
    """
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(pipes.parent.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        stop()

    loop.add_reader(pipes.parent.fileno(), gone)
