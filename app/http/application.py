"""The FastAPI application: all routes except inference, and OpenAPI."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.routing import Route

from app import __version__
from app.errors import Internal, MethodNotAllowed, NotFound, ServiceError
from app.http.api import Api, Served, render_for
from app.http.asgi import ERROR_TYPE, TOLD_AS, Header, render_error
from app.http.nearest import Nearest
from app.http.openapi import DescribedRoute, describe
from app.tasks.catalog import Catalog
from app.telemetry.metrics import NOT_ROUTED

DESCRIPTION = """
Classification, masked tokens, next sentences, entities, answers and embeddings from BERT models, in batches without padding.

Every error of `/v1` has the same form and a stable `error_type`; `429` and `503` have a `Retry-After` header.
`X-Request-Id` is taken from the request or generated; it is in the answer and in the log.
"""


def make_application(
    routers: Sequence[APIRouter],
    apis: Sequence[Api],
    served: Served,
    *,
    asks_for_key: bool,
    for_operators: Sequence[DescribedRoute] = (),
) -> FastAPI:
    """Return the application with the routes of the routers, which describes those of the APIs, too.

    Args:
        routers: All routes but those of the APIs.
        apis: For the description, and for what is told of a route that does not exist.
        served: Has the models, for the description.
        asks_for_key: Whether the APIs do.
        for_operators: Routes with a key of their own, for the description.
    """
    app = FastAPIOffline(
        title="BERT inference service",
        redirect_slashes=False,  # a redirect has no body, and every answer is JSON
        version=__version__,
        description=DESCRIPTION,
        openapi_tags=[{"name": "inference"}, {"name": "models"}, {"name": "health"}],
        # `app.telemetry` has the service's; FastAPI's own would follow variables of OpenTelemetry, and fail with them.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        exception_handlers={
            ServiceError: _service_error,
            Exception: _unexpected,
        },
    )
    for router in routers:
        app.include_router(router)
    # The application's own list has those of a router under one entry.
    own = chain(app.routes, *(router.routes for router in routers))
    paths: dict[str, tuple[str, Api | None]] = {route.path: ("GET", None) for route in own if isinstance(route, Route)}
    paths |= {route.path: (route.method, api) for api in apis for route in api.routes}
    paths |= {route.path: (route.method, None) for route in for_operators}
    app.add_exception_handler(HTTPException, partial(_http_error, Nearest(paths), paths))
    plain = app.openapi
    described: Catalog | None = None

    def openapi() -> dict[str, Any]:
        nonlocal described
        if described is not served.catalog:  # other models have other examples
            described, app.openapi_schema = served.catalog, None
        return describe(plain(), apis, served.catalog, asks_for_key=asks_for_key, for_operators=for_operators)

    app.openapi = openapi  # type: ignore[method-assign]
    return app


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    request_id = request.scope["request_id"]
    return _response(request, error, error.status, *render_error(error, request_id))


async def _http_error(
    nearest: Nearest, served: Mapping[str, tuple[str, Api | None]], request: Request, error: Exception
) -> Response:
    assert isinstance(error, HTTPException)
    request.scope[TOLD_AS] = NOT_ROUTED
    if error.status_code == 405:
        return await _service_error(request, MethodNotAllowed((error.headers or {}).get("Allow", "GET")))
    path = nearest.to(request.scope["path"].removeprefix(request.scope["root_path"]))
    if path is None:
        return await _service_error(request, NotFound())
    method, api = served[path]
    fault = NotFound(f"There is no such route. Did you mean {method} {path}? /docs lists every route.")
    if api is None:
        return await _service_error(request, fault)
    return _response(request, fault, *render_for(api, fault, request.scope["request_id"]))


async def _unexpected(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the dispatcher logs it
    return await _service_error(request, Internal())


def _response(request: Request, error: ServiceError, status: int, headers: list[Header], body: bytes) -> Response:
    request.scope[ERROR_TYPE] = error.error_type
    response = Response(body, status)
    response.raw_headers = headers
    return response
