"""What supervisors and Prometheus ask, without a server."""

import asyncio
import threading

import httpx
from fastapi import FastAPI

from app.http.health import make_health_router, make_metrics_router
from app.http.readiness import Readiness

WITHIN_S = 20.0


class SlowMetrics:
    """Metrics that are not there before something else was answered."""

    def __init__(self) -> None:
        self.asked, self.released = threading.Event(), threading.Event()
        self.was_released = False

    def expose(self, accept: str) -> tuple[bytes, str]:
        self.asked.set()
        self.was_released = self.released.wait(WITHIN_S)
        return accept.encode(), "text/plain"


def test_others_are_answered_while_metrics_are_collected() -> None:
    metrics = SlowMetrics()
    app = FastAPI()
    app.include_router(make_health_router(Readiness()))
    app.include_router(make_metrics_router(metrics))  # type: ignore[arg-type]

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            page = asyncio.create_task(client.get("/metrics", headers={"Accept": "anything"}))
            await asyncio.to_thread(metrics.asked.wait, WITHIN_S)
            assert (await client.get("/livez")).status_code == 200
            metrics.released.set()
            assert (await page).text == "anything"

    asyncio.run(ask())
    assert metrics.was_released
