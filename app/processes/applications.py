"""What answers the requests that come to each port: the routes of the APIs, those for people and operators, and what stands before them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from app.engine.protocols import Administration, EngineClient
from app.http.admin import AdminApi
from app.http.api import Api, Inference, Served, Utility
from app.http.application import make_application
from app.http.asgi import Application
from app.http.compression.answers import CompressingApplication, Compressor
from app.http.cross_origin import for_origins
from app.http.dialects import chosen
from app.http.dispatch import Dispatcher, Endpoint
from app.http.finished import Finished
from app.http.health import make_health_router, make_metrics_router
from app.http.inference import InferenceEndpoint
from app.http.keys import Keys
from app.http.large_work import LargeWork
from app.http.listening.ports import Purpose
from app.http.models import make_models_router
from app.http.native import NativeApi
from app.http.page import PageApi
from app.http.utility import UtilityEndpoint
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.telemetry.tracing import Tracer


class Applications:
    """Makes them, of what they share."""

    def __init__(
        self,
        settings: Settings,
        served: Served,
        engine: EngineClient,
        *,
        large: LargeWork,
        metrics: Metrics,
        finished: Finished,
        tracer: Tracer | None,
        admin_keys: Keys | None,
        administration: Callable[[], Administration | None],
    ) -> None:
        """Take the keys of operators, without which there is nothing for them, and who does what one asks for, if anyone does yet.

        Raises:
            StartupError: an API does not exist.
        """
        self._settings: Final = settings
        self._served: Final = served
        self._engine: Final = engine
        self._large: Final = large
        self._metrics: Final = metrics
        self._finished: Final = finished
        self._tracer: Final = tracer
        self._apis: Final[list[Api]] = [NativeApi(served), *(dialect(served) for dialect in chosen(settings.apis))]
        self._admin: Final = None if admin_keys is None else AdminApi(served, admin_keys, administration)
        metrics.set_apis([api.name for api in self._apis], [] if self._admin is None else [AdminApi.name])

    def by_port(self) -> dict[Purpose, Application]:
        """Return the application of each port."""
        settings = self._settings
        applications: dict[Purpose, Application] = {"main": self._main()}
        if settings.metrics_port is not None:
            applications["metrics"] = self._for_one_thing([], has_metrics=True)
        if settings.admin_port is not None:
            operators = self._for_operators(partial(UtilityEndpoint, large=self._large, finished=self._finished))
            applications["admin"] = self._for_one_thing(operators, has_metrics=False)
        return applications

    def _main(self) -> Application:
        settings = self._settings
        compressor = Compressor(self._large)
        of_answers = compressor if settings.http_compression else None
        infer = partial(
            InferenceEndpoint,
            engine=self._engine,
            large=self._large,
            metrics=self._metrics,
            finished=self._finished,
            tracer=self._tracer,
            compressor=of_answers,
        )
        utility = partial(UtilityEndpoint, large=self._large, finished=self._finished, compressor=of_answers)
        endpoints: list[Endpoint] = [
            infer(api, route) if isinstance(route, Inference) else utility(api, route)
            for api in self._apis
            for route in api.routes
        ]
        if settings.page:
            page = PageApi(self._served, self._apis)
            endpoints += [utility(page, route, compressor=compressor) for route in page.routes]
        operators = self._for_operators(utility) if settings.admin_port is None else []
        endpoints += operators
        routers = [make_health_router(self._served.readiness), make_models_router(NativeApi.name, self._served)]
        if settings.metrics_port is None:
            routers.append(make_metrics_router(self._metrics))
        application = make_application(
            routers,
            self._apis,
            self._served,
            asks_for_key=self._served.limits.keys is not None,
            for_operators=[endpoint.route for endpoint in operators],
        )
        dispatcher = Dispatcher(
            CompressingApplication(application, compressor),
            endpoints,
            self._finished,
            root_path=settings.root_path or "",
        )
        origins = settings.cors_allow_origin
        return dispatcher if origins is None else for_origins(dispatcher, origins)

    def _for_one_thing(self, endpoints: Sequence[UtilityEndpoint], *, has_metrics: bool) -> Application:
        """Return what answers on a port of its own: that, and health."""
        routers = [make_health_router(self._served.readiness)]
        if has_metrics:
            routers.append(make_metrics_router(self._metrics))
        operators = [endpoint.route for endpoint in endpoints]
        application = make_application(routers, (), self._served, asks_for_key=False, for_operators=operators)
        return Dispatcher(CompressingApplication(application, Compressor(self._large)), endpoints, self._finished)

    def _for_operators(self, endpoint: Callable[[Api, Utility], UtilityEndpoint]) -> list[UtilityEndpoint]:
        """Return the routes for operators; none without their key."""
        return [] if self._admin is None else [endpoint(self._admin, route) for route in self._admin.routes]
