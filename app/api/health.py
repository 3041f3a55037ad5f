"""`/livez`, `/readyz` and `/metrics`, for orchestrators and Prometheus."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from app.metrics import Metrics
from app.readiness import Readiness
from app.schemas import ErrorResponse


class Health(BaseModel):
    """`ready` asks for inference requests, `draining` answers those that still come; `alive` says nothing of that."""

    status: Literal["alive", "starting", "ready", "draining", "lost"]


def make_health_router(readiness: Readiness, metrics: Metrics) -> APIRouter:
    """Return the routes. They need no API key."""
    router = APIRouter(tags=["health"])
    # Of its own: the loop's threads may all be tokenizing, and that is when one wants to see why.
    collector = ThreadPoolExecutor(1, thread_name_prefix="metrics")

    @router.get("/livez", summary="Whether the process responds at all")
    async def livez() -> Health:
        return Health(status="alive")

    @router.get(
        "/readyz",
        summary="Whether inference requests should be sent here",
        responses={503: {"model": ErrorResponse, "description": "Starting, stopping, or without an engine."}},
    )
    async def readyz() -> Health:
        readiness.check()
        return Health(status=readiness.state)

    @router.get("/metrics", include_in_schema=False)
    async def prometheus(request: Request) -> Response:
        # Files of every process are read and GPUs are asked: 10 ms and more, in which the loop would answer nobody.
        accept = request.headers.get("accept", "")
        page, content_type = await asyncio.get_running_loop().run_in_executor(collector, metrics.expose, accept)
        return Response(page, headers={"Content-Type": content_type, "Vary": "Accept"})

    return router
