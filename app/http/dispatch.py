"""The ASGI application that uvicorn calls: assigns request ids and passes requests of the APIs on directly."""

import re
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.asgi import CALLER, ERROR_TYPE, TOLD_AS, render_error, request_id_of, respond
from app.http.faults import internal
from app.http.finished import Finished
from app.http.inference import InferenceEndpoint
from app.http.utility import UtilityEndpoint
from app.telemetry.metrics import NOT_ROUTED
from app.telemetry.record import RequestRecord

Endpoint = InferenceEndpoint | UtilityEndpoint

_NOTHING: Final[Mapping[str, str]] = {}
_VARIABLE: Final = re.compile(r"\\\{(\w+)\\\}")


class Dispatcher:
    """Sends the routes of APIs to their endpoints and everything else to the FastAPI application.

    Of two endpoints with one path and method, the later one is used.
    """

    def __init__(
        self, application: ASGIApp, endpoints: Iterable[Endpoint], finished: Finished, *, root_path: str = ""
    ) -> None:
        """Take the application and the endpoints; paths may begin with the root path, or the proxy has removed it."""
        self._application: Final = application
        self._finished: Final = finished
        self._root_path: Final = root_path
        by_path: dict[str, dict[str, Endpoint]] = {}
        for endpoint in endpoints:
            by_path.setdefault(endpoint.route.path, {})[endpoint.route.method] = endpoint
        for methods in by_path.values():
            for endpoint in methods.values():
                endpoint.allowed = ", ".join(sorted(methods))
        self._paths: Final = {path: methods for path, methods in by_path.items() if "{" not in path}
        self._patterns: Final = [(_pattern(path), methods) for path, methods in by_path.items() if "{" in path]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        request_id = request_id_of(scope)
        path = scope["path"]
        methods = self._paths.get(path)
        if methods is None and self._root_path and f"{path}/".startswith(f"{self._root_path}/"):
            path = path.removeprefix(self._root_path) or "/"
            methods = self._paths.get(path)
        if methods is not None:
            await _one_of(methods, scope["method"])(scope, receive, send, request_id, _NOTHING)
            return
        for pattern, methods in self._patterns:
            if found := pattern.fullmatch(path):
                await _one_of(methods, scope["method"])(scope, receive, send, request_id, found.groupdict())
                return
        await self._ask_application(scope, receive, send, request_id, path)

    async def _ask_application(self, scope: Scope, receive: Receive, send: Send, request_id: str, path: str) -> None:
        """Pass a request on to the FastAPI application."""
        scope["request_id"] = request_id
        scope["root_path"], scope["path"] = self._root_path, self._root_path + path  # in ASGI, a path begins with it
        named = (b"x-request-id", request_id.encode())
        if scope["method"] == "HEAD":  # the server leaves out the body
            scope = {**scope, "method": "GET"}

        started_at, record = monotonic(), RequestRecord(request_id, "none", "none")

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = list(message.get("headers", ()))
                if named not in headers:  # an error has it already
                    headers.append(named)
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._application(scope, receive, send_with_id)
        except Exception as error:  # the application has answered it
            internal(error, request_id)
        except BaseException as error:
            fault = internal(error, request_id)
            scope[TOLD_AS], scope[ERROR_TYPE] = NOT_ROUTED, fault.error_type
            await respond(send_with_id, fault.status, *render_error(fault, request_id))
        finally:
            if TOLD_AS in scope:
                record.api, record.error_type = scope[TOLD_AS], scope.get(ERROR_TYPE)
                record.caller = scope.get(CALLER)
                self._finished.request(scope, record, started_at)


def _one_of(methods: Mapping[str, Endpoint], method: str) -> Endpoint:
    """Return the endpoint of a method, or any, which answers that the path takes another method."""
    endpoint = methods.get("GET" if method == "HEAD" else method)
    return next(iter(methods.values())) if endpoint is None else endpoint


def _pattern(path: str) -> re.Pattern[str]:
    """Return the pattern of a path: `{name}` is one part of it, without a slash."""
    return re.compile(_VARIABLE.sub(r"(?P<\1>[^/]+)", re.escape(path)))
