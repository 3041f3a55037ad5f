"""A front end: everything of a process that answers HTTP, put together around an engine client.

`serve_front_end` is the main coroutine of a process that is a front end and nothing else, for `--workers` of two or more.
"""

import asyncio
import logging
import math
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, cast

import uvicorn

from app.bundle.files import Bundle, key_of, load_bundle
from app.bundle.manifest import Task
from app.engine.admission import Admission
from app.engine.messages import Loaded, Serving
from app.engine.protocols import Administration, EngineClient
from app.errors import StartupError
from app.http.admin import ADMIN_ROUTES, AdminApi, AdminEndpoint
from app.http.api import Api, Inference, Limits, Served
from app.http.application import make_application
from app.http.asgi import Application
from app.http.callers import Callers
from app.http.compression.answers import CompressingApplication, Compressor
from app.http.connection import HttpProtocol
from app.http.cross_origin import for_origins
from app.http.dialects import chosen
from app.http.dispatch import Dispatcher, Endpoint
from app.http.finished import Finished
from app.http.health import make_health_router, make_metrics_router
from app.http.inference import InferenceEndpoint
from app.http.keys import Keys, digest_of
from app.http.large_work import LargeWork
from app.http.listening.ports import Ports, Purpose
from app.http.models import make_models_router
from app.http.native import NativeApi
from app.http.page import PageApi
from app.http.readiness import Readiness
from app.http.server import Server
from app.http.utility import UtilityEndpoint
from app.ipc.remote_engine import RemoteEngine
from app.processes.bad_bundles import NONE_SKIPPED, BadBundles, bad_bundles
from app.processes.certificates import Certificates, open_certificates
from app.processes.changes import look_again, until_right
from app.processes.exit_status import ExitStatus
from app.processes.garbage_collection import freeze_heap
from app.processes.keys import KeysFile, open_keys_file, read_key, single_key
from app.processes.reports import FrontEndReady, SupervisorLink
from app.processes.signals import reread_when_told
from app.processes.small_files import folder_of
from app.settings import Settings
from app.tasks import TASKS
from app.tasks.catalog import Catalog, check_models, default_models, load_model
from app.telemetry.logs import AccessLog
from app.telemetry.metrics import Metrics
from app.telemetry.otel import is_exported, read_variables
from app.telemetry.tracing import Tracer

log = logging.getLogger(__name__)


