"""`/admin/models`: which models are served, for those who operate the server. It has a key of its own, and is off without one."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from time import monotonic
from typing import ClassVar, Final, Literal

from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from app.engine.messages import ModelState
from app.engine.protocols import Administration
from app.errors import BadBundle, MethodNotAllowed, NoRoom, NotReady, ServiceError, Unauthorized
from app.http.asgi import ClientGone, Header, answer_headers, authorize, read_body, render_error, respond
from app.http.disconnects import Disconnects
from app.http.faults import internal
from app.http.finished import Finished
from app.http.keys import Keys
from app.telemetry.record import CLIENT_GONE, RequestRecord


@dataclass(frozen=True, slots=True)
class AdminRoute:
    """What an operator may ask for."""

    method: str
    path: str
    summary: str
    action: Literal["states", "load", "unload"]


ADMIN_ROUTES: Final = (
    AdminRoute("GET", "/admin/models", "The state of every model", "states"),
    AdminRoute("POST", "/admin/models/{name}/load", "Serve a bundle as it is in the models folder now", "load"),
    AdminRoute("POST", "/admin/models/{name}/unload", "Serve a model no longer", "unload"),
)


class AdminApi:
    """The API as logs and metrics name it."""

    name: ClassVar[str] = "admin"


class AdminEndpoint:
    """Answers one route. A load or an unload goes on to its end if the caller goes away."""

    def __init__(
        self,
        route: AdminRoute,
        admin_key: Keys,
        administration: Callable[[], Administration | None],
        finished: Finished,
    ) -> None:
        """Take the route, the key that opens it, who does it, if anyone yet, and where it is told of."""
        self.route: Final = route
        self.allowed = route.method
        """The methods of its path, as an error names them."""
        self._admin_key = admin_key
        self._administration = administration
        self._finished = finished
        self._disconnects = Disconnects()

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, path: Mapping[str, str]
    ) -> None:
        """Answer one request."""
        started_at = monotonic()
        record = RequestRecord(request_id, AdminApi.name, "none")
        answer: tuple[list[Header], bytes] | None = None
        try:
            body = to_json(await self._answer(scope, receive, path, record))
            answer = answer_headers(body, request_id), body
        except ClientGone:
            record.status, record.error_type = CLIENT_GONE, "client_gone"
        except ServiceError as error:
            answer = _refused(error, record)
        except asyncio.CancelledError:  # the server is stopping, and the time to finish requests is over
            answer = _refused(NotReady("The service stopped before it was done."), record)
        except BaseException as error:
            answer = _refused(internal(error, request_id), record)
        if answer is not None:
            await respond(send, record.status, *answer)
        self._finished.request(scope, record, started_at)

    async def _answer(self, scope: Scope, receive: Receive, path: Mapping[str, str], record: RequestRecord) -> object:
        try:
            authorize(scope, self._admin_key)
        except Unauthorized:
            raise Unauthorized("The admin key is missing or wrong. Send it as 'Authorization: Bearer KEY'.") from None
        if scope["method"] not in (self.route.method, "HEAD" if self.route.method == "GET" else ""):
            raise MethodNotAllowed(self.allowed)
        await read_body(scope, receive, 0x10000)
        administration = self._administration()
        if administration is None:
            raise NotReady("The service is loading its models. Retry in a few seconds.")
        if self.route.action == "states":
            return {"models": _shown(await administration.states())}
        change = administration.load if self.route.action == "load" else administration.unload
        try:
            state = await self._disconnects.unless_gone(change(path["name"]), receive)
        except (BadBundle, NoRoom):
            record.changes = path["name"]  # only a name that there is comes into the log
            raise
        record.changes = state.name
        return _shown([state])[0]


def _refused(error: ServiceError, record: RequestRecord) -> tuple[list[Header], bytes]:
    record.status, record.error_type = error.status, error.error_type
    return render_error(error, record.request_id)


def _shown(states: Sequence[ModelState]) -> list[dict[str, object]]:
    return [asdict(state) for state in states]
