"""A front end: everything of a process that answers HTTP, put together around an engine client."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, cast

import uvicorn

from app import BEGAN_AT
from app.bundle.files import Bundle, key_of, load_bundle
from app.bundle.manifest import Task
from app.engine.messages import Loaded, Serving
from app.engine.protocols import Administration, EngineClient
from app.http.api import Limits, Served
from app.http.asgi import Application
from app.http.callers import Callers
from app.http.connections.connection import HttpProtocol
from app.http.connections.server import Server
from app.http.finished import Finished
from app.http.large_work import LargeWork
from app.http.readiness import Readiness
from app.processes.applications import Applications
from app.processes.garbage_collection import freeze_heap
from app.processes.models.bad_bundles import NONE_SKIPPED, BadBundles
from app.processes.models.small_files import folder_of
from app.processes.reread.certificates import Certificates, open_certificates
from app.processes.reread.changes import look_again
from app.processes.reread.keys import KeyFiles, open_admin_key, open_callers_keys
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
        self._without_engine_since = BEGAN_AT
        is_traced = is_exported("traces", settings.collector)
        with read_variables():
            self._tracer = Tracer(settings.collector) if is_traced else None
        certificates = open_certificates(settings)
        callers_keys, admin_key = open_callers_keys(settings), open_admin_key(settings)
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
        limits = Limits(
            settings.max_body_bytes,
            settings.max_inputs,
            settings.request_timeout_s,
            None if callers_keys is None else callers_keys.keys,
        )
        self._served: Final = Served(catalog, self._loaded_as, self.readiness, limits)
        self._large: Final = LargeWork(settings.request_timeout_s, settings.max_queue_s)
        is_logged = settings.access_log and settings.log_level in ("debug", "info")
        access_log = AccessLog(settings.log_format) if is_logged else None
        finished = Finished(metrics, access_log, Callers(settings.forwarded_allow_ips))
        applications = Applications(
            settings,
            self._served,
            engine,
            large=self._large,
            metrics=metrics,
            finished=finished,
            tracer=self._tracer,
            admin_keys=None if admin_key is None else admin_key.keys,
            administration=lambda: self.administration,
        ).by_port()
        for model in catalog:
            metrics.add_model(model.name, model.task)
        self.application: Final = applications["main"]
        self.server: Final = Server(
            {purpose: _config(settings, one, finished) for purpose, one in applications.items()},
            self.readiness,
            None if certificates is None else certificates.tls(metrics.tls_failures.inc),
        )

        self.looks: Final = self._looks(certificates, admin_key, callers_keys)
        """Each reads a file again if it has changed."""
        self._watching = [asyncio.create_task(look_again(look)) for look in self.looks]

    def _looks(
        self, certificates: Certificates | None, admin_key: KeyFiles | None, callers_keys: KeyFiles | None
    ) -> list[Callable[[], object]]:
        looks: list[Callable[[], object]] = [one.look for one in (certificates, admin_key) if one is not None]
        if callers_keys is not None:
            callers = self._metrics.of_callers
            callers.expect(callers_keys.names)

            def look() -> None:
                if callers_keys.look():
                    callers.expect(callers_keys.names)

            looks.append(look)
        return looks

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
        self._serving = serving
        keys = serving.keys
        # What is not served is forgotten, but not by requests that have it in hand.
        self._ready_for = {key: model for key, model in self._ready_for.items() if key in keys}
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