class FrontEnd:
    """The HTTP server of one process, and the state of its engine."""

    def __init__(
        self,
        settings: Settings,
        bundles: Sequence[Bundle],
        engine: EngineClient,
        metrics: Metrics,
        bad: BadBundles = NONE_SKIPPED,
    ) -> None:
        """Read the tokenizers of the bundles and build the application; `bad` gets those that are skipped.

        Raises:
            BundleError: a bundle is for an unknown task, or its tokenizer is damaged or does not give the golden token ids.
            StartupError: a key cannot be read, an API or a default model does not exist.
        """
        self.readiness: Final = Readiness()
        self._metrics = metrics
        self._settings = settings
        self._serving = Serving()
        self.administration: Administration | None = None
        """Answers operators, once there are models."""
        self._without_engine_since = time.perf_counter()
        is_traced = is_exported("traces", settings.collector)
        with read_variables():
            self._tracer = Tracer(settings.collector) if is_traced else None
        certificates = open_certificates(settings)
        keys_file = open_keys_file(settings)
        keys = single_key(settings) if keys_file is None else keys_file.keys
        self.bundles: Final = list(bundles)
        """Those that are served."""
        models = []
        for bundle in bundles:
            with bad.skipping(bundle.name):
                models.append(load_model(bundle))
        self._ready_for = {model.key: model for model in models}
        """By key: what is served, and what may be served soon."""
        self.bundles[:] = [bundle for bundle in bundles if bundle.name not in bad.names]
        defaults: dict[Task, str] = {}
        if bundles:  # else the engine says which there are, and the launch has checked the settings
            defaults = check_models(self.bundles, TASKS, settings.default_model_pairs, bad.skipping, bad.names)
        bad.refuse_none(self.bundles)
        self._bad = bad
        catalog = Catalog((one for one in models if one.name not in bad.names), defaults, bad.names)
        dialects = chosen(settings.apis)
        self._admin_key = read_key("admin_key", settings.admin_key, settings.admin_key_file)
        operators = [] if self._admin_key is None else [AdminApi.name]
        metrics.set_apis([NativeApi.name, *(dialect.name for dialect in dialects)], operators)
        for model in catalog:
            metrics.add_model(model.name, model.task)
        limits = Limits(settings.max_body_bytes, settings.max_inputs, settings.request_timeout_s, keys)
        self._served: Final = Served(catalog, self._loaded_as, self.readiness, limits)
        self._large: Final = LargeWork(settings.request_timeout_s, settings.max_queue_s)
        is_logged = settings.access_log and settings.log_level in ("debug", "info")
        access_log = AccessLog(settings.log_format) if is_logged else None
        finished = Finished(metrics, access_log, Callers(settings.forwarded_allow_ips))
        apis: list[Api] = [NativeApi(self._served), *(dialect(self._served) for dialect in dialects)]
        self.application: Final = self._make_application(apis, engine, finished)
        applications = {"main": self.application, **self._make_other_applications(finished)}
        self.server: Final = Server(
            {purpose: _config(settings, one, finished) for purpose, one in applications.items()},
            self.readiness,
            None if certificates is None else certificates.tls(metrics.tls_failures.inc),
        )

        self.looks: Final = self._looks(certificates, keys_file)
        """Each reads a file again if it has changed."""
        self._watching = [asyncio.create_task(look_again(look)) for look in self.looks]

    def _looks(self, certificates: Certificates | None, keys_file: KeysFile | None) -> list[Callable[[], object]]:
        looks: list[Callable[[], object]] = []
        if certificates is not None:
            looks.append(certificates.look)
        if keys_file is not None:
            callers = self._metrics.of_callers
            callers.expect(keys_file.names)

            def look() -> None:
                if keys_file.look():
                    callers.expect(keys_file.names)

            looks.append(look)
        return looks

    def _make_application(self, apis: Sequence[Api], engine: EngineClient, finished: Finished) -> Application:
        """Return what answers requests: the APIs' routes, those for people and operators, and what stands before them."""
        settings = self._settings
        compressor = Compressor(self._large)
        of_answers = compressor if settings.http_compression else None
        infer = partial(
            InferenceEndpoint,
            engine=engine,
            large=self._large,
            metrics=self._metrics,
            finished=finished,
            tracer=self._tracer,
            compressor=of_answers,
        )
        utility = partial(UtilityEndpoint, large=self._large, finished=finished, compressor=of_answers)
        endpoints: list[Endpoint] = [
            infer(api, route) if isinstance(route, Inference) else utility(api, route)
            for api in apis
            for route in api.routes
        ]
        if settings.page:
            page = PageApi(self._served, apis)
            endpoints += [utility(page, route, compressor=compressor) for route in page.routes]
        operators = self._admin_endpoints(finished) if settings.admin_port is None else []
        endpoints += operators
        routers = [make_health_router(self.readiness), make_models_router(NativeApi.name, self._served)]
        if settings.metrics_port is None:
            routers.append(make_metrics_router(self._metrics))
        asks_for_key = self._served.limits.keys is not None
        application = make_application(
            routers,
            apis,
            self._served,
            asks_for_key=asks_for_key,
            for_operators=[endpoint.route for endpoint in operators],
        )
        dispatcher = Dispatcher(
            CompressingApplication(application, compressor), endpoints, finished, root_path=settings.root_path or ""
        )
        origins = settings.cors_allow_origin
        return dispatcher if origins is None else for_origins(dispatcher, origins)

    def _make_other_applications(self, finished: Finished) -> dict[Purpose, Application]:
        """Return what answers on the ports that are for one thing: that, and health."""

        def make(endpoints: Sequence[Endpoint], *, has_metrics: bool) -> Application:
            routers = [make_health_router(self.readiness)]
            if has_metrics:
                routers.append(make_metrics_router(self._metrics))
            application = make_application(routers, (), self._served, asks_for_key=False)
            return Dispatcher(CompressingApplication(application, Compressor(self._large)), endpoints, finished)

        others: dict[Purpose, Application] = {}
        if self._settings.metrics_port is not None:
            others["metrics"] = make([], has_metrics=True)
        if self._settings.admin_port is not None:
            others["admin"] = make(self._admin_endpoints(finished), has_metrics=False)
        return others

    def _admin_endpoints(self, finished: Finished) -> list[AdminEndpoint]:
        """Return the routes for operators; none without their key."""
        if self._admin_key is None:
            return []
        keys = Keys({digest_of(self._admin_key): None})
        return [AdminEndpoint(route, keys, lambda: self.administration, finished) for route in ADMIN_ROUTES]

    async def prepare(self, bundle: Bundle) -> None:
        """Be ready for requests for a bundle, which may be served soon.

        Raises:
            BundleError: a file is damaged, or does not give the golden token ids or answers.
        """
        if bundle.key not in self._ready_for:
            model = await asyncio.to_thread(load_model, bundle)
            self._ready_for[model.key] = model

    async def switch(self, serving: Serving) -> None:
        """Have all requests that come from now on made for these models."""
        self.engine_found(serving)

    async def adopt(self, folder: Path, serving: Serving) -> None:
        """Read what of these models is missing here from the folder of the service, then serve them.

        Raises:
            BundleError: one is damaged, and bad bundles are not skipped.
        """
        for name, one in serving.models.items():
            key = key_of(name, one.identity)
            if key in self._ready_for:
                continue
            with self._bad.skipping(name):
                await self.prepare(await asyncio.to_thread(load_bundle, folder_of(folder, key)))
        if serving.models:
            self._bad.refuse_none(self._ready_for)
        self.engine_found(serving)

    def engine_found(self, serving: Serving) -> None:
        """Take requests for the models that an engine has, from now on; they are those that this is ready for."""
        keys = {key_of(name, one.identity) for name, one in serving.models.items()}
        self._serving = serving
        # What is not served is forgotten, but not by requests that have it in hand; what cannot be is shown.
        self._ready_for = {
            key: model for key, model in self._ready_for.items() if key in keys or model.name in serving.failed
        }
        models = list(self._ready_for.values())
        names = {model.name for model in models}
        failed = sorted({*serving.failed, *serving.models.keys() & {*self._bad.names} - names})
        absent = {name for _, name in self._settings.default_model_pairs} - names
        defaults = default_models(models, TASKS, self._settings.default_model_pairs, absent)
        self._served.catalog = Catalog(models, defaults, failed, unloaded=serving.unloaded, loading=serving.loading)
        for model in models:
            self._metrics.add_model(model.name, model.task)
        self.readiness.failed_models = failed
        self._metrics.not_loaded(failed)
        self._metrics.engine_up.set(1)
        if not (serving.models or serving.unloaded or serving.loading):
            self.readiness.engine = "starting"  # until the first model is loaded
            return
        if self.readiness.engine == "ready":
            return
        self.readiness.engine = "ready"
        self.server.accept()
        if not self.readiness.is_draining:
            freeze_heap()
            log.info("ready in %.2f s", time.perf_counter() - self._without_engine_since)

    def engine_lost(self) -> None:
        """Take no requests until there is an engine again."""
        self._serving = Serving()
        self._metrics.engine_up.set(0)
        self.readiness.engine = "lost"
        self._without_engine_since = time.perf_counter()
        if not self.readiness.is_draining:  # a front end that ends closes its connection to the engine
            log.error("the engine was lost: not ready")

    def _loaded_as(self, name: str) -> Loaded | None:
        return self._serving.models.get(name)

    async def close(self) -> None:
        """End the threads and send the last traces, when all is answered."""
        for watching in self._watching:
            watching.cancel()
        self._large.close()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)


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
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, front_end.server.stop, "SIGTERM")
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


def _config(settings: Settings, application: Application, finished: Finished) -> uvicorn.Config:
    protocol = partial(HttpProtocol, read_timeout_s=settings.read_timeout_s, finished=finished)
    return uvicorn.Config(
        application,
        http=cast("type[asyncio.Protocol]", protocol),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.timeout_keep_alive,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_timeout_s),
    )


async def _files_are_right(settings: Settings, supervisor: SupervisorLink) -> bool:
    """Wait until keys and certificates can be read; return False if this process is to end instead."""
    waiting = asyncio.create_task(until_right(lambda: (open_keys_file(settings), open_certificates(settings))))

    def end() -> None:
        waiting.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    supervisor.when_gone(end)
    await asyncio.wait((waiting,))
    return not waiting.cancelled()


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
