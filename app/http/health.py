"""`/livez`, `/readyz`, `/health` and `/metrics`, for orchestrators, clouds and Prometheus."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from app.errors import EngineLost, NotReady
from app.http.asgi import error_responses
from app.http.readiness import Readiness
from app.http.workers import submit
from app.telemetry.metrics import Metrics


class Health(BaseModel):
    """`ready` means that inference requests should be sent here; `alive` says nothing about that.

    `failed_models` is there if bundles cannot be loaded and others are served nevertheless.
    """

    status: Literal["alive", "starting", "ready", "draining", "lost"]
    failed_models: list[str] = []


def make_health_router(readiness: Readiness) -> APIRouter:
    """Return the routes. They need no API key."""
    router = APIRouter(tags=["health"])

    @router.get("/livez", summary="Whether the process responds at all", response_model_exclude_defaults=True)
    async def livez() -> Health:
        return Health(status="alive")

    unready = error_responses(NotReady, EngineLost)

    told: dict[str, Any] = {"responses": unready, "response_model_exclude_defaults": True}

    @router.get("/health", summary="The same as /readyz, by the name that other servers use", **told)
    @router.get("/readyz", summary="Whether inference requests should be sent here", **told)
    async def readyz() -> Health:
        readiness.check()
        return Health(status=readiness.state, failed_models=list(readiness.failed_models))

    return router


def make_metrics_router(metrics: Metrics) -> APIRouter:
    """Return the route of Prometheus. It needs no API key."""
    router = APIRouter()
    # A thread of its own: those of the event loop may all be tokenizing, which is when metrics are needed most.
    collector = ThreadPoolExecutor(1, thread_name_prefix="metrics")

    @router.get("/metrics", include_in_schema=False)
    async def prometheus(request: Request) -> Response:
        # Reading every process's memory and querying GPUs takes 10 ms and more, which would block the event loop.
        accept = request.headers.get("accept", "")
        page, content_type = await asyncio.wrap_future(submit(collector, partial(metrics.expose, accept)))
        return Response(page, headers={"Content-Type": content_type, "Vary": "Accept"})

    return router
