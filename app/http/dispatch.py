"""The ASGI application that uvicorn calls: assigns request ids and passes inference requests on directly."""

from collections.abc import Iterable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.asgi import request_id_of
from app.http.inference import InferenceEndpoint


class Dispatcher:
    """Sends `/v1/<task>` to its endpoint and everything else to the FastAPI application."""

    def __init__(self, application: ASGIApp, endpoints: Iterable[InferenceEndpoint]) -> None:
        self._application: Final = application
        self._endpoints: Final = {endpoint.path: endpoint for endpoint in endpoints}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        request_id = request_id_of(scope)
        endpoint = self._endpoints.get(scope["path"])
        if endpoint is not None:
            await endpoint(scope, receive, send, request_id)
            return
        scope["request_id"] = request_id
        named = (b"x-request-id", request_id.encode())
        if scope["method"] == "HEAD":  # the server leaves out the body
            scope = {**scope, "method": "GET"}

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                if named not in headers:  # an error has it already
                    headers.append(named)
                message = {**message, "headers": headers}
            await send(message)

        await self._application(scope, receive, send_with_id)
