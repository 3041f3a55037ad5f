# noqa: INP001 - deploy/ is no package
"""The ASGI application of a replica: the service's, but for what Ray's proxy in front of several replicas changes."""

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.telemetry.metrics import CONTENT_TYPE


class ReplicaGateway:
    """Answers `/metrics` for all replicas, and leaves the X-Request-Id of answers to the proxy, which always adds one.

    Ray says by the lifespan protocol when all is answered and the replica ends.
    """

    def __init__(
        self,
        application: ASGIApp,
        *,
        render_metrics: Callable[[], Awaitable[bytes]],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        self._application: Final = application
        self._render_metrics: Final = render_metrics
        self._close: Final = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._close()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["path"] == "/metrics" and scope["method"] == "GET":
            await Response(await self._render_metrics(), media_type=CONTENT_TYPE)(scope, receive, send)
        else:

            async def send_without_id(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [header for header in message["headers"] if header[0] != b"x-request-id"]
                await send(message)

            await self._application(scope, receive, send_without_id)
