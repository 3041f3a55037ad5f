# noqa: INP001 - deploy/ is no package
"""One replica: the front end and the engine of `app` in a process that Ray owns.

The counterpart of `app.processes.launch` for Ray: instead of a port of its own, the application is given to Ray Serve, and instead
of signals, Ray asks `check_health` and ends the application's lifespan. Everything runs on one event loop.
"""

import math
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from ray import serve
from starlette.types import ASGIApp

from app.bundle.files import find_bundles
from app.engine.local import LocalEngine
from app.engine.messages import Serving
from app.processes.front_end import FrontEnd
from app.processes.models.bad_bundles import bad_bundles
from app.processes.models.loading import load_models
from app.settings import Settings
from app.telemetry.logs import configure
from app.telemetry.metrics import Metrics
from deploy.ray.gateway import ReplicaGateway
from deploy.ray.metrics import render

SCRAPE_WITHIN_S: Final = 4.0
"""Less than the scrape_timeout of monitoring/prometheus."""


class Replica:
    """What Ray Serve makes one of in each of its processes."""

    async def __init__(self, *, cpus: float, gpus: float) -> None:  # type: ignore[misc] # Ray awaits it
        """Load the models; Ray sends requests once this has returned.

        Raises:
            BundleError: a bundle is damaged.
            StartupError: the models folder, the API key or the device does not work.
        """
        settings = replica_settings(cpus=cpus, gpus=gpus)
        configure(settings.log_level, settings.log_format)
        bad = bad_bundles(settings)
        bundles = find_bundles(settings.models, bad.skipping)
        self._registry = CollectorRegistry()
        metrics = Metrics(self._registry)
        self._engine = LocalEngine()
        self._front_end = FrontEnd(settings, bundles, self._engine, metrics, bad)
        loaded = await load_models(settings, self._front_end.bundles, self._engine, metrics, bad=bad)
        self._front_end.engine_found(Serving(loaded, bad.names))
        self._engine.lost.add_done_callback(lambda _: self._front_end.engine_lost())
        context = serve.get_replica_context()
        self._name = context.replica_id.unique_id
        self._replicas = serve.get_deployment_handle(context.deployment, context.app_name)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the application that Ray passes requests to."""
        return ReplicaGateway(self._front_end.application, render_metrics=self._render_all, close=self._close)

    async def check_health(self) -> None:
        """Pass while requests are answered; Ray replaces a replica that repeatedly does not.

        Raises:
            EngineLost: the device failed.
        """
        self._front_end.readiness.check()

    async def metrics(self) -> tuple[str, list[Metric]]:
        """Return this replica's name and metrics."""
        return self._name, list(self._registry.collect())

    async def _render_all(self) -> bytes:
        """Return the metrics of every replica: who asks through Ray's proxy cannot choose one."""
        answers = await self._replicas.broadcast("metrics").results_async(
            timeout_s=SCRAPE_WITHIN_S,
            return_exceptions=True,  # one that is just dying shall not hide the others
        )
        return render(answer for answer in answers if not isinstance(answer, BaseException))

    async def _close(self) -> None:
        """Answer what the engine still has, release the device, send the last traces."""
        self._front_end.readiness.is_draining = True
        await self._engine.close()
        await self._front_end.close()


def replica_settings(*, cpus: float, gpus: float) -> Settings:
    """Return the settings of this process's environment, with what Ray gave to the replica."""
    settings = Settings()
    given = {
        "threads": settings.threads or max(1, math.ceil(cpus)),
        "device": "cuda" if gpus and settings.device == "auto" else settings.device,
    }
    return settings.model_copy(update=given)
