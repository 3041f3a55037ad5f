"""Put the service together from its settings, run it, and end it well.

The composition root: the only place that sees the whole `Settings` object and that knows every part. Runs in the main
thread of the process.
"""

import asyncio
import logging
import time
from typing import Any, Final

import uvicorn
import uvloop
from prometheus_client import CollectorRegistry

from app import __version__
from app.api.application import make_application
from app.api.gateway import Gateway
from app.api.health import make_health_router
from app.api.inference import InferenceEndpoint, Limits
from app.api.models import make_models_router
from app.bundle import Bundle, find_bundles
from app.catalog import Catalog, load_model
from app.cpus import usable_cpus
from app.engine import Loaded, LocalEngine, Runner
from app.errors import StartupError
from app.logs import configure
from app.metrics import Metrics, ServedModel
from app.ort_runner import open_runner
from app.readiness import Readiness
from app.server import Server, listen
from app.settings import Settings
from app.tasks import TASKS

log = logging.getLogger(__name__)

EXIT_CONFIGURATION: Final = 1
EXIT_ENGINE_LOST: Final = 70
"""EX_SOFTWARE of sysexits.h: the supervisor should start the process again."""
# Most tokens in a batch until it is measured: a GPU needs many to be busy, a CPU is at its best with few.
BATCH_TOKENS: Final = {"CPUExecutionProvider": 1024, "CUDAExecutionProvider": 16384}


def launch(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    configure(settings.log_level, settings.log_format)
    try:
        return uvloop.run(_serve(settings))
    except StartupError as error:
        log.critical("cannot start: %s", error)
        return EXIT_CONFIGURATION


async def _serve(settings: Settings) -> int:
    started_at = time.perf_counter()
    api_key = _api_key(settings)
    listener = listen(settings.host, settings.port)
    bundles = find_bundles(settings.models)
    catalog = Catalog(load_model(bundle) for bundle in bundles)
    metrics = Metrics(CollectorRegistry())
    readiness = Readiness()
    engine = LocalEngine()
    loaded: dict[str, Loaded] = {}
    limits = Limits(settings.max_body_bytes, settings.max_inputs, api_key)
    application = make_application(
        [make_health_router(readiness, metrics), make_models_router(catalog, loaded, api_key)], catalog
    )
    endpoints = [
        InferenceEndpoint(
            handler,
            catalog=catalog,
            engine=engine,
            metrics=metrics,
            readiness=readiness,
            limits=limits,
            access_log=settings.access_log,
        )
        for handler in TASKS.values()
    ]
    server = Server(
        uvicorn.Config(
            Gateway(application, endpoints),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(settings.shutdown_timeout_s),
        ),
        readiness,
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        host, port = listener.getsockname()[:2]
        log.info("listening on http://%s:%d (version %s), loading %d models", host, port, __version__, len(bundles))
        await _load(settings, bundles, engine, metrics, loaded)
        if not server.should_exit:
            readiness.state = "ready"
            metrics.engine_up.set(1)
            log.info("ready in %.2f s", time.perf_counter() - started_at)
        waiting: set[asyncio.Future[Any]] = {serving, engine.lost}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if engine.lost.done():
            readiness.state = "lost"
            metrics.engine_up.set(0)
            return EXIT_ENGINE_LOST
    finally:
        server.should_exit = True
        await serving
        await engine.close()
    log.info("stopped: every accepted request was answered")
    return 0


async def _load(
    settings: Settings, bundles: list[Bundle], engine: LocalEngine, metrics: Metrics, loaded: dict[str, Loaded]
) -> None:
    def open_one(bundle: Bundle) -> Runner:
        return open_runner(
            bundle,
            device=settings.device,
            precision=settings.precision,
            threads=settings.threads or usable_cpus(),
        )

    for bundle in bundles:
        task = bundle.manifest.task
        observer = metrics.add_model(bundle.name, task)
        loaded[bundle.name] = await engine.load(
            bundle,
            open_one,
            observer,
            budget_tokens=settings.batch_tokens or BATCH_TOKENS["CPUExecutionProvider"],
            max_queue_s=settings.max_queue_s,
            timeout_s=settings.request_timeout_s,
        )
        served = loaded[bundle.name]
        metrics.model_loaded(ServedModel(bundle.name, task, served.variant, served.provider))
        metrics.watch_queue(bundle.name, task, lambda name=bundle.name: engine.statistics()[name])  # type: ignore[misc]


def _api_key(settings: Settings) -> str | None:
    if settings.api_key_file is None:
        return None if settings.api_key is None else settings.api_key.get_secret_value()
    try:
        key = settings.api_key_file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise StartupError(f"BERT_API_KEY_FILE cannot be read: {settings.api_key_file}: {error.strerror}.") from error
    if not key:
        raise StartupError(f"BERT_API_KEY_FILE is empty: {settings.api_key_file}. Write the key into it.")
    return key
